"""The edge of every gRPC server: ids, rich errors, metrics, one line per call, no text of exceptions."""

from __future__ import annotations  # grpc's classes are generic for the type checker only

import asyncio
import contextlib
import inspect
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog

from servicekit.errors import Kind, ServiceError, internal, rpc_status, understood
from servicekit.metrics import Metrics
from servicekit.telemetry import request_context, request_id

DETAILS_KEY = "grpc-status-details-bin"  # where google.rpc.Status travels
# Match on servers and clients, or servers cut clients off for pinging too often (`too_many_pings`).
KEEPALIVE_MS = 20_000
MAX_MESSAGE = 256 * 1024  # bytes received
# A connection is told to go (GOAWAY) at this age, so that clients look for replicas again and new ones get their share.
# What it carries goes on; calls that are begun later take another connection.
CONNECTION_AGE_MS = 5 * 60_000
# After that it is cut: longer than any live stream lasts, which ends with its token.
CONNECTION_GRACE_MS = 65 * 60_000
_log = structlog.get_logger("servicekit.rpc")

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # otherwise a second server silently shares the port
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.max_connection_age_ms", CONNECTION_AGE_MS),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_MS),
)
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # After an outage a client is back within a second; the defaults took up to 4.4 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_MAKE: dict[str, Callable[..., Handler]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


async def abort(context: Context, error: ServiceError) -> NoReturn:
    """Ends the call with `error` as status and details."""
    status = rpc_status(error, request_id=request_id())
    await context.abort(error.kind.rpc, error.detail, ((DETAILS_KEY, status.SerializeToString()),))


class Edge(grpc.aio.ServerInterceptor):
    """The first interceptor, around all the others and every handler."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler; a method that does not exist stays gRPC's own UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = ("stream" if handler.request_streaming else "unary") + (
            "_stream" if handler.response_streaming else "_unary"
        )
        behaviour = getattr(handler, kind)  # the stubs give the synchronous server's types
        wrap = self._stream if handler.response_streaming else self._unary
        return _MAKE[kind](
            wrap(handler_call_details.method, behaviour),
            request_deserializer=_reading(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _unary(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Callable[..., Any]:
        async def call(request: Any, context: Context) -> Any:
            with request_context(_carrier(context)):
                began, reason = time.perf_counter(), ""
                try:
                    return await behaviour(_readable(request), context)
                except Exception as error:  # this is the last place that can answer
                    foreseen = self._foreseen(method, error)
                    reason = foreseen.reason
                    await abort(context, foreseen)
                finally:
                    self._account(method, context, time.perf_counter() - began, reason)

        return call

    def _stream(self, method: str, behaviour: Callable[[Any, Context], Any]) -> Callable[..., Any]:
        # A coroutine that writes, not a generator: when the caller goes away, it is cancelled where it waits, and so
        # everything inside is closed here and now, in this task and context, and not by whoever collects garbage.
        async def call(request: Any, context: Context) -> None:
            with request_context(_carrier(context)):
                began, reason = time.perf_counter(), ""
                try:
                    responses = behaviour(_readable(request), context)
                    if inspect.isawaitable(responses):  # it writes by itself, as grpc.health's Watch does
                        await responses
                        return
                    async with contextlib.aclosing(responses):
                        async for response in responses:
                            await context.write(response)
                except Exception as error:
                    foreseen = self._foreseen(method, error)
                    reason = foreseen.reason
                    await abort(context, foreseen)
                finally:
                    self._account(method, context, time.perf_counter() - began, reason)

        return call

    def _foreseen(self, method: str, error: Exception) -> ServiceError:
        if isinstance(error, grpc.aio.AbortError):
            raise error  # the handler has answered already
        foreseen = understood(error)
        if foreseen is not None:
            return foreseen
        self._metrics.unforeseen.inc()
        error_id = secrets.token_hex(8)
        _log.exception("unforeseen error", error_id=error_id, method=method, exc_info=error)
        return internal(error_id)

    def _account(self, method: str, context: Context, seconds: float, reason: str) -> None:
        code = _code_name(context)
        self._metrics.rpc_seconds.labels(method, code).observe(seconds)
        if not method.startswith("/grpc.health."):
            refused = {"reason": reason} if reason else {}
            _log.info("rpc", method=method, grpc_code=code, ms=round(seconds * 1000, 2), **refused)


class _Unreadable:
    """Stands for a message that is none, until it comes to where a caller can be answered: gRPC's own answer would be
    UNKNOWN, with the exception's text, and counted nowhere.
    """


def _reading(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(message: bytes) -> Any:
        try:
            return deserialize(message)
        except Exception:  # whatever a parser raises
            return _Unreadable()

    return read


def _readable(request: Any) -> Any:
    """The request, or the stream of them."""
    if isinstance(request, _Unreadable):
        raise ServiceError(Kind.INVALID, "MESSAGE_UNREADABLE", "This is no message of the type that the method takes.")
    return _each_readable(request) if isinstance(request, AsyncIterator) else request


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


def _code_name(context: Context) -> str:
    task = asyncio.current_task()
    if context.cancelled() or (task is not None and task.cancelling()):
        return "CANCELLED"
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    for status in grpc.StatusCode:
        if status.value[0] == code:
            return status.name
    return "OK"


def _carrier(context: Context) -> dict[str, str]:
    metadata = context.invocation_metadata() or ()
    return {str(name).lower(): value for name, value in metadata if isinstance(value, str)}
