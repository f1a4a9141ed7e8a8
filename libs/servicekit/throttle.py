"""How often somebody may try: counted in Redis, in memory when Redis does not answer, and never not at all.

What counts is named by the caller: an account and an address, a client and an address. Names are digests under a key of
ours, so Redis holds no e-mail address. An attempt is counted *before* it is made, atomically, so that many at once are
not let through together.

While Redis is down each process counts for itself: with n replicas somebody has n times the attempts, and a process
that starts anew has forgotten. That is worse than Redis, and better than refusing everybody or nobody.
"""

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from rescind.redis_client import heed_cancellation
from servicekit.errors import Kind, ServiceError

TIMEOUT = 0.25  # seconds that Redis may take; a person waits behind it
AVOID = 3.0  # seconds that Redis is not asked again after it did not answer
T = TypeVar("T")
_log = structlog.get_logger("servicekit.throttle")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `amount` in any `seconds`."""

    name: str
    amount: int
    seconds: int

    @property
    def item(self) -> RateLimitItem:
        """As `limits` writes it."""
        return RateLimitItemPerSecond(self.amount, self.seconds, namespace=f"rescind:{self.name}")


class TooMany(ServiceError):
    """Somebody tried too often. It says when to come back, and nothing about what was tried."""

    def __init__(self, retry_after: float) -> None:
        minutes = math.ceil(retry_after / 60)
        when = f"in {math.ceil(retry_after)} seconds" if retry_after < 90 else f"in {minutes} minutes"
        super().__init__(
            Kind.RATE_LIMITED,
            "TOO_MANY_ATTEMPTS",
            f"Too many attempts. Please try again {when}.",
            retry_after=retry_after,
        )


class Throttle:
    """Counts attempts. One for a process."""

    def __init__(self, redis_url: str, key: bytes, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`key` makes the names unreadable. Nothing connects yet."""
        # A pool of its own, which fails at once: this is the way to every sign-in.
        pool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=16,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
        )
        self._pool = heed_cancellation(pool)
        storage = RedisStorage(
            "async+redis://of.the.pool:6379",
            implementation="redispy",
            key_prefix="rescind:limits",
            connection_pool=pool,  # type: ignore[arg-type]  # passed on to redis-py as it is
        )
        self._shared = MovingWindowRateLimiter(storage)
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._key = key
        self._clock = clock
        self._avoid_until = -math.inf

    async def take(self, limit: Limit, *who: str) -> None:
        """Counts one attempt of `who`.

        Raises:
            TooMany: that would be more than there may be; it is not counted.
        """
        name = self._name(who)
        if not await self._ask(lambda limiter: limiter.hit(limit.item, name)):
            raise await self._too_many(limit, name)

    async def check(self, limit: Limit, *who: str) -> None:
        """Returns when `who` has an attempt left; counts nothing.

        Raises:
            TooMany: there is none left.
        """
        name = self._name(who)
        if not await self._ask(lambda limiter: limiter.test(limit.item, name)):
            raise await self._too_many(limit, name)

    async def count(self, limit: Limit, *who: str) -> None:
        """Counts one failure of `who`, which has happened already; never refuses."""
        name = self._name(who)
        await self._ask(lambda limiter: limiter.hit(limit.item, name))

    async def forget(self, limit: Limit, *who: str) -> None:
        """Forgets the attempts of `who`, who has shown that they were honest."""
        name = self._name(who)
        await self._ask(lambda limiter: limiter.clear(limit.item, name))

    async def close(self) -> None:
        """Closes the connections."""
        await self._pool.disconnect()

    async def _too_many(self, limit: Limit, name: str) -> TooMany:
        stats = await self._ask(lambda limiter: limiter.get_window_stats(limit.item, name))
        return TooMany(min(max(1.0, stats.reset_time - time.time()), limit.seconds))

    async def _ask(self, call: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T:
        if self._clock() >= self._avoid_until:
            try:
                async with asyncio.timeout(2 * TIMEOUT):
                    return await call(self._shared)
            except (RedisError, OSError, TimeoutError) as error:
                self._avoid_until = self._clock() + AVOID
                _log.warning("limits_counted_here", failure=type(error).__name__)
        return await call(self._own)

    def _name(self, who: tuple[str, ...]) -> str:
        # Lengths go in, so that no two lists of names are one text.
        text = "".join(f"{len(part)}:{part}" for part in who)
        return hmac.digest(self._key, text.encode(), hashlib.sha256).hex()[:32]
