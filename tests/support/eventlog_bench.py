"""A consumer on the bench: its stream in memory, the stream's clock on a lever, its handler as the test says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry

from eventlog import Consumer, ConsumerMetrics, Delays, Event, Outcome, Patience, StreamUnavailable
from eventlog.event import EventId
from eventlog.memory_stream import MemoryGroup, MemoryStream
from eventlog.stream import Delivery, Due

STREAM, GROUP = "tests.events", "readers"
AT_ONCE = Delays(first=0.0, longest=0.0, lease=30.0)


def event(number: int, aggregate: str = "", traceparent: str = "") -> Event:
    """An event of a type that nobody knows."""
    return Event(
        id=EventId(f"evt_{number}"),
        type="contracts.tests.v1.Happened",
        version=1,
        aggregate=aggregate or f"agg_{number}",
        sequence=1,
        occurred_at=0,
        traceparent=traceparent,
        data=b"",
    )


class Recorder:
    """A handler that does what the test says, and tells what it was given."""

    def __init__(self, behave: Callable[[Event], Awaitable[Outcome]] | None = None) -> None:
        self.calls: list[str] = []
        self.settled: list[int] = []
        self._behave = behave
        self._called = asyncio.Condition()

    async def handle(self, event: Event, position: int) -> Outcome:
        """See `Handler`."""
        self.calls.append(event.id)
        async with self._called:
            self._called.notify_all()
        return Outcome.HANDLED if self._behave is None else await self._behave(event)

    async def forget(self, settled: int) -> None:
        """See `Handler`."""
        self.settled.append(settled)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition` holds after some call."""
        async with asyncio.timeout(10), self._called:
            await self._called.wait_for(condition)


class Watched(MemoryGroup):
    """Tells when something was said to it, and can be made to fail."""

    def __init__(self, stream: MemoryStream, name: str) -> None:
        super().__init__(stream, name)
        self.said = asyncio.Condition()
        self.failing: set[str] = set()
        self.failed = 0

    async def _say(self, what: str) -> None:
        async with self.said:
            self.said.notify_all()
        if what in self.failing:
            self.failed += 1
            raise StreamUnavailable("on purpose")

    async def read(self, consumer: str, count: int, wait: float) -> Sequence[Delivery]:
        """See `Group`."""
        await self._say("read")
        return await super().read(consumer, count, wait)

    async def due(self, consumer: str, delays: Delays, count: int) -> Due:
        """See `Group`."""
        await self._say("due")
        return await super().due(consumer, delays, count)

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See `Group`."""
        await self._say("done")
        await super().done(deliveries)
        await self._say("")

    async def park(self, deliveries: Sequence[Delivery], *, counted: bool = True) -> None:
        """See `Group`."""
        await super().park(deliveries, counted=counted)
        await self._say("")

    async def bury(self, delivery: Delivery, reason: str, detail: str, *, limit: int) -> bool:
        """See `Group`."""
        buried = await super().bury(delivery, reason, detail, limit=limit)
        await self._say("")
        return buried

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition` holds after something was said."""
        async with asyncio.timeout(10), self.said:
            await self.said.wait_for(condition)

    @property
    def pending(self) -> int:
        """How many entries are delivered and not acknowledged."""
        state = self._stream._groups.get(GROUP)
        return 0 if state is None else len(state.pending)

    @property
    def dead(self) -> list[str]:
        """The reasons of the dead letters."""
        letters = self._stream._letters.get(GROUP)
        return [] if letters is None else [letter.reason for letter in letters.dead.values()]


class Bench:
    """A stream, a group, and consumers on demand. `clock` is the stream's, in seconds."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.stream = MemoryStream(STREAM, now=lambda: self.clock)
        self.group = Watched(self.stream, GROUP)
        self.metrics = ConsumerMetrics(CollectorRegistry())

    async def tell(self, *events: Event | bytes) -> None:
        """Appends them."""
        last = await self.stream.last()
        payloads = [one if isinstance(one, bytes) else one.encoded() for one in events]
        await self.stream.append(last, [(last + n, payload) for n, payload in enumerate(payloads, 1)])

    def consumer(self, handler: Recorder, patience: Patience | None = None, name: str = "me", **more: int) -> Consumer:
        """A consumer in a hurry."""
        return Consumer(
            self.group,
            handler,
            name=name,
            metrics=self.metrics,
            patience=patience or Patience(delays=AT_ONCE, longest_pause=0.01),
            wait=0.05,
            chance=lambda: 0.5,
            **more,
        )

    @contextlib.asynccontextmanager
    async def running(self, consumer: Consumer) -> AsyncIterator[None]:
        """Within, it runs."""
        task = asyncio.create_task(consumer.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def count(self, outcome: str) -> float:
        """How often that outcome was counted."""
        return self.metrics.handled.labels(STREAM, GROUP, outcome)._value.get()

    def parked(self) -> float:
        """How many entries the consumer has said that wait."""
        return self.metrics.parked.labels(STREAM, GROUP)._value.get()

    async def nothing_is_left(self) -> None:
        """Returns once all that was delivered is acknowledged or a dead letter."""
        await self.group.until(lambda: self.group.pending == 0)


@pytest.fixture
async def bench() -> Bench:
    """A bench of its own for every test."""
    return Bench()
