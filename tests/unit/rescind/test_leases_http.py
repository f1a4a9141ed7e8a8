"""Live streams over SSE and WebSocket, on real sockets: how they begin and go on, and what is said at the end."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import Depends, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close

from rescind import Guard, Lease
from rescind.fastapi import leased, sse
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard
from rescind.websocket import serve_socket
from servicekit.connection import Connection
from servicekit.errors import Kind, ServiceError
from servicekit.http import create_app
from servicekit.lifecycle import Address, Ports, Service, serve
from servicekit.metrics import Metrics
from support.stalled import Stalled, stalled

AUDIENCE = "urn:rescind:demo"
ANY = Address("127.0.0.1", 0)
ORIGINS = frozenset({"https://app.example"})


@dataclass
class Site:
    """A service with a live stream of each kind, and what its callers see."""

    guard: Guard
    log: MemoryLog
    mint: TokenMint
    service: Service
    queues: list[asyncio.Queue[Any]] = field(default_factory=list)
    closed: int = 0
    port: int = 0

    async def events(self) -> AsyncIterator[Any]:
        """What `say` says, until that is None."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self.queues.append(queue)
        try:
            while (event := await queue.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.queues.remove(queue)
            self.closed += 1

    async def say(self, event: Any, *, to: int = 1) -> None:
        """Says it to everyone, once `to` are listening."""
        await self.until(lambda: len(self.queues) == to)
        for queue in self.queues:
            queue.put_nowait(event)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  (what happens at the far end of a socket tells nobody)
                await asyncio.sleep(0)

    def revoke(self, *entries: Entry) -> None:
        self.guard.feed.receive(self.log.revoke(*entries))

    def token(self, **changes: Any) -> str:
        return self.mint.access_token(AUDIENCE, scope=changes.pop("scope", "read"), **changes)

    @contextlib.asynccontextmanager
    async def stream(self, token: str, **headers: str) -> AsyncIterator[httpx2.Response]:
        async with (
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=20) as client,
            client.stream("GET", "/stream", headers={"authorization": f"Bearer {token}", **headers}) as response,
        ):
            yield response

    def socket(self, token: str | None = None, path: str = "/socket", **options: Any) -> connect:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        return connect(
            f"ws://127.0.0.1:{self.port}{path}", additional_headers=headers, compression=None, proxy=None, **options
        )


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    mint, metrics = TokenMint(), Metrics()
    log = MemoryLog(mint)
    guard = await fresh_guard(mint, AUDIENCE, log)
    app = create_app("demo", metrics)
    service = Service(
        name="demo", http=app, metrics=metrics, http_address=ANY, grpc_address=ANY, metrics_address=ANY,
        register=lambda _server: [], websockets=True, on_stopping=[guard.leases.stop], grace=1.0,
    )  # fmt: skip
    site = Site(guard, log, mint, service)

    @app.get("/stream")
    async def stream(lease: Annotated[Lease, Depends(leased(guard, "read"))]) -> EventSourceResponse:
        async def events() -> AsyncIterator[ServerSentEvent]:
            async for event in site.events():
                yield ServerSentEvent(id="1", event="said", data=event)

        return sse(lease, events(), ping_every=0.05)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        await serve_socket(
            websocket, lambda: guard, lambda _: site.events(), "read", origins=ORIGINS, first_message=0.3
        )

    @app.websocket("/refuses")
    async def refuses(websocket: WebSocket) -> None:
        if websocket.query_params:
            await websocket.accept()
        raise ServiceError(Kind.NOT_FOUND, "NOTHING_HERE", "There is nothing here.")

    ports: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(service, started=ports.set_result))
    site.port = (await ports).http
    yield site
    service.stop()
    await serving


async def frames(response: httpx2.Response) -> list[tuple[str, Any]]:
    """Events by name and data, to the end."""
    return events_in((await response.aread()).decode())


