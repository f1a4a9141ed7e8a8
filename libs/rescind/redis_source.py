"""Push and log over Redis: Pub/Sub for speed, a Stream for what was missed.

Two clients, each with limits of its own: a subscriber may wait for ever, a read may not. redis-py re-subscribes in
silence after a restart and gives None for ever from a server that is frozen, so this source says whenever a
subscription is new, and gives up a connection on which nothing has come for `dead_after` seconds: identity's heartbeat
comes every second.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from rescind.messages import REDIS_CHANNEL, REDIS_FIELD, REDIS_HEARTBEAT_KEY, REDIS_STREAM_PREFIX
from rescind.redis_client import redis_client

_POLL = 1.0  # seconds a subscriber waits in one call; only bounds how late `dead_after` is noticed


class RedisSource:
    """A `LogSource` on one Redis. `url` as redis-py takes it; times are seconds."""

    def __init__(self, url: str, *, timeout: float = 1.0, dead_after: float = 5.0) -> None:
        self._dead_after = dead_after
        self._timeout = timeout
        self._reads = redis_client(url, timeout=timeout, connect_timeout=timeout)
        self._pushes = redis_client(url, timeout=None, connect_timeout=timeout)

    async def subscribe(self) -> AsyncGenerator[bytes | None, None]:
        """Pushed messages; None first, and whenever the subscription is new; then the last heartbeat that was kept.

        Raises:
            redis.RedisError, OSError, TimeoutError: the connection could not be made, broke, or has gone quiet.
        """
        pubsub = self._pushes.pubsub()
        try:
            async with asyncio.timeout(self._timeout):
                await pubsub.subscribe(REDIS_CHANNEL)
            quiet_since = time.monotonic()
            while True:
                message = await pubsub.get_message(timeout=_POLL)
                if message is None:
                    if time.monotonic() - quiet_since > self._dead_after:
                        raise TimeoutError("no heartbeat on this connection")
                    continue
                quiet_since = time.monotonic()
                if message["type"] == "subscribe":
                    kept = await self._reads.get(REDIS_HEARTBEAT_KEY)
                    yield None
                    if isinstance(kept, bytes):
                        yield kept
                elif message["type"] == "message":
                    yield message["data"]
        finally:
            with contextlib.suppress(Exception):  # it is being given up: nothing to save
                async with asyncio.timeout(self._timeout):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        """Up to `limit` messages after `after`, in order.

        Raises:
            redis.RedisError, OSError: Redis did not answer in time.
        """
        entries = await self._reads.xrange(f"{REDIS_STREAM_PREFIX}{log}", min=f"({after}-0", count=limit) or []
        messages = [(fields or {}).get(REDIS_FIELD.encode()) for _, fields in entries]
        # What is no message of ours comes out as a gap, and a gap is asked for elsewhere.
        return [message for message in messages if isinstance(message, bytes)]

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._reads.aclose()
        await self._pushes.aclose()
