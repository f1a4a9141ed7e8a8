"""The example of a third party, started by its own command: connected, calling orders, and out again."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import select

from devstack.flow import Browser, OAuthClient, Page
from identity.storage import grants
from support.eventually import eventually
from support.identity_front import ALICE, LOOPBACK, ORDERS, PASSWORD
from support.running_identity import RunningIdentity, running_identity
from support.running_orders import running_orders

APP = Path(__file__).parents[2] / "examples" / "partner" / "app.py"


@dataclass
class World:
    """A person's two tabs: the partner's page, and identity."""

    identity: RunningIdentity
    partner: Browser
    at_identity: Browser

    async def connect(self, decision: str = "allow") -> Page:
        """From the partner's link to where it leads back to."""
        asked = await self.partner.walk(await self.partner.get("/connect"))
        assert isinstance(asked, str)
        arrived = await self.at_identity.walk(await self.at_identity.get(asked))
        if isinstance(arrived, Page) and any(form.action.endswith("/login") for form in arrived.forms):
            arrived = await self.at_identity.submit(arrived, "/login", email=ALICE, password=PASSWORD)
        assert isinstance(arrived, Page)
        assert "Partner Analytics" in arrived.text
        arrived = await self.at_identity.submit(arrived, "/consent", decision=decision)
        assert isinstance(arrived, str)
        page = await self.partner.walk(await self.partner.get(arrived))
        assert isinstance(page, Page)
        return page

    async def front(self) -> str:
        return (await self.partner.open("/")).text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_identity(tmp_path) as identity, running_orders(tmp_path, identity) as orders_url:
        port = _free_port()
        command = (str(APP), "--issuer", identity.issuer, "--orders", orders_url, "--port", str(port))
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        try:
            async with httpx2.AsyncClient() as http:

                async def up() -> bool:
                    try:
                        return (await http.get(f"http://127.0.0.1:{port}/")).status_code == 200
                    except httpx2.ConnectError:
                        return False

                await eventually(up, within=30)
                app = OAuthClient(http, identity.issuer, "mobile", redirect_uri=LOOPBACK)
                tokens = await app.sign_in(
                    Browser(http, identity.issuer), ALICE, PASSWORD, scope="orders:write", resource=ORDERS
                )
                order = {"items": [{"sku": "teapot", "quantity": 1}]}
                bearing = {"authorization": f"Bearer {tokens.access_token}"}
                placed = await http.post(f"{orders_url}/v1/orders", json=order, headers=bearing)
                assert placed.status_code == 201, placed.text
                yield World(identity, Browser(http, f"http://127.0.0.1:{port}"), Browser(http, identity.issuer))
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.requirement(61)
async def test_a_third_party_gets_in_and_is_out_when_the_person_says_so(world: World) -> None:
    page = await world.connect()
    assert "Your orders (1)" in page.text
    assert "placed" in page.text
    parts = world.identity.parts
    query = select(grants.c.id).where(grants.c.client_id == "partner")
    gid = await parts.database.read(lambda tx: tx.execute(query).scalar_one())
    await parts.administration.revoke("grant", gid, cause="GRANT_WITHDRAWN")

    async def out() -> bool:
        return "Access was withdrawn" in await world.front()

    await eventually(out, within=10)
    assert "Connect with Rescind" in await world.front()


async def test_a_third_party_leaves_by_itself(world: World) -> None:
    arrived = await world.partner.submit(await world.connect(), "/disconnect")
    assert isinstance(arrived, Page)
    assert "Connect with Rescind" in arrived.text


async def test_no_is_an_answer_and_a_foreign_one_is_none(world: World) -> None:
    assert "You said no (access_denied)" in (await world.connect("deny")).text
    asked = await world.partner.walk(await world.partner.get("/connect"))
    assert isinstance(asked, str)
    for forged in ("code=x&state=y", "code=x", f"code=x&state=&iss={world.identity.issuer}"):
        page = await world.partner.open(f"/callback?{forged}")
        assert "not to a question of ours" in page.text
