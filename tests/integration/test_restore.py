"""SQL that went back in time: noticed, a new log, and nothing that was refused is accepted again."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from identity.domain import AccessToken, InvalidGrant
from identity.revocations import ENTRIES_PER_MESSAGE
from identity.storage import signing_keys
from rescind.denylist import Denylist
from rescind.feed import Feed
from rescind.keys import StaticKeySet
from rescind.messages import REDIS_HEARTBEAT_KEY, REDIS_STREAM_PREFIX, Heartbeat
from rescind.redis_source import RedisSource
from rescind.state import Freshness
from support.identity_core import ISSUER, Clock, Core, KeyDrawer, core, keys_of_claims


def _backup(database: Path, copy: Path) -> None:
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def _heartbeat(identity: Core, redis: "Redis") -> Heartbeat:
    raw = redis.get(REDIS_HEARTBEAT_KEY)
    message = identity.tx(lambda tx: identity.parts.revocations.read(tx, raw))
    assert isinstance(message, Heartbeat)
    return message


class History:
    """A process that committed, was backed up, and committed more: what came after is what a restore forgets."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.database, self.copy, self.redis_url = folder / "identity.db", folder / "backup.db", redis_url
        self.clock = Clock()

    async def happen(self, *, published: bool = True) -> None:
        async with core(f"sqlite:///{self.database}", self.redis_url, clock=self.clock) as identity:
            await identity.parts.publisher.tick()
            self.log = identity.tx(identity.parts.revocations.snapshot).log
            self.gid = identity.grant()
            self.refresh = identity.refresh(self.gid)
            self.early, self.late, self.untouched = (identity.access(self.gid) for _ in range(3))
            self._revoke(identity, self.early)
            await identity.parts.publisher.tick()
            _backup(self.database, self.copy)
            self._revoke(identity, self.late)
            if published:
                await identity.parts.publisher.tick()

    def _revoke(self, identity: Core, token: AccessToken) -> None:
        identity.tx(lambda tx: identity.parts.revocations.revoke_token(tx, token.claims["jti"], "TEST"))

    def restored(self, keys: int = 8) -> "AsyncIterator[Core]":
        return core(  # type: ignore[return-value]  # an async context manager
            f"sqlite:///{self.copy}", self.redis_url, clock=self.clock, keys=KeyDrawer(keys)
        )

    def assert_nothing_of_before_is_good(self, identity: Core) -> None:
        for token in (self.early, self.late, self.untouched):
            assert not identity.is_living(token)
        with pytest.raises(InvalidGrant):
            identity.access(self.gid)
        with pytest.raises(InvalidGrant):
            identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, self.refresh, "mobile"))
        assert identity.is_living(identity.access(identity.grant()))


@pytest.fixture
def history(tmp_path: Path, embedded_redis_url: str) -> History:
    return History(tmp_path, embedded_redis_url)


async def test_a_restored_backup_is_noticed_and_a_new_log_begins(history: History) -> None:
    await history.happen()
    async with history.restored() as identity:
        kids_before = identity.tx(identity.parts.keyring.accepted_kids)
        assert identity.is_living(history.late)  # the danger: SQL has forgotten
        await identity.parts.publisher.tick()
        with Redis.from_url(history.redis_url) as redis:
            heartbeat = _heartbeat(identity, redis)
            assert heartbeat.log != history.log
            assert not heartbeat.kids & kids_before
            assert redis.exists(REDIS_STREAM_PREFIX + history.log) == 0
            assert redis.xlen(REDIS_STREAM_PREFIX + heartbeat.log) == heartbeat.head
        history.assert_nothing_of_before_is_good(identity)
        carried = Denylist()
        for row in identity.log():
            for entry in identity.tx(lambda tx, row=row: identity.parts.revocations.read(tx, row.message)).entries:
                carried.add(row.pos, entry, row.cause)
        assert carried.match(keys_of_claims(history.early)) is not None


@pytest.mark.parametrize("beyond", [1, 3])
async def test_a_restored_backup_that_went_on_is_noticed_by_its_hashes(history: History, beyond: int) -> None:
    """SQL has as many positions as before, or more; only their messages are others."""
    await history.happen()
    async with history.restored() as identity:
        for number in range(beyond):
            identity.tx(lambda tx, number=number: identity.parts.revocations.revoke_token(tx, f"x-{number}", "TEST"))
        await identity.parts.publisher.tick()
        assert identity.tx(identity.parts.revocations.snapshot).log != history.log
        history.assert_nothing_of_before_is_good(identity)


