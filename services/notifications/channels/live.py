"""Who is looking on right now, and the hint that their inbox has grown.

A hint says "this person's inbox goes up to sequence n", and nothing else: whoever gets it reads the inbox. So a hint
may come twice, late, forged or never. Three ways bring it:

    here       from the reaction that committed in this process, at once
    Pub/Sub    from the other replicas, within a millisecond or so; one connection per process, one channel for all
    a sweep    one SQL query for everybody who is looking on, every `sweep` seconds: what the others have missed

Nothing is buffered for a slow reader: a `Watch` is one number and one flag, however much there is to read.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from notifications.domain import Person

Hint = tuple[Person, int]
SWEEP = 2.0  # seconds: how late a live reader hears, at the worst, when Pub/Sub carries nothing
_LARGEST_SWEEP = 500  # people in one query
_log = structlog.get_logger("notifications.live")


class WakeUps(Protocol):
    """Carries hints between replicas. May lose any."""

    async def send(self, hints: Mapping[Person, int]) -> None:
        """Tells the others; raises nothing when it cannot."""

    async def receive(self, hear: Callable[[Person, int], None]) -> None:
        """Hears what the others say, until it is cancelled."""


class LiveMetrics:
    """What is counted about live readers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.streams = Gauge("notifications_live_streams", "Live streams that are open here.", registry=registry)
        self.hints = Counter(
            "notifications_live_hints",
            "Hints that let a reader here go on, by the way that brought them first: here, pubsub, sweep.",
            ("way",),
            registry=registry,
        )


class Watch:
    """One reader's view of how far their inbox goes, by hearsay."""

    def __init__(self) -> None:
        self.up_to = 0
        self._grown = asyncio.Event()

    def tell(self, sequence: int) -> bool:
        """Takes a hint; tells whether it was news."""
        if sequence <= self.up_to:
            return False
        self.up_to = sequence
        self._grown.set()
        return True

    async def beyond(self, sequence: int, *, within: float) -> bool:
        """Whether the inbox is known to go beyond `sequence`, now or `within` so many seconds."""
        while self.up_to <= sequence:
            self._grown.clear()
            try:
                async with asyncio.timeout(within):
                    await self._grown.wait()
            except TimeoutError:
                return self.up_to > sequence
        return True

    def disprove(self, hint: int, sequence: int) -> None:
        """A look into the inbox, begun when `hint` was the newest, found nothing beyond `sequence`: it was wrong."""
        if self.up_to == hint:
            self.up_to = sequence


class Live:
    """Joins those who look on with the hints about them. One per process."""

    def __init__(
        self,
        look: Callable[[Sequence[Person]], Awaitable[Mapping[Person, int]]],
        wake_ups: WakeUps,
        *,
        metrics: LiveMetrics,
        sweep: float = SWEEP,
    ) -> None:
        self._look = look
        self._wake_ups = wake_ups
        self._metrics = metrics
        self._sweep_every = sweep
        self._watches: dict[Person, set[Watch]] = {}
        self._to_send: dict[Person, int] = {}
        self._something = asyncio.Event()

    @contextlib.contextmanager
    def watching(self, person: Person) -> Iterator[Watch]:
        """Within, a `Watch` is told of everything that this process hears about the person."""
        watch = Watch()
        self._watches.setdefault(person, set()).add(watch)
        self._metrics.streams.inc()
        try:
            yield watch
        finally:
            self._metrics.streams.dec()
            watches = self._watches[person]
            watches.discard(watch)
            if not watches:
                del self._watches[person]

    def grown(self, hints: Sequence[Hint]) -> None:
        """What was committed in this process: known here at once, and told to the other replicas."""
        for person, sequence in hints:
            self._hear(person, sequence, "here")
            # One entry a person, however many events: the last sequence says it all.
            self._to_send[person] = max(sequence, self._to_send.get(person, 0))
        self._something.set()

    async def run(self) -> None:
        """Sends, receives and sweeps until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            tasks.create_task(self._wake_ups.receive(lambda person, sequence: self._hear(person, sequence, "pubsub")))
            tasks.create_task(self._sweep())

    def _hear(self, person: Person, sequence: int, way: str) -> None:
        # `any` would stop at the first.
        if sum(watch.tell(sequence) for watch in self._watches.get(person, ())):
            self._metrics.hints.labels(way).inc()

    async def _send(self) -> None:
        while True:
            await self._something.wait()
            self._something.clear()
            hints, self._to_send = self._to_send, {}
            if hints:
                await self._wake_ups.send(hints)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_every)
            persons = list(self._watches)
            try:
                for start in range(0, len(persons), _LARGEST_SWEEP):
                    found = await self._look(persons[start : start + _LARGEST_SWEEP])
                    for person, sequence in found.items():
                        self._hear(person, sequence, "sweep")
            except Exception as error:  # the next one comes soon
                _log.warning("a sweep failed", error=type(error).__name__)
