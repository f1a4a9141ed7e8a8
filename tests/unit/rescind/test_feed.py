"""The feed against channels that lose, delay, repeat, reorder and hide, and against time."""

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from rescind import Feed, StaticKeySet
from rescind.chain import RECENT_HASHES
from rescind.ledger import MAX_PENDING
from rescind.messages import Entry
from rescind.testing import MemoryLog
from support.feed_world import FRESH, STALE, SYNCING, World


@pytest.fixture
async def world() -> World:
    return await World().synced()


# Freshness


async def test_syncing_until_a_heartbeat_is_satisfied_then_fresh_then_stale() -> None:
    world = World(replay=None)
    assert world.state is SYNCING
    world.revoke("a")
    assert not world.refuses("a")  # of which log? No heartbeat has said yet
    world.beat()
    assert world.state is SYNCING
    await world.feed.catch_up()
    assert world.state is FRESH
    assert world.refuses("a")
    world.time.advance(2.999)
    assert world.state is FRESH
    world.time.advance(0.001)
    assert world.state is STALE
    world.beat()
    assert world.state is FRESH


async def test_stale_is_computed_when_asked_not_by_a_timer(world: World) -> None:
    world.time.monotonic += 3600  # the machine slept; no code of ours ran
    assert world.state is STALE


async def test_a_log_with_nothing_alive_needs_nothing() -> None:
    world = World(source=None)
    for name in "abc":
        world.revoke(name, push=False)
    world.log.floor = 4
    world.beat()
    assert world.state is FRESH
    assert world.feed.knowledge.position == 3
    assert len(world.feed.knowledge.denylist) == 0


async def test_a_newer_heartbeat_that_is_not_satisfied_takes_nothing_away(world: World) -> None:
    world.revoke("lost", push=False)
    world.beat()
    assert world.feed.irregular
    assert world.state is FRESH
    world.time.advance(3)
    assert world.state is STALE  # only time takes it away


async def test_a_heartbeat_is_as_old_as_its_at_says(world: World) -> None:
    held_back = world.log.heartbeat()
    world.time.advance(1.5)
    world.feed.receive(held_back)
    world.time.advance(1.49)
    assert world.state is FRESH
    world.time.advance(0.02)
    assert world.state is STALE


async def test_a_heartbeat_played_again_is_nothing(world: World) -> None:
    heartbeat = world.log.heartbeat()
    world.feed.receive(heartbeat)
    for _ in range(10):
        world.time.advance(0.5)
        world.feed.receive(heartbeat)
    assert world.state is STALE


@pytest.mark.parametrize("ahead", [-300.0, -2.1, 2.1, 300.0])
async def test_clocks_that_disagree_are_settled_by_a_nonce(ahead: float) -> None:
    world = World()
    world.identity_ahead = ahead
    world.beat()
    assert world.state is SYNCING  # its `at` says nothing about its age
    world.revoke("a")
    await world.feed.catch_up()
    assert world.log.replays == 1
    assert world.state is FRESH
    assert world.refuses("a")
    world.time.advance(3)
    assert world.state is STALE
    world.beat()
    assert world.state is STALE
    await world.feed.catch_up()
    assert world.state is FRESH


async def test_an_answer_is_aged_from_when_it_was_asked_for(world: World) -> None:
    world.time.advance(2)

    class Slow(MemoryLog):
        async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
            heartbeat = world.log.heartbeat(nonce)
            world.time.advance(2.5)
            yield heartbeat

    feed = Feed(world.mint.issuer, world.mint.log_keys, replay=Slow(world.mint), clock=world.time.clock)
    await feed.catch_up()
    assert feed.freshness() is FRESH
    world.time.advance(0.5)
    assert feed.freshness() is STALE


async def test_a_heartbeat_held_back_too_long_still_says_what_is_revoked_and_which_keys_are(world: World) -> None:
    world.log.kids = frozenset({"another"})
    held_back = world.log.heartbeat()
    world.time.advance(2.5)
    world.feed.receive(held_back)
    assert world.feed.knowledge.kids == {"another"}
    world.time.advance(0.5)
    assert world.state is STALE


