"""Orders over gRPC: the same use cases, refusals and reasons as over HTTP."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from contracts.orders.v1 import orders_pb2 as pb
from contracts.orders.v1 import orders_pb2_grpc
from orders.backoffice import BackOffice
from orders.domain import Item, Money, Order, Product, Sku, Status
from orders.events import money
from orders.paging import Page, invalid
from orders.service import UNCONDITIONAL, Caller, Orders, Precondition, caller_of
from orders.watching import Watches
from rescind.grpc import current_principal

SERVICE = pb.DESCRIPTOR.services_by_name["OrdersService"].full_name
READ = frozenset({"orders:read"})
WRITE = frozenset({"orders:write"})
ADMINISTRATE = frozenset({"orders:admin"})
SCOPES: Mapping[str, frozenset[str]] = {
    f"/{SERVICE}/CreateOrder": WRITE,
    f"/{SERVICE}/GetOrder": READ,
    f"/{SERVICE}/ListOrders": READ,
    f"/{SERVICE}/CancelOrder": WRITE,
    f"/{SERVICE}/WatchOrders": READ,
    f"/{SERVICE}/ListProducts": READ,
    f"/{SERVICE}/ConfirmOrder": ADMINISTRATE,
    f"/{SERVICE}/ShipOrder": ADMINISTRATE,
    f"/{SERVICE}/DeliverOrder": ADMINISTRATE,
    f"/{SERVICE}/ListAllOrders": ADMINISTRATE,
    f"/{SERVICE}/PutProduct": ADMINISTRATE,
}
_STATUS = {status: pb.OrderStatus.Value(f"ORDER_STATUS_{status.name}") for status in Status}
_STATUS_OF = {number: status for status, number in _STATUS.items()}
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OrdersServicer(orders_pb2_grpc.OrdersServiceServicer):
    """Runs behind the interceptor that has authenticated the call."""

    def __init__(self, orders: Orders, backoffice: BackOffice, watches: Watches) -> None:
        self._orders = orders
        self._backoffice = backoffice
        self._watches = watches

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Context) -> pb.Order:
        """Places an order; `request_id` is the idempotency key."""
        items = [Item(item.sku, item.quantity) for item in request.items]
        return _shown(await self._orders.place(_caller(), items, request.request_id))

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.Order:
        """One order."""
        return _shown(await self._orders.get(_caller(), request.id))

    async def ListOrders(self, request: pb.ListOrdersRequest, context: Context) -> pb.ListOrdersResponse:
        """A page of the caller's own orders."""
        return _page(await self._orders.list_own(_caller(), request.page_size, request.page_token))

    async def CancelOrder(self, request: pb.CancelOrderRequest, context: Context) -> pb.Order:
        """Cancels an order."""
        return _shown(await self._orders.cancel(_caller(), request.id, _only_if(request.etag)))

    async def WatchOrders(
        self, request: pb.WatchOrdersRequest, context: Context
    ) -> AsyncIterator[pb.WatchOrdersResponse]:
        """The caller's own orders as they change."""
        async with aclosing(self._watches.watch(_caller())) as changes:
            async for order in changes:
                if order is None:
                    yield pb.WatchOrdersResponse(keep_alive=pb.KeepAlive())
                else:
                    yield pb.WatchOrdersResponse(order=_shown(order))

    async def ListProducts(self, request: pb.ListProductsRequest, context: Context) -> pb.ListProductsResponse:
        """A page of the catalogue."""
        page = await self._orders.list_products(request.page_size, request.page_token)
        products = [_product(product) for product in page.items]
        return pb.ListProductsResponse(products=products, next_page_token=page.next_page_token)

    async def ConfirmOrder(self, request: pb.ConfirmOrderRequest, context: Context) -> pb.Order:
        """Accepts an order."""
        return _shown(await self._backoffice.confirm(_caller(), request.id, _only_if(request.etag)))

    async def ShipOrder(self, request: pb.ShipOrderRequest, context: Context) -> pb.Order:
        """Sends an order on its way."""
        only_if = _only_if(request.etag)
        return _shown(await self._backoffice.ship(_caller(), request.id, request.tracking_number, only_if))

    async def DeliverOrder(self, request: pb.DeliverOrderRequest, context: Context) -> pb.Order:
        """Notes that an order arrived."""
        return _shown(await self._backoffice.deliver(_caller(), request.id, _only_if(request.etag)))

    async def ListAllOrders(self, request: pb.ListAllOrdersRequest, context: Context) -> pb.ListOrdersResponse:
        """A page of everybody's orders."""
        unknown = {
            f"statuses.{n}": "is no status" for n, number in enumerate(request.statuses) if number not in _STATUS_OF
        }
        if unknown:
            raise invalid(unknown)
        statuses = [_STATUS_OF[number] for number in request.statuses]
        return _page(await self._backoffice.list_all(request.page_size, request.page_token, statuses))

    async def PutProduct(self, request: pb.PutProductRequest, context: Context) -> pb.Product:
        """Adds or changes a product."""
        wanted = request.product
        price = Money(wanted.price.minor_units, wanted.price.currency)
        product = Product(Sku(wanted.sku), wanted.name, price, wanted.stock)
        put, _ = await self._backoffice.put_product(product, _only_if(wanted.etag))
        return _product(put)


def _caller() -> Caller:
    return caller_of(current_principal())


def _only_if(etag: str) -> Precondition:
    return Precondition(match=[etag]) if etag else UNCONDITIONAL


def _page(page: Page[Order]) -> pb.ListOrdersResponse:
    return pb.ListOrdersResponse(orders=[_shown(order) for order in page.items], next_page_token=page.next_page_token)


def _shown(order: Order) -> pb.Order:
    return pb.Order(
        id=order.id,
        owner=order.owner,
        status=_STATUS[order.status],
        items=[
            pb.Item(sku=line.sku, quantity=line.quantity, name=line.name, unit_price=money(line.unit_price))
            for line in order.lines
        ],
        created_at=_timestamp(order.created_at),
        updated_at=_timestamp(order.updated_at),
        etag=order.etag,
        total=money(order.total),
        tracking_number=order.tracking_number,
    )


def _product(product: Product) -> pb.Product:
    return pb.Product(
        sku=product.sku, name=product.name, price=money(product.price), stock=product.stock, etag=product.etag
    )


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp
