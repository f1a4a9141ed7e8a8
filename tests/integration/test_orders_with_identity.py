"""Orders as it is deployed, beside a real identity and a real Redis: what is taken back there is refused here."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx2
import pytest

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from devstack.flow import Browser, OAuthClient, Tokens
from identity.app import assemble
from identity.app import build as build_identity
from orders.app import build as build_orders
from orders.settings import Settings
from servicekit.lifecycle import Ports, Service, serve
from support.eventually import eventually
from support.identity_front import ALICE, IDENTITY, LOOPBACK, ORDERS, PASSWORD, front_settings, quick_passwords, seed
from support.orders_wires import GrpcWire, HttpWire, Refused, Wire, stock


@dataclass
class System:
    """Both services, running, and a client's way to each."""

    issuer: str
    wires: tuple[Wire, Wire]
    client: httpx2.AsyncClient
    revocations: Any
    orders: Service
    orders_url: str
    metrics_url: str

    async def sign_in(self) -> Tokens:
        """Alice's tokens for orders, through the front door."""
        mobile = OAuthClient(self.client, self.issuer, "mobile", redirect_uri=LOOPBACK)
        browser = Browser(self.client, self.issuer)
        return await mobile.sign_in(browser, ALICE, PASSWORD, scope="openid orders:read orders:write", resource=ORDERS)

    async def revoke(self, **target: Any) -> None:
        """Takes something back, as the back office does."""
        backoffice = OAuthClient(self.client, self.issuer, "backoffice", secret="backoffice-secret")
        token = (await backoffice.client_credentials(resource=IDENTITY)).access_token
        request = revocations_pb2.RevokeRequest(cause="TEST", **target)
        await self.revocations.Revoke(request, metadata=(("authorization", f"Bearer {token}"),), timeout=5)


@asynccontextmanager
async def _serving(service: Service) -> AsyncIterator[Ports]:
    up: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(service, started=up.set_result))
    await asyncio.wait({up, task}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        yield up.result()
    finally:
        service.stop()
        await task


@pytest.fixture
async def system(tmp_path: Path, redis_url: str) -> AsyncIterator[System]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    issuer = f"http://localhost:{port}"
    async with AsyncExitStack() as stack:
        parts = assemble(
            front_settings(
                f"sqlite:///{tmp_path / 'identity.db'}",
                issuer=issuer,
                redis_url=redis_url,
                publish_wait_ms=250,
                http_port=port,
            ),
            passwords=quick_passwords(),
        )
        await parts.found()
        await seed(parts)
        identity = await stack.enter_async_context(_serving(build_identity(parts.settings, parts=parts)))
        settings: Any = {
            "database_url": f"sqlite:///{tmp_path / 'orders.db'}",
            "redis_url": redis_url,
            "issuer": issuer,
            "identity_url": issuer,
            "identity_grpc": f"127.0.0.1:{identity.grpc}",
            "client_secret": "orders-secret",
            "http_port": 0,
            "grpc_port": 0,
            "metrics_port": 0,
        }
        service = build_orders(Settings(**settings))
        await stock(settings["database_url"])
        orders = await stack.enter_async_context(_serving(service))
        url = f"http://127.0.0.1:{orders.http}"
        client = await stack.enter_async_context(httpx2.AsyncClient())
        at_orders = await stack.enter_async_context(httpx2.AsyncClient(base_url=url))
        to_orders, to_identity = [
            await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            for port in (orders.grpc, identity.grpc)
        ]
        stub = revocations_pb2_grpc.RevocationsServiceStub(to_identity)
        metrics_url = f"http://127.0.0.1:{orders.metrics}/metrics"
        system = System(issuer, (HttpWire(at_orders), GrpcWire(to_orders)), client, stub, service, url, metrics_url)

        async def ready() -> bool:
            return service.ready().ready

        await eventually(ready, within=10)
        yield system


async def _refused(wire: Wire, token: str) -> Refused:
    """The first refusal, of however many calls."""
    async with asyncio.timeout(5):
        while True:
            try:
                await wire.list_own(token)
            except Refused as refused:
                return refused


@pytest.mark.requirement(21)
async def test_a_session_that_was_ended_is_refused_by_a_service_that_asks_nobody(system: System) -> None:
    tokens = await system.sign_in()
    for wire in system.wires:
        order = await wire.create(tokens.access_token, [("cup", 1)])
        assert (await wire.get(tokens.access_token, order["id"])) == order
    await system.revoke(subject=order["owner"])
    for wire in system.wires:
        refused = await _refused(wire, tokens.access_token)
        assert refused.reason == "TOKEN_REVOKED"
    again = await system.sign_in()
    assert len((await system.wires[0].list_own(again.access_token))["orders"]) == 2
    ready = (await system.client.get(f"{system.orders_url}/readyz")).json()
    assert (ready["freshness"], ready["position"]) == ("FRESH", 1)
    metrics = (await system.client.get(system.metrics_url)).text
    assert 'rescind_denylist_entries{kind="subject"} 1.0' in metrics
    assert "rescind_propagation_seconds_count 1.0" in metrics
    assert 'rescind_verifications_total{outcome="TOKEN_REVOKED"}' in metrics


async def test_a_soft_revocation_asks_the_holder_to_refresh(system: System) -> None:
    tokens = await system.sign_in()
    http, _ = system.wires
    owner = (await http.create(tokens.access_token, [("cup", 1)]))["owner"]
    await system.revoke(subject=owner, soft=True)
    assert (await _refused(http, tokens.access_token)).reason == "TOKEN_STALE"


async def test_a_token_for_identity_is_worthless_at_orders(system: System) -> None:
    backoffice = OAuthClient(system.client, system.issuer, "backoffice", secret="backoffice-secret")
    token = (await backoffice.client_credentials(resource=IDENTITY)).access_token
    for wire in system.wires:
        assert (await _refused(wire, token)).reason == "TOKEN_UNTRUSTED"
