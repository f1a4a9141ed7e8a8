"""The orders table, and the five statements that touch it."""

import json
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
    select,
    tuple_,
    update,
)

from orders.domain import Item, Order, OrderId, Owner, Status
from servicekit.database import insert_new

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

orders = Table(
    "orders",
    metadata,
    Column("id", Text, primary_key=True),  # ord_...
    Column("owner", Text, nullable=False),  # sub of whoever placed it
    Column("status", Text, nullable=False),  # orders.domain.Status
    Column("items", Text, nullable=False),  # JSON: [[sku, quantity], ...]
    Column("created_at", BigInteger, nullable=False),  # ms
    Column("updated_at", BigInteger, nullable=False),  # ms
    Column("idempotency_key", Text),  # null: sent without one
    Column("fingerprint", Text, nullable=False),  # of what was asked for
    CheckConstraint("status IN ('placed', 'cancelled')", name="status"),
    # What makes an idempotency key hold when twenty requests come at once. Nulls differ from each other.
    UniqueConstraint("owner", "idempotency_key"),
    Index("ix_orders_owner_created_at_id", "owner", "created_at", "id"),
)


def add(tx: Connection, order: Order, key: str | None, fingerprint: str) -> bool:
    """Stores a new order, unless its owner has used `key` before; tells whether it did."""
    return insert_new(
        tx,
        orders,
        {
            "id": order.id,
            "owner": order.owner,
            "status": order.status.value,
            "items": json.dumps([[item.sku, item.quantity] for item in order.items]),
            "created_at": order.created_at,
            "updated_at": order.updated_at,
            "idempotency_key": key,
            "fingerprint": fingerprint,
        },
    )


def by_key(tx: Connection, owner: Owner, key: str) -> tuple[Order, str]:
    """The order that was placed under `key`, and the fingerprint of the request."""
    row = tx.execute(select(orders).where(orders.c.owner == owner, orders.c.idempotency_key == key)).one()
    return _order(row), row.fingerprint


def find(tx: Connection, order_id: OrderId, *, lock: bool = False) -> Order | None:
    """One order; with `lock` nobody else changes it before this transaction ends."""
    query = select(orders).where(orders.c.id == order_id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return None if row is None else _order(row)


def newest(tx: Connection, owner: Owner, limit: int, before: tuple[int, OrderId] | None) -> list[Order]:
    """At most `limit` orders of `owner`, newest first, those older than `before` (created_at, id)."""
    query = select(orders).where(orders.c.owner == owner)
    if before is not None:
        query = query.where(tuple_(orders.c.created_at, orders.c.id) < before)
    query = query.order_by(orders.c.created_at.desc(), orders.c.id.desc()).limit(limit)
    return [_order(row) for row in tx.execute(query)]


def change(tx: Connection, order: Order) -> None:
    """Stores what can change about an order: its status and when that was."""
    tx.execute(
        update(orders).where(orders.c.id == order.id).values(status=order.status.value, updated_at=order.updated_at)
    )


def _order(row: Row[Any]) -> Order:
    return Order(
        id=OrderId(row.id),
        owner=Owner(row.owner),
        status=Status(row.status),
        items=tuple(Item(sku, quantity) for sku, quantity in json.loads(row.items)),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
