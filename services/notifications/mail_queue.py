"""Mails that are to be sent: queued in the transaction that told the person, sent by whichever replica claims them.

A claim is a lease: `due_at` moves on by its length, so nobody else takes the mail meanwhile, and whoever died with it
in hand is followed by another when the lease is over. `claim` names the attempt, so one that comes to its end too late
changes nothing.

The address is not here: it is asked for when the mail is sent, and forgotten.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    Row,
    Table,
    Text,
    func,
    select,
    text,
    update,
)

from notifications.domain import TRIED_FOR, MailState, Notification, NotificationId, Person
from notifications.storage import find, metadata

mails = Table(
    "mails",
    metadata,
    Column("notification", Text, ForeignKey("notifications.id"), primary_key=True),
    Column("person", Text, nullable=False),
    Column("state", Text, nullable=False),  # notifications.domain.MailState
    Column("reason", Text, nullable=False),  # UPPER_SNAKE, of the last attempt that failed; empty
    Column("attempts", Integer, nullable=False),
    Column("queued_at", BigInteger, nullable=False),  # ms
    Column("due_at", BigInteger, nullable=False),  # ms: not tried before
    Column("claim", Text, nullable=False),  # of the attempt under way, or of the last; empty before the first
    Column("settled_at", BigInteger),  # ms; null while queued
    CheckConstraint("state IN ('queued', 'sent', 'refused', 'expired', 'dropped')", name="state"),
    # Only what is queued is ever looked for by time.
    Index(
        "ix_mails_due_at", "due_at", sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'")
    ),
    Index("ix_mails_state_settled_at", "state", "settled_at"),
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A mail in one sender's hands: what it is about, the attempt's name and number, why the one before failed."""

    notification: Notification
    claim: str
    attempt: int
    reason: str
    queued_at: int

    @property
    def expires_at(self) -> int:
        """After this moment (ms) it is not tried again."""
        return self.queued_at + TRIED_FOR


@dataclass(frozen=True, slots=True)
class Entry:
    """A mail as an operator sees it."""

    notification: NotificationId
    person: Person
    state: MailState
    reason: str
    attempts: int
    queued_at: int
    due_at: int


def queue(tx: Connection, notification: NotificationId, person: Person, *, at: int) -> None:
    """Adds one, due at once."""
    row = {
        "notification": notification,
        "person": person,
        "state": MailState.QUEUED.value,
        "reason": "",
        "attempts": 0,
        "queued_at": at,
        "due_at": at,
        "claim": "",
    }
    tx.execute(mails.insert(), row)


def next_due(tx: Connection) -> int | None:
    """When the next one is due (ms), as far as one can tell without locking anything; None: nothing is queued."""
    query = select(func.min(mails.c.due_at)).where(mails.c.state == MailState.QUEUED.value)
    earliest: int | None = tx.execute(query).scalar_one()
    return earliest


def claim(tx: Connection, count: int, name: str, *, at: int, lease: int) -> list[Claimed]:
    """Takes at most `count` that are due, oldest first, for `lease` ms. Replicas that do so at once get different ones.

    `name` is new for every call.
    """
    due = (
        select(mails.c.notification)
        .where(mails.c.state == MailState.QUEUED.value, mails.c.due_at <= at)
        .order_by(mails.c.due_at)
        .limit(count)
        .with_for_update(skip_locked=True)  # SQLite has one writer at a time, and leaves this out
        .cte("due")  # looked at once: as a plain subquery PostgreSQL may look again, and lock more than `count`
    )
    taken = tx.execute(
        update(mails)
        .where(mails.c.notification.in_(select(due.c.notification)), mails.c.state == MailState.QUEUED.value)
        .values(due_at=at + lease, claim=name, attempts=mails.c.attempts + 1)
        .returning(mails.c.notification, mails.c.attempts, mails.c.reason, mails.c.queued_at)
    ).all()
    claimed = [_claimed(tx, row, name) for row in taken]
    return sorted(claimed, key=lambda mail: mail.queued_at)


def _claimed(tx: Connection, row: Row[Any], name: str) -> Claimed:
    notification = find(tx, NotificationId(row.notification))
    assert notification is not None  # noqa: S101  (a foreign key says so)
    return Claimed(notification, name, row.attempts, row.reason, row.queued_at)


def settle(tx: Connection, mail: Claimed, state: MailState, reason: str = "", *, at: int) -> bool:
    """Ends a mail, unless another attempt has begun meanwhile; tells whether it did."""
    return _change(tx, mail, {"state": state.value, "reason": reason, "settled_at": at})


def put_back(tx: Connection, mail: Claimed, reason: str, *, due_at: int) -> bool:
    """Leaves a mail for later, unless another attempt has begun meanwhile."""
    return _change(tx, mail, {"reason": reason, "due_at": due_at})


def _change(tx: Connection, mail: Claimed, values: dict[str, Any]) -> bool:
    changed = tx.execute(
        update(mails)
        .where(
            mails.c.notification == mail.notification.id,
            mails.c.state == MailState.QUEUED.value,
            mails.c.claim == mail.claim,
        )
        .values(**values)
        .returning(mails.c.notification)
    )
    return changed.first() is not None


def tally(tx: Connection) -> dict[MailState, int]:
    """How many are in each state, but for those that were sent."""
    rows = tx.execute(
        select(mails.c.state, func.count()).where(mails.c.state != MailState.SENT.value).group_by(mails.c.state)
    )
    return {MailState(row[0]): row[1] for row in rows}


def unsent(tx: Connection, limit: int) -> Sequence[Entry]:
    """At most `limit` that are not sent, oldest first."""
    query = select(mails).where(mails.c.state != MailState.SENT.value).order_by(mails.c.queued_at).limit(limit)
    return [
        Entry(
            NotificationId(row.notification),
            Person(row.person),
            MailState(row.state),
            row.reason,
            row.attempts,
            row.queued_at,
            row.due_at,
        )
        for row in tx.execute(query)
    ]


def queue_again(tx: Connection, notification: NotificationId, *, at: int) -> bool:
    """Has one that was given up tried again, for as long as a new one; tells whether it was one."""
    given_up = [MailState.REFUSED.value, MailState.EXPIRED.value, MailState.DROPPED.value]
    changed = tx.execute(
        update(mails)
        .where(mails.c.notification == notification, mails.c.state.in_(given_up))
        .values(state=MailState.QUEUED.value, queued_at=at, due_at=at, attempts=0, settled_at=None)
        .returning(mails.c.notification)
    )
    return changed.first() is not None
