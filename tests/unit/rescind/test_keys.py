"""Which keys are imported, and when they are fetched."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rescind import RemoteKeySet, StaticKeySet, http_fetch
from rescind.keys import MAX_JWKS_BYTES, public_keys
from rescind.testing import ManualClock, jwk_of, rsa_key
from support.forging import b64

GOOD = jwk_of(rsa_key("good"), "good")


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def without(member: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != member}


@pytest.mark.parametrize("jwk", [GOOD, without("use"), without("alg"), {**GOOD, "key_ops": ["verify"]},
                                 {**GOOD, "key_ops": ["sign", "verify"]}, {**GOOD, "x5t": "ignored"}])  # fmt: skip
@pytest.mark.requirement(8)
def test_a_key_that_verifies_rs256_is_imported(jwk: dict[str, Any]) -> None:
    assert public_keys(jwks(jwk))["good"] == rsa_key("good").public_key()


REFUSED = {
    "use enc": {**GOOD, "use": "enc"},
    "use empty": {**GOOD, "use": ""},
    "key_ops without verify": {**GOOD, "key_ops": ["encrypt"]},
    "key_ops empty": {**GOOD, "key_ops": []},
    "key_ops as text": {**GOOD, "key_ops": "verify"},
    "alg RS512": {**GOOD, "alg": "RS512"},
    "alg PS256": {**GOOD, "alg": "PS256"},
    "alg none": {**GOOD, "alg": "none"},
    "alg HS256": {**GOOD, "alg": "HS256"},
    "kty oct": {"kty": "oct", "kid": "good", "k": b64(b"secret" * 10)},
    "kty EC": {"kty": "EC", "kid": "good", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
    "no kty": without("kty"),
    "no kid": without("kid"),
    "kid empty": {**GOOD, "kid": ""},
    "kid a number": {**GOOD, "kid": 7},
    "kid too long": {**GOOD, "kid": "k" * 129},
    "kid no plain text": {**GOOD, "kid": "a\nb"},
    "n missing": without("n"),
    "n no base64url": {**GOOD, "n": "\u00e9"},
    "n a number": {**GOOD, "n": 65537},
    "e missing": without("e"),
    "e of 1": {**GOOD, "e": b64(b"\x01")},
    "e of 3": {**GOOD, "e": b64(b"\x03")},
    "e even": {**GOOD, "e": b64((65538).to_bytes(3))},
    "no object": "good",
    "null": None,
}


@pytest.mark.parametrize("name", list(REFUSED))
@pytest.mark.requirement(8)
def test_a_key_for_anything_else_is_left_out(name: str) -> None:
    other = jwk_of(rsa_key("other"), "other")
    assert list(public_keys(jwks(REFUSED[name], other))) == ["other"]
    with pytest.raises(ValueError, match="no usable key"):
        public_keys(jwks(REFUSED[name]))


@pytest.mark.requirement(10)
def test_a_key_of_less_than_2048_bits_is_left_out() -> None:
    small = jwk_of(rsa_key("small", 1024), "small")
    assert list(public_keys(jwks(small, GOOD))) == ["good"]


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b"\xff", jwks(GOOD, GOOD)])
def test_what_is_no_set_of_keys_is_an_error(document: bytes) -> None:
    with pytest.raises(ValueError):
        public_keys(document)


class Endpoint:
    """A JWKS endpoint in the test's hands."""

    def __init__(self) -> None:
        self.fetches = 0
        self.document = jwks(GOOD)
        self.gate = asyncio.Event()
        self.gate.set()
        self.time = ManualClock()
        self.keys = RemoteKeySet(self.fetch, cooldown=1, max_age=300, keep=3600, monotonic=lambda: self.time.monotonic)

    async def fetch(self) -> bytes:
        self.fetches += 1
        await self.gate.wait()
        if not self.document:
            raise ConnectionError("nobody there")
        return self.document


async def test_before_the_first_fetch_there_is_nothing() -> None:
    endpoint = Endpoint()
    assert endpoint.keys.empty
    assert endpoint.keys.due
    assert endpoint.keys.key("good") is None
    assert endpoint.fetches == 0
    await endpoint.keys.refresh()
    assert endpoint.keys.key("good") == rsa_key("good").public_key()
    assert not endpoint.keys.empty


