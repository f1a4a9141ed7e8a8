"""A process's own token: fetched once, replaced early, kept through an outage, never mistaken for an answer."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

import pytest

from rescind import NobodyAnswered
from rescind.client_credentials import ClientCredentials
from rescind.testing import ManualClock


class TokenEndpoint:
    """A token endpoint in the test's hands, over real HTTP."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        self.status = "200 OK"
        self.body = ""
        self.silent = False
        self.over = asyncio.Event()
        self.handled: list[asyncio.Task[None] | None] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handled.append(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        form = await reader.readexactly(int(headers["content-length"]))
        authorization = next(line for line in head.split("\r\n") if line.lower().startswith("authorization"))
        self.requests.append((authorization.split(": ")[1], parse_qs(form.decode())))
        if self.silent:
            await self.over.wait()
        body = self.body or json.dumps({"access_token": f"token-{len(self.requests)}", "expires_in": 900})
        answer = f"HTTP/1.1 {self.status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
        writer.write(answer.encode())
        writer.close()


@pytest.fixture
async def endpoint() -> AsyncIterator[TokenEndpoint]:
    endpoint = TokenEndpoint()
    server = await asyncio.start_server(endpoint.handle, "127.0.0.1", 0)
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/token"  # type: ignore[attr-defined]
    endpoint.server = server  # type: ignore[attr-defined]
    async with server:
        yield endpoint
        endpoint.over.set()
        await asyncio.gather(*(task for task in endpoint.handled if task is not None))


def credentials(endpoint: TokenEndpoint, time: ManualClock, *, timeout: float = 2.0) -> ClientCredentials:
    return ClientCredentials(
        endpoint.url, "orders", "orders-secret", resource="urn:rescind:identity", timeout=timeout,  # type: ignore[attr-defined]
        monotonic=lambda: time.monotonic,
    )  # fmt: skip


async def test_one_request_for_many_who_ask_with_the_secret_in_the_header(endpoint: TokenEndpoint) -> None:
    own = credentials(endpoint, ManualClock())
    assert set(await asyncio.gather(*(own() for _ in range(20)))) == {"token-1"}
    ((authorization, form),) = endpoint.requests
    assert authorization == "Basic " + base64.b64encode(b"orders:orders-secret").decode()
    assert form == {"grant_type": ["client_credentials"], "resource": ["urn:rescind:identity"]}


async def test_it_is_replaced_before_it_expires(endpoint: TokenEndpoint) -> None:
    time = ManualClock()
    own = credentials(endpoint, time)
    assert await own() == "token-1"
    time.advance(839)
    assert await own() == "token-1"
    time.advance(1)
    assert await own() == "token-2"


async def test_through_an_outage_it_is_used_up(endpoint: TokenEndpoint) -> None:
    time = ManualClock()
    own = credentials(endpoint, time)
    await own()
    endpoint.status = "503 Service Unavailable"
    time.advance(899)
    assert await own() == "token-1"
    time.advance(1)
    with pytest.raises(NobodyAnswered):
        await own()


async def test_one_that_was_refused_is_replaced_once(endpoint: TokenEndpoint) -> None:
    own = credentials(endpoint, ManualClock())
    refused = await own()
    for _ in range(5):  # five calls under way, each told the same
        own.forget(refused)
        assert await own() == "token-2"


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "429 Too Many Requests", "500 Oops"])
async def test_a_refusal_is_an_answer(endpoint: TokenEndpoint, status: str) -> None:
    endpoint.status = status
    with pytest.raises(PermissionError):
        await credentials(endpoint, ManualClock())()


@pytest.mark.parametrize("body", ["no JSON", "{}", '{"access_token": "t"}', '{"access_token": "t", "expires_in": "x"}'])
async def test_nonsense_is_an_answer_and_no_token(endpoint: TokenEndpoint, body: str) -> None:
    endpoint.body = body
    with pytest.raises((ValueError, KeyError)):
        await credentials(endpoint, ManualClock())()


async def test_silence_is_nobody(endpoint: TokenEndpoint) -> None:
    endpoint.silent = True
    with pytest.raises(NobodyAnswered):
        await credentials(endpoint, ManualClock(), timeout=0.1)()
    endpoint.server.close()  # type: ignore[attr-defined]
    with pytest.raises(NobodyAnswered):
        await credentials(endpoint, ManualClock(), timeout=0.1)()


async def test_the_secret_is_not_shown(endpoint: TokenEndpoint) -> None:
    assert "orders-secret" not in repr(credentials(endpoint, ManualClock()))
