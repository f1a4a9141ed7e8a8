"""Two processes of every service on one PostgreSQL and one Redis: each event once, pushes everywhere, rolling restarts.

The calls go through `servicekit.clients.channel`, which spreads them over both replicas.
"""

import asyncio
import contextlib
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import httpx2
import pytest
from sqlalchemy import create_engine, make_url, text

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from contracts.notifications.v1 import notifications_pb2, notifications_pb2_grpc
from contracts.orders.v1 import orders_pb2, orders_pb2_grpc
from contracts.session.v1 import sessions_pb2, sessions_pb2_grpc
from devstack.process import Process
from devstack.seeds import ALICE, IDENTITY, NOTIFICATIONS, ORDERS, PASSWORD, SESSION
from devstack.stack import Stack, free_port
from devstack.story import opened
from devstack.target import Part
from servicekit.clients import Calls, bearer, channel
from support.eventually import eventually
from support.system import START, a_stack, ready

WITHIN = 30.0  # seconds that anything may take on a busy machine
PAUSE = 0.1  # seconds between two calls of one kind: the processes that start need the processors, too
SERVICES: tuple[Part, ...] = ("identity", "orders", "notifications", "session")


class Second:
    """The second replica of a service, on ports that it keeps."""

    def __init__(self, stack: Stack, part: Part, web: httpx2.AsyncClient) -> None:
        self._stack = stack
        self._part = part
        self._web = web
        self._ports = {wire: free_port() for wire in ("HTTP", "GRPC", "METRICS")}
        self._process: Process | None = None
        self.grpc = f"127.0.0.1:{self._ports['GRPC']}"

    async def start(self) -> None:
        ports = {f"{self._part.upper()}_{wire}_PORT": str(port) for wire, port in self._ports.items()}
        command = [sys.executable, "-m", self._part]
        self._process = Process(self._part, command, self._stack.environment(self._part) | ports, lambda *_: None)
        await self._process.start()

        async def up() -> bool:
            said = await ready(self._web, f"http://127.0.0.1:{self._ports['HTTP']}")
            return bool(said.get("ready"))

        await eventually(up, within=START)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()


