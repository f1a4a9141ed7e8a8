"""What a scope lets an app do, in words that a person can decide by."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from identity.domain import OFFLINE

_TOLD: Mapping[str, str] = MappingProxyType(
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


def told(scopes: Iterable[str]) -> list[str]:
    """One sentence for each scope; one that has no words yet is told by its name."""
    return [_TOLD.get(scope, scope) for scope in scopes]
