"""What becomes of an event, whatever its handler does."""

import asyncio

from eventlog import Event, Later, NeverRetry, Outcome, Patience
from eventlog.event import UnreadableEvent
from support.eventlog_bench import AT_ONCE, Bench, Recorder, bench, event

__all__ = ["bench"]


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
