"""A process's life on real sockets: a start that says why not, a stop that drops nothing."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import httpx2
import pytest
from fastapi import WebSocket
from fastapi.responses import StreamingResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from servicekit.http import create_app
from servicekit.lifecycle import Address, BackgroundFailed, Ports, Readiness, Service, StartError, serve
from servicekit.metrics import Metrics

ANY = Address("127.0.0.1", 0)


class Process:
    """A service that notes what happens to it, and lets a test decide when."""

    def __init__(self, **settings: Any) -> None:
        self.happened: list[str] = []
        self.finish = asyncio.Event()
        self.reached = asyncio.Event()
        self.readiness = Readiness(True, {"freshness": "FRESH"})
        metrics = Metrics()
        app = create_app("test", metrics)

        @app.get("/slow")
        async def slow() -> str:
            self.reached.set()
            await self.finish.wait()
            self.happened.append("request finished")
            return "done"

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            async def events() -> AsyncIterator[bytes]:
                yield b"data: first\n\n"
                await self.service.stopping.wait()
                yield b"event: bye\n\n"

            return StreamingResponse(events(), media_type="text/event-stream")

        defaults: dict[str, Any] = {
            "name": "test",
            "http": app,
            "metrics": metrics,
            "http_address": ANY,
            "grpc_address": ANY,
            "metrics_address": ANY,
            "register": self._register,
            "background": [self._work],
            "readiness": lambda: self.readiness,
            "on_stop": [self._noting("closed first"), self._noting("closed second")],
            "grace": 1.0,
        }
        self.service = Service(**defaults | settings)

    def _register(self, server: grpc.aio.Server) -> list[str]:
        async def slow(_request: bytes, _context: Any) -> bytes:
            self.reached.set()
            await self.finish.wait()
            self.happened.append("rpc finished")
            return b"done"

        handler = grpc.unary_unary_rpc_method_handler(slow)  # type: ignore[arg-type]
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Slow": handler}),))
        return ["test.Service"]

    async def _work(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.happened.append("background cancelled")

    def _noting(self, what: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            self.happened.append(what)

        return note


@contextlib.asynccontextmanager
async def _running(process: Process) -> AsyncIterator[tuple[Ports, "asyncio.Task[None]"]]:
    up: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(process.service, started=up.set_result))
    await asyncio.wait({up, task}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield up.result(), task
    finally:
        process.service.stop()
        process.finish.set()
        await asyncio.gather(task, return_exceptions=True)


async def _health(channel: grpc.aio.Channel, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


async def test_a_running_service_says_so_everywhere() -> None:
    process = Process()
    async with _running(process) as (ports, _), httpx2.AsyncClient() as client:
        base = f"http://127.0.0.1:{ports.http}"
        assert (await client.get(f"{base}/livez")).json() == {"alive": True}
        ready = await client.get(f"{base}/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "freshness": "FRESH"})
        assert "server" not in ready.headers
        metrics = await client.get(f"http://127.0.0.1:{ports.metrics}/metrics")
        assert "http_server_seconds_bucket" in metrics.text
        assert "event_loop_lag_seconds" in metrics.text
        assert (await client.get(f"{base}/metrics")).status_code == 404
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            serving = health_pb2.HealthCheckResponse.ServingStatus.Value("SERVING")
            assert await _health(channel) == await _health(channel, "test.Service") == serving


async def test_an_answer_never_waits_for_a_delayed_acknowledgement() -> None:
    async with _running(Process()) as (ports, _), httpx2.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{ports.http}/livez")
        # By type: isinstance would ask every weak proxy that there is, and some are of what is gone.
        sockets = [each for each in gc.get_objects() if issubclass(type(each), socket.socket)]
        (accepted,) = (each for each in sockets if _is_at(each, ports.http))
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def _is_at(sock: socket.socket, port: int) -> bool:
    """Whether this is the server's end of a connection to the port."""
    try:
        return bool(sock.getsockname()[1] == port and sock.getpeername())
    except (OSError, IndexError):  # closed, listening, or of no network
        return False


