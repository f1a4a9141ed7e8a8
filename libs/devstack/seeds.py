"""The people and clients of the embedded run and the compose demo. Never in production: their secrets are public."""

import json
from collections.abc import Sequence
from typing import Any

PASSWORD = "correct-horse-battery-staple"  # noqa: S105  (printed by `make run`: it protects nothing)
ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
LOOPBACK = "http://127.0.0.1/callback"  # on any port (RFC 8252 section 7.3)

IDENTITY = "urn:rescind:identity"
SESSION = "urn:rescind:session"
ORDERS = "urn:rescind:orders"
NOTIFICATIONS = "urn:rescind:notifications"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  (a name)
_ALL = [IDENTITY, SESSION, ORDERS, NOTIFICATIONS]
_SIGN_IN = ["openid", "profile", "email", "offline_access"]
_BUSINESS = ["orders:read", "orders:write", "notifications:read"]
_ADMIN = ["orders:admin", "identity:admin"]


def client_secret(client_id: str) -> str:
    """The secret of a seeded confidential client."""
    return f"{client_id}-secret"


def _service(client_id: str, *permissions: str, exchange_scopes: Sequence[str] = ()) -> dict[str, Any]:
    """A service's own client; with `exchange_scopes` it may act for people who called it (RFC 8693)."""
    acting = {"exchange_scopes": list(exchange_scopes)} if exchange_scopes else {}
    return {
        "id": client_id,
        "name": f"The {client_id} service",
        "secret": client_secret(client_id),
        "first_party": True,
        "grant_types": ["client_credentials", *([TOKEN_EXCHANGE] if exchange_scopes else [])],
        "resources": [IDENTITY],
        "permissions": ["introspect", "replay", *permissions],
        **acting,
    }


SEEDS: dict[str, Any] = {
    "users": [
        {"email": ALICE, "name": "Alice Example", "password": PASSWORD},
        {"email": BOB, "name": "Bob Example", "password": PASSWORD},
        {"email": ADMIN, "name": "Ada Admin", "password": PASSWORD, "roles": ["admin"]},
    ],
    "clients": [
        {
            "id": "web",
            "name": "Rescind on the web",
            "secret": client_secret("web"),
            "first_party": True,
            "redirect_uris": ["http://localhost:8000/auth/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
            "scopes": _SIGN_IN + _BUSINESS + _ADMIN,
            "resources": _ALL,
            "refresh_without_offline": True,
        },
        {
            "id": "mobile",
            "name": "Rescind on the phone",
            "first_party": True,
            "redirect_uris": [LOOPBACK],
            "grant_types": ["authorization_code", "refresh_token"],
            "scopes": _SIGN_IN + _BUSINESS + _ADMIN,
            "resources": _ALL,
        },
        {
            "id": "cli",
            "name": "Rescind at the command line",
            "first_party": True,
            "grant_types": [DEVICE_CODE, "refresh_token"],
            "scopes": _SIGN_IN + _BUSINESS + _ADMIN,
            "resources": _ALL,
        },
        {
            "id": "partner",
            "name": "Partner Analytics",
            "secret": client_secret("partner"),
            "redirect_uris": [LOOPBACK],
            "grant_types": ["authorization_code", "refresh_token"],
            "scopes": ["openid", "profile", "offline_access", "orders:read"],
            "resources": [IDENTITY, ORDERS],
            "asks_always": True,
        },
        {
            "id": "backoffice",
            "name": "Back office",
            "secret": client_secret("backoffice"),
            "first_party": True,
            "grant_types": ["client_credentials"],
            "scopes": ["identity:admin", "orders:read", "orders:admin"],
            "resources": [IDENTITY, ORDERS],
            "permissions": ["introspect", "introspect_any", "revoke"],
        },
        _service("orders"),
        _service("notifications", "contacts", exchange_scopes=["orders:read"]),
        _service("session"),
    ],
}


def seeds_json() -> str:
    """The seeds as `python -m identity seed` reads them."""
    return json.dumps(SEEDS)
