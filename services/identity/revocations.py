"""The revocation log in SQL: taking back, inside the transaction that causes it.

A revocation and the end of what it names are one commit: each `revoke_*` first makes minting another matching token
impossible (a generation raised, a session or grant ended, a jti remembered), then shows its witnesses what has ended,
so that what follows from it is written down in the same commit, and then takes the next position, if anything alive
matches. The counter row is locked last and only here, so positions have no gaps and follow the order of commits. The
row keeps the signed message itself: what Redis and Replay carry are these bytes and no others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, exists, insert, or_, select, update

from identity.domain import Entropy, Position, new_id
from identity.endings import Ending, Fact, Witness
from identity.keyring import MARGIN_MS, KeyRing
from identity.storage import (
    clients,
    exclusive,
    grants,
    log_state,
    login_sessions,
    revocations,
    revoked_tokens,
    users,
)
from rescind.errors import TokenRefused
from rescind.jws import MAX_MESSAGE_BYTES, parse
from rescind.messages import (
    MESSAGE_TYPE,
    Entry,
    Heartbeat,
    RevocationMessage,
    claims_of,
    digest,
    genesis,
    message_from,
)
from servicekit.database import insert_new

ENTRIES_PER_MESSAGE = 50  # some 5 KB


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a heartbeat says: where the log stood, read after `at` (ms) was taken."""

    log: str
    head: int
    hash: str
    floor: int
    kids: frozenset[str]
    at: int


