"""The life of a service process: HTTP and gRPC in one event loop, from a clear start to a stop that drops no request.

Start: ports, then what the service needs (database, Redis), then its background work, then traffic.
Stop, on SIGTERM or SIGINT, in this order, each step with a deadline: readiness says no and health NOT_SERVING; live
streams end (`on_stopping`: uvicorn would wait for them for ever); HTTP drains; gRPC drains; background work is
cancelled; connections are closed. A second signal hurries.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc.aio
import structlog
import uvicorn
import uvloop
from fastapi import FastAPI
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.requests import Request
from starlette.responses import JSONResponse

from servicekit.metrics import Metrics
from servicekit.rpc import SERVER_OPTIONS
from servicekit.rpc import Edge as RpcEdge
from servicekit.settings import CommonSettings, load
from servicekit.telemetry import set_up_logging

GRACE = 4.0  # seconds: how long HTTP, and then gRPC, may take to finish what they have begun
MAX_WEBSOCKET_MESSAGE = 64 * 1024  # bytes received
_LONGEST_HEAD = 32 * 1024  # bytes of request line and headers; a token has 8 KiB at most
_SAMPLE = 0.25  # seconds between looks at readiness and at the event loop's lag
_log = structlog.get_logger("servicekit.lifecycle")
S = TypeVar("S", bound=CommonSettings)


class StartError(Exception):
    """Why a service cannot start, in one line for whoever started it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; `variable` is the setting to change when the port is busy. Port 0: any free one."""

    host: str
    port: int
    variable: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host  # RFC 3986 section 3.2.2
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether traffic should come here, and what /readyz says besides."""

    ready: bool
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ports:
    """What was really bound."""

    http: int
    grpc: int
    metrics: int


def _always_ready() -> Readiness:
    return Readiness(True)


@dataclass(slots=True, kw_only=True)
class Service:
    """Everything a process runs. `build()` of each service makes one; nothing in it has connected yet.

    `register` adds servicers to the server and returns the full names of their services. `before_start` raises
    `StartError` when something that is needed does not answer. `background` runs until it is cancelled, after the last
    request; when one fails, the process stops. `on_stopping` ends what would go on for ever, `on_stop` closes what is
    left, in order. `websockets` lets HTTP connections become WebSockets (RFC 6455).
    """

    name: str
    http: FastAPI
    metrics: Metrics
    http_address: Address
    grpc_address: Address
    metrics_address: Address
    register: Callable[[grpc.aio.Server], Sequence[str]]
    interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    before_start: Sequence[Callable[[], Awaitable[None]]] = ()
    background: Sequence[Callable[[], Awaitable[None]]] = ()
    readiness: Callable[[], Readiness] = _always_ready
    on_stopping: Sequence[Callable[[], None]] = ()
    on_stop: Sequence[Callable[[], Awaitable[None]]] = ()
    websockets: bool = False
    development: bool = False
    grace: float = GRACE
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.http.add_route("/livez", _livez, methods=["GET"], include_in_schema=False)
        self.http.add_route("/readyz", self._readyz, methods=["GET"], include_in_schema=False)

    def ready(self) -> Readiness:
        """What the service says of itself; never ready once it is stopping."""
        if self.stopping.is_set():
            return Readiness(False, {"state": "STOPPING"})
        return self.readiness()

    def stop(self) -> None:
        """Begins the stop, as SIGTERM does."""
        self.stopping.set()

    def grpc_server(self) -> tuple[grpc.aio.Server, Sequence[str]]:
        """A server with the edge, the interceptors and the servicers; tests use it as the process does."""
        server = grpc.aio.server(interceptors=[RpcEdge(self.metrics), *self.interceptors], options=SERVER_OPTIONS)
        names = list(self.register(server))
        if self.development:
            reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        return server, names

    async def _readyz(self, _request: Request) -> JSONResponse:
        readiness = self.ready()
        body = {"ready": readiness.ready, **readiness.body}
        return JSONResponse(body, 200 if readiness.ready else 503, {"cache-control": "no-store"})


async def _livez(_request: Request) -> JSONResponse:
    return JSONResponse({"alive": True}, headers={"cache-control": "no-store"})


def main(name: str, settings: type[S], build: Callable[[S], Service]) -> None:
    """A whole `__main__`: settings, log, service. Wrong settings end the process with 2, a failed start with 1."""
    values = load(settings)
    set_up_logging(name, level=values.log_level)
    run(name, lambda: build(values))


def run(name: str, build: Callable[[], Service]) -> None:
    """Builds the service inside a uvloop and serves it until a signal comes.

    Raises:
        SystemExit: with 1, after one line, when it cannot start or when its background work failed.
    """

    async def serve_until_signal() -> None:
        service = build()
        with _signals(service):
            await serve(service)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_until_signal())
    except StartError as error:
        _give_up(f"{name} cannot start: {error}")
    except BackgroundFailed as error:
        _give_up(f"{name} stopped: {error}")
    except asyncio.CancelledError:
        _give_up(f"{name} stopped at once: it was told to twice")


def _give_up(line: str) -> NoReturn:
    sys.stderr.write(line + "\n")
    raise SystemExit(1)


@contextlib.contextmanager
def _signals(service: Service) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def received() -> None:
        if service.stopping.is_set() and task is not None:
            task.cancel()  # the second one: no more patience
        service.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class BackgroundFailed(Exception):
    """Background work ended with an error; the log has it."""


