"""Live views: a person's orders as they change, whichever replica changes them.

SQL is the truth. What this process changes is shown at once; what another one changes it hints at (`wakeups`), and it
is read from SQL; what no hint tells of is found by looking, every two seconds, and every second while no hints come.
A watcher is shown the latest state of an order and not its history: one that reads slowly misses what was in between,
and one that does not read at all is cut off before it costs memory.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import structlog
from prometheus_client import CollectorRegistry, Gauge

from orders import storage
from orders.domain import Order, OrderId, Owner
from orders.service import Caller
from orders.wakeups import Hint, Wakeups, WakeupsLost
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

MAX_WAITING = 500  # orders that a watcher has not read yet
MAX_PER_OWNER = 20  # watches of one person in this process
MAX_WATCHES = 5_000
_MAX_HINTS = 10_000  # waiting to be sent; the rest is found by looking
_AT_ONCE = 500  # owners, or orders, in one statement
_log = structlog.get_logger("orders.watching")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `look` and `deaf`: between looks, with hints and without. `overlap`: how far back a look goes, because a
    change has the time of its transaction and can be seen only at its end, which a database's timeouts keep within it.
    `pause`: before listening again. `keep_alive`: between signs of life.
    """

    look: float = 2.0
    deaf: float = 1.0
    overlap: float = 30.0
    pause: float = 0.5
    keep_alive: float = 5.0


class Watch:
    """What one watcher has still to be shown."""

    def __init__(self, floor: int) -> None:
        self._floor = floor  # ms: what changed before was there when the watch began
        self._waiting: dict[OrderId, Order] = {}
        self._shown: dict[OrderId, int] = {}  # versions
        self._news = asyncio.Event()
        self._end: ServiceError | None = None

    def know(self, orders: Collection[Order]) -> None:
        """These were so when the watch began: no news."""
        for order in orders:
            self._note(order)

    def offer(self, order: Order) -> None:
        """Shows `order`, if it is news."""
        waiting = self._waiting.get(order.id)
        newest = max(self._shown.get(order.id, 0), waiting.version if waiting else 0)
        if order.version <= newest or order.updated_at <= self._floor:
            return
        if waiting is None and len(self._waiting) >= MAX_WAITING:
            self.end(ServiceError(Kind.UNAVAILABLE, "WATCHER_TOO_SLOW", "Too much is unread. Begin again, and read."))
            return
        self._waiting[order.id] = order
        self._news.set()

    def end(self, why: ServiceError) -> None:
        """Ends the watch."""
        self._end = why
        self._waiting.clear()
        self._news.set()

    async def next(self, patience: float) -> Order | None:
        """The next order to show; None when there was none for `patience` seconds.

        Raises:
            ServiceError: the watch was ended.
        """
        if not self._waiting and self._end is None:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._news.wait()
        if self._end is not None:
            raise self._end
        if not self._waiting:
            return None
        order = self._waiting.pop(next(iter(self._waiting)))
        self._note(order)
        return order

    def _note(self, order: Order) -> None:
        self._shown.pop(order.id, None)
        self._shown[order.id] = order.version
        if len(self._shown) > 2 * MAX_WAITING:  # at worst an old state is shown again
            self._shown.pop(next(iter(self._shown)))


