"""/api/products, /api/orders, /api/admin/orders: the orders service, method by method."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, ConfigDict, Field

from contracts.orders.v1 import money_pb2
from contracts.orders.v1 import orders_pb2 as pb
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, only_query
from session.domain import Held
from session.rest.access import Access
from session.rest.account import rfc3339
from session.service import Policies
from session.upstream import Upstream

_STATUS = {
    pb.ORDER_STATUS_PLACED: "placed",
    pb.ORDER_STATUS_CONFIRMED: "confirmed",
    pb.ORDER_STATUS_SHIPPED: "shipped",
    pb.ORDER_STATUS_DELIVERED: "delivered",
    pb.ORDER_STATUS_CANCELLED: "cancelled",
}


class _Strict(BaseModel):
    """Refuses members that nobody declared, so no request can set what is not the caller's to set."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WantedBody(_Strict):
    """How many of what. Orders checks the ranges."""

    sku: str = Field(max_length=64)
    quantity: int = Field(ge=0, lt=2**31)


class CreateOrderBody(_Strict):
    """What is ordered."""

    items: list[WantedBody] = Field(max_length=100)


class ShipBody(_Strict):
    """How it can be followed; empty when it cannot."""

    tracking_number: str = Field(default="", max_length=64)


class MoneyBody(BaseModel):
    """An amount in the smallest unit of its currency (ISO 4217)."""

    minor_units: int
    currency: str


class ProductBody(BaseModel):
    """Something that can be ordered."""

    sku: str
    name: str
    price: MoneyBody | None
    stock: int
    etag: str


class ProductsBody(BaseModel):
    """A page of products."""

    products: list[ProductBody]
    next_page_token: str


class ItemBody(BaseModel):
    """One line of an order, as it was when it was placed."""

    sku: str
    quantity: int
    name: str
    unit_price: MoneyBody | None


class OrderBody(BaseModel):
    """An order as it is now. `etag` goes into If-Match."""

    id: str
    owner: str
    status: str
    items: list[ItemBody]
    created_at: str
    updated_at: str
    etag: str
    total: MoneyBody | None
    tracking_number: str


class OrdersBody(BaseModel):
    """A page of orders, newest first; the token is empty on the last page."""

    orders: list[OrderBody]
    next_page_token: str


_PAGE = Depends(only_query("page_size", "page_token"))
_NOTHING = Depends(only_query())


def router(upstream: Upstream, policies: Policies, access: Access) -> APIRouter:
    """The routes. The token that a route uses is judged when it is used."""
    routes = APIRouter(prefix="/api", tags=["shop"], route_class=StrictRoute)
    presented = Depends(access.presented)
    read, write = policies.read, policies.write

    @routes.get("/products", dependencies=[_PAGE])
    async def products(held: Annotated[Held, presented], page_size: int = 0, page_token: str = "") -> ProductsBody:
        page = await upstream.products(held, pb.ListProductsRequest(**_page(page_size, page_token)), read)
        return ProductsBody(
            products=[_product(product) for product in page.products], next_page_token=page.next_page_token
        )

    @routes.get("/orders", dependencies=[_PAGE])
    async def orders(held: Annotated[Held, presented], page_size: int = 0, page_token: str = "") -> OrdersBody:
        return _orders(await upstream.orders(held, pb.ListOrdersRequest(**_page(page_size, page_token)), read))

    @routes.post("/orders", status_code=201, dependencies=[_NOTHING])
    async def create(
        held: Annotated[Held, presented], body: CreateOrderBody, key: Annotated[str, Depends(_idempotency_key)]
    ) -> OrderBody:
        items = [pb.Item(sku=item.sku, quantity=item.quantity) for item in body.items]
        return _order(await upstream.create_order(held, pb.CreateOrderRequest(items=items, request_id=key), write))

    @routes.get("/orders/{order_id}", dependencies=[_NOTHING])
    async def order(held: Annotated[Held, presented], order_id: str) -> OrderBody:
        return _order(await upstream.order(held, pb.GetOrderRequest(id=order_id), read))

    @routes.post("/orders/{order_id}/cancel", dependencies=[_NOTHING])
    async def cancel(
        held: Annotated[Held, presented], order_id: str, etag: Annotated[str, Depends(_etag)]
    ) -> OrderBody:
        return _order(await upstream.cancel_order(held, pb.CancelOrderRequest(id=order_id, etag=etag), write))

    return routes


