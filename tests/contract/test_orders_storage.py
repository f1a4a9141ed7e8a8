"""The statements of orders mean the same on SQLite and PostgreSQL, and the migrations lead to the declared tables."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import IntegrityError

from orders import storage
from orders.domain import Item, Order, OrderId, Owner, Status
from servicekit.database import Database
from servicekit.migrations import migrate

ALICE, BOB = Owner("usr_alice"), Owner("usr_bob")


def _order(number: int, owner: Owner = ALICE, at: int = 1_000) -> Order:
    return Order(OrderId(f"ord_{number:022}"), owner, Status.PLACED, (Item("a", number),), created_at=at, updated_at=at)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    migrate(database_url, "orders")
    database = Database(database_url)
    yield database
    await database.dispose()


async def test_the_migrations_lead_to_the_declared_tables(database: Database) -> None:
    def differences(tx: Connection) -> list[object]:
        context = MigrationContext.configure(tx, opts={"compare_type": True, "compare_server_default": True})
        return list(compare_metadata(context, storage.metadata))

    assert await database.run(differences) == []


async def test_many_processes_may_migrate_at_once_and_again(database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(migrate, database_url, "orders") for _ in range(5)))
    migrate(database_url, "orders")
    database = Database(database_url)
    count = await database.read(lambda tx: tx.execute(select(func.count()).select_from(storage.orders)).scalar_one())
    assert count == 0
    await database.dispose()


async def test_an_order_comes_back_as_it_was_stored(database: Database) -> None:
    order = Order(
        OrderId("ord_x"), ALICE, Status.CANCELLED, (Item("b", 2), Item("a", 1), Item("b", 2)), 2**45, 2**45 + 1
    )
    assert await database.run(lambda tx: storage.add(tx, order, None, "f"))
    assert await database.read(lambda tx: storage.find(tx, order.id)) == order
    assert await database.run(lambda tx: storage.find(tx, order.id, lock=True)) == order
    assert await database.read(lambda tx: storage.find(tx, OrderId("ord_y"))) is None


async def test_a_key_is_used_once_by_each_owner(database: Database) -> None:
    add = [
        (_order(1), "k", "f1", True),
        (_order(2), "k", "f2", False),
        (_order(3, BOB), "k", "f3", True),
        (_order(4), None, "f4", True),
        (_order(5), None, "f5", True),
        (_order(6), "K", "f6", True),
    ]
    for order, key, fingerprint, added in add:
        assert await database.run(lambda tx, o=order, k=key, f=fingerprint: storage.add(tx, o, k, f)) is added
    assert await database.read(lambda tx: storage.by_key(tx, ALICE, "k")) == (_order(1), "f1")
    assert await database.read(lambda tx: storage.by_key(tx, BOB, "k")) == (_order(3, BOB), "f3")


async def test_a_key_that_was_rolled_back_is_free_again(database: Database) -> None:
    def fails(tx: Connection) -> None:
        assert storage.add(tx, _order(1), "k", "f")
        raise LookupError

    with pytest.raises(LookupError):
        await database.run(fails)
    assert await database.run(lambda tx: storage.add(tx, _order(2), "k", "f"))


async def test_newest_first_and_exactly_what_is_older_than_the_cursor(database: Database) -> None:
    stored = [_order(1, at=10), _order(2, at=20), _order(3, at=20), _order(4, at=20), _order(5, at=30)]
    for order in [*stored, _order(9, BOB, at=25)]:
        assert await database.run(lambda tx, o=order: storage.add(tx, o, None, "f"))
    newest = stored[::-1]

    def page(limit: int, before: tuple[int, OrderId] | None = None) -> list[Order]:
        return database.run_sync(lambda tx: storage.newest(tx, ALICE, limit, before))

    assert page(10) == newest
    assert page(2) == newest[:2]
    for index, order in enumerate(newest):
        assert page(10, (order.created_at, order.id)) == newest[index + 1 :]
    assert page(10, (20, OrderId("ord_nobody"))) == [stored[3], stored[2], stored[1], stored[0]]
    assert page(10, (5, OrderId("ord_"))) == []


async def test_changing_an_order_changes_its_status_alone(database: Database) -> None:
    for order in (_order(1), _order(2)):
        assert await database.run(lambda tx, o=order: storage.add(tx, o, "k" + o.id, "f"))
    cancelled = _order(1).cancelled(5_000)
    await database.run(lambda tx: storage.change(tx, cancelled))
    assert await database.read(lambda tx: storage.find(tx, cancelled.id)) == cancelled
    assert await database.read(lambda tx: storage.find(tx, _order(2).id)) == _order(2)
    assert await database.read(lambda tx: storage.by_key(tx, ALICE, "k" + cancelled.id)) == (cancelled, "f")


async def test_a_status_that_does_not_exist_cannot_be_stored(database: Database) -> None:
    assert await database.run(lambda tx: storage.add(tx, _order(1), None, "f"))
    with pytest.raises(IntegrityError):
        await database.run(lambda tx: tx.execute(storage.orders.update().values(status="lost")))
