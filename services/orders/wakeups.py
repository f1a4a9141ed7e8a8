"""Wake-ups between the replicas of orders: hints that an order changed. Any may be lost, none is believed.

A hint says "look at this order"; what became of it is read from SQL. So a hint that is forged, late or twice costs a
look, and a hint that is lost costs the time until the next look of `watching`.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from orders.domain import OrderId, Owner, is_order_id
from rescind.redis_client import redis_client

CHANNEL = "orders.changed"
_ANSWER = 2.0  # seconds in which Redis answers anything


class WakeupsLost(Exception):
    """No hint comes through any more; listen again."""


@dataclass(frozen=True, slots=True)
class Hint:
    """This order of this person changed."""

    owner: Owner
    order_id: OrderId


class Wakeups(Protocol):
    """Carries hints to the other replicas."""

    async def send(self, hints: Sequence[Hint]) -> None:
        """Tells the others.

        Raises:
            WakeupsLost: perhaps not all were told.
        """
        ...

    def listen(self) -> AsyncGenerator[Hint | None, None]:
        """What the others tell; None first, when they are heard from here on.

        Raises:
            WakeupsLost: they are heard no longer.
        """
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


class RedisWakeups:
    """Hints over Redis Pub/Sub. Connects when first used.

    `beat` and `quiet` are seconds: how often the connection is asked whether it lives, and after how long without any
    word it is given up. A frozen server shows in no other way.
    """

    def __init__(self, url: str, *, beat: float = 1.0, quiet: float = 4.0) -> None:
        self._me = secrets.token_hex(8)
        self._beat = beat
        self._quiet = quiet
        self._sender = redis_client(url, timeout=_ANSWER, connect_timeout=_ANSWER)
        self._listener = redis_client(url, timeout=None, connect_timeout=_ANSWER)

    async def send(self, hints: Sequence[Hint]) -> None:
        """See `Wakeups`."""
        try:
            async with self._sender.pipeline(transaction=False) as pipeline:
                for hint in hints:
                    pipeline.publish(CHANNEL, f"{self._me} {hint.owner} {hint.order_id}")
                await pipeline.execute()
        except (RedisError, OSError, TimeoutError) as error:
            raise WakeupsLost(type(error).__name__) from error

    async def listen(self) -> AsyncGenerator[Hint | None, None]:
        """See `Wakeups`."""
        pubsub = self._listener.pubsub()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ANSWER):
                await pubsub.subscribe(CHANNEL)
            heard = asked = loop.time()
            while True:
                message = await pubsub.get_message(timeout=self._beat)
                now = loop.time()
                if message is not None:
                    heard = now
                    if message["type"] == "subscribe":  # also after redis-py has connected again by itself
                        yield None
                    elif message["type"] == "message" and (hint := self._read(message["data"])) is not None:
                        yield hint
                if now - heard > self._quiet:
                    raise WakeupsLost("silence")
                if now - asked >= self._beat:
                    asked = now
                    await pubsub.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise WakeupsLost(type(error).__name__) from error
        finally:
            with contextlib.suppress(Exception):  # it is being given up: nothing to save
                async with asyncio.timeout(_ANSWER):
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped

    async def aclose(self) -> None:
        """See `Wakeups`."""
        await self._sender.aclose()
        await self._listener.aclose()

    def _read(self, data: object) -> Hint | None:
        """The hint of somebody else; None for our own, and for what is none."""
        text = data.decode(errors="replace") if isinstance(data, bytes) else ""
        sender, _, hint = text.partition(" ")
        owner, _, order_id = hint.partition(" ")
        return Hint(Owner(owner), OrderId(order_id)) if sender != self._me and is_order_id(order_id) else None


class MemoryWakeups:
    """Hints between services in one process, for tests: each holds one, made with the same `others`."""

    def __init__(self, others: "list[asyncio.Queue[Hint | WakeupsLost]]") -> None:
        self._others = others
        self._mine: asyncio.Queue[Hint | WakeupsLost] | None = None

    async def send(self, hints: Sequence[Hint]) -> None:
        """See `Wakeups`."""
        for queue in self._others:
            for hint in hints if queue is not self._mine else ():
                queue.put_nowait(hint)

    async def listen(self) -> AsyncGenerator[Hint | None, None]:
        """See `Wakeups`."""
        mine: asyncio.Queue[Hint | WakeupsLost] = asyncio.Queue()
        self._mine = mine
        self._others.append(mine)
        try:
            yield None
            while True:
                told = await mine.get()
                if isinstance(told, WakeupsLost):
                    raise told
                yield told
        finally:
            self._others.remove(mine)

    async def aclose(self) -> None:
        """See `Wakeups`."""
