"""Hints that wake live readers: early, twice, wrong, or never."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from notifications.channels.live import Live, LiveMetrics, Watch
from notifications.channels.pubsub import NoWakeUps, read
from notifications.domain import Person

ALICE, BOB = Person("usr_alice"), Person("usr_bob")


class Told:
    """`WakeUps` in the test's hands."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Mapping[Person, int]] = asyncio.Queue()
        self.hear: Callable[[Person, int], None] = lambda *_: None
        self.listening = asyncio.Event()

    async def send(self, hints: Mapping[Person, int]) -> None:
        await self.sent.put(dict(hints))

    async def receive(self, hear: Callable[[Person, int], None]) -> None:
        self.hear = hear
        self.listening.set()
        await asyncio.Event().wait()


async def _nothing(_persons: Sequence[Person]) -> Mapping[Person, int]:
    return {}


async def test_a_watch_waits_for_what_is_beyond() -> None:
    watch = Watch()
    assert not await watch.beyond(0, within=0.001)
    waiting = asyncio.create_task(watch.beyond(3, within=20))
    for sequence, news in ((2, True), (3, True), (3, False), (4, True)):
        assert watch.tell(sequence) is news
    assert await waiting
    assert await watch.beyond(3, within=0)


async def test_a_hint_that_was_wrong_is_not_believed_twice_and_a_new_one_is() -> None:
    watch = Watch()
    watch.tell(1000)
    assert await watch.beyond(5, within=0)
    watch.disprove(1000, 5)
    assert not await watch.beyond(5, within=0.001)
    watch.tell(6)
    watch.disprove(1000, 5)  # of a look that began before this hint: it says nothing about it
    assert await watch.beyond(5, within=0)


async def test_what_was_committed_here_is_heard_here_and_told_to_others_once() -> None:
    wake_ups = Told()
    live = Live(_nothing, wake_ups, metrics=LiveMetrics(CollectorRegistry()))
    running = asyncio.create_task(live.run())
    with live.watching(ALICE) as watch, live.watching(BOB) as other:
        live.grown([(ALICE, 1), (ALICE, 2)])
        live.grown([(ALICE, 3)])
        assert (watch.up_to, other.up_to) == (3, 0)
        assert await wake_ups.sent.get() == {ALICE: 3}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_others_tell_and_what_a_sweep_finds_wakes_exactly_those_concerned() -> None:
    wake_ups = Told()
    looked: list[list[Person]] = []
    swept = asyncio.Event()

    async def look(persons: Sequence[Person]) -> Mapping[Person, int]:
        looked.append(list(persons))
        if len(looked) == 1:
            raise OSError("the database is away for a moment")
        swept.set()
        return {BOB: 9}

    registry = CollectorRegistry()
    live = Live(look, wake_ups, metrics=LiveMetrics(registry), sweep=0.01)
    with live.watching(ALICE) as alice, live.watching(BOB) as bob, live.watching(BOB) as bob_too:
        running = asyncio.create_task(live.run())
        await wake_ups.listening.wait()
        wake_ups.hear(ALICE, 4)
        assert (alice.up_to, bob.up_to) == (4, 0)
        assert await bob.beyond(8, within=20)
        assert await bob_too.beyond(8, within=20)
        assert sorted(looked[1]) == [ALICE, BOB]
        assert registry.get_sample_value("notifications_live_streams") == 3
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert registry.get_sample_value("notifications_live_streams") == 0
    assert live._watches == {}


async def test_a_process_alone_tells_nobody() -> None:
    await NoWakeUps().send({ALICE: 1})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await NoWakeUps().receive(lambda *_: None)


def test_hints_are_read_and_rubbish_is_left_out() -> None:
    data = b"usr_alice 7\nrubbish\nusr_bob 0\nusr_bob 08\nsvc_x 3\nusr_bob 12\nusr_\xff 1\nusr_bob -1\nusr_bob 1 2\n"
    assert read(data) == [(ALICE, 7), (BOB, 12)]


@given(st.binary(max_size=2000))
def test_whatever_is_published_harms_nobody(data: bytes) -> None:
    assert all(person.startswith("usr_") and sequence > 0 for person, sequence in read(data))


def test_a_flood_in_one_message_is_cut() -> None:
    assert len(read(b"\n".join(b"usr_a %d" % n for n in range(1, 5000)))) == 200
