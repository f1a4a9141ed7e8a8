"""One verifier process: a guard on the real system, and nothing to do but verify one token after the other.

It reads what it needs from stdin, says `ready` once the first token is accepted, and then, for each token, when it was
first refused, by the monotonic clock, which is one for all processes of a machine. Beside that it notes when a bare
message came over the same Redis, for comparison.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import uvloop
from redis.asyncio import Redis

from bench.waiting import until_fresh
from rescind import RevokedToken, Verifier
from rescind.connect import Addresses, connected

BARE_CHANNEL = "bench:bare"


@dataclass(frozen=True, slots=True)
class Watch:
    """What a process is told. `pause` is the time between two calls in seconds; with 0 it spins."""

    addresses: Addresses
    tokens: Sequence[str]
    pause: float

    def said(self) -> bytes:
        """As it is read from stdin."""
        return json.dumps(asdict(self)).encode()


def heard(text: str) -> Watch:
    """What `Watch.said` wrote."""
    values = json.loads(text)
    return Watch(Addresses(**values["addresses"]), values["tokens"], values["pause"])


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


async def watch(told: Watch) -> None:
    """Verifies each token until it is refused."""
    async with connected(told.addresses) as guard, Redis.from_url(told.addresses.redis_url) as redis:
        await until_fresh(guard)
        await guard.authenticate(told.tokens[0])  # fetches the keys, if that was not done yet
        listening = asyncio.Event()
        bare = asyncio.create_task(_bare(redis, listening))
        await listening.wait()
        _say(ready=True)
        for number, token in enumerate(told.tokens):
            _say(refused=number, at=await _refused(guard.verifier, token, told.pause))
        bare.cancel()


async def _refused(verifier: Verifier, token: str, pause: float) -> int:
    while True:
        try:
            verifier.verify(token)
        except RevokedToken:
            return time.monotonic_ns()
        await asyncio.sleep(pause)


async def _bare(redis: "Redis", listening: asyncio.Event) -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(BARE_CHANNEL)
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                listening.set()
            else:
                _say(bare=int(message["data"]), at=time.monotonic_ns())


if __name__ == "__main__":
    uvloop.run(watch(heard(sys.stdin.read())))
