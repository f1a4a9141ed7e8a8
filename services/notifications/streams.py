"""Notifications as they come, over HTTP: Server-Sent Events and WebSocket. Both end with their token: `rescind.leases`.

    GET /v1/notifications/stream   SSE. Every event has the sequence as its `id`; a browser that reconnects sends the
                                   last one as Last-Event-ID and goes on behind it. With a newer token: connect again.
    GET /v1/notifications/live     WebSocket. `?after=` is where to go on. A newer token is sent as a message, and
                                   nothing is cut: see `rescind.websocket`.

The first event, `ready`, says that from here on nothing is missed, however the connection ends. A stream that ends says
why, and whether to come again: a server that stops says so too.
"""

import re
from collections.abc import AsyncGenerator, Set
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.requests import HTTPConnection

from notifications.domain import Notification, Person
from notifications.rest import shown
from notifications.service import LARGEST_SEQUENCE, Notifications, person_in
from rescind import Guard, Staleness
from rescind.fastapi import leased, sse
from rescind.leases import Lease
from rescind.websocket import serve_socket
from servicekit.errors import Kind, ServiceError
from servicekit.http import only_query

RECONNECT = 1_000  # ms that a browser waits before it comes again
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
_SEQUENCE = re.compile(r"0|[1-9][0-9]{0,15}")


def router(
    notifications: Notifications, guard: Guard, *, scopes: Set[str], staleness: Staleness, origins: frozenset[str]
) -> APIRouter:
    """The two routes. `origins` are pages that may connect by themselves; whoever sends no Origin is no page."""
    routes = APIRouter(prefix="/v1/notifications", tags=["notifications"])
    # The token is judged before anything else of the request is.
    held = Depends(leased(guard, *scopes, staleness=staleness))

    def same_origin(connection: HTTPConnection) -> None:
        if not origins.issuperset(connection.headers.getlist("origin")):
            raise ServiceError(Kind.FORBIDDEN, "ORIGIN_NOT_ALLOWED", "This page may not connect here.")

    @routes.get("/stream", dependencies=[held, Depends(same_origin)], responses=_EVENTS)
    async def stream(lease: Annotated[Lease, held], connection: HTTPConnection) -> EventSourceResponse:
        return sse(lease, _events(notifications, person_in(lease.principal), _after(connection)))

    @routes.websocket("/live")
    async def live(websocket: WebSocket) -> None:
        after = _after(websocket)
        await serve_socket(
            websocket,
            guard,
            lambda lease: _messages(notifications, person_in(lease.principal), after),
            *scopes,
            staleness=staleness,
            origins=origins,
        )

    return routes


async def _events(
    notifications: Notifications, person: Person, after: int | None
) -> AsyncGenerator[ServerSentEvent, None]:
    began = False
    try:
        async with aclosing(notifications.follow(person, after)) as followed:
            async for event in followed:
                if isinstance(event, Notification):
                    data = shown(event).model_dump()
                    yield ServerSentEvent(id=str(event.sequence), event="notification", data=data)
                elif began:
                    yield ServerSentEvent(comment="keep-alive")
                else:
                    began = True
                    # The id makes a browser resume from here even if it never got anything else.
                    ready = {"sequence": event.sequence}
                    yield ServerSentEvent(id=str(event.sequence), event="ready", data=ready, retry=RECONNECT)
    except ServiceError as error:  # too late for another status: the stream has begun
        yield ServerSentEvent(event="end", data=_ending(error))


async def _messages(
    notifications: Notifications, person: Person, after: int | None
) -> AsyncGenerator[dict[str, Any], None]:
    kind = "ready"
    async with aclosing(notifications.follow(person, after)) as followed:
        async for event in followed:
            if isinstance(event, Notification):
                yield {"event": "notification", "data": shown(event).model_dump()}
            else:
                yield {"event": kind, "data": {"sequence": event.sequence}}
                kind = "keep_alive"


def _ending(error: ServiceError) -> dict[str, Any]:
    """As `rescind.fastapi.ending` says it of a token."""
    return {"reason": error.reason, "reconnect": error.kind is Kind.UNAVAILABLE}


def _after(connection: HTTPConnection) -> int | None:
    """Where to go on: `Last-Event-ID`, which a browser sends by itself, or `after`; the first is the newer one.

    Raises:
        ServiceError: UNKNOWN_PARAMETER, REPEATED_PARAMETER, SEQUENCE_INVALID.
    """
    only_query("after")(connection)
    last = connection.headers.getlist("last-event-id")
    given = last or ([connection.query_params["after"]] if "after" in connection.query_params else [])
    if not given:
        return None
    if len(given) > 1 or not _SEQUENCE.fullmatch(given[0]) or int(given[0]) > LARGEST_SEQUENCE:
        raise ServiceError(Kind.INVALID, "SEQUENCE_INVALID", "Go on behind the sequence of a notification.")
    return int(given[0])
