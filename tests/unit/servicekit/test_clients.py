"""Channels between services, against real servers: repeated, bounded, spread over replicas, never cut by a GOAWAY."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rescind.guard import NobodyAnswered
from servicekit.clients import Calls, bearer, channel, target, told
from servicekit.errors import Kind, ServiceError
from servicekit.metrics import Metrics
from servicekit.rpc import SERVER_OPTIONS, Edge
from servicekit.telemetry import outgoing, request_context

SERVICE = "test.Service"
CALLS = Calls(SERVICE, repeatable={"Get"}, deadline=10, deadlines={"Slow": 0.2, "Watch": None})
STALE = ServiceError(Kind.UNAVAILABLE, "NOT_NOW", "Later.", retry_after=0.1)


class Replica:
    """A server that says who it is, after as many failures as it is told to make."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures: list[Exception] = []
        self.calls = 0
        self.peers: set[str] = set()
        self.metadata: list[dict[str, Any]] = []
        self.good_token = ""
        self.go = asyncio.Event()
        self.health = health.aio.HealthServicer()

    async def start(self, port: int = 0, options: Sequence[tuple[str, Any]] = ()) -> None:
        self.server = grpc.aio.server(
            interceptors=[Edge(Metrics())], options=[*(dict(SERVER_OPTIONS) | dict(options)).items()]
        )
        handlers = {
            "Get": grpc.unary_unary_rpc_method_handler(self._answer),  # type: ignore[arg-type]
            "Add": grpc.unary_unary_rpc_method_handler(self._answer),  # type: ignore[arg-type]
            "Slow": grpc.unary_unary_rpc_method_handler(self._slow),  # type: ignore[arg-type]
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),  # type: ignore[arg-type]
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        await self.say(serving=True)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        await self.server.start()

    async def say(self, *, serving: bool) -> None:
        state = health_pb2.HealthCheckResponse
        await self.health.set("", state.SERVING if serving else state.NOT_SERVING)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        self.calls += 1
        self.peers.add(context.peer())
        self.metadata.append({**dict(context.invocation_metadata()), "trace": outgoing()["traceparent"]})
        if self.failures:
            raise self.failures.pop(0)
        if self.good_token and self.metadata[-1].get("authorization") != f"Bearer {self.good_token}":
            raise ServiceError(Kind.UNAUTHENTICATED, "TOKEN_REVOKED", "No longer.")
        return self.name.encode()

    async def _slow(self, request: bytes, context: Any) -> bytes:
        await self.go.wait()
        return b"late"

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self._answer(request, context)
        await self.go.wait()
        yield b"last"


@contextlib.asynccontextmanager
async def replicas(count: int, options: Sequence[tuple[str, Any]] = ()) -> AsyncIterator[list[Replica]]:
    started = [Replica(f"r{number}") for number in range(count)]
    for replica in started:
        await replica.start(options=options)
    try:
        yield started
    finally:
        for replica in started:
            replica.go.set()
            await replica.server.stop(None)


def address(started: Sequence[Replica]) -> str:
    return ",".join(f"127.0.0.1:{replica.port}" for replica in started)


def get(to: grpc.aio.Channel, method: str = "Get", **options: Any) -> Any:
    return to.unary_unary(f"/{SERVICE}/{method}")(b"", **options)


class Tokens:
    """Own tokens, numbered; counts what was asked of it."""

    def __init__(self) -> None:
        self.number = 1
        self.forgotten: list[str] = []
        self.failure: Exception | None = None

    async def __call__(self) -> str:
        if self.failure is not None:
            raise self.failure
        return f"token-{self.number}"

    def forget(self, refused: str) -> None:
        self.forgotten.append(refused)
        self.number += 1


async def test_what_is_unavailable_is_asked_again_where_that_is_safe() -> None:
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        replica.failures = [STALE, STALE]
        assert await get(to) == b"r0"
        assert replica.calls == 3
        replica.failures = [STALE]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(to, "Add")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert replica.calls == 4, "a method that nobody called repeatable is called once"


async def test_what_is_refused_for_good_is_not_asked_again() -> None:
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        replica.failures = [ServiceError(Kind.NOT_FOUND, "NOTHING", "There is none.")]
        with pytest.raises(grpc.aio.AioRpcError):
            await get(to)
        assert replica.calls == 1


async def test_retries_end() -> None:
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        replica.failures = [STALE] * 50
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(to)
        assert (failed.value.code(), replica.calls) == (grpc.StatusCode.UNAVAILABLE, 5)


async def test_a_call_that_brings_no_deadline_has_the_methods() -> None:
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(to, "Slow")
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began < 5
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(to, "Slow", timeout=60)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, "a caller cannot ask for longer"


async def test_calls_are_spread_and_a_dead_replica_is_not_missed() -> None:
    async with replicas(2) as started, channel(address(started), CALLS) as to:
        async with asyncio.timeout(20):
            while min(replica.calls for replica in started) == 0:
                await get(to)
        seen = Counter([await get(to) for _ in range(20)])
        assert seen == {b"r0": 10, b"r1": 10}
        await started[0].server.stop(None)
        assert Counter([await get(to) for _ in range(20)]) == {b"r1": 20}
        await started[0].start(started[0].port)
        async with asyncio.timeout(20):
            while await get(to) != b"r0":
                pass


