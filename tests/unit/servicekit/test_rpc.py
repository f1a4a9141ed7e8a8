"""The edge of gRPC, on a real server: rich statuses, and never an exception's text."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from rescind.errors import InsufficientScope, NotFresh, RescindError, RevokedToken, UntrustedToken
from servicekit.errors import ERROR_DOMAIN, Kind, ServiceError
from servicekit.metrics import Metrics
from servicekit.rpc import CHANNEL_OPTIONS, DETAILS_KEY, MAX_MESSAGE, SERVER_OPTIONS, Edge
from servicekit.telemetry import outgoing

FAILURES: dict[bytes, Exception] = {
    b"service": ServiceError(Kind.CONFLICT, "TAKEN", "It is taken.", retry_after=0.2, fields={"name": "taken"}),
    b"revoked": RevokedToken("session", "SIGNED_OUT"),
    b"untrusted": UntrustedToken("the inner reason"),
    b"scope": InsufficientScope(frozenset({"b", "a"})),
    b"not-fresh": NotFresh("the inner reason"),
    b"unforeseen": ZeroDivisionError("hunter2"),
}
Call = Callable[[bytes], Awaitable[Any]]


async def _unary(request: bytes, context: Any) -> bytes:
    if request in FAILURES:
        raise FAILURES[request]
    if request == b"trace":
        return outgoing()["traceparent"].encode()
    if request == b"abort":
        await context.abort(grpc.StatusCode.DATA_LOSS, "its own words")
    if request == b"wait":
        await asyncio.Event().wait()
    return request


def _parse(message: bytes) -> bytes:
    if message == b"unreadable":
        raise ValueError("hunter2")
    return message


async def _stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"first"
    yield await _unary(request, context)


async def _writes(request: bytes, context: Any) -> None:
    await context.write(b"first")
    await context.write(await _unary(request, context))


CLOSED: list[str] = []


async def _floods(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    began_in = asyncio.current_task()
    try:
        while True:
            yield bytes(16 * 1024)
    finally:
        CLOSED.append("in its own task" if asyncio.current_task() is began_in else "elsewhere")


async def _gather(requests: AsyncIterator[bytes], context: Any) -> bytes:
    return b",".join([await _unary(request, context) async for request in requests])


async def _echo(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield await _unary(request, context)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def channel(metrics: Metrics) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Edge(metrics)], options=SERVER_OPTIONS)
    make: Any = grpc  # whose types know handlers that are no coroutines only
    handlers = {
        "Unary": make.unary_unary_rpc_method_handler(_unary, request_deserializer=_parse),
        "Stream": make.unary_stream_rpc_method_handler(_stream, request_deserializer=_parse),
        "Writes": make.unary_stream_rpc_method_handler(_writes),
        "Floods": make.unary_stream_rpc_method_handler(_floods),
        "Gather": make.stream_unary_rpc_method_handler(_gather, request_deserializer=_parse),
        "Echo": make.stream_stream_rpc_method_handler(_echo, request_deserializer=_parse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        yield channel
    await server.stop(None)


async def _requests(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def _call(channel: grpc.aio.Channel, kind: str, request: bytes) -> list[bytes]:
    if kind == "Unary":
        return [await channel.unary_unary("/test.Service/Unary")(request, timeout=5)]
    if kind == "Gather":
        return [await channel.stream_unary("/test.Service/Gather")(_requests(request), timeout=5)]
    if kind == "Stream":
        return [item async for item in channel.unary_stream("/test.Service/Stream")(request, timeout=5)][1:]
    return [item async for item in channel.stream_stream("/test.Service/Echo")(_requests(request), timeout=5)]


def _details(error: grpc.aio.AioRpcError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == ERROR_DOMAIN
    assert len(info.metadata["request_id"]) == 16
    return status, info


KINDS = ["Unary", "Stream", "Gather", "Echo"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [
        (b"service", grpc.StatusCode.ABORTED, "TAKEN"),
        (b"revoked", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED"),
        (b"untrusted", grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNTRUSTED"),
        (b"scope", grpc.StatusCode.PERMISSION_DENIED, "INSUFFICIENT_SCOPE"),
        (b"not-fresh", grpc.StatusCode.UNAVAILABLE, "VERIFIER_NOT_FRESH"),
        (b"unforeseen", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
@pytest.mark.requirement(81)
async def test_the_vocabulary_over_grpc(
    channel: grpc.aio.Channel, kind: str, name: bytes, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _call(channel, kind, name)
    _, info = _details(failed.value)
    assert (failed.value.code(), info.reason) == (code, reason)
    seen = f"{failed.value.details()} {failed.value.trailing_metadata()}"
    assert not any(hidden in seen for hidden in ("hunter2", "ZeroDivision", "the inner reason"))


@pytest.mark.parametrize("kind", KINDS)
async def test_what_goes_well_is_left_alone(channel: grpc.aio.Channel, kind: str) -> None:
    assert await _call(channel, kind, b"hello") == [b"hello"]


async def test_when_to_try_again_and_what_was_wrong_are_told(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _call(channel, "Unary", b"service")
    status, _ = _details(failed.value)
    retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    assert status.details[1].Unpack(retry)
    assert status.details[2].Unpack(bad)
    assert retry.retry_delay.ToMilliseconds() == 200
    assert [(fault.field, fault.description) for fault in bad.field_violations] == [("name", "taken")]


async def test_a_handlers_own_abort_passes(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _call(channel, "Unary", b"abort")
    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.DATA_LOSS, "its own words")


async def test_the_trace_goes_on(channel: grpc.aio.Channel) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (("traceparent", f"00-{trace}-b7ad6b7169203331-01"),)
    answer = await channel.unary_unary("/test.Service/Unary")(b"trace", metadata=metadata, timeout=5)
    assert answer.decode().split("-")[1] == trace


async def test_a_message_too_large_is_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _call(channel, "Unary", b"x" * (MAX_MESSAGE + 1))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_calls_are_counted_by_method_and_status(channel: grpc.aio.Channel, metrics: Metrics) -> None:
    await _call(channel, "Unary", b"ok")
    for name in (b"service", b"abort"):
        with pytest.raises(grpc.aio.AioRpcError):
            await _call(channel, "Unary", name)
    with pytest.raises(grpc.aio.AioRpcError):
        await channel.unary_unary("/test.Service/Nothing")(b"", timeout=5)
    count = metrics.registry.get_sample_value
    for code in ("OK", "ABORTED", "DATA_LOSS"):
        assert count("grpc_server_seconds_count", {"method": "/test.Service/Unary", "code": code}) == 1, code
    assert count("grpc_server_seconds_count", {"method": "/test.Service/Nothing", "code": "UNIMPLEMENTED"}) is None


async def test_a_caller_that_gives_up_is_counted_as_cancelled(channel: grpc.aio.Channel, metrics: Metrics) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary("/test.Service/Unary")(b"wait", timeout=0.1)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    labels = {"method": "/test.Service/Unary", "code": "CANCELLED"}
    async with asyncio.timeout(5):
        while metrics.registry.get_sample_value("grpc_server_seconds_count", labels) != 1:  # noqa: ASYNC110
            await asyncio.sleep(0)  # the server counts when its task ends, and tells nobody


def test_every_refusal_of_the_verifier_has_words() -> None:
    from servicekit.errors import understood

    def leaves(cls: type[RescindError]) -> list[type[RescindError]]:
        return [leaf for child in cls.__subclasses__() for leaf in leaves(child)] or [cls]

    special = {RevokedToken: ("token", "X"), InsufficientScope: (frozenset({"x"}),)}
    kinds = {leaf: understood(leaf(*special.get(leaf, ("why",)))) for leaf in leaves(RescindError)}
    assert len(kinds) >= 7
    assert all(error is not None and error.reason == leaf.reason for leaf, error in kinds.items())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_message_that_is_none_is_refused_and_counted(
    channel: grpc.aio.Channel, metrics: Metrics, kind: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _call(channel, kind, b"unreadable")
    _, info = _details(failed.value)
    assert (failed.value.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_UNREADABLE")
    assert "hunter2" not in str(failed.value)
    labels = {"method": f"/test.Service/{kind}", "code": "INVALID_ARGUMENT"}
    assert metrics.registry.get_sample_value("grpc_server_seconds_count", labels) == 1


async def test_a_handler_may_write_by_itself(channel: grpc.aio.Channel, metrics: Metrics) -> None:
    call = channel.unary_stream("/test.Service/Writes")
    assert [item async for item in call(b"second", timeout=5)] == [b"first", b"second"]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        assert [item async for item in call(b"unforeseen", timeout=5)]
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in str(failed.value)
    assert metrics.registry.get_sample_value(
        "grpc_server_seconds_count", {"method": "/test.Service/Writes", "code": "OK"}
    )


async def test_a_stream_whose_caller_goes_away_is_closed_where_it_ran(channel: grpc.aio.Channel) -> None:
    CLOSED.clear()
    call = channel.unary_stream("/test.Service/Floods")(b"", timeout=20)
    await call.read()
    call.cancel()
    async with asyncio.timeout(20):
        while not CLOSED:  # noqa: ASYNC110  (the far end tells nobody)
            await asyncio.sleep(0)
    assert CLOSED == ["in its own task"]  # and not by whoever collects garbage
