"""What an order is. Knows no wire, no table and no clock."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NewType

OrderId = NewType("OrderId", str)  # ord_ and 22 characters
Owner = NewType("Owner", str)  # the `sub` of whoever placed it

MAX_ITEMS = 100
MAX_QUANTITY = 1000
_SKU = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ORDER_ID = re.compile(r"ord_[A-Za-z0-9_-]{22}")
_IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")


class InvalidOrder(Exception):
    """What was asked for cannot be ordered. `fields` says what is wrong where."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {fault}" for field, fault in fields.items()))
        self.fields = fields


class NotCancellable(Exception):
    """The order is not in a state from which it can be cancelled; a cancelled one is cancelled once."""


class Status(Enum):
    """Where an order stands."""

    PLACED = "placed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Item:
    """So many of one thing."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Order:
    """Times are milliseconds since the epoch."""

    id: OrderId
    owner: Owner
    status: Status
    items: tuple[Item, ...]
    created_at: int
    updated_at: int

    def cancelled(self, at: int) -> "Order":
        """This order, cancelled.

        Raises:
            NotCancellable: it is cancelled already.
        """
        if self.status is not Status.PLACED:
            raise NotCancellable
        # A database clock that was set back must not make an order change before it was made.
        return replace(self, status=Status.CANCELLED, updated_at=max(at, self.updated_at))

    def as_placed(self) -> "Order":
        """What whoever placed it was told then: the answer to the same request sent again."""
        return replace(self, status=Status.PLACED, updated_at=self.created_at)


def checked(items: Sequence[Item]) -> tuple[Item, ...]:
    """`items`, if they can be ordered.

    Raises:
        InvalidOrder: too few, too many, or one that does not exist in this form.
    """
    fields: dict[str, str] = {}
    if not 1 <= len(items) <= MAX_ITEMS:
        fields["items"] = f"must be 1 to {MAX_ITEMS} items"
    else:
        for index, item in enumerate(items):
            if not _SKU.fullmatch(item.sku):
                fields[f"items.{index}.sku"] = "must be 1 to 64 of A-Z a-z 0-9 . _ -"
            if not 1 <= item.quantity <= MAX_QUANTITY:
                fields[f"items.{index}.quantity"] = f"must be 1 to {MAX_QUANTITY}"
    if fields:
        raise InvalidOrder(fields)
    return tuple(items)


def checked_key(key: str) -> str:
    """`key`, if it can tell one request from another.

    Raises:
        InvalidOrder: it is too long or not printable.
    """
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidOrder({"idempotency_key": "must be 1 to 255 printable ASCII characters"})
    return key


def is_order_id(text: str) -> bool:
    """Whether `text` can name an order at all."""
    return _ORDER_ID.fullmatch(text) is not None


def fingerprint(items: Sequence[Item]) -> str:
    """Tells whether two requests under one idempotency key ask for the same."""
    said = json.dumps([[item.sku, item.quantity] for item in items], separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()
