"""Wake-ups between replicas, in memory and over Pub/Sub: heard by the others, never by oneself, and silence shows."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from redis.asyncio import Redis

from orders.domain import OrderId, Owner
from orders.wakeups import CHANNEL, Hint, MemoryWakeups, RedisWakeups, Wakeups, WakeupsLost
from support.eventually import eventually

HINT = Hint(Owner("usr_alice"), OrderId("ord_" + "A" * 22))
OTHER = Hint(Owner("usr_bob"), OrderId("ord_" + "B" * 22))
Break = Callable[[], Awaitable[None]]


class Room:
    """Two replicas that hear each other, and the means to part them."""

    def __init__(self, one: Wakeups, other: Wakeups, part: Break) -> None:
        self.one = one
        self.other = other
        self.part = part


@pytest.fixture(params=["memory", "embedded", "container"])
async def room(request: pytest.FixtureRequest) -> AsyncIterator[Room]:
    if request.param == "memory":
        queues: list[asyncio.Queue[Hint | WakeupsLost]] = []

        async def lose() -> None:
            for queue in queues:
                queue.put_nowait(WakeupsLost("on purpose"))

        yield Room(MemoryWakeups(queues), MemoryWakeups(queues), lose)
        return
    fixture = "embedded_redis_url" if request.param == "embedded" else "redis_container_url"
    url = str(request.getfixturevalue(fixture))
    one, other = RedisWakeups(url, beat=0.1), RedisWakeups(url, beat=0.1, quiet=0.5)
    async with Redis.from_url(url) as redis:

        async def freeze() -> None:
            await redis.client_pause(3_000)

        yield Room(one, other, freeze)
    await one.aclose()
    await other.aclose()


async def _next(hints: AsyncGenerator[Hint | None, None]) -> Hint | None:
    async with asyncio.timeout(20):
        return await anext(hints)


async def test_the_others_hear_and_oneself_does_not(room: Room) -> None:
    async with aclosing(room.one.listen()) as mine, aclosing(room.other.listen()) as theirs:
        assert await _next(mine) is None
        assert await _next(theirs) is None
        await room.one.send([HINT, OTHER])
        assert [await _next(theirs), await _next(theirs)] == [HINT, OTHER]
        await room.other.send([OTHER])
        assert await _next(mine) == OTHER, "and not what it said itself before"


async def test_who_hears_nothing_any_more_is_told(room: Room) -> None:
    async with aclosing(room.other.listen()) as theirs:
        assert await _next(theirs) is None
        await room.part()
        with pytest.raises(WakeupsLost):
            await _next(theirs)


async def test_sending_to_nobody_is_no_trouble(room: Room) -> None:
    await room.one.send([HINT])
    await room.one.send([])


async def test_what_is_no_hint_is_not_one(redis_url: str) -> None:
    wakeups = RedisWakeups(redis_url)
    async with Redis.from_url(redis_url) as redis, aclosing(wakeups.listen()) as hints:
        assert await _next(hints) is None

        async def published() -> bool:
            for bad in ("", "x", "a b c", "me usr_x ord_short", b"\xff\xfe \x00", "a" * 100_000):
                await redis.publish(CHANNEL, bad)
            await redis.publish(CHANNEL, f"other {HINT.owner} {HINT.order_id}")
            return True

        await eventually(published, within=5)
        assert await _next(hints) == HINT
    await wakeups.aclose()


async def test_nobody_there_is_told_as_such() -> None:
    wakeups = RedisWakeups("redis://127.0.0.1:1/0")
    with pytest.raises(WakeupsLost):
        await wakeups.send([HINT])
    async with aclosing(wakeups.listen()) as hints:
        with pytest.raises(WakeupsLost):
            await _next(hints)
    await wakeups.aclose()
