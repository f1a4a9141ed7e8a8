"""Back-channel logout: clients learn that a session has ended, whoever ended it.

OpenID Connect Back-Channel Logout 1.0, to which the sections below belong.

Where a login session ends, a row for each client that is owed a logout token is written in the same transaction. One of
the replicas sends it, and again until the client has taken it or a day is over: the row is claimed for a while, so a
replica that dies with it is followed by another. Each attempt signs a token of its own, because a client that took one
and whose answer was lost would rightly refuse to see it twice.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import structlog
from sqlalchemy import Connection, delete, exists, insert, or_, select, update

from identity.domain import Entropy, new_id
from identity.endings import Ending
from identity.keyring import KeyRing
from identity.storage import clients, grants, logout_deliveries
from servicekit.database import Database
from servicekit.errors import ServiceError

LOGOUT_TYPE = "logout+jwt"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
TOKEN_LIFE = 120  # seconds (section 2.4 recommends two minutes at most)
DEADLINE = 5.0  # seconds for one client's answer
KEPT_MS = 86_400_000  # a client that is down for longer has to find out otherwise
CLAIM_MS = 30_000
LONGEST_PAUSE_MS = 600_000
BATCH = 16
POLL = 1.0  # seconds between looks when nobody wakes it
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

_log = structlog.get_logger("identity.backchannel")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A logout token on its way; `token` is for this attempt alone."""

    id: str
    client_id: str
    uri: str | None
    token: str
    attempts: int


class LogoutQueue:
    """What clients are owed, in SQL. Every method works inside the caller's transaction."""

    def __init__(self, keyring: KeyRing, *, issuer: str, now: Callable[[Connection], int], entropy: Entropy) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._now = now
        self._entropy = entropy

    def witness(self, tx: Connection, ending: Ending) -> None:
        """Writes down who must hear of the sessions that ended (a Witness of the revocation log)."""
        if ending.kind == "grant":
            return
        # Those whose access ended with a session, and those that keep it but were signed in to by it.
        concerned = or_(
            grants.c.id.in_(ending.grants), grants.c.begun_in.in_(ending.sessions) & grants.c.ended_at.is_(None)
        )
        query = (
            select(grants.c.client_id, grants.c.begun_in)
            .join(clients, clients.c.id == grants.c.client_id)
            .where(concerned, grants.c.begun_in.is_not(None), clients.c.backchannel_logout_uri.is_not(None))
            .distinct()
        )
        now = self._now(tx)
        owed = [
            {
                "id": new_id("lgt", self._entropy),
                "client_id": row.client_id,
                "subject": ending.subject,
                "sid": row.begun_in,
                "attempts": 0,
                "due_at": now,
                "expires_at": now + KEPT_MS,
            }
            for row in tx.execute(query)
        ]
        if owed:
            tx.execute(insert(logout_deliveries), owed)

    def is_due(self, tx: Connection) -> bool:
        """Whether there is anything to send now."""
        return bool(tx.execute(select(exists().where(logout_deliveries.c.due_at <= self._now(tx)))).scalar_one())

    def claim(self, tx: Connection) -> list[Delivery]:
        """Some of what is due, ours for CLAIM_MS; what another replica is claiming is passed over."""
        now = self._now(tx)
        due = (
            select(logout_deliveries)
            .where(logout_deliveries.c.due_at <= now)
            .order_by(logout_deliveries.c.due_at, logout_deliveries.c.id)
            .limit(BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = tx.execute(due).all()
        if not rows:
            return []
        ids = [row.id for row in rows]
        claimed = update(logout_deliveries).where(logout_deliveries.c.id.in_(ids))
        tx.execute(claimed.values(due_at=now + CLAIM_MS, attempts=logout_deliveries.c.attempts + 1))
        named = select(clients.c.id, clients.c.backchannel_logout_uri).where(
            clients.c.id.in_({row.client_id for row in rows}), clients.c.disabled_at.is_(None)
        )
        uris: dict[str, str | None] = {row.id: row.backchannel_logout_uri for row in tx.execute(named)}
        key = self._keyring.signing_key(tx, "access")
        return [
            Delivery(
                row.id,
                row.client_id,
                # Nobody waits for a token that comes a day late, or for a client that was switched off.
                uris.get(row.client_id) if row.expires_at > now else None,
                key.sign(LOGOUT_TYPE, self._claims(row.client_id, row.subject, row.sid, now)),
                row.attempts + 1,
            )
            for row in rows
        ]

    def done(self, tx: Connection, delivery: Delivery) -> None:
        """The client has it, or never will."""
        tx.execute(delete(logout_deliveries).where(logout_deliveries.c.id == delivery.id))

    def postpone(self, tx: Connection, delivery: Delivery) -> None:
        """Tries again after a pause that doubles at every attempt: 1 s, 2 s, 4 s, up to LONGEST_PAUSE_MS."""
        pause = min(LONGEST_PAUSE_MS, 1000 << min(delivery.attempts - 1, 20))
        due = update(logout_deliveries).where(logout_deliveries.c.id == delivery.id)
        tx.execute(due.values(due_at=self._now(tx) + pause))

    def _claims(self, client_id: str, subject: str, sid: str, now: int) -> Mapping[str, Any]:
        """Section 2.4. No `nonce`: so that it can be taken for no ID token."""
        issued_at = now // 1000
        return {
            "iss": self._issuer,
            "sub": subject,
            "aud": client_id,
            "iat": issued_at,
            "exp": issued_at + TOKEN_LIFE,
            "jti": new_id("", self._entropy),
            "sid": sid,
            "events": {LOGOUT_EVENT: {}},
        }


def may_be_sent_to(uri: str, http_hosts: Collection[str]) -> bool:
    """Whether a logout token may go there: over https, or over plain http to this machine or a host that is named."""
    try:
        parts = urlsplit(uri)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.fragment or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (host in _LOOPBACK or host in http_hosts))


class LogoutSender:
    """Sends what the queue holds. Every replica runs one."""

    def __init__(
        self,
        database: Database,
        queue: LogoutQueue,
        *,
        http_hosts: Collection[str],
        outcome: Callable[[str], None],
        deadline: float = DEADLINE,
    ) -> None:
        """`outcome` is told `taken`, `refused`, `unanswered` or `dropped` for every attempt, for metrics."""
        self._database = database
        self._queue = queue
        self._http_hosts = frozenset(http_hosts)
        self._outcome = outcome
        self._deadline = deadline
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """A session may have ended: look now and not at the next poll. Call it in the event loop."""
        self._woken.set()

    async def run(self) -> None:
        """Sends until it is cancelled. A database that does not answer is asked again later."""
        # Nothing of the environment decides where tokens go, and no answer sends them elsewhere.
        async with httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=self._deadline) as http:
            while True:
                self._woken.clear()
                more = False
                try:
                    more = await self.send_due(http)
                except ServiceError as error:
                    _log.warning("logout_tokens_wait", reason=error.reason)
                if not more:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(POLL):
                            await self._woken.wait()

    async def send_due(self, http: httpx2.AsyncClient) -> bool:
        """Sends one batch; tells whether there may be more.

        Raises:
            ServiceError: the database does not answer.
        """
        if not await self._database.read(self._queue.is_due):
            return False
        batch = await self._database.run(self._queue.claim)
        async with asyncio.TaskGroup() as sending:
            for delivery in batch:
                sending.create_task(self._deliver(http, delivery))
        return len(batch) == BATCH

    async def _deliver(self, http: httpx2.AsyncClient, delivery: Delivery) -> None:
        outcome = await self._attempt(http, delivery)
        self._outcome(outcome)
        over = outcome in ("taken", "dropped")
        settle = self._queue.done if over else self._queue.postpone
        # If this fails, the claim runs out and somebody sends again.
        with contextlib.suppress(ServiceError):
            await self._database.run(lambda tx: settle(tx, delivery))
        log = _log.info if outcome == "taken" else _log.warning
        log("logout_token_sent", client_id=delivery.client_id, outcome=outcome, attempt=delivery.attempts)

    async def _attempt(self, http: httpx2.AsyncClient, delivery: Delivery) -> str:
        if delivery.uri is None or not may_be_sent_to(delivery.uri, self._http_hosts):
            return "dropped"
        try:
            async with (
                asyncio.timeout(self._deadline),
                http.stream("POST", delivery.uri, data={"logout_token": delivery.token}) as response,
            ):
                # The body is never read: whatever it says changes nothing (section 2.8).
                return "taken" if response.status_code in (200, 204) else "refused"
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError):
            return "unanswered"
