"""A service that acts for a person, at a real orders: what it may do there, and how it ends with its parent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from devstack.flow import Browser, OAuthClient, Tokens
from devstack.seeds import NOTIFICATIONS, TOKEN_EXCHANGE
from support.identity_front import ALICE, BOB, LOOPBACK, ORDERS, PASSWORD
from support.running_identity import RunningIdentity, running_identity
from support.running_orders import running_orders

ACCESS = "urn:ietf:params:oauth:token-type:access_token"


@dataclass
class World:
    """Identity and orders, running."""

    identity: RunningIdentity
    orders: str
    http: httpx2.AsyncClient

    @property
    def app(self) -> OAuthClient:
        return OAuthClient(self.http, self.identity.issuer, "mobile", redirect_uri=LOOPBACK)

    async def sign_in(self, email: str, audience: str) -> Tokens:
        scope, resources = "openid offline_access orders:read orders:write notifications:read", [ORDERS, NOTIFICATIONS]
        started = self.app.start(scope=scope, resource=resources)
        code = await self.app.authorize(Browser(self.http, self.identity.issuer), started, email, PASSWORD)
        return await self.app.redeem(started, code, resource=audience)

    async def exchanged(self, tokens: Tokens) -> str:
        service = OAuthClient(self.http, self.identity.issuer, "notifications", secret="notifications-secret")
        answer = await service.token(
            grant_type=TOKEN_EXCHANGE,
            subject_token=tokens.access_token,
            subject_token_type=ACCESS,
            resource=ORDERS,
        )
        return answer.access_token

    async def call(self, method: str, path: str, token: str) -> httpx2.Response:
        body = {"items": [{"sku": "teapot", "quantity": 1}]} if method == "POST" else None
        headers = {"authorization": f"Bearer {token}"}
        return await self.http.request(method, f"{self.orders}{path}", json=body, headers=headers)

    async def refusal(self, token: str) -> str:
        """The reason of the first refusal, of however many calls."""
        async with asyncio.timeout(10):
            while (answer := await self.call("GET", "/v1/orders", token)).status_code == 200:
                pass
        assert answer.status_code == 401
        return str(answer.json()["reason"])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with (
        running_identity(tmp_path) as identity,
        running_orders(tmp_path, identity) as orders,
        httpx2.AsyncClient() as http,
    ):
        yield World(identity, orders, http)


@pytest.mark.requirement(74)
@pytest.mark.requirement(67)
async def test_it_acts_for_this_person_within_its_scope(world: World) -> None:
    own = await world.sign_in(ALICE, ORDERS)
    placed = (await world.call("POST", "/v1/orders", own.access_token)).json()
    parent = await world.app.refresh(own, resource=NOTIFICATIONS)
    token = await world.exchanged(parent)
    listed = (await world.call("GET", "/v1/orders", token)).json()["orders"]
    assert [order["id"] for order in listed] == [placed["id"]]
    refused = await world.call("POST", "/v1/orders", token)
    assert (refused.status_code, refused.json()["reason"]) == (403, "INSUFFICIENT_SCOPE")
    bobs = await world.exchanged(await world.sign_in(BOB, NOTIFICATIONS))
    assert (await world.call("GET", "/v1/orders", bobs)).json()["orders"] == []
    assert (await world.call("GET", f"/v1/orders/{placed['id']}", bobs)).status_code == 404
    assert (await world.call("GET", "/v1/orders", parent.access_token)).status_code == 401  # another audience


@pytest.mark.requirement(21)
@pytest.mark.parametrize("what", ["parent", "grant", "acting client", "first client"])
async def test_it_is_refused_there_with_what_it_came_from(world: World, what: str) -> None:
    parent = await world.sign_in(ALICE, NOTIFICATIONS)
    token = await world.exchanged(parent)
    assert (await world.call("GET", "/v1/orders", token)).status_code == 200
    if what in ("parent", "grant"):
        await world.app.revoke(parent.access_token if what == "parent" else parent.refresh_token or "")
    else:
        await world.identity.parts.accounts.disable_client("notifications" if what == "acting client" else "mobile")
    assert await world.refusal(token) == "TOKEN_REVOKED"