async def test_the_heartbeat_alone_gives_a_restored_backup_away(history: History) -> None:
    await history.happen()
    with Redis.from_url(history.redis_url) as redis:
        redis.delete(REDIS_STREAM_PREFIX + history.log)
    async with history.restored() as identity:
        await identity.parts.publisher.tick()
        assert identity.tx(identity.parts.revocations.snapshot).log != history.log


async def test_a_restore_nobody_could_notice_is_what_the_command_is_for(history: History) -> None:
    """Redis was emptied together with the restore: no witness is left."""
    await history.happen()
    with Redis.from_url(history.redis_url) as redis:
        redis.flushall()
    async with history.restored() as identity:
        await identity.parts.publisher.tick()
        assert identity.tx(identity.parts.revocations.snapshot).log == history.log
        await identity.parts.administration.begin_new_log(history.log)
        history.assert_nothing_of_before_is_good(identity)


async def test_two_replicas_that_notice_at_once_begin_one_log(history: History) -> None:
    await history.happen()
    async with history.restored(8) as one, history.restored(16) as two:
        await asyncio.gather(one.parts.publisher.tick(), two.parts.publisher.tick())
        (log,) = {each.tx(each.parts.revocations.snapshot).log for each in (one, two)}
        assert log != history.log
        active = [key for key in one.tx(one.parts.keyring.keys) if key.status == "active"]
        assert len(active) == 1
        await one.parts.publisher.tick()
        assert one.tx(one.parts.revocations.snapshot).log == log


async def test_a_verifier_goes_over_to_the_new_log_and_is_never_fresh_on_the_old_one(history: History) -> None:
    await history.happen()
    async with history.restored() as identity:
        log_keys = StaticKeySet(
            {
                kid: identity.tx(
                    lambda tx, kid=kid: identity.parts.keyring.any_public_key(tx, "log", kid)  # type: ignore[misc]
                )
                for kid in identity.tx(lambda tx: identity.parts.keyring.accepted_kids(tx, "log"))
            }
        )
        source = RedisSource(history.redis_url)
        from rescind.feed import Clock as FeedClock

        feed = Feed(
            ISSUER, log_keys, source, clock=FeedClock(wall=lambda: history.clock.ms / 1000, monotonic=lambda: 1.0)
        )
        try:
            with Redis.from_url(history.redis_url) as redis:
                feed.receive(redis.get(REDIS_HEARTBEAT_KEY))
                await feed.catch_up()
                assert feed.freshness() is Freshness.FRESH
                assert feed.knowledge.denylist.match(keys_of_claims(history.late)) is not None
                history.clock.forward(1)
                await identity.parts.publisher.tick()
                feed.receive(redis.get(REDIS_HEARTBEAT_KEY))
                await feed.catch_up()
                heartbeat = _heartbeat(identity, redis)
            assert feed.knowledge.log == heartbeat.log != history.log
            assert feed.knowledge.kids == heartbeat.kids
            old_kid = identity.tx(
                lambda tx: tx.execute(signing_keys.select().where(signing_keys.c.status == "revoked")).first()
            )
            assert old_kid is not None
            assert old_kid.kid not in heartbeat.kids  # so every token of before is refused, remembered or not
        finally:
            await source.aclose()


async def test_what_lives_is_carried_over_packed_and_in_order(tmp_path: Path) -> None:
    async with core(f"sqlite:///{tmp_path}/identity.db") as identity:
        count = ENTRIES_PER_MESSAGE * 2 + 5
        for number in range(count):
            identity.tx(lambda tx, number=number: identity.parts.revocations.revoke_token(tx, f"j-{number}", "TEST"))
        ended = identity.tx(identity.parts.revocations.snapshot).log
        begun = await identity.parts.administration.begin_new_log(ended)
        assert await identity.parts.administration.begin_new_log(ended) == begun
        rows = identity.log()
        assert [row.pos for row in rows] == [1, 2, 3]
        assert [entry["id"] for row in rows for entry in row.entries] == [f"j-{number}" for number in range(count)]
        user = identity.user()
        assert user.gen == user.hard_gen == (1 << 32) + 1
        await identity.parts.administration.begin_new_log(begun)
        assert identity.user().gen == (2 << 32) + 1  # the count is kept, the epoch is new
