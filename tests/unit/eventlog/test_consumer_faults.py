"""What a consumer does when others fail it, and when it is told to stop."""

import asyncio

import pytest
from opentelemetry import trace

from eventlog import Delays, Event, Later, NeverRetry, Outcome, Patience
from servicekit.errors import Kind, ServiceError
from support.eventlog_bench import AT_ONCE, Bench, Recorder, bench, event

__all__ = ["bench"]


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
