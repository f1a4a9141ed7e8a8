"""Orders, notifications and a person's account, as session calls them: real gRPC servers of the contracts.

Tokens are really judged, by guards for each service's audience; what lies behind is as small as a test can use.
"""
# ruff: noqa: N802  (gRPC chose the methods' names)

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio

from contracts.notifications.v1 import notifications_pb2 as nt
from contracts.notifications.v1 import notifications_pb2_grpc
from contracts.orders.v1 import orders_pb2 as od
from contracts.orders.v1 import orders_pb2_grpc
from rescind import BOUNDED, Guard, RescindError
from rescind.grpc import GuardInterceptor, Rule, current_principal
from servicekit.errors import Kind, ServiceError
from servicekit.metrics import Metrics
from servicekit.rpc import SERVER_OPTIONS, Edge

READ, WRITE, ADMIN = "orders:read", "orders:write", "orders:admin"
_ORDERS = "/contracts.orders.v1.OrdersService/"
_NOTIFICATIONS = "/contracts.notifications.v1.NotificationsService/"
ORDER_RULES = {
    **{f"{_ORDERS}{name}": READ for name in ("GetOrder", "ListOrders", "ListProducts")},
    **{f"{_ORDERS}{name}": WRITE for name in ("CreateOrder", "CancelOrder")},
    **{f"{_ORDERS}{name}": ADMIN for name in ("ConfirmOrder", "ShipOrder", "DeliverOrder", "ListAllOrders")},
}
NOTIFICATION_RULES = {
    f"{_NOTIFICATIONS}{name}": "notifications:read"
    for name in ("List", "MarkRead", "Subscribe", "GetPreferences", "SetPreferences")
}


@dataclass
class Orders(orders_pb2_grpc.OrdersServiceServicer):
    """Orders by id; whoever asks for one of somebody else's gets none."""

    placed: dict[str, od.Order] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)  # method, subject
    metadata: list[dict[str, str]] = field(default_factory=list)

    async def CreateOrder(self, request: od.CreateOrderRequest, context: Any) -> od.Order:
        subject = self._called("CreateOrder", context)
        if not request.items:
            raise ServiceError(
                Kind.INVALID, "VALIDATION_FAILED", "No items.", fields={"items": "must be 1 to 100 items"}
            )
        order = od.Order(
            id=(request.request_id and f"ord_{request.request_id}") or f"ord_{len(self.placed)}",
            owner=subject,
            status=od.ORDER_STATUS_PLACED,
            items=request.items,
            etag="1",
        )
        order.total.minor_units, order.total.currency = 1995, "EUR"
        return self.placed.setdefault(order.id, order)

    async def GetOrder(self, request: od.GetOrderRequest, context: Any) -> od.Order:
        return self._own(request.id, self._called("GetOrder", context))

    async def ListOrders(self, request: od.ListOrdersRequest, context: Any) -> od.ListOrdersResponse:
        subject = self._called("ListOrders", context)
        return od.ListOrdersResponse(orders=[order for order in self.placed.values() if order.owner == subject])

    async def CancelOrder(self, request: od.CancelOrderRequest, context: Any) -> od.Order:
        order = self._own(request.id, self._called("CancelOrder", context))
        if request.etag and request.etag != order.etag:
            raise ServiceError(Kind.PRECONDITION, "ETAG_MISMATCH", "It has changed.")
        order.status, order.etag = od.ORDER_STATUS_CANCELLED, order.etag + "1"
        return order

    async def ListProducts(self, request: od.ListProductsRequest, context: Any) -> od.ListProductsResponse:
        self._called("ListProducts", context)
        return od.ListProductsResponse(products=[od.Product(sku="tea", name="Tea", stock=3)])

    async def ConfirmOrder(self, request: od.ConfirmOrderRequest, context: Any) -> od.Order:
        return self._moved("ConfirmOrder", request.id, od.ORDER_STATUS_CONFIRMED, context)

    async def ShipOrder(self, request: od.ShipOrderRequest, context: Any) -> od.Order:
        return self._moved("ShipOrder", request.id, od.ORDER_STATUS_SHIPPED, context)

    async def DeliverOrder(self, request: od.DeliverOrderRequest, context: Any) -> od.Order:
        return self._moved("DeliverOrder", request.id, od.ORDER_STATUS_DELIVERED, context)

    async def ListAllOrders(self, request: od.ListAllOrdersRequest, context: Any) -> od.ListOrdersResponse:
        self._called("ListAllOrders", context)
        return od.ListOrdersResponse(orders=list(self.placed.values()))

    def _called(self, method: str, context: Any) -> str:
        subject = current_principal().subject
        self.calls.append((method, subject))
        self.metadata.append({str(name): str(value) for name, value in context.invocation_metadata()})
        return subject

    def _own(self, id_: str, subject: str) -> od.Order:
        order = self._there(id_)
        if order.owner != subject:
            raise _no_such_order()
        return order

    def _moved(self, method: str, id_: str, status: od.OrderStatus.ValueType, context: Any) -> od.Order:
        self._called(method, context)
        order = self._there(id_)
        order.status, order.etag = status, order.etag + "1"
        return order

    def _there(self, id_: str) -> od.Order:
        if id_ not in self.placed:
            raise _no_such_order()
        return self.placed[id_]


