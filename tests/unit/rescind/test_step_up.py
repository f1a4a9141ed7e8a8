"""Step-up (RFC 9470): a route that wants a recent sign-in, over HTTP and gRPC."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import grpc
import grpc.aio
import httpx2
import pytest
from fastapi import Depends, FastAPI
from google.rpc import error_details_pb2, status_pb2

from rescind import Guard, Principal, StepUpRequired
from rescind.fastapi import bearer, install_error_handlers
from rescind.grpc import GuardInterceptor, Rule
from rescind.testing import ManualClock, MemoryLog, TokenMint, fresh_guard
from servicekit.errors import rpc_status, understood

AUDIENCE = "urn:rescind:demo"
METHOD = "/demo.Vault/Open"


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
def mint(time: ManualClock) -> TokenMint:
    return TokenMint(now=lambda: time.wall)


@pytest.fixture
async def guard(mint: TokenMint, time: ManualClock) -> Guard:
    log = MemoryLog(mint, now=lambda: time.wall)
    return await fresh_guard(mint, AUDIENCE, log, clock=time.clock)


async def test_the_age_of_the_sign_in_decides_and_not_that_of_the_token(
    guard: Guard, mint: TokenMint, time: ManualClock
) -> None:
    signed_in = int(time.wall)
    for age, good in ((0, True), (60, True), (64, True), (65, False), (600, False)):  # 5 s of leeway
        token = mint.access_token(AUDIENCE, auth_time=signed_in - age)
        if good:
            await guard.authenticate(token, max_auth_age=60)
        else:
            with pytest.raises(StepUpRequired):
                await guard.authenticate(token, max_auth_age=60)
        await guard.authenticate(token)  # elsewhere it is as good as ever


async def test_a_token_grows_too_old_while_it_lives(guard: Guard, mint: TokenMint, time: ManualClock) -> None:
    token = mint.access_token(AUDIENCE)
    await guard.authenticate(token, max_auth_age=60)
    time.wall += 66
    with pytest.raises(StepUpRequired):
        await guard.authenticate(token, max_auth_age=60)


async def test_a_client_that_speaks_for_itself_has_signed_nobody_in(guard: Guard, mint: TokenMint) -> None:
    with pytest.raises(StepUpRequired):
        await guard.authenticate(mint.service_token(AUDIENCE), max_auth_age=3600)


async def test_over_http_the_challenge_says_what_would_do(guard: Guard, mint: TokenMint, time: ManualClock) -> None:
    app = FastAPI()
    install_error_handlers(app)

    @app.get("/vault")
    async def vault(principal: Annotated[Principal, Depends(bearer(guard, max_auth_age=300))]) -> str:
        return principal.subject

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://demo") as http:
        old = mint.access_token(AUDIENCE, auth_time=int(time.wall) - 400)
        answer = await http.get("/vault", headers={"authorization": f"Bearer {old}"})
        assert (answer.status_code, answer.json()["reason"]) == (401, "INSUFFICIENT_USER_AUTHENTICATION")
        challenge = 'Bearer error="insufficient_user_authentication", max_age=300'
        assert answer.headers["www-authenticate"] == challenge
        recent = {"authorization": f"Bearer {mint.access_token(AUDIENCE)}"}
        assert (await http.get("/vault", headers=recent)).json() == "usr_alice"


@pytest.fixture
async def channel(guard: Guard) -> AsyncIterator[grpc.aio.Channel]:
    async def open_(_request: bytes, _context: Any) -> bytes:
        return b"open"

    server = grpc.aio.server(interceptors=[GuardInterceptor(guard, {METHOD: Rule(max_auth_age=300)})])
    handler = grpc.unary_unary_rpc_method_handler(open_)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Vault", {"Open": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def test_over_grpc_the_error_says_the_same(channel: grpc.aio.Channel, mint: TokenMint, time: ManualClock) -> None:
    call = channel.unary_unary(METHOD)
    assert await call(b"", metadata=(("authorization", f"Bearer {mint.access_token(AUDIENCE)}"),)) == b"open"
    old = mint.access_token(AUDIENCE, auth_time=int(time.wall) - 400)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(b"", metadata=(("authorization", f"Bearer {old}"),))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert _info(refused.value) == ("INSUFFICIENT_USER_AUTHENTICATION", {"max_age": "300"})


def _info(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(bytes(trailers["grpc-status-details-bin"]))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, dict(info.metadata)


def test_services_say_it_in_the_one_vocabulary() -> None:
    error = understood(StepUpRequired(300))
    assert error is not None
    assert (error.kind.http, error.reason) == (401, "INSUFFICIENT_USER_AUTHENTICATION")
    assert error.headers["www-authenticate"] == 'Bearer error="insufficient_user_authentication", max_age=300'
    info = error_details_pb2.ErrorInfo()
    assert rpc_status(error, request_id="r").details[0].Unpack(info)
    assert dict(info.metadata) == {"kind": "UNAUTHENTICATED", "max_age": "300", "request_id": "r"}
