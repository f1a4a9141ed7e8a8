"""The feed against whoever forges and alters: messages, keys, and the log itself, of which there may be two."""

import pytest

from rescind import Feed, RemoteKeySet, StaticKeySet
from rescind.messages import Entry, Heartbeat, RevocationMessage, digest, genesis
from rescind.testing import MemoryLog, TokenMint, rsa_key
from support.feed_world import FRESH, STALE, World


@pytest.fixture
async def world() -> World:
    return await World().synced()


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
