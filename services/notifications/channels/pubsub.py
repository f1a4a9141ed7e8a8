"""Hints over Redis Pub/Sub: `<person> <sequence>`, several to a message, one to a line.

Redis is not trusted and need not be there. A forged hint makes a process look into its own database once.
"""

import asyncio
import contextlib
import random
import re
from collections.abc import Callable, Mapping

import structlog
from redis.exceptions import RedisError

from notifications.domain import NotAPerson, Person, person_of
from rescind.redis_client import redis_client

CHANNEL = "notifications.live"
_ANSWER = 2.0  # seconds in which Redis answers anything
_SILENCE = 20.0  # seconds after which a connection that brings nothing is made anew: it may be half open
_LINES = 200  # hints to a message
_SEQUENCE = re.compile(rb"[1-9][0-9]{0,17}")
_log = structlog.get_logger("notifications.pubsub")


class RedisWakeUps:
    """Keeps the promises of `WakeUps`, which are few. Two connections: one to publish, one that listens."""

    def __init__(self, url: str, *, chance: Callable[[], float] = random.random) -> None:
        self._publishing = redis_client(url, timeout=_ANSWER, connect_timeout=_ANSWER, protocol=2)
        self._listening = redis_client(url, timeout=_ANSWER, connect_timeout=_ANSWER, protocol=2)
        self._chance = chance
        self._failures = 0  # to listen, since it last worked

    async def send(self, hints: Mapping[Person, int]) -> None:
        """See `WakeUps`."""
        lines = [f"{person} {sequence}" for person, sequence in hints.items()]
        try:
            async with asyncio.timeout(_ANSWER):
                for start in range(0, len(lines), _LINES):
                    await self._publishing.publish(CHANNEL, "\n".join(lines[start : start + _LINES]))
        except (RedisError, OSError, TimeoutError) as error:
            _log.info("hints are lost", hints=len(lines), error=type(error).__name__)

    async def receive(self, hear: Callable[[Person, int], None]) -> None:
        """See `WakeUps`."""
        while True:
            try:
                await self._listen(hear)
            except (RedisError, OSError, TimeoutError) as error:
                self._failures += 1
                if self._failures == 1:
                    _log.warning("not listening to other replicas: readers hear by sweeps", error=type(error).__name__)
            await asyncio.sleep(min(2.0, 0.1 * 2.0 ** min(self._failures, 5)) * (0.5 + self._chance() / 2))

    async def _listen(self, hear: Callable[[Person, int], None]) -> None:
        """Until nothing was heard for _SILENCE: on a quiet system a new connection now and then costs nothing."""
        async with self._listening.pubsub() as pubsub:
            async with asyncio.timeout(_ANSWER):
                await pubsub.subscribe(CHANNEL)
            self._failures = 0
            while True:
                message = await pubsub.get_message(timeout=_SILENCE)
                if message is None:
                    return
                if message["type"] == "message":
                    for hint in read(message["data"]):
                        hear(*hint)

    async def aclose(self) -> None:
        """Closes the connections."""
        with contextlib.suppress(RedisError, OSError):
            await self._publishing.aclose()
            await self._listening.aclose()


def read(data: bytes) -> list[tuple[Person, int]]:
    """The hints in a message; what is none is left out, because anybody may have written it."""
    hints = []
    for line in data.split(b"\n", _LINES)[:_LINES]:
        person, _, sequence = line.partition(b" ")
        if _SEQUENCE.fullmatch(sequence):
            with contextlib.suppress(NotAPerson, UnicodeDecodeError):
                hints.append((person_of(person.decode("ascii")), int(sequence)))
    return hints


class NoWakeUps:
    """For one process alone: there are no others to tell."""

    async def send(self, hints: Mapping[Person, int]) -> None:
        """Does nothing."""

    async def receive(self, hear: Callable[[Person, int], None]) -> None:  # noqa: ARG002
        """Hears nothing, until it is cancelled."""
        await asyncio.Event().wait()
