"""/api/notifications, /api/notification-preferences, /api/live: what a person gets told.

The live stream is Server-Sent Events: `notification` (id: its sequence, data: the notification), `keepalive`, and last
of all `end` with {"reason", "reconnect"}. Last-Event-ID resumes behind what was seen.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response, StreamingResponse
from starlette.types import Send

from contracts.notifications.v1 import notifications_pb2 as pb
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, only_query
from session.domain import Held
from session.live import Item, Relay
from session.rest.access import Access
from session.rest.shop import stamp
from session.service import Policies
from session.streams import End, Stream
from session.upstream import Upstream

_CATEGORY = {pb.CATEGORY_ORDERS: "orders", pb.CATEGORY_SECURITY: "security"}
_SEQUENCES = 2**63
LAST_WORDS = 0.5  # seconds that a client has to read how its stream ended
# A proxy that collects answers before it passes them on would hold the stream back.
_SSE_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-Sent Events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


class NotificationBody(BaseModel):
    """One notification. `read_at` is null while it is unread."""

    id: str
    sequence: int
    kind: str
    category: str
    title: str
    body: str
    about: str
    created_at: str
    read_at: str | None


class InboxBody(BaseModel):
    """A page of the inbox, newest first; `unread_count` is of all of it."""

    notifications: list[NotificationBody]
    next_page_token: str
    unread_count: int


class PreferencesBody(BaseModel):
    """Which e-mails the person wants."""

    model_config = ConfigDict(extra="forbid", strict=True)

    order_emails: bool
    security_emails: bool


def router(upstream: Upstream, relay: Relay, policies: Policies, access: Access) -> APIRouter:
    """The routes. The token that a route uses is judged when it is used."""
    routes = APIRouter(prefix="/api", tags=["notifications"], route_class=StrictRoute)
    presented = Depends(access.presented)
    nothing = Depends(only_query())

    @routes.get("/notifications", dependencies=[Depends(only_query("page_size", "page_token"))])
    async def inbox(held: Annotated[Held, presented], page_size: int = 0, page_token: str = "") -> InboxBody:
        if not 0 <= page_size < 2**31 or len(page_token) > 512:
            raise ServiceError(Kind.INVALID, "VALIDATION_FAILED", "page_size or page_token is not one of ours.")
        page = await upstream.inbox(held, pb.ListRequest(page_size=page_size, page_token=page_token), policies.read)
        return InboxBody(
            notifications=[_notification(one) for one in page.notifications],
            next_page_token=page.next_page_token,
            unread_count=page.unread_count,
        )

    @routes.post("/notifications/{notification_id}/read", dependencies=[nothing])
    async def read(held: Annotated[Held, presented], notification_id: str) -> NotificationBody:
        return _notification(await upstream.mark_read(held, pb.MarkReadRequest(id=notification_id), policies.write))

    @routes.get("/notification-preferences", dependencies=[nothing])
    async def preferences(held: Annotated[Held, presented]) -> PreferencesBody:
        return _preferences(await upstream.preferences(held, policies.read))

    @routes.put("/notification-preferences", dependencies=[nothing])
    async def change(held: Annotated[Held, presented], body: PreferencesBody) -> PreferencesBody:
        wanted = pb.Preferences(order_emails=body.order_emails, security_emails=body.security_emails)
        request = pb.SetPreferencesRequest(preferences=wanted)
        return _preferences(await upstream.set_preferences(held, request, policies.write))

    @routes.get("/live", dependencies=[nothing], response_class=StreamingResponse, responses=_EVENTS)
    async def live(
        held: Annotated[Held, Depends(access.read)], after: Annotated[int | None, Depends(_last_event_id)]
    ) -> Response:
        with relay.streams.opened(held.session):
            pass  # the limits, while an answer other than a stream is still possible
        return _LiveResponse(relay, held, after)

    return routes


class _LiveResponse(StreamingResponse):
    """The stream. It is over soon after its session is, also when its client reads nothing and `send` waits for it."""

    def __init__(self, relay: Relay, held: Held, after: int | None) -> None:
        super().__init__(_nothing(), media_type="text/event-stream", headers=_SSE_HEADERS)
        self._relay = relay
        self._held = held
        self._after = after

    async def stream_response(self, send: Send) -> None:
        """Sends frames to the end, or leaves it to the server to cut who does not read the last one."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            with self._relay.streams.opened(self._held.session) as stream:
                async with aclosing(self._relay.items(stream, self._after)) as items, _last_words(stream):
                    async for item in items:
                        await send({"type": "http.response.body", "body": _frame(item).encode(), "more_body": True})
        except ServiceError as error:  # the last free place was taken by another in between
            end = _frame(End(error.reason, reconnect=True))
            await send({"type": "http.response.body", "body": end.encode(), "more_body": True})
        except TimeoutError:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def _last_words(stream: Stream) -> AsyncIterator[None]:
    """Gives the block LAST_WORDS seconds from the moment that the stream must end.

    Raises:
        TimeoutError: it was not done by then.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as patience:

        def hurry(_: object) -> None:
            patience.reschedule(loop.time() + LAST_WORDS)

        stream.ended.add_done_callback(hurry)
        try:
            yield
        finally:
            stream.ended.remove_done_callback(hurry)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


def _frame(item: Item) -> str:
    if isinstance(item, pb.Notification):
        return f"id: {item.sequence}\nevent: notification\ndata: {_notification(item).model_dump_json()}\n\n"
    if isinstance(item, pb.KeepAlive):
        return f"event: keepalive\ndata: {json.dumps({'sequence': item.sequence})}\n\n"
    return f"event: end\ndata: {json.dumps({'reason': item.reason, 'reconnect': item.reconnect})}\n\n"


def _last_event_id(last_event_id: Annotated[str | None, Header()] = None) -> int | None:
    if not last_event_id:
        return None
    # Nineteen digits hold any: more are not looked at, were they zeros.
    digits = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) <= 19
    if not (digits and int(last_event_id) < _SEQUENCES):
        raise ServiceError(Kind.INVALID, "LAST_EVENT_ID_INVALID", "Last-Event-ID is the id of an event of ours.")
    return int(last_event_id)


def _notification(one: pb.Notification) -> NotificationBody:
    return NotificationBody(
        id=one.id,
        sequence=one.sequence,
        kind=one.kind,
        category=_CATEGORY.get(one.category, "other"),
        title=one.title,
        body=one.body,
        about=one.about,
        created_at=stamp(one.created_at),
        read_at=stamp(one.read_at) if one.HasField("read_at") else None,
    )


def _preferences(wanted: pb.Preferences) -> PreferencesBody:
    return PreferencesBody(order_emails=wanted.order_emails, security_emails=wanted.security_emails)