class Watches:
    """All watches of this process. `run` keeps them current; `stopping` ends them."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        stopping: asyncio.Event,
        registry: CollectorRegistry,
        *,
        pace: Pace = Pace(),  # frozen
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._wakeups = wakeups
        self._stopping = stopping
        self._pace = pace
        self._chance = chance
        self._watches: dict[Owner, set[Watch]] = {}
        self._deaf = True
        self._looked_at = 0  # ms by the database clock; 0: never
        self._look_now = asyncio.Event()
        self._to_send: dict[OrderId, Hint] = {}
        self._send_now = asyncio.Event()
        self._to_read: set[OrderId] = set()
        self._read_now = asyncio.Event()
        self._open = Gauge("orders_watches", "Watches of orders that are open.", registry=registry)

    def changed(self, order: Order) -> None:
        """This process has changed an order: shows it here, and hints to the others. Call it after the commit."""
        self._show(order)
        if len(self._to_send) < _MAX_HINTS:
            self._to_send[order.id] = Hint(order.owner, order.id)
            self._send_now.set()

    async def watch(self, caller: Caller) -> AsyncGenerator[Order | None, None]:
        """The caller's own orders as they change from now on; None first, when the watch is in place, and then as a
        sign of life.

        Raises:
            ServiceError: PERSON_REQUIRED, TOO_MANY_WATCHES, SERVER_STOPPING, WATCHER_TOO_SLOW.
        """
        if not caller.is_person:
            raise ServiceError(Kind.FORBIDDEN, "PERSON_REQUIRED", "An order belongs to a person; a client has none.")
        now = await self._database.read(self._database.now)
        with self._registered(caller.subject, Watch(now - self._overlap)) as watch:
            # Registered first: what changes while this is read is offered too, and told apart by its version.
            recent = await self._database.read(
                lambda tx: storage.changed_since(tx, [caller.subject], now - self._overlap)
            )
            watch.know([order for order in recent if order.updated_at <= now])
            yield None
            while True:
                yield await watch.next(self._pace.keep_alive)

    async def run(self) -> None:
        """Keeps every watch current until it is cancelled. Trouble is logged and outlasted."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._listen, self._send, self._read, self._look, self._end_all):
                tasks.create_task(work())

    @property
    def _overlap(self) -> int:
        return round(self._pace.overlap * 1000)

    @contextlib.contextmanager
    def _registered(self, owner: Owner, watch: Watch) -> Iterator[Watch]:
        if self._stopping.is_set():
            raise _stopping()
        mine = self._watches.get(owner, set())
        if len(mine) >= MAX_PER_OWNER or sum(map(len, self._watches.values())) >= MAX_WATCHES:
            raise ServiceError(Kind.RATE_LIMITED, "TOO_MANY_WATCHES", "Too many watches are open.", retry_after=5.0)
        self._watches[owner] = mine
        mine.add(watch)
        self._open.inc()
        try:
            yield watch
        finally:
            self._open.dec()
            mine.discard(watch)
            if not mine:
                self._watches.pop(owner, None)

    def _show(self, order: Order) -> None:
        for watch in self._watches.get(order.owner, ()):
            watch.offer(order)

    def _show_all(self, orders: Collection[Order]) -> None:
        for order in orders:
            self._show(order)

    async def _listen(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._wakeups.listen()) as hints:
                    async for hint in hints:
                        if hint is None:
                            self._deaf = False
                            self._look_now.set()  # for what was missed before
                        elif hint.owner in self._watches:
                            self._to_read.add(hint.order_id)
                            self._read_now.set()
            except WakeupsLost as error:
                if not self._deaf:
                    _log.warning("no wake-ups: looking every second instead", reason=str(error))
                self._deaf = True
                self._look_now.set()
            await asyncio.sleep(self._pace.pause * (0.5 + self._chance()))

    async def _send(self) -> None:
        while True:
            await self._send_now.wait()
            self._send_now.clear()
            hints, self._to_send = list(self._to_send.values()), {}
            with contextlib.suppress(WakeupsLost):  # `_listen` says so; the others find it by looking
                await self._wakeups.send(hints)

    async def _read(self) -> None:
        while True:
            await self._read_now.wait()
            self._read_now.clear()
            wanted, self._to_read = self._to_read, set()
            try:
                for some in _parts(wanted):
                    self._show_all(await self._database.read(partial(storage.these, order_ids=some)))
            except ServiceError as error:
                _log.warning("cannot read what changed", reason=error.reason)

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((self._pace.deaf if self._deaf else self._pace.look) + self._chance() / 4):
                    await self._look_now.wait()
            self._look_now.clear()
            if not self._watches:
                self._looked_at = 0
                continue
            try:
                now = await self._database.read(self._database.now)
                since = (self._looked_at or now) - self._overlap
                for some in _parts(self._watches):
                    self._show_all(await self._database.read(partial(storage.changed_since, owners=some, since=since)))
                self._looked_at = now
            except ServiceError as error:
                _log.warning("cannot look for what changed", reason=error.reason)
                await asyncio.sleep(self._pace.pause)

    async def _end_all(self) -> None:
        await self._stopping.wait()
        for watch in [watch for mine in self._watches.values() for watch in mine]:
            watch.end(_stopping())


def _stopping() -> ServiceError:
    return ServiceError(Kind.UNAVAILABLE, "SERVER_STOPPING", "This server is going. Connect again.", retry_after=0.1)


def _parts(of: Collection[T]) -> Iterator[list[T]]:
    left = iter(list(of))
    while part := list(islice(left, _AT_ONCE)):
        yield part
