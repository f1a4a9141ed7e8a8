"""Events of orders, written as orders writes them, and people's inboxes, looked at where notifications keeps them.

The events go into the outbox of the orders service that runs, and a relay here publishes them beside its own, so that
nothing waits for its next poll. What reacts is the notifications service that runs.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection

from bench.system import System
from eventlog import Outbox, Relay, RelayMetrics
from eventlog.redis_stream import RedisStream
from notifications import storage as inboxes
from notifications.domain import Person, Preferences
from orders import storage
from orders.domain import Order, OrderId, Owner, Status
from orders.events import READERS, STREAM, tell
from servicekit.database import Database

_LOOK = 0.01  # seconds between looks into the inboxes; each takes time from what is measured
_CLOSE_LOOK = 0.0005  # for one event alone, which would be found to take as long as the looks are apart
_PATIENCE = 120.0  # seconds until everything has arrived


class Shop:
    """Tells of orders, and sees when it has arrived."""

    def __init__(self, orders: Database, notifications: Database, outbox: Outbox, relay: Relay) -> None:
        self._orders = orders
        self._notifications = notifications
        self._outbox = outbox
        self._relay = relay

    async def tell(self, owners: Sequence[str]) -> int:
        """One order is confirmed for each, all in one transaction; when it was committed, by the monotonic clock (ns).

        Who is named n times is told of n orders.
        """
        at = time.time_ns() // 1_000_000
        confirmed = [
            Order(
                id=OrderId(f"ord_{secrets.token_urlsafe(12)}"),
                owner=Owner(owner),
                status=Status.CONFIRMED,
                lines=(),
                created_at=at,
                updated_at=at,
            )
            for owner in owners
        ]

        def append(tx: Connection) -> None:
            for order in confirmed:
                tell(self._outbox, tx, order, order.owner)

        await self._orders.run(append)
        committed = time.monotonic_ns()
        self._relay.wake()
        return committed

    async def without_mails(self, persons: Sequence[str]) -> None:
        """What is told to these goes to the inbox alone: addresses and mail servers are not what is measured."""
        now = time.time_ns() // 1_000_000

        def wish(tx: Connection) -> None:
            for person in persons:
                inboxes.wish(tx, Person(person), Preferences(False, False), at=now)

        await self._notifications.run(wish)

    async def told(self, persons: Sequence[str]) -> int:
        """How many notifications these have in all."""
        wanted = [Person(person) for person in persons]
        return sum((await self._notifications.read(lambda tx: inboxes.last_sequences(tx, wanted))).values())

    async def arrived(self, persons: Sequence[str], number: int) -> int:
        """When these had `number` notifications in all, by the monotonic clock (ns).

        Raises:
            RuntimeError: they have more.
        """
        pause = _CLOSE_LOOK if number == 1 else _LOOK
        async with asyncio.timeout(_PATIENCE):
            while (there := await self.told(persons)) < number:  # noqa: ASYNC110  (another process fills it)
                await asyncio.sleep(pause)
        if there > number:
            raise RuntimeError(f"{number} events, {there} notifications")
        return time.monotonic_ns()


@contextlib.asynccontextmanager
async def shop_of(system: System) -> AsyncIterator[Shop]:
    """The shop of a running system, for the length of the block."""
    orders = Database(f"sqlite:///{system.folder / 'orders.db'}")
    notifications = Database(f"sqlite:///{system.folder / 'notifications.db'}")
    stream = RedisStream(system.redis_url, STREAM)
    outbox = Outbox(storage.outbox, STREAM, now=orders.now)
    relay = Relay(orders, outbox, stream, metrics=RelayMetrics(CollectorRegistry()), required=READERS)
    running = asyncio.create_task(relay.run())
    try:
        yield Shop(orders, notifications, outbox, relay)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await stream.aclose()
        await orders.dispose()
        await notifications.dispose()