async def test_readiness_and_health_say_no_together() -> None:
    process = Process()
    process.readiness = Readiness(False, {"freshness": "SYNCING"})
    async with _running(process) as (ports, _), httpx2.AsyncClient() as client:
        ready = await client.get(f"http://127.0.0.1:{ports.http}/readyz")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "freshness": "SYNCING"})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            refusing = health_pb2.HealthCheckResponse.ServingStatus.Value("NOT_SERVING")
            assert await _health(channel) == await _health(channel, "test.Service") == refusing


async def test_a_stop_finishes_what_was_begun_and_closes_in_order() -> None:
    process = Process()
    async with _running(process) as (ports, task), httpx2.AsyncClient() as client:
        base = f"http://127.0.0.1:{ports.http}"
        waiting = await client.get(f"{base}/readyz")  # a connection that is kept alive, idle
        assert waiting.status_code == 200
        request = asyncio.create_task(client.get(f"{base}/slow"))
        await asyncio.wait_for(process.reached.wait(), 5)
        process.service.stop()
        assert process.service.ready() == Readiness(False, {"state": "STOPPING"})
        process.finish.set()
        assert (await request).json() == "done"
        await asyncio.wait_for(task, 10)
        with pytest.raises(httpx2.ConnectError):
            await client.get(f"{base}/livez")
    assert process.happened == ["request finished", "background cancelled", "closed first", "closed second"]


async def test_a_stop_finishes_a_call_that_was_begun() -> None:
    process = Process()
    async with _running(process) as (ports, task), grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        call = asyncio.ensure_future(_slow_call(channel))
        await asyncio.wait_for(process.reached.wait(), 5)
        process.service.stop()
        process.finish.set()
        assert await call == b"done"
        await asyncio.wait_for(task, 10)
    assert process.happened[:2] == ["rpc finished", "background cancelled"]


async def _slow_call(channel: grpc.aio.Channel) -> bytes:
    answer: bytes = await channel.unary_unary("/test.Service/Slow")(b"", timeout=10)
    return answer


async def test_a_live_stream_ends_with_the_service_and_says_goodbye() -> None:
    process = Process()
    async with _running(process) as (ports, task), httpx2.AsyncClient() as client:
        async with client.stream("GET", f"http://127.0.0.1:{ports.http}/stream") as response:
            lines = response.aiter_lines()
            assert await anext(lines) == "data: first"
            process.service.stop()
            assert [line async for line in lines if line] == ["event: bye"]
        await asyncio.wait_for(task, 10)


async def test_a_request_that_never_ends_does_not_keep_the_process() -> None:
    process = Process()
    loop = asyncio.get_running_loop()
    async with _running(process) as (ports, task), httpx2.AsyncClient() as client:
        request = asyncio.create_task(client.get(f"http://127.0.0.1:{ports.http}/slow"))
        await asyncio.wait_for(process.reached.wait(), 5)
        began = loop.time()
        process.service.stop()
        await asyncio.wait_for(task, 10)
        assert loop.time() - began < 4
        await asyncio.gather(request, return_exceptions=True)
    assert process.happened[-1] == "closed second"


async def test_failed_background_work_stops_the_process_in_order() -> None:
    async def breaks() -> None:
        raise LookupError("hunter2")

    process = Process(background=[breaks])
    with pytest.raises(BackgroundFailed, match=r"breaks failed \(LookupError\)") as failed:
        await asyncio.wait_for(serve(process.service), 10)
    assert "hunter2" not in str(failed.value)
    assert process.happened == ["closed first", "closed second"]


