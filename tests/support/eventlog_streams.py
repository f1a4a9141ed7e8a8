"""Every stream there is, for the exams that all must pass: in memory, the embedded Valkey, Redis in a container."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from redis.asyncio import Redis

from eventlog.memory_stream import MemoryStream
from eventlog.redis_stream import RedisStream
from eventlog.stream import Delays, Delivery, Group, Stream

NAME = "tests.events"
AT_ONCE = Delays(first=0, longest=0, lease=0)
NEVER = Delays(first=3600, longest=3600, lease=3600)
ONLY_PARKED = Delays(first=0, longest=0, lease=3600)
ONLY_ABANDONED = Delays(first=3600, longest=3600, lease=0)


class Subject:
    """A stream and the means to lose it."""

    def __init__(self, stream: Stream, lose: Callable[[], Awaitable[None]]) -> None:
        self.stream = stream
        self.lose = lose

    async def fill(self, count: int, after: int = 0) -> None:
        """Appends that many entries on top of `after`."""
        entries = [(n, f"event {n}".encode()) for n in range(after + 1, after + count + 1)]
        assert await self.stream.append(after, entries) == after + count

    async def joined(self, name: str = "readers") -> Group:
        """A group that is there."""
        group = self.stream.group(name)
        await group.join()
        return group


@pytest.fixture(params=["memory", "embedded", "container"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """An empty stream, of each kind in turn."""
    if request.param == "memory":
        memory = MemoryStream(NAME)

        async def lose_memory() -> None:
            memory.lose()

        yield Subject(memory, lose_memory)
        return
    fixture = "embedded_redis_url" if request.param == "embedded" else "redis_container_url"
    url = str(request.getfixturevalue(fixture))
    stream = RedisStream(url, NAME)
    async with Redis.from_url(url) as redis:

        async def lose() -> None:
            await redis.flushall()

        yield Subject(stream, lose)
    await stream.aclose()


def positions(deliveries: Sequence[Delivery]) -> list[int]:
    """Which entries they are."""
    return [delivery.position for delivery in deliveries]
