"""The guard in front of a grpc.aio server: an interceptor with one rule for each method.

    server = grpc.aio.server(interceptors=[GuardInterceptor(guard, {"/pkg.Service/Get": Rule("orders:read")})])

A method without a rule is refused, so forgetting one opens nothing. Handlers read `current_principal()`.

A call that streams, in either direction, holds a lease for its whole length (`rescind.leases`): when that ends, the
handler is cancelled wherever it waits, also where its caller does not read, and the call ends with the status of the
error. Handlers need not know; one that is sent new tokens by its caller extends `current_lease()`.
"""

import asyncio
import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from rescind.claims import Principal
from rescind.errors import (
    CannotTell,
    InsufficientScope,
    MalformedToken,
    MissingToken,
    RescindError,
    StepUpRequired,
)
from rescind.guard import Guard
from rescind.leases import Lease
from rescind.policy import STRICT, Staleness

ERROR_DOMAIN = "rescind"
FIRST_WRITE = 1.0  # seconds
_lease: contextvars.ContextVar[Lease] = contextvars.ContextVar("rescind_lease")
_principal: contextvars.ContextVar[Principal] = contextvars.ContextVar("rescind_principal")


@dataclass(frozen=True, slots=True, init=False)
class Rule:
    """What a method asks of its caller: all of `scopes`; how stale the answer, how old (s) the sign-in may be."""

    scopes: frozenset[str]
    staleness: Staleness
    max_auth_age: int | None

    def __init__(self, *scopes: str, staleness: Staleness = STRICT, max_auth_age: int | None = None) -> None:
        object.__setattr__(self, "scopes", frozenset(scopes))
        object.__setattr__(self, "staleness", staleness)
        object.__setattr__(self, "max_auth_age", max_auth_age)


# For methods that need no token: health, reflection.
PUBLIC = Rule("(public)")


def current_principal() -> Principal:
    """Who the call that is being handled speaks for.

    Raises:
        LookupError: outside a call, or in a PUBLIC method.
    """
    return _principal.get()


def current_lease() -> Lease:
    """The lease of the streaming call that is being handled.

    Raises:
        LookupError: outside a call, in a PUBLIC method, or in one that streams nothing.
    """
    return _lease.get()


Refuse = Callable[[RescindError, grpc.aio.ServicerContext[Any, Any]], Awaitable[NoReturn]]


async def refuse(error: RescindError, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    """Ends a call with the status that `error` stands for, and google.rpc.ErrorInfo with its reason."""
    code = code_pb2.UNAUTHENTICATED
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    details: list[Any] = [info]
    if isinstance(error, StepUpRequired):
        info.metadata["max_age"] = str(error.max_auth_age)
    if isinstance(error, InsufficientScope):
        code = code_pb2.PERMISSION_DENIED
    elif isinstance(error, CannotTell):
        code = code_pb2.UNAVAILABLE
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.seconds = error.retry_after
        details.append(retry)
    status = status_pb2.Status(code=code, message=error.reason)
    for detail in details:
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort returns never")


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls through that `rules` permit, and refuses the rest before their handler is reached.

    `refuse` answers a refusal; a service with an error vocabulary of its own passes its own.
    """

    def __init__(
        self,
        guard: Guard | Callable[[], Guard],
        rules: Mapping[str, Rule],
        *,
        refuse: Refuse = refuse,
    ) -> None:
        self._guard = guard
        self._rules = rules
        self._refuse = refuse

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of a call so that it begins with the guard's decision."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        rule = self._rules.get(method)
        if handler is None or rule is PUBLIC:
            return handler
        metadata = tuple(handler_call_details.invocation_metadata or ())
        return (self._streaming if _streams(handler) else self._unary)(handler, rule, metadata)

    def _unary(self, handler: Any, rule: Rule | None, metadata: tuple[Any, ...]) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            try:
                asked = _asked_by(rule)
                principal = await self._current.authenticate(
                    _token(metadata), scopes=asked.scopes, staleness=asked.staleness, max_auth_age=asked.max_auth_age
                )
            except RescindError as error:
                await self._refuse(error, context)
            _principal.set(principal)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, handler: Any, rule: Rule | None, metadata: tuple[Any, ...]) -> Any:
        inner = handler.unary_stream or handler.stream_unary or handler.stream_stream

        async def answer(request: Any, context: Any) -> Any:
            lease: Lease | None = None
            try:
                asked = _asked_by(rule)
                async with self._current.lease(
                    _token(metadata), scopes=asked.scopes, staleness=asked.staleness, max_auth_age=asked.max_auth_age
                ) as lease:
                    _principal.set(lease.principal)
                    _lease.set(lease)
                    async with lease.while_good():
                        return await _answered(inner(request, context), context)
            except RescindError as error:
                if lease is not None and error is not lease.error:
                    raise  # of the handler's own
                refusal = error
            return await self._refuse(refusal, context)

        make = {
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(answer, handler.request_deserializer, handler.response_serializer)

    @property
    def _current(self) -> Guard:
        return self._guard if isinstance(self._guard, Guard) else self._guard()


def _streams(handler: Any) -> bool:
    return bool(handler.request_streaming or handler.response_streaming)


def _asked_by(rule: Rule | None) -> Rule:
    if rule is None:
        raise InsufficientScope(frozenset())
    return rule


async def _answered(answer: Awaitable[Any] | AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
    """Sees a handler through: one that returns, one that writes by itself, or one that yields what is to be written."""
    if inspect.isawaitable(answer):
        return await answer
    async with contextlib.aclosing(answer) as responses:  # type: ignore[type-var]  # generators all; stubs say less
        write = _write_whole
        async for response in responses:
            await write(response, context)
            write = _write
    return None


async def _write(response: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.write(response)


async def _write_whole(response: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Writes the first response, and is not cancelled before it is written, for FIRST_WRITE seconds at most.

    It takes the initial metadata along. grpc.aio 1.85 forgets that they are sent when it is cancelled meanwhile, sends
    them again with the status, and so sends no status at all.
    """
    writing = asyncio.ensure_future(_write(response, context))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait({writing}, timeout=FIRST_WRITE)
        writing.cancel()
        raise


def _token(metadata: tuple[Any, ...]) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) > 1:
        raise MalformedToken("more than one authorization")
    scheme, _, unverified_token = (values[0] if values and isinstance(values[0], str) else "").partition(" ")
    if scheme.lower() != "bearer" or not unverified_token:
        raise MissingToken("no bearer token")
    return unverified_token
