"""One exam for every stream: appending, reading, taking over, putting back."""

import asyncio

from eventlog.memory_stream import SUSPECT
from eventlog.stream import Delays
from support.eventlog_streams import (
    AT_ONCE,
    NEVER,
    ONLY_ABANDONED,
    ONLY_PARKED,
    Subject,
    positions,
    subject,
)

__all__ = ["subject"]


async def test_appends_only_on_top_of_what_the_producer_has_seen(subject: Subject) -> None:
    stream = subject.stream
    assert await stream.last() == 0
    assert await stream.append(0, [(1, b"a"), (2, b"b")]) == 2
    assert await stream.append(0, [(1, b"a"), (2, b"b")]) == 2  # a second relay, late
    assert await stream.append(3, [(4, b"d")]) == 2  # it would leave a hole
    assert await stream.append(2, [(7, b"g")]) == 7  # what is settled need not be there
    group = await subject.joined()
    assert [(d.position, d.payload) for d in await group.read("me", 10, 0)] == [(1, b"a"), (2, b"b"), (7, b"g")]


async def test_of_many_producers_at_once_one_appends(subject: Subject) -> None:
    await asyncio.gather(*(subject.stream.append(0, [(1, b"a"), (2, b"b")]) for _ in range(20)))
    group = await subject.joined()
    assert positions(await group.read("me", 10, 0)) == [1, 2]


async def test_payloads_are_bytes_of_any_kind(subject: Subject) -> None:
    payload = bytes(range(256)) * 8
    await subject.stream.append(0, [(1, payload), (2, b"")])
    group = await subject.joined()
    assert [d.payload for d in await group.read("me", 10, 0)] == [payload, b""]


async def test_positions_may_be_large(subject: Subject) -> None:
    big = 2**52
    assert await subject.stream.append(0, [(big, b"x")]) == big
    assert await subject.stream.append(big, [(big + 1, b"y")]) == big + 1
    group = await subject.joined()
    read = list(await group.read("me", 10, 0))
    assert positions(read) == [big, big + 1]
    await group.done(read)
    acknowledged = await subject.stream.trim(())
    assert acknowledged is not None
    assert acknowledged.floor == big + 1
    assert await subject.stream.last() == big + 1


async def test_every_group_reads_all_and_each_entry_goes_to_one_consumer(subject: Subject) -> None:
    await subject.fill(6)
    one, other = await subject.joined("one"), await subject.joined("other")
    first, second = await one.read("a", 3, 0), await one.read("b", 9, 0)
    assert positions(first) == [1, 2, 3]
    assert positions(second) == [4, 5, 6]
    assert list(await one.read("a", 9, 0)) == []
    assert positions(await other.read("a", 9, 0)) == [1, 2, 3, 4, 5, 6]


