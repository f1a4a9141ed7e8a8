"""The tables of orders and products, and the statements that touch them."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Index,
    MetaData,
    Row,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    select,
    text,
    tuple_,
    update,
)

from eventlog import declare_outbox
from orders.domain import Line, Money, Order, OrderId, Owner, Product, Sku, Status
from servicekit.database import insert_new

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)
outbox = declare_outbox(metadata)

orders = Table(
    "orders",
    metadata,
    Column("id", Text, primary_key=True),  # ord_...
    Column("owner", Text, nullable=False),  # sub of whoever placed it
    Column("status", Text, nullable=False),  # orders.domain.Status
    Column(
        "items", Text, nullable=False
    ),  # JSON: [[sku, quantity, name, minor units], ...]; older ones end at quantity
    Column("currency", Text),  # null: from before there were prices
    # The defaults are for a replica of the version before, which may still be running and knows no such columns.
    Column("tracking_number", Text, nullable=False, server_default=text("''")),
    Column("version", BigInteger, nullable=False, server_default="1"),  # 1, 2, 3 ...
    Column("created_at", BigInteger, nullable=False),  # ms
    Column("updated_at", BigInteger, nullable=False),  # ms
    Column("idempotency_key", Text),  # null: sent without one
    Column("fingerprint", Text, nullable=False),  # of what was asked for
    CheckConstraint("status IN ('placed', 'confirmed', 'shipped', 'delivered', 'cancelled')", name="status"),
    # What makes an idempotency key hold when twenty requests come at once. Nulls differ from each other.
    UniqueConstraint("owner", "idempotency_key"),
    Index("ix_orders_owner_created_at_id", "owner", "created_at", "id"),
    Index("ix_orders_created_at_id", "created_at", "id"),
    Index("ix_orders_owner_updated_at", "owner", "updated_at"),
)

products = Table(
    "products",
    metadata,
    Column("sku", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("price", BigInteger, nullable=False),  # minor units
    Column("currency", Text, nullable=False),  # ISO 4217
    Column("stock", BigInteger, nullable=False),  # pieces that can still be ordered
    Column("version", BigInteger, nullable=False),
    # The rule is the domain's; this is the net below it.
    CheckConstraint("stock >= 0", name="stock"),
)


def add(tx: Connection, order: Order, key: str | None, fingerprint: str) -> bool:
    """Stores a new order, unless its owner has used `key` before; tells whether it did."""
    total = order.total
    return insert_new(
        tx,
        orders,
        {
            "id": order.id,
            "owner": order.owner,
            "status": order.status.value,
            "items": json.dumps([_written(line) for line in order.lines], ensure_ascii=False),
            "currency": None if total is None else total.currency,
            "tracking_number": order.tracking_number,
            "version": order.version,
            "created_at": order.created_at,
            "updated_at": order.updated_at,
            "idempotency_key": key,
            "fingerprint": fingerprint,
        },
    )


def by_key(tx: Connection, owner: Owner, key: str) -> tuple[Order, str] | None:
    """The order that was placed under `key`, and the fingerprint of the request."""
    query = select(orders).where(orders.c.owner == owner, orders.c.idempotency_key == key)
    row = tx.execute(query).one_or_none()
    return None if row is None else (_order(row), row.fingerprint)


def find(tx: Connection, order_id: OrderId, *, lock: bool = False) -> Order | None:
    """One order; with `lock` nobody else changes it before this transaction ends."""
    query = select(orders).where(orders.c.id == order_id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _order(row)


def these(tx: Connection, order_ids: Collection[OrderId]) -> list[Order]:
    """Those of these orders that exist."""
    return [_order(row) for row in tx.execute(select(orders).where(orders.c.id.in_(order_ids)))]


def newest(
    tx: Connection,
    owner: Owner | None,
    limit: int,
    before: tuple[int, OrderId] | None,
    statuses: Collection[Status] = (),
) -> list[Order]:
    """At most `limit` orders of `owner` (None: anybody's), newest first, those older than `before` (created_at, id)."""
    query = select(orders)
    if owner is not None:
        query = query.where(orders.c.owner == owner)
    if statuses:
        query = query.where(orders.c.status.in_([status.value for status in statuses]))
    if before is not None:
        query = query.where(tuple_(orders.c.created_at, orders.c.id) < before)
    query = query.order_by(orders.c.created_at.desc(), orders.c.id.desc()).limit(limit)
    return [_order(row) for row in tx.execute(query)]


def changed_since(tx: Connection, owners: Collection[Owner], since: int) -> list[Order]:
    """The orders of `owners` that changed after `since` (ms), oldest change first."""
    query = select(orders).where(orders.c.owner.in_(owners), orders.c.updated_at > since)
    return [_order(row) for row in tx.execute(query.order_by(orders.c.updated_at))]


def change(tx: Connection, order: Order) -> None:
    """Stores what can change about an order."""
    tx.execute(
        update(orders)
        .where(orders.c.id == order.id)
        .values(
            status=order.status.value,
            tracking_number=order.tracking_number,
            version=order.version,
            updated_at=order.updated_at,
        )
    )


def shelf(tx: Connection, skus: Iterable[str]) -> dict[str, Product]:
    """These products, locked until this transaction ends. Always in the order of their names, so that of two
    transactions that want the same ones, one waits, and never each for the other.
    """
    wanted = sorted(set(skus))
    query = select(products).where(products.c.sku.in_(wanted)).order_by(products.c.sku).with_for_update()
    return {row.sku: _product(row) for row in tx.execute(query)}


def restock(tx: Connection, changed: Sequence[Product]) -> None:
    """Stores stock and version of products that `shelf` has locked."""
    if changed:
        tx.execute(
            update(products)
            .where(products.c.sku == bindparam("which"))
            .values(stock=bindparam("left"), version=bindparam("now")),
            [{"which": product.sku, "left": product.stock, "now": product.version} for product in changed],
        )


def put_product(tx: Connection, product: Product) -> None:
    """Stores a product that `shelf` has locked, whole."""
    tx.execute(update(products).where(products.c.sku == product.sku).values(**_columns(product)))


def add_product(tx: Connection, product: Product) -> bool:
    """Stores a product, unless there is one of that sku; tells whether it did."""
    return insert_new(tx, products, _columns(product))


def catalogue(tx: Connection, limit: int, after: str) -> list[Product]:
    """At most `limit` products by sku, those after `after`."""
    query = select(products).where(products.c.sku > after).order_by(products.c.sku).limit(limit)
    return [_product(row) for row in tx.execute(query)]


def _written(line: Line) -> list[object]:
    return [line.sku, line.quantity] + ([] if line.unit_price is None else [line.name, line.unit_price.minor_units])


def _line(currency: str | None, sku: str, quantity: int, name: str = "", minor_units: int | None = None) -> Line:
    price = None if currency is None or minor_units is None else Money(minor_units, currency)
    return Line(sku, quantity, name, price)


def _order(row: Row[Any]) -> Order:
    return Order(
        id=OrderId(row.id),
        owner=Owner(row.owner),
        status=Status(row.status),
        lines=tuple(_line(row.currency, *line) for line in json.loads(row.items)),
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
        tracking_number=row.tracking_number,
    )


def _product(row: Row[Any]) -> Product:
    return Product(Sku(row.sku), row.name, Money(row.price, row.currency), row.stock, row.version)


def _columns(product: Product) -> dict[str, Any]:
    return {
        "sku": product.sku,
        "name": product.name,
        "price": product.price.minor_units,
        "currency": product.price.currency,
        "stock": product.stock,
        "version": product.version,
    }
