"""Orders over gRPC: the same use cases, refusals and reasons as over HTTP."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from contracts.orders.v1 import orders_pb2 as pb
from contracts.orders.v1 import orders_pb2_grpc
from orders.domain import Item, Order, Status
from orders.service import Caller, Orders, caller_of
from rescind.grpc import current_principal

SERVICE = pb.DESCRIPTOR.services_by_name["OrdersService"].full_name
READ = frozenset({"orders:read"})
WRITE = frozenset({"orders:write"})
SCOPES: Mapping[str, frozenset[str]] = {
    f"/{SERVICE}/CreateOrder": WRITE,
    f"/{SERVICE}/GetOrder": READ,
    f"/{SERVICE}/ListOrders": READ,
    f"/{SERVICE}/CancelOrder": WRITE,
}
_STATUS = {Status.PLACED: pb.ORDER_STATUS_PLACED, Status.CANCELLED: pb.ORDER_STATUS_CANCELLED}
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class OrdersServicer(orders_pb2_grpc.OrdersServiceServicer):
    """Runs behind the interceptor that has authenticated the call."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    async def CreateOrder(self, request: pb.CreateOrderRequest, context: Context) -> pb.Order:
        """Places an order; `request_id` is the idempotency key."""
        items = [Item(item.sku, item.quantity) for item in request.items]
        return _shown(await self._orders.place(_caller(), items, request.request_id))

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.Order:
        """One order."""
        return _shown(await self._orders.get(_caller(), request.id))

    async def ListOrders(self, request: pb.ListOrdersRequest, context: Context) -> pb.ListOrdersResponse:
        """A page of the caller's own orders."""
        page = await self._orders.list_own(_caller(), request.page_size, request.page_token)
        return pb.ListOrdersResponse(
            orders=[_shown(order) for order in page.orders], next_page_token=page.next_page_token
        )

    async def CancelOrder(self, request: pb.CancelOrderRequest, context: Context) -> pb.Order:
        """Cancels an order."""
        return _shown(await self._orders.cancel(_caller(), request.id))


def _caller() -> Caller:
    return caller_of(current_principal())


def _shown(order: Order) -> pb.Order:
    return pb.Order(
        id=order.id,
        owner=order.owner,
        status=_STATUS[order.status],
        items=[pb.Item(sku=item.sku, quantity=item.quantity) for item in order.items],
        created_at=_timestamp(order.created_at),
        updated_at=_timestamp(order.updated_at),
    )


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp
