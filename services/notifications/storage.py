"""The inbox, and what people want to be mailed. The mails themselves are in `mail_queue`.

A person's sequence comes from a counter in their row, which stays locked until the commit: so it has no gaps, and who
has read up to n has missed nothing, however late a transaction commits.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from eventlog import declare_inbox
from notifications.domain import Category, Notification, NotificationId, Person, Preferences, Told

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

people = Table(
    "people",
    metadata,
    Column("person", Text, primary_key=True),  # usr_...
    Column("last_sequence", BigInteger, nullable=False),
    Column("unread", Integer, nullable=False),
    CheckConstraint("unread >= 0 AND unread <= last_sequence", name="unread"),
)
notifications = Table(
    "notifications",
    metadata,
    Column("id", Text, primary_key=True),  # ntf_...
    Column("person", Text, ForeignKey("people.person"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),  # notifications.domain.Kind
    Column("category", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),  # ms: when it happened
    Column("read_at", BigInteger),  # ms; null: unread
    UniqueConstraint("person", "sequence"),
    CheckConstraint("category IN ('orders', 'security')", name="category"),
)
preferences = Table(
    "preferences",
    metadata,
    Column("person", Text, primary_key=True),
    Column("order_emails", Boolean, nullable=False),
    Column("security_emails", Boolean, nullable=False),
    Column("updated_at", BigInteger, nullable=False),  # ms
)
events = declare_inbox(metadata)

# Made once: putting such a statement together costs more than executing it.
_NEXT = {
    name: dialect.insert(people)
    .values(last_sequence=1, unread=1)
    .on_conflict_do_update(
        index_elements=[people.c.person],
        set_={"last_sequence": people.c.last_sequence + 1, "unread": people.c.unread + 1},
    )
    .returning(people.c.last_sequence)
    for name, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}


def lock(tx: Connection, persons: Collection[Person]) -> None:
    """Locks their rows, in one order everywhere: transactions that tell several people something then never wait for
    each other in a circle. SQLite has one writer at a time anyway.
    """
    if tx.dialect.name != "postgresql" or len(persons) < 2:
        return
    wanted = sorted(persons)
    rows = [{"person": person, "last_sequence": 0, "unread": 0} for person in wanted]
    tx.execute(postgresql.insert(people).values(rows).on_conflict_do_nothing())
    tx.execute(
        select(people.c.person).where(people.c.person.in_(wanted)).order_by(people.c.person).with_for_update()
    ).all()


def tell(tx: Connection, notification: NotificationId, told: Told, *, at: int) -> int:
    """Puts it into the person's inbox; the sequence it got."""
    sequence = int(tx.execute(_NEXT[tx.dialect.name], {"person": told.person}).scalar_one())
    tx.execute(
        notifications.insert(),
        {
            "id": notification,
            "person": told.person,
            "sequence": sequence,
            "kind": told.kind.value,
            "category": told.kind.category.value,
            "title": told.title,
            "body": told.body,
            "about": told.about,
            "created_at": at,
        },
    )
    return sequence


def newest(tx: Connection, person: Person, limit: int, before: int | None) -> list[Notification]:
    """At most `limit` of a person's notifications, newest first, those with a sequence below `before`."""
    query = select(notifications).where(notifications.c.person == person)
    if before is not None:
        query = query.where(notifications.c.sequence < before)
    query = query.order_by(notifications.c.sequence.desc()).limit(limit)
    return [_notification(row) for row in tx.execute(query)]


def since(tx: Connection, person: Person, after: int, limit: int) -> list[Notification]:
    """At most `limit` of a person's notifications, oldest first, those with a sequence above `after`."""
    query = (
        select(notifications)
        .where(notifications.c.person == person, notifications.c.sequence > after)
        .order_by(notifications.c.sequence)
        .limit(limit)
    )
    return [_notification(row) for row in tx.execute(query)]


def find(tx: Connection, notification: NotificationId) -> Notification | None:
    """One, whoever it belongs to."""
    row = tx.execute(select(notifications).where(notifications.c.id == notification)).one_or_none()
    return None if row is None else _notification(row)


def mark_read(tx: Connection, person: Person, notification: NotificationId, *, at: int) -> Notification | None:
    """Marks one of the person's own as read, if it is unread. The notification; None if they have no such."""
    table = notifications
    changed = tx.execute(
        update(table)
        .where(table.c.id == notification, table.c.person == person, table.c.read_at.is_(None))
        .values(read_at=at)
        .returning(table.c.id)
    ).first()
    if changed is not None:
        tx.execute(update(people).where(people.c.person == person).values(unread=people.c.unread - 1))
    found = find(tx, notification)
    return found if found is not None and found.person == person else None


def counts(tx: Connection, person: Person) -> tuple[int, int]:
    """The last sequence in the person's inbox, and how many are unread."""
    row = tx.execute(select(people.c.last_sequence, people.c.unread).where(people.c.person == person)).one_or_none()
    return (0, 0) if row is None else (row.last_sequence, row.unread)


def last_sequences(tx: Connection, persons: Sequence[Person]) -> dict[Person, int]:
    """The last sequence of each; who has no inbox yet is not in it."""
    rows = tx.execute(select(people.c.person, people.c.last_sequence).where(people.c.person.in_(persons)))
    return {Person(row.person): row.last_sequence for row in rows}


def wishes(tx: Connection, person: Person) -> Preferences:
    """What they want to be mailed: everything, until they say otherwise."""
    row = tx.execute(select(preferences).where(preferences.c.person == person)).one_or_none()
    return Preferences() if row is None else Preferences(row.order_emails, row.security_emails)


def wish(tx: Connection, person: Person, wanted: Preferences, *, at: int) -> None:
    """Stores what they want to be mailed from now on."""
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    values = {"order_emails": wanted.order_emails, "security_emails": wanted.security_emails, "updated_at": at}
    statement = insert(preferences).values(person=person, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=[preferences.c.person], set_=values))


def _notification(row: Row[Any]) -> Notification:
    return Notification(
        id=NotificationId(row.id),
        person=Person(row.person),
        sequence=row.sequence,
        kind=row.kind,
        category=Category(row.category),
        title=row.title,
        body=row.body,
        about=row.about,
        created_at=row.created_at,
        read_at=row.read_at,
    )