async def test_an_answer_with_another_nonce_is_no_answer(world: World) -> None:
    world.time.advance(10)
    recorded = [raw async for raw in world.log.replay(world.log.log, 0, "somebody else's")]

    class Recorded(MemoryLog):
        async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
            for raw in recorded:
                yield raw

    feed = Feed(world.mint.issuer, world.mint.log_keys, replay=Recorded(world.mint), clock=world.time.clock)
    await feed.catch_up()
    assert feed.freshness() is SYNCING


async def test_identity_may_set_its_clock_back(world: World) -> None:
    world.identity_ahead = 1.5
    world.beat()
    world.identity_ahead = -1.0
    world.log._last_at = 0
    world.time.advance(2)
    world.beat()
    assert world.feed.freshness() is FRESH  # by the one before, not by this one
    world.time.advance(2)
    assert world.state is STALE
    await world.feed.catch_up()  # its answer moves `at` back
    world.time.advance(2)
    world.beat()
    world.time.advance(1.5)  # with the second by which its clock is behind ours: 2.5
    assert world.state is FRESH


# Gaps


async def test_a_message_ahead_of_its_predecessors_refuses_at_once_but_does_not_count(world: World) -> None:
    world.revoke("lost", push=False)
    world.revoke("came")
    assert world.refuses("came")
    assert world.feed.knowledge.position == 0
    assert world.feed.irregular
    await world.feed.catch_up()
    assert world.refuses("lost", "came")
    assert world.feed.knowledge.position == 2
    assert world.observer.catch_ups == [("log", 1)]  # nobody had to say where the log ends: the message said it


async def test_reordered_and_repeated_messages_are_one(world: World) -> None:
    messages = [world.revoke(name, push=False) for name in "abcde"]
    for index in (4, 2, 2, 0, 3, 4, 1, 0):
        world.feed.receive(messages[index])
    assert world.feed.knowledge.position == 5
    assert len(world.feed.knowledge.denylist) == 5
    assert len(world.observer.delays) == 5
    world.beat()
    assert await world.feed.catch_up()
    assert world.observer.catch_ups == []  # there was nothing left to get


async def test_what_redis_does_not_have_identity_has(world: World) -> None:
    world.revoke("hidden", push=False)
    world.revoke("there", push=False)
    world.log.hidden = {1}
    world.beat()
    await world.feed.catch_up()
    assert world.refuses("hidden", "there")
    assert world.state is FRESH
    assert world.observer.catch_ups == [("replay", 2)]


async def test_a_log_trimmed_past_our_position_is_a_gap(world: World) -> None:
    for name in "abcdef":
        world.revoke(name, push=False)
    world.log.hidden = {1, 2, 3}
    world.log.replaying = False
    world.beat()
    await world.feed.catch_up()
    assert not world.refuses("a")
    assert world.feed.knowledge.position == 0
    world.time.advance(3)
    assert world.state is STALE
    world.log.replaying = True
    await world.feed.catch_up()
    assert world.refuses(*"abcdef")
    assert world.state is FRESH


async def test_a_new_reader_is_not_content_with_less_than_the_floor() -> None:
    world = World()
    for name in "abc":
        world.revoke(name, push=False)

    class Hiding(MemoryLog):
        async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
            yield world.log.messages[3]
            yield world.log.heartbeat(nonce)

    feed = Feed(world.mint.issuer, world.mint.log_keys, replay=Hiding(world.mint), clock=world.time.clock)
    await feed.catch_up()
    assert feed.freshness() is SYNCING


async def test_a_reader_that_was_away_for_long_goes_on_from_the_floor(world: World) -> None:
    for name in "abcdef":
        world.revoke(name, push=False)
    world.log.floor = 5
    world.beat()
    await world.feed.catch_up()
    assert world.refuses("e", "f")
    assert not world.refuses("a")
    assert world.state is FRESH
    assert world.observer.catch_ups == [("log", 2)]


async def test_what_waits_for_the_dead_is_let_go(world: World) -> None:
    for name in "abcdef":
        world.revoke(name, push=name == "c")
    world.log.floor = 5
    world.beat()
    assert await world.feed.catch_up()
    assert world.feed.knowledge.position == 6
    assert await world.feed.catch_up()
    assert world.observer.catch_ups == [("log", 2)]


