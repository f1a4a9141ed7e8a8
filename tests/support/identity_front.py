"""Identity's front door in this process: the real routes, issuing, keys and SQL, over ASGI, with a clock on a lever.

Redis is not behind it: `pushed` counts how often the routes asked for what was committed to be pushed.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx2
from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy import Row, select

from devstack.flow import Browser, OAuthClient
from identity import rest
from identity.forms import Forms
from identity.introspection import Introspector
from identity.issuing import Issuer, Lives
from identity.keyring import KeyRing, NewKey, generate
from identity.passwords import Passwords
from identity.publisher import Publisher
from identity.revocations import RevocationLog
from identity.sealing import SecretKeys
from identity.service import Accounts, NewClient, NewUser
from identity.storage import metadata, revocations, users
from identity.views import Views
from identity.web import Web
from servicekit.database import Database
from servicekit.http import create_app
from servicekit.metrics import Metrics

ISSUER = "http://localhost:8001"
PASSWORD = "correct-horse-battery-staple"
ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
ORDERS, IDENTITY = "urn:rescind:orders", "urn:rescind:identity"
LOOPBACK = "http://127.0.0.1:7777/callback"

_PERSONAL = ("openid", "profile", "email", "offline_access", "orders:read", "orders:write", "orders:admin")
_CODE = ("authorization_code", "refresh_token")
CLIENTS = (
    NewClient(
        "web",
        "Rescind web",
        hashlib.sha256(b"web-secret").hexdigest(),
        first_party=True,
        redirect_uris=["http://localhost:8000/auth/callback"],
        grant_types=_CODE,
        scopes=_PERSONAL,
        resources=[IDENTITY, ORDERS],
        refresh_without_offline=True,
    ),
    NewClient(
        "mobile",
        "Rescind mobile",
        first_party=True,
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=_CODE,
        scopes=_PERSONAL,
        resources=[IDENTITY, ORDERS],
    ),
    NewClient(
        "partner",
        "Partner Analytics",
        hashlib.sha256(b"partner-secret").hexdigest(),
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=_CODE,
        scopes=("openid", "profile", "orders:read", "offline_access"),
        resources=[IDENTITY, ORDERS],
    ),
    NewClient(
        "backoffice",
        "Back office",
        hashlib.sha256(b"backoffice-secret").hexdigest(),
        first_party=True,
        grant_types=("client_credentials",),
        scopes=("identity:admin", "orders:admin", "orders:read"),
        resources=[IDENTITY, ORDERS],
        permissions=("introspect_any", "revoke"),
    ),
    NewClient(
        "orders",
        "Orders",
        hashlib.sha256(b"orders-secret").hexdigest(),
        first_party=True,
        grant_types=("client_credentials",),
        resources=[IDENTITY],
        permissions=("introspect", "replay"),
    ),
)


@dataclass
class Clock:
    """The database clock, in milliseconds."""

    ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def forward(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


@dataclass
class Front:
    """Identity as a client meets it."""

    app: FastAPI
    http: httpx2.AsyncClient
    database: Database
    clock: Clock
    accounts: Accounts
    issuer: Issuer
    pushed: list[int] = field(default_factory=list)

    def browser(self) -> Browser:
        return Browser(self.http, ISSUER)

    def client(self, client_id: str, *, redirect_uri: str = LOOPBACK) -> OAuthClient:
        confidential = client_id not in ("mobile", "cli")
        if client_id == "web":
            redirect_uri = "http://localhost:8000/auth/callback"
        secret = f"{client_id}-secret" if confidential else None
        return OAuthClient(self.http, ISSUER, client_id, secret=secret, redirect_uri=redirect_uri)

    def user(self, email: str) -> Row[Any]:
        return self.database.run_sync(lambda tx: tx.execute(select(users).where(users.c.email == email)).one())

    def log(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Cause and entries of every revocation so far."""

        def work(tx: Any) -> list[tuple[str, list[dict[str, Any]]]]:
            rows = tx.execute(select(revocations.c.cause, revocations.c.entries).order_by(revocations.c.pos))
            return [(cause, entries) for cause, entries in rows]

        return self.database.run_sync(work)


class _Pushes:
    def __init__(self, pushed: list[int]) -> None:
        self._pushed = pushed

    async def publish_pending(self) -> None:
        self._pushed.append(1)

    beat_now = publish_pending


# Keys take 100 ms each to make, and tests need many databases.
_keys: list[NewKey] = []


def _a_key(used: list[int]) -> NewKey:
    used.append(1)
    while len(_keys) < len(used):
        _keys.append(generate())
    return _keys[len(used) - 1]


@asynccontextmanager
async def identity_front(database_url: str, *, lives: Lives | None = None) -> AsyncIterator[Front]:
    """An identity with the seeded people and clients, on a new database."""
    clock = Clock()
    database = Database(database_url, now=clock)
    try:
        metadata.create_all(database.engine)
        secret_keys = SecretKeys((("k1", secrets.token_bytes(32)),), entropy=secrets.token_bytes)
        used: list[int] = []
        keyring = KeyRing(secret_keys, now=database.now, leeway=5, spare_age=0, make_key=lambda: _a_key(used))
        log = RevocationLog(keyring, issuer=ISSUER, leeway=5, now=database.now, entropy=secrets.token_bytes)
        lives = lives or Lives()
        issuer = Issuer(ISSUER, lives, keyring, log, secret_keys, database.now, secrets.token_bytes)
        passwords = Passwords(
            entropy=secrets.token_bytes,
            hasher=PasswordHasher(memory_cost=8, time_cost=1, parallelism=1),
            waiting_limit=1000,
        )
        pushed: list[int] = []
        pushes = cast("Publisher", _Pushes(pushed))
        accounts = Accounts(database, log, pushes, passwords, secrets.token_bytes)
        hashed = passwords.hash_blocking(PASSWORD)

        def seed(tx: Any) -> None:
            log.found(tx, longest_life=lives.access_token * 1000)
            for email, roles in ((ALICE, ()), (BOB, ()), (ADMIN, ("admin",))):
                accounts.add_user(tx, NewUser(email, email.partition("@")[0].title(), hashed, roles))
            for client in CLIENTS:
                accounts.add_client(tx, client)

        database.run_sync(seed)
        introspector = Introspector(keyring, issuer=ISSUER, leeway=5, now=database.now)
        web = Web(
            database,
            issuer,
            accounts,
            passwords,
            introspector,
            Forms(secret_keys.form_keys),
            Views(),
            pushes.publish_pending,
        )
        app = create_app("identity", Metrics())
        rest.install(app, web)
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            yield Front(app, http, database, clock, accounts, issuer, pushed)
    finally:
        await database.dispose()
