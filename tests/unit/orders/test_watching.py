"""What a single watcher is shown: the latest, once, and never without bound."""

import asyncio
import random
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from orders import storage
from orders.domain import Line, Order, OrderId, Owner, Status
from orders.service import Caller
from orders.wakeups import MemoryWakeups
from orders.watching import MAX_WAITING, Pace, Watch, Watches
from servicekit.database import Database
from servicekit.errors import ServiceError


def _order(number: int, version: int = 1, at: int = 1_000) -> Order:
    lines = (Line("a", 1),)
    return Order(OrderId(f"ord_{number}"), Owner("u"), Status.PLACED, lines, at, at, version)


async def test_what_was_so_at_the_beginning_is_no_news() -> None:
    watch = Watch(floor=500)
    watch.know([_order(1, 2)])
    watch.offer(_order(1, 1))
    watch.offer(_order(1, 2))
    watch.offer(_order(2, 9, at=500))
    assert await watch.next(0) is None
    watch.offer(_order(1, 3))
    assert await watch.next(0) == _order(1, 3)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=30), st.integers())
async def test_whatever_comes_twice_or_late_versions_only_rise_and_the_last_is_shown(
    offered: list[tuple[int, int]], seed: int
) -> None:
    chance, watch = random.Random(seed), Watch(floor=0)
    shown: list[tuple[str, int]] = []

    async def read() -> bool:
        order = await watch.next(0)
        if order is not None:
            shown.append((order.id, order.version))
        return order is not None

    for number, version in offered:
        watch.offer(_order(number, version))
        if chance.random() < 0.3:
            await read()
    while await read():
        pass
    for number in {number for number, _ in offered}:
        versions = [version for id_, version in shown if id_ == f"ord_{number}"]
        assert versions == sorted(set(versions))
        assert versions[-1] == max(version for n, version in offered if n == number)


async def test_who_does_not_read_is_cut_off_and_holds_nothing() -> None:
    watch = Watch(floor=0)
    for number in range(MAX_WAITING):
        watch.offer(_order(number))
        watch.offer(_order(number, 2))
    assert await watch.next(0) == _order(0, 2)
    for number in range(MAX_WAITING, MAX_WAITING + 2):
        watch.offer(_order(number))
    with pytest.raises(ServiceError) as ended:
        await watch.next(0)
    assert ended.value.reason == "WATCHER_TOO_SLOW"


async def test_what_is_remembered_is_bounded() -> None:
    watch = Watch(floor=0)
    for number in range(5 * MAX_WAITING):
        watch.offer(_order(number))
        assert await watch.next(0) == _order(number)
    assert len(watch._shown) <= 2 * MAX_WAITING


async def test_a_hint_is_enough_when_nobody_looks(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    database, queues, caller = Database(url), [], Caller(Owner("u"), is_person=True)  # type: ignore[var-annotated]
    await database.run(storage.metadata.create_all)
    never = Pace(look=3600, deaf=3600, keep_alive=3600)
    here, there = (
        Watches(database, MemoryWakeups(queues), asyncio.Event(), CollectorRegistry(), pace=never) for _ in range(2)
    )
    async with asyncio.timeout(30), aclosing(there.watch(caller)) as shown:
        running = [asyncio.create_task(watches.run()) for watches in (here, there)]
        assert await anext(shown) is None
        while len(queues) < 2:  # noqa: ASYNC110 # until both listen, which nobody tells
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        now = await database.read(database.now)
        placed = _order(1, at=now)
        assert await database.run(lambda tx: storage.add(tx, placed, None, "f"))
        here.changed(placed)
        assert await anext(shown) == placed
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    await database.dispose()
