"""Hints between replicas over every Redis that we run on: they come, rubbish harms nobody, and an outage ends."""

import asyncio

from redis.asyncio import Redis

from notifications.channels.pubsub import CHANNEL, RedisWakeUps
from notifications.domain import Person
from support.eventually import eventually

ALICE = Person("usr_alice")
WITHIN = 30.0  # seconds on a busy machine


async def test_hints_reach_the_others_and_rubbish_does_not(redis_url: str) -> None:
    here, there = RedisWakeUps(redis_url), RedisWakeUps(redis_url)
    heard: asyncio.Queue[tuple[Person, int]] = asyncio.Queue()
    listening = asyncio.create_task(there.receive(lambda person, sequence: heard.put_nowait((person, sequence))))
    async with asyncio.timeout(WITHIN), Redis.from_url(redis_url) as redis:

        async def subscribed() -> bool:
            return bool((await redis.pubsub_numsub(CHANNEL))[0][1])

        await eventually(subscribed, within=WITHIN)
        await redis.publish(CHANNEL, b"\xff\n\nrubbish 1\nusr_eve x")
        await here.send({Person(f"usr_{n}"): n for n in range(1, 451)})  # several messages
        assert {await heard.get() for _ in range(450)} == {(f"usr_{n}", n) for n in range(1, 451)}
        await redis.client_kill_filter(_type="pubsub")  # as an outage would
        while heard.empty():
            await here.send({ALICE: 7})
            await asyncio.sleep(0)
        assert await heard.get() == (ALICE, 7)
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await here.aclose()
    await there.aclose()


async def test_a_redis_that_is_not_there_costs_no_more_than_a_moment() -> None:
    wake_ups = RedisWakeUps("redis://127.0.0.1:1/0")
    async with asyncio.timeout(WITHIN):
        await wake_ups.send({ALICE: 1})
    await wake_ups.aclose()
