"""The feed against channels that lose, delay, repeat, reorder, hide, alter and forge, and against time."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from rescind import Feed, FeedObserver, Freshness, RemoteKeySet, StaticKeySet
from rescind.chain import RECENT_HASHES
from rescind.ledger import MAX_PENDING
from rescind.messages import Entry, Heartbeat, RevocationMessage, digest, genesis
from rescind.testing import ManualClock, MemoryLog, TokenMint, rsa_key

FRESH, STALE, SYNCING = Freshness.FRESH, Freshness.STALE, Freshness.SYNCING


class Counting(FeedObserver):
    """Counts what a feed tells."""

    def __init__(self) -> None:
        self.unreadable_messages: list[str] = []
        self.catch_ups: list[tuple[str, int]] = []
        self.delays: list[float] = []

    def applied(self, log: str, position: int, delay: float) -> None:
        self.delays.append(delay)

    def unreadable(self, why: str) -> None:
        self.unreadable_messages.append(why)

    def caught_up(self, source: str, messages: int) -> None:
        self.catch_ups.append((source, messages))


class World:
    """Identity in memory, a feed that listens to it, and the time of both."""

    def __init__(self, **feed: Any) -> None:
        self.time = ManualClock()
        self.mint = TokenMint(now=lambda: self.time.wall)
        self.identity_ahead = 0.0  # seconds by which identity's clock differs from ours
        self.log = MemoryLog(self.mint, now=lambda: self.time.wall + self.identity_ahead)
        self.observer = Counting()
        sources = {"source": self.log, "replay": self.log, **feed}
        self.feed = Feed(self.mint.issuer, self.mint.log_keys, observer=self.observer, clock=self.time.clock, **sources)

    def revoke(self, name: str, *, push: bool = True) -> bytes:
        """A token is taken back; pushed unless the channel loses it."""
        message = self.log.revoke(Entry("token", name))
        if push:
            self.feed.receive(message)
        return message

    def beat(self) -> None:
        self.feed.receive(self.log.heartbeat())

    def refuses(self, *names: str) -> bool:
        return all(self.feed.knowledge.denylist.matches("token", name) for name in names)

    @property
    def state(self) -> Freshness:
        return self.feed.freshness()

    async def synced(self) -> "World":
        """The world once the feed knows everything through push alone."""
        await self.feed.catch_up()
        self.beat()
        assert self.state is FRESH
        self.log.replays = 0
        self.observer.catch_ups.clear()
        return self


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


# Forgeries


def _forgeries(world: World) -> dict[str, bytes]:
    mint, log = world.mint, world.log
    message = RevocationMessage(log.log, 1, genesis(log.log), (Entry("token", "forged"),), "FORGED", 0)
    heartbeat = Heartbeat(log.log, 0, genesis(log.log), 1, frozenset({"mallory"}), int(world.time.wall * 1000) + 500)
    elsewhere = TokenMint("https://other.test", now=lambda: world.time.wall)
    good = mint.message(message).decode()
    return {
        "by a stranger's key": mint.message(message, key="mallory"),
        "by the key of access tokens": mint.message(message, key=mint.kid),
        "a heartbeat by a stranger's key": mint.message(heartbeat, key="mallory"),
        "of another issuer": elsewhere.message(message),
        "cut short": good[:-2].encode(),
        "altered": (good[:60] + ("A" if good[60] != "A" else "B") + good[61:]).encode(),
        "as an access token": mint.sign({"iss": mint.issuer}, key=mint.log_kid, headers={"kid": mint.log_kid}).encode(),
        "no event": mint.sign(
            {"iss": mint.issuer}, key=mint.log_kid, headers={"kid": mint.log_kid, "typ": "secevent+jwt"}
        ).encode(),
        "nothing": b"",
        "garbage": b"\xff\xfe\x00",
        "enormous": b"a" * 10_000_000,
    }


@pytest.mark.parametrize("name", list(_forgeries(World())))
async def test_a_forgery_on_the_channel_changes_nothing(world: World, name: str) -> None:
    world.feed.receive(_forgeries(world)[name])
    assert len(world.observer.unreadable_messages) == 1
    assert len(world.feed.knowledge.denylist) == 0
    assert world.feed.knowledge.kids == {world.mint.kid}
    assert world.state is FRESH
    await world.feed.catch_up()
    world.revoke("real")
    world.beat()
    assert world.refuses("real")
    assert not world.feed.irregular


async def test_an_unreadable_revocation_is_read_from_the_log(world: World) -> None:
    message = world.revoke("spoiled", push=False)
    world.feed.receive(message[:-3] + b"xyz")
    assert world.feed.irregular
    await world.feed.catch_up()
    assert world.refuses("spoiled")


async def test_a_flood_of_garbage_is_one_look_a_second(world: World) -> None:
    reads = 0
    read = world.log.read

    async def counted(log: str, after: int, limit: int) -> list[bytes]:
        nonlocal reads
        reads += 1
        return await read(log, after, limit)

    world.log.read = counted  # type: ignore[method-assign]
    for _ in range(50):
        for _ in range(20):
            world.feed.receive(b"garbage")
        await world.feed.catch_up()
    assert reads == 1
    assert world.log.replays == 0
    world.time.advance(1)
    world.feed.receive(b"garbage")
    await world.feed.catch_up()
    assert reads == 2


@pytest.mark.parametrize("how", ["altered", "another message", "cut short", "no JWS"])
async def test_a_log_that_was_tampered_with_is_not_believed_and_left_alone(world: World, how: str) -> None:
    for name in "abc":
        world.revoke(name, push=False)
    good = world.log.messages[2]
    stranger = RevocationMessage(world.log.log, 2, digest(world.log.messages[1]), (Entry("token", "x"),), "FORGED", 0)
    tampered = {
        "altered": good[:-9] + b"AAAAAAAAQ",
        "another message": world.mint.message(stranger, key="mallory"),
        "cut short": good[:40],
        "no JWS": b"\x00",
    }[how]
    genuine, world.log.messages[2] = world.log.messages[2], tampered
    world.beat()
    world.log.replaying = False
    await world.feed.catch_up()
    assert len(world.feed.knowledge.denylist) == 0  # not even what came before: nothing vouches for it
    assert len(world.observer.unreadable_messages) == 1
    world.log.messages[2] = genuine
    world.log.replaying = True
    await world.feed.catch_up()
    assert world.observer.catch_ups == [("replay", 3)]  # the log has lost our trust for a while
    assert world.refuses(*"abc")
    assert not world.refuses("x")
    assert world.state is FRESH


async def test_a_replay_that_was_tampered_with_is_not_believed(world: World) -> None:
    world.revoke("a", push=False)
    world.log.messages[1] = world.mint.message(
        RevocationMessage(world.log.log, 1, genesis(world.log.log), (Entry("token", "forged"),), "FORGED", 0),
        key="mallory",
    )
    world.time.advance(3)
    await world.feed.catch_up()
    assert len(world.feed.knowledge.denylist) == 0
    assert world.state is STALE


# Keys


async def test_a_key_left_out_is_refused_at_once_whatever_is_missing(world: World) -> None:
    world.revoke("lost", push=False)
    world.log.kids = frozenset({"new"})
    world.beat()
    assert world.feed.knowledge.kids == {"new"}
    assert world.feed.knowledge.former_kids == {world.mint.kid}
    assert world.feed.irregular


async def test_an_old_heartbeat_brings_no_key_back(world: World) -> None:
    before = world.log.heartbeat()
    world.log.kids = frozenset({"new"})
    world.beat()
    world.feed.receive(before)
    assert world.feed.knowledge.kids == {"new"}


async def test_a_key_that_identity_accepts_and_we_lack_is_fetched() -> None:
    fetched = 0

    async def fetch() -> bytes:
        nonlocal fetched
        fetched += 1
        raise ValueError("not today")

    world = World(token_keys=RemoteKeySet(fetch))
    world.beat()
    assert world.feed.irregular
    await world.feed.catch_up()
    assert fetched == 1


async def test_a_log_key_that_we_lack_is_fetched_and_the_message_read_after_all(world: World) -> None:
    class Late(StaticKeySet):
        refreshed = 0

        async def refresh(self) -> None:
            self.refreshed += 1
            self.__init__({"log-2": rsa_key("log-2").public_key(), "log-1": rsa_key("log-1").public_key()})  # type: ignore[misc]

    keys = Late({"log-1": rsa_key("log-1").public_key()})
    feed = Feed(world.mint.issuer, keys, world.log, world.log, clock=world.time.clock)
    await feed.catch_up()
    world.mint.log_kid = "log-2"
    feed.receive(world.log.heartbeat())
    message = world.revoke("signed by the new key", push=False)
    feed.receive(message)
    assert feed.irregular
    await feed.catch_up()
    assert keys.refreshed == 1
    assert feed.knowledge.denylist.matches("token", "signed by the new key")


# Two histories, and new logs


async def test_a_smaller_head_is_no_word_of_an_honest_log(world: World) -> None:
    for name in "abc":
        world.revoke(name)
    world.beat()
    head, head_hash = world.log.head, world.log.head_hash
    world.log.head, world.log.head_hash = 2, digest(world.log.messages[2])  # SQL restored from a backup
    for _ in range(4):
        world.time.advance(1)
        world.beat()
        await world.feed.catch_up()
    assert world.state is STALE
    assert world.refuses(*"abc")
    world.log.head, world.log.head_hash = head, head_hash
    world.beat()
    assert world.state is FRESH


@pytest.mark.parametrize("by", ["push", "log", "replay"])
async def test_two_histories_of_one_log_are_never_fresh_again(world: World, by: str) -> None:
    for name in "abc":
        world.revoke(name)
    world.beat()
    log = world.log
    log.head, log.head_hash = 2, digest(log.messages[2])  # a backup without "c", and life goes on from there
    world.time.advance(1)
    messages = [world.revoke(name, push=False) for name in ("C", "D")]
    if by == "push":
        for message in messages:
            world.feed.receive(message)
    elif by == "log":
        log.replaying = False
    world.beat()
    await world.feed.catch_up()
    assert world.state is STALE  # at once
    for _ in range(5):
        world.time.advance(1)
        world.beat()
        await world.feed.catch_up()
        assert world.state is STALE
    assert world.refuses(*"abc")
    world.revoke("E")
    assert world.refuses("E")  # refusing more is always safe


async def test_another_hash_at_a_position_that_we_hold_is_another_history(world: World) -> None:
    world.revoke("a")
    world.beat()
    world.log.head, world.log.head_hash = 0, genesis(world.log.log)
    world.revoke("A", push=False)
    world.time.advance(1)
    world.beat()
    assert world.state is STALE


def _new_log(world: World, name: str = "log_new") -> MemoryLog:
    world.time.advance(1)
    log = MemoryLog(world.mint, log=name, now=lambda: world.time.wall)
    log.kids = frozenset({"new"})
    return log


async def test_a_new_log_is_held_in_full_then_takes_the_place_of_the_old(world: World) -> None:
    world.revoke("old")
    world.beat()
    new = _new_log(world)
    new.revoke(Entry("token", "carried over"))
    feed = world.feed
    feed.receive(new.heartbeat())
    assert feed.knowledge.kids == {"new"}  # every token of the old time is refused from here on
    assert feed.knowledge.log == world.log.log
    ahead = new.revoke(Entry("token", "while we catch up"))
    feed.receive(ahead)
    feed._source = feed._replay = new
    await feed.catch_up()
    assert feed.knowledge.log == "log_new"
    assert world.refuses("carried over", "while we catch up")
    assert not world.refuses("old")
    assert feed.knowledge.position == 2
    assert world.state is FRESH


async def test_a_new_log_is_found_by_asking(world: World) -> None:
    new = _new_log(world)
    new.revoke(Entry("token", "carried over"))
    world.time.advance(3)
    world.feed._replay = new
    await world.feed.catch_up()
    assert world.feed.knowledge.log == "log_new"
    assert world.state is FRESH
    assert world.refuses("carried over")


async def test_the_old_log_renews_nothing_once_there_is_a_new_one(world: World) -> None:
    new = _new_log(world)
    new.revoke(Entry("token", "carried over"))
    world.feed.receive(new.heartbeat())
    for _ in range(4):
        world.time.advance(1)
        world.beat()  # a replica that does not know yet, or a recording
    assert world.state is STALE
    world.feed._source = world.feed._replay = new
    await world.feed.catch_up()
    assert world.state is FRESH
    world.time.advance(3)
    world.beat()
    assert world.feed.knowledge.log == "log_new"
    assert world.state is STALE


async def test_a_new_log_in_which_nothing_lives_counts_at_once(world: World) -> None:
    world.revoke("old")
    new = _new_log(world)
    world.feed.receive(new.heartbeat())
    assert world.feed.knowledge.log == "log_new"
    assert world.state is FRESH
    assert len(world.feed.knowledge.denylist) == 0


async def test_two_histories_end_with_a_new_log(world: World) -> None:
    world.revoke("a")
    world.beat()
    forked = RevocationMessage(world.log.log, 1, genesis(world.log.log), (), "OTHER", 1)
    world.feed.receive(world.mint.message(forked))
    assert world.state is STALE
    new = _new_log(world)
    world.feed.receive(new.heartbeat())
    assert world.state is FRESH


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
