"""The people and clients of the embedded run and the compose demo. Never in production: their secrets are public."""

import json
from typing import Any

PASSWORD = "correct-horse-battery-staple"  # noqa: S105  (printed by `make run`: it protects nothing)
ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
LOOPBACK = "http://127.0.0.1/callback"  # on any port (RFC 8252 section 7.3)

IDENTITY = "urn:rescind:identity"
SESSION = "urn:rescind:session"
ORDERS = "urn:rescind:orders"
NOTIFICATIONS = "urn:rescind:notifications"
_ALL = [IDENTITY, SESSION, ORDERS, NOTIFICATIONS]
_SIGN_IN = ["openid", "profile", "email", "offline_access"]
_BUSINESS = ["orders:read", "orders:write", "notifications:read"]
_ADMIN = ["orders:admin", "identity:admin"]


def client_secret(client_id: str) -> str:
    """The secret of a seeded confidential client."""
    return f"{client_id}-secret"


def _service(client_id: str, *permissions: str) -> dict[str, Any]:
    return {
        "id": client_id,
        "name": f"The {client_id} service",
        "secret": client_secret(client_id),
        "first_party": True,
        "grant_types": ["client_credentials"],
        "resources": [IDENTITY],
        "permissions": ["introspect", "replay", *permissions],
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
            "redirect_uris": [LOOPBACK],
            "grant_types": ["authorization_code", "refresh_token"],
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
        _service("notifications", "contacts"),
        _service("session"),
    ],
}


def seeds_json() -> str:
    """The seeds as `python -m identity seed` reads them."""
    return json.dumps(SEEDS)
