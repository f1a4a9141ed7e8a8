"""What an order is, what a product is, and what both cost. Knows no wire, no table and no clock."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import NewType

OrderId = NewType("OrderId", str)  # ord_ and 22 characters
Owner = NewType("Owner", str)  # the `sub` of whoever placed it
Sku = NewType("Sku", str)

MAX_ITEMS = 100
MAX_QUANTITY = 1000
MAX_PRICE = 10**9  # minor units. The dearest order costs 10**14: far from the end of int64.
MAX_STOCK = 10**9  # pieces; int32 on the wire
_SKU = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ORDER_ID = re.compile(r"ord_[A-Za-z0-9_-]{22}")
_IDEMPOTENCY_KEY = re.compile(r"[ -~]{1,255}")
_CURRENCY = re.compile(r"[A-Z]{3}")  # ISO 4217
_TRACKING_NUMBER = re.compile(r"[A-Za-z0-9 ._/-]{0,64}")
_LONGEST_NAME = 200


class InvalidOrder(Exception):
    """What was asked for cannot be. `fields` says what is wrong where."""

    def __init__(self, fields: dict[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {fault}" for field, fault in fields.items()))
        self.fields = fields


class UnknownSku(InvalidOrder):
    """Something that is not in the catalogue."""


class OutOfStock(InvalidOrder):
    """More than there is."""


class NotPossible(Exception):
    """The order is not in a state from which it can become `wanted`."""

    def __init__(self, status: "Status", wanted: "Status") -> None:
        super().__init__(f"{status.value} orders do not become {wanted.value}")
        self.status = status
        self.wanted = wanted


class Status(Enum):
    """Where an order stands."""

    PLACED = "placed"
    CONFIRMED = "confirmed"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


# What is on its way cannot be called back, and what is over stays over.
NEXT: Mapping[Status, frozenset[Status]] = {
    Status.PLACED: frozenset({Status.CONFIRMED, Status.CANCELLED}),
    Status.CONFIRMED: frozenset({Status.SHIPPED, Status.CANCELLED}),
    Status.SHIPPED: frozenset({Status.DELIVERED}),
    Status.DELIVERED: frozenset(),
    Status.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the smallest unit of its currency (ISO 4217)."""

    minor_units: int
    currency: str


@dataclass(frozen=True, slots=True)
class Item:
    """So many of one thing, as somebody asks for it: what it costs is not theirs to say."""

    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Line:
    """So many of one thing, named and priced as it was when the order was placed.

    `unit_price` is None in orders from before there were prices.
    """

    sku: str
    quantity: int
    name: str = ""
    unit_price: Money | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """What can be ordered; `stock` counts the pieces that nobody has ordered yet."""

    sku: Sku
    name: str
    price: Money
    stock: int
    version: int = 1

    @property
    def etag(self) -> str:
        """Another one after every change."""
        return _etag(self.version)


@dataclass(frozen=True, slots=True)
class Order:
    """Times are milliseconds since the epoch; `version` counts the changes."""

    id: OrderId
    owner: Owner
    status: Status
    lines: tuple[Line, ...]
    created_at: int
    updated_at: int
    version: int = 1
    tracking_number: str = ""

    @property
    def etag(self) -> str:
        """A strong validator (RFC 9110 section 8.8.3), quotes included: another one after every change."""
        return _etag(self.version)

    @property
    def total(self) -> Money | None:
        """What it costs altogether; None where there was no price."""
        prices = [(line.unit_price, line.quantity) for line in self.lines]
        amount, currency = 0, ""
        for price, quantity in prices:
            if price is None:
                return None
            amount += price.minor_units * quantity
            currency = price.currency
        return Money(amount, currency)

    def become(self, status: Status, at: int, *, tracking_number: str = "") -> "Order":
        """This order in its next state.

        Raises:
            NotPossible: that state does not follow the one it is in.
        """
        if status not in NEXT[self.status]:
            raise NotPossible(self.status, status)
        return replace(
            self,
            status=status,
            version=self.version + 1,
            tracking_number=tracking_number or self.tracking_number,
            # A database clock that was set back must not make an order change before it was made.
            updated_at=max(at, self.updated_at),
        )

    def as_placed(self) -> "Order":
        """What whoever placed it was told then: the answer to the same request sent again."""
        return replace(self, status=Status.PLACED, updated_at=self.created_at, version=1, tracking_number="")


