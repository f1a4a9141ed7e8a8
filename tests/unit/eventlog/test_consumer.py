"""What becomes of an event, whatever its handler does: in memory, with the stream's clock on a lever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from eventlog import Consumer, ConsumerMetrics, Delays, Event, Later, NeverRetry, Outcome, Patience, StreamUnavailable
from eventlog.event import EventId, UnreadableEvent
from eventlog.memory_stream import MemoryGroup, MemoryStream
from eventlog.stream import Delivery, Due
from servicekit.errors import Kind, ServiceError

STREAM, GROUP = "tests.events", "readers"
AT_ONCE = Delays(first=0.0, longest=0.0, lease=30.0)


def event(number: int, aggregate: str = "", traceparent: str = "") -> Event:
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
        self.calls.append(event.id)
        async with self._called:
            self._called.notify_all()
        return Outcome.HANDLED if self._behave is None else await self._behave(event)

    async def forget(self, settled: int) -> None:
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
        await self._say("read")
        return await super().read(consumer, count, wait)

    async def due(self, consumer: str, delays: Delays, count: int) -> Due:
        await self._say("due")
        return await super().due(consumer, delays, count)

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        await self._say("done")
        await super().done(deliveries)
        await self._say("")

    async def park(self, deliveries: Sequence[Delivery], *, counted: bool = True) -> None:
        await super().park(deliveries, counted=counted)
        await self._say("")

    async def bury(self, delivery: Delivery, reason: str, detail: str, *, limit: int) -> bool:
        buried = await super().bury(delivery, reason, detail, limit=limit)
        await self._say("")
        return buried

    async def until(self, condition: Callable[[], bool]) -> None:
        """Returns once `condition` holds after something was said."""
        async with asyncio.timeout(10), self.said:
            await self.said.wait_for(condition)

    @property
    def pending(self) -> int:
        state = self._stream._groups.get(GROUP)
        return 0 if state is None else len(state.pending)

    @property
    def dead(self) -> list[str]:
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
        last = await self.stream.last()
        payloads = [one if isinstance(one, bytes) else one.encoded() for one in events]
        await self.stream.append(last, [(last + n, payload) for n, payload in enumerate(payloads, 1)])

    def consumer(self, handler: Recorder, patience: Patience | None = None, name: str = "me", **more: int) -> Consumer:
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
        task = asyncio.create_task(consumer.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def count(self, outcome: str) -> float:
        return self.metrics.handled.labels(STREAM, GROUP, outcome)._value.get()

    def parked(self) -> float:
        return self.metrics.parked.labels(STREAM, GROUP)._value.get()

    async def nothing_is_left(self) -> None:
        await self.group.until(lambda: self.group.pending == 0)


@pytest.fixture
async def bench() -> Bench:
    return Bench()


async def test_each_event_is_handed_over_and_acknowledged(bench: Bench) -> None:
    recorder = Recorder()
    await bench.tell(*(event(n) for n in range(200)))
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 200)
        await bench.nothing_is_left()
    assert sorted(recorder.calls) == sorted(f"evt_{n}" for n in range(200))
    assert bench.count("handled") == 200


async def test_what_comes_while_it_waits_is_handed_over(bench: Bench) -> None:
    recorder = Recorder()
    async with bench.running(bench.consumer(recorder)):
        for n in range(5):
            await bench.tell(event(n))
            await recorder.until(lambda n=n: len(recorder.calls) == n + 1)


async def test_events_of_one_aggregate_come_one_after_the_other(bench: Bench) -> None:
    inside: set[str] = set()
    order: list[str] = []

    async def behave(event: Event) -> Outcome:
        assert event.aggregate not in inside
        inside.add(event.aggregate)
        for _ in range(3):
            await asyncio.sleep(0)
        inside.remove(event.aggregate)
        order.append(event.id)
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(*(event(n, f"agg_{n % 3}") for n in range(30)))
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 30)
        await bench.nothing_is_left()
    for aggregate in range(3):
        assert [one for one in order if int(one[4:]) % 3 == aggregate] == [f"evt_{n}" for n in range(aggregate, 30, 3)]


async def test_poison_is_a_dead_letter_at_once_and_blocks_nothing(bench: Bench) -> None:
    async def behave(event: Event) -> Outcome:
        if event.id == "evt_1":
            raise NeverRetry("POISON", "it says so itself")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(event(0), event(1), event(2))
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 3)
        await bench.nothing_is_left()
    (letter,) = await bench.group.dead_letters(9)
    assert (letter.reason, letter.detail, letter.position, letter.attempts) == ("POISON", "it says so itself", 2, 1)
    assert bench.count("buried") == 1


async def test_bytes_that_are_no_event_are_a_dead_letter(bench: Bench) -> None:
    recorder = Recorder()
    await bench.tell(b"\xff\xff", b"", event(1))
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: recorder.calls == ["evt_1"])
        await bench.nothing_is_left()
    assert bench.group.dead == ["UNREADABLE", "UNREADABLE"]


async def test_content_that_cannot_be_read_is_a_dead_letter(bench: Bench) -> None:
    async def behave(_: Event) -> Outcome:
        raise UnreadableEvent("data is no Happened")

    await bench.tell(event(1))
    async with bench.running(bench.consumer(Recorder(behave))):
        await bench.group.until(lambda: bench.group.dead == ["UNREADABLE"])


async def test_later_means_later_as_often_as_it_takes(bench: Bench) -> None:
    async def behave(event: Event) -> Outcome:
        if len(recorder.calls) < 12:
            raise Later("NOT_YET")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 12)
        await bench.nothing_is_left()
    assert bench.group.dead == []
    assert bench.count("later") == 11


async def test_even_later_has_an_end(bench: Bench) -> None:
    async def behave(_: Event) -> Outcome:
        raise Later("NOT_YET", "the mail server")

    patience = Patience(delays=AT_ONCE, later_attempts=4)
    recorder = Recorder(behave)
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder, patience)):
        await bench.group.until(lambda: bench.group.dead == ["NOT_YET"])
    assert len(recorder.calls) == 4


async def test_a_bug_gets_a_few_attempts_and_its_text_keeps_no_secret(bench: Bench) -> None:
    async def behave(_: Event) -> Outcome:
        raise LookupError("no row for alice@example.com")

    recorder = Recorder(behave)
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder, Patience(delays=AT_ONCE, attempts=3))):
        await bench.group.until(lambda: bench.group.dead == ["UNFORESEEN"])
    (letter,) = await bench.group.dead_letters(9)
    assert letter.attempts == 3
    assert letter.detail == "LookupError: no row for [redacted]"
    assert len(recorder.calls) == 3


async def test_a_handler_that_hangs_is_cut_off(bench: Bench) -> None:
    async def behave(event: Event) -> Outcome:
        if event.id == "evt_1":
            await asyncio.Event().wait()
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(event(1), event(2))
    async with bench.running(bench.consumer(recorder, Patience(delays=AT_ONCE, attempts=2, handling=0.01))):
        await bench.group.until(lambda: bench.group.dead == ["UNFORESEEN"])
        await bench.nothing_is_left()
    assert sorted(recorder.calls) == ["evt_1", "evt_1", "evt_2"]


async def test_when_nothing_can_be_done_nothing_is_blamed(bench: Bench) -> None:
    down = True

    async def behave(event: Event) -> Outcome:
        if down:
            raise ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "The database does not answer.")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(*(event(n) for n in range(5)))
    async with bench.running(bench.consumer(recorder, Patience(delays=AT_ONCE, attempts=1, longest_pause=0.001))):
        await recorder.until(lambda: len(recorder.calls) >= 40)
        down = False
        await bench.nothing_is_left()
    assert bench.group.dead == []
    assert bench.count("handled") == 5


async def test_a_consumer_that_pauses_takes_nothing_new(bench: Bench) -> None:
    async def behave(_: Event) -> Outcome:
        raise ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "The database does not answer.")

    recorder = Recorder(behave)
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder, Patience(delays=AT_ONCE, longest_pause=3600.0))):
        await bench.group.until(lambda: bench.count("held") == 1 and bench.group.pending == 1)
        await bench.tell(event(2))
        (again,) = (await bench.group.due("other", AT_ONCE, 9)).deliveries
        assert (again.attempt, again.abandoned) == (1, False)
        assert [d.position for d in await bench.group.read("other", 9, 0)] == [2]
    assert recorder.calls == ["evt_1"]


async def test_what_kills_its_readers_is_given_up(bench: Bench) -> None:
    await bench.tell(event(1), event(2))
    await bench.group.join()
    await bench.group.read("dead", 1, 0)
    for _ in range(3):
        bench.clock += 60
        await bench.group.due("dead too", Delays(), 9)
    bench.clock += 60
    recorder = Recorder()
    async with bench.running(bench.consumer(recorder, Patience(crashes=4))):
        await bench.group.until(lambda: bench.group.dead == ["CRASHED"])
        await recorder.until(lambda: recorder.calls == ["evt_2"])


async def test_when_the_dead_letters_are_full_nothing_is_lost_and_the_rest_goes_on(bench: Bench) -> None:
    async def behave(event: Event) -> Outcome:
        if int(event.id[4:]) < 3:
            raise NeverRetry("POISON")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(*(event(n) for n in range(10)))
    async with bench.running(bench.consumer(recorder, Patience(delays=AT_ONCE, dead_letters=2))):
        await bench.group.until(lambda: bench.group.pending == 1 and len(bench.group.dead) == 2)
        await bench.group.discard([letter.id for letter in await bench.group.dead_letters(9)])
        await bench.group.until(lambda: len(bench.group.dead) == 1)
    assert {one for one in recorder.calls if int(one[4:]) >= 3} == {f"evt_{n}" for n in range(3, 10)}


async def test_with_too_much_outstanding_nothing_new_is_taken(bench: Bench) -> None:
    open_again = asyncio.Event()

    async def behave(_: Event) -> Outcome:
        if not open_again.is_set():
            raise Later("NOT_YET")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(*(event(n) for n in range(50)))
    patience = Patience(delays=Delays(first=10.0, longest=10.0), outstanding=5)
    async with bench.running(bench.consumer(recorder, patience, in_hand=4)):
        await bench.group.until(lambda: bench.group.pending >= 5 and bench.parked() >= 5)
        taken = len(recorder.calls)
        bench.clock += 1  # nothing is due yet
        await bench.tell(event(99))
        assert (await bench.group.backlog()).undelivered == 51 - taken
        assert taken <= 8
        open_again.set()
        bench.clock += 10
        await recorder.until(lambda: "evt_99" in recorder.calls)
        await bench.nothing_is_left()


async def test_a_stop_finishes_what_is_in_hand_and_puts_the_rest_back(bench: Bench) -> None:
    go_on = asyncio.Event()
    finished: list[str] = []

    async def behave(event: Event) -> Outcome:
        await go_on.wait()
        finished.append(event.id)
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(*(event(n, "agg") for n in range(5)))
    task = asyncio.create_task(bench.consumer(recorder).run())
    await recorder.until(lambda: len(recorder.calls) == 1)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished == ["evt_0"]
    back = (await bench.group.due("other", Delays(), 9)).deliveries
    assert [(d.position, d.attempt) for d in back] == [(2, 1), (3, 1), (4, 1), (5, 1)]


async def test_a_stop_does_not_wait_for_ever(bench: Bench) -> None:
    async def behave(_: Event) -> Outcome:
        await asyncio.Event().wait()
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(event(1))
    task = asyncio.create_task(bench.consumer(recorder, Patience(stopping=0.01)).run())
    await recorder.until(lambda: len(recorder.calls) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [d.position for d in (await bench.group.due("other", Delays(), 9)).deliveries] == [1]


async def test_a_group_that_is_lost_is_joined_again_and_read_from_the_start(bench: Bench) -> None:
    recorder = Recorder()
    payloads = [event(n).encoded() for n in range(3)]
    await bench.tell(*payloads)
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 3)
        bench.stream.lose()
        await bench.tell(*payloads, event(3))
        await recorder.until(lambda: len(recorder.calls) == 7)


async def test_a_stream_that_does_not_answer_is_waited_for(bench: Bench) -> None:
    recorder = Recorder()
    bench.group.failing = {"read"}
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder)):
        await bench.group.until(lambda: bench.group.failed >= 3)
        bench.group.failing = set()
        await recorder.until(lambda: recorder.calls == ["evt_1"])


async def test_an_acknowledgement_that_got_lost_means_once_more(bench: Bench) -> None:
    recorder = Recorder()
    bench.group.failing = {"done"}
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder)):
        await bench.group.until(lambda: bench.group.failed == 1)
        bench.group.failing = set()
        bench.clock += 31
        await recorder.until(lambda: recorder.calls == ["evt_1", "evt_1"])
        await bench.nothing_is_left()


async def test_redriven_letters_are_handled(bench: Bench) -> None:
    repaired = False

    async def behave(event: Event) -> Outcome:
        if not repaired:
            raise NeverRetry("POISON")
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(event(1))
    async with bench.running(bench.consumer(recorder)):
        await bench.group.until(lambda: bench.group.dead == ["POISON"])
        repaired = True
        await bench.group.redrive([letter.id for letter in await bench.group.dead_letters(9)])
        await recorder.until(lambda: len(recorder.calls) == 2)
        await bench.nothing_is_left()
    assert bench.group.dead == []


async def test_the_trace_goes_on_in_the_handler(bench: Bench) -> None:
    seen: list[int] = []

    async def behave(_: Event) -> Outcome:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return Outcome.HANDLED

    recorder = Recorder(behave)
    await bench.tell(
        event(1, traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), event(2, traceparent="x")
    )
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 2)
        await bench.nothing_is_left()
    assert 0x0AF7651916CD43DD8448EB211C80319C in seen


async def test_the_handler_hears_what_may_be_forgotten(bench: Bench) -> None:
    recorder = Recorder()
    await bench.tell(event(1))
    await bench.stream.announce(17)
    async with bench.running(bench.consumer(recorder)):
        await recorder.until(lambda: len(recorder.calls) == 1)
        await bench.nothing_is_left()
    assert recorder.settled == [17]
