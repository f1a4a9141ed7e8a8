"""Notifications over gRPC: the same use cases, refusals and reasons as over HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from contracts.notifications.v1 import notifications_pb2 as pb
from contracts.notifications.v1 import notifications_pb2_grpc
from notifications.domain import Category, Notification, Person, Preferences
from notifications.service import KeepAlive, Notifications, person_in
from rescind.grpc import current_principal
from servicekit.errors import Kind, ServiceError

SERVICE = pb.DESCRIPTOR.services_by_name["NotificationsService"].full_name
READ = frozenset({"notifications:read"})
# There is no scope of its own for marking as read and for preferences; how stale an answer may be differs.
SCOPES: Mapping[str, frozenset[str]] = {
    f"/{SERVICE}/List": READ,
    f"/{SERVICE}/MarkRead": READ,
    f"/{SERVICE}/Subscribe": READ,
    f"/{SERVICE}/GetPreferences": READ,
    f"/{SERVICE}/SetPreferences": READ,
}
WRITING = frozenset({f"/{SERVICE}/MarkRead", f"/{SERVICE}/SetPreferences"})
_CATEGORY = {Category.ORDERS: pb.CATEGORY_ORDERS, Category.SECURITY: pb.CATEGORY_SECURITY}
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class NotificationsServicer(notifications_pb2_grpc.NotificationsServiceServicer):
    """Runs behind the interceptor that has authenticated the call, and that ends `Subscribe` with its token."""

    def __init__(self, notifications: Notifications) -> None:
        self._notifications = notifications

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        """A page of the caller's inbox."""
        page = await self._notifications.list_own(_person(), request.page_size, request.page_token)
        return pb.ListResponse(
            notifications=[_shown(notification) for notification in page.notifications],
            next_page_token=page.next_page_token,
            unread_count=page.unread,
        )

    async def MarkRead(self, request: pb.MarkReadRequest, context: Context) -> pb.Notification:
        """Marks one as read."""
        return _shown(await self._notifications.mark_read(_person(), request.id))

    async def Subscribe(self, request: pb.SubscribeRequest, context: Context) -> AsyncIterator[pb.SubscribeResponse]:
        """What is new, as it comes."""
        after = request.after if request.HasField("after") else None
        async with aclosing(self._notifications.follow(_person(), after)) as followed:
            async for event in followed:
                if isinstance(event, KeepAlive):
                    yield pb.SubscribeResponse(keep_alive=pb.KeepAlive(sequence=event.sequence))
                else:
                    yield pb.SubscribeResponse(notification=_shown(event))

    async def GetPreferences(self, request: pb.GetPreferencesRequest, context: Context) -> pb.Preferences:
        """Which mails the caller wants."""
        return _wanted(await self._notifications.preferences(_person()))

    async def SetPreferences(self, request: pb.SetPreferencesRequest, context: Context) -> pb.Preferences:
        """Which mails the caller wants from now on."""
        if not request.HasField("preferences"):
            raise ServiceError(
                Kind.INVALID,
                "VALIDATION_FAILED",
                "The request does not have the shape it must have.",
                fields={"preferences": "must be set"},
            )
        wanted = request.preferences
        return _wanted(
            await self._notifications.prefer(
                _person(), Preferences(order_emails=wanted.order_emails, security_emails=wanted.security_emails)
            )
        )


def _person() -> Person:
    return person_in(current_principal())


def _wanted(preferences: Preferences) -> pb.Preferences:
    return pb.Preferences(order_emails=preferences.order_emails, security_emails=preferences.security_emails)


def _shown(notification: Notification) -> pb.Notification:
    shown = pb.Notification(
        id=notification.id,
        sequence=notification.sequence,
        kind=notification.kind,
        category=_CATEGORY[notification.category],
        title=notification.title,
        body=notification.body,
        about=notification.about,
        created_at=_timestamp(notification.created_at),
    )
    if notification.read_at is not None:
        shown.read_at.CopyFrom(_timestamp(notification.read_at))
    return shown


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp
