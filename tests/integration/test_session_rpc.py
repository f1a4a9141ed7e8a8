"""SessionsService: cookies resolved for gateways and for nobody else; people's own sessions for their other apps."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from contracts.session.v1 import sessions_pb2 as pb
from contracts.session.v1 import sessions_pb2_grpc
from devstack.flow import Browser, OAuthClient
from devstack.seeds import client_secret
from devstack.story.scene import claims_of
from rescind import Verifier
from servicekit.clients import told
from servicekit.errors import ServiceError
from session.app import build
from session.settings import Settings
from support.session_window import BOB, PASSWORD, Window
from support.session_world import World, running

pytestmark = pytest.mark.asyncio(loop_scope="session")
SESSION, ORDERS = "urn:rescind:session", "urn:rescind:orders"


@pytest_asyncio.fixture(loop_scope="session")
async def stub(world: World) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{world.ports.grpc}") as channel:
        yield sessions_pb2_grpc.SessionsServiceStub(channel)


async def _signed_in(world: World) -> Window:
    window = world.window()
    await window.sign_in(BOB)
    return window


async def _of_client(world: World, client_id: str) -> str:
    client = OAuthClient(world.http, world.issuer, client_id, secret=client_secret(client_id))
    return (await client.client_credentials(resource=SESSION)).access_token


async def _of_bob(world: World) -> str:
    mobile = OAuthClient(world.http, world.issuer, "mobile", redirect_uri="http://127.0.0.1:7777/callback")
    browser = Browser(world.http, world.issuer)
    return (await mobile.sign_in(browser, BOB, PASSWORD, scope="openid", resource=SESSION)).access_token


async def _refused(call: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call
    return told(failure.value)


def _as(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),), "timeout": 10}


async def test_a_gateway_learns_who_a_cookie_speaks_for_and_gets_a_token_for_one_service(
    world: World, stub: Any
) -> None:
    window, gateway = await _signed_in(world), await _of_client(world, "gateway")
    answer = await stub.Resolve(pb.ResolveRequest(cookie=window.secret, audience=ORDERS), **_as(gateway))
    me = (await window.get("/api/me")).json()
    assert (answer.subject, answer.sid, answer.session_id) == (me["subject"], me["sid"], me["session_id"])
    guard = world.session.background[0].__self__  # type: ignore[attr-defined]
    verifier: Verifier = guard.verifier.for_audience(ORDERS)
    assert verifier.verify(answer.access_token).subject == me["subject"]
    without = await stub.Resolve(pb.ResolveRequest(cookie=window.secret), **_as(gateway))
    assert (without.subject, without.access_token) == (me["subject"], "")


async def test_a_cookie_that_is_none_is_not_found(world: World, stub: Any) -> None:
    gateway = await _of_client(world, "gateway")
    for cookie in ("", "x", "A" * 43):
        refused = await _refused(stub.Resolve(pb.ResolveRequest(cookie=cookie), **_as(gateway)))
        assert refused.kind.rpc is grpc.StatusCode.NOT_FOUND
    window = await _signed_in(world)
    await window.post("/auth/logout")


@pytest.mark.requirement(6)
async def test_nobody_else_may_present_cookies(world: World, stub: Any) -> None:
    window, bob = await _signed_in(world), await _of_bob(world)
    request = pb.ResolveRequest(cookie=window.secret)
    assert (await _refused(stub.Resolve(request, **_as(bob)))).reason == "NOT_A_RESOLVER"
    backoffice = OAuthClient(world.http, world.issuer, "backoffice", secret=client_secret("backoffice"))
    other = (await backoffice.client_credentials(resource=ORDERS)).access_token
    assert (await _refused(stub.Resolve(request, **_as(other)))).kind.http == 401
    assert (await _refused(stub.Resolve(request, timeout=10))).reason == "TOKEN_MISSING"


async def test_there_are_tokens_for_known_services_only(world: World, stub: Any) -> None:
    window, gateway = await _signed_in(world), await _of_client(world, "gateway")
    request = pb.ResolveRequest(cookie=window.secret, audience="urn:rescind:evil")
    assert (await _refused(stub.Resolve(request, **_as(gateway)))).reason == "AUDIENCE_UNKNOWN"


async def test_a_person_lists_and_ends_their_own_sessions_from_another_app(world: World, stub: Any) -> None:
    await world.revoke(subject=world.subject(BOB))
    one, two, bob = await _signed_in(world), await _signed_in(world), await _of_bob(world)
    listed = (await stub.List(pb.ListRequest(), **_as(bob))).sessions
    names = [(await window.get("/api/me")).json()["session_id"] for window in (one, two)]
    assert {session.id for session in listed} == set(names)
    assert (await stub.Revoke(pb.RevokeRequest(session_id=names[0]), **_as(bob))).ended == 1
    assert (await one.get("/api/me")).status_code == 401
    assert (await stub.Revoke(pb.RevokeRequest(all=True), **_as(bob))).ended == 1
    assert (await two.get("/api/me")).status_code == 401
    missing = pb.RevokeRequest(session_id="ses_AAAAAAAAAAAAAAAAAAAAAA")
    assert (await _refused(stub.Revoke(missing, **_as(bob)))).reason == "SESSION_NOT_FOUND"
    assert (await _refused(stub.Revoke(pb.RevokeRequest(), **_as(bob)))).reason == "VALIDATION_FAILED"


@pytest.mark.requirement(67)
async def test_a_service_that_acts_for_a_person_ends_none_of_their_sessions(world: World, stub: Any) -> None:
    await _signed_in(world)
    claims = claims_of(await _of_bob(world))
    acting = {"sub": "svc_orders", "act": {"sub": "svc_mobile", "cgen": claims["cgen"]}}
    stamps = {name: claims[name] for name in ("gid", "gen", "cgen", "sid", "auth_time")} | {
        "ojti": claims["jti"],
        "act": acting,
    }
    issuer, not_after = world.parts.issuer, claims["exp"] * 1000
    token = world.parts.database.run_sync(
        lambda tx: issuer.sign(tx, claims["sub"], "orders", SESSION, "openid", stamps, not_after=not_after)
    ).token
    assert (await _refused(stub.List(pb.ListRequest(), **_as(token)))).reason == "ACTED_FOR"
    assert (await _refused(stub.Revoke(pb.RevokeRequest(all=True), **_as(token)))).reason == "ACTED_FOR"


async def test_a_client_has_no_sessions(world: World, stub: Any) -> None:
    gateway = await _of_client(world, "gateway")
    assert (await _refused(stub.List(pb.ListRequest(), **_as(gateway)))).reason == "PERSON_REQUIRED"


async def test_everything_is_ended_also_where_identity_cannot_be_told(world: World) -> None:
    """Each signs itself out here; that one's word did not reach identity keeps none of the others in."""
    windows, bob = [await _signed_in(world) for _ in range(3)], await _of_bob(world)
    settings = Settings(**(world.settings.model_dump() | {"http_port": 0, "identity_grpc": "127.0.0.1:1"}))
    cut_off = build(settings, hands=replace(world.hands, finish_every=3600))
    async with running(cut_off) as ports, grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
        world.wire.cut = True
        there: Any = sessions_pb2_grpc.SessionsServiceStub(channel)
        refused = await _refused(there.Revoke(pb.RevokeRequest(all=True), **_as(bob) | {"timeout": 60}))
        assert refused.reason == "SIGNED_OUT_HERE_ONLY"
        world.wire.cut = False
    assert [(await window.get("/api/me")).status_code for window in windows] == [401] * 3
