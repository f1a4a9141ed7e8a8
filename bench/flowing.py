"""How many events a second go from orders' outbox into people's inboxes, and how many the same Redis could carry.

Beside it, plain redis-py: one that writes (XADD, pipelined as the relay batches) and one that reads (XREADGROUP, XACK),
in one process, which keep nothing anywhere else.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from redis.asyncio import Redis

from bench.figures import Figure, Say, Scale, counted
from bench.system import System
from bench.telling import Shop, shop_of
from eventlog.relay import Pace

_PERSONS = 50  # inboxes that the events are spread over
_KEY, _GROUP = "bench:events", "bench"
_AT_A_TIME = Pace().batch
_IN_HAND = 48  # that a consumer asks for at a time, three quarters of what it handles
_BLOCK = 1000  # ms


async def events(system: System, scale: Scale, say: Say) -> list[Figure]:
    """From the commit of all in the outbox until the last is in its inbox; each of them once."""
    through, bare, waited = list[float](), list[float](), list[float]()
    async with shop_of(system) as shop, Redis.from_url(system.redis_url) as redis:
        for number in range(scale.event_rounds):
            say(f"{scale.events} events, {number + 1} of {scale.event_rounds}")
            bare.append(scale.events / await _carried(redis, scale.events))
            through.append(scale.events / await _through(shop, scale.events))
        say("one event after the other")
        for _ in range(scale.events_alone):
            waited.append(await _through(shop, 1))
    ratio = median(mine / theirs for mine, theirs in zip(through, bare, strict=True))
    peer = f"plain XADD and XREADGROUP, {median(bare):.0f} per second"
    what = f"outbox → stream → inbox, {counted(scale.events)} events"
    alone = f"{median(waited) * 1000:.2f} ms"
    return [
        Figure(what, f"{median(through):.0f} per second", peer, ratio),
        Figure("outbox → stream → inbox, an event alone", alone),
    ]


async def _through(shop: Shop, number: int) -> float:
    """Seconds."""
    persons = [f"usr_{secrets.token_urlsafe(16)}" for _ in range(min(number, _PERSONS))]
    await shop.without_mails(persons)
    committed = await shop.tell([persons[turn % len(persons)] for turn in range(number)])
    return (await shop.arrived(persons, number) - committed) / 1e9


async def _carried(redis: "Redis", number: int) -> float:
    """Seconds that the plain ones take, with payloads as long as orders' own."""
    payload = secrets.token_bytes(200)
    await redis.delete(_KEY)
    await redis.xgroup_create(_KEY, _GROUP, id="0", mkstream=True)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_write(redis, payload, number))
        tasks.create_task(_read(redis, number))
    took = time.monotonic() - began
    await redis.delete(_KEY)
    return took


async def _write(redis: "Redis", payload: bytes, number: int) -> None:
    for done in range(0, number, _AT_A_TIME):
        async with redis.pipeline(transaction=False) as pipeline:
            for _ in range(min(_AT_A_TIME, number - done)):
                pipeline.xadd(_KEY, {b"e": payload})
            await pipeline.execute()


async def _read(redis: "Redis", number: int) -> None:
    streams: Any = {_KEY: ">"}
    read = 0
    while read < number:
        answer: Any = await redis.xreadgroup(_GROUP, "one", streams, count=_IN_HAND, block=_BLOCK)
        ids = _ids(answer)
        if ids:
            await redis.xack(_KEY, _GROUP, *ids)
        read += len(ids)


def _ids(answer: Any) -> Sequence[bytes]:
    """Of either shape that redis-py answers in, by protocol."""
    pairs = answer.items() if isinstance(answer, dict) else answer or ()
    return [
        entry[0]
        for _, entries in pairs
        for entry in (entries[0] if entries and isinstance(entries[0], list) else entries)
    ]
