"""What a person sees and ends of their own: where they are signed in, and which apps hold access.

Everything comes from SQL and is decided there, so it works when Redis does not.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, Row, exists, select

from identity.domain import Cause, Position
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.storage import clients, grants, login_sessions, users
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

_log = structlog.get_logger("identity.my_account")


@dataclass(frozen=True, slots=True)
class AppGrant:
    """The access of one app. Times in ms."""

    gid: str
    client_id: str
    client_name: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int
    first_party: bool


@dataclass(frozen=True, slots=True)
class SignedInSession:
    """One place where the person is signed in, and what hangs on it. Times in ms."""

    sid: str
    created_at: int
    auth_time: int
    expires_at: int
    user_agent: str
    network: str
    grants: tuple[AppGrant, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """All that lives of a person's: sessions, last begun first, and the grants that outlive them."""

    sessions: tuple[SignedInSession, ...]
    offline: tuple[AppGrant, ...]


@dataclass(frozen=True, slots=True)
class MyAccount:
    """The use cases. `user_id` is always the caller's own."""

    database: Database
    revocations: RevocationLog
    publisher: Publisher

    async def held(self, user_id: str) -> Held:
        """What lives of this person's now."""
        return await self.database.read(partial(_held, user_id=user_id, now=self.database.now))

    async def end_session(self, user_id: str, sid: str) -> tuple[int, Position]:
        """Signs out one login session; how many that were, and where it stands in the log.

        Raises:
            ServiceError: NO_SUCH_SESSION, also for another person's.
        """

        def work(tx: Connection) -> tuple[int, Position]:
            self._require_own(tx, user_id, sid, login_sessions, "NO_SUCH_SESSION")
            alive = tx.execute(select(login_sessions.c.ended_at).where(login_sessions.c.id == sid)).scalar_one() is None
            return int(alive), self.revocations.revoke_session(tx, sid, Cause.SIGNED_OUT)

        return await self._committed(work)

    async def end_other_sessions(self, user_id: str, kept: str) -> tuple[int, Position]:
        """Signs out every login session but one; how many that were.

        Raises:
            ServiceError: NO_SUCH_SESSION: there is nothing of this name to keep.
        """

        def work(tx: Connection) -> tuple[int, Position]:
            self._require_own(tx, user_id, kept, login_sessions, "NO_SUCH_SESSION")
            return self.revocations.revoke_sessions_besides(tx, user_id, kept, Cause.SIGNED_OUT)

        return await self._committed(work)

    async def end_everything(self, user_id: str) -> tuple[int, Position]:
        """Signs out everywhere: sessions, and every app's access, also what outlives a sign-out."""

        def work(tx: Connection) -> tuple[int, Position]:
            held = _held(tx, user_id, self.database.now)
            return len(held.sessions), self.revocations.revoke_subject(tx, user_id, Cause.SIGNED_OUT_EVERYWHERE)

        return await self._committed(work)

    async def withdraw(self, user_id: str, gid: str) -> Position:
        """Takes an app's access back.

        Raises:
            ServiceError: NO_SUCH_GRANT, also for another person's.
        """

        def work(tx: Connection) -> tuple[int, Position]:
            self._require_own(tx, user_id, gid, grants, "NO_SUCH_GRANT")
            return 1, self.revocations.revoke_grant(tx, gid, Cause.GRANT_WITHDRAWN)

        return (await self._committed(work))[1]

    async def require_session(self, user_id: str, sid: str) -> None:
        """Returns when this login session is this person's.

        Raises:
            ServiceError: NO_SUCH_SESSION.
        """
        await self.database.read(lambda tx: self._require_own(tx, user_id, sid, login_sessions, "NO_SUCH_SESSION"))

    async def require_grant(self, user_id: str, gid: str) -> None:
        """Returns when this access is to this person's account.

        Raises:
            ServiceError: NO_SUCH_GRANT.
        """
        await self.database.read(lambda tx: self._require_own(tx, user_id, gid, grants, "NO_SUCH_GRANT"))

    def _require_own(self, tx: Connection, user_id: str, key: str, table: Any, reason: str) -> None:
        if not tx.execute(select(exists().where(table.c.id == key, table.c.user_id == user_id))).scalar_one():
            raise ServiceError(Kind.NOT_FOUND, reason, "You have nothing of this name.")

    async def _committed(self, work: Callable[[Connection], tuple[int, Position]]) -> tuple[int, Position]:
        ended, position = await self.database.run(work)
        await self.publisher.publish_pending()
        _log.info("ended_by_its_person", ended=ended, pos=position.pos)
        return ended, position


def _held(tx: Connection, user_id: str, now: Callable[[Connection], int]) -> Held:
    moment = now(tx)
    sessions = tx.execute(
        select(login_sessions)
        .join(users, users.c.id == login_sessions.c.user_id)
        .where(
            login_sessions.c.user_id == user_id,
            login_sessions.c.ended_at.is_(None),
            login_sessions.c.expires_at > moment,
            login_sessions.c.hard_gen == users.c.hard_gen,
        )
        .order_by(login_sessions.c.created_at.desc(), login_sessions.c.id)
    ).all()
    tied: defaultdict[str | None, list[AppGrant]] = defaultdict(list)
    for row in _living_grants(tx, user_id, moment):
        tied[row.session_id].append(_app(row))
    return Held(
        sessions=tuple(
            SignedInSession(
                sid=row.id,
                created_at=row.created_at,
                auth_time=row.auth_time,
                expires_at=row.expires_at,
                user_agent=row.user_agent,
                network=row.network,
                grants=tuple(tied[row.id]),
            )
            for row in sessions
        ),
        offline=tuple(tied[None]),
    )


def _living_grants(tx: Connection, user_id: str, moment: int) -> Sequence[Any]:
    columns = (grants.c.id, grants.c.session_id, grants.c.client_id, grants.c.scope, grants.c.created_at)
    return tx.execute(
        select(*columns, grants.c.expires_at, clients.c.name, clients.c.first_party)
        .join(clients, clients.c.id == grants.c.client_id)
        .join(users, users.c.id == grants.c.user_id)
        .where(
            grants.c.user_id == user_id,
            grants.c.ended_at.is_(None),
            grants.c.expires_at > moment,
            grants.c.user_hard_gen == users.c.hard_gen,
            grants.c.client_hard_gen == clients.c.hard_gen,
            clients.c.disabled_at.is_(None),
        )
        .order_by(grants.c.created_at.desc(), grants.c.id)
    ).all()


def _app(row: Row[Any]) -> AppGrant:
    return AppGrant(
        gid=row.id,
        client_id=row.client_id,
        client_name=row.name,
        scopes=tuple(row.scope.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        first_party=row.first_party,
    )