def _no_such_order() -> ServiceError:
    return ServiceError(Kind.NOT_FOUND, "ORDER_NOT_FOUND", "There is no such order.")


class Notifications(notifications_pb2_grpc.NotificationsServiceServicer):
    """Inboxes that a test fills; subscribers are told."""

    def __init__(self) -> None:
        self.inboxes: dict[str, list[nt.Notification]] = {}
        self.wanted = nt.Preferences(order_emails=True, security_emails=True)
        self.subscriptions: list[tuple[str, int | None]] = []
        self._news = asyncio.Condition()

    async def tell(self, subject: str, title: str) -> None:
        """Adds one to somebody's inbox."""
        inbox = self.inboxes.setdefault(subject, [])
        one = nt.Notification(
            id=f"ntf_{len(inbox) + 1}", sequence=len(inbox) + 1, kind="ORDER_PLACED", category=nt.CATEGORY_ORDERS,
            title=title,
        )  # fmt: skip
        async with self._news:
            inbox.append(one)
            self._news.notify_all()

    async def List(self, request: nt.ListRequest, context: Any) -> nt.ListResponse:
        inbox = self.inboxes.get(current_principal().subject, [])
        unread = sum(not one.HasField("read_at") for one in inbox)
        return nt.ListResponse(notifications=reversed(inbox), unread_count=unread)

    async def MarkRead(self, request: nt.MarkReadRequest, context: Any) -> nt.Notification:
        for one in self.inboxes.get(current_principal().subject, []):
            if one.id == request.id:
                one.read_at.GetCurrentTime()
                return one
        raise ServiceError(Kind.NOT_FOUND, "NOTIFICATION_NOT_FOUND", "There is no such notification.")

    async def Subscribe(self, request: nt.SubscribeRequest, context: Any) -> AsyncIterator[nt.SubscribeResponse]:
        subject = current_principal().subject
        inbox = self.inboxes.setdefault(subject, [])
        after = request.after if request.HasField("after") else None
        self.subscriptions.append((subject, after))
        place = len(inbox) if after is None else after
        yield nt.SubscribeResponse(keep_alive=nt.KeepAlive(sequence=place))
        while True:
            async with self._news:
                while len(inbox) <= place:
                    await self._news.wait()
            for one in inbox[place:]:
                yield nt.SubscribeResponse(notification=one)
            place = len(inbox)

    async def GetPreferences(self, request: nt.GetPreferencesRequest, context: Any) -> nt.Preferences:
        return self.wanted

    async def SetPreferences(self, request: nt.SetPreferencesRequest, context: Any) -> nt.Preferences:
        self.wanted = request.preferences
        return self.wanted


async def _raise(error: RescindError, _context: Any) -> Any:
    raise error


@asynccontextmanager
async def serving(
    guard: Guard, rules: Mapping[str, str], register: Callable[[grpc.aio.Server], Any]
) -> AsyncIterator[str]:
    """A server that judges tokens as the real one does; where it listens."""
    scopes = {method: Rule(scope, staleness=BOUNDED(900)) for method, scope in rules.items()}
    admit = GuardInterceptor(guard, scopes, refuse=_raise)
    server = grpc.aio.server(interceptors=[Edge(Metrics()), admit], options=SERVER_OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
