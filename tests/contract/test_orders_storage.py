"""The statements of orders mean the same on SQLite and PostgreSQL, and the migrations lead to the declared tables."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, select, text
from sqlalchemy.exc import IntegrityError

from orders import storage
from orders.domain import Line, Money, Order, OrderId, Owner, Product, Sku, Status
from servicekit.database import Database
from servicekit.migrations import migrate

ALICE, BOB = Owner("usr_alice"), Owner("usr_bob")


def _order(number: int, owner: Owner = ALICE, at: int = 1_000) -> Order:
    lines = (Line("a", number, "Ä", Money(5, "EUR")),)
    return Order(OrderId(f"ord_{number:022}"), owner, Status.PLACED, lines, created_at=at, updated_at=at)


def _product(sku: str, stock: int) -> Product:
    return Product(Sku(sku), sku.upper(), Money(5, "EUR"), stock)


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
    lines = (
        Line("b", 2, "B", Money(2**40, "CHF")),
        Line("a", 1, "Ä", Money(0, "CHF")),
        Line("b", 2, "B", Money(1, "CHF")),
    )
    order = Order(OrderId("ord_x"), ALICE, Status.SHIPPED, lines, 2**45, 2**45 + 1, 7, "1Z")
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


async def test_changing_an_order_changes_what_can_change_of_that_one_alone(database: Database) -> None:
    for order in (_order(1), _order(2)):
        assert await database.run(lambda tx, o=order: storage.add(tx, o, "k" + o.id, "f"))
    confirmed = _order(1).become(Status.CONFIRMED, 4_000)
    cancelled = confirmed.become(Status.SHIPPED, 5_000, tracking_number="1Z")
    await database.run(lambda tx: storage.change(tx, cancelled))
    assert await database.read(lambda tx: storage.find(tx, cancelled.id)) == cancelled
    assert await database.read(lambda tx: storage.find(tx, _order(2).id)) == _order(2)
    assert await database.read(lambda tx: storage.by_key(tx, ALICE, "k" + cancelled.id)) == (cancelled, "f")


async def test_a_status_that_does_not_exist_cannot_be_stored(database: Database) -> None:
    assert await database.run(lambda tx: storage.add(tx, _order(1), None, "f"))
    with pytest.raises(IntegrityError):
        await database.run(lambda tx: tx.execute(storage.orders.update().values(status="lost")))


async def test_orders_from_before_there_was_a_shop_survive(database_url: str) -> None:
    database = Database(database_url)

    def before(tx: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "orders:migrations")
        config.attributes["connection"] = tx
        command.upgrade(config, "0001")
        tx.execute(
            text(
                "INSERT INTO orders (id, owner, status, items, created_at, updated_at, idempotency_key, fingerprint) "
                "VALUES ('ord_old', 'usr_alice', 'cancelled', '[[\"book-1\", 2]]', 10, 20, 'k', 'f')"
            )
        )

    await database.run(before)
    await asyncio.to_thread(migrate, database_url, "orders")
    old = Order(OrderId("ord_old"), ALICE, Status.CANCELLED, (Line("book-1", 2),), created_at=10, updated_at=20)
    assert await database.read(lambda tx: storage.find(tx, old.id)) == old
    assert await database.read(lambda tx: storage.by_key(tx, ALICE, "k")) == (old, "f")
    assert not await database.run(lambda tx: storage.add(tx, _order(2), "k", "f")), "its key is still taken"
    assert await database.read(lambda tx: storage.by_key(tx, BOB, "k")) is None
    # A replica of the version before may still be writing while the others are replaced.
    await database.run(
        lambda tx: tx.execute(
            text(
                "INSERT INTO orders (id, owner, status, items, created_at, updated_at, fingerprint) "
                "VALUES ('ord_late', 'usr_bob', 'placed', '[[\"a\", 1]]', 10, 10, 'f')"
            )
        )
    )
    late = Order(OrderId("ord_late"), BOB, Status.PLACED, (Line("a", 1),), created_at=10, updated_at=10)
    assert await database.read(lambda tx: storage.find(tx, late.id)) == late
    await database.dispose()


async def test_all_orders_or_those_in_some_states(database: Database) -> None:
    stored = [_order(1, at=10), _order(2, BOB, at=20), _order(3, at=30)]
    for order in stored:
        assert await database.run(lambda tx, o=order: storage.add(tx, o, None, "f"))
    confirmed = stored[1].become(Status.CONFIRMED, 40)
    await database.run(lambda tx: storage.change(tx, confirmed))

    def found(*statuses: Status) -> list[Order]:
        return database.run_sync(lambda tx: storage.newest(tx, None, 10, None, statuses))

    assert found() == [stored[2], confirmed, stored[0]]
    assert found(Status.CONFIRMED) == [confirmed]
    assert found(Status.CONFIRMED, Status.PLACED) == [stored[2], confirmed, stored[0]]
    assert found(Status.SHIPPED) == []
    since = await database.read(lambda tx: storage.changed_since(tx, [ALICE, BOB], 10))
    assert since == [stored[2], confirmed]
    assert await database.read(lambda tx: storage.changed_since(tx, [ALICE], 10)) == [stored[2]]
    wanted = [stored[0].id, confirmed.id, OrderId("ord_none")]
    assert {order.id for order in await database.read(lambda tx: storage.these(tx, wanted))} == set(wanted[:2])


async def test_a_product_is_added_once_changed_and_listed(database: Database) -> None:
    assert await database.run(lambda tx: storage.add_product(tx, _product("b", 5)))
    assert not await database.run(lambda tx: storage.add_product(tx, _product("b", 9)))
    assert await database.run(lambda tx: storage.add_product(tx, _product("a", 1)))
    shelf = await database.run(lambda tx: storage.shelf(tx, ["b", "a", "b", "gone"]))
    assert shelf == {"a": _product("a", 1), "b": _product("b", 5)}
    changed = Product(Sku("b"), "New", Money(7, "CHF"), 3, 2)
    await database.run(lambda tx: storage.put_product(tx, changed))
    await database.run(lambda tx: storage.restock(tx, [Product(Sku("a"), "not stored", Money(9, "XXX"), 0, 2)]))
    await database.run(lambda tx: storage.restock(tx, []))
    left = Product(Sku("a"), "A", Money(5, "EUR"), 0, 2)
    assert await database.read(lambda tx: storage.catalogue(tx, 10, "")) == [left, changed]
    assert await database.read(lambda tx: storage.catalogue(tx, 1, "")) == [left]
    assert await database.read(lambda tx: storage.catalogue(tx, 10, "a")) == [changed]


async def test_stock_below_zero_cannot_be_stored(database: Database) -> None:
    assert await database.run(lambda tx: storage.add_product(tx, _product("a", 1)))
    with pytest.raises(IntegrityError):
        await database.run(lambda tx: storage.restock(tx, [_product("a", -1)]))


async def test_products_are_listed_in_the_order_in_which_they_are_compared(database: Database) -> None:
    skus = ["a", "B", "a.b", "a-b", "A", "_", "1"]
    for sku in skus:
        assert await database.run(lambda tx, s=sku: storage.add_product(tx, _product(s, 1)))
    seen: list[str] = []
    last = ""
    while page := await database.read(partial(storage.catalogue, limit=2, after=last)):
        seen += [product.sku for product in page]
        last = seen[-1]
    assert sorted(seen) == sorted(skus)
