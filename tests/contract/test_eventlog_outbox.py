"""The outbox, the relay and the inbox, on SQLite and PostgreSQL, with real concurrency where it matters."""

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, func, select, text

from contracts.orders.v1.events_pb2 import OrderCancelled, OrderPlaced
from eventlog import (
    ConsumerMetrics,
    Event,
    Inbox,
    NeverRetry,
    Outbox,
    Outcome,
    Pace,
    Reactions,
    Relay,
    RelayMetrics,
    declare_inbox,
    declare_outbox,
)
from eventlog.event import EventTooLarge, decoded, read_as
from eventlog.memory_stream import MemoryStream
from servicekit.database import Database
from servicekit.telemetry import request_context

STREAM = "orders.events"
metadata = MetaData()
tables = declare_outbox(metadata)
inbox_tables = declare_inbox(metadata)
effects = Table(
    "effects",
    metadata,
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("what", Text, unique=True),
)


class Shop:
    """A producer with as many relays as wanted, on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.outbox = Outbox(tables, STREAM, now=database.now)
        self.stream = MemoryStream(STREAM)
        self.metrics = RelayMetrics(CollectorRegistry())

    def relay(self, *, required: Sequence[str] = (), pace: Pace | None = None) -> Relay:
        return Relay(
            self.database,
            self.outbox,
            self.stream,
            metrics=self.metrics,
            required=required,
            pace=pace or Pace(linger=0.001, retention=0.0),
        )

    async def tell(self, aggregate: str, count: int = 1) -> None:
        for _ in range(count):
            await self.database.run(
                lambda tx: self.outbox.append(tx, OrderPlaced(order_id=aggregate), aggregate=aggregate)
            )

    async def published(self) -> list[Event]:
        """All that the stream holds, as a group sees it that reads from the start."""
        group = self.stream.group(f"spy-{random.random()}")
        await group.join()
        return [decoded(d.payload) for d in await group.read("spy", 100_000, 0)]

    async def drained(self, relay: Relay) -> None:
        while await relay.publish():
            pass

    async def rows(self) -> list[int | None]:
        query = select(tables.events.c.position).order_by(tables.events.c.id)
        return await self.database.read(lambda tx: list(tx.execute(query).scalars()))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=8)
    await database.run(lambda tx: metadata.create_all(tx))
    yield database
    await database.dispose()


@pytest.fixture
async def shop_on_postgres(postgres_url: str) -> AsyncIterator[Shop]:
    """For transactions that really are open at the same time: SQLite has one writer."""
    database = Database(postgres_url, pool_size=8)
    await database.run(lambda tx: metadata.create_all(tx))
    yield Shop(database)
    await database.dispose()


@pytest.fixture
def shop(database: Database) -> Shop:
    return Shop(database)


def sequences(events: Sequence[Event]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for event in events:
        found[event.aggregate].append(event.sequence)
    return found


async def test_an_event_carries_what_its_readers_need(shop: Shop) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    def work(tx: Connection) -> Event:
        with request_context({"traceparent": trace}):
            return shop.outbox.append(
                tx, OrderPlaced(order_id="ord_1", owner="usr_1"), aggregate="ord_1", version=3, at=1234
            )

    told = await shop.database.run(work)
    await shop.drained(shop.relay())
    (event,) = await shop.published()
    assert event == told
    assert event.id.startswith("evt_")
    assert (event.type, event.version) == ("contracts.orders.v1.OrderPlaced", 3)
    assert (event.aggregate, event.sequence, event.occurred_at) == ("ord_1", 1, 1234)
    assert event.traceparent.split("-")[1] == trace.split("-")[1]
    assert read_as(event, OrderPlaced).owner == "usr_1"


async def test_nothing_is_told_of_what_did_not_happen(shop: Shop) -> None:
    def fails(tx: Connection) -> None:
        shop.outbox.append(tx, OrderPlaced(order_id="ord_1"), aggregate="ord_1")
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        await shop.database.run(fails)
    await shop.tell("ord_1")
    await shop.drained(shop.relay())
    assert sequences(await shop.published()) == {"ord_1": [1]}  # the one that failed left no gap


async def test_an_event_that_is_too_large_fails_what_would_tell_it(shop: Shop) -> None:
    huge = OrderCancelled(order_id="ord_1", reason="x" * 70_000)
    with pytest.raises(EventTooLarge):
        await shop.database.run(lambda tx: shop.outbox.append(tx, huge, aggregate="ord_1"))


async def test_many_writers_and_several_relays_leave_no_gap_and_keep_the_order(shop: Shop) -> None:
    aggregates = [f"ord_{n}" for n in range(10)]
    writing = asyncio.Event()

    async def relay() -> None:
        one = shop.relay(pace=Pace(batch=7, linger=0.001))
        while not writing.is_set():
            await one.publish()
        await shop.drained(one)

    async def write(aggregate: str) -> None:
        await asyncio.gather(*(shop.tell(aggregate) for _ in range(15)))

    relays = [asyncio.create_task(relay()) for _ in range(3)]
    await asyncio.gather(*(write(aggregate) for aggregate in aggregates))
    writing.set()
    await asyncio.gather(*relays)
    events = await shop.published()
    assert sequences(events) == {aggregate: list(range(1, 16)) for aggregate in aggregates}
    assert len({event.id for event in events}) == 150
    assert sorted(p for p in await shop.rows() if p is not None) == list(range(1, 151))


async def test_a_slow_transaction_is_not_skipped(shop_on_postgres: Shop) -> None:
    """It takes its id first and commits last: a relay that goes by ids would pass it."""
    shop = shop_on_postgres
    written, go_on = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        shop.outbox.append(tx, OrderPlaced(order_id="slow"), aggregate="slow")
        written.set()
        assert go_on.wait(10)

    slow_one = asyncio.create_task(shop.database.run(slow))
    assert await asyncio.to_thread(written.wait, 10)
    await shop.tell("quick", 3)
    relay = shop.relay()
    await shop.drained(relay)
    assert sequences(await shop.published()) == {"quick": [1, 2, 3]}  # and is not waited for either
    go_on.set()
    await slow_one
    await shop.drained(relay)
    assert sequences(await shop.published()) == {"quick": [1, 2, 3], "slow": [1]}


async def test_one_aggregate_is_told_in_the_order_of_its_commits(shop_on_postgres: Shop) -> None:
    """Two transactions about one order: the second to append waits, and gets the larger number."""
    shop = shop_on_postgres
    written, go_on = threading.Event(), threading.Event()

    def first(tx: Connection) -> int:
        event = shop.outbox.append(tx, OrderPlaced(order_id="ord_1"), aggregate="ord_1")
        written.set()
        assert go_on.wait(10)
        return event.sequence

    def second(tx: Connection) -> int:
        return shop.outbox.append(tx, OrderCancelled(order_id="ord_1"), aggregate="ord_1").sequence

    one = asyncio.create_task(shop.database.run(first))
    assert await asyncio.to_thread(written.wait, 10)
    two = asyncio.create_task(shop.database.run(second))
    await _until_somebody_waits_for_a_lock(shop.database)
    assert not two.done()
    go_on.set()
    assert (await one, await two) == (1, 2)


async def _until_somebody_waits_for_a_lock(database: Database) -> None:
    query = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while not await database.read(lambda tx: tx.execute(query).scalar_one()):
            pass


async def test_a_relay_does_not_wait_for_another_one(shop_on_postgres: Shop) -> None:
    shop = shop_on_postgres
    await shop.tell("ord_1")
    await shop.drained(shop.relay())
    await shop.tell("ord_1")
    placed, go_on = threading.Event(), threading.Event()

    def busy(tx: Connection) -> None:
        assert shop.outbox.place(tx, above=0, limit=10) == 2
        placed.set()
        assert go_on.wait(10)

    other = asyncio.create_task(shop.database.run(busy))
    assert await asyncio.to_thread(placed.wait, 10)
    assert await shop.relay().publish() is True  # come again
    assert await shop.stream.last() == 1
    go_on.set()
    await other
    await shop.drained(shop.relay())
    assert await shop.stream.last() == 2


@pytest.mark.parametrize("settled", [0, 30])
async def test_a_stream_that_came_back_empty_is_filled_again(shop: Shop, settled: int) -> None:
    await shop.tell("ord_1", 40)
    relay = shop.relay()
    await shop.drained(relay)
    before = await shop.published()
    await shop.database.run(lambda tx: shop.outbox.settle(tx, settled))
    shop.stream.lose()
    await shop.tell("ord_1")
    await shop.drained(relay)
    after = await shop.published()
    assert after[:-1] == before[settled:]
    assert await shop.stream.last() == 41
    assert shop.metrics.restored.labels(STREAM)._value.get() == 1


async def test_a_stream_that_went_back_in_time_is_completed(shop: Shop) -> None:
    await shop.tell("ord_1", 10)
    relay = shop.relay()
    await shop.drained(relay)
    before = await shop.published()
    replica = [(n, event.encoded()) for n, event in enumerate(before[:6], 1)]
    shop.stream.lose()
    await shop.stream.append(0, replica)
    assert await relay.publish() is False
    assert await shop.published() == before


async def test_a_database_restored_from_a_backup_gives_no_position_twice(shop: Shop) -> None:
    await shop.tell("ord_1", 5)
    relay = shop.relay()
    await shop.drained(relay)
    # What SQL has forgotten, the stream still holds.
    lost = [(n, f"forgotten {n}".encode()) for n in (6, 7, 8)]
    await shop.stream.append(5, lost)
    group = shop.stream.group("readers")
    await group.join()
    await group.read("me", 100, 0)
    await shop.tell("ord_2", 2)
    await shop.drained(relay)
    assert await shop.stream.last() == 10
    assert sequences([decoded(d.payload) for d in await group.read("me", 100, 0)]) == {"ord_2": [1, 2]}


async def test_a_restored_database_whose_stream_is_gone_too_still_publishes(shop: Shop) -> None:
    await shop.tell("ord_1", 3)
    relay = shop.relay()
    await shop.drained(relay)
    await shop.database.run(lambda tx: shop.outbox.settle(tx, 50))  # the readers were further than the backup
    shop.stream.lose()
    await shop.tell("ord_2")
    await shop.drained(relay)
    assert await shop.stream.last() == 51


async def test_only_what_everyone_has_is_forgotten(shop: Shop) -> None:
    await shop.tell("ord_1", 6)
    relay = shop.relay(required=["notifications"])
    await shop.drained(relay)
    others = shop.stream.group("others")
    await others.join()
    await others.done(await others.read("me", 9, 0))
    moment = await shop.database.read(shop.database.now)
    shop.database._now = lambda: moment + 1000
    await relay.tidy()
    assert len(await shop.rows()) == 6
    group = shop.stream.group("notifications")
    await group.join()
    deliveries = await group.read("me", 4, 0)
    await group.bury(deliveries[1], "POISON", "", limit=10)
    await group.done([deliveries[0], *deliveries[2:]])
    await relay.tidy()
    assert await shop.rows() == [2, 3, 4, 5, 6]  # 2 is a dead letter: a lost stream would lose it
    assert await group.settled() == 1
    await group.redrive([letter.id for letter in await group.dead_letters(9)])
    await group.done(await group.read("me", 9, 0))
    await relay.tidy()
    assert await shop.rows() == []
    assert await group.settled() == 6
    await shop.tell("ord_1")
    await shop.drained(relay)
    assert await shop.stream.last() == 7


async def test_what_is_settled_stays_for_its_retention(shop: Shop) -> None:
    await shop.tell("ord_1", 2)
    relay = shop.relay(pace=Pace(retention=3600.0))
    await shop.drained(relay)
    group = shop.stream.group("notifications")
    await group.join()
    await group.done(await group.read("me", 9, 0))
    await relay.tidy()
    assert await shop.rows() == [1, 2]


async def test_an_idle_relay_is_woken_by_a_commit(shop: Shop) -> None:
    relay = shop.relay(pace=Pace(poll=3600.0))
    running = asyncio.create_task(relay.run())
    group = shop.stream.group("notifications")
    await group.join()
    for _ in range(3):
        await shop.tell("ord_1")
        relay.wake()
        assert len(await group.read("me", 9, 10)) == 1
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# The inbox


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


async def test_one_that_spoils_the_commit_is_found_out(shop_on_postgres: Shop) -> None:
    """By a deferred constraint, which SQLite lacks for what is unique."""
    database = shop_on_postgres.database
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
