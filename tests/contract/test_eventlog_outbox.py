"""The outbox and the relay, on SQLite and PostgreSQL, with real concurrency where it matters."""

import asyncio
import random
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, MetaData, select, text

from contracts.orders.v1.events_pb2 import OrderCancelled, OrderPlaced
from eventlog import (
    Event,
    Outbox,
    Pace,
    Relay,
    RelayMetrics,
    declare_outbox,
)
from eventlog.event import EventTooLarge, decoded, read_as
from eventlog.memory_stream import MemoryStream
from servicekit.database import Database
from servicekit.telemetry import request_context

STREAM = "orders.events"
metadata = MetaData()
tables = declare_outbox(metadata)


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
