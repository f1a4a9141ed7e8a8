"""What people are told, and what of it is mailed. Knows no wire, no table and no clock."""

import base64
import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from typing import NewType

NotificationId = NewType("NotificationId", str)  # ntf_ and 22 characters
Person = NewType("Person", str)  # the `sub` of a person: usr_...

_PERSON = re.compile(r"usr_[A-Za-z0-9_-]{1,64}")
_NOTIFICATION_ID = re.compile(r"ntf_[A-Za-z0-9_-]{22}")
TRIED_FOR = 24 * 3600 * 1000  # ms: who hears of a sign-in a day later heard of it too late
_FIRST_DELAY = 2_000  # ms
_LONGEST_DELAY = 300_000  # ms: a mail server that is back gets its mail within five minutes


class NotAPerson(Exception):
    """The subject of an event has no inbox: it is no person's."""


class Category(Enum):
    """What a preference is about."""

    ORDERS = "orders"
    SECURITY = "security"


class Mailing(Enum):
    """Whether something is mailed."""

    ALWAYS = "always"  # whoever takes over an account must not be able to keep that from its owner
    AS_PREFERRED = "as_preferred"
    NEVER = "never"  # it was the person's own doing, another mail says it, or there is nobody to write to


class Kind(Enum):
    """What happened. Readers show a kind that they do not know by its text."""

    ORDER_PLACED = "ORDER_PLACED"
    ORDER_CONFIRMED = "ORDER_CONFIRMED"
    ORDER_SHIPPED = "ORDER_SHIPPED"
    ORDER_DELIVERED = "ORDER_DELIVERED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    SIGNED_IN = "SIGNED_IN"
    PASSWORD_CHANGED = "PASSWORD_CHANGED"  # noqa: S105  (a word)
    REFRESH_REUSED = "REFRESH_REUSED"
    SESSIONS_ENDED = "SESSIONS_ENDED"
    GRANT_GIVEN = "GRANT_GIVEN"
    GRANT_WITHDRAWN = "GRANT_WITHDRAWN"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    ACCOUNT_ENABLED = "ACCOUNT_ENABLED"

    @property
    def category(self) -> Category:
        """Orders, or everything else."""
        return Category.ORDERS if self.name.startswith("ORDER_") else Category.SECURITY

    @property
    def mailing(self) -> Mailing:
        """What holds unless the circumstances say otherwise."""
        return _MAILING.get(self, Mailing.AS_PREFERRED)


_MAILING = {
    Kind.PASSWORD_CHANGED: Mailing.ALWAYS,
    Kind.REFRESH_REUSED: Mailing.ALWAYS,
    Kind.ACCOUNT_DISABLED: Mailing.NEVER,  # a disabled account is not written to
}


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a person is to be told: plain text, `about` what (ord_..., sid_..., or nothing)."""

    person: Person
    kind: Kind
    title: str
    body: str
    about: str
    mailing: Mailing


@dataclass(frozen=True, slots=True)
class Notification:
    """Something that a person was told. Times are milliseconds since the epoch; `read_at` is None while unread.

    `sequence` counts 1, 2, 3 ... within the person's inbox, in the order in which it was filled.
    """

    id: NotificationId
    person: Person
    sequence: int
    kind: str
    category: Category
    title: str
    body: str
    about: str
    created_at: int
    read_at: int | None = None


@dataclass(frozen=True, slots=True)
class Preferences:
    """Which mails a person wants, beside those that are always sent."""

    order_emails: bool = True
    security_emails: bool = True

    def want(self, told: Told) -> bool:
        """Whether it is mailed."""
        if told.mailing is not Mailing.AS_PREFERRED:
            return told.mailing is Mailing.ALWAYS
        return self.order_emails if told.kind.category is Category.ORDERS else self.security_emails


class MailState(Enum):
    """Where a mail stands. All but the first are final."""

    QUEUED = "queued"
    SENT = "sent"
    REFUSED = "refused"  # by the mail server, for good
    EXPIRED = "expired"  # tried for TRIED_FOR in vain
    DROPPED = "dropped"  # there is no such account, or it is disabled


def person_of(subject: str) -> Person:
    """`subject` as the owner of an inbox.

    Raises:
        NotAPerson: it names a client, or nobody.
    """
    if not _PERSON.fullmatch(subject):
        raise NotAPerson
    return Person(subject)


def is_notification_id(text: str) -> bool:
    """Whether `text` can name a notification at all."""
    return _NOTIFICATION_ID.fullmatch(text) is not None


def notification_id(event_id: str) -> NotificationId:
    """The id of what is told because of an event: always the same, and as unguessable as the event's own."""
    digest = hashlib.sha256(b"notification of " + event_id.encode()).digest()[:16]
    return NotificationId("ntf_" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


def message_id(notification: NotificationId) -> str:
    """The Message-ID of the mail about a notification, without its angle brackets: every attempt has the same."""
    return f"{notification}@notifications.rescind"


def delay(attempt: int, chance: float) -> int:
    """Milliseconds until a mail is tried again after its attempt number `attempt`; `chance` is 0 to 1."""
    longest: int = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(attempt - 1, 10))
    return round(longest * (0.5 + chance / 2))