async def serve(service: Service, *, started: Callable[[Ports], None] | None = None) -> None:
    """Serves until `service.stop()`; `started` is told the ports once traffic is accepted.

    Raises:
        StartError: a port is busy, or something that is needed does not answer.
        BackgroundFailed: after an orderly stop.
    """
    async with contextlib.AsyncExitStack() as stack:
        for close in reversed(service.on_stop):
            stack.push_async_callback(close)
        http_socket = stack.enter_context(_listening(service.http_address))
        _probe(service.grpc_address)
        at = service.metrics_address
        try:
            metrics_port = stack.enter_context(service.metrics.served(at.host, at.port))
        except OSError as error:
            raise _cannot_listen(at, error) from error
        for needed in service.before_start:
            await needed()
        failures: list[BackgroundFailed] = []
        await stack.enter_async_context(_background(service, failures))
        grpc_port = await stack.enter_async_context(_grpc(service))
        await stack.enter_async_context(_http(service, http_socket))
        ports = Ports(http_socket.getsockname()[1], grpc_port, metrics_port)
        _log.info("started", http=ports.http, grpc=ports.grpc, metrics=ports.metrics)
        if started is not None:
            started(ports)
        await service.stopping.wait()
        _log.info("stopping")
        for end in service.on_stopping:
            end()
    _log.info("stopped")
    if failures:
        raise failures[0]


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """A bound socket that does not accept yet: uvicorn listens on it when the service is up."""
    bound = _bind(address)
    try:
        yield bound
    finally:
        bound.close()


def _bind(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # The protocol by its name, not 0: by it asyncio knows (uvloop always does) that TCP_NODELAY is wanted. Without, the
    # second part of an answer waits 40 ms for the client's delayed acknowledgement of the first.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # Not SO_REUSEPORT: two processes on one port must be an error. This only forgives connections that are closing.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise _cannot_listen(address, error) from error
    return sock


def _probe(address: Address) -> None:
    """Fails as `_bind` does where gRPC would, which tells only that it failed, and in several lines."""
    sock = _bind(address)
    try:
        sock.listen(1)
    except OSError as error:
        raise _cannot_listen(address, error) from error
    finally:
        sock.close()


def _cannot_listen(address: Address, error: OSError) -> StartError:
    hint = f" (set {address.variable})" if address.variable else ""
    return StartError(f"cannot listen on {address}{hint}: {error.strerror or error}")


@contextlib.asynccontextmanager
async def _background(service: Service, failures: list[BackgroundFailed]) -> AsyncIterator[None]:
    async def watched(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            _log.exception("background work failed", work=_name_of(work))
            failure = BackgroundFailed(f"{_name_of(work)} failed ({type(error).__name__})")
            failure.__cause__ = error
            failures.append(failure)
            service.stop()

    works = [*service.background, lambda: _measure_lag(service.metrics)]
    # No TaskGroup: it would wrap a StartError of the steps within into a group. `watched` lets no error out anyway.
    tasks = [asyncio.create_task(watched(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _name_of(work: Callable[[], Awaitable[None]]) -> str:
    return getattr(work, "__qualname__", type(work).__name__)


async def _measure_lag(metrics: Metrics) -> None:
    loop = asyncio.get_running_loop()
    recent = [0.0] * round(1 / _SAMPLE)
    while True:
        due = loop.time() + _SAMPLE
        await asyncio.sleep(_SAMPLE)
        recent = [*recent[1:], max(0.0, loop.time() - due)]
        metrics.loop_lag.set(max(recent))


@contextlib.asynccontextmanager
async def _grpc(service: Service) -> AsyncIterator[int]:
    server, names = service.grpc_server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(str(service.grpc_address))
    except RuntimeError as error:
        raise StartError(f"cannot listen on {service.grpc_address}: address already in use") from error
    await server.start()
    watching = asyncio.create_task(_report_health(service, servicer, ["", *names]))
    try:
        yield port
    finally:
        watching.cancel()
        await server.stop(service.grace)


async def _report_health(service: Service, servicer: "health.aio.HealthServicer", names: Sequence[str]) -> None:
    """Keeps grpc.health.v1 saying what /readyz says."""
    told: bool | None = None
    while True:
        ready = service.ready().ready
        if ready != told:
            status = health_pb2.HealthCheckResponse.ServingStatus.Value("SERVING" if ready else "NOT_SERVING")
            for name in names:
                await servicer.set(name, status)
            told = ready
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SAMPLE):
                await (service.stopping if told else asyncio.Event()).wait()  # the stop, if that is news


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn would take them for itself and raise them again when it has stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _http(service: Service, sock: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        service.http,
        loop="none",
        http="servicekit.connection:Connection",
        ws="servicekit.handshake:Handshakes" if service.websockets else "none",
        ws_max_size=MAX_WEBSOCKET_MESSAGE,
        ws_per_message_deflate=False,  # a few bytes could become megabytes; what is sent is short
        lifespan="off",
        log_config=None,
        access_log=False,  # it writes query strings; `servicekit.http.Edge` has a line of its own
        proxy_headers=False,  # nobody's X-Forwarded-* is believed
        server_header=False,
        h11_max_incomplete_event_size=_LONGEST_HEAD,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(service.grace)),
    )
    server = _Uvicorn(config)
    task = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        while not server.started:
            await asyncio.wait({task}, timeout=0.01)
            if task.done():
                await task
                raise StartError(f"the HTTP server on {service.http_address} ended at once")
        yield
    finally:
        server.should_exit = True
        try:
            await task
        except asyncio.CancelledError:
            server.force_exit = True
            await task
            raise
