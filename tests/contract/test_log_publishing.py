"""The log in Redis ends like SQL a tick later, whatever happened to it. On the embedded Valkey and on Redis."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisGone

from identity.domain import Position
from identity.keyring import SigningKey, generate
from identity.publisher import Publisher
from rescind.messages import (
    MESSAGE_TYPE,
    REDIS_CHANNEL,
    REDIS_FIELD,
    REDIS_HEARTBEAT_KEY,
    REDIS_STREAM_PREFIX,
    Heartbeat,
    RevocationMessage,
    claims_of,
)
from support.identity_core import ISSUER, Core, KeyDrawer, core
from support.redis_servers import embedded_valkey


class Log:
    """One identity process and what its Redis holds."""

    def __init__(self, identity: Core, redis: "Redis") -> None:
        self.identity = identity
        self.redis = redis

    @property
    def publisher(self) -> Publisher:
        return self.identity.parts.publisher

    @property
    def name(self) -> str:
        return self.identity.tx(self.identity.parts.revocations.snapshot).log

    @property
    def stream(self) -> str:
        return REDIS_STREAM_PREFIX + self.name

    def revoke(self, count: int, prefix: str = "jti") -> list[Position]:
        """Commits that many revocations; publishes nothing."""
        log = self.identity.parts.revocations
        return [
            self.identity.tx(lambda tx, number=number: log.revoke_token(tx, f"{prefix}-{number}", "TEST"))
            for number in range(count)
        ]

    def held(self) -> list[tuple[int, bytes]]:
        entries = self.redis.xrange(self.stream)
        return [(int(id_.partition(b"-")[0]), fields[REDIS_FIELD.encode()]) for id_, fields in entries]

    def in_sql(self) -> list[tuple[int, bytes]]:
        floor = self.identity.tx(self.identity.parts.revocations.snapshot).floor
        return [(row.pos, row.message) for row in self.identity.log() if row.pos >= floor]

    def kept_heartbeat(self) -> Heartbeat:
        raw = self.redis.get(REDIS_HEARTBEAT_KEY)
        message = self.identity.tx(lambda tx: self.identity.parts.revocations.read(tx, raw))
        assert isinstance(message, Heartbeat)
        return message

    def assert_like_sql(self) -> None:
        assert self.held() == self.in_sql()
        snapshot = self.identity.tx(self.identity.parts.revocations.snapshot)
        heartbeat = self.kept_heartbeat()
        assert (heartbeat.log, heartbeat.head, heartbeat.hash) == (snapshot.log, snapshot.head, snapshot.hash)


@pytest.fixture
async def log(redis_url: str, tmp_path: object) -> AsyncIterator[Log]:
    # An acknowledgement that gave up waiting for a busy machine would say nothing about what was published.
    async with core(f"sqlite:///{tmp_path}/identity.db", redis_url, publish_wait_ms=5000) as identity:
        with Redis.from_url(redis_url) as redis:
            yield Log(identity, redis)


async def test_the_first_tick_makes_an_empty_log_and_a_heartbeat(log: Log) -> None:
    await log.publisher.tick()
    log.assert_like_sql()
    assert log.kept_heartbeat().head == 0
    assert log.redis.type(log.stream) == b"stream"


async def test_what_is_committed_is_appended_and_pushed_as_the_same_bytes(log: Log) -> None:
    await log.publisher.tick()
    with log.redis.pubsub(ignore_subscribe_messages=True) as pushed:
        pushed.subscribe(REDIS_CHANNEL)
        pushed.get_message(timeout=5)
        log.revoke(3)
        await log.publisher.flush()
        got = [pushed.get_message(timeout=5) for _ in range(3)]
    assert [message["data"] for message in got if message] == [message for _, message in log.in_sql()]
    assert log.held() == log.in_sql()


def _emptied(log: Log) -> None:
    log.redis.flushall()


def _hole(log: Log) -> None:
    log.redis.xdel(log.stream, "3-0")


def _oldest_gone(log: Log) -> None:
    log.redis.xtrim(log.stream, minid="3-0")


def _newest_removed(log: Log) -> None:
    log.redis.xdel(log.stream, "5-0")


def _all_removed(log: Log) -> None:
    log.redis.xtrim(log.stream, maxlen=0, approximate=False)


def _forged_ahead(log: Log) -> None:
    log.redis.xadd(log.stream, {REDIS_FIELD: "not.a.message"}, id="6-0")


def _forged_by(log: Log, key: SigningKey) -> None:
    message = RevocationMessage(log.name, 6, "prev", (), "FORGED", 1)
    log.redis.xadd(log.stream, {REDIS_FIELD: key.sign(MESSAGE_TYPE, claims_of(message, ISSUER, "x"))}, id="6-0")


def _forged_under_our_kid(log: Log) -> None:
    keyring = log.identity.parts.keyring
    kid = log.identity.tx(lambda tx: keyring.signing_key(tx, "log")).kid
    _forged_by(log, SigningKey(kid, generate().private))


def _signed_by_a_key_for_tokens(log: Log) -> None:
    keyring = log.identity.parts.keyring
    _forged_by(log, log.identity.tx(lambda tx: keyring.signing_key(tx, "access")))


def _altered(log: Log) -> None:
    log.redis.xdel(log.stream, "5-0")
    held = log.held()
    log.redis.delete(log.stream)
    for pos, message in [*held, (5, b"not.a.message")]:
        log.redis.xadd(log.stream, {REDIS_FIELD: message}, id=f"{pos}-0")


def _strange_field(log: Log) -> None:
    log.redis.xadd(log.stream, {"x": "y", "z": "0"}, id="9-7")


def _another_type(log: Log) -> None:
    log.redis.delete(log.stream)
    log.redis.set(log.stream, "mine")


def _old_message_in_front(log: Log) -> None:
    log.redis.xadd(log.stream, {REDIS_FIELD: log.held()[0][1]}, id="6-0")


def _lagging_replica(log: Log) -> None:
    held = log.held()
    log.redis.delete(log.stream)
    for pos, message in held[:2]:
        log.redis.xadd(log.stream, {REDIS_FIELD: message}, id=f"{pos}-0")


def _forged_heartbeat(log: Log) -> None:
    log.redis.set(REDIS_HEARTBEAT_KEY, "not.a.heartbeat")
    log.redis.delete(log.stream)


@pytest.mark.parametrize(
    "harm",
    [
        _emptied,
        _hole,
        _oldest_gone,
        _newest_removed,
        _all_removed,
        _forged_ahead,
        _forged_under_our_kid,
        _signed_by_a_key_for_tokens,
        _altered,
        _strange_field,
        _another_type,
        _old_message_in_front,
        _lagging_replica,
        _forged_heartbeat,
    ],
)
async def test_whatever_was_done_to_the_log_a_tick_mends_it(log: Log, harm: Callable[[Log], None]) -> None:
    await log.publisher.tick()
    before = log.name
    log.revoke(5)
    await log.publisher.flush()
    harm(log)
    await log.publisher.tick()
    log.assert_like_sql()
    assert log.name == before  # nobody who can write to Redis can end a log
    log.revoke(1, "afterwards")
    await log.publisher.flush()
    assert log.held() == log.in_sql()
    assert [pos for pos, _ in log.held()] == [1, 2, 3, 4, 5, 6]


async def test_a_flush_that_finds_the_log_gone_mends_it_without_waiting_for_a_tick(log: Log) -> None:
    await log.publisher.tick()
    log.revoke(2)
    log.redis.flushall()
    await log.publisher.flush()
    assert log.held() == log.in_sql()


async def test_what_no_living_token_matches_is_trimmed_and_positions_go_on(log: Log) -> None:
    await log.publisher.tick()
    log.revoke(3, "old")
    log.identity.clock.forward(500)
    log.revoke(2, "young")
    await log.publisher.tick()
    assert [pos for pos, _ in log.held()] == [1, 2, 3, 4, 5]
    log.identity.clock.forward(900 + 5 + 60 - 500)
    await log.publisher.tick()
    assert [pos for pos, _ in log.held()] == [4, 5]
    assert log.kept_heartbeat().floor == 4
    log.identity.clock.forward(500)
    await log.publisher.tick()
    assert log.held() == []
    assert log.kept_heartbeat().floor == 6
    log.revoke(1, "next")
    await log.publisher.flush()
    assert [pos for pos, _ in log.held()] == [6]


async def test_positions_go_on_in_a_redis_that_was_emptied_when_nothing_was_alive(log: Log) -> None:
    await log.publisher.tick()
    log.revoke(3)
    log.identity.clock.forward(10_000)
    log.redis.flushall()
    await log.publisher.tick()
    assert log.held() == []
    log.revoke(1, "next")
    await log.publisher.flush()
    assert [pos for pos, _ in log.held()] == [4]
    assert log.held() == log.in_sql()


async def test_many_messages_are_rebuilt_and_continued_in_pages(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity.publisher.PAGE", 7)
    await log.publisher.tick()
    log.revoke(30)
    await log.publisher.flush()
    assert log.held() == log.in_sql()
    log.redis.flushall()
    await log.publisher.tick()
    log.assert_like_sql()
    _lagging_replica(log)
    await log.publisher.tick()
    log.assert_like_sql()


async def test_replicas_that_tick_and_mend_at_once_do_no_harm(redis_url: str, tmp_path: object) -> None:
    url = f"sqlite:///{tmp_path}/identity.db"
    async with core(url, redis_url) as one, core(url, redis_url, clock=one.clock, keys=KeyDrawer(8)) as two:
        with Redis.from_url(redis_url) as redis:
            log = Log(one, redis)
            for turn in range(10):
                log.revoke(3, f"turn-{turn}")
                if turn % 2:
                    redis.flushall()
                publishers = [one.parts.publisher, two.parts.publisher] * 2
                await asyncio.gather(*(publisher.tick() for publisher in publishers))
                log.assert_like_sql()
            assert not list(redis.scan_iter("*aside*"))


async def test_without_redis_a_revocation_is_committed_and_its_caller_does_not_wait_long(tmp_path: object) -> None:
    async with core(f"sqlite:///{tmp_path}/identity.db", publish_wait_ms=50) as identity:
        running = asyncio.create_task(identity.parts.publisher.run())
        try:
            began = asyncio.get_running_loop().time()
            position = await identity.parts.administration.revoke("token", "a-jti", cause="TEST")
            assert asyncio.get_running_loop().time() - began < 1.0
            assert position.pos == 1
            assert identity.parts.publisher.in_trouble
        finally:
            running.cancel()
        with pytest.raises((RedisGone, OSError)):
            await identity.parts.publisher.tick()


async def test_a_revoked_key_is_out_of_the_heartbeat_before_its_revocation_is_answered(log: Log) -> None:
    running = asyncio.create_task(log.publisher.run())
    try:
        administration = log.identity.parts.administration
        active = next(key.kid for key in await administration.keys() if key.status == "active")
        await log.publisher.beat_now()
        assert active in log.kept_heartbeat().kids
        await administration.revoke("key", active, cause="STOLEN")
        assert active not in log.kept_heartbeat().kids
    finally:
        running.cancel()


async def test_a_frozen_redis_holds_nobody_up_and_is_brought_up_to_date_when_it_thaws(tmp_path: object) -> None:
    server = embedded_valkey()
    server.start()
    url = f"redis://127.0.0.1:{server.port}/0"
    try:
        async with core(f"sqlite:///{tmp_path}/identity.db", url) as identity:
            await identity.parts.publisher.tick()
            running = asyncio.create_task(identity.parts.publisher.run())
            os.kill(server._process.pid, signal.SIGSTOP)
            try:
                began = asyncio.get_running_loop().time()
                position = await identity.parts.administration.revoke("token", "a-jti", cause="TEST")
                assert asyncio.get_running_loop().time() - began < 1.0
                assert position.pos == 1
            finally:
                os.kill(server._process.pid, signal.SIGCONT)
                running.cancel()
            await identity.parts.publisher.tick()
            with Redis.from_url(url) as redis:
                Log(identity, redis).assert_like_sql()
    finally:
        server.stop()
