"""What a client asks a person for, in plain words, and whether the person has said yes before.

Consent is remembered by the grant itself: as long as one lives that holds all that is asked for, the person is not
asked again. So withdrawing the grant forgets the consent, there is no second list to keep in step, and whatever is
wider than any one grant is asked about.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sqlalchemy import Connection, or_, select

from identity.domain import OFFLINE, LoginSession
from identity.storage import clients, grants, login_sessions, users

ASKS: Mapping[str, str] = MappingProxyType(
    {
        "openid": "Know who you are, by an identifier",
        "profile": "See your name",
        "email": "See your e-mail address",
        OFFLINE: "Keep this access while you are signed out",
        "orders:read": "See your orders",
        "orders:write": "Place and cancel orders for you",
        "orders:admin": "See and change the orders of everybody",
        "notifications:read": "See your notifications",
        "identity:admin": "Manage accounts, clients and keys",
    }
)


def in_plain_words(scopes: Iterable[str]) -> list[str]:
    """What these scopes permit, as a person reads it."""
    return [ASKS.get(scope, scope) for scope in scopes]


def is_granted(
    tx: Connection, session: LoginSession, client_id: str, scopes: Iterable[str], audiences: Iterable[str], now: int
) -> bool:
    """Whether one living grant of this person to this client holds all of it. `now` in ms."""
    asked, places = set(scopes), set(audiences)
    query = (
        select(grants.c.scope, grants.c.resources)
        .join(users, users.c.id == grants.c.user_id)
        .join(clients, clients.c.id == grants.c.client_id)
        .outerjoin(login_sessions, login_sessions.c.id == grants.c.session_id)
        .where(
            grants.c.user_id == session.user_id,
            grants.c.client_id == client_id,
            grants.c.ended_at.is_(None),
            grants.c.expires_at > now,
            grants.c.user_hard_gen == users.c.hard_gen,
            grants.c.client_hard_gen == clients.c.hard_gen,
            or_(grants.c.session_id.is_(None), login_sessions.c.ended_at.is_(None)),
        )
    )
    return any(asked <= set(scope.split()) and places <= set(resources) for scope, resources in tx.execute(query))
