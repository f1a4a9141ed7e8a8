"""What people can do with their inbox. REST, gRPC, SSE and WebSocket say the same, because all end here."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from notifications import storage
from notifications.channels.live import Live
from notifications.domain import (
    NotAPerson,
    Notification,
    NotificationId,
    Person,
    Preferences,
    is_notification_id,
    person_of,
)
from rescind import Principal
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

DEFAULT_PAGE = 20
LARGEST_PAGE = 100
KEEP_ALIVE = 15.0  # seconds: what stands between a quiet stream and a proxy that ends those that say nothing
_AT_ONCE = 50  # notifications that one look into the inbox brings to a stream
_LOOKS = 8  # of streams at the same moment: a thousand that wake up together must not crowd out everybody else
LARGEST_SEQUENCE = 2**53 - 1  # what JSON readers can hold
_CURSOR = re.compile(r"1\.([1-9][0-9]{0,15})")


@dataclass(frozen=True, slots=True)
class Page:
    """Some notifications, newest first; `next_page_token` is empty on the last page, `unread` is of all pages."""

    notifications: tuple[Notification, ...]
    next_page_token: str
    unread: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A sign of life in a stream; `sequence` is the last that the stream has brought, or passed over."""

    sequence: int


def person_in(principal: Principal) -> Person:
    """Whose inbox a verified token opens.

    Raises:
        ServiceError: PERSON_REQUIRED.
    """
    try:
        return person_of(principal.subject if principal.is_user else "")
    except NotAPerson:
        raise ServiceError(Kind.FORBIDDEN, "PERSON_REQUIRED", "An inbox is a person's; a client has none.") from None


class Notifications:
    """The use cases. `keep_alive` in seconds."""

    def __init__(self, database: Database, live: Live, *, keep_alive: float = KEEP_ALIVE) -> None:
        self._database = database
        self._live = live
        self._keep_alive = keep_alive
        self._looks = asyncio.Semaphore(_LOOKS)

    async def list_own(self, person: Person, page_size: int = 0, page_token: str = "") -> Page:
        """The inbox, newest first. What arrives meanwhile shifts nothing: a page goes on where the last one ended.

        Raises:
            ServiceError: BAD_PAGE_TOKEN, VALIDATION_FAILED.
        """
        if not 0 <= page_size <= LARGEST_PAGE:
            raise _invalid({"page_size": f"must be 1 to {LARGEST_PAGE}"})
        size = page_size or DEFAULT_PAGE
        before = _read_cursor(page_token) if page_token else None
        found, unread = await self._database.read(
            lambda tx: (storage.newest(tx, person, size + 1, before), storage.counts(tx, person)[1])
        )
        page = tuple(found[:size])
        return Page(page, _cursor(page[-1]) if len(found) > size else "", unread)

    async def mark_read(self, person: Person, notification: str) -> Notification:
        """Marks one as read; doing it again changes nothing.

        Raises:
            ServiceError: NOTIFICATION_NOT_FOUND, also when it is somebody else's.
        """
        found = None
        if is_notification_id(notification):
            wanted = NotificationId(notification)
            found = await self._database.run(
                lambda tx: storage.mark_read(tx, person, wanted, at=self._database.now(tx))
            )
        if found is None:
            raise ServiceError(Kind.NOT_FOUND, "NOTIFICATION_NOT_FOUND", "There is no such notification.")
        return found

    async def preferences(self, person: Person) -> Preferences:
        """Which mails they want."""
        return await self._database.read(lambda tx: storage.wishes(tx, person))

    async def prefer(self, person: Person, wanted: Preferences) -> Preferences:
        """Which mails they want from now on; what is queued already is sent."""
        await self._database.run(lambda tx: storage.wish(tx, person, wanted, at=self._database.now(tx)))
        return wanted

    async def follow(self, person: Person, after: int | None) -> AsyncGenerator[Notification | KeepAlive, None]:
        """Everything behind the sequence `after` in its order, without end; with None, what is new from now on.

        Begins with a KeepAlive that says where it starts, and from then on nothing is missed. Whoever reads slowly is
        waited for: what they have not asked for yet stays in the inbox.

        Raises:
            ServiceError: VALIDATION_FAILED.
        """
        if after is not None and not 0 <= after <= LARGEST_SEQUENCE:
            raise _invalid({"after": "must be a sequence of before"})
        with self._live.watching(person) as watch:  # first, so that nothing slips in between
            last, _ = await self._look(person)
            # Beyond the end is who followed an inbox that was put back to a backup since.
            cursor = last if after is None else min(after, last)
            watch.tell(last)
            yield KeepAlive(cursor)
            while True:
                if not await watch.beyond(cursor, within=self._keep_alive):
                    yield KeepAlive(cursor)
                    continue
                hint = watch.up_to
                found = await self._since(person, cursor)
                if not found:
                    watch.disprove(hint, cursor)
                for notification in found:
                    cursor = notification.sequence
                    yield notification

    async def _look(self, person: Person) -> tuple[int, int]:
        async with self._looks:
            return await self._database.read(lambda tx: storage.counts(tx, person))

    async def _since(self, person: Person, cursor: int) -> list[Notification]:
        async with self._looks:
            return await self._database.read(lambda tx: storage.since(tx, person, cursor, _AT_ONCE))


def _invalid(fields: dict[str, str]) -> ServiceError:
    return ServiceError(
        Kind.INVALID, "VALIDATION_FAILED", "The request does not have the shape it must have.", fields=fields
    )


def _cursor(notification: Notification) -> str:
    """Where a page ended. Not secret and not signed: whose inbox is listed comes from the caller's token alone."""
    return base64.urlsafe_b64encode(f"1.{notification.sequence}".encode()).rstrip(b"=").decode()


def _read_cursor(page_token: str) -> int:
    try:
        text = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except (binascii.Error, ValueError):
        text = ""
    found = _CURSOR.fullmatch(text)
    # Written back and compared: of all the spellings that decode to the same, only ours is accepted.
    if found is None or base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode() != page_token:
        raise ServiceError(Kind.INVALID, "BAD_PAGE_TOKEN", "Use next_page_token of the page before, unchanged.")
    return int(found[1])
