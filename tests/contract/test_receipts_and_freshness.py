"""A guard that reports receipts comes to know everything as fast as one that does not, wherever its start finds it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from rescind import Feed, Freshness, Guard, Reporter, RevokedToken, Verifier
from rescind.feed import LogSource
from rescind.grpc_source import GrpcIdentity
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint
from support.sources import TOKEN, MemoryPath, Path, StandIn, identity_stand_in, redis_path

AUDIENCE = "urn:rescind:orders"
PATIENCE = 20.0  # seconds that a test waits for something that takes milliseconds
LIVING = 500  # revocations before the start


class Tokens:
    """This process's token, always the same."""

    async def __call__(self) -> str:
        return TOKEN

    def forget(self, refused: str) -> None:
        """There is no other."""


@pytest.fixture(params=["redis", "replay only"])
async def path(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Path, LogSource | None]]:
    """A log through Redis, or one that only identity tells."""
    if request.param == "replay only":
        yield MemoryPath(MemoryLog(TokenMint())), None
        return
    async with redis_path(request.getfixturevalue("embedded_redis_url")) as over_redis:
        yield over_redis, over_redis.source


@pytest.mark.parametrize("trouble", ["none", "reports hang", "reports fail"])
async def test_it_becomes_fresh_where_revocations_exist_at_its_start(
    path: tuple[Path, LogSource | None], trouble: str
) -> None:
    way, source = path
    log = way.log
    for number in range(LIVING):
        await way.revoke(Entry("token", f"jti-{number}"))
    await way.beat()
    async with identity_stand_in(log) as (identity, channel):
        _trouble(identity, trouble)
        sink = GrpcIdentity(channel, Tokens())
        feed = Feed(log.mint.issuer, log.mint.log_keys, source, sink)
        verifier = Verifier(log.mint.issuer, AUDIENCE, log.mint.keys, feed)
        guard = Guard(verifier, feed, introspector=sink, reporter=Reporter(feed, AUDIENCE, sink))
        async with guard.running(), asyncio.timeout(PATIENCE):
            while feed.freshness() is not Freshness.FRESH:  # noqa: ASYNC110  (a heartbeat comes with each second)
                await asyncio.sleep(0)
            assert feed.knowledge.position == LIVING
            with pytest.raises(RevokedToken):
                await guard.authenticate(log.mint.access_token(AUDIENCE, jti="jti-7"))
            if trouble == "none":
                first = await identity.reports.get()
                assert (first.verifier.position, first.verifier.log) == (LIVING, log.log)
                await way.revoke(Entry("token", "later"))
                if source is None:
                    await guard.feed.catch_up()
                told = await identity.reports.get()
                assert (told.verifier.position, [one.position for one in told.applied]) == (LIVING + 1, [LIVING + 1])
    if trouble == "none":
        goodbye = identity.reports.get_nowait()
        while not goodbye.leaving:
            goodbye = identity.reports.get_nowait()


def _trouble(identity: StandIn, trouble: str) -> None:
    report = identity.Report

    async def failing(request: object, context: grpc.aio.ServicerContext) -> object:  # type: ignore[type-arg]
        if trouble == "reports hang":
            await asyncio.Event().wait()
        if trouble == "reports fail":
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an identity of an earlier version")
        return await report(request, context)

    identity.Report = failing  # type: ignore[method-assign,assignment]
