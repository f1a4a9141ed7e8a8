"""For tests of services that use this library: tokens and messages with real signatures.

Authentication is never switched off in a test. `TokenMint` is an issuer in memory: it signs what you ask for, also what
no issuer should, and its keys verify it. `MemoryLog` is a `LogSource` and a `ReplaySource` over a list.
"""

import asyncio
import base64
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from rescind.claims import Expectations, Principal, principal_from
from rescind.clock import Clock
from rescind.feed import Feed
from rescind.guard import Guard
from rescind.keys import StaticKeySet
from rescind.messages import (
    MESSAGE_TYPE,
    Entry,
    Heartbeat,
    RevocationMessage,
    claims_of,
    digest,
    genesis,
)
from rescind.verifier import Verifier


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:  # noqa: ARG001  (the name is the cache's key)
    """A private key of that name: made at first use, the same for the rest of the process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def jwk_of(key: rsa.RSAPrivateKey, kid: str, **members: Any) -> dict[str, Any]:
    """The public JWK of a key; `members` are added or replaced."""
    numbers = key.public_key().public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": kid,
        "n": _unsigned(numbers.n),
        "e": _unsigned(numbers.e),
        **members,
    }


def _unsigned(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


class ManualClock:
    """Time that passes when a test says so. `wall` and `monotonic` are seconds and may be set apart from each other."""

    def __init__(self, wall: float = 2_000_000_000.0) -> None:
        self.wall = wall
        self.monotonic = 1000.0

    def advance(self, seconds: float) -> None:
        """Lets time pass on both clocks."""
        self.wall += seconds
        self.monotonic += seconds

    @property
    def clock(self) -> Clock:
        """For whoever reads it."""
        return Clock(wall=lambda: self.wall, monotonic=lambda: self.monotonic)


class TokenMint:
    """An issuer in memory. `now` gives seconds since the epoch."""

    def __init__(
        self,
        issuer: str = "https://issuer.test",
        *,
        kid: str = "access-1",
        log_kid: str = "log-1",
        now: Callable[[], float] = time.time,
    ) -> None:
        self.issuer = issuer
        self.kid = kid
        self.log_kid = log_kid
        self._now = now
        self._numbers = itertools.count(1)

    @property
    def keys(self) -> StaticKeySet:
        """The keys that verify its access tokens."""
        return StaticKeySet({self.kid: rsa_key(self.kid).public_key()})

    @property
    def log_keys(self) -> StaticKeySet:
        """The keys that verify its messages about revocations."""
        return StaticKeySet({self.log_kid: rsa_key(self.log_kid).public_key()})

    def claims(self, audience: str, *, scope: str = "", life: int = 900, **changes: Any) -> dict[str, Any]:
        """The claims of a good token for a person; a change to None leaves the claim out."""
        now = int(self._now())
        claims = {
            "iss": self.issuer,
            "sub": "usr_alice",
            "aud": audience,
            "client_id": "mobile",
            "iat": now,
            "exp": now + life,
            "jti": f"jti-{next(self._numbers)}",
            "scope": scope,
            "cgen": 1,
            "gid": "gid_1",
            "gen": 1,
            "auth_time": now,
            "sid": "sid_1",
        }
        claims.update(changes)
        return {name: value for name, value in claims.items() if value is not None}

    def access_token(self, audience: str, *, scope: str = "", life: int = 900, **changes: Any) -> str:
        """A signed access token (RFC 9068) for a person; `changes` are claims, None leaves one out."""
        return self.sign(self.claims(audience, scope=scope, life=life, **changes))

    def service_token(self, audience: str, *, client_id: str = "backoffice", scope: str = "", **changes: Any) -> str:
        """A signed access token of a client that speaks for itself."""
        person = dict.fromkeys(("gid", "gen", "auth_time", "sid"))
        return self.access_token(
            audience, scope=scope, **{"sub": f"svc_{client_id}", "client_id": client_id, **person, **changes}
        )

    def sign(
        self, claims: Mapping[str, Any], *, headers: Mapping[str, Any] | None = None, key: str | None = None
    ) -> str:
        """Signs any claims under any header; `key` names another private key (`rsa_key`)."""
        header = {"typ": "at+jwt", "kid": self.kid, **(headers or {})}
        return jwt.encode(dict(claims), rsa_key(key or self.kid), algorithm="RS256", headers=header)

    def message(self, message: RevocationMessage | Heartbeat, *, key: str | None = None) -> bytes:
        """Signs a revocation or a heartbeat as identity does."""
        jti = f"{message.log}:{next(self._numbers)}"
        claims = claims_of(message, self.issuer, jti)
        headers = {"typ": MESSAGE_TYPE, "kid": self.log_kid}
        return jwt.encode(claims, rsa_key(key or self.log_kid), algorithm="RS256", headers=headers).encode()


def principal_of(mint: TokenMint, claims: Mapping[str, Any], audience: str = "urn:rescind:test") -> Principal:
    """The principal that a verifier makes of a person's token with these claims (None leaves one out)."""
    full = mint.claims(audience, **claims)
    return principal_from(full, Expectations(mint.issuer, audience, leeway=5, max_life=3600), full["iat"])