@dataclass(slots=True)
class Load:
    """Calls one after the other on each channel: how many went well, and what the others said."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    over: bool = False

    async def go_on(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        while not self.over:
            try:
                await call()
                self.answered[name] += 1
            except grpc.aio.AioRpcError as failure:
                self.failed.append(f"{name}: {failure.code().name} {failure.details()}")
            await asyncio.sleep(PAUSE)


@dataclass(slots=True)
class World:
    stack: Stack
    second: dict[Part, Second]
    tokens: dict[str, str]
    notifications_url: str
    held: AsyncExitStack

    async def channel(self, part: Part, *calls: Calls) -> grpc.aio.Channel:
        own = {
            "identity": self.stack.addresses.identity_grpc,
            "orders": self.stack.addresses.orders_grpc,
            "notifications": self.stack.addresses.notifications_grpc,
            "session": self.stack.addresses.session_grpc,
        }[part]
        return await self.held.enter_async_context(channel(f"{own},{self.second[part].grpc}", *calls))

    def told(self) -> Counter[str]:
        """How often each order was told."""
        engine = create_engine(self.notifications_url)
        try:
            with engine.connect() as tx:
                query = text("SELECT about FROM notifications WHERE kind = 'ORDER_PLACED'")
                return Counter(tx.execute(query).scalars())
        finally:
            engine.dispose()


@asynccontextmanager
async def _two_of_each(folder: Path, urls: dict[str, str]) -> AsyncIterator[World]:
    env = {f"{part.upper()}_DATABASE_URL": url for part, url in urls.items()}
    async with a_stack(folder, **env) as stack, opened(stack) as scene, AsyncExitStack() as held:  # type: ignore[arg-type]
        second = {}
        for part in SERVICES:
            second[part] = Second(stack, part, scene.web)
            held.push_async_callback(second[part].stop)
        await asyncio.gather(*(each.start() for each in second.values()))
        browser, mobile = scene.browser(), scene.client()
        scopes = {
            ORDERS: "openid orders:read orders:write",
            NOTIFICATIONS: "openid notifications:read",
            SESSION: "openid",
        }
        tokens = {
            resource: (await mobile.sign_in(browser, ALICE, PASSWORD, scope=scope, resource=resource)).access_token
            for resource, scope in scopes.items()
        }
        backoffice = await scene.client("backoffice").client_credentials(scope="identity:admin", resource=IDENTITY)
        tokens[IDENTITY] = backoffice.access_token
        yield World(stack, second, tokens, urls["notifications"], held)


async def _hear(address: str, token: str, begun: asyncio.Event, heard: list[str]) -> None:
    """Notes the orders that one live stream of one replica tells; sign-ins of before may be told late among them."""
    async with grpc.aio.insecure_channel(address) as straight:
        stub = notifications_pb2_grpc.NotificationsServiceStub(straight)
        async for event in stub.Subscribe(notifications_pb2.SubscribeRequest(), metadata=bearer(token)):
            begun.set()
            if event.notification.kind == "ORDER_PLACED":
                heard.append(event.notification.about)


@pytest.mark.docker
@pytest.mark.timeout(300)
async def test_each_event_once_pushes_to_both_and_a_rolling_restart_that_no_call_notices(
    tmp_path: Path, postgres_server_url: str, request: pytest.FixtureRequest
) -> None:
    urls = {part: _database(postgres_server_url, part, request) for part in ("identity", "orders", "notifications")}
    async with _two_of_each(tmp_path, urls) as world:
        orders_service = orders_pb2.DESCRIPTOR.services_by_name["OrdersService"].full_name
        notifications_service = notifications_pb2.DESCRIPTOR.services_by_name["NotificationsService"].full_name
        revocations_service = revocations_pb2.DESCRIPTOR.services_by_name["RevocationsService"].full_name
        sessions_service = sessions_pb2.DESCRIPTOR.services_by_name["SessionsService"].full_name
        # Creating is repeatable, too: every request has an id of its own.
        orders: Any = orders_pb2_grpc.OrdersServiceStub(
            await world.channel("orders", Calls(orders_service, {"CreateOrder", "ListOrders"}, deadline=WITHIN))
        )
        inbox: Any = notifications_pb2_grpc.NotificationsServiceStub(
            await world.channel("notifications", Calls(notifications_service, {"List"}, deadline=WITHIN))
        )
        identity: Any = revocations_pb2_grpc.RevocationsServiceStub(
            await world.channel("identity", Calls(revocations_service, {"GetStatus"}, deadline=WITHIN))
        )
        sessions: Any = sessions_pb2_grpc.SessionsServiceStub(
            await world.channel("session", Calls(sessions_service, {"List"}, deadline=WITHIN))
        )
        placed: list[str] = []

        async def place() -> None:
            request = orders_pb2.CreateOrderRequest(
                items=[orders_pb2.Item(sku="cup", quantity=1)], request_id=f"request-{len(placed):06}"
            )
            placed.append((await orders.CreateOrder(request, metadata=bearer(world.tokens[ORDERS]))).id)

        # A live push reaches the stream wherever it hangs, whoever handled the event.
        addresses = (world.stack.addresses.notifications_grpc, world.second["notifications"].grpc)
        heard: dict[str, list[str]] = {address: [] for address in addresses}
        begun = {address: asyncio.Event() for address in addresses}
        hearing = [
            asyncio.create_task(_hear(address, world.tokens[NOTIFICATIONS], begun[address], heard[address]))
            for address in addresses
        ]
        async with asyncio.timeout(WITHIN):
            for event in begun.values():
                await event.wait()
        sys.stdout.write("streams begun\n")
        for _ in range(20):
            await place()

        async def both_heard_all() -> bool:
            return all(len(each) >= len(placed) for each in heard.values())

        await eventually(both_heard_all, within=WITHIN)
        assert all(Counter(each) == Counter(placed) for each in heard.values()), heard
        for task in hearing:
            task.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)

        # One after the other is asked to end, and comes back, while calls go on without a pause.
        load = Load()
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "orders create": place,
            "orders list": lambda: orders.ListOrders(
                orders_pb2.ListOrdersRequest(page_size=5), metadata=bearer(world.tokens[ORDERS])
            ),
            "notifications list": lambda: inbox.List(
                notifications_pb2.ListRequest(page_size=5), metadata=bearer(world.tokens[NOTIFICATIONS])
            ),
            "session list": lambda: sessions.List(sessions_pb2.ListRequest(), metadata=bearer(world.tokens[SESSION])),
            "identity status": lambda: identity.GetStatus(
                revocations_pb2.GetStatusRequest(), metadata=bearer(world.tokens[IDENTITY])
            ),
        }
        callers = [asyncio.create_task(load.go_on(name, call)) for name, call in calls.items()]
        try:
            for part in SERVICES:
                before = load.answered.total()
                sys.stdout.write(f"{part} {load.answered} {load.failed[:5]}\n")
                await world.stack.restart(part)
                await world.second[part].stop()
                await world.second[part].start()
                assert load.answered.total() > before
        finally:
            load.over = True
            await asyncio.gather(*callers, return_exceptions=True)
        for caller in callers:
            caller.result()
        assert load.failed == []
        assert all(load.answered[name] > 20 for name in calls), load.answered

        async def all_told() -> bool:
            return len(await asyncio.to_thread(world.told)) == len(placed)

        with contextlib.suppress(AssertionError):
            await eventually(all_told, within=WITHIN)
        assert await asyncio.to_thread(world.told) == Counter(placed) == Counter(set(placed))


def _database(server_url: str, name: str, request: pytest.FixtureRequest) -> str:
    """A database of its own on the server that the tests share."""
    database = f"test_{name}_{secrets.token_hex(4)}"
    server = make_url(server_url).set(drivername="postgresql+psycopg")

    def run(statement: str) -> None:
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    run(f"CREATE DATABASE {database}")
    request.addfinalizer(lambda: run(f"DROP DATABASE {database} WITH (FORCE)"))
    return server.set(database=database).render_as_string(hide_password=False)
