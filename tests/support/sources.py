"""The two ends of the way from identity to a verifier, for the suites that every source must pass.

A `Path` is how messages get to a source: through memory, or through a real Redis that identity's own scripts fill.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import grpc
import grpc.aio
from redis.asyncio import Redis

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc, tokens_pb2, tokens_pb2_grpc
from identity.redis_log import RedisLog
from rescind.feed import LogSource
from rescind.messages import Entry
from rescind.redis_source import RedisSource
from rescind.testing import MemoryLog, TokenMint

TOKEN = "the-token-of-this-process"


class Path(Protocol):
    """What identity does, and the source at the other end."""

    source: LogSource

    async def revoke(self, *entries: Entry) -> bytes:
        """Appends a message to the log and pushes it."""
        ...

    async def beat(self) -> bytes:
        """Pushes a heartbeat, keeps it, and trims the log below its floor."""
        ...

    @property
    def log(self) -> MemoryLog:
        """What identity's database would hold."""
        ...


class MemoryPath:
    """Everything in memory."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.source: LogSource = log

    async def revoke(self, *entries: Entry) -> bytes:
        return self.log.revoke(*entries)

    async def beat(self) -> bytes:
        return self.log.beat()


class RedisPath:
    """Through a real Redis, by the scripts that identity uses."""

    def __init__(self, log: MemoryLog, client: "Redis", source: RedisSource) -> None:
        self.log = log
        self.source: LogSource = source
        self._redis = RedisLog(client)

    async def begin(self) -> None:
        """What identity's mending does when it finds nothing."""
        seen = await self._redis.look(self.log.log)

        async def nothing() -> AsyncIterator[list[tuple[int, bytes]]]:
            for page in ():
                yield page

        assert await self._redis.rebuild(self.log.log, nothing(), begin=0, seen=seen)

    async def revoke(self, *entries: Entry) -> bytes:
        message = self.log.revoke(*entries)
        appended = await self._redis.append(self.log.log, [(self.log.head, message)])
        assert appended.ok
        return message

    async def beat(self) -> bytes:
        heartbeat = self.log.heartbeat()
        await self._redis.beat(self.log.log, self.log.floor, heartbeat)
        return heartbeat


@asynccontextmanager
async def redis_path(url: str) -> AsyncIterator[RedisPath]:
    """A path through the Redis at `url`, which is empty."""
    source = RedisSource(url)
    async with Redis.from_url(url) as client:
        path = RedisPath(MemoryLog(TokenMint()), client, source)
        await path.begin()
        try:
            yield path
        finally:
            await source.aclose()


class StandIn(revocations_pb2_grpc.RevocationsServiceServicer, tokens_pb2_grpc.TokensServiceServicer):
    """Identity's Replay, Introspect and Report over a MemoryLog, for callers that show `TOKEN`.

    `failing` is the status that every call gets; `hanging` lets calls wait until their deadline.
    """

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.failing: grpc.StatusCode | None = None
        self.inactive = ""
        self.hanging = False
        self.calls = 0
        self.reports: asyncio.Queue[revocations_pb2.ReportRequest] = asyncio.Queue()

    async def Replay(self, request: revocations_pb2.ReplayRequest, context: Any) -> Any:  # noqa: N802
        await self._admit(context)
        async for message in self.log.replay(request.log, request.after, request.nonce):
            yield revocations_pb2.ReplayResponse(message=message)

    async def Introspect(self, _request: Any, context: Any) -> tokens_pb2.IntrospectResponse:  # noqa: N802
        await self._admit(context)
        return tokens_pb2.IntrospectResponse(active=not self.inactive, reason=self.inactive)

    async def Report(self, request: Any, context: Any) -> revocations_pb2.ReportResponse:  # noqa: N802
        await self._admit(context)
        self.reports.put_nowait(request)
        return revocations_pb2.ReportResponse(next_in_ms=3000)

    async def _admit(self, context: Any) -> None:
        self.calls += 1
        if self.hanging:
            await asyncio.Event().wait()
        if self.failing is not None:
            await context.abort(self.failing, "as the test wishes")
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


@asynccontextmanager
async def identity_stand_in(log: MemoryLog) -> AsyncIterator[tuple[StandIn, grpc.aio.Channel]]:
    """A gRPC server that answers as identity does, and a channel to it."""
    stand_in = StandIn(log)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    revocations_pb2_grpc.add_RevocationsServiceServicer_to_server(stand_in, server)
    tokens_pb2_grpc.add_TokensServiceServicer_to_server(stand_in, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stand_in, channel
    await server.stop(None)