class MemoryLog:
    """A whole revocation log in memory: what identity and Redis are to a verifier.

    `revoke` appends and pushes, `beat` pushes a heartbeat; `withhold` and `hidden` are the channel's part in an attack.
    """

    def __init__(self, mint: TokenMint, *, log: str = "log_test", now: Callable[[], float] = time.time) -> None:
        self.mint = mint
        self.log = log
        self.messages: dict[int, bytes] = {}
        self.head = 0
        self.head_hash = genesis(log)
        self.floor = 1
        self.kids = frozenset({mint.kid})
        self.withhold = False  # pushes go nowhere
        self.hidden: set[int] = set()  # positions that the log does not give
        self.replaying = True  # identity answers
        self.replays = 0
        self.kept: bytes | None = None  # the heartbeat that a new subscriber gets at once
        self._now = now
        self._last_at = 0
        self._subscribers: set[asyncio.Queue[bytes]] = set()

    def revoke(self, *entries: Entry, cause: str = "TEST") -> bytes:
        """Commits a revocation and pushes it."""
        self.head += 1
        message = self.mint.message(
            RevocationMessage(self.log, self.head, self.head_hash, entries, cause, int(self._now() * 1000))
        )
        self.head_hash = digest(message)
        self.messages[self.head] = message
        self._push(message)
        return message

    def heartbeat(self, nonce: str = "") -> bytes:
        """A signed heartbeat of this moment."""
        self._last_at = max(self._last_at + 1, int(self._now() * 1000))
        return self.mint.message(
            Heartbeat(self.log, self.head, self.head_hash, self.floor, self.kids, self._last_at, nonce)
        )

    def beat(self) -> bytes:
        """Pushes a heartbeat."""
        message = self.kept = self.heartbeat()
        self._push(message)
        return message

    def _push(self, message: bytes) -> None:
        if not self.withhold:
            for queue in self._subscribers:
                queue.put_nowait(message)

    async def subscribe(self) -> AsyncGenerator[bytes | None, None]:
        """Pushed messages as they come."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._subscribers.add(queue)
        try:
            kept = self.kept
            yield None
            if kept is not None:
                yield kept
            while True:
                yield await queue.get()
        finally:
            self._subscribers.discard(queue)

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        """Up to `limit` messages after `after`, in order, without those that are hidden."""
        if log != self.log:
            return []
        first = max(after + 1, self.floor)
        positions = [pos for pos in range(first, self.head + 1) if pos not in self.hidden]
        return [self.messages[pos] for pos in positions[:limit]]

    async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
        """All messages after `after`, or from the floor, then a heartbeat with `nonce`."""
        if not self.replaying:
            raise ConnectionError("identity is down")
        self.replays += 1
        first = max(after + 1 if log == self.log and after <= self.head else 1, self.floor)
        for pos in range(first, self.head + 1):
            yield self.messages[pos]
        yield self.heartbeat(nonce)


async def fresh_guard(mint: TokenMint, audience: str, log: MemoryLog | None = None, **verifier: Any) -> Guard:
    """A guard for `audience` that knows everything of `log`, for tests of an app; it is not running.

    To revoke: `log.revoke(...)`, then `await guard.feed.catch_up()`.
    """
    log = log or MemoryLog(mint)
    feed = Feed(mint.issuer, mint.log_keys, log, log, max_staleness=3600)
    await feed.catch_up()
    return Guard(Verifier(mint.issuer, audience, mint.keys, feed, **verifier), feed)