class RevocationLog:
    """The log, its counter and its signatures. Every method works inside the caller's transaction."""

    def __init__(
        self,
        keyring: KeyRing,
        *,
        issuer: str,
        leeway: int,
        now: Callable[[Connection], int],
        entropy: Entropy,
        witnesses: Sequence[Witness] = (),
    ) -> None:
        """`leeway` in seconds: how long after `exp` a verifier may accept. `witnesses` see every ending."""
        self._keyring = keyring
        self._witnesses = tuple(witnesses)
        self._issuer = issuer
        self._leeway_ms = leeway * 1000
        self._now = now
        self._entropy = entropy
        self._floor_seen: tuple[str, int] = ("", 1)  # where to begin looking for the floor: it only rises

    def found(self, tx: Connection, *, longest_life: int) -> None:
        """Makes the log and its keys if this is the first start of all, and locks its counter row.

        `longest_life` (ms) is the life that tokens will be issued with: the log remembers the longest ever.
        """
        log = new_id("log", self._entropy)
        first = {"id": 1, "log": log, "epoch": 0, "head": 0, "head_hash": genesis(log), "longest_life": longest_life}
        insert_new(tx, log_state, first)
        tx.execute(exclusive(select(log_state.c.id)))
        tx.execute(update(log_state).where(log_state.c.longest_life < longest_life).values(longest_life=longest_life))
        self._keyring.found(tx)

    def append(self, tx: Connection, entries: Sequence[Entry], cause: str) -> Position:
        """Takes the next position for `entries`, signs the message, and writes both. Call it last: it locks the
        counter until the transaction ends.
        """
        key = self._keyring.signing_key(tx, "log")
        state = tx.execute(exclusive(select(log_state))).one()
        message = RevocationMessage(
            log=state.log,
            pos=state.head + 1,
            prev=state.head_hash,
            entries=tuple(entries),
            cause=cause,
            at=self._now(tx),
        )
        jti = f"{message.log}:{message.pos}"
        signed = key.sign(MESSAGE_TYPE, claims_of(message, self._issuer, jti)).encode()
        head_hash = digest(signed)
        tx.execute(
            insert(revocations).values(
                log=message.log,
                pos=message.pos,
                message=signed,
                hash=head_hash,
                entries=[asdict(entry) for entry in entries],
                cause=cause,
                at=message.at,
                dead_at=message.at + state.longest_life + self._leeway_ms + MARGIN_MS,
            )
        )
        tx.execute(update(log_state).values(head=message.pos, head_hash=head_hash))
        return Position(message.log, message.pos, message.at)

    def nothing(self, tx: Connection) -> Position:
        """What is answered when nothing alive matched."""
        return Position(tx.execute(select(log_state.c.log)).scalar_one(), 0, self._now(tx))

    def revoke_token(self, tx: Connection, jti: str, cause: str, *, expires_at: int | None = None) -> Position:
        """Takes back one access token. `expires_at` (ms), where it is known, spares a position for a dead one."""
        now = self._now(tx)
        if expires_at is not None and expires_at + self._leeway_ms + MARGIN_MS < now:
            return self.nothing(tx)
        dead_at = now + self._keyring.horizon(tx)
        if not insert_new(tx, revoked_tokens, {"jti": jti, "dead_at": dead_at}):
            return self.nothing(tx)
        return self.append(tx, [Entry("token", jti)], cause)

    def revoke_session(
        self, tx: Connection, sid: str, cause: str, *, by: str = "", facts: Sequence[Fact] = ()
    ) -> Position:
        """Ends one login session and the grants tied to it; offline grants live on."""
        query = select(login_sessions.c.user_id, login_sessions.c.ended_at).where(login_sessions.c.id == sid)
        session = tx.execute(exclusive(query)).one_or_none()
        if session is None or session.ended_at is not None:
            self._show(tx, Ending("session", facts=tuple(facts)))
            return self.nothing(tx)
        which = login_sessions.c.id == sid
        return self._revoke_sessions(tx, Ending("session", session.user_id, cause, by, facts=tuple(facts)), which)[1]

    def revoke_sessions_besides(self, tx: Connection, sub: str, kept: str, cause: str) -> tuple[int, Position]:
        """Ends every login session of a person but `kept`, and the grants tied to them; how many that were."""
        which = (login_sessions.c.user_id == sub) & (login_sessions.c.id != kept)
        return self._revoke_sessions(tx, Ending("session", sub, cause), which)

    def revoke_grant(
        self, tx: Connection, gid: str, cause: str, *, by: str = "", facts: Sequence[Fact] = ()
    ) -> Position:
        """Ends one grant, its refresh tokens with it."""
        columns = (grants.c.user_id, grants.c.ended_at, grants.c.expires_at)
        grant = tx.execute(exclusive(select(*columns).where(grants.c.id == gid))).one_or_none()
        if grant is None or grant.ended_at is not None:
            self._show(tx, Ending("grant", facts=tuple(facts)))
            return self.nothing(tx)
        ended = self._unexpired(tx, self._end_grants(tx, grants.c.id == gid))
        self._show(tx, Ending("grant", grant.user_id, cause, by, grants=ended, facts=tuple(facts)))
        if not self._may_have_tokens(grant.expires_at, tx):
            return self.nothing(tx)
        return self.append(tx, [Entry("grant", gid)], cause)

    def revoke_subject(
        self,
        tx: Connection,
        sub: str,
        cause: str,
        *,
        soft: bool = False,
        by: str = "",
        facts: Sequence[Fact] = (),
    ) -> Position:
        """Takes back everything a person holds. Soft: only the tokens; sessions and grants live on, and refresh."""
        if tx.execute(exclusive(select(users.c.id).where(users.c.id == sub))).one_or_none() is None:
            return self.nothing(tx)
        alive = self._anything_alive(tx, sub)
        gen = self._raise_generation(tx, users, sub, soft=soft)
        ending = Ending("subject", sub, cause, by, facts=tuple(facts))
        if not soft:
            sessions = self._unexpired(tx, self._end_sessions(tx, login_sessions.c.user_id == sub))
            ended = self._unexpired(tx, self._end_grants(tx, grants.c.user_id == sub))
            ending = replace(ending, sessions=sessions, grants=ended)
        self._show(tx, ending)
        if not alive:
            return self.nothing(tx)
        return self.append(tx, [Entry("subject", sub, gen=gen, soft=soft)], cause)

    def revoke_client(self, tx: Connection, client_id: str, cause: str, *, soft: bool = False) -> Position:
        """Takes back everything a client holds, for people and for itself. Soft as for a subject.

        Tokens that a client got for itself leave no trace in SQL, so only a disabled client is known to hold nothing.
        """
        query = exclusive(select(clients.c.disabled_at).where(clients.c.id == client_id))
        client = tx.execute(query).one_or_none()
        if client is None or client.disabled_at is not None:
            return self.nothing(tx)
        gen = self._raise_generation(tx, clients, client_id, soft=soft)
        if not soft:
            self._end_grants(tx, grants.c.client_id == client_id)
        return self.append(tx, [Entry("client", client_id, gen=gen, soft=soft)], cause)

    def snapshot(self, tx: Connection) -> Snapshot:
        """Where the log stands. `at` is taken first, so every revocation committed before `at` is in it.

        That holds in `Database.run`, where heartbeats are made; what `Database.read` sees may be older than its clock.
        """
        at = self._now(tx)
        state = tx.execute(select(log_state)).one()
        return Snapshot(
            log=state.log,
            head=state.head,
            hash=state.head_hash,
            floor=self._floor(tx, state.log, state.head, at),
            kids=self._keyring.accepted_kids(tx),
            at=at,
        )

    def heartbeat(self, tx: Connection, snapshot: Snapshot, *, nonce: str = "") -> bytes:
        """The signed heartbeat that says `snapshot`."""
        message = Heartbeat(
            log=snapshot.log,
            head=snapshot.head,
            hash=snapshot.hash,
            floor=snapshot.floor,
            kids=snapshot.kids,
            at=snapshot.at,
            nonce=nonce,
        )
        claims = claims_of(message, self._issuer, f"{snapshot.log}:hb:{snapshot.at}")
        return self._keyring.signing_key(tx, "log").sign(MESSAGE_TYPE, claims).encode()

    def messages(self, tx: Connection, log: str, after: int, *, limit: int) -> list[tuple[int, bytes]]:
        """The signed messages behind position `after`, in order, at most `limit`."""
        query = (
            select(revocations.c.pos, revocations.c.message)
            .where(revocations.c.log == log, revocations.c.pos > after)
            .order_by(revocations.c.pos)
            .limit(limit)
        )
        return [(pos, bytes(message)) for pos, message in tx.execute(query)]

    def read(self, tx: Connection, unverified: bytes) -> RevocationMessage | Heartbeat | None:
        """The message, if it is signed by a key of the log that is accepted now; None for anything else."""
        try:
            jws = parse(unverified.decode("ascii"), types=frozenset({MESSAGE_TYPE}), max_bytes=MAX_MESSAGE_BYTES)
            key = self._keyring.public_key(tx, "log", jws.kid)
            if key is None:
                return None
            claims = jws.verified_claims(key)
            return message_from(claims) if claims.get("iss") == self._issuer else None
        except (TokenRefused, UnicodeDecodeError):
            return None

    def _floor(self, tx: Connection, log: str, head: int, now: int) -> int:
        """The oldest position still alive, head + 1 if none is."""
        seen_log, seen = self._floor_seen
        begin = seen if seen_log == log else 1
        query = (
            select(revocations.c.pos)
            .where(revocations.c.log == log, revocations.c.pos >= begin, revocations.c.dead_at > now)
            .order_by(revocations.c.pos)
            .limit(1)
        )
        oldest = tx.execute(query).scalar_one_or_none()
        floor = head + 1 if oldest is None else min(oldest, head + 1)
        self._floor_seen = (log, floor)
        return floor

    def _may_have_tokens(self, expires_at: int, tx: Connection) -> bool:
        # No token outlives its session or grant (see issuing), save by a verifier's leeway.
        return expires_at + self._leeway_ms + MARGIN_MS > self._now(tx)

    def _anything_alive(self, tx: Connection, sub: str) -> bool:
        since = self._now(tx) - self._leeway_ms - MARGIN_MS
        living = [
            exists().where(table.c.user_id == sub, table.c.ended_at.is_(None), table.c.expires_at > since)
            for table in (login_sessions, grants)
        ]
        return bool(tx.execute(select(or_(*living))).scalar_one())

    def _raise_generation(self, tx: Connection, table: Any, key: str, *, soft: bool) -> int:
        raised: dict[str, Any] = {"gen": table.c.gen + 1}
        if not soft:
            raised["hard_gen"] = table.c.gen + 1
        statement = update(table).where(table.c.id == key).values(raised).returning(table.c.gen)
        return int(tx.execute(statement).scalar_one())

    def _revoke_sessions(self, tx: Connection, ending: Ending, which: ColumnElement[bool]) -> tuple[int, Position]:
        """Ends the living sessions that are meant; one message carries several of them."""
        ended = self._end_sessions(tx, which)
        tied = self._end_grants(tx, grants.c.session_id.in_(list(ended)))
        sessions = self._unexpired(tx, ended)
        self._show(tx, replace(ending, sessions=sessions, grants=self._unexpired(tx, tied)))
        position = self.nothing(tx)
        entries = [Entry("session", sid) for sid, expires_at in ended.items() if self._may_have_tokens(expires_at, tx)]
        for first in range(0, len(entries), ENTRIES_PER_MESSAGE):
            position = self.append(tx, entries[first : first + ENTRIES_PER_MESSAGE], ending.cause)
        return len(sessions), position

    def _show(self, tx: Connection, ending: Ending) -> None:
        if ending.sessions or ending.grants or ending.facts:
            for witness in self._witnesses:
                witness(tx, ending)

    def _unexpired(self, tx: Connection, ended: Mapping[str, int]) -> tuple[str, ...]:
        now = self._now(tx)
        return tuple(key for key, expires_at in ended.items() if expires_at > now)

    def _end_sessions(self, tx: Connection, which: ColumnElement[bool]) -> dict[str, int]:
        return self._end(tx, login_sessions, which)

    def _end_grants(self, tx: Connection, which: ColumnElement[bool]) -> dict[str, int]:
        return self._end(tx, grants, which)

    def _end(self, tx: Connection, table: Table, which: ColumnElement[bool]) -> dict[str, int]:
        """Ends those that live; which they were, and when each would have expired."""
        # Locked in the order of their ids, so that two that end overlapping sets do not wait for each other.
        living = select(table.c.id, table.c.expires_at).where(which, table.c.ended_at.is_(None)).order_by(table.c.id)
        ended = {row.id: row.expires_at for row in tx.execute(exclusive(living))}
        tx.execute(update(table).where(table.c.id.in_(list(ended))).values(ended_at=self._now(tx)))
        return ended
