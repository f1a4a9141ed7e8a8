"""Orders and products as JSON."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from orders.domain import Money, Order, Product, Sku


class _Strict(BaseModel):
    """Refuses members that nobody declared, so no request can set what is not the caller's to set."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ItemBody(_Strict):
    """How many of what: 1 to 1000 of 1 to 64 characters. The domain checks the ranges, for both wires alike."""

    sku: str
    quantity: int


class CreateOrderBody(_Strict):
    """1 to 100 items."""

    items: list[ItemBody]


class ShipOrderBody(_Strict):
    """How a parcel can be followed."""

    tracking_number: str = ""


class MoneyBody(_Strict):
    """1995 EUR is nineteen euros and ninety-five cents."""

    minor_units: int
    currency: str = Field(description="ISO 4217")


class PutProductBody(_Strict):
    """A product but for its sku, which the URL has."""

    name: str
    price: MoneyBody
    stock: int


class LineBody(BaseModel):
    """So many of one thing, as it was when the order was placed."""

    sku: str
    quantity: int
    name: str
    unit_price: MoneyBody | None = Field(description="null in orders from before there were prices")


class OrderBody(BaseModel):
    """An order as it is shown."""

    id: str
    owner: str
    status: str
    items: list[LineBody]
    total: MoneyBody | None
    tracking_number: str = Field(description="Empty until it is shipped")
    created_at: str = Field(description="RFC 3339, UTC")
    updated_at: str = Field(description="RFC 3339, UTC")
    etag: str = Field(description="Send it back as If-Match to change only what you saw")


class PageBody(BaseModel):
    """Some orders, newest first."""

    orders: list[OrderBody]
    next_page_token: str = Field(description="Empty on the last page")


class ProductBody(BaseModel):
    """A product as it is shown."""

    sku: str
    name: str
    price: MoneyBody
    stock: int = Field(description="Pieces that can still be ordered")
    etag: str


class ProductPageBody(BaseModel):
    """Some products, by sku."""

    products: list[ProductBody]
    next_page_token: str = Field(description="Empty on the last page")


def order_body(order: Order) -> OrderBody:
    """An order as it is shown."""
    return OrderBody(
        id=order.id,
        owner=order.owner,
        status=order.status.value,
        items=[
            LineBody(sku=line.sku, quantity=line.quantity, name=line.name, unit_price=_money(line.unit_price))
            for line in order.lines
        ],
        total=_money(order.total),
        tracking_number=order.tracking_number,
        created_at=_rfc3339(order.created_at),
        updated_at=_rfc3339(order.updated_at),
        etag=order.etag,
    )


def product_body(product: Product) -> ProductBody:
    """A product as it is shown."""
    price = MoneyBody(minor_units=product.price.minor_units, currency=product.price.currency)
    return ProductBody(sku=product.sku, name=product.name, price=price, stock=product.stock, etag=product.etag)


def product_of(sku: str, body: PutProductBody) -> Product:
    """What is to be put, not yet checked."""
    return Product(Sku(sku), body.name, Money(body.price.minor_units, body.price.currency), body.stock)


def _money(amount: Money | None) -> MoneyBody | None:
    return None if amount is None else MoneyBody(minor_units=amount.minor_units, currency=amount.currency)


def _rfc3339(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
