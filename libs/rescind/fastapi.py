"""The guard in front of FastAPI routes: a dependency that yields the principal.

    @app.get("/orders")
    async def list_orders(principal: Annotated[Principal, Depends(bearer(guard, "orders:read"))]): ...

    @app.get("/orders/stream")  # a live stream, which ends when its token does
    async def stream_orders(lease: Annotated[Lease, Depends(leased(guard, "orders:read"))]) -> EventSourceResponse:
        return sse(lease, events_of(lease.principal))

A WebSocket is served by `rescind.websocket`. A token is taken from the Authorization header only (RFC 6750 section
2.1): one in the query or the body is no token.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, ServerSentEvent, format_sse_event
from starlette.requests import HTTPConnection
from starlette.types import Send

from rescind.claims import Principal
from rescind.errors import (
    CannotTell,
    InsufficientScope,
    MalformedToken,
    MissingToken,
    RescindError,
    StepUpRequired,
    TokenRefused,
)
from rescind.guard import Guard
from rescind.leases import Lease
from rescind.policy import STRICT, Staleness

CurrentGuard = Callable[[], Guard]
PING_EVERY = 15.0  # seconds without an event until a comment is sent, so that nobody in between takes it for dead
LAST_WORDS = 0.5  # seconds that a client has to read how its stream ended; all is over within a second


def bearer(
    guard: Guard | CurrentGuard, *scopes: str, staleness: Staleness = STRICT, max_auth_age: int | None = None
) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that lets a request pass whose token is good and holds all of `scopes`.

    `max_auth_age` asks, besides, for a person who signed in so many seconds ago at most (step-up, RFC 9470).
    `guard` may be a function that gives it, for apps that make their guard when they start.
    The dependency raises what `Guard.authenticate` raises, and `MissingToken`; `install_error_handlers` answers them.
    """
    required = frozenset(scopes)

    async def authenticate(request: Request) -> Principal:
        return await current_of(guard).authenticate(
            token_of(request), scopes=required, staleness=staleness, max_auth_age=max_auth_age
        )

    return authenticate


def leased(
    guard: Guard | CurrentGuard, *scopes: str, staleness: Staleness = STRICT, max_auth_age: int | None = None
) -> Callable[[Request], AsyncIterator[Lease]]:
    """A dependency that lets a live stream begin as `bearer` lets a request pass, and ties it to its token.

    The lease is held until the response has ended. Give it to `sse`, or to whatever else you stream with.
    """
    required = frozenset(scopes)

    async def lease(request: Request) -> AsyncIterator[Lease]:
        async with current_of(guard).lease(
            token_of(request), scopes=required, staleness=staleness, max_auth_age=max_auth_age
        ) as held:
            yield held

    return lease


def sse(lease: Lease, events: AsyncIterable[ServerSentEvent], *, ping_every: float = PING_EVERY) -> EventSourceResponse:
    """A response of server-sent events that ends with `events`, or when the lease ends.

    Then its last event is `end`, with the JSON data `{"reason": "TOKEN_REVOKED", "reconnect": false}`. `reconnect` says
    that the same request may succeed: with the same token, or, for TOKEN_STALE and TOKEN_EXPIRED, with a refreshed one.
    """
    return _LeasedEvents(lease, events, ping_every)


class _LeasedEvents(EventSourceResponse):
    def __init__(self, lease: Lease, events: AsyncIterable[ServerSentEvent], ping_every: float) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(_encoded(events, ping_every), headers=headers)
        self._lease = lease

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        last = b""
        try:
            async with self._lease.while_good(), contextlib.aclosing(self.body_iterator):  # type: ignore[type-var]
                async for frame in self.body_iterator:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        except RescindError as error:
            if error is not self._lease.error:
                raise
            last = _event(ServerSentEvent(event="end", data=ending(error)))
        with contextlib.suppress(TimeoutError):  # who does not read is cut off by the server instead
            async with asyncio.timeout(LAST_WORDS):
                await send({"type": "http.response.body", "body": last, "more_body": False})


def ending(error: RescindError) -> dict[str, Any]:
    """What the client of a live stream is told when it ends: why, and whether to connect again."""
    return {"reason": error.reason, "reconnect": comes_again(error)}


def comes_again(error: RescindError) -> bool:
    """Whether a new connection may succeed: at once, or with a refreshed token."""
    return isinstance(error, CannotTell) or error.reason in ("TOKEN_STALE", "TOKEN_EXPIRED")


async def _encoded(events: AsyncIterable[ServerSentEvent], ping_every: float) -> AsyncGenerator[bytes, None]:
    iterator = aiter(events)
    pending: asyncio.Future[ServerSentEvent | None] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(_next(iterator))
            done, _ = await asyncio.wait({pending}, timeout=ping_every)
            if not done:
                yield KEEPALIVE_COMMENT
                continue
            event, pending = pending.result(), None
            if event is None:
                return
            yield _event(event)
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _next(events: AsyncIterator[ServerSentEvent]) -> ServerSentEvent | None:
    return await anext(events, None)


def _event(event: ServerSentEvent) -> bytes:
    data = event.raw_data
    if event.data is not None:
        data = json.dumps(jsonable_encoder(event.data), separators=(",", ":"), ensure_ascii=False)
    return format_sse_event(data_str=data, event=event.event, id=event.id, retry=event.retry, comment=event.comment)


def current_of(guard: Guard | CurrentGuard) -> Guard:
    """The guard itself, where a function gives it."""
    return guard if isinstance(guard, Guard) else guard()


def token_of(request: HTTPConnection) -> str:
    """The bearer token of a request, not yet verified.

    Raises:
        MissingToken: there is no Authorization header, or one of another scheme.
        MalformedToken: there is more than one.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        raise MissingToken("no bearer token")
    if len(headers) > 1:
        raise MalformedToken("more than one Authorization header")
    scheme, _, unverified_token = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not unverified_token:
        raise MissingToken("no bearer token")
    return unverified_token


def challenge(error: RescindError) -> str | None:
    """The WWW-Authenticate value for a refusal (RFC 6750 section 3, RFC 9470 section 3), or None where none belongs."""
    if isinstance(error, MissingToken):
        return "Bearer"
    if isinstance(error, TokenRefused):
        return 'Bearer error="invalid_token"'
    if isinstance(error, InsufficientScope):
        return f'Bearer error="insufficient_scope", scope="{" ".join(sorted(error.required))}"'
    if isinstance(error, StepUpRequired):
        return f'Bearer error="insufficient_user_authentication", max_age={error.max_auth_age}'
    return None


def install_error_handlers(app: FastAPI) -> None:
    """Answers the guard's refusals as problem details (RFC 9457): 401, 403, or 503 with Retry-After."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RescindError)  # noqa: S101  (registered for nothing else)
        headers = {}
        if (value := challenge(error)) is not None:
            headers["www-authenticate"] = value
        status, title = 401, "Unauthorized"
        if isinstance(error, InsufficientScope):
            status, title = 403, "Forbidden"
        elif isinstance(error, CannotTell):
            status, title = 503, "Service Unavailable"
            headers["retry-after"] = str(error.retry_after)
        body = {"type": "about:blank", "title": title, "status": status, "reason": error.reason}
        return JSONResponse(body, status, headers, media_type="application/problem+json")

    app.add_exception_handler(RescindError, answer)
