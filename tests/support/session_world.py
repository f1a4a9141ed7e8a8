"""Session as it is deployed, on real sockets: beside a real identity, a real Valkey, and peers of the contracts.

A test holds two levers: the clock of the session service (`ahead`, which the tokens' own clocks do not follow), and the
wire to identity (`wire`), which counts what is asked and can be cut.
"""

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import grpc.aio
import httpx2
from redis.asyncio import Redis
from sqlalchemy import select

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from contracts.notifications.v1 import notifications_pb2_grpc
from contracts.orders.v1 import orders_pb2_grpc
from devstack.client_key import FILE, public_jwks
from devstack.flow import OAuthClient
from devstack.seeds import client_secret, seeds_json
from identity.app import Parts, assemble
from identity.app import build as build_identity
from identity.seeds import Seeds, sow
from identity.storage import users
from servicekit.lifecycle import Ports, Service, serve
from servicekit.metrics import Metrics
from servicekit.verification import VerifierSettings, connect
from session.app import Hands
from session.app import build as build_session
from session.settings import Settings
from support.eventually import eventually
from support.identity_front import _keys_drawn_in_turn, front_settings, quick_passwords
from support.schemas import prepare
from support.session_peers import NOTIFICATION_RULES, ORDER_RULES, Notifications, Orders, serving
from support.session_window import Window

# The client `web` has a secret and, as in the demos, a key. The secret is shown where a test does not ask for the key.
WEB_KEY = (Path(__file__).parents[2] / "deploy" / FILE).read_text()
KEY = "k1:" + base64.b64encode(b"s" * 32).decode()


Answer = Callable[[httpx2.Response], httpx2.Response]  # what comes instead of a token response


class Wire(httpx2.AsyncBaseTransport):
    """The way to identity: remembers what was asked, and breaks on command."""

    def __init__(self) -> None:
        self._inner = httpx2.AsyncHTTPTransport()
        self.forms: list[dict[str, str]] = []
        self.cut = False
        self.cut_at: frozenset[str] = frozenset()  # these paths alone are cut
        self.lost_at: frozenset[str] = frozenset()  # what is asked here arrives, and no answer comes back
        self.answer: Answer | None = None

    def reset(self) -> None:
        """Mends it."""
        self.forms.clear()
        self.cut, self.cut_at, self.lost_at, self.answer = False, frozenset(), frozenset(), None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if self.cut or path in self.cut_at:
            raise httpx2.ConnectError("cut", request=request)
        if path in self.lost_at:
            await (await self._inner.handle_async_request(request)).aread()
            raise httpx2.ReadError("the answer is lost", request=request)
        if path == "/token":
            self.forms.append(dict(parse_qsl(request.content.decode())))
            if self.answer is not None:
                answer = await self._inner.handle_async_request(request)
                await answer.aread()
                return self.answer(answer)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        """Nothing: a replica that stops must not close what the others use. The world does, with `close`."""

    async def close(self) -> None:
        await self._inner.aclose()

    def refreshes(self, audience: str = "") -> int:
        """How many refreshes were asked for, for this audience or any."""
        return sum(form["grant_type"] == "refresh_token" and audience in ("", form["resource"]) for form in self.forms)


