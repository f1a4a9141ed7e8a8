"""People, clients and goods of the embedded run and the compose demo. Never in production: their secrets are public."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

PASSWORD = "correct-horse-battery-staple"  # noqa: S105  (printed by `make run`: it protects nothing)
ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
LOOPBACK = "http://127.0.0.1/callback"  # on any port (RFC 8252 section 7.3)

WEB = "http://localhost:8000"  # where people open the web app
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
            # It has a key too, made for each folder (see client_key): `seeds_json` adds the public half as "jwks". With
            # it the session service signs instead of showing the secret; both work.
            "post_logout_redirect_uris": ["http://localhost:8000/"],
            "backchannel_logout_uri": "http://localhost:8000/auth/backchannel-logout",
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
        # It holds its people's tokens for every service, and asks about each when it is not fresh.
        _service("session", "introspect_any"),
        {
            "id": "gateway",
            "name": "A gateway that resolves people's cookies",
            "secret": client_secret("gateway"),
            "first_party": True,
            "grant_types": ["client_credentials"],
            "resources": [SESSION],
        },
    ],
}


# A tea shop. Prices in minor units; of the last there are only five.
CATALOGUE: dict[str, Any] = {
    "currency": "EUR",
    "products": [
        {"sku": "teapot", "name": "Teapot, cast iron, 0.8 l", "price": 5900, "stock": 1000000},
        {"sku": "kettle", "name": "Gooseneck kettle", "price": 8900, "stock": 100000},
        {"sku": "cup", "name": "Cup without a handle", "price": 1250, "stock": 1000000},
        {"sku": "infuser", "name": "Infuser, fine mesh", "price": 990, "stock": 100000},
        {"sku": "chasen", "name": "Bamboo whisk for matcha", "price": 2200, "stock": 20000},
        {"sku": "tea.sencha", "name": "Sencha from Uji, 100 g", "price": 1480, "stock": 1000000},
        {"sku": "tea.assam", "name": "Assam, second flush, 100 g", "price": 890, "stock": 1000000},
        {"sku": "tea.oolong", "name": "Tie Guan Yin oolong, 50 g", "price": 1690, "stock": 100000},
        {"sku": "tea.rooibos", "name": "Rooibos with orange peel, 100 g", "price": 640, "stock": 100000},
        {"sku": "tea.matcha", "name": "Ceremonial matcha, 30 g", "price": 2890, "stock": 50000},
        {"sku": "honey", "name": "Lime blossom honey, 250 g", "price": 790, "stock": 50000},
        {"sku": "tea.pu-erh-1988", "name": "Pu-erh of 1988, one cake", "price": 24900, "stock": 5},
    ],
}


def seeds_json(web_jwks: Mapping[str, Any], web: str = WEB) -> str:
    """The seeds as `python -m identity seed` reads them: the web app is at `web`, and signs with `web_jwks`."""
    clients = [client | {"jwks": dict(web_jwks)} if client["id"] == "web" else client for client in SEEDS["clients"]]
    return json.dumps(SEEDS | {"clients": clients}).replace(WEB, web)


def catalogue_json() -> str:
    """The catalogue as `python -m orders seed` reads it; `deploy/catalogue.json` says the same for compose."""
    return json.dumps(CATALOGUE)
