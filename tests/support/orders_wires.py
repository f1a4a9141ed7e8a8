"""Orders over both wires behind one face, so that one suite says what both must do.

Tokens are really signed and really verified: `mint` is the issuer, `log` its revocations.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import grpc
import grpc.aio
import httpx2
import pytest
from google.rpc import error_details_pb2, status_pb2
from sqlalchemy import Connection

from contracts.orders.v1 import orders_pb2 as pb
from contracts.orders.v1 import orders_pb2_grpc
from contracts.orders.v1.money_pb2 import Money
from eventlog import Stream
from eventlog.memory_stream import MemoryStream
from orders import storage
from orders.app import AUDIENCE, NAME, build
from orders.commands import Catalogue
from orders.events import STREAM
from orders.settings import Settings
from orders.wakeups import MemoryWakeups, Wakeups
from rescind import Guard
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard
from servicekit.database import Database
from servicekit.lifecycle import Service
from servicekit.migrations import migrate
from servicekit.rpc import CHANNEL_OPTIONS, DETAILS_KEY
from servicekit.verification import Verification

BOTH = "orders:read orders:write"
ADMIN = f"{BOTH} orders:admin"
CATALOGUE = Path(__file__).parents[2] / "deploy" / "catalogue.json"
Items = Sequence[tuple[str, int]]


@dataclass(eq=False)
class Refused(Exception):
    """An answer that is no order, in the words that both wires share."""

    reason: str
    http: int | None = None
    code: grpc.StatusCode | None = None
    headers: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)


async def refusal_of(call: Awaitable[Any]) -> Refused:
    """The refusal of a call that must be refused."""
    with pytest.raises(Refused) as refused:
        await call
    return refused.value


def assert_refused(refused: Refused, reason: str, http: int, code: grpc.StatusCode) -> None:
    """For this reason, with the status of whichever wire it was."""
    assert refused.reason == reason
    assert (refused.http, refused.code) in ((http, None), (None, code))


class Wire(Protocol):
    """What can be done with orders. `token` may be anything; empty means none."""

    async def create(self, token: str, items: Items, key: str = "") -> dict[str, Any]: ...
    async def get(self, token: str, order_id: str) -> dict[str, Any]: ...
    async def list_own(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]: ...
    async def cancel(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]: ...
    async def confirm(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]: ...
    async def ship(self, token: str, order_id: str, number: str = "", etag: str = "") -> dict[str, Any]: ...
    async def deliver(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]: ...
    async def list_all(
        self, token: str, page_size: int = 0, page_token: str = "", statuses: Sequence[str] = ()
    ) -> dict[str, Any]: ...
    async def products(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]: ...
    async def put(self, token: str, product: dict[str, Any], etag: str = "") -> dict[str, Any]: ...


class HttpWire:
    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client

    async def create(self, token: str, items: Items, key: str = "") -> dict[str, Any]:
        body = {"items": [{"sku": sku, "quantity": quantity} for sku, quantity in items]}
        headers = {"idempotency-key": key} if key else {}
        return self._read(await self.client.post("/v1/orders", json=body, headers=_bearer(token) | headers), 201)

    async def get(self, token: str, order_id: str) -> dict[str, Any]:
        response = await self.client.get(f"/v1/orders/{order_id}", headers=_bearer(token))
        order = self._read(response)
        assert response.headers["etag"] == order["etag"]
        return order

    async def list_own(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]:
        return await self._page("/v1/orders", token, page_size, page_token)

    async def cancel(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return await self._post(token, f"{order_id}/cancel", etag)

    async def confirm(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return await self._post(token, f"{order_id}/confirm", etag)

    async def ship(self, token: str, order_id: str, number: str = "", etag: str = "") -> dict[str, Any]:
        return await self._post(token, f"{order_id}/ship", etag, json={"tracking_number": number} if number else None)

    async def deliver(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return await self._post(token, f"{order_id}/deliver", etag)

    async def list_all(
        self, token: str, page_size: int = 0, page_token: str = "", statuses: Sequence[str] = ()
    ) -> dict[str, Any]:
        return await self._page("/v1/admin/orders", token, page_size, page_token, status=",".join(statuses))

    async def products(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]:
        return await self._page("/v1/products", token, page_size, page_token)

    async def put(self, token: str, product: dict[str, Any], etag: str = "") -> dict[str, Any]:
        body = {name: value for name, value in product.items() if name != "sku"}
        headers = _bearer(token) | ({"if-match": etag} if etag else {})
        response = await self.client.put(f"/v1/products/{product['sku']}", json=body, headers=headers)
        return self._read(response, 201 if response.status_code == 201 else 200)

    async def _post(self, token: str, path: str, etag: str, **body: Any) -> dict[str, Any]:
        headers = _bearer(token) | ({"if-match": etag} if etag else {})
        return self._read(await self.client.post(f"/v1/orders/{path}", headers=headers, **body))

    async def _page(self, path: str, token: str, page_size: int, page_token: str, **more: str) -> dict[str, Any]:
        given = {"page_size": page_size, "page_token": page_token, **more}
        query = {name: value for name, value in given.items() if value}
        return self._read(await self.client.get(path, params=query, headers=_bearer(token)))

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
        return _orders(await self._call("ListOrders", request, token))

    async def cancel(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return _order(await self._call("CancelOrder", pb.CancelOrderRequest(id=order_id, etag=etag), token))

    async def confirm(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return _order(await self._call("ConfirmOrder", pb.ConfirmOrderRequest(id=order_id, etag=etag), token))

    async def ship(self, token: str, order_id: str, number: str = "", etag: str = "") -> dict[str, Any]:
        request = pb.ShipOrderRequest(id=order_id, etag=etag, tracking_number=number)
        return _order(await self._call("ShipOrder", request, token))

    async def deliver(self, token: str, order_id: str, etag: str = "") -> dict[str, Any]:
        return _order(await self._call("DeliverOrder", pb.DeliverOrderRequest(id=order_id, etag=etag), token))

    async def list_all(
        self, token: str, page_size: int = 0, page_token: str = "", statuses: Sequence[str] = ()
    ) -> dict[str, Any]:
        numbers = [pb.OrderStatus.Value(f"ORDER_STATUS_{status.upper()}") for status in statuses]
        request = pb.ListAllOrdersRequest(page_size=page_size, page_token=page_token, statuses=numbers)
        return _orders(await self._call("ListAllOrders", request, token))

    async def products(self, token: str, page_size: int = 0, page_token: str = "") -> dict[str, Any]:
        request = pb.ListProductsRequest(page_size=page_size, page_token=page_token)
        page = await self._call("ListProducts", request, token)
        return {"products": [_product(each) for each in page.products], "next_page_token": page.next_page_token}

    async def put(self, token: str, product: dict[str, Any], etag: str = "") -> dict[str, Any]:
        wanted = pb.Product(**product | {"price": Money(**product["price"])}, etag=etag)
        return _product(await self._call("PutProduct", pb.PutProductRequest(product=wanted), token))

    def watch(self, token: str, **options: Any) -> Any:
        """The stream of WatchOrders."""
        return self.stub.WatchOrders(pb.WatchOrdersRequest(), metadata=tuple(_bearer(token).items()), **options)

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
    return {
        "id": order.id,
        "owner": order.owner,
        "status": pb.OrderStatus.Name(order.status).removeprefix("ORDER_STATUS_").lower(),
        "items": [
            {"sku": i.sku, "quantity": i.quantity, "name": i.name, "unit_price": _money(i, "unit_price")}
            for i in order.items
        ],
        "total": _money(order, "total"),
        "tracking_number": order.tracking_number,
        "created_at": f"{order.created_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        "updated_at": f"{order.updated_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        "etag": order.etag,
    }


def _orders(page: Any) -> dict[str, Any]:
    return {"orders": [_order(order) for order in page.orders], "next_page_token": page.next_page_token}


def _product(product: Any) -> dict[str, Any]:
    price = _money(product, "price")
    return {name: getattr(product, name) for name in ("sku", "name", "stock", "etag")} | {"price": price}


def _money(message: Any, field: str) -> dict[str, Any] | None:
    if not message.HasField(field):
        return None
    amount = getattr(message, field)
    return {"minor_units": amount.minor_units, "currency": amount.currency}


@dataclass
class OrdersUnderTest:
    """A whole orders service without sockets for HTTP, with one for gRPC."""

    service: Service
    mint: TokenMint
    log: MemoryLog
    verification: Verification
    http: HttpWire
    grpc: GrpcWire
    database: Database
    stream: Stream

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
    database_url: str,
    *,
    mint: TokenMint | None = None,
    log: MemoryLog | None = None,
    guard: Guard | None = None,
    stream: Stream | None = None,
    wakeups: Wakeups | None = None,
    background: bool = False,
) -> AsyncIterator[OrdersUnderTest]:
    """Orders on a database, trusting an issuer in memory; with a `guard` that knows everything, unless one is given.

    The shop of the demo is open. `background`: the relay and the watches run, as in a process.
    """
    mint = mint or TokenMint()
    log = log or MemoryLog(mint)
    guard = guard or await fresh_guard(mint, AUDIENCE, log)

    async def nothing() -> None:
        """There is no connection to close."""

    verification = Verification(guard, nothing)
    settings = Settings(database_url=database_url, redis_url="redis://127.0.0.1:1", client_secret="unused")  # type: ignore[arg-type]
    database = Database(database_url)
    # Quicker than the migrations, which lead to the same tables: tests/contract/test_orders_storage.py.
    await database.run(storage.metadata.create_all)
    await database.run(_stocked)
    stream = stream or MemoryStream(STREAM)
    service = build(
        settings, verification=verification, database=database, stream=stream, wakeups=wakeups or MemoryWakeups([])
    )
    server, _ = service.grpc_server()
    port = server.add_insecure_port("127.0.0.1:0")
    transport = httpx2.ASGITransport(service.http, raise_app_exceptions=False)
    async with AsyncExitStack() as stack:
        for close in reversed(service.on_stop):
            stack.push_async_callback(close)
        works = service.background[1:] if background else ()  # the first is the guard's, which has its own world here
        tasks = [asyncio.ensure_future(work()) for work in works]
        stack.push_async_callback(_cancelled, tasks)
        await server.start()
        stack.push_async_callback(server.stop, None)
        client = httpx2.AsyncClient(transport=transport, base_url="http://orders")
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)
        http = HttpWire(await stack.enter_async_context(client))
        wire = GrpcWire(await stack.enter_async_context(channel))
        yield OrdersUnderTest(service, mint, log, verification, http, wire, database, stream)


async def stock(database_url: str) -> None:
    """Puts the demo's catalogue into a database of orders, as `python -m orders seed` does."""
    await asyncio.to_thread(migrate, database_url, NAME)
    database = Database(database_url)
    await database.run(_stocked)
    await database.dispose()


def _stocked(tx: Connection) -> None:
    for product in Catalogue.model_validate_json(CATALOGUE.read_text()).checked():
        storage.add_product(tx, product)


async def _cancelled(tasks: Sequence["asyncio.Future[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
