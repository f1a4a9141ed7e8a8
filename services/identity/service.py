"""The use cases of identity beside OAuth: people and clients.

Each opens one transaction, decides, commits, and then sees to it that what was committed is pushed. Work that takes
long (hashing a password) is done before the transaction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from contracts.identity.v1.events_pb2 import AccountDisabled, AccountEnabled, PasswordChanged
from identity.audit import AuditTrail
from identity.client_keys import ClientKeys
from identity.domain import GENERATION_BITS, ROLES, Cause, Contact, Credentials, Entropy, Position, UserId, new_id
from identity.endings import Fact
from identity.events import SecurityEvents
from identity.passwords import Passwords
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.storage import clients, exclusive, log_state, users
from servicekit.database import Database, insert_new
from servicekit.errors import Kind, ServiceError

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
