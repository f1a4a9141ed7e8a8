"""No cancellation is lost, whichever turn of the event loop it comes in, on a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from rescind.redis_client import heed_cancellation, redis_client

TURNS = 40  # of the event loop, in each of which a command is cancelled once; a PING takes about ten


@pytest.fixture(params=["client", "pool"])
async def client(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator["Redis"]:
    """One of ours; one on a pool of another kind."""
    if request.param == "client":
        made = redis_client(redis_url, timeout=5, connect_timeout=5)
    else:
        made = Redis.from_pool(heed_cancellation(BlockingConnectionPool.from_url(redis_url, socket_timeout=5)))
    await made.ping()
    yield made
    await made.aclose()


@pytest.mark.parametrize("turns", range(TURNS))
async def test_a_loop_that_asks_redis_ends_when_it_is_told_to(client: "Redis", turns: int) -> None:
    async def asking() -> None:
        while True:
            await client.ping()

    task = asyncio.create_task(asking())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=2)
    ended = task.done()
    while not task.done():  # or the loop would go on beside the next tests
        task.cancel()
        await asyncio.sleep(0)
    assert ended
    assert task.cancelled()
    assert await client.echo("the next command gets its own answer") == b"the next command gets its own answer"


async def test_a_deadline_is_a_deadline(client: "Redis") -> None:
    """`asyncio.timeout` cancels too: no command may come back as if there had been time."""
    for _ in range(50):
        with pytest.raises(TimeoutError):
            await _asked_for_nothing(client)


async def _asked_for_nothing(client: "Redis") -> None:
    async with asyncio.timeout(0):
        for _ in range(100):
            await client.ping()
