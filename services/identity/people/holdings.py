"""What somebody holds: login sessions and the apps that have access, as the account page and an administrator see them.

Ending any of it is a revocation like any other, in the caller's transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from identity.domain import Cause, Position
from identity.people.storage import user_identities
from identity.revocations import RevocationLog
from identity.storage import clients, grants, login_sessions, users
from servicekit.errors import Kind, ServiceError


@dataclass(frozen=True, slots=True)
class App:
    """The access of one client. Times in ms."""

    gid: str
    client_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: int
    expires_at: int
    offline: bool
    first_party: bool


@dataclass(frozen=True, slots=True)
class Place:
    """A living login session: where somebody is signed in. `device` and `network` are empty when unknown."""

    sid: str
    device: str
    network: str
    created_at: int
    auth_time: int
    expires_at: int
    apps: tuple[App, ...]


@dataclass(frozen=True, slots=True)
class Voucher:
    """An account at another provider that can be signed in with."""

    provider: str
    subject: str
    shown_as: str
    linked_at: int


@dataclass(frozen=True, slots=True)
class Holdings:
    """Reads and ends what somebody holds."""

    revocations: RevocationLog
    now: Callable[[Connection], int]

    def places(self, tx: Connection, user_id: str) -> list[Place]:
        """Where the person is signed in, last begun first, each with the apps that hang on it."""
        now = self.now(tx)
        alive = (
            login_sessions.c.user_id == user_id,
            login_sessions.c.ended_at.is_(None),
            login_sessions.c.expires_at > now,
            login_sessions.c.hard_gen == users.c.hard_gen,
        )
        query = select(login_sessions).join(users, users.c.id == login_sessions.c.user_id).where(*alive)
        rows = tx.execute(query.order_by(login_sessions.c.created_at.desc(), login_sessions.c.id)).all()
        apps: dict[str | None, list[App]] = {}
        for row in tx.execute(_living_grants(user_id, now)):
            apps.setdefault(row.session_id, []).append(_app(row))
        return [
            Place(
                sid=row.id,
                device="",
                network="",
                created_at=row.created_at,
                auth_time=row.auth_time,
                expires_at=row.expires_at,
                apps=tuple(apps.get(row.id, ())),
            )
            for row in rows
        ]

    def apps(self, tx: Connection, user_id: str) -> list[App]:
        """Every app that has access now, last begun first."""
        return [_app(row) for row in tx.execute(_living_grants(user_id, self.now(tx)))]

    def vouchers(self, tx: Connection, user_id: str) -> list[Voucher]:
        """Who else vouches for the person."""
        query = select(user_identities).where(user_identities.c.user_id == user_id)
        rows = tx.execute(query.order_by(user_identities.c.provider, user_identities.c.subject))
        return [Voucher(row.provider, row.subject, row.shown_as, row.linked_at) for row in rows]

    def end_place(self, tx: Connection, user_id: str, sid: str, cause: str = Cause.SIGNED_OUT) -> Position:
        """Ends one login session of this person's.

        Raises:
            ServiceError: NO_SUCH_SESSION, for another person's just as for none.
        """
        query = select(login_sessions.c.id).where(login_sessions.c.id == sid, login_sessions.c.user_id == user_id)
        if tx.execute(query).one_or_none() is None:
            raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_SESSION", "There is no such session of this account.")
        return self.revocations.revoke_session(tx, sid, cause)

    def end_other_places(self, tx: Connection, user_id: str, keep: str) -> int:
        """Ends every login session of this person's but one; how many those were."""
        others = [place.sid for place in self.places(tx, user_id) if place.sid != keep]
        for sid in sorted(others):
            self.revocations.revoke_session(tx, sid, Cause.SIGNED_OUT)
        return len(others)

    def withdraw(self, tx: Connection, user_id: str, gid: str, cause: str = Cause.GRANT_WITHDRAWN) -> Position:
        """Takes one app's access back.

        Raises:
            ServiceError: NO_SUCH_GRANT, for another person's just as for none.
        """
        query = select(grants.c.id).where(grants.c.id == gid, grants.c.user_id == user_id)
        if tx.execute(query).one_or_none() is None:
            raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_GRANT", "No app has this access to this account.")
        return self.revocations.revoke_grant(tx, gid, cause)


def _living_grants(user_id: str, now: int) -> Select[Any]:
    """The grants that may still be used, by the rules of identity.standing."""
    session_lives = grants.c.session_id.is_(None) | (
        login_sessions.c.ended_at.is_(None) & (login_sessions.c.expires_at > now)
    )
    return (
        select(grants, clients.c.name, clients.c.first_party)
        .join(clients, clients.c.id == grants.c.client_id)
        .join(users, users.c.id == grants.c.user_id)
        .outerjoin(login_sessions, login_sessions.c.id == grants.c.session_id)
        .where(
            grants.c.user_id == user_id,
            grants.c.ended_at.is_(None),
            grants.c.expires_at > now,
            grants.c.user_hard_gen == users.c.hard_gen,
            grants.c.client_hard_gen == clients.c.hard_gen,
            clients.c.disabled_at.is_(None),
            session_lives,
        )
        .order_by(grants.c.created_at.desc(), grants.c.id)
    )


def _app(row: Row[Any]) -> App:
    return App(
        gid=row.id,
        client_id=row.client_id,
        name=row.name,
        scopes=tuple(row.scope.split()),
        created_at=row.created_at,
        expires_at=row.expires_at,
        offline=row.session_id is None,
        first_party=row.first_party,
    )