async def test_a_replica_that_says_it_is_not_serving_gets_nothing_and_stops_at_once() -> None:
    async with replicas(2) as started, channel(address(started), CALLS) as to:
        async with asyncio.timeout(20):
            while min(replica.calls for replica in started) == 0:
                await get(to)
            await started[0].say(serving=False)
            while b"r0" in [await get(to) for _ in range(4)]:
                pass
        before = started[0].calls
        assert Counter([await get(to, "Add") for _ in range(20)]) == {b"r1": 20}
        assert started[0].calls == before
        began = time.monotonic()
        await started[0].server.stop(30)
        assert time.monotonic() - began < 10, "a client that watches its health keeps no server from stopping"


async def test_connections_that_are_closed_for_their_age_fail_no_call_and_cut_no_stream() -> None:
    young = [("grpc.max_connection_age_ms", 200)]
    async with replicas(1, young) as (replica,), channel(address([replica]), CALLS) as to:
        watch = to.unary_stream(f"/{SERVICE}/Watch")(b"")
        assert await watch.read() == b"r0"
        async with asyncio.timeout(60):
            while len(replica.peers) < 5:
                assert await asyncio.gather(*(get(to, "Add") for _ in range(5))) == [b"r0"] * 5
        replica.go.set()
        assert [message async for message in watch] == [b"last"]


async def test_a_stream_has_no_deadline_but_that_of_its_caller() -> None:
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        watch = to.unary_stream(f"/{SERVICE}/Watch")(b"", timeout=0.3)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            _ = [message async for message in watch]
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        config = {entry["name"][0].get("method"): entry for entry in CALLS.configs()}
        assert "timeout" not in config["Watch"]
        assert (config[None]["timeout"], config["Slow"]["timeout"]) == ("10.000s", "0.200s")


async def test_the_services_own_token_goes_along_and_is_replaced_once() -> None:
    tokens = Tokens()
    async with replicas(1) as (replica,), channel(address([replica]), CALLS, access_tokens=tokens) as to:
        replica.good_token = "token-2"
        assert await get(to) == b"r0"
        assert ([m["authorization"] for m in replica.metadata], tokens.forgotten) == (
            ["Bearer token-1", "Bearer token-2"],
            ["token-1"],
        )
        replica.good_token = "another"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(to)
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert (replica.calls, tokens.forgotten) == (4, ["token-1", "token-2"])


async def test_a_streams_token_is_replaced_once_too() -> None:
    tokens = Tokens()
    async with replicas(1) as (replica,), channel(address([replica]), CALLS, access_tokens=tokens) as to:
        replica.good_token = "token-2"
        replica.go.set()
        watch = to.unary_stream(f"/{SERVICE}/Watch")
        assert [message async for message in watch(b"")] == [b"r0", b"last"]
        assert [message async for message in watch(b"")] == [b"r0", b"last"]
        replica.good_token = "another"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            _ = [message async for message in watch(b"")]
        assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
        replica.good_token = ""
        replica.go.clear()
        call = watch(b"")
        assert await call.read() == b"r0"
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NobodyAnswered("down"), grpc.StatusCode.UNAVAILABLE),
        (PermissionError("no"), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_without_a_token_the_call_fails_as_a_call_does(failure: Exception, code: grpc.StatusCode) -> None:
    tokens = Tokens()
    tokens.failure = failure
    async with channel("127.0.0.1:1", CALLS, access_tokens=tokens) as to:
        for call in (get(to), to.unary_stream(f"/{SERVICE}/Watch")(b"").read()):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is code


async def test_the_trace_and_what_the_caller_sends_go_along() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        with request_context({"traceparent": f"00-{trace}-b7ad6b7169203331-01"}):
            await get(to, metadata=bearer("hers"))
        (seen,) = replica.metadata
        assert seen["traceparent"].split("-")[1] == trace
        assert seen["trace"].split("-")[1] == trace, "and the other side works within it"
        assert seen["authorization"] == "Bearer hers"


async def test_what_the_other_service_said_can_be_said_again() -> None:
    refusals = [
        ServiceError(Kind.PRECONDITION, "ETAG_MISMATCH", "It has changed.", fields={"etag": "old"}),
        ServiceError(Kind.CONFLICT, "TAKEN", "It is taken."),
        ServiceError(Kind.RATE_LIMITED, "SLOWLY", "Later.", retry_after=2.5),
    ]
    async with replicas(1) as (replica,), channel(address([replica]), CALLS) as to:
        for refusal in refusals:
            replica.failures = [refusal]
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await get(to)
            again = told(failed.value)
            assert (again.kind, again.reason, again.detail) == (refusal.kind, refusal.reason, refusal.detail)
            assert (again.fields, again.retry_after) == (refusal.fields, refusal.retry_after)
    async with channel("127.0.0.1:1", Calls(SERVICE)) as nobody:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await get(nobody)
        unreachable = told(failed.value)
        assert (unreachable.kind, unreachable.reason, unreachable.retry_after) == (Kind.UNAVAILABLE, "UNAVAILABLE", 1.0)
        assert "127.0.0.1" not in unreachable.detail


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("identity:9001", "identity:9001"),
        ("dns:///identity:9001", "dns:///identity:9001"),
        ("127.0.0.1:1, localhost:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_where_replicas_are_is_told_in_one_line(address: str, named: str) -> None:
    assert target(address) == named


def test_several_names_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="dns:///"):
        target("one:1,other:1")
