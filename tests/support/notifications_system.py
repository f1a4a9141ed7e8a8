"""Notifications as it runs, with real sockets and its background work, and a producer that tells it things.

Tokens are really signed and really verified: `mint` is the issuer, `log` its revocations.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import httpx2
from google.protobuf.message import Message
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_socket

from contracts.notifications.v1 import notifications_pb2 as pb
from contracts.notifications.v1 import notifications_pb2_grpc
from eventlog import Delays, Event, EventId, Patience, Stream
from eventlog.redis_stream import RedisStream
from notifications.app import AUDIENCE, NAME, build
from notifications.channels.contacts import Contact
from notifications.channels.email import Pace
from notifications.domain import Person
from notifications.settings import Settings
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard
from servicekit.lifecycle import Ports, Service, serve
from servicekit.migrations import migrate
from servicekit.rpc import CHANNEL_OPTIONS
from servicekit.verification import Verification

READ = "notifications:read"
WITHIN = 30.0  # seconds that anything may take on a busy machine
HASTE = Patience(delays=Delays(first=0.05, longest=0.2, lease=2.0), attempts=3, longest_pause=0.3, tidy=0.5)
_numbers = itertools.count(1)


class Outgoing:
    """A mailer and a book of addresses that only remember."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def send(self, mail: Any) -> None:
        self.sent.append(mail)

    async def of(self, person: Person) -> Contact:
        return Contact(f"{person}@example.com", person)


class Producer:
    """Tells events on a stream, as an outbox's relay does."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._position = 0

    async def tell(self, *messages: Message, aggregate: str = "ord_1", version: int = 1) -> list[Event]:
        """Appends one event for each message."""
        events = [self.event(message, aggregate=aggregate, version=version) for message in messages]
        await self.append(*(event.encoded() for event in events))
        return events

    @staticmethod
    def event(message: Message, *, aggregate: str = "ord_1", version: int = 1) -> Event:
        number = next(_numbers)
        return Event(
            EventId(f"evt_{number:022}"), message.DESCRIPTOR.full_name, version, aggregate, number,
            occurred_at=1_795_500_000_000 + number, traceparent="", data=message.SerializeToString(),
        )  # fmt: skip

    async def append(self, *payloads: bytes) -> None:
        entries = [(self._position + n, payload) for n, payload in enumerate(payloads, start=1)]
        last = await self.stream.append(self._position, entries)
        assert last == self._position + len(entries)
        self._position = last


@dataclass
class Replica:
    """One running process's worth of notifications."""

    service: Service
    ports: Ports
    client: httpx2.AsyncClient
    stub: Any
    channel: grpc.aio.Channel
    task: asyncio.Task[None]

    async def get(self, path: str, token: str, **options: Any) -> httpx2.Response:
        return await self.client.get(path, headers=bearer(token), **options)

    def subscribe(self, token: str, after: int | None = None) -> Any:
        return self.stub.Subscribe(pb.SubscribeRequest(after=after), metadata=tuple(bearer(token).items()))

    @asynccontextmanager
    async def sse(self, token: str, after: int | None = None, **headers: str) -> AsyncIterator["Sse"]:
        last = {} if after is None else {"last-event-id": str(after)}
        sent = bearer(token) | last | headers
        async with self.client.stream("GET", "/v1/notifications/stream", headers=sent, timeout=WITHIN) as response:
            yield Sse(response)

    def socket(self, token: str, after: int | None = None, **options: Any) -> connect_socket:
        query = "" if after is None else f"?after={after}"
        url = f"ws://127.0.0.1:{self.ports.http}/v1/notifications/live{query}"
        return connect_socket(url, additional_headers=bearer(token), proxy=None, **options)

    def metric(self, name: str, **labels: str) -> float:
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0


@dataclass
class Sse:
    """A stream of server-sent events, read as a browser reads it."""

    response: httpx2.Response
    comments: list[str] = field(default_factory=list)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        event: dict[str, Any] = {}
        async with aclosing(self.response.aiter_lines()) as lines:
            async for line in lines:
                if line.startswith(":"):
                    self.comments.append(line[1:].strip())
                elif line:
                    name, _, value = line.partition(": ")
                    event[name] = value
                elif event:
                    yield event | ({"data": json.loads(event["data"])} if "data" in event else {})
                    event = {}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


@dataclass
class NotificationsSystem:
    """Replicas on one database and one Redis."""

    database_url: str
    redis_url: str
    mint: TokenMint = field(default_factory=TokenMint)
    outgoing: Outgoing = field(default_factory=Outgoing)

    def __post_init__(self) -> None:
        self.log = MemoryLog(self.mint)
        migrate(self.database_url, NAME)

    def token(self, person: str = "usr_alice", scope: str = READ, **claims: Any) -> str:
        """A good token for notifications."""
        return self.mint.access_token(AUDIENCE, scope=scope, sub=person, **claims)

    def revoke(self, *entries: Entry) -> None:
        """Takes back; the replicas' feeds hear of it."""
        self.log.revoke(*entries)

    @asynccontextmanager
    async def replica(self, **overrides: Any) -> AsyncIterator[Replica]:
        """A replica, running; `overrides` are `build`'s."""
        guard = await fresh_guard(self.mint, AUDIENCE, self.log)

        async def nothing() -> None:
            """There is no connection to close."""

        settings = Settings(
            database_url=self.database_url, redis_url=self.redis_url, client_secret="unused",  # type: ignore[arg-type]
            mail_url="smtp://127.0.0.1:1", http_port=0, grpc_port=0, metrics_port=0,  # type: ignore[arg-type]
            **overrides.pop("settings", {}),
        )  # fmt: skip
        service = build(
            settings,
            **{
                "verification": Verification(guard, nothing), "mailer": self.outgoing, "contacts": self.outgoing,
                "patience": HASTE, "pace": Pace(poll=0.1), **overrides,
            },
        )  # fmt: skip
        up: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve(service, started=up.set_result))
        await asyncio.wait({up, task}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        ports = await up
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}", options=CHANNEL_OPTIONS)
        client = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports.http}", trust_env=False, timeout=WITHIN)
        stub: Any = notifications_pb2_grpc.NotificationsServiceStub(channel)
        try:
            yield Replica(service, ports, client, stub, channel, task)
        finally:
            await client.aclose()
            await channel.close()
            service.stop()
            await asyncio.wait_for(task, WITHIN)

    @asynccontextmanager
    async def producer(self, name: str = "orders.events") -> AsyncIterator[Producer]:
        """Whoever tells events on that stream."""
        stream = RedisStream(self.redis_url, name)
        try:
            yield Producer(stream)
        finally:
            await stream.aclose()


async def soon(condition: Any, *, within: float = WITHIN) -> Any:
    """Waits until an awaitable condition is true; events drive it, this only looks."""
    from support.eventually import eventually

    return await eventually(condition, within=within)


async def frames(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """What a WebSocket says, message by message."""
    async for text in socket:
        yield json.loads(text)
