"""The use cases of identity beside OAuth: accounts, taking back, keys, a new log.

Each opens one transaction, decides, commits, and then sees to it that what was committed is pushed. Work that takes
long (hashing a password, making a key) is done before the transaction.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, select, update

from contracts.identity.v1.events_pb2 import AccountDisabled, AccountEnabled, PasswordChanged
from identity.audit import AuditTrail
from identity.client_keys import ClientKeys
from identity.domain import GENERATION_BITS, ROLES, Cause, Contact, Credentials, Entropy, Position, UserId, new_id
from identity.endings import Fact
from identity.events import SecurityEvents
from identity.keyring import KeyRecord, KeyRing, SpareTooYoung
from identity.new_log import AlreadyBegun, FreshKeys, begin_new_log
from identity.passwords import Passwords
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.storage import clients, exclusive, log_state, users
from servicekit.database import Database, insert_new
from servicekit.errors import Kind, ServiceError

TargetKind = Literal["token", "session", "grant", "subject", "client", "key"]

_CAUSE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_NAMED = {"subject": "user"}  # as the audit log calls it
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_log = structlog.get_logger("identity.service")


@dataclass(frozen=True, slots=True)
class NewUser:
    """An account to be made; the password is already hashed."""

    email: str
    name: str
    password_hash: str
    roles: Sequence[str] = ()
    email_verified: bool = True  # whoever makes an account has seen to that


@dataclass(frozen=True, slots=True)
class NewClient:
    """A client to be registered. `secret_hash` is SHA-256, hex; without it and without `jwks` the client is public."""

    id: str
    name: str
    secret_hash: str | None = None
    first_party: bool = False
    redirect_uris: Sequence[str] = ()
    grant_types: Sequence[str] = ()
    scopes: Sequence[str] = ()
    resources: Sequence[str] = ()
    permissions: Sequence[str] = ()
    refresh_without_offline: bool = False
    exchange_scopes: Sequence[str] = ()
    asks_always: bool = False
    jwks: ClientKeys | None = None
    post_logout_redirect_uris: Sequence[str] = ()
    backchannel_logout_uri: str | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """People and clients: made, switched off and on."""

    database: Database
    revocations: RevocationLog
    publisher: Publisher
    hashing: Passwords
    entropy: Entropy
    events: SecurityEvents
    audit: AuditTrail

    def add_user(self, tx: Connection, user: NewUser) -> bool:
        """Makes an account unless one with this e-mail address exists; tells whether it did."""
        epoch, now = _epoch(tx), self.database.now(tx)
        values = {
            "id": new_id("usr", self.entropy),
            "email": user.email.strip().lower(),
            "name": user.name,
            "password_hash": user.password_hash,
            "roles": list(user.roles),
            "gen": epoch + 1,
            "hard_gen": epoch + 1,
            "created_at": now,
            "email_verified_at": now if user.email_verified else None,
        }
        return insert_new(tx, users, values)

    def add_client(self, tx: Connection, client: NewClient) -> bool:
        """Registers a client unless its id is taken; tells whether it did."""
        epoch = _epoch(tx)
        values: dict[str, Any] = {
            "id": client.id,
            "name": client.name,
            "secret_hash": client.secret_hash,
            "first_party": client.first_party,
            "redirect_uris": list(client.redirect_uris),
            "grant_types": list(client.grant_types),
            "scopes": list(client.scopes),
            "resources": list(client.resources),
            "permissions": list(client.permissions),
            "refresh_without_offline": client.refresh_without_offline,
            "exchange_scopes": list(client.exchange_scopes),
            "asks_always": client.asks_always,
            "jwks": None if client.jwks is None else client.jwks.document(),
            "post_logout_redirect_uris": list(client.post_logout_redirect_uris),
            "backchannel_logout_uri": client.backchannel_logout_uri,
            "gen": epoch + 1,
            "hard_gen": epoch + 1,
            "created_at": self.database.now(tx),
        }
        return insert_new(tx, clients, values)

    def credentials(self, tx: Connection, email: str) -> Credentials | None:
        """What a password is checked against, of the account with this e-mail address. Read it before hashing."""
        return _credentials(tx, users.c.email == email.strip().lower())

    async def change_password(self, user_id: str, current: str, new: str, *, session_id: str = "") -> int:
        """Sets a new password and signs the person out everywhere; the hard generation to sign in again with.

        `session_id` is the login session in which it is done.

        Raises:
            ServiceError: WRONG_PASSWORD; SIGN_IN_OVERTAKEN when another change or a disabling came first.
        """
        seen = await self.database.read(partial(_credentials, which=users.c.id == user_id))
        if seen is None or seen.disabled or not await self.hashing.verify(seen.password_hash, current):
            raise ServiceError(Kind.FORBIDDEN, "WRONG_PASSWORD", "The current password is wrong.")
        hashed = await self.hashing.hash(new)

        def work(tx: Connection) -> int:
            row = tx.execute(exclusive(select(users).where(users.c.id == user_id))).one()
            if row.hard_gen != seen.hard_gen or row.disabled_at is not None:
                raise ServiceError(Kind.CONFLICT, "SIGN_IN_OVERTAKEN", "The account has changed meanwhile.")
            tx.execute(update(users).where(users.c.id == user_id).values(password_hash=hashed))
            facts = [Fact(user_id, PasswordChanged(subject=user_id, session_id=session_id))]
            self.revocations.revoke_subject(tx, user_id, Cause.PASSWORD_CHANGED, facts=facts)
            return int(tx.execute(select(users.c.hard_gen).where(users.c.id == user_id)).scalar_one())

        hard_gen = await self.database.run(work)
        await self.publisher.publish_pending()
        _log.info("password_changed", user_id=user_id)
        return hard_gen

    async def change_roles(self, user_id: str, roles: Sequence[str], *, by: str = "") -> Position:
        """Sets the roles; tokens that were stamped before are stale, and refreshing gets what the roles permit.

        Raises:
            ServiceError: NO_SUCH_ACCOUNT, BAD_ROLES.
        """
        if not set(roles) <= ROLES:
            raise ServiceError(Kind.INVALID, "BAD_ROLES", f"The roles there are: {', '.join(sorted(ROLES))}.")

        def work(tx: Connection) -> Position:
            _require(tx, users, user_id, "NO_SUCH_ACCOUNT", "There is no such account.")
            tx.execute(update(users).where(users.c.id == user_id).values(roles=list(roles)))
            self.audit.write(tx, by, "ROLES_CHANGED", "user", user_id, roles=" ".join(sorted(roles)))
            return self.revocations.revoke_subject(tx, user_id, Cause.ROLES_CHANGED, soft=True)

        return await self._committed(work)

    async def disable_account(self, user_id: str, *, by: str = "") -> Position:
        """Ends everything the person holds and keeps them from signing in. `by`: the `sub` of whoever does it.

        Raises:
            ServiceError: NO_SUCH_ACCOUNT.
        """

        def work(tx: Connection) -> Position:
            disabled_at = _require(tx, users, user_id, "NO_SUCH_ACCOUNT", "There is no such account.")
            self.audit.write(tx, by, "ACCOUNT_DISABLED", "user", user_id)
            facts = [Fact(user_id, AccountDisabled(subject=user_id, disabled_by=by))] if disabled_at is None else []
            living = update(users).where(users.c.id == user_id, users.c.disabled_at.is_(None))
            tx.execute(living.values(disabled_at=self.database.now(tx)))
            return self.revocations.revoke_subject(tx, user_id, Cause.ACCOUNT_DISABLED, by=by, facts=facts)

        _log.info("account_disabled", user_id=user_id)
        return await self._committed(work)

    async def enable_account(self, user_id: str, *, by: str = "") -> None:
        """Lets the person sign in again; what was ended stays ended. `by`: the `sub` of whoever does it.

        Raises:
            ServiceError: NO_SUCH_ACCOUNT.
        """

        def work(tx: Connection) -> None:
            self.audit.write(tx, by, "ACCOUNT_ENABLED", "user", user_id)
            if _enable(tx, users, user_id, "NO_SUCH_ACCOUNT"):
                self.events.tell(tx, [Fact(user_id, AccountEnabled(subject=user_id, enabled_by=by))])

        await self.database.run(work)
        await self.publisher.publish_pending()
        _log.info("account_enabled", user_id=user_id)

    async def contact(self, user_id: str) -> Contact:
        """Where the person can be reached.

        Raises:
            ServiceError: NO_SUCH_ACCOUNT.
        """

        def work(tx: Connection) -> Contact | None:
            columns = (users.c.email, users.c.name, users.c.disabled_at)
            row = tx.execute(select(*columns).where(users.c.id == user_id)).one_or_none()
            return None if row is None else Contact(user_id, row.email, row.name, row.disabled_at is not None)

        found = await self.database.read(work)
        if found is None:
            raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_ACCOUNT", "There is no such account.")
        return found

    async def disable_client(self, client_id: str, *, by: str = "") -> Position:
        """Ends everything the client holds and keeps it from getting tokens.

        Raises:
            ServiceError: NO_SUCH_CLIENT.
        """

        def work(tx: Connection) -> Position:
            _require(tx, clients, client_id, "NO_SUCH_CLIENT", "There is no such client.")
            self.audit.write(tx, by, "CLIENT_DISABLED", "client", client_id)
            position = self.revocations.revoke_client(tx, client_id, Cause.CLIENT_DISABLED)
            living = update(clients).where(clients.c.id == client_id, clients.c.disabled_at.is_(None))
            tx.execute(living.values(disabled_at=self.database.now(tx)))
            return position

        _log.info("client_disabled", client_id=client_id)
        return await self._committed(work)

    async def enable_client(self, client_id: str, *, by: str = "") -> None:
        """Lets the client get tokens again; what was ended stays ended.

        Raises:
            ServiceError: NO_SUCH_CLIENT.
        """

        def work(tx: Connection) -> None:
            _enable(tx, clients, client_id, "NO_SUCH_CLIENT")
            self.audit.write(tx, by, "CLIENT_ENABLED", "client", client_id)

        await self.database.run(work)
        _log.info("client_enabled", client_id=client_id)

    async def _committed(self, work: Callable[[Connection], Position]) -> Position:
        position = await self.database.run(work)
        await self.publisher.publish_pending()
        return position


@dataclass(frozen=True, slots=True)
class Administration:
    """Taking back by name, keys, and the log as a whole."""

    database: Database
    keyring: KeyRing
    revocations: RevocationLog
    publisher: Publisher
    entropy: Entropy
    audit: AuditTrail

    async def revoke(self, kind: TargetKind, target: str, *, cause: str, soft: bool = False, by: str = "") -> Position:
        """Refuses from now on everything that `target` names. `by`: the `sub` of whoever does it.

        Raises:
            ServiceError: BAD_TARGET, BAD_CAUSE; SOFT_NOT_POSSIBLE for what has no generation.
        """
        cause = cause or Cause.ADMINISTRATOR
        if _CAUSE.fullmatch(cause) is None:
            raise ServiceError(Kind.INVALID, "BAD_CAUSE", "A cause is UPPER_SNAKE, 64 characters at most.")
        if _ID.fullmatch(target) is None or (kind == "subject" and not target.startswith("usr_")):
            raise ServiceError(Kind.INVALID, "BAD_TARGET", f"This is no {kind}.")
        if soft and kind not in ("subject", "client"):
            raise ServiceError(Kind.INVALID, "SOFT_NOT_POSSIBLE", "Only subjects and clients have generations.")
        if kind == "key":
            return await self.revoke_key(target, by=by)
        work = partial(self._revoke, kind=kind, target=target, cause=cause, soft=soft, by=by)
        position = await self.database.run(work)
        await self.publisher.publish_pending()
        _log.info("revoked", kind=kind, cause=cause, soft=soft, pos=position.pos)
        return position

    def _revoke(self, tx: Connection, kind: TargetKind, target: str, cause: str, soft: bool, by: str) -> Position:
        log = self.revocations
        self.audit.write(tx, by, "REVOKED_SOFTLY" if soft else "REVOKED", _NAMED.get(kind, kind), target, cause=cause)
        match kind:
            case "token":
                return log.revoke_token(tx, target, cause)
            case "session":
                return log.revoke_session(tx, target, cause, by=by)
            case "grant":
                return log.revoke_grant(tx, target, cause, by=by)
            case "subject":
                return log.revoke_subject(tx, target, cause, soft=soft, by=by)
            case _:
                return log.revoke_client(tx, target, cause, soft=soft)

    async def revoke_key(self, kid: str, *, by: str = "") -> Position:
        """Refuses all that `kid` signed, at once. A key of the log takes its log with it: a new one begins."""
        fresh = await asyncio.to_thread(self.keyring.make_key)
        purpose = await self.database.read(partial(self.keyring.purpose_of, kid=kid))
        if purpose == "log":
            log = await self.database.read(_log_id)
            await self.begin_new_log(log, log_keys_too=True, by=by)
        else:
            await self.database.run(
                self.audit.around(partial(self.keyring.revoke, kid=kid, fresh=fresh), by, "KEY_REVOKED", "key", kid)
            )
        position = await self.database.read(self.revocations.nothing)
        await self.publisher.beat_now()
        _log.warning("key_revoked", kid=kid, purpose=purpose)
        return position

    async def rotate_keys(self, purpose: Literal["access", "log"] = "access", *, by: str = "") -> str:
        """Retires the active key and activates the spare; the kid that signs from now on. Nothing is refused for it.

        Raises:
            ServiceError: SPARE_TOO_YOUNG, with the time to wait.
        """
        fresh = await asyncio.to_thread(self.keyring.make_key)
        try:
            rotate = partial(self.keyring.rotate, purpose=purpose, fresh=fresh)
            kid = await self.database.run(self.audit.around(rotate, by, "KEYS_ROTATED", "key"))
        except SpareTooYoung as error:
            raise ServiceError(
                Kind.UNPROCESSABLE, "SPARE_TOO_YOUNG", "Caches do not hold the spare yet.", retry_after=error.seconds
            ) from error
        await self.publisher.beat_now()
        _log.info("keys_rotated", purpose=purpose, active_kid=kid)
        return kid

    async def keys(self) -> list[KeyRecord]:
        """Every key for access tokens that there ever was, oldest first."""
        return await self.database.read(self.keyring.keys)

    async def begin_new_log(self, ended: str, *, log_keys_too: bool = False, by: str = "") -> str:
        """Ends the log called `ended` (see identity.new_log), unless another replica did; the current log."""
        make = self.keyring.make_key
        pairs = [(await asyncio.to_thread(make), await asyncio.to_thread(make)) for _ in range(1 + log_keys_too)]
        keys = FreshKeys(access=pairs[0], log=pairs[1] if log_keys_too else None)
        begin = partial(
            begin_new_log,
            ended=ended,
            keyring=self.keyring,
            log=self.revocations,
            keys=keys,
            now=self.database.now,
            entropy=self.entropy,
        )
        try:
            begun = await self.database.run(self.audit.around(begin, by, "NEW_LOG", "log", ended))
        except AlreadyBegun:
            return await self.database.read(_log_id)
        _log.error("new_log_begun", ended=ended, log=begun)
        return begun

    async def end_everything(self, *, by: str) -> str:
        """Signs everybody out everywhere: the log ends, and nothing issued before is accepted; the log that begins."""
        begun = await self.begin_new_log(await self.database.read(_log_id), by=by)
        await self.publisher.beat_now()
        return begun


def _credentials(tx: Connection, which: Any) -> Credentials | None:
    columns = (users.c.id, users.c.password_hash, users.c.hard_gen, users.c.disabled_at)
    row = tx.execute(select(*columns).where(which)).one_or_none()
    if row is None:
        return None
    return Credentials(UserId(row.id), row.password_hash, row.hard_gen, disabled=row.disabled_at is not None)


def _enable(tx: Connection, table: Any, key: str, reason: str) -> bool:
    """Whether it was disabled."""
    disabled_at = _require(tx, table, key, reason, "There is no such thing to enable.")
    tx.execute(update(table).where(table.c.id == key).values(disabled_at=None))
    return disabled_at is not None


def _require(tx: Connection, table: Any, key: str, reason: str, detail: str) -> int | None:
    """Since when it is disabled, in ms; the row is ours from here on."""
    columns = (table.c.id, table.c.disabled_at)
    row = tx.execute(exclusive(select(*columns).where(table.c.id == key))).one_or_none()
    if row is None:
        raise ServiceError(Kind.NOT_FOUND, reason, detail)
    disabled_at: int | None = row.disabled_at
    return disabled_at


def _epoch(tx: Connection) -> int:
    return int(tx.execute(select(log_state.c.epoch)).scalar_one()) << GENERATION_BITS


def _log_id(tx: Connection) -> str:
    return str(tx.execute(select(log_state.c.log)).scalar_one())
