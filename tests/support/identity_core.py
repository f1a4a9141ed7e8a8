"""Identity's parts without a server: real SQL, real keys, real Redis where a test gives one, the clock on a lever."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from argon2 import PasswordHasher
from sqlalchemy import Connection, Row, select, update

from identity.app import Parts, assemble
from identity.domain import AccessToken
from identity.keyring import NewKey, generate
from identity.passwords import Passwords
from identity.service import NewClient, NewUser
from identity.settings import Settings
from identity.storage import revocations, users
from rescind.denylist import Denylist
from rescind.messages import Entry
from support.schemas import prepare

ISSUER = "http://localhost:8001"
IDENTITY, ORDERS = "urn:rescind:identity", "urn:rescind:orders"
ALICE, ADMIN = "alice@example.com", "admin@example.com"
PASSWORD = "correct-horse-battery-staple"
NO_REDIS = "redis://127.0.0.1:1/0"
SECRET_KEYS = "k1:" + "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="

_PERSONAL = ("openid", "profile", "offline_access", "orders:read", "orders:write", "orders:admin", "identity:admin")
CLIENTS = (
    NewClient(
        "mobile",
        "Mobile",
        first_party=True,
        grant_types=("authorization_code", "refresh_token"),
        scopes=_PERSONAL,
        resources=(IDENTITY, ORDERS),
    ),
    NewClient(
        "other",
        "Another client",
        grant_types=("authorization_code", "refresh_token"),
        scopes=_PERSONAL,
        resources=(IDENTITY, ORDERS),
    ),
    NewClient(
        "backoffice",
        "Back office",
        grant_types=("client_credentials",),
        scopes=("identity:admin", "orders:read"),
        resources=(IDENTITY, ORDERS),
        permissions=("introspect_any", "revoke"),
    ),
    NewClient(
        "orders",
        "Orders",
        grant_types=("client_credentials",),
        resources=(IDENTITY,),
        permissions=("introspect", "replay"),
    ),
)

T = TypeVar("T")


@dataclass
class Clock:
    """The database clock, in milliseconds."""

    ms: int = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def forward(self, seconds: float) -> None:
        self.ms += round(seconds * 1000)


class KeyDrawer:
    """Keys take 100 ms each to make, and tests need many: each database gets the same ones in the same order."""

    _made: list[NewKey] = []  # noqa: RUF012  (shared on purpose)

    def __init__(self, begin: int = 0) -> None:
        self._taken = begin

    def __call__(self) -> NewKey:
        self._taken += 1
        while len(self._made) < self._taken:
            self._made.append(generate())
        return self._made[self._taken - 1]


@dataclass
class Core:
    """One identity process, as far as it knows no wire."""

    parts: Parts
    clock: Clock

    def tx(self, work: Callable[[Connection], T]) -> T:
        """Runs `work` in a transaction."""
        return self.parts.database.run_sync(work)

    def user(self, email: str = ALICE) -> Row[Any]:
        return self.tx(lambda tx: tx.execute(select(users).where(users.c.email == email)).one())

    def sign_in(self, email: str = ALICE) -> str:
        """A new login session's sid."""
        user = self.user(email)
        return self.tx(lambda tx: self.parts.issuer.open_session(tx, user.id, hard_gen_seen=user.hard_gen)).sid

    def code(self, sid: str, *, scope: str = "openid orders:read", client: str = "mobile") -> str:
        """A code for both audiences."""
        return self.tx(
            lambda tx: self.parts.issuer.issue_code(
                tx,
                session_id=sid,
                client_id=client,
                redirect_uri="http://127.0.0.1/callback",
                scope=scope,
                resources=[IDENTITY, ORDERS],
                nonce=None,
                code_challenge="x",
            )
        )

    def grant(self, sid: str | None = None, *, scope: str = "openid orders:read", client: str = "mobile") -> str:
        """A grant of alice's, by a code redeemed; its gid."""
        code = self.code(sid or self.sign_in(), scope=scope, client=client)
        return self.tx(lambda tx: self.parts.issuer.redeem_code(tx, code, client)).grant_id

    def access(self, gid: str, audience: str = ORDERS, scope: str | None = None) -> AccessToken:
        return self.tx(
            lambda tx: self.parts.issuer.issue_access_token(tx, grant_id=gid, audience=audience, scope=scope)
        )

    def of_client(self, client_id: str, audience: str = IDENTITY) -> AccessToken:
        return self.tx(lambda tx: self.parts.issuer.issue_access_token(tx, client_id=client_id, audience=audience))

    def refresh(self, gid: str) -> str:
        return self.tx(lambda tx: self.parts.issuer.issue_refresh_token(tx, gid))

    def is_living(self, token: AccessToken) -> bool:
        """What SQL says."""
        return self.tx(lambda tx: self.parts.introspector.living(tx, token.token)) is not None

    def log(self) -> list[Row[Any]]:
        """Every row of the log, in order."""
        return list(self.tx(lambda tx: tx.execute(select(revocations).order_by(revocations.c.pos)).all()))

    def denied(self, token: AccessToken) -> bool:
        """What a verifier says that holds the whole log and trusts the token's key."""
        denylist = Denylist()
        for row in self.log():
            for entry in row.entries:
                denylist.add(row.pos, Entry(**entry), row.cause)
        return denylist.match(keys_of_claims(token)) is not None

    def make_admin(self, email: str) -> None:
        self.tx(lambda tx: tx.execute(update(users).where(users.c.email == email).values(roles=["admin"])))