@dataclass
class World:
    """Everything, running."""

    issuer: str
    origin: str
    parts: Parts
    identity: Service
    session: Service
    ports: Ports
    settings: Settings
    wire: Wire
    orders: Orders
    notifications: Notifications
    redis: "Redis"
    http: httpx2.AsyncClient
    stack: AsyncExitStack
    identity_grpc: str
    ahead: int = field(default=0)  # ms
    hands: Hands = field(default_factory=Hands)

    def now(self) -> int:
        """The session service's clock."""
        return time.time_ns() // 1_000_000 + self.ahead

    def forward(self, seconds: float) -> None:
        """Moves it."""
        self.ahead += round(seconds * 1000)

    def window(self, replica: str = "") -> Window:
        """A new browser."""
        return Window(self.http, self.origin, self.issuer, replica)

    def subject(self, email: str) -> str:
        """Whose it is."""
        query = select(users.c.id).where(users.c.email == email)
        return str(self.parts.database.run_sync(lambda tx: tx.execute(query).scalar_one()))

    async def another(self, *, finishes: bool = True, **changes: Any) -> tuple[Service, str]:
        """Another replica, and where it listens; it runs as long as this world.

        `finishes`: whether it also finishes the sign-outs that are pending.
        """
        values = self.settings.model_dump() | {"http_port": 0} | changes
        hands = self.hands if finishes else replace(self.hands, finish_every=3600)
        service = build_session(Settings(**values), hands=hands)
        ports = await self.stack.enter_async_context(running(service))
        return service, f"http://127.0.0.1:{ports.http}"

    async def revoke(self, **target: Any) -> Any:
        """Takes something back, as the back office does."""
        backoffice = OAuthClient(self.http, self.issuer, "backoffice", secret=client_secret("backoffice"))
        token = (await backoffice.client_credentials(resource="urn:rescind:identity")).access_token
        target.setdefault("cause", "TEST")
        async with grpc.aio.insecure_channel(self.identity_grpc) as channel:
            stub: Any = revocations_pb2_grpc.RevocationsServiceStub(channel)
            metadata = (("authorization", f"Bearer {token}"),)
            return await stub.Revoke(revocations_pb2.RevokeRequest(**target), metadata=metadata, timeout=10)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Ports]:
    """A service, from when it is ready until the block is left."""
    up: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(service, started=up.set_result))
    await asyncio.wait({up, task}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        await eventually(_is_ready(service), within=30)
        yield up.result()
    finally:
        service.stop()
        await task


def _is_ready(service: Service) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return service.ready().ready

    return ready


@asynccontextmanager
async def session_world(folder: Path, redis_url: str, **changes: Any) -> AsyncIterator[World]:
    """The whole of it, seeded as the embedded run is; `changes` are settings of session."""
    async with AsyncExitStack() as stack:
        identity_port, session_port = free_port(), free_port()
        issuer, origin = f"http://localhost:{identity_port}", f"http://localhost:{session_port}"
        database_url = f"sqlite:///{folder / 'identity.db'}"
        prepare(database_url, "identity")
        parts = assemble(
            front_settings(
                database_url,
                issuer=issuer,
                redis_url=redis_url,
                publish_wait_ms=250,
                http_port=identity_port,
            ),
            passwords=quick_passwords(),
            make_key=_keys_drawn_in_turn(),
        )
        await parts.found()
        sow(parts.accounts, _seeds(f"{origin}/auth/callback"), parts.passwords.hash_blocking)
        identity = build_identity(parts.settings, parts=parts)
        identity_ports = await stack.enter_async_context(running(identity))
        identity_grpc = f"127.0.0.1:{identity_ports.grpc}"

        common = {"redis_url": redis_url, "issuer": issuer, "identity_url": issuer, "identity_grpc": identity_grpc}
        peers = connect(
            VerifierSettings(**common), Metrics(), audience="urn:rescind:orders", client_id="orders",
            client_secret=_secret("orders"),
        )  # fmt: skip
        stack.push_async_callback(peers.aclose)
        await stack.enter_async_context(peers.guard.running())
        orders, notifications = Orders(), Notifications()
        orders_at = await stack.enter_async_context(
            serving(
                peers.guard, ORDER_RULES, lambda at: orders_pb2_grpc.add_OrdersServiceServicer_to_server(orders, at)
            )
        )
        notifications_at = await stack.enter_async_context(
            serving(
                peers.guard.for_audience("urn:rescind:notifications"),
                NOTIFICATION_RULES,
                lambda at: notifications_pb2_grpc.add_NotificationsServiceServicer_to_server(notifications, at),
            )
        )
        settings = Settings(
            **{
                **common,
                "secret_keys": KEY,
                "client_secret": client_secret("session"),
                "web_client_secret": client_secret("web"),
                "public_url": origin,
                "orders_grpc": orders_at,
                "notifications_grpc": notifications_at,
                "http_port": session_port,
                "grpc_port": 0,
                "metrics_port": 0,
                "sign_ins": 100_000,
                **changes,
            }
        )
        wire = Wire()
        stack.push_async_callback(wire.close)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=20, follow_redirects=False, trust_env=False))
        redis: Any = Redis.from_url(redis_url, decode_responses=True)
        stack.push_async_callback(redis.aclose)
        world = World(
            issuer, origin, parts, identity, identity, identity_ports, settings, wire, orders, notifications, redis,
            http, stack, identity_grpc,
        )  # fmt: skip
        world.hands = Hands(now=world.now, identity=wire, web=_web(folder), look_every=0.5, finish_every=0.2)
        world.session = build_session(settings, hands=world.hands)
        world.ports = await stack.enter_async_context(running(world.session))
        yield world


def _seeds(redirect_uri: str) -> Seeds:
    seeds = Seeds.model_validate_json(seeds_json(public_jwks(WEB_KEY)))
    clients = [
        client.model_copy(update={"redirect_uris": (redirect_uri,)}) if client.id == "web" else client
        for client in seeds.clients
    ]
    return seeds.model_copy(update={"clients": tuple(clients)})


def _web(folder: Path) -> Path:
    """A web app of two files, with a secret beside it."""
    web = folder / "web"
    web.mkdir()
    (web / "index.html").write_text("<!doctype html><title>Rescind</title>")
    (web / "app.js").write_text("export {};")
    (folder / "settings.py").write_text("SECRET = 1")
    return web


def _secret(client_id: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(client_secret(client_id))
