"""Identity's front door in this process: the real routes, issuing, keys and SQL, over ASGI, with a clock on a lever.

Redis is not behind it: `pushed` counts how often the routes asked for what was committed to be pushed.
"""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
from argon2 import PasswordHasher
from fastapi import FastAPI
from sqlalchemy import Connection, Row, select, update

from devstack.flow import Browser, OAuthClient
from devstack.seeds import DEVICE_CODE, NOTIFICATIONS, TOKEN_EXCHANGE
from identity.app import Parts, assemble, build
from identity.keyring import NewKey, generate
from identity.passwords import Passwords
from identity.service import Accounts, NewClient, NewUser
from identity.settings import Settings
from identity.storage import clients, revocations, users
from rescind import Clock as RescindClock
from rescind import Feed, Guard, StaticKeySet, Verifier
from rescind.testing import MemoryLog, TokenMint
from servicekit.database import Database
from support.schemas import prepare

ISSUER = "http://localhost:8001"
PASSWORD = "correct-horse-battery-staple"
ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
ORDERS, IDENTITY = "urn:rescind:orders", "urn:rescind:identity"
LOOPBACK = "http://127.0.0.1:7777/callback"

_PERSONAL = (
    "openid",
    "profile",
    "email",
    "offline_access",
    "orders:read",
    "orders:write",
    "orders:admin",
    "notifications:read",
)
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
        resources=[IDENTITY, ORDERS, NOTIFICATIONS],
    ),
    NewClient(
        "partner",
        "Partner Analytics",
        hashlib.sha256(b"partner-secret").hexdigest(),
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=_CODE,
        scopes=("openid", "profile", "orders:read", "offline_access"),
        resources=[IDENTITY, ORDERS],
        asks_always=True,
    ),
    NewClient(
        "calendar",
        "Calendar",
        hashlib.sha256(b"calendar-secret").hexdigest(),
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=_CODE,
        scopes=("openid", "profile", "orders:read", "orders:write", "offline_access"),
        resources=[IDENTITY, ORDERS],
    ),
    NewClient(
        "cli",
        "Rescind at the command line",
        first_party=True,
        grant_types=(DEVICE_CODE, "refresh_token"),
        scopes=(*_PERSONAL, "identity:admin"),
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
    NewClient(
        "notifications",
        "Notifications",
        hashlib.sha256(b"notifications-secret").hexdigest(),
        first_party=True,
        grant_types=("client_credentials", TOKEN_EXCHANGE),
        resources=[IDENTITY],
        permissions=("introspect", "replay"),
        exchange_scopes=("orders:read",),
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
    parts: Parts
    pushed: list[int] = field(default_factory=list)
    issuer: str = ISSUER

    def browser(self) -> Browser:
        return Browser(self.http, ISSUER)

    def client(self, client_id: str, *, redirect_uri: str = LOOPBACK) -> OAuthClient:
        confidential = client_id not in ("mobile", "cli")
        if client_id == "web":
            redirect_uri = "http://localhost:8000/auth/callback"
        secret = f"{client_id}-secret" if confidential else None
        return OAuthClient(self.http, ISSUER, client_id, secret=secret, redirect_uri=redirect_uri)

    @staticmethod
    def secret_hash(client_id: str) -> str:
        """What is stored of the secret that `client` shows for a client that a test registers itself."""
        return hashlib.sha256(f"{client_id}-secret".encode()).hexdigest()

    @staticmethod
    def register_exchange(tx: Connection, client_id: str, scopes: Sequence[str]) -> None:
        """Lets a client get these scopes by token exchange."""
        tx.execute(update(clients).where(clients.c.id == client_id).values(exchange_scopes=list(scopes)))

    @staticmethod
    def make_public(tx: Connection, client_id: str) -> None:
        """Takes a client's secret away."""
        tx.execute(update(clients).where(clients.c.id == client_id).values(secret_hash=None))

    def user(self, email: str) -> Row[Any]:
        return self.database.run_sync(lambda tx: tx.execute(select(users).where(users.c.email == email)).one())

    async def guard(self, audience: str) -> Guard:
        """A verifier that holds this identity's keys and no revocations."""
        keys = self.database.run_sync(self.parts.keyring.accepted_kids)

        def publish(tx: Connection) -> dict[str, Any]:
            return {kid: self.parts.keyring.public_key(tx, "access", kid) for kid in keys}

        def now() -> float:
            return self.clock.ms / 1000

        public = self.database.run_sync(publish)
        log = MemoryLog(TokenMint(ISSUER), now=now)
        log.kids = frozenset(keys)
        feed = Feed(ISSUER, log.mint.log_keys, log, log, max_staleness=3600, clock=RescindClock(now, now))
        await feed.catch_up()
        verifier = Verifier(ISSUER, audience, StaticKeySet(public), feed, clock=RescindClock(now, now))
        return Guard(verifier, feed)

    def log(self) -> list[tuple[str, list[dict[str, Any]]]]:
        """Cause and entries of every revocation so far."""

        def work(tx: Any) -> list[tuple[str, list[dict[str, Any]]]]:
            rows = tx.execute(select(revocations.c.cause, revocations.c.entries).order_by(revocations.c.pos))
            return [(cause, entries) for cause, entries in rows]

        return self.database.run_sync(work)


# Keys take 100 ms each to make, and tests need many databases.
_keys: list[NewKey] = []


def _keys_drawn_in_turn() -> Callable[[], NewKey]:
    drawn = iter(range(1000))

    def draw() -> NewKey:
        number = next(drawn)
        while len(_keys) <= number:
            _keys.append(generate())
        return _keys[number]

    return draw


def front_settings(database_url: str, **changes: Any) -> Settings:
    """Settings of an identity behind which there is no Redis, unless `changes` name one."""
    values = {
        "issuer": ISSUER,
        "database_url": database_url,
        "redis_url": "redis://127.0.0.1:1",
        "secret_keys": "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "publish_wait_ms": 0,
        "http_port": 0,
        "grpc_port": 0,
        "metrics_port": 0,
    }
    return Settings(**(values | changes))


def quick_passwords() -> Passwords:
    """Argon2id at next to no cost: for tests that are not about it."""
    hasher = PasswordHasher(memory_cost=8, time_cost=1, parallelism=1)
    return Passwords(entropy=secrets.token_bytes, hasher=hasher, waiting_limit=1000)


async def seed(parts: Parts) -> None:
    """Adds the people and the clients."""
    hashed = parts.passwords.hash_blocking(PASSWORD)

    def work(tx: Connection) -> None:
        for email, roles in ((ALICE, ()), (BOB, ()), (ADMIN, ("admin",))):
            parts.accounts.add_user(tx, NewUser(email, email.partition("@")[0].title(), hashed, roles))
        for client in CLIENTS:
            parts.accounts.add_client(tx, client)

    await parts.database.run(work)


@asynccontextmanager
async def identity_front(
    database_url: str, *, elsewhere: httpx2.AsyncBaseTransport | None = None, **changes: Any
) -> AsyncIterator[Front]:
    """An identity with the seeded people and clients, on a new database; `changes` are settings."""
    prepare(database_url, "identity")
    clock = Clock()
    parts = assemble(
        front_settings(database_url, **changes),
        now=clock,
        make_key=_keys_drawn_in_turn(),
        passwords=quick_passwords(),
    )
    pushed: list[int] = []

    async def push() -> None:
        pushed.append(1)

    parts.publisher.publish_pending = push  # type: ignore[method-assign]
    try:
        await parts.found()
        await seed(parts)
        app = build(parts.settings, parts=replace(parts, elsewhere=elsewhere)).http
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=ISSUER) as http:
            yield Front(app, http, parts.database, clock, parts.accounts, parts, pushed)
    finally:
        await parts.close()