def checked(items: Sequence[Item]) -> tuple[Item, ...]:
    """`items`, if they can be asked for.

    Raises:
        InvalidOrder: too few, too many, or one that cannot exist in this form.
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


def reserve(items: Sequence[Item], shelf: Mapping[str, Product]) -> tuple[tuple[Line, ...], tuple[Product, ...]]:
    """The lines of an order for `items`, and the products of `shelf` with so much less of them.

    Raises:
        UnknownSku: the shelf has no such product.
        InvalidOrder: they are not all priced in one currency.
        OutOfStock: the shelf has too little.
    """
    unknown = {f"items.{n}.sku": "is not in the catalogue" for n, item in enumerate(items) if item.sku not in shelf}
    if unknown:
        raise UnknownSku(unknown)
    currency = shelf[items[0].sku].price.currency
    mixed = {
        f"items.{n}.sku": f"is not priced in {currency}"
        for n, item in enumerate(items)
        if shelf[item.sku].price.currency != currency
    }
    if mixed:
        raise InvalidOrder(mixed)
    left = {sku: product.stock for sku, product in shelf.items()}
    missing: dict[str, str] = {}
    for n, item in enumerate(items):
        left[item.sku] -= item.quantity
        if left[item.sku] < 0:
            missing[f"items.{n}.quantity"] = f"of {item.sku} there are {shelf[item.sku].stock} left"
    if missing:
        raise OutOfStock(missing)
    lines = tuple(Line(i.sku, i.quantity, shelf[i.sku].name, shelf[i.sku].price) for i in items)
    return lines, tuple(_restocked(shelf[sku], left[sku]) for sku in sorted({item.sku for item in items}))


def put_back(lines: Sequence[Line], shelf: Mapping[str, Product]) -> tuple[Product, ...]:
    """The products of `shelf` with what a cancelled order had taken; a product that is gone stays gone."""
    back: dict[str, int] = {}
    for line in lines:
        back[line.sku] = back.get(line.sku, 0) + line.quantity
    # Somebody may have filled the shelf meanwhile: more than it holds is not counted.
    return tuple(
        _restocked(shelf[sku], min(MAX_STOCK, shelf[sku].stock + quantity))
        for sku, quantity in sorted(back.items())
        if sku in shelf
    )


def _restocked(product: Product, stock: int) -> Product:
    return replace(product, stock=stock, version=product.version + 1)


def checked_product(product: Product) -> Product:
    """`product`, if there can be such a thing.

    Raises:
        InvalidOrder: its fields say why not.
    """
    fields = {}
    if not _SKU.fullmatch(product.sku):
        fields["sku"] = "must be 1 to 64 of A-Z a-z 0-9 . _ -"
    if not (1 <= len(product.name) <= _LONGEST_NAME and product.name.isprintable() and product.name.strip()):
        fields["name"] = f"must be 1 to {_LONGEST_NAME} printable characters"
    if not 0 <= product.price.minor_units <= MAX_PRICE:
        fields["price.minor_units"] = f"must be 0 to {MAX_PRICE}"
    if not _CURRENCY.fullmatch(product.price.currency):
        fields["price.currency"] = "must be three capital letters (ISO 4217)"
    if not 0 <= product.stock <= MAX_STOCK:
        fields["stock"] = f"must be 0 to {MAX_STOCK}"
    if fields:
        raise InvalidOrder(fields)
    return product


def checked_tracking_number(number: str) -> str:
    """`number`, if a carrier can have given it; it may be empty.

    Raises:
        InvalidOrder: it is too long, or has signs that none has.
    """
    if not _TRACKING_NUMBER.fullmatch(number):
        raise InvalidOrder({"tracking_number": "must be at most 64 of A-Z a-z 0-9 . _ / - and spaces"})
    return number


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


def is_sku(text: str) -> bool:
    """Whether `text` can name a product at all."""
    return _SKU.fullmatch(text) is not None


def fingerprint(items: Sequence[Item]) -> str:
    """Tells whether two requests under one idempotency key ask for the same."""
    said = json.dumps([[item.sku, item.quantity] for item in items], separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def _etag(version: int) -> str:
    return f'"{version}"'