async def test_joining_again_changes_nothing(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    await group.done(await group.read("me", 9, 0))
    await group.join()
    assert list(await group.read("me", 9, 0)) == []


async def test_a_waiting_reader_is_woken(subject: Subject) -> None:
    group = await subject.joined()
    reading = asyncio.create_task(group.read("me", 9, 5))
    await asyncio.sleep(0)
    await subject.fill(1)
    assert positions(await reading) == [1]


async def test_waiting_ends(subject: Subject) -> None:
    group = await subject.joined()
    assert list(await group.read("me", 9, 0.01)) == []


async def test_what_is_acknowledged_never_comes_again(subject: Subject) -> None:
    await subject.fill(3)
    group = await subject.joined()
    one, two, three = await group.read("me", 9, 0)
    await group.done([one, three])
    again = (await group.due("other", AT_ONCE, 9)).deliveries
    assert positions(again) == [2]
    await group.done(list(again))
    await group.done([two])  # the first reader, late: harmless
    assert (await group.due("other", AT_ONCE, 9)).deliveries == []


async def test_what_a_dead_consumer_left_is_taken_over_after_the_lease(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    await group.read("dead", 9, 0)
    assert (await group.due("me", NEVER, 9)).deliveries == []
    taken = (await group.due("me", AT_ONCE, 9)).deliveries
    assert [(d.position, d.attempt, d.abandoned, d.payload) for d in taken] == [
        (1, 2, True, b"event 1"),
        (2, 2, True, b"event 2"),
    ]


async def test_only_one_takes_over(subject: Subject) -> None:
    await subject.fill(20)
    group = await subject.joined()
    await group.park(await group.read("failing", 20, 0), counted=False)
    takes = await asyncio.gather(*(group.due(f"taker-{n}", NEVER, 5) for n in range(8)))
    taken = [p for due in takes for p in positions(due.deliveries)]
    assert sorted(taken) == list(range(1, 21))


async def test_parked_entries_wait_for_their_delay_whatever_the_lease(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    one, _two = await group.read("me", 9, 0)
    await group.park([one])
    waiting = await group.due("me", NEVER, 9)
    assert (waiting.deliveries, waiting.parked) == ([], 1)
    assert waiting.next_in is not None
    assert 3590 < waiting.next_in <= 3600
    assert positions((await group.due("me", ONLY_ABANDONED, 9)).deliveries) == [2]
    due = await group.due("other", ONLY_PARKED, 9)
    assert [(d.position, d.attempt, d.abandoned) for d in due.deliveries] == [(1, 2, False)]
    assert (due.parked, due.next_in) == (0, None)


async def test_the_delay_doubles_up_to_the_longest(subject: Subject) -> None:
    await subject.fill(1)
    group = await subject.joined()
    (delivery,) = await group.read("me", 9, 0)
    delays = Delays(first=100, longest=350, lease=3600)
    for expected in (100, 200, 350, 350):
        await group.park([delivery])
        waiting = await group.due("me", delays, 9)
        assert waiting.next_in is not None
        assert expected - 5 < waiting.next_in <= expected
        (delivery,) = (await group.due("me", ONLY_PARKED, 9)).deliveries
    assert delivery.attempt == 5


async def test_takes_no_more_than_asked_for(subject: Subject) -> None:
    await subject.fill(5)
    group = await subject.joined()
    await group.park(await group.read("me", 9, 0))
    first = await group.due("me", ONLY_PARKED, 2)
    assert (positions(first.deliveries), first.parked) == ([1, 2], 3)
    assert first.next_in == 0


async def test_many_parked_entries_do_not_hide_the_one_that_is_due(subject: Subject) -> None:
    await subject.fill(305)
    group = await subject.joined()
    *others, last = await group.read("me", 400, 0)
    await group.park(others)
    await group.park([last], counted=False)
    due = await group.due("me", NEVER, 9)
    assert (positions(due.deliveries), due.parked) == ([305], 304)


async def test_what_is_put_back_uncounted_is_due_at_once(subject: Subject) -> None:
    await subject.fill(1)
    group = await subject.joined()
    await group.park(await group.read("me", 9, 0), counted=False)
    (again,) = (await group.due("other", NEVER, 9)).deliveries
    assert (again.attempt, again.abandoned) == (1, False)


async def test_a_consumer_that_leaves_gives_back_all_it_has_not_finished(subject: Subject) -> None:
    await subject.fill(150)
    group = await subject.joined()
    first, *_rest = await group.read("me", 150, 0)
    await group.give_back("me", besides=[first])
    back = (await group.due("other", NEVER, 200)).deliveries
    assert positions(back) == list(range(2, 151))
    assert {d.attempt for d in back} == {1}
    await group.give_back("me", leave=True)
    assert positions((await group.due("other", NEVER, 9)).deliveries) == [1]
    await group.give_back("nobody", leave=True)


async def test_a_suspect_travels_alone(subject: Subject) -> None:
    await subject.fill(3)
    group = await subject.joined()
    await group.read("dead", 9, 0)
    for attempt in range(2, SUSPECT + 1):
        taken = (await group.due("dead", AT_ONCE, 9)).deliveries
        assert {d.attempt for d in taken} == {attempt}
        assert len(taken) == 3
    for expected in (1, 2, 3):
        (alone,) = (await group.due("me", AT_ONCE, 9)).deliveries
        assert (alone.position, alone.attempt) == (expected, SUSPECT + 1)
        await group.done([alone])