def events_in(text: str) -> list[tuple[str, Any]]:
    """The events of a whole stream."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if lines:
            found.append((lines.get("event", ""), json.loads(lines["data"])))
    return found


# SSE


async def test_sse_ends_with_its_source(site: Site) -> None:
    async with site.stream(site.token()) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        await site.say({"n": "ü"})
        await site.say(None)
        assert await frames(response) == [("said", {"n": "ü"})]
    assert site.closed == 1
    assert len(site.guard.leases) == 0


@pytest.mark.requirement(21)
@pytest.mark.parametrize(
    ("entry", "end"),
    [
        (Entry("session", "sid_1"), {"reason": "TOKEN_REVOKED", "reconnect": False}),
        (Entry("subject", "usr_alice", gen=2, soft=True), {"reason": "TOKEN_STALE", "reconnect": True}),
    ],
)
async def test_sse_says_why_it_ends_in_its_last_event(site: Site, entry: Entry, end: Any) -> None:
    async with site.stream(site.token()) as response:
        await site.say("hello")
        text, said = response.aiter_text(), ""
        while not ("hello" in said and said.endswith(": ping\n\n")):  # which is no event
            said += await anext(text)
        site.revoke(entry)
        said += "".join([more async for more in text])
        assert events_in(said) == [("said", "hello"), ("end", end)]
    await site.until(lambda: site.closed == 1)


async def test_sse_begins_as_a_request_would(site: Site) -> None:
    async with site.stream(site.token(scope="write")) as response:
        assert response.status_code == 403
        assert json.loads(await response.aread())["reason"] == "INSUFFICIENT_SCOPE"
    assert len(site.guard.leases) == 0


async def test_sse_of_a_client_that_goes_away_is_left(site: Site) -> None:
    async with site.stream(site.token()) as response:
        await site.until(lambda: len(site.queues) == 1)
        assert response.status_code == 200
    await site.until(lambda: site.closed == 1 and len(site.guard.leases) == 0)


@pytest.mark.requirement(21)
@pytest.mark.parametrize("path", ["/stream", "/socket"])
async def test_a_client_that_does_not_read_is_cut_off_when_its_token_is_revoked(site: Site, path: str) -> None:
    async with unread(site, path) as client:
        await fill(site)
        site.revoke(Entry("session", "sid_1"))
        assert len(site.guard.leases) == 0
        async with asyncio.timeout(1):
            await site.until(lambda: site.closed == 1)
        await client.cut()


async def test_a_client_that_does_not_read_is_cut_off_after_a_while(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "stalled", 0.5)
    async with unread(site, "/stream") as client:
        await fill(site)
        await site.until(lambda: site.closed == 1 and len(site.guard.leases) == 0)
        await client.cut()


async def fill(site: Site) -> None:
    """Says more than the way to the client holds."""
    with contextlib.suppress(TimeoutError):
        while True:
            await site.say("x" * 100_000)
            async with asyncio.timeout(0.2):
                await site.until(site.queues[0].empty)


def unread(site: Site, path: str) -> contextlib.AbstractAsyncContextManager[Stalled]:
    """A stream of which nothing is read but how it begins."""
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13\n"
    upgrade = f"Connection: Upgrade\nUpgrade: websocket\n{key}" if path == "/socket" else ""
    return stalled(site.port, f"GET {path} HTTP/1.1\nHost: x\nAuthorization: Bearer {site.token()}\n{upgrade}\n")


# WebSocket


async def received(connection: ClientConnection) -> tuple[list[Any], int, str]:
    """Everything until it is closed, and how."""
    messages: list[Any] = []
    closed: Close | None = None
    async with asyncio.timeout(20):
        while closed is None:
            try:
                messages.append(json.loads(await connection.recv()))
            except ConnectionClosed as over:
                closed = over.rcvd or Close(1006, "")
    return messages, closed.code, closed.reason


async def test_a_socket_takes_the_token_from_the_header_or_the_first_message(site: Site) -> None:
    async with site.socket(site.token()) as one, site.socket() as other:
        await other.send(json.dumps({"token": site.token()}))
        await site.say({"n": 1}, to=2)
        await site.say(None, to=2)
        assert await received(one) == await received(other) == ([{"n": 1}], 1000, "")


@pytest.mark.requirement(21)
async def test_a_socket_is_closed_with_the_reason_when_its_token_is_revoked(site: Site) -> None:
    async with site.socket(site.token(sid="s1")) as one, site.socket(site.token(sid="s2", jti="2")) as other:
        await site.say("hello", to=2)
        site.revoke(Entry("session", "s1"))
        assert await received(one) == (["hello"], 4401, "TOKEN_REVOKED")
        await site.say("still here")
        await site.say(None)
        assert await received(other) == (["hello", "still here"], 1000, "")
    assert len(site.guard.leases) == 0


async def test_a_socket_is_refused_with_the_reason(site: Site) -> None:
    async with site.socket(site.token(scope="write")) as connection:
        assert await received(connection) == ([], 4403, "INSUFFICIENT_SCOPE")
    async with site.socket("no.token.atall") as connection:
        assert await received(connection) == ([], 4401, "TOKEN_MALFORMED")
    async with site.socket() as connection:  # and says nothing
        assert await received(connection) == ([], 4401, "TOKEN_MISSING")
    site.guard.feed.knowledge.fresh_until = 0.0
    async with site.socket(site.token()) as connection:
        assert await received(connection) == ([], 1013, "VERIFIER_NOT_FRESH")


@pytest.mark.requirement(70)
async def test_a_socket_takes_no_token_from_the_url(site: Site) -> None:
    async with site.socket(path=f"/socket?access_token={site.token()}") as connection:
        assert await received(connection) == ([], 4401, "TOKEN_MISSING")


@pytest.mark.requirement(41)
async def test_a_socket_from_a_foreign_page_is_refused_before_it_begins(site: Site) -> None:
    for origin in ("https://evil.example", "https://app.example.evil.example", "null", "http://app.example"):
        with pytest.raises(InvalidStatus) as refused:
            await site.socket(site.token(), origin=origin)
        assert refused.value.response.status_code == 403
    async with site.socket(site.token(), origin="https://app.example") as connection:
        await site.say(None)
        assert (await received(connection))[1] == 1000


async def test_a_new_token_over_the_socket_extends_it(site: Site) -> None:
    async with site.socket(site.token(jti="old")) as connection:
        await connection.send(json.dumps({"token": site.token(jti="new")}))
        assert json.loads(await connection.recv()) == {"extended": True}
        await connection.send(json.dumps({"token": site.token(sub="usr_bob")}))
        assert json.loads(await connection.recv()) == {"refused": "TOKEN_OF_ANOTHER"}
        site.revoke(Entry("token", "old"))
        await site.say("goes on")
        assert json.loads(await connection.recv()) == "goes on"
        site.revoke(Entry("token", "new"))
        assert await received(connection) == ([], 4401, "TOKEN_REVOKED")


NONSENSE: list[str | bytes] = ["", "hello", "[]", "{}", '{"token": 1}', '{"token": "t", "x": 1}', b"\x00", "[" * 9000]


@pytest.mark.parametrize("message", NONSENSE, ids=lambda message: repr(message)[:20])
async def test_what_is_not_understood_ends_it(site: Site, message: str | bytes) -> None:
    async with site.socket(site.token()) as connection:
        await connection.send(message)
        assert await received(connection) == ([], 1008, "MESSAGE_NOT_UNDERSTOOD")
    async with site.socket() as connection:
        await connection.send(message)
        assert await received(connection) == ([], 1008, "MESSAGE_NOT_UNDERSTOOD")
    assert site.service.metrics.unforeseen._value.get() == 0


async def test_messages_have_a_limit(site: Site) -> None:
    async with site.socket(site.token()) as connection:
        await connection.send(json.dumps({"token": "x" * 20_000}))
        assert await received(connection) == ([], 4401, "TOKEN_MALFORMED")
    async with site.socket(site.token()) as connection:
        await connection.send("x" * 70_000)
        assert (await received(connection))[1] == 1009


async def test_a_client_that_goes_away_leaves_nothing(site: Site) -> None:
    async with site.socket(site.token()):
        await site.until(lambda: len(site.queues) == 1)
    await site.until(lambda: site.closed == 1 and len(site.guard.leases) == 0)
    assert site.service.metrics.unforeseen._value.get() == 0


async def test_what_nobody_foresaw_says_nothing_of_itself(site: Site) -> None:
    async with site.socket(site.token()) as connection:
        await site.say(RuntimeError("a secret"))
        assert await received(connection) == ([], 1011, "INTERNAL")
    assert site.service.metrics.unforeseen._value.get() == 1


async def test_a_use_case_that_refuses_is_told_apart_before_and_after_the_handshake(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await site.socket(path="/refuses")
    response = refused.value.response
    assert (response.status_code, json.loads(response.body)["reason"]) == (404, "NOTHING_HERE")

    async with site.socket(path="/refuses?accepted=1") as connection:
        assert await received(connection) == ([], 4404, "NOTHING_HERE")
    with pytest.raises(InvalidStatus) as refused:
        await site.socket(path="/nowhere")
    assert refused.value.response.status_code in (403, 404)


async def test_a_stop_ends_both_before_the_server_drains(site: Site) -> None:
    async with site.stream(site.token()) as response, site.socket(site.token()) as connection:
        await site.until(lambda: len(site.queues) == 2)
        began = asyncio.get_running_loop().time()
        site.service.stop()
        assert await frames(response) == [("end", {"reason": "SERVER_STOPPING", "reconnect": True})]
        assert await received(connection) == ([], 1012, "SERVER_STOPPING")
        assert asyncio.get_running_loop().time() - began < site.service.grace