@pytest.mark.parametrize("which", ["http_address", "grpc_address", "metrics_address"])
async def test_a_busy_port_is_named_with_its_variable(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = Process(**{which: Address("127.0.0.1", port, "TEST_PORT")})
        expected = rf"cannot listen on 127\.0\.0\.1:{port} \(set TEST_PORT\): Address already in use"
        with pytest.raises(StartError, match=expected):
            await serve(process.service)
    assert process.happened == ["closed first", "closed second"]


async def test_all_of_it_listens_on_ipv6_too() -> None:
    here = Address("::1", 0)
    process = Process(http_address=here, grpc_address=here, metrics_address=here)
    async with _running(process) as (ports, _), httpx2.AsyncClient() as client:
        assert (await client.get(f"http://[::1]:{ports.http}/livez")).status_code == 200
        assert "process_" in (await client.get(f"http://[::1]:{ports.metrics}/metrics")).text
        async with grpc.aio.insecure_channel(f"[::1]:{ports.grpc}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)).status == 1
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        busy = Process(grpc_address=Address("::1", taken.getsockname()[1]))
        with pytest.raises(StartError, match=r"cannot listen on \[::1\]:\d+: Address already in use"):
            await serve(busy.service)


async def test_what_is_missing_at_the_start_ends_it_before_anything_runs() -> None:
    async def missing() -> None:
        raise StartError("no database")

    process = Process(before_start=[missing])
    with pytest.raises(StartError, match="no database"):
        await serve(process.service)
    assert process.happened == ["closed first", "closed second"]


async def test_heads_have_a_limit() -> None:
    process = Process()
    async with _running(process) as (ports, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.http)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 100_000)
        status = await asyncio.wait_for(reader.readline(), 5)
        assert status.split()[1] in (b"400", b"431")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_reflection_is_there_in_development_only() -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async def ask(process: Process) -> list[str]:
        async with _running(process) as (ports, _), grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            async for answer in stub.ServerReflectionInfo(iter([request]), timeout=5):
                return [service.name for service in answer.list_services_response.service]
        return []

    assert "test.Service" in await ask(Process(development=True))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ask(Process())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_who_watches_health_is_told_of_the_stop() -> None:
    process = Process()
    status = health_pb2.HealthCheckResponse.ServingStatus
    async with _running(process) as (ports, _), grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="test.Service"), timeout=20)
        assert (await watch.read()).status == status.Value("SERVING")
        process.service.stop()
        assert (await watch.read()).status == status.Value("NOT_SERVING")


async def test_what_goes_on_for_ever_is_ended_before_anything_drains() -> None:
    process = Process()
    ended = asyncio.Event()
    process.service.on_stopping = [lambda: process.happened.append("streams ended"), ended.set]
    async with _running(process) as (ports, task), httpx2.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{ports.http}/slow"))
        await process.reached.wait()
        process.service.stop()
        await ended.wait()
        process.finish.set()
        assert (await asking).status_code == 200
        await task
    assert process.happened[:2] == ["streams ended", "request finished"]


async def test_nothing_becomes_a_websocket_unless_the_service_says_so() -> None:
    async with _running(Process()) as (ports, _), httpx2.AsyncClient() as client:
        upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        headers = upgrade | {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
        answer = await client.get(f"http://127.0.0.1:{ports.http}/livez", headers=headers)
        assert answer.status_code == 200


async def test_an_app_closes_its_sockets_with_its_own_reason_when_the_server_stops() -> None:
    process = Process(websockets=True)

    @process.service.http.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await process.service.stopping.wait()
        with contextlib.suppress(OSError):  # not before uvicorn has begun to shut its connections
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", websocket.scope["server"][1])
                writer.close()
        await websocket.close(1012, "SERVER_STOPPING")

    async with _running(process) as (ports, _), connect(f"ws://127.0.0.1:{ports.http}/live") as socket:
        process.service.stop()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (1012, "SERVER_STOPPING")


async def test_a_socket_whose_app_says_nothing_is_closed_all_the_same() -> None:
    process = Process(websockets=True)

    @process.service.http.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    async with _running(process) as (ports, task), connect(f"ws://127.0.0.1:{ports.http}/live") as socket:
        process.service.stop()
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1012
        await task
