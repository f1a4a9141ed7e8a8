"""One exam for every stream: in memory, the embedded Valkey, Redis in a container."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis

from eventlog.memory_stream import SUSPECT, MemoryStream
from eventlog.redis_stream import RedisStream
from eventlog.stream import Delays, Delivery, Group, GroupLost, Stream, StreamUnavailable

NAME = "tests.events"
AT_ONCE = Delays(first=0, longest=0, lease=0)
NEVER = Delays(first=3600, longest=3600, lease=3600)
ONLY_PARKED = Delays(first=0, longest=0, lease=3600)
ONLY_ABANDONED = Delays(first=3600, longest=3600, lease=0)


class Subject:
    """A stream and the means to lose it."""

    def __init__(self, stream: Stream, lose: Callable[[], Awaitable[None]]) -> None:
        self.stream = stream
        self.lose = lose

    async def fill(self, count: int, after: int = 0) -> None:
        entries = [(n, f"event {n}".encode()) for n in range(after + 1, after + count + 1)]
        assert await self.stream.append(after, entries) == after + count

    async def joined(self, name: str = "readers") -> Group:
        group = self.stream.group(name)
        await group.join()
        return group


@pytest.fixture(params=["memory", "embedded", "container"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "memory":
        memory = MemoryStream(NAME)

        async def lose_memory() -> None:
            memory.lose()

        yield Subject(memory, lose_memory)
        return
    fixture = "embedded_redis_url" if request.param == "embedded" else "redis_container_url"
    url = str(request.getfixturevalue(fixture))
    stream = RedisStream(url, NAME)
    async with Redis.from_url(url) as redis:

        async def lose() -> None:
            await redis.flushall()

        yield Subject(stream, lose)
    await stream.aclose()


def positions(deliveries: "list[Delivery] | tuple[Delivery, ...]") -> list[int]:
    return [delivery.position for delivery in deliveries]


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
    assert positions(list(await group.read("me", 10, 0))) == [1, 2]


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
    assert positions(list(first)) == [1, 2, 3]
    assert positions(list(second)) == [4, 5, 6]
    assert list(await one.read("a", 9, 0)) == []
    assert positions(list(await other.read("a", 9, 0))) == [1, 2, 3, 4, 5, 6]


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
    assert positions(list(await reading)) == [1]


async def test_waiting_ends(subject: Subject) -> None:
    group = await subject.joined()
    assert list(await group.read("me", 9, 0.01)) == []


async def test_what_is_acknowledged_never_comes_again(subject: Subject) -> None:
    await subject.fill(3)
    group = await subject.joined()
    one, two, three = await group.read("me", 9, 0)
    await group.done([one, three])
    again = (await group.due("other", AT_ONCE, 9)).deliveries
    assert positions(list(again)) == [2]
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
    taken = [p for due in takes for p in positions(list(due.deliveries))]
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
    assert positions(list((await group.due("me", ONLY_ABANDONED, 9)).deliveries)) == [2]
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
    assert (positions(list(first.deliveries)), first.parked) == ([1, 2], 3)
    assert first.next_in == 0


async def test_many_parked_entries_do_not_hide_the_one_that_is_due(subject: Subject) -> None:
    await subject.fill(305)
    group = await subject.joined()
    *others, last = await group.read("me", 400, 0)
    await group.park(others)
    await group.park([last], counted=False)
    due = await group.due("me", NEVER, 9)
    assert (positions(list(due.deliveries)), due.parked) == ([305], 304)


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
    assert positions(list(back)) == list(range(2, 151))
    assert {d.attempt for d in back} == {1}
    await group.give_back("me", leave=True)
    assert positions(list((await group.due("other", NEVER, 9)).deliveries)) == [1]
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


async def test_a_dead_letter_keeps_its_reason_and_is_not_pending(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    one, two = await group.read("me", 9, 0)
    assert await group.bury(one, "POISON", "it says so itself", limit=10)
    await group.done([two])
    (letter,) = await group.dead_letters(10)
    assert (letter.position, letter.reason, letter.detail) == (1, "POISON", "it says so itself")
    assert (letter.attempts, letter.payload) == (1, b"event 1")
    assert letter.buried_at > 0
    assert (await group.due("me", AT_ONCE, 9)).deliveries == []


async def test_dead_letters_have_a_limit_and_nothing_is_lost_at_it(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    one, two = await group.read("me", 9, 0)
    assert await group.bury(one, "POISON", "", limit=1)
    assert not await group.bury(two, "POISON", "", limit=1)
    assert len(await group.dead_letters(10)) == 1
    assert positions(list((await group.due("me", AT_ONCE, 9)).deliveries)) == [2]


async def test_buried_twice_is_one_letter(subject: Subject) -> None:
    await subject.fill(1)
    group = await subject.joined()
    (one,) = await group.read("slow", 9, 0)
    (same,) = (await group.due("me", AT_ONCE, 9)).deliveries
    assert await group.bury(one, "POISON", "", limit=10)
    assert await group.bury(same, "POISON", "", limit=10)
    assert len(await group.dead_letters(10)) == 1


async def test_dead_letters_come_in_pages(subject: Subject) -> None:
    await subject.fill(5)
    group = await subject.joined()
    for delivery in await group.read("me", 9, 0):
        await group.bury(delivery, "POISON", "", limit=10)
    first = await group.dead_letters(3)
    rest = await group.dead_letters(3, first[-1].id)
    assert [letter.position for letter in (*first, *rest)] == [1, 2, 3, 4, 5]


async def test_redriven_letters_come_again_to_their_group_alone(subject: Subject) -> None:
    await subject.fill(2)
    group, other = await subject.joined(), await subject.joined("other")
    one, two = await group.read("me", 9, 0)
    await group.bury(one, "POISON", "", limit=10)
    await group.done([two])
    await other.done(await other.read("me", 9, 0))
    (letter,) = await group.dead_letters(10)
    assert await group.redrive([letter.id]) == 1
    assert await group.redrive([letter.id]) == 0
    assert list(await group.dead_letters(10)) == []
    assert list(await other.read("me", 9, 0)) == []
    (again,) = await group.read("me", 9, 0)
    assert (again.position, again.payload, again.attempt, again.redriven) == (1, b"event 1", 1, True)
    await group.park([again])
    (later,) = (await group.due("other", ONLY_PARKED, 9)).deliveries
    assert (later.position, later.attempt, later.redriven) == (1, 2, True)
    assert await group.bury(later, "STILL_POISON", "", limit=10)
    (letter,) = await group.dead_letters(10)
    assert letter.reason == "STILL_POISON"
    await group.redrive([letter.id])
    await group.done(await group.read("me", 9, 0))
    assert (await group.backlog()).undelivered == 0
    assert (await group.due("me", AT_ONCE, 9)).deliveries == []


async def test_a_waiting_reader_is_woken_by_what_is_redriven(subject: Subject) -> None:
    await subject.fill(1)
    group = await subject.joined()
    (one,) = await group.read("me", 9, 0)
    await group.bury(one, "POISON", "", limit=10)
    reading = asyncio.create_task(group.read("me", 9, 5))
    await asyncio.sleep(0)
    await group.redrive([letter.id for letter in await group.dead_letters(10)])
    assert [d.redriven for d in await reading] == [True]


async def test_discarded_letters_are_gone(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    for delivery in await group.read("me", 9, 0):
        await group.bury(delivery, "POISON", "", limit=10)
    first, second = await group.dead_letters(10)
    assert await group.discard([first.id]) == 1
    assert await group.discard([first.id]) == 0
    assert await group.discard([]) == 0
    assert [letter.id for letter in await group.dead_letters(10)] == [second.id]


async def test_trimming_keeps_what_any_group_still_needs(subject: Subject) -> None:
    await subject.fill(10)
    fast, slow = await subject.joined("fast"), await subject.joined("slow")
    await fast.done(await fast.read("me", 10, 0))
    acknowledged = await subject.stream.trim(())
    assert acknowledged is not None
    assert (acknowledged.floor, acknowledged.settled) == (0, 0)  # slow has read nothing
    one, two, three = await slow.read("me", 3, 0)
    await slow.done([one, three])  # 2 is pending
    acknowledged = await subject.stream.trim(())
    assert acknowledged is not None
    assert acknowledged.floor == 1
    await slow.done([two])
    acknowledged = await subject.stream.trim(())
    assert acknowledged is not None
    assert acknowledged.floor == 3
    assert await subject.stream.last() == 10
    late = await subject.joined("late")
    assert positions(list(await late.read("me", 20, 0))) == [4, 5, 6, 7, 8, 9, 10]


async def test_trimming_waits_for_the_groups_that_must_be_there(subject: Subject) -> None:
    assert await subject.stream.trim(()) is None
    await subject.fill(2)
    assert await subject.stream.trim(()) is None  # nobody has read: who knows who will
    group = await subject.joined()
    await group.done(await group.read("me", 9, 0))
    assert await subject.stream.trim(("readers", "others")) is None
    others = await subject.joined("others")
    assert positions(list(await others.read("me", 9, 0))) == [1, 2]


async def test_a_dead_letter_is_not_settled(subject: Subject) -> None:
    await subject.fill(4)
    group = await subject.joined()
    one, two, *rest = await group.read("me", 9, 0)
    await group.bury(two, "POISON", "", limit=10)
    await group.done([one, *rest])
    acknowledged = await subject.stream.trim(("readers",))
    assert acknowledged is not None
    assert (acknowledged.floor, acknowledged.settled) == (4, 1)
    (letter,) = await group.dead_letters(10)
    await group.redrive([letter.id])
    acknowledged = await subject.stream.trim(("readers",))
    assert acknowledged is not None
    assert acknowledged.settled == 1  # neither is one that is on its way again
    again = await group.read("me", 9, 0)
    acknowledged = await subject.stream.trim(("readers",))
    assert acknowledged is not None
    assert acknowledged.settled == 1
    await group.done(again)
    acknowledged = await subject.stream.trim(("readers",))
    assert acknowledged is not None
    assert acknowledged.settled == 4


async def test_a_stream_trimmed_empty_goes_on_where_it_was(subject: Subject) -> None:
    await subject.fill(3)
    group = await subject.joined()
    await group.done(await group.read("me", 9, 0))
    await subject.stream.trim(())
    assert await subject.stream.last() == 3
    await subject.fill(2, after=3)
    assert positions(list(await group.read("me", 9, 0))) == [4, 5]


async def test_what_is_settled_is_announced(subject: Subject) -> None:
    group = await subject.joined()
    assert await group.settled() == 0
    await subject.stream.announce(17)
    assert await group.settled() == 17
    await subject.lose()
    assert await group.settled() == 0


async def test_a_lost_stream_loses_its_groups_and_is_read_from_the_start(subject: Subject) -> None:
    await subject.fill(3)
    group = await subject.joined()
    held = await group.read("me", 9, 0)
    await subject.lose()
    assert await subject.stream.last() == 0
    assert await subject.stream.trim(()) is None
    with pytest.raises(GroupLost):
        await group.read("me", 9, 0)
    with pytest.raises(GroupLost):
        await group.due("me", AT_ONCE, 9)
    await group.done(held)  # harmless
    await subject.fill(3)
    await group.join()
    assert positions(list(await group.read("me", 9, 0))) == [1, 2, 3]


async def test_a_waiting_reader_notices_that_the_stream_is_lost(subject: Subject) -> None:
    group = await subject.joined()
    reading = asyncio.create_task(group.read("me", 9, 1))
    await asyncio.sleep(0)
    await subject.lose()
    with pytest.raises((GroupLost, StreamUnavailable)):
        await reading


async def test_the_backlog_counts(subject: Subject) -> None:
    await subject.fill(6)
    group = await subject.joined()
    one, two, three = await group.read("me", 3, 0)
    await group.done([one])
    await group.park([two])
    backlog = await group.backlog()
    assert (backlog.undelivered, backlog.pending, backlog.dead) == (3, 2, 0)
    await group.bury(three, "POISON", "", limit=10)
    backlog = await group.backlog()
    assert (backlog.undelivered, backlog.pending, backlog.dead) == (3, 1, 1)
    await group.redrive([letter.id for letter in await group.dead_letters(10)])
    assert (await group.backlog()).undelivered == 4


async def test_consumers_that_hold_something_are_not_forgotten(subject: Subject) -> None:
    await subject.fill(2)
    group = await subject.joined()
    await group.read("holds", 1, 0)
    await group.done(await group.read("idle", 1, 0))
    await group.tidy(idle=0)
    assert positions(list((await group.due("me", AT_ONCE, 9)).deliveries)) == [1]
