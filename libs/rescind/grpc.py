"""The guard in front of a grpc.aio server: an interceptor with one rule for each method.

    server = grpc.aio.server(interceptors=[GuardInterceptor(guard, {"/pkg.Service/Get": Rule("orders:read")})])

A method without a rule is refused, so forgetting one opens nothing. Handlers read `current_principal()`.
"""

import contextvars
from collections.abc import Awaitable, Callable, Mapping
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
from rescind.policy import STRICT, Staleness

ERROR_DOMAIN = "rescind"
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

        async def admit(context: grpc.aio.ServicerContext[Any, Any]) -> None:
            try:
                if rule is None:
                    raise InsufficientScope(frozenset())
                guard = self._guard if isinstance(self._guard, Guard) else self._guard()
                principal = await guard.authenticate(
                    _token(metadata),
                    scopes=rule.scopes,
                    staleness=rule.staleness,
                    max_auth_age=rule.max_auth_age,
                )
            except RescindError as error:
                await self._refuse(error, context)
            _principal.set(principal)

        return _admitting(handler, admit)


def _token(metadata: tuple[Any, ...]) -> str:
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) > 1:
        raise MalformedToken("more than one authorization")
    scheme, _, unverified_token = (values[0] if values and isinstance(values[0], str) else "").partition(" ")
    if scheme.lower() != "bearer" or not unverified_token:
        raise MissingToken("no bearer token")
    return unverified_token


def _admitting(handler: Any, admit: Callable[[Any], Awaitable[None]]) -> Any:
    """The same handler, begun by `admit`, for each of the four kinds of call."""
    if handler.response_streaming:
        inner_stream = handler.unary_stream or handler.stream_stream

        async def stream(request: Any, context: Any) -> Any:
            await admit(context)
            async for response in inner_stream(request, context):
                yield response

        make = (
            grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
        )
        return make(stream, handler.request_deserializer, handler.response_serializer)

    inner = handler.unary_unary or handler.stream_unary

    async def answer(request: Any, context: Any) -> Any:
        await admit(context)
        return await inner(request, context)

    make = grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(answer, handler.request_deserializer, handler.response_serializer)
