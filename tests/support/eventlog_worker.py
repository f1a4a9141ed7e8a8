"""A relay or a reader as a process of its own, for tests that kill it: `python eventlog_worker.py ROLE DATABASE REDIS`.

It hurries (short leases, short polls) and forgets at once what it may, so that a forgotten repeat would show.
"""

import asyncio
import contextlib
import signal
import sys

from prometheus_client import CollectorRegistry
from sqlalchemy import Column, Connection, MetaData, Table, Text

from contracts.orders.v1.events_pb2 import OrderPlaced
from eventlog import (
    Consumer,
    ConsumerMetrics,
    Delays,
    Event,
    Inbox,
    NeverRetry,
    Outbox,
    Pace,
    Patience,
    Reactions,
    Relay,
    RelayMetrics,
    consumer_name,
    declare_inbox,
    declare_outbox,
)
from eventlog.redis_stream import RedisStream
from servicekit.database import Database
from servicekit.telemetry import set_up_logging

STREAM, GROUP = "orders.events", "notifications"
metadata = MetaData()
outbox_tables = declare_outbox(metadata)
inbox_tables = declare_inbox(metadata)
told = Table("told", metadata, Column("event_id", Text, primary_key=True))
visible = Table("visible", metadata, Column("event_id", Text, nullable=False), Column("reader", Text, nullable=False))
repaired = Table("repaired", metadata, Column("what", Text, primary_key=True))


def tell(tx: Connection, outbox: Outbox, aggregate: str, *, poison: bool = False) -> None:
    """What a use case does: a change of its own, and the event, in one transaction."""
    event = outbox.append(
        tx, OrderPlaced(order_id=aggregate, owner="poison" if poison else "usr_1"), aggregate=aggregate
    )
    tx.execute(told.insert().values(event_id=event.id))


def relay(database: Database, stream: RedisStream) -> Relay:
    """A relay in a hurry."""
    return Relay(
        database,
        Outbox(outbox_tables, STREAM, now=database.now),
        stream,
        metrics=RelayMetrics(CollectorRegistry()),
        required=[GROUP],
        pace=Pace(batch=32, poll=0.05, tidy=0.2, retention=0.0, longest_pause=0.5),
    )


def reader(database: Database, stream: RedisStream) -> Consumer:
    """A consumer in a hurry; poison is poison until a row says that it is repaired."""
    name = consumer_name()

    def react(tx: Connection, event: Event, message: OrderPlaced) -> None:
        if message.owner == "poison" and tx.execute(repaired.select()).first() is None:
            raise NeverRetry("POISON")
        tx.execute(visible.insert().values(event_id=event.id, reader=name))

    metrics = ConsumerMetrics(CollectorRegistry())
    inbox = Inbox(inbox_tables, stream=STREAM, reader=GROUP)
    return Consumer(
        stream.group(GROUP),
        Reactions(database, inbox, {OrderPlaced: react}, metrics=metrics, retention=0.0, together=8),
        name=name,
        metrics=metrics,
        patience=Patience(
            delays=Delays(first=0.05, longest=0.5, lease=1.5), handling=1.0, longest_pause=0.5, tidy=0.2, crashes=1000
        ),
        in_hand=16,
        wait=0.5,
    )


async def main(role: str, database_url: str, redis_url: str) -> None:
    """Runs until SIGTERM."""
    database = Database(database_url, pool_size=4)
    stream = RedisStream(redis_url, STREAM)
    work = relay(database, stream).run() if role == "relay" else reader(database, stream).run()
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await stream.aclose()
    await database.dispose()


if __name__ == "__main__":
    set_up_logging("worker", level="WARNING")
    asyncio.run(main(*sys.argv[1:4]))
