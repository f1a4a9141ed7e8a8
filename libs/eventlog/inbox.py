"""The inbox: an event has its effect once, because the note that it had it commits together with the effect.

Delivery is at least once: a consumer dies before it acknowledges, a stream is lost and appended again, an operator
drives a dead letter twice. Each time the note is there already, and the reaction is not called.

Notes are forgotten when the producer has announced that the event will not come again *and* a retention is over, so a
stuck event keeps the notes behind it for as long as it is stuck. What remains is a *floor*: an event that is below it
by its position and older than it by its time was noted once. A stream that is put back to a state of long ago brings
such events; position alone would not do, because a producer whose database went back with it gives positions anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, Table, Text, case, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.event import Event, EventId


@dataclass(frozen=True, slots=True)
class InboxTables:
    """The two tables of a reader."""

    notes: Table
    floors: Table


def declare_inbox(metadata: MetaData) -> InboxTables:
    """Adds the inbox to a service's tables; its migration creates them as it does its own."""
    return InboxTables(
        notes=Table(
            "inbox",
            metadata,
            Column("event_id", Text, primary_key=True),
            Column("stream", Text, primary_key=True),
            Column("reader", Text, primary_key=True),  # the group
            Column("position", BigInteger, nullable=False),  # where it was delivered from, the first time
            Column("handled_at", BigInteger, nullable=False),  # ms
            Index("ix_inbox_stream_reader_position", "stream", "reader", "position"),
        ),
        floors=Table(
            "inbox_floors",
            metadata,
            Column("stream", Text, primary_key=True),
            Column("reader", Text, primary_key=True),
            Column("position", BigInteger, nullable=False),
            Column("occurred_before", BigInteger, nullable=False),  # ms
        ),
    )


@dataclass(frozen=True, slots=True)
class Floor:
    """Notes of events at or below `position` that occurred before `occurred_before` (ms) may have been forgotten."""

    position: int = 0
    occurred_before: int = 0

    def covers(self, event: Event, position: int) -> bool:
        """Whether the event had its effect so long ago that its note may be gone."""
        return position <= self.position and event.occurred_at < self.occurred_before


class Inbox:
    """The notes of one group about one stream."""

    def __init__(self, tables: InboxTables, *, stream: str, reader: str) -> None:
        self._notes = tables.notes
        self._floors = tables.floors
        # Made once: putting such a statement together costs more than executing it.
        noted = tables.notes.c.event_id
        self._insert_postgresql = postgresql.insert(tables.notes).on_conflict_do_nothing().returning(noted)
        self._insert_sqlite = sqlite.insert(tables.notes).on_conflict_do_nothing().returning(noted)
        self.stream = stream
        self.reader = reader

    def first_time(self, tx: Connection, event: Event, position: int, *, at: int, floor: Floor | None = None) -> bool:
        """Notes the event (`at` in ms); False when it was noted before, and its effect is there.

        Of several transactions at once exactly one is told True; the others wait for it, and if it fails the next is.
        `floor` spares a look when the transaction has it already.
        """
        return bool(self.first_times(tx, [(event, position)], at=at, floor=floor))

    def first_times(
        self, tx: Connection, events: Sequence[tuple[Event, int]], *, at: int, floor: Floor | None = None
    ) -> set[EventId]:
        """Like `first_time`, of many events and their positions in one statement: the ids of those that are new."""
        floor = floor or self.floor(tx)
        notes = [
            {
                "event_id": event.id,
                "stream": self.stream,
                "reader": self.reader,
                "position": position,
                "handled_at": at,
            }
            for event, position in events
            if not floor.covers(event, position)
        ]
        if not notes:
            return set()
        insert = self._insert_postgresql if tx.dialect.name == "postgresql" else self._insert_sqlite
        return {EventId(noted) for noted in tx.execute(insert, notes).scalars()}

    def floor(self, tx: Connection) -> Floor:
        """Below what notes may be gone."""
        floors = self._floors
        row = tx.execute(
            select(floors.c.position, floors.c.occurred_before).where(
                floors.c.stream == self.stream, floors.c.reader == self.reader
            )
        ).one_or_none()
        return Floor() if row is None else Floor(row.position, row.occurred_before)

    def forget(self, tx: Connection, *, settled: int, before: int, slack: int = 0, limit: int) -> int:
        """Deletes at most `limit` notes at or below position `settled` and before `before` (ms); returns how many.

        `slack` (ms): by so much the producer's clock may be ahead of this one.
        """
        notes = self._notes
        key = (notes.c.event_id, notes.c.stream, notes.c.reader)
        old = (
            select(*key)
            .where(
                notes.c.stream == self.stream,
                notes.c.reader == self.reader,
                notes.c.position <= settled,
                notes.c.handled_at < before,
            )
            .limit(limit)
        )
        gone = len(tx.execute(delete(notes).where(tuple_(*key).in_(old)).returning(notes.c.event_id)).all())
        if gone:
            self._raise_floor(tx, settled, before + slack)
        return gone

    def _raise_floor(self, tx: Connection, position: int, before: int) -> None:
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        floors = self._floors
        statement = insert(floors).values(
            stream=self.stream, reader=self.reader, position=position, occurred_before=before
        )
        # Two replicas that forget at once: the higher of each, never back.
        higher = {
            column: case(
                (floors.c[column] > statement.excluded[column], floors.c[column]), else_=statement.excluded[column]
            )
            for column in ("position", "occurred_before")
        }
        tx.execute(statement.on_conflict_do_update(index_elements=[floors.c.stream, floors.c.reader], set_=higher))
