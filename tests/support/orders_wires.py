"""Orders over both wires behind one face, so that one suite says what both must do.

Tokens are really signed and really verified: `mint` is the issuer, `log` its revocations.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import grpc
import grpc.aio
import httpx2
from google.rpc import error_details_pb2, status_pb2

from contracts.orders.v1 import orders_pb2 as pb
from contracts.orders.v1 import orders_pb2_grpc
from orders.app import AUDIENCE, NAME, build
from orders.settings import Settings
from rescind import Guard
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard
from servicekit.lifecycle import Service
from servicekit.migrations import migrate
from servicekit.rpc import CHANNEL_OPTIONS, DETAILS_KEY
from servicekit.verification import Verification

BOTH = "orders:read orders:write"
Items = Sequence[tuple[str, int]]


@dataclass(eq=False)
class Refused(Exception):
    """An answer that is no order, in the words that both wires share."""

    reason: str
    http: int | None = None
    code: grpc.StatusCode | None = None
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


class Wire(Protocol):
    """What can be done with orders. `token` may be anything; empty means none."""

    async def create(self, token: str, items: Items, key: str = "") -> dict[str, Any]: ...
    async def get(self, token: str, order_id: str) -> dict[str, Any]: ...
    async def list_own(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]: ...
    async def cancel(self, token: str, order_id: str) -> dict[str, Any]: ...


class HttpWire:
    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def create(self, token: str, items: Items, key: str = "") -> dict[str, Any]:
        body = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in items]}
        headers = {"idempotency-key": key} if key else {}
        return self._read(await self.client.post("/v1/orders", json=body, headers=_bearer(token) | headers), 201)

    async def get(self, token: str, order_id: str) -> dict[str, Any]:
        return self._read(await self.client.get(f"/v1/orders/{order_id}", headers=_bearer(token)))

    async def list_own(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]:
        query: dict[str, Any] = {}
        if page_size:
            query["page_size"] = page_size
        if page_token:
            query["page_token"] = page_token
        return self._read(await self.client.get("/v1/orders", params=query, headers=_bearer(token)))

    async def cancel(self, token: str, order_id: str) -> dict[str, Any]:
        return self._read(await self.client.post(f"/v1/orders/{order_id}/cancel", headers=_bearer(token)))

    @staticmethod
    def _read(response: httpx2.Response, status: int = 200) -> dict[str, Any]:
        body: dict[str, Any] = response.json()
        if response.status_code == status:
            return body
        assert response.headers["content-type"] == "application/problem+json", response.text
        raise Refused(
            body["reason"], http=response.status_code, headers=dict(response.headers), fields=body.get("fields", {})
        )


class GrpcWire:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: Any = orders_pb2_grpc.OrdersServiceStub(channel)

    async def create(self, token: str, items: Items, key: str = "") -> dict[str, Any]:
        wanted = [pb.Item(sku=sku, quantity=quantity) for sku, quantity in items]
        return _order(await self._call("CreateOrder", pb.CreateOrderRequest(items=wanted, request_id=key), token))

    async def get(self, token: str, order_id: str) -> dict[str, Any]:
        return _order(await self._call("GetOrder", pb.GetOrderRequest(id=order_id), token))

    async def list_own(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]:
        request = pb.ListOrdersRequest(page_size=page_size, page_token=page_token)
        page = await self._call("ListOrders", request, token)
        return {"orders": [_order(order) for order in page.orders], "next_page_token": page.next_page_token}

    async def cancel(self, token: str, order_id: str) -> dict[str, Any]:
        return _order(await self._call("CancelOrder", pb.CancelOrderRequest(id=order_id), token))

    async def _call(self, method: str, request: Any, token: str) -> Any:
        metadata = tuple(_bearer(token).items())
        try:
            return await getattr(self.stub, method)(request, metadata=metadata, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise refused_by_grpc(error) from None


def refused_by_grpc(error: grpc.aio.AioRpcError) -> Refused:
    """The refusal in a status that carries ErrorInfo, as every one of ours does."""
    details = dict(error.trailing_metadata()).get(DETAILS_KEY)
    assert isinstance(details, bytes), f"no rich status: {error.code()} {error.details()}"
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(details).details:
        detail.Unpack(info)
        detail.Unpack(bad)
    fields = {violation.field: violation.description for violation in bad.field_violations}
    return Refused(info.reason, code=error.code(), fields=fields)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _order(order: Any) -> dict[str, Any]:
    """A gRPC order in REST's words."""
    status = {pb.ORDER_STATUS_PLACED: "placed", pb.ORDER_STATUS_CANCELLED: "cancelled"}[order.status]
    return {
        "id": order.id,
        "owner": order.owner,
        "status": status,
        "items": [{"sku": item.sku, "quantity": item.quantity} for item in order.items],
        "created_at": f"{order.created_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        "updated_at": f"{order.updated_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
    }


@dataclass
class OrdersUnderTest:
    """A whole orders service without sockets for HTTP, with one for gRPC."""

    service: Service
    mint: TokenMint
    log: MemoryLog
    verification: Verification
    http: HttpWire
    grpc: GrpcWire

    def wire(self, name: Literal["http", "grpc"]) -> Wire:
        """The wire of that name."""
        return self.http if name == "http" else self.grpc

    def token(self, person: str = "usr_alice", scope: str = BOTH, **claims: Any) -> str:
        """A good token for orders."""
        return self.mint.access_token(AUDIENCE, scope=scope, sub=person, **claims)

    def revoke(self, *entries: Entry) -> None:
        """Takes back, and pushes to this service."""
        self.verification.guard.feed.receive(self.log.revoke(*entries))


@asynccontextmanager
async def orders_under_test(
    database_url: str, *, mint: TokenMint | None = None, log: MemoryLog | None = None, guard: Guard | None = None
) -> AsyncIterator[OrdersUnderTest]:
    """Orders on a database, trusting an issuer in memory; with a `guard` that knows everything, unless one is given."""
    mint = mint or TokenMint()
    log = log or MemoryLog(mint)
    guard = guard or await fresh_guard(mint, AUDIENCE, log)

    async def nothing() -> None:
        """There is no connection to close."""

    verification = Verification(guard, nothing)
    settings = Settings(database_url=database_url, redis_url="redis://127.0.0.1:1", client_secret="unused")  # type: ignore[arg-type]
    migrate(database_url, NAME)
    service = build(settings, verification=verification)
    server, _ = service.grpc_server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    transport = httpx2.ASGITransport(service.http, raise_app_exceptions=False)
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://orders") as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel,
    ):
        yield OrdersUnderTest(service, mint, log, verification, HttpWire(client), GrpcWire(channel))
    await server.stop(None)
    for close in service.on_stop:
        await close()
