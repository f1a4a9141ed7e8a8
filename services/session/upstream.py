"""The other services, called on behalf of the person of a session: these methods, and no others.

There is no generic forwarding: every method is named here with its types, its deadline and whether it may be repeated,
so no path, header or host of a browser's reaches anything that is not on the list. What a service answers is passed on
in its own words (`servicekit.clients.told`). Where it refuses our token, which is always known before it has done
anything, the call is made once more with a new one; unless it wants a newer sign-in, which is the person's to do.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc.aio

from contracts.identity.v1 import my_account_pb2 as my
from contracts.identity.v1 import my_account_pb2_grpc, revocations_pb2_grpc
from contracts.identity.v1 import revocations_pb2 as rv
from contracts.notifications.v1 import notifications_pb2 as nt
from contracts.notifications.v1 import notifications_pb2_grpc
from contracts.orders.v1 import orders_pb2 as od
from contracts.orders.v1 import orders_pb2_grpc
from rescind import Staleness, StepUpRequired
from servicekit.clients import Calls, bearer, channel, told
from servicekit.errors import Kind, ServiceError
from session.domain import IDENTITY, NOTIFICATIONS, ORDERS, Held
from session.token_handler import TokenHandler

T = TypeVar("T")
_ORDERS = Calls(
    "contracts.orders.v1.OrdersService",
    # CreateOrder only with a request_id, which the browser's Idempotency-Key becomes: it is not repeated here.
    repeatable={"GetOrder", "ListOrders", "ListProducts", "ListAllOrders"},
)
_NOTIFICATIONS = Calls(
    "contracts.notifications.v1.NotificationsService",
    repeatable={"List", "MarkRead", "GetPreferences", "SetPreferences"},
    deadlines={"Subscribe": None},
)
_MY_ACCOUNT = Calls(
    "contracts.identity.v1.MyAccountService",
    repeatable={"ListMySessions", "EndMySessions", "WithdrawMyGrant"},
    # Taking back is worth waiting for: whoever gave up too early would not know whether it was done.
    deadlines={"EndMySessions": 10.0, "WithdrawMyGrant": 10.0},
)
_REVOCATIONS = Calls("contracts.identity.v1.RevocationsService", repeatable={"GetStatus"})


def reauthentication_required() -> ServiceError:
    """What the web app answers by sending the person to sign in again."""
    return ServiceError(Kind.FORBIDDEN, "REAUTHENTICATION_REQUIRED", "Sign in again first, at /auth/reauthenticate.")


class Upstream:
    """Orders, notifications and identity. Connects when first used."""

    def __init__(self, tokens: TokenHandler, *, orders: str, notifications: str, identity: str) -> None:
        self._tokens = tokens
        self._channels = (
            channel(orders, _ORDERS),
            channel(notifications, _NOTIFICATIONS),
            channel(identity, _MY_ACCOUNT, _REVOCATIONS),
        )
        # Typed at each use: the generated stubs are the synchronous server's for the type checker.
        self._orders: Any = orders_pb2_grpc.OrdersServiceStub(self._channels[0])
        self._notifications: Any = notifications_pb2_grpc.NotificationsServiceStub(self._channels[1])
        self._my_account: Any = my_account_pb2_grpc.MyAccountServiceStub(self._channels[2])
        self._revocations: Any = revocations_pb2_grpc.RevocationsServiceStub(self._channels[2])

    async def aclose(self) -> None:
        """Closes the channels."""
        for one in self._channels:
            await one.close()

    # Orders

    async def products(self, held: Held, request: od.ListProductsRequest, how: Staleness) -> od.ListProductsResponse:
        """What can be ordered."""
        return await self._call(held, ORDERS, self._orders.ListProducts, request, how, od.ListProductsResponse)

    async def create_order(self, held: Held, request: od.CreateOrderRequest, how: Staleness) -> od.Order:
        """Places an order."""
        return await self._call(held, ORDERS, self._orders.CreateOrder, request, how, od.Order)

    async def order(self, held: Held, request: od.GetOrderRequest, how: Staleness) -> od.Order:
        """One order."""
        return await self._call(held, ORDERS, self._orders.GetOrder, request, how, od.Order)

    async def orders(self, held: Held, request: od.ListOrdersRequest, how: Staleness) -> od.ListOrdersResponse:
        """The person's own."""
        return await self._call(held, ORDERS, self._orders.ListOrders, request, how, od.ListOrdersResponse)

    async def cancel_order(self, held: Held, request: od.CancelOrderRequest, how: Staleness) -> od.Order:
        """Cancels an order."""
        return await self._call(held, ORDERS, self._orders.CancelOrder, request, how, od.Order)

    async def all_orders(self, held: Held, request: od.ListAllOrdersRequest, how: Staleness) -> od.ListOrdersResponse:
        """Everybody's."""
        return await self._call(held, ORDERS, self._orders.ListAllOrders, request, how, od.ListOrdersResponse)

    async def confirm_order(self, held: Held, request: od.ConfirmOrderRequest, how: Staleness) -> od.Order:
        """Accepts an order."""
        return await self._call(held, ORDERS, self._orders.ConfirmOrder, request, how, od.Order)

    async def ship_order(self, held: Held, request: od.ShipOrderRequest, how: Staleness) -> od.Order:
        """Sends an order on its way."""
        return await self._call(held, ORDERS, self._orders.ShipOrder, request, how, od.Order)

    async def deliver_order(self, held: Held, request: od.DeliverOrderRequest, how: Staleness) -> od.Order:
        """Says that an order arrived."""
        return await self._call(held, ORDERS, self._orders.DeliverOrder, request, how, od.Order)

    # Notifications

    async def inbox(self, held: Held, request: nt.ListRequest, how: Staleness) -> nt.ListResponse:
        """The person's inbox."""
        return await self._call(held, NOTIFICATIONS, self._notifications.List, request, how, nt.ListResponse)

    async def mark_read(self, held: Held, request: nt.MarkReadRequest, how: Staleness) -> nt.Notification:
        """Marks one as read."""
        return await self._call(held, NOTIFICATIONS, self._notifications.MarkRead, request, how, nt.Notification)

    async def preferences(self, held: Held, how: Staleness) -> nt.Preferences:
        """Which e-mails the person wants."""
        request = nt.GetPreferencesRequest()
        return await self._call(held, NOTIFICATIONS, self._notifications.GetPreferences, request, how, nt.Preferences)

    async def set_preferences(self, held: Held, request: nt.SetPreferencesRequest, how: Staleness) -> nt.Preferences:
        """Changes that."""
        return await self._call(held, NOTIFICATIONS, self._notifications.SetPreferences, request, how, nt.Preferences)

    def subscribe(self, token: str, after: int | None) -> Any:
        """The call that brings new notifications as they come; the caller reads it and cancels it."""
        return self._notifications.Subscribe(nt.SubscribeRequest(after=after), metadata=bearer(token))

    # Identity

    async def my_sessions(self, held: Held, how: Staleness) -> my.ListMySessionsResponse:
        """The person's login sessions, with the apps that hang on them."""
        request = my.ListMySessionsRequest()
        return await self._call(
            held, IDENTITY, self._my_account.ListMySessions, request, how, my.ListMySessionsResponse
        )

    async def end_my_sessions(
        self, held: Held, request: my.EndMySessionsRequest, how: Staleness
    ) -> my.EndMySessionsResponse:
        """Signs out at identity: one, others, everywhere."""
        return await self._call(held, IDENTITY, self._my_account.EndMySessions, request, how, my.EndMySessionsResponse)

    async def withdraw_my_grant(self, held: Held, gid: str, how: Staleness) -> my.WithdrawMyGrantResponse:
        """Takes an app's access back."""
        request = my.WithdrawMyGrantRequest(gid=gid)
        return await self._call(
            held, IDENTITY, self._my_account.WithdrawMyGrant, request, how, my.WithdrawMyGrantResponse
        )

    async def status(self, held: Held, position: int, how: Staleness) -> rv.GetStatusResponse:
        """Where the revocation log stands, and who has applied `position`."""
        request = rv.GetStatusRequest(position=position)
        return await self._call(held, IDENTITY, self._revocations.GetStatus, request, how, rv.GetStatusResponse)

    async def revoke(self, held: Held, request: rv.RevokeRequest, how: Staleness) -> rv.RevokeResponse:
        """Takes something back, anybody's."""
        return await self._call(held, IDENTITY, self._revocations.Revoke, request, how, rv.RevokeResponse)

    async def _call(
        self,
        held: Held,
        audience: str,
        method: Callable[..., Any],
        request: Any,
        how: Staleness,
        _answer: type[T],
    ) -> T:
        granted = await self._tokens.token_for(held, audience, staleness=how)
        answer: T
        try:
            answer = await self._once(method, request, granted.token)
            return answer
        except ServiceError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
        again = await self._tokens.token_for(held, audience, staleness=how, refused=granted.token)
        try:
            answer = await self._once(method, request, again.token)
            return answer
        except ServiceError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
            # Identity just gave it and the service will not have it: that is between the two, not the browser's doing.
            raise ServiceError(
                Kind.UNAVAILABLE, "UPSTREAM_REFUSED_TOKEN", "The service does not accept us yet.", retry_after=1.0
            ) from error

    @staticmethod
    async def _once(method: Callable[..., Any], request: Any, token: str) -> Any:
        try:
            return await method(request, metadata=bearer(token))
        except grpc.aio.AioRpcError as failure:
            error = told(failure)
            if error.reason == StepUpRequired.reason:
                raise reauthentication_required() from failure
            raise error from failure
