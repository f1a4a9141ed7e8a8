"""Live streams as the story listens to them: what came, when, and how each ended, on every wire that has one."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import grpc
import grpc.aio
import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from contracts.notifications.v1 import notifications_pb2, notifications_pb2_grpc
from contracts.orders.v1 import orders_pb2
from devstack.story.scene import Answer, Scene, Unexpected, bearer, reason_of

PATIENCE = 10.0  # seconds for what should come at once: a noisy machine must not fail the story
READY = ""  # from here on the stream misses nothing
Item = str | Answer  # the id of what it is about, or how the stream ended


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream that is being read. `name` and `on_grpc` say in the table which."""

    name: str
    on_grpc: bool
    _came: "asyncio.Queue[tuple[Item | BaseException, float]]"

    async def ready(self) -> None:
        """Waits until it misses nothing.

        Raises:
            Unexpected: it does not become so.
        """
        await self._until(lambda item: item == READY, "did not begin")

    async def told(self, about: str) -> float:
        """When it told of `about`, by `time.perf_counter`.

        Raises:
            Unexpected: it does not.
        """
        _, at = await self._until(lambda item: item == about, "did not tell what happened")
        return at

    async def ended(self) -> tuple[Answer, float]:
        """How it ended, and when.

        Raises:
            Unexpected: it goes on.
        """
        item, at = await self._until(lambda item: isinstance(item, Answer), "went on")
        assert isinstance(item, Answer)  # noqa: S101  (waited for)
        return item, at

    async def _until(self, wanted: Callable[[Item], bool], otherwise: str) -> tuple[Item, float]:
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    item, at = await self._came.get()
                    if isinstance(item, BaseException):
                        raise Unexpected(f"{self.name} broke: {type(item).__name__}") from item
                    if wanted(item):
                        return item, at
                    if isinstance(item, Answer):
                        raise Unexpected(f"{self.name} ended: {item.status} {item.reason}")
        except TimeoutError:
            raise Unexpected(f"{self.name} {otherwise} within {PATIENCE:.0f} s") from None


@contextlib.asynccontextmanager
async def listening(name: str, items: AsyncGenerator[Item, None], *, on_grpc: bool = False) -> AsyncIterator[Stream]:
    """Reads `items` for the length of the block, and notes when each came."""
    came: asyncio.Queue[tuple[Item | BaseException, float]] = asyncio.Queue()

    async def read() -> None:
        try:
            async with contextlib.aclosing(items):
                async for item in items:
                    came.put_nowait((item, time.perf_counter()))
        except Exception as failure:  # whoever waits for the stream is told
            came.put_nowait((failure, time.perf_counter()))

    reading = asyncio.create_task(read())
    try:
        stream = Stream(name, on_grpc, came)
        await stream.ready()
        yield stream
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


@contextlib.asynccontextmanager
async def every_wire(scene: Scene, notified: str, ordering: str) -> AsyncIterator[list[Stream]]:
    """A person's live streams on every wire: notifications with one token, `WatchOrders` with the other."""
    at = scene.target.addresses
    async with contextlib.AsyncExitStack() as held:
        channel = await held.enter_async_context(grpc.aio.insecure_channel(at.notifications_grpc))
        url = f"{at.notifications}/v1/notifications/stream"
        yield [
            await held.enter_async_context(listening(name, items, on_grpc=on_grpc))
            for name, items, on_grpc in (
                ("Subscribe (notifications)", _by_grpc(channel, notified), True),
                ("WatchOrders (orders)", _watching(scene, ordering), True),
                ("server-sent events", by_sse(scene.web, url, {"authorization": f"Bearer {notified}"}), False),
                ("WebSocket", _by_socket(at.notifications, notified), False),
            )
        ]


async def by_sse(
    http: httpx2.AsyncClient, url: str, headers: Mapping[str, str], see: Callable[[str], None] = lambda _: None
) -> AsyncGenerator[Item, None]:
    """Notifications as server-sent events; the last one says why they end. `see` is shown every line."""
    kind = ""
    async with http.stream("GET", url, headers=dict(headers), timeout=60) as response:
        if response.status_code != 200:
            await response.aread()
            yield Answer(str(response.status_code), str(response.json().get("reason", "")))
            return
        async for line in response.aiter_lines():
            see(line)
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = json.loads(value)
                if kind == "end":
                    yield Answer("end", str(data["reason"]))
                    return
                yield data["about"] if kind == "notification" else READY
    yield Answer("cut", "without a word")


async def _by_socket(origin: str, token: str) -> AsyncGenerator[Item, None]:
    url = f"ws{origin.removeprefix('http')}/v1/notifications/live"
    async with connect(url, additional_headers={"authorization": f"Bearer {token}"}, proxy=None) as socket:
        try:
            async for message in socket:
                told = json.loads(message)
                yield told["data"]["about"] if told["event"] == "notification" else READY
        except ConnectionClosed:
            pass
        yield Answer(str(socket.close_code), socket.close_reason or "without a word")


async def _by_grpc(channel: grpc.aio.Channel, token: str) -> AsyncGenerator[Item, None]:
    stub: notifications_pb2_grpc.NotificationsServiceAsyncStub
    stub = notifications_pb2_grpc.NotificationsServiceStub(channel)
    try:
        async for response in stub.Subscribe(notifications_pb2.SubscribeRequest(), metadata=bearer(token)):
            yield response.notification.about if response.HasField("notification") else READY
    except grpc.aio.AioRpcError as failure:
        yield Answer(failure.code().name, reason_of(failure))


async def _watching(scene: Scene, token: str) -> AsyncGenerator[Item, None]:
    try:
        async for response in scene.orders.WatchOrders(orders_pb2.WatchOrdersRequest(), metadata=bearer(token)):
            yield response.order.id if response.HasField("order") else READY
    except grpc.aio.AioRpcError as failure:
        yield Answer(failure.code().name, reason_of(failure))