@pytest.mark.requirement(13)
async def test_many_who_ask_at_once_share_one_fetch() -> None:
    endpoint = Endpoint()
    endpoint.gate.clear()
    asking = [asyncio.create_task(endpoint.keys.refresh()) for _ in range(100)]
    await asyncio.sleep(0)
    endpoint.gate.set()
    await asyncio.gather(*asking)
    assert endpoint.fetches == 1


@pytest.mark.requirement(13)
async def test_a_flood_of_unknown_kids_is_one_fetch_per_cooldown() -> None:
    endpoint = Endpoint()
    for tenth in range(50):
        for _ in range(20):
            await endpoint.keys.refresh()
        assert endpoint.fetches == tenth // 10 + 1
        endpoint.time.advance(0.1)


async def test_whoever_gives_up_does_not_take_the_fetch_from_the_others() -> None:
    endpoint = Endpoint()
    endpoint.gate.clear()
    first, second = (asyncio.create_task(endpoint.keys.refresh()) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    endpoint.gate.set()
    await first
    assert endpoint.keys.key("good") is not None


async def test_a_failed_fetch_leaves_the_keys_for_a_bounded_time() -> None:
    endpoint = Endpoint()
    await endpoint.keys.refresh()
    for document in (b"", jwks(), b"<html>", jwks(REFUSED["use enc"])):
        endpoint.document = document
        endpoint.time.advance(800)
        await endpoint.keys.refresh()
        assert endpoint.keys.key("good") is not None
    endpoint.time.advance(401)
    assert endpoint.keys.key("good") is None
    assert endpoint.keys.empty
    endpoint.document = jwks(GOOD)
    await endpoint.keys.refresh()
    assert endpoint.keys.key("good") is not None


async def test_a_key_that_is_gone_from_the_set_is_gone() -> None:
    endpoint = Endpoint()
    await endpoint.keys.refresh()
    endpoint.document = jwks(jwk_of(rsa_key("other"), "other"))
    endpoint.time.advance(2)
    await endpoint.keys.refresh()
    assert endpoint.keys.key("good") is None


async def test_a_routine_refresh_is_due_after_a_while() -> None:
    endpoint = Endpoint()
    await endpoint.keys.refresh()
    assert not endpoint.keys.due
    endpoint.time.advance(301)
    assert endpoint.keys.due


async def test_static_keys_stay() -> None:
    keys = StaticKeySet({"good": rsa_key("good").public_key()})
    await keys.refresh()
    assert keys.key("good") is not None
    assert not keys.empty
    assert StaticKeySet({}).empty


# Over real HTTP


@asynccontextmanager
async def serving(answer: Callable[[], bytes]) -> AsyncIterator[str]:
    """An HTTP server that gives one raw answer, and its URL."""

    over = asyncio.Event()
    handled: list[asyncio.Task[None] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer())
        if not answer():
            await over.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        over.set()
        await asyncio.gather(*(task for task in handled if task is not None))


def response(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def test_keys_over_http() -> None:
    async with serving(lambda: response("200 OK", jwks(GOOD))) as url:
        keys = RemoteKeySet(http_fetch(url))
        await keys.refresh()
        assert keys.key("good") is not None


@pytest.mark.parametrize(
    "answer",
    [
        response("302 Found", jwks(GOOD), "location: /jwks.json"),
        response("500 Internal Server Error", jwks(GOOD)),
        response("404 Not Found", jwks(GOOD)),
        response("200 OK", jwks(GOOD) + b" " * MAX_JWKS_BYTES),
        b"not HTTP at all\r\n\r\n",
        b"",  # it hangs
    ],
    ids=["redirect", "500", "404", "too large", "no HTTP", "silence"],
)
async def test_anything_but_keys_over_http_is_a_failed_fetch(answer: bytes) -> None:
    async with serving(lambda: answer) as url:
        keys = RemoteKeySet(http_fetch(url, timeout=0.2))
        await keys.refresh()
        assert keys.empty


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "data:application/json,{}", "ftp://127.0.0.1/", "http://127.0.0.1:1/"]
)
@pytest.mark.requirement(3)
async def test_keys_come_over_http_or_not_at_all(url: str) -> None:
    keys = RemoteKeySet(http_fetch(url))
    await keys.refresh()
    assert keys.empty