def keys_of_claims(token: AccessToken) -> Any:
    """What a denylist looks at, from the claims as they were signed."""
    from rescind.claims import Expectations, principal_from
    from rescind.denylist import keys_of

    claims = token.claims
    expected = Expectations(ISSUER, claims["aud"], leeway=5, max_life=3600)
    return keys_of(principal_from(claims, expected, claims["iat"]))


def settings(database_url: str, redis_url: str = NO_REDIS, **changes: Any) -> Settings:
    # Without Redis nobody publishes, so nobody waits for it.
    changes.setdefault("publish_wait_ms", 0 if redis_url == NO_REDIS else 250)
    return Settings(
        issuer=ISSUER,
        database_url=database_url,  # type: ignore[arg-type]  # pydantic makes the secret
        redis_url=redis_url,  # type: ignore[arg-type]
        secret_keys=SECRET_KEYS,  # type: ignore[arg-type]
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        **changes,
    )


@asynccontextmanager
async def core(
    database_url: str,
    redis_url: str = NO_REDIS,
    *,
    clock: Clock | None = None,
    keys: KeyDrawer | None = None,
    seeded: bool = True,
    **changes: Any,
) -> AsyncIterator[Core]:
    """One process on this database, which it brings up to date; `changes` are settings."""
    prepare(database_url, "identity")
    clock = clock or Clock()
    passwords = Passwords(
        entropy=secrets.token_bytes,
        hasher=PasswordHasher(memory_cost=8, time_cost=1, parallelism=1),
        threads=8,
        waiting_limit=1000,
    )
    parts = assemble(
        settings(database_url, redis_url, **changes), now=clock, make_key=keys or KeyDrawer(), passwords=passwords
    )
    try:
        await parts.found()
        if seeded:
            hashed = passwords.hash_blocking(PASSWORD)

            def seed(tx: Connection) -> None:
                for email, roles in ((ALICE, ()), (ADMIN, ("admin",))):
                    parts.accounts.add_user(tx, NewUser(email, email.partition("@")[0].title(), hashed, roles))
                for client in CLIENTS:
                    parts.accounts.add_client(tx, client)

            parts.database.run_sync(seed)
        yield Core(parts, clock)
    finally:
        await parts.close()
