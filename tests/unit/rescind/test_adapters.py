"""The guard in front of FastAPI and grpc.aio, as somebody uses it who has nothing else of ours."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import grpc
import grpc.aio
import httpx2
import pytest
from fastapi import Depends, FastAPI
from google.rpc import error_details_pb2, status_pb2

from rescind import BEST_EFFORT, Guard, Principal
from rescind.fastapi import bearer, install_error_handlers
from rescind.grpc import PUBLIC, GuardInterceptor, Rule, current_principal
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, fresh_guard

AUDIENCE = "urn:rescind:demo"


@pytest.fixture
def mint() -> TokenMint:
    return TokenMint()


@pytest.fixture
def log(mint: TokenMint) -> MemoryLog:
    return MemoryLog(mint)


@pytest.fixture
async def guard(mint: TokenMint, log: MemoryLog) -> Guard:
    return await fresh_guard(mint, AUDIENCE, log)


# FastAPI


@pytest.fixture
async def http(guard: Guard) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/read")
    async def read(principal: Annotated[Principal, Depends(bearer(guard, "read"))]) -> str:
        return principal.subject

    @app.get("/later")
    async def later(principal: Annotated[Principal, Depends(bearer(lambda: guard, staleness=BEST_EFFORT))]) -> str:
        return principal.subject

    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://demo") as client:
        yield client


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_http_lets_a_good_token_pass(http: httpx2.AsyncClient, mint: TokenMint) -> None:
    token = mint.access_token(AUDIENCE, scope="read")
    assert (await http.get("/read", headers=bearing(token))).json() == "usr_alice"
    assert (await http.get("/later", headers={"authorization": f"bEARER {token}"})).json() == "usr_alice"


NO_TOKEN: list[dict[str, str]] = [
    {},
    {"authorization": "Basic YTpi"},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"x-access-token": "t"},
    {"cookie": "access_token=t"},
]


@pytest.mark.parametrize("headers", NO_TOKEN)
@pytest.mark.requirement(70)
async def test_http_without_a_token_is_asked_for_one(http: httpx2.AsyncClient, headers: dict[str, str]) -> None:
    answer = await http.get("/read", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_MISSING")
    # RFC 6750 section 3.1: whoever showed no token is told no error code.
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement(70)
async def test_http_takes_no_token_from_anywhere_but_the_header(http: httpx2.AsyncClient, mint: TokenMint) -> None:
    token = mint.access_token(AUDIENCE, scope="read")
    answer = await http.get("/read", params={"access_token": token})
    assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_MISSING")
    assert token not in answer.text
    form = await http.request("GET", "/read", data={"access_token": token})
    assert form.status_code == 401


async def test_http_with_two_tokens_is_refused(http: httpx2.AsyncClient, mint: TokenMint) -> None:
    token = mint.access_token(AUDIENCE, scope="read")
    answer = await http.get("/read", headers=[("authorization", f"Bearer {token}")] * 2)
    assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_MALFORMED")


@pytest.mark.requirement(67)
async def test_http_says_which_scope_is_missing(http: httpx2.AsyncClient, mint: TokenMint) -> None:
    answer = await http.get("/read", headers=bearing(mint.access_token(AUDIENCE, scope="write")))
    assert (answer.status_code, answer.json()["reason"]) == (403, "INSUFFICIENT_SCOPE")
    assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="read"'


async def test_http_refuses_what_was_taken_back(
    http: httpx2.AsyncClient, mint: TokenMint, log: MemoryLog, guard: Guard
) -> None:
    token = mint.access_token(AUDIENCE, scope="read", sid="sid")
    guard.feed.receive(log.revoke(Entry("session", "sid")))
    answer = await http.get("/read", headers=bearing(token))
    assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_REVOKED")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_http_cannot_tell_is_never_401(http: httpx2.AsyncClient, mint: TokenMint, guard: Guard) -> None:
    guard.feed.knowledge.fresh_until = 0.0
    token = mint.access_token(AUDIENCE, scope="read")
    answer = await http.get("/read", headers=bearing(token))
    assert (answer.status_code, answer.json()["reason"]) == (503, "VERIFIER_NOT_FRESH")
    assert int(answer.headers["retry-after"]) > 0
    assert "www-authenticate" not in answer.headers
    assert (await http.get("/later", headers=bearing(token))).status_code == 200


# gRPC


async def _unary(_request: bytes, _context: Any) -> bytes:
    return current_principal().subject.encode()


async def _server_stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for _ in range(2):
        yield current_principal().subject.encode()


async def _client_stream(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    received = [request async for request in requests]
    return current_principal().subject.encode() + str(len(received)).encode()


async def _both_stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        yield current_principal().subject.encode()


async def _public(_request: bytes, _context: Any) -> bytes:
    with pytest.raises(LookupError):
        current_principal()
    return b"anybody"


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(_unary),
    "ServerStream": grpc.unary_stream_rpc_method_handler(_server_stream),
    "ClientStream": grpc.stream_unary_rpc_method_handler(_client_stream),
    "BothStream": grpc.stream_stream_rpc_method_handler(_both_stream),
    "Public": grpc.unary_unary_rpc_method_handler(_public),
    "Forgotten": grpc.unary_unary_rpc_method_handler(_unary),
}
GUARDED = ("Unary", "ServerStream", "ClientStream", "BothStream")


@pytest.fixture
async def channel(guard: Guard) -> AsyncIterator[grpc.aio.Channel]:
    rules = {f"/demo.Greeter/{name}": Rule("read") for name in GUARDED} | {"/demo.Greeter/Public": PUBLIC}
    server = grpc.aio.server(interceptors=[GuardInterceptor(lambda: guard, rules)], options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Greeter", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


Metadata = list[tuple[str, str]]


async def _call(channel: grpc.aio.Channel, name: str, metadata: Metadata, requests: Any = None) -> bytes:
    """One call. Where the caller streams and sends no `requests`, it waits to hear whether it may."""
    path = f"/demo.Greeter/{name}"
    calls: dict[str, Callable[[], Any]] = {
        "ServerStream": lambda: channel.unary_stream(path)(b"", metadata=metadata, timeout=10),
        "ClientStream": lambda: channel.stream_unary(path)(requests, metadata=metadata, timeout=10),
        "BothStream": lambda: channel.stream_stream(path)(requests, metadata=metadata, timeout=10),
    }
    call = calls.get(name, lambda: channel.unary_unary(path)(b"", metadata=metadata, timeout=10))()
    if name in ("ServerStream", "BothStream"):
        return b" ".join([answer async for answer in call])
    return bytes(await call)


async def _refused(channel: grpc.aio.Channel, name: str, metadata: Metadata) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _call(channel, name, metadata)
    status = status_pb2.Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.domain) == (refused.value.code().value[0], "rescind")
    return refused.value.code(), info.reason


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Unary", b"usr_alice"),
        ("ServerStream", b"usr_alice usr_alice"),
        ("ClientStream", b"usr_alice2"),
        ("BothStream", b"usr_alice usr_alice"),
    ],
)
async def test_grpc_lets_a_good_token_pass(
    channel: grpc.aio.Channel, mint: TokenMint, name: str, answer: bytes
) -> None:
    token = mint.access_token(AUDIENCE, scope="read")
    assert await _call(channel, name, [("authorization", f"Bearer {token}")], iter([b"", b""])) == answer


@pytest.mark.parametrize("name", GUARDED)
async def test_grpc_refuses_every_kind_of_call_alike(
    channel: grpc.aio.Channel, mint: TokenMint, guard: Guard, log: MemoryLog, name: str
) -> None:
    token = mint.access_token(AUDIENCE, scope="read", jti="jti")
    poor = mint.access_token(AUDIENCE, scope="write")
    unauthenticated, permission_denied = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
    assert await _refused(channel, name, []) == (unauthenticated, "TOKEN_MISSING")
    assert await _refused(channel, name, [("authorization", "Basic YTpi")]) == (unauthenticated, "TOKEN_MISSING")
    assert await _refused(channel, name, [("authorization", "Bearer x")]) == (unauthenticated, "TOKEN_MALFORMED")
    assert await _refused(channel, name, [("authorization", f"Bearer {poor}")]) == (
        permission_denied,
        "INSUFFICIENT_SCOPE",
    )
    twice = [("authorization", f"Bearer {token}")] * 2
    assert await _refused(channel, name, twice) == (unauthenticated, "TOKEN_MALFORMED")
    guard.feed.receive(log.revoke(Entry("token", "jti")))
    assert await _refused(channel, name, twice[:1]) == (unauthenticated, "TOKEN_REVOKED")
    guard.feed.knowledge.fresh_until = 0.0
    good = mint.access_token(AUDIENCE, scope="read")
    answer = await _refused(channel, name, [("authorization", f"Bearer {good}")])
    assert answer == (grpc.StatusCode.UNAVAILABLE, "VERIFIER_NOT_FRESH")


async def test_grpc_refuses_a_method_that_somebody_forgot(channel: grpc.aio.Channel, mint: TokenMint) -> None:
    token = mint.access_token(AUDIENCE, scope="read")
    code, _ = await _refused(channel, "Forgotten", [("authorization", f"Bearer {token}")])
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_grpc_public_is_for_everybody_and_what_does_not_exist_does_not(channel: grpc.aio.Channel) -> None:
    assert await _call(channel, "Public", []) == b"anybody"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _call(channel, "Nothing", [])
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
