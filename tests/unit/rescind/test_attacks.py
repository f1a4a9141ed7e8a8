"""Every token of the attack table is refused with its reason: by the verifier, over HTTP and over gRPC."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import grpc
import grpc.aio
import httpx2
import pytest
from fastapi import Depends, FastAPI
from google.rpc import error_details_pb2, status_pb2

from rescind import Feed, Guard, Principal, RemoteKeySet, RescindError, RevokedToken, Verifier
from rescind.fastapi import bearer, install_error_handlers
from rescind.grpc import GuardInterceptor, Rule, current_principal
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint, jwk_of, rsa_key
from support.attacks import ATTACKS, AUDIENCE, SCOPE, Attack, Forge

METHOD = "/test.Service/Whoami"


@dataclass
class Fortress:
    """One guard, reachable on three wires, whose key set counts how often it is fetched."""

    mint: TokenMint
    guard: Guard
    http: httpx2.AsyncClient
    channel: grpc.aio.Channel
    fetches: list[str] = field(default_factory=list)

    async def knock(self, wire: str, token: str) -> tuple[str, str]:
        """What comes of it: the subject or "", and the reason or ""."""
        if wire == "verifier":
            try:
                return (await self.guard.authenticate(token, scopes=frozenset({SCOPE}))).subject, ""
            except RescindError as error:
                refusal = error
            assert token not in str(refusal)
            return "", refusal.reason
        if wire == "http":
            response = await self.http.get("/whoami", headers={"authorization": f"Bearer {token}"})
            if response.status_code == 200:
                return response.json(), ""
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            assert response.headers["content-type"] == "application/problem+json"
            return "", response.json()["reason"]
        call = self.channel.unary_unary(METHOD)
        try:
            return (await call(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=10)).decode(), ""
        except grpc.aio.AioRpcError as error:
            failure = error
        assert failure.code() is grpc.StatusCode.UNAUTHENTICATED
        return "", reason_in(failure)


def reason_in(failure: grpc.aio.AioRpcError) -> str:
    """The reason in google.rpc.ErrorInfo."""
    packed = dict(failure.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(packed).details[0].Unpack(info)  # type: ignore[arg-type]
    assert info.domain == "rescind"
    return info.reason


async def _whoami(_request: bytes, _context: Any) -> bytes:
    return current_principal().subject.encode()


@pytest.fixture
async def fortress() -> AsyncIterator[Fortress]:
    mint = TokenMint()
    fetches: list[str] = []

    async def fetch() -> bytes:
        fetches.append("jwks")
        return json.dumps({"keys": [jwk_of(rsa_key(mint.kid), mint.kid)]}).encode()

    keys = RemoteKeySet(fetch)
    log = MemoryLog(mint)
    feed = Feed(mint.issuer, mint.log_keys, log, log, token_keys=keys, max_staleness=600)
    await keys.refresh()
    await feed.catch_up()
    feed.receive(log.revoke(Entry("token", "taken-back")))
    guard = Guard(Verifier(mint.issuer, AUDIENCE, keys, feed), feed, keys=[keys])

    app = FastAPI()
    install_error_handlers(app)

    @app.get("/whoami")
    async def whoami(principal: Annotated[Principal, Depends(bearer(guard, SCOPE))]) -> str:
        return principal.subject

    server = grpc.aio.server(
        interceptors=[GuardInterceptor(guard, {METHOD: Rule(SCOPE)})],
        options=[("grpc.so_reuseport", 0), ("grpc.max_metadata_size", 64 * 1024)],
    )
    handlers = {"Whoami": grpc.unary_unary_rpc_method_handler(_whoami)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://orders") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        fetches.clear()
        yield Fortress(mint, guard, http, channel, fetches)
    await server.stop(None)


def _cases() -> list[Any]:
    return [
        pytest.param(
            attack, wire, id=f"{attack.name}-{wire}", marks=[pytest.mark.requirement(row) for row in attack.rows]
        )
        for attack in ATTACKS
        for wire in attack.wires
    ]


@pytest.mark.parametrize(("attack", "wire"), _cases())
async def test_refused(fortress: Fortress, attack: Attack, wire: str) -> None:
    forge = Forge(fortress.mint)
    assert await fortress.knock(wire, forge.good) == ("usr_alice", "")
    assert await fortress.knock(wire, attack.forge(forge)) == ("", attack.reason)
    # No header of a token makes us fetch anything. Only an unknown kid may, once, from the one place we know.
    assert fortress.fetches == []


@pytest.mark.parametrize("wire", ["verifier", "http", "grpc"])
@pytest.mark.requirement(20)
async def test_the_good_token_is_good_again_after_every_attack(fortress: Fortress, wire: str) -> None:
    forge = Forge(fortress.mint)
    for attack in ATTACKS:
        if wire in attack.wires:
            await fortress.knock(wire, attack.forge(forge))
    assert await fortress.knock(wire, forge.good) == ("usr_alice", "")


def test_every_attack_has_a_name_of_its_own() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)


def test_what_was_revoked_is_said() -> None:
    refusal = RevokedToken("session", "SIGNED_OUT")
    assert (refusal.kind, refusal.cause, str(refusal)) == ("session", "SIGNED_OUT", "session revoked: SIGNED_OUT")
