"""The inbox and its reactions, on SQLite and PostgreSQL: an event has its effect once, whoever else is at it."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, func, select, text

from contracts.orders.v1.events_pb2 import OrderPlaced
from eventlog import (
    ConsumerMetrics,
    Event,
    Inbox,
    NeverRetry,
    Outcome,
    Reactions,
    declare_inbox,
)
from eventlog.event import decoded
from servicekit.database import Database

STREAM = "orders.events"
metadata = MetaData()
inbox_tables = declare_inbox(metadata)
effects = Table(
    "effects",
    metadata,
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("what", Text, unique=True),
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=8)
    await database.run(lambda tx: metadata.create_all(tx))
    yield database
    await database.dispose()


@pytest.fixture
async def database_on_postgres(postgres_url: str) -> AsyncIterator[Database]:
    database = Database(postgres_url, pool_size=8)
    await database.run(lambda tx: metadata.create_all(tx))
    yield database
    await database.dispose()


class Reader:
    """Reactions that write a row."""

    def __init__(self, database: Database, together: int = 64) -> None:
        self.told: list[object] = []
        self.metrics = ConsumerMetrics(CollectorRegistry())
        self.database = database
        self.inbox = Inbox(inbox_tables, stream=STREAM, reader="notifications")
        self.reactions = Reactions(
            database,
            self.inbox,
            {OrderPlaced: self.react},
            metrics=self.metrics,
            committed=self.told.extend,
            retention=0.0,
            together=together,
        )

    @staticmethod
    def react(tx: Connection, event: Event, message: OrderPlaced) -> str:
        if message.owner == "poison":
            raise NeverRetry("POISON")
        tx.execute(effects.insert().values(n=event.occurred_at, what=message.order_id))
        if message.owner == "late poison":
            raise LookupError("after its effect")
        return message.order_id

    async def effects(self) -> list[str]:
        query = select(effects.c.what).order_by(effects.c.n)
        return await self.database.read(lambda tx: list(tx.execute(query).scalars()))


def event(number: int, owner: str = "usr_1", version: int = 1) -> Event:
    return decoded(
        Event(
            id=f"evt_{number}",  # type: ignore[arg-type] # a test's own
            type="contracts.orders.v1.OrderPlaced",
            version=version,
            aggregate=f"ord_{number}",
            sequence=1,
            occurred_at=number,
            traceparent="",
            data=OrderPlaced(order_id=f"ord_{number}", owner=owner).SerializeToString(),
        ).encoded()
    )


async def test_an_event_has_its_effect_once(database: Database) -> None:
    reader = Reader(database)
    assert await reader.reactions.handle(event(1), 1) is Outcome.HANDLED
    assert await reader.reactions.handle(event(1), 1) is Outcome.REPEATED
    assert await reader.reactions.handle(event(1), 99) is Outcome.REPEATED  # at another position: the same event
    assert await reader.effects() == ["ord_1"]
    assert reader.told == ["ord_1"]


async def test_of_many_replicas_with_one_event_at_once_one_has_the_effect(database: Database) -> None:
    replicas = [Reader(database) for _ in range(6)]
    events = [event(n) for n in range(1, 21)]

    async def all_of_them(reader: Reader, order: int) -> list[Outcome]:
        mixed = random.Random(order).sample(events, len(events))
        return await asyncio.gather(*(reader.reactions.handle(one, one.occurred_at) for one in mixed))

    outcomes = await asyncio.gather(*(all_of_them(reader, n) for n, reader in enumerate(replicas)))
    assert sum(outcome is Outcome.HANDLED for row in outcomes for outcome in row) == 20
    assert await replicas[0].effects() == [f"ord_{n}" for n in range(1, 21)]
    assert sorted(str(told) for reader in replicas for told in reader.told) == sorted(f"ord_{n}" for n in range(1, 21))


async def test_one_that_fails_takes_none_of_its_company_along(database: Database) -> None:
    reader = Reader(database)
    results = await asyncio.gather(
        reader.reactions.handle(event(1), 1),
        reader.reactions.handle(event(2, "poison"), 2),
        reader.reactions.handle(event(3, "late poison"), 3),
        reader.reactions.handle(event(4), 4),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [Outcome, NeverRetry, LookupError, Outcome]
    assert await reader.effects() == ["ord_1", "ord_4"]
    noted = select(func.count()).select_from(inbox_tables.notes)
    assert await database.read(lambda tx: tx.execute(noted).scalar_one()) == 2
    assert reader.told == ["ord_1", "ord_4"]
    # Nothing of it was noted: when its trouble is over, it has its effect.
    assert await reader.reactions.handle(event(3), 3) is Outcome.HANDLED


async def test_a_statement_that_fails_takes_none_of_its_company_along(database: Database) -> None:
    reader = Reader(database)
    await database.run(lambda tx: tx.execute(effects.insert().values(n=2, what="in the way")))
    results = await asyncio.gather(*(reader.reactions.handle(event(n), n) for n in (1, 2, 3)), return_exceptions=True)
    assert [isinstance(result, Outcome) for result in results] == [True, False, True]
    assert sorted(await reader.effects()) == ["in the way", "ord_1", "ord_3"]


async def test_one_that_spoils_the_commit_is_found_out(database_on_postgres: Database) -> None:
    """By a deferred constraint, which SQLite lacks for what is unique."""
    database = database_on_postgres
    deferred = text("ALTER TABLE effects ADD CONSTRAINT once UNIQUE (what) DEFERRABLE INITIALLY DEFERRED")
    await database.run(lambda tx: tx.execute(text("ALTER TABLE effects DROP CONSTRAINT effects_what_key")))
    await database.run(lambda tx: tx.execute(deferred))
    await database.run(lambda tx: tx.execute(effects.insert().values(n=100, what="ord_2")))
    reader = Reader(database)
    results = await asyncio.gather(*(reader.reactions.handle(event(n), n) for n in (1, 2, 3)), return_exceptions=True)
    assert [isinstance(result, Outcome) for result in results] == [True, False, True]
    assert await reader.effects() == ["ord_1", "ord_3", "ord_2"]


async def test_readers_are_tolerant(database: Database) -> None:
    reader = Reader(database)
    newer = event(1, version=2)
    unknown_field = b"\xfa\x3f\x03new"  # field 1023
    grown = Event(**{**_fields(newer), "data": newer.data + unknown_field})
    assert await reader.reactions.handle(decoded(grown.encoded()), 1) is Outcome.HANDLED
    assert reader.metrics.newer.labels(STREAM, "notifications")._value.get() == 1
    unknown_type = Event(**{**_fields(event(2)), "type": "contracts.orders.v9.OrderTeleported"})
    assert await reader.reactions.handle(decoded(unknown_type.encoded()), 2) is Outcome.UNKNOWN
    assert await reader.effects() == ["ord_1"]


def _fields(of: Event) -> dict[str, object]:
    return {name: getattr(of, name) for name in Event.__slots__}


async def test_notes_are_kept_until_the_producer_is_done_with_them(database: Database) -> None:
    reader = Reader(database)
    for n in range(1, 6):
        await reader.reactions.handle(event(n), n)
    moment = await database.read(database.now)
    database._now = lambda: moment + 1000
    await reader.reactions.forget(0)
    await reader.reactions.forget(3)
    query = select(inbox_tables.notes.c.position).order_by(inbox_tables.notes.c.position)
    assert await database.read(lambda tx: list(tx.execute(query).scalars())) == [4, 5]
    assert await reader.reactions.handle(event(4), 4) is Outcome.REPEATED


async def test_an_event_whose_note_is_forgotten_is_still_known(database: Database) -> None:
    """A stream that was put back to a state of long ago brings it once more."""
    reader = Reader(database)
    for n in range(1, 4):
        await reader.reactions.handle(event(n), n)
    moment = await database.read(database.now)
    database._now = lambda: moment + 1000
    await reader.reactions.forget(2)
    for n in range(1, 4):
        assert await reader.reactions.handle(event(n), n) is Outcome.REPEATED
    # But a producer that went back too gives positions anew, to what happens now.
    today = decoded(Event(**{**_fields(event(9)), "occurred_at": moment + 2000}).encoded())
    assert await reader.reactions.handle(today, 1) is Outcome.HANDLED
    database._now = lambda: moment - 1000
    await reader.reactions.forget(1)  # another replica, behind: the floor does not go back
    assert await reader.reactions.handle(event(2), 2) is Outcome.REPEATED


async def test_notes_of_other_groups_and_streams_are_their_own(database: Database) -> None:
    ours = Inbox(inbox_tables, stream=STREAM, reader="notifications")
    others = [
        Inbox(inbox_tables, stream=STREAM, reader="billing"),
        Inbox(inbox_tables, stream="identity.events", reader="notifications"),
    ]
    for inbox in (ours, *others):
        assert await database.run(lambda tx, inbox=inbox: inbox.first_time(tx, event(1), 1, at=0))
    assert await database.run(lambda tx: ours.forget(tx, settled=9, before=9, limit=10)) == 1
    assert not await database.run(lambda tx: others[0].first_time(tx, event(1), 1, at=0))
