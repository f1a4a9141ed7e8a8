"""redis-py's client as everything here uses it: no retries of its own, and no cancellation lost.

On Python 3.11 redis-py writes through `asyncio.wait_for`, which forgets a cancellation that comes in the very turn of
the event loop in which the write ends (CPython issue 86296, mended in 3.12). The task then goes on as if nobody had
told it to stop, and whoever waits for its end, a `TaskGroup` say, waits for ever. `heed_cancellation` mends that where
it happens, so that no loop above has to think of it.
"""

import asyncio
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

Pool = TypeVar("Pool", bound="ConnectionPool")


def redis_client(url: str, *, timeout: float | None, connect_timeout: float, **options: Any) -> "Redis":
    """A client of its own pool; connects when first used. Close it with `aclose`.

    No retries: each caller has a loop that comes again, or somebody who waits for the failure. `timeout` is the seconds
    in which Redis answers a command (None: no limit), `connect_timeout` those in which it takes a connection; `options`
    are redis-py's.
    """
    pool = ConnectionPool.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis.from_pool(heed_cancellation(pool))


def heed_cancellation(pool: Pool) -> Pool:
    """The same pool, whose connections, none of which is made yet, lose no cancellation."""
    connection_class: Any = pool.connection_class
    pool.connection_class = _heeding(connection_class)
    return pool


@cache
def _heeding(connection_class: Any) -> Any:
    # mypy takes no base that is chosen when the program runs; here the URL chooses it: TCP, TLS or a local socket.
    class Heeding(connection_class):  # type: ignore[misc]
        async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
            task = asyncio.current_task()
            before = task.cancelling() if task else 0
            await super().send_packed_command(command, check_health)
            if task and task.cancelling() > before:
                await self.disconnect(nowait=True)  # nobody will read the answer
                raise asyncio.CancelledError

    return Heeding
