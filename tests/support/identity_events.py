"""What identity has told: the events in its outbox, in the order of their accounts."""

from typing import Any

from sqlalchemy import select

from contracts.identity.v1 import events_pb2
from eventlog.event import decoded, read_as
from identity.storage import outbox
from servicekit.database import Database


def told(database: Database, subject: str | None = None) -> list[Any]:
    """The messages told so far, of one account or of all, oldest first."""

    def work(tx: Any) -> list[Any]:
        query = select(outbox.events.c.envelope, outbox.events.c.aggregate).order_by(outbox.events.c.id)
        return [decoded(row.envelope) for row in tx.execute(query) if subject in (None, row.aggregate)]

    events = database.run_sync(work)
    return [read_as(event, getattr(events_pb2, event.type.rpartition(".")[2])) for event in events]


def kinds(messages: list[Any]) -> list[str]:
    """The short names of their types."""
    return [type(message).__name__ for message in messages]
