"""Who still stands: rows of user, client, login session and grant, locked for issuing, in that order.

Each function locks what it returns FOR SHARE, so that it stays as it was read until the transaction ends. Call them in
the order of this file: it is the order of locks that every transaction of identity keeps to.
"""

from typing import Any

from sqlalchemy import Connection, Row, select

from identity.domain import ClientId, Grant, GrantId, InvalidGrant, SessionId, UnauthorizedClient, UserId
from identity.storage import clients, exclusive, grants, login_sessions, shared, users


def user_row(tx: Connection, user_id: str | None) -> Row[Any] | None:
    """The user, alive or not; None if there is none."""
    columns = (users.c.id, users.c.roles, users.c.gen, users.c.hard_gen, users.c.disabled_at)
    return tx.execute(shared(select(*columns).where(users.c.id == user_id))).one_or_none()


def living_client(tx: Connection, client_id: str) -> Row[Any]:
    """The client.

    Raises:
        UnauthorizedClient: there is none, or it is disabled.
    """
    client = tx.execute(shared(select(clients).where(clients.c.id == client_id))).one_or_none()
    if client is None or client.disabled_at is not None:
        raise UnauthorizedClient(client_id)
    return client


def living_session(tx: Connection, session_id: str, user: Row[Any] | None, now: int) -> Row[Any] | None:
    """The login session, if it and its user live and nothing has signed the user out since it was opened."""
    session = tx.execute(shared(select(login_sessions).where(login_sessions.c.id == session_id))).one_or_none()
    if session is None or user is None or user.disabled_at is not None or session.user_id != user.id:
        return None
    alive = session.ended_at is None and session.expires_at > now and session.hard_gen == user.hard_gen
    return session if alive else None


def living_grant(tx: Connection, grant_id: str, now: int, *, alone: bool = False) -> tuple[Grant, Row[Any], Row[Any]]:
    """The grant with its user and client; with `alone`, locked against every other transaction.

    Raises:
        InvalidGrant: the grant, its login session or its user has ended, or its client was taken back.
        UnauthorizedClient: its client is disabled.
    """
    found = tx.execute(select(grants).where(grants.c.id == grant_id)).one_or_none()
    if found is None:
        raise InvalidGrant("no such grant")
    user = user_row(tx, found.user_id)
    client = living_client(tx, found.client_id)
    if found.session_id is not None and living_session(tx, found.session_id, user, now) is None:
        raise InvalidGrant("the login session has ended")
    lock = exclusive if alone else shared
    row = tx.execute(lock(select(grants).where(grants.c.id == grant_id))).one()
    if row.ended_at is not None or row.expires_at <= now:
        raise InvalidGrant("the grant has ended")
    if user is None or user.disabled_at is not None or user.hard_gen != row.user_hard_gen:
        raise InvalidGrant("the person was signed out everywhere")
    if client.hard_gen != row.client_hard_gen:
        raise InvalidGrant("the client was taken back")
    grant = Grant(
        grant_id=GrantId(row.id),
        user_id=UserId(row.user_id),
        client_id=ClientId(row.client_id),
        session_id=None if row.session_id is None else SessionId(row.session_id),
        scope=row.scope,
        resources=tuple(row.resources),
        auth_time=row.auth_time,
        expires_at=row.expires_at,
    )
    return grant, user, client
