"""Streams of every kind over gRPC, ended from underneath: what the caller is told, and what is left behind."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from rescind import Guard, OtherHolder, RescindError
from rescind.grpc import GuardInterceptor, Rule, current_lease, current_principal
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard
from servicekit.metrics import Metrics
from servicekit.rpc import Edge
from servicekit.verification import _refuse

AUDIENCE = "urn:rescind:demo"
KINDS = ("ServerStream", "WritingStream", "ClientStream", "BothStream")


class Handlers:
    """One of each kind. Each says hello and then waits until it is cancelled."""

    def __init__(self) -> None:
        self.cancelled = list[str]()
        self.begun = asyncio.Semaphore(0)

    async def _wait(self) -> None:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(current_principal().subject)
            raise

    async def server_stream(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        await self._wait()

    async def writing_stream(self, _request: bytes, context: Any) -> None:
        await context.write(b"hello")
        await self._wait()

    async def client_stream(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        self.begun.release()
        return b" ".join([request async for request in requests])

    async def both_stream(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        self.begun.release()
        async for request in requests:
            try:
                await current_lease().extend(request.decode())
            except OtherHolder as refused:
                yield refused.reason.encode()
            else:
                yield current_lease().principal.jti.encode()

    async def flood(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.begun.release()
        while True:
            yield bytes(64 * 1024)

    async def failing(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"hello"
        raise RescindError("of its own")

    async def unary(self, _request: bytes, _context: Any) -> bytes:
        with pytest.raises(LookupError):
            current_lease()
        return b"hello"


@dataclass
class Wire:
    """A server, and a channel to it."""

    guard: Guard
    log: MemoryLog
    mint: TokenMint
    handlers: Handlers
    channel: grpc.aio.Channel
    metrics: Metrics

    def begin(self, name: str, token: str, requests: Any = None) -> Any:
        path, metadata = f"/demo.Greeter/{name}", [("authorization", f"Bearer {token}")]
        if name == "ClientStream":
            return self.channel.stream_unary(path)(requests, metadata=metadata, timeout=30)
        if name == "BothStream":
            return self.channel.stream_stream(path)(requests, metadata=metadata, timeout=30)
        return self.channel.unary_stream(path)(b"", metadata=metadata, timeout=30)

    async def begun(self, name: str, token: str, requests: Any = None) -> Any:
        call = self.begin(name, token, requests)
        async with asyncio.timeout(20):
            await self.handlers.begun.acquire()
        return call

    def revoke(self, *entries: Entry) -> None:
        self.guard.feed.receive(self.log.revoke(*entries))

    def codes(self) -> dict[str, float]:
        """Calls that the edge has accounted for, by status."""
        samples = [s for metric in self.metrics.rpc_seconds.collect() for s in metric.samples]
        return {s.labels["code"]: s.value for s in samples if s.name.endswith("_count")}


@pytest.fixture(params=["alone", "behind the edge"])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    mint = TokenMint()
    log, metrics, handlers = MemoryLog(mint), Metrics(), Handlers()
    guard = await fresh_guard(mint, AUDIENCE, log)
    make: dict[str, tuple[Callable[..., Any], Any]] = {
        "ServerStream": (grpc.unary_stream_rpc_method_handler, handlers.server_stream),
        "WritingStream": (grpc.unary_stream_rpc_method_handler, handlers.writing_stream),
        "ClientStream": (grpc.stream_unary_rpc_method_handler, handlers.client_stream),
        "BothStream": (grpc.stream_stream_rpc_method_handler, handlers.both_stream),
        "Flood": (grpc.unary_stream_rpc_method_handler, handlers.flood),
        "Failing": (grpc.unary_stream_rpc_method_handler, handlers.failing),
        "Unary": (grpc.unary_unary_rpc_method_handler, handlers.unary),
    }
    rules = {f"/demo.Greeter/{name}": Rule("read") for name in make}
    alone = request.param == "alone"
    interceptors = (
        [GuardInterceptor(guard, rules)] if alone else [Edge(metrics), GuardInterceptor(guard, rules, refuse=_refuse)]
    )
    server = grpc.aio.server(interceptors=interceptors, options=[("grpc.so_reuseport", 0)])
    methods = {name: kind(handler) for name, (kind, handler) in make.items()}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Greeter", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Wire(guard, log, mint, handlers, channel, metrics)
    await server.stop(None)


async def endless() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def drained(call: Any) -> None:
    """Reads until it ends."""
    async for _ in call:
        pass


async def outcome(call: Any) -> tuple[grpc.StatusCode, str, bool]:
    """Status, reason, and whether it says when to come again."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await (drained(call) if hasattr(call, "__aiter__") else call)
    raw = dict(failed.value.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(raw)  # type: ignore[arg-type]
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    hint = any(detail.Unpack(retry) for detail in status.details[1:])
    assert (status.code, info.domain) == (failed.value.code().value[0], "rescind")
    return failed.value.code(), info.reason, hint


@pytest.mark.requirement(21)
@pytest.mark.parametrize("name", KINDS)
async def test_a_revocation_ends_every_kind_of_stream_with_its_reason(wire: Wire, name: str) -> None:
    token = wire.mint.access_token(AUDIENCE, scope="read", sid="sid")
    other = wire.mint.access_token(AUDIENCE, scope="read", sid="another", jti="other")
    call = await wire.begun(name, token, endless())
    spared = await wire.begun("ServerStream", other)
    assert len(wire.guard.leases) == 2
    wire.revoke(Entry("session", "sid"))
    assert await outcome(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED", False)
    assert len(wire.guard.leases) == 1
    assert not spared.done()
    spared.cancel()


@pytest.mark.parametrize("name", KINDS)
async def test_a_stop_is_unavailable_and_says_when_to_come_again(wire: Wire, name: str) -> None:
    token = wire.mint.access_token(AUDIENCE, scope="read")
    call = await wire.begun(name, token, endless())
    wire.guard.leases.stop()
    assert await outcome(call) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", True)
    assert await outcome(wire.begin(name, token, endless())) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING", True)


async def test_a_soft_revocation_says_that_a_refresh_helps(wire: Wire) -> None:
    call = await wire.begun("ServerStream", wire.mint.access_token(AUDIENCE, scope="read"))
    wire.revoke(Entry("subject", "usr_alice", gen=2, soft=True))
    assert await outcome(call) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_STALE", False)
    assert wire.handlers.cancelled == ["usr_alice"]


async def test_a_new_token_over_the_stream_extends_it(wire: Wire) -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def requests() -> AsyncIterator[bytes]:
        while True:
            yield await queue.get()

    call = await wire.begun("BothStream", wire.mint.access_token(AUDIENCE, scope="read", jti="old"), requests())
    answers = aiter(call)
    assert await anext(answers) == b"hello"
    queue.put_nowait(wire.mint.access_token(AUDIENCE, scope="read", jti="new").encode())
    assert await anext(answers) == b"new"
    queue.put_nowait(wire.mint.access_token(AUDIENCE, scope="read", sub="usr_bob").encode())
    assert await anext(answers) == b"TOKEN_OF_ANOTHER"
    wire.revoke(Entry("token", "old"))
    queue.put_nowait(wire.mint.access_token(AUDIENCE, scope="read", jti="newest").encode())
    assert await anext(answers) == b"newest"
    wire.revoke(Entry("token", "newest"))
    with pytest.raises(grpc.aio.AioRpcError, match=r"TOKEN_REVOKED|taken back"):
        await anext(answers)


async def test_a_caller_that_does_not_read_is_not_waited_for(wire: Wire) -> None:
    call = await wire.begun("Flood", wire.mint.access_token(AUDIENCE, scope="read", jti="jti"))
    wire.revoke(Entry("token", "jti"))
    assert len(wire.guard.leases) == 0
    assert (await outcome(call))[1] == "TOKEN_REVOKED"


async def test_a_caller_that_goes_away_leaves_no_lease(wire: Wire) -> None:
    calls = [await wire.begun("ServerStream", wire.mint.access_token(AUDIENCE, scope="read")) for _ in range(3)]
    calls.append(await wire.begun("Flood", wire.mint.access_token(AUDIENCE, scope="read")))
    for call in calls:
        call.cancel()
    async with asyncio.timeout(20):
        while len(wire.guard.leases):  # noqa: ASYNC110  (the far end tells nobody)
            await asyncio.sleep(0)


async def test_an_error_of_the_handler_is_its_own(wire: Wire) -> None:
    call = wire.begin("Failing", wire.mint.access_token(AUDIENCE, scope="read"))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await drained(call)
    assert failed.value.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert len(wire.guard.leases) == 0


async def test_one_call_and_one_answer_hold_no_lease(wire: Wire) -> None:
    metadata = [("authorization", f"Bearer {wire.mint.access_token(AUDIENCE, scope='read')}")]
    call = wire.channel.unary_unary("/demo.Greeter/Unary")
    assert await call(b"", metadata=metadata, timeout=20) == b"hello"


@pytest.mark.parametrize("wire", ["behind the edge"], indirect=True)
async def test_the_edge_accounts_for_the_end_of_a_stream(wire: Wire) -> None:
    revoked = await wire.begun("ServerStream", wire.mint.access_token(AUDIENCE, scope="read", sid="sid"))
    stopped = await wire.begun("BothStream", wire.mint.access_token(AUDIENCE, scope="read"), endless())
    wire.revoke(Entry("session", "sid"))
    await outcome(revoked)
    wire.guard.leases.stop()
    await outcome(stopped)
    assert wire.codes() == {"UNAUTHENTICATED": 1, "UNAVAILABLE": 1}
    assert wire.metrics.unforeseen._value.get() == 0
