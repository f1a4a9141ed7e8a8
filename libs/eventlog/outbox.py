"""The outbox: events written in the transaction of what causes them, and their place in the stream decided afterwards.

Two numbers, two moments:

- `append` gives an event its *sequence* within its aggregate, in the caller's transaction, from a counter row that
  stays locked until the commit. So sequences have no gaps and follow the order of the commits.
- `place` gives committed events their *position* in the whole stream: 1, 2, 3 ... without a gap, in a short transaction
  of the relay's. A transaction that is slow to commit is not skipped by anyone: it has no position before it is
  visible, and takes the next one when it is. Ids from a database sequence could not promise that, because they are
  handed out before the commit, and a reader that goes by them may pass one whose transaction is still open.

The stream's own last position then says all there is to know about what is published; no row is ever marked. Whatever
the stream lacks above `settled` is appended again, in order, out of this table.

Rows stay until every group has acknowledged them (`settled`) and a retention is over.
"""

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Executable,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    exists,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.event import Event, EventId, new_event_id
from servicekit.database import insert_new
from servicekit.telemetry import outgoing

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only in a column called INTEGER


@dataclass(frozen=True, slots=True)
class OutboxTables:
    """The three tables of a producer."""

    events: Table
    sequences: Table
    state: Table


def declare_outbox(metadata: MetaData) -> OutboxTables:
    """Adds the outbox to a service's tables; its migration creates them as it does its own."""
    unplaced = text("position IS NULL")
    return OutboxTables(
        events=Table(
            "outbox",
            metadata,
            Column("id", _Id, primary_key=True, autoincrement=True),  # the order of writing, within one aggregate
            Column("event_id", Text, nullable=False),  # evt_...
            Column("type", Text, nullable=False),
            Column("aggregate", Text, nullable=False),
            Column("sequence", BigInteger, nullable=False),
            Column("envelope", LargeBinary, nullable=False),  # the very bytes of the stream
            Column("created_at", BigInteger, nullable=False),  # ms
            Column("position", BigInteger, unique=True),  # null: not placed yet
            UniqueConstraint("aggregate", "sequence"),
            Index("ix_outbox_unplaced", "id", postgresql_where=unplaced, sqlite_where=unplaced),
        ),
        sequences=Table(
            "outbox_sequences",
            metadata,
            Column("aggregate", Text, primary_key=True),
            Column("sequence", BigInteger, nullable=False),  # the last one given
        ),
        state=Table(
            "outbox_state",
            metadata,
            Column("stream", Text, primary_key=True),
            Column("head", BigInteger, nullable=False),  # the last position given
            Column("settled", BigInteger, nullable=False),  # every group is through with what is at or below
        ),
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the outbox is: `unplaced` tells whether committed events wait for a position."""

    head: int
    settled: int
    unplaced: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """A row that has its position; `created_at` in milliseconds."""

    position: int
    envelope: bytes
    created_at: int


class Outbox:
    """A producer's outbox: one per service, for one stream. `now` is `Database.now`."""

    def __init__(
        self,
        tables: OutboxTables,
        stream: str,
        *,
        now: Callable[[Connection], int],
        new_id: Callable[[], EventId] = new_event_id,
    ) -> None:
        self._events = tables.events
        self._sequences = tables.sequences
        self._state = tables.state
        # Made once: putting such statements together costs more than executing them.
        self._insert = tables.events.insert().inline()
        self._count_postgresql = _count(postgresql.insert(tables.sequences), tables.sequences)
        self._count_sqlite = _count(sqlite.insert(tables.sequences), tables.sequences)
        self.stream = stream
        self._now = now
        self._new_id = new_id

    def append(
        self, tx: Connection, message: Message, *, aggregate: str, version: int = 1, at: int | None = None
    ) -> Event:
        """Tells `message` of `aggregate` when, and only if, `tx` commits. Call `Relay.wake()` after the commit.

        Transactions that append to one aggregate wait for each other from here to their commits, so append late. `at`
        (ms) spares a look at the database's clock. The trace that is current goes along.

        Raises:
            EventTooLarge: the message does not fit into an event.
        """
        happened = self._now(tx) if at is None else at
        event = Event(
            id=self._new_id(),
            type=message.DESCRIPTOR.full_name,
            version=version,
            aggregate=aggregate,
            sequence=self._next_sequence(tx, aggregate),
            occurred_at=happened,
            traceparent=outgoing().get("traceparent", ""),
            data=message.SerializeToString(),
        )
        row = {
            "event_id": event.id,
            "type": event.type,
            "aggregate": aggregate,
            "sequence": event.sequence,
            "envelope": event.encoded(),
            "created_at": happened,
        }
        tx.execute(self._insert, row)
        return event

    def standing(self, tx: Connection) -> Standing:
        """How far the outbox is; cheap enough to be asked all the time."""
        unplaced = exists(select(self._events.c.id).where(self._events.c.position.is_(None)))
        row = tx.execute(
            select(self._state.c.head, self._state.c.settled, unplaced.label("unplaced")).where(
                self._state.c.stream == self.stream
            )
        ).one_or_none()
        if row is None:
            return Standing(0, 0, bool(tx.execute(select(unplaced)).scalar_one()))
        return Standing(row.head, row.settled, bool(row.unplaced))

    def place(self, tx: Connection, *, above: int, limit: int) -> int | None:
        """Gives at most `limit` committed events their positions; returns the head, or None if another relay is at it.

        `above` is the last position of the stream. It exceeds the head only when SQL went back in time (a restored
        backup): then the positions between are taken by events that SQL has forgotten, and are never given twice.
        """
        state = self._locked_state(tx)
        if state is None:
            return None
        events = self._events
        waiting = tx.execute(
            select(events.c.id).where(events.c.position.is_(None)).order_by(events.c.id).limit(limit)
        ).scalars()
        # `settled` too may exceed the head of a database that went back: such a position would never be appended.
        head = max(state.head, state.settled, above)
        # In one aggregate a smaller id was committed earlier: the counter row saw to it. What is seen here of an
        # aggregate is therefore a beginning of what it has, and is placed in its order.
        placed = [{"row": row, "place": head + n} for n, row in enumerate(waiting, 1)]
        if placed:
            tx.execute(
                update(events).where(events.c.id == bindparam("row")).values(position=bindparam("place")), placed
            )
        head += len(placed)
        tx.execute(update(self._state).where(self._state.c.stream == self.stream).values(head=head))
        return head

    def after(self, tx: Connection, position: int, limit: int) -> list[Placed]:
        """At most `limit` events above `position`, in order."""
        events = self._events
        rows = tx.execute(
            select(events.c.position, events.c.envelope, events.c.created_at)
            .where(events.c.position > position)
            .order_by(events.c.position)
            .limit(limit)
        )
        return [Placed(row.position, row.envelope, row.created_at) for row in rows]

    def settle(self, tx: Connection, position: int) -> None:
        """Remembers that no group needs anything at or below `position` again; never goes back."""
        tx.execute(
            update(self._state)
            .where(self._state.c.stream == self.stream, self._state.c.settled < position)
            .values(settled=position)
        )

    def forget(self, tx: Connection, *, before: int, limit: int = 1000) -> int:
        """Deletes at most `limit` settled rows written before `before` (ms); returns how many."""
        events = self._events
        settled = select(self._state.c.settled).where(self._state.c.stream == self.stream).scalar_subquery()
        old = select(events.c.id).where(events.c.position <= settled, events.c.created_at < before)
        gone = tx.execute(
            delete(events).where(events.c.id.in_(old.order_by(events.c.position).limit(limit))).returning(events.c.id)
        )
        return len(gone.all())

    def _next_sequence(self, tx: Connection, aggregate: str) -> int:
        count = self._count_postgresql if tx.dialect.name == "postgresql" else self._count_sqlite
        return int(tx.execute(count, {"aggregate": aggregate}).scalar_one())

    def _locked_state(self, tx: Connection) -> Standing | None:
        query = select(self._state.c.head, self._state.c.settled).where(self._state.c.stream == self.stream)
        row = tx.execute(query.with_for_update(skip_locked=True)).one_or_none()
        if row is not None:
            return Standing(row.head, row.settled, unplaced=True)
        # Nothing found: the row is locked by another relay, or this is the very first time. Not left to ON CONFLICT
        # to find out: PostgreSQL waits there for whoever is changing the row.
        if tx.execute(query).one_or_none() is not None:
            return None
        first = insert_new(tx, self._state, {"stream": self.stream, "head": 0, "settled": 0})
        return Standing(0, 0, unplaced=True) if first else None


def _count(insert: postgresql.Insert | sqlite.Insert, sequences: Table) -> Executable:
    """Takes the next number of :aggregate, and keeps its row locked until the transaction ends."""
    return (
        insert.values(aggregate=bindparam("aggregate"), sequence=1)
        .on_conflict_do_update(index_elements=[sequences.c.aggregate], set_={"sequence": sequences.c.sequence + 1})
        .returning(sequences.c.sequence)
    )
