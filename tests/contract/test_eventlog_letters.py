"""One exam for every stream: dead letters, trimming, and what is left when a stream is lost."""

import asyncio

import pytest

from eventlog.stream import GroupLost, StreamUnavailable
from support.eventlog_streams import (
    AT_ONCE,
    ONLY_PARKED,
    Subject,
    positions,
    subject,
)

__all__ = ["subject"]


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
    assert positions((await group.due("me", AT_ONCE, 9)).deliveries) == [2]


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
    assert positions(await late.read("me", 20, 0)) == [4, 5, 6, 7, 8, 9, 10]


async def test_trimming_waits_for_the_groups_that_must_be_there(subject: Subject) -> None:
    assert await subject.stream.trim(()) is None
    await subject.fill(2)
    assert await subject.stream.trim(()) is None  # nobody has read: who knows who will
    group = await subject.joined()
    await group.done(await group.read("me", 9, 0))
    assert await subject.stream.trim(("readers", "others")) is None
    others = await subject.joined("others")
    assert positions(await others.read("me", 9, 0)) == [1, 2]


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
    assert positions(await group.read("me", 9, 0)) == [4, 5]


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
    assert positions(await group.read("me", 9, 0)) == [1, 2, 3]


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
    assert positions((await group.due("me", AT_ONCE, 9)).deliveries) == [1]