def back_office(upstream: Upstream, policies: Policies, access: Access) -> APIRouter:
    """The routes of those who run the shop: orders itself asks for scope orders:admin."""
    routes = APIRouter(prefix="/api/admin/orders", tags=["back office"], route_class=StrictRoute)
    presented, recently = Depends(access.presented), Depends(access.recently)
    admin = policies.admin

    @routes.get("", dependencies=[_PAGE])
    async def everybodys(held: Annotated[Held, presented], page_size: int = 0, page_token: str = "") -> OrdersBody:
        return _orders(await upstream.all_orders(held, pb.ListAllOrdersRequest(**_page(page_size, page_token)), admin))

    @routes.post("/{order_id}/confirm", dependencies=[_NOTHING])
    async def confirm(
        held: Annotated[Held, recently], order_id: str, etag: Annotated[str, Depends(_etag)]
    ) -> OrderBody:
        return _order(await upstream.confirm_order(held, pb.ConfirmOrderRequest(id=order_id, etag=etag), admin))

    @routes.post("/{order_id}/ship", dependencies=[_NOTHING])
    async def ship(
        held: Annotated[Held, recently],
        order_id: str,
        etag: Annotated[str, Depends(_etag)],
        body: ShipBody | None = None,
    ) -> OrderBody:
        number = body.tracking_number if body else ""
        request = pb.ShipOrderRequest(id=order_id, etag=etag, tracking_number=number)
        return _order(await upstream.ship_order(held, request, admin))

    @routes.post("/{order_id}/deliver", dependencies=[_NOTHING])
    async def deliver(
        held: Annotated[Held, recently], order_id: str, etag: Annotated[str, Depends(_etag)]
    ) -> OrderBody:
        return _order(await upstream.deliver_order(held, pb.DeliverOrderRequest(id=order_id, etag=etag), admin))

    return routes


def _page(page_size: int, page_token: str) -> dict[str, Any]:
    """The service checks what is in range; here only what the wire cannot carry."""
    if not 0 <= page_size < 2**31 or len(page_token) > 512:
        raise ServiceError(Kind.INVALID, "VALIDATION_FAILED", "page_size or page_token is not one of ours.")
    return {"page_size": page_size, "page_token": page_token}


def _idempotency_key(
    request: Request, idempotency_key: Annotated[str | None, Header(description="1 to 255 printable ASCII")] = None
) -> str:
    if idempotency_key is None:
        return ""
    if len(request.headers.getlist("idempotency-key")) > 1 or not idempotency_key:
        raise ServiceError(Kind.INVALID, "IDEMPOTENCY_KEY_INVALID", "Send one Idempotency-Key, and not an empty one.")
    return idempotency_key


def _etag(if_match: Annotated[str | None, Header(description='The etag as it came: "1"')] = None) -> str:
    """One strong etag, quotes included (RFC 9110 section 13.1.1); absent or `*`: whatever it is by now."""
    return "" if if_match is None or if_match == "*" else if_match


def _product(product: pb.Product) -> ProductBody:
    return ProductBody(
        sku=product.sku,
        name=product.name,
        price=_money(product.price) if product.HasField("price") else None,
        stock=product.stock,
        etag=product.etag,
    )


def _orders(page: pb.ListOrdersResponse) -> OrdersBody:
    return OrdersBody(orders=[_order(order) for order in page.orders], next_page_token=page.next_page_token)


def _order(order: pb.Order) -> OrderBody:
    return OrderBody(
        id=order.id,
        owner=order.owner,
        status=_STATUS.get(order.status, "unknown"),
        items=[
            ItemBody(
                sku=item.sku,
                quantity=item.quantity,
                name=item.name,
                unit_price=_money(item.unit_price) if item.HasField("unit_price") else None,
            )
            for item in order.items
        ],
        created_at=stamp(order.created_at),
        updated_at=stamp(order.updated_at),
        etag=order.etag,
        total=_money(order.total) if order.HasField("total") else None,
        tracking_number=order.tracking_number,
    )


def _money(money: money_pb2.Money) -> MoneyBody:
    return MoneyBody(minor_units=money.minor_units, currency=money.currency)


def stamp(moment: Timestamp) -> str:
    """A protobuf timestamp as RFC 3339."""
    return rfc3339(moment.ToMilliseconds())