async def test_more_pushes_than_we_keep_are_caught_up_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rescind.ledger.MAX_PENDING", 5)
    assert MAX_PENDING > 1000
    world.revoke("lost", push=False)
    for number in range(20):
        world.revoke(f"ahead-{number}")
    assert world.feed.knowledge.denylist.counts()["token"] == 5
    world.beat()
    await world.feed.catch_up()
    assert world.feed.knowledge.position == 21
    assert world.refuses("lost", *(f"ahead-{number}" for number in range(20)))


async def test_a_heartbeat_may_be_a_little_behind_what_we_hold(world: World) -> None:
    behind = world.log.heartbeat()
    for number in range(RECENT_HASHES - 1):
        world.revoke(f"{number}")
    world.feed.receive(behind)
    assert world.state is FRESH
    assert not world.feed.irregular


# The floor


async def test_what_is_below_the_floor_is_forgotten(world: World) -> None:
    for name in "abc":
        world.revoke(name)
    world.log.floor = 3
    world.beat()
    assert not world.feed.knowledge.denylist.matches("token", "b")
    assert world.refuses("c")


async def test_a_floor_that_is_not_satisfied_forgets_nothing(world: World) -> None:
    world.revoke("a")
    world.revoke("lost", push=False)
    world.log.floor = 2
    world.beat()
    assert world.refuses("a")


async def test_it_is_at_least_as_late_as_when_something_was_forgotten(world: World) -> None:
    world.revoke("a")
    world.identity_ahead = 300  # our clock is five minutes behind identity's
    world.log.floor = 2
    world.beat()
    await world.feed.catch_up()
    assert not world.refuses("a")
    assert world.feed.knowledge.at_least == pytest.approx(world.time.wall + 300, abs=0.01)
    world.identity_ahead = 0  # and identity's is set back
    world.log._last_at = 0
    world.time.advance(2)
    await world.feed.catch_up()
    assert world.feed.knowledge.at_least == pytest.approx(world.time.wall + 298, abs=0.01)


# Silence


async def test_silence_is_a_reason_to_ask(world: World) -> None:
    world.revoke("unheard", push=False)
    assert await world.feed.catch_up() is True
    assert world.log.replays == 0
    world.time.advance(1.3)
    assert await world.feed.catch_up() is False
    assert world.log.replays == 1
    assert world.refuses("unheard")
    world.time.advance(2.9)
    assert world.state is FRESH


@pytest.mark.parametrize("failing", ["read", "replay"])
async def test_a_source_that_fails_is_a_source_that_gave_nothing(world: World, failing: str) -> None:
    class Broken(MemoryLog):
        async def read(self, log: str, after: int, limit: int) -> list[bytes]:
            raise ConnectionError("broken")

        async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
            raise ConnectionError("broken")
            yield b""

    broken = Broken(world.mint)
    if failing == "read":
        world.feed._source = broken
    else:
        world.feed._replay = broken
    world.revoke("a", push=False)
    world.beat()
    await world.feed.catch_up()
    assert world.refuses("a")


async def test_a_replay_without_an_end_is_no_answer(world: World) -> None:
    class Endless(MemoryLog):
        async def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
            for message in world.log.messages.values():
                yield message

    world.revoke("a", push=False)
    world.time.advance(3)
    world.feed._replay = Endless(world.mint)
    world.feed._source = None
    await world.feed.catch_up()
    assert not world.refuses("a")
    assert world.state is STALE


async def test_applied_is_told_with_its_delay(world: World) -> None:
    message = world.revoke("a", push=False)
    world.time.advance(0.25)
    world.feed.receive(message)
    assert world.observer.delays == [pytest.approx(0.25, abs=0.001)]


async def test_an_entry_of_an_unknown_kind_is_ignored_but_its_position_counts(world: World) -> None:
    entry = replace(Entry("token", "a"), kind="tenant")  # type: ignore[arg-type]
    world.feed.receive(world.log.revoke(entry, Entry("session", "s")))
    world.beat()
    assert world.feed.knowledge.denylist.matches("session", "s")
    assert world.feed.knowledge.position == 1
    assert not world.feed.irregular


def test_a_feed_needs_somebody_to_hear_from() -> None:
    with pytest.raises(ValueError, match="source"):
        Feed("https://issuer.test", StaticKeySet({}))
