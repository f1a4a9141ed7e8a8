"""Notifications over HTTP. What stays open is in `streams`."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from notifications.domain import Notification, Preferences
from notifications.service import Notifications, person_in
from rescind import Principal
from servicekit.http import StrictRoute, only_query

Authenticated = Callable[..., Any]  # a dependency that yields the Principal, or refuses


class NotificationBody(BaseModel):
    """A notification as it is shown, here and in the live streams."""

    id: str
    sequence: int = Field(description="1, 2, 3 ... within the inbox: where a live stream resumes")
    kind: str
    category: str
    title: str
    body: str
    about: str = Field(description="ord_..., sid_..., or empty")
    created_at: str = Field(description="RFC 3339, UTC")
    read_at: str | None = Field(description="null while unread")


class PageBody(BaseModel):
    """Some of the inbox, newest first."""

    notifications: list[NotificationBody]
    next_page_token: str = Field(description="Empty on the last page")
    unread_count: int = Field(description="In the whole inbox")


class PreferencesBody(BaseModel):
    """Which mails are wanted. A changed password and a reused refresh token are mailed all the same."""

    model_config = ConfigDict(extra="forbid", strict=True)

    order_emails: bool
    security_emails: bool


def router(notifications: Notifications, *, reader: Authenticated, writer: Authenticated) -> APIRouter:
    """The routes. `reader` and `writer` say who may read and write, and how stale an answer about that may be."""
    routes = APIRouter(prefix="/v1/notifications", tags=["notifications"], route_class=StrictRoute)
    # The token is judged before anything else of the request is.
    may_read, may_write = Depends(reader), Depends(writer)
    no_query = Depends(only_query())

    @routes.get("", dependencies=[may_read, Depends(only_query("page_size", "page_token"))])
    async def list_own(principal: Annotated[Principal, may_read], page_size: int = 0, page_token: str = "") -> PageBody:
        page = await notifications.list_own(person_in(principal), page_size, page_token)
        return PageBody(
            notifications=[shown(notification) for notification in page.notifications],
            next_page_token=page.next_page_token,
            unread_count=page.unread,
        )

    @routes.get("/preferences", dependencies=[may_read, no_query])
    async def preferences(principal: Annotated[Principal, may_read]) -> PreferencesBody:
        return _wanted(await notifications.preferences(person_in(principal)))

    @routes.put("/preferences", dependencies=[may_write, no_query])
    async def prefer(principal: Annotated[Principal, may_write], body: PreferencesBody) -> PreferencesBody:
        wanted = Preferences(order_emails=body.order_emails, security_emails=body.security_emails)
        return _wanted(await notifications.prefer(person_in(principal), wanted))

    @routes.post("/{notification_id}/read", dependencies=[may_write, no_query])
    async def mark_read(principal: Annotated[Principal, may_write], notification_id: str) -> NotificationBody:
        return shown(await notifications.mark_read(person_in(principal), notification_id))

    return routes


def shown(notification: Notification) -> NotificationBody:
    """A notification in JSON's words."""
    return NotificationBody(
        id=notification.id,
        sequence=notification.sequence,
        kind=notification.kind,
        category=notification.category.value,
        title=notification.title,
        body=notification.body,
        about=notification.about,
        created_at=_rfc3339(notification.created_at),
        read_at=None if notification.read_at is None else _rfc3339(notification.read_at),
    )


def _wanted(preferences: Preferences) -> PreferencesBody:
    return PreferencesBody(order_emails=preferences.order_emails, security_emails=preferences.security_emails)


def _rfc3339(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
