"""Identity's pages for everybody: axe-core finds nothing serious in any of them, nor in what they say of mistakes."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from sqlalchemy import insert, literal, select

from devstack.flow import OAuthClient
from identity.people.storage import user_identities
from identity.storage import users
from support.axe import violations
from support.browsers import PATIENCE
from support.identity_front import ADMIN, ALICE, LOOPBACK, PASSWORD
from support.running_identity import RunningIdentity, running_identity
from support.signing_in_elsewhere import ACME

pytestmark = [pytest.mark.browser, pytest.mark.node, pytest.mark.asyncio(loop_scope="session")]
ADMIN_PAGES = ("users", "clients", "new-client", "keys", "audit")


@pytest_asyncio.fixture(loop_scope="session")
async def identity(tmp_path: Path) -> AsyncIterator[RunningIdentity]:
    """One that offers another way to sign in, which Alice has connected."""
    async with running_identity(tmp_path, providers=json.dumps([ACME])) as identity:
        connected = insert(user_identities).from_select(
            ["provider", "subject", "user_id", "shown_as", "linked_at"],
            select(literal("acme"), literal("acme-alice"), users.c.id, literal(ALICE), literal(1)).where(
                users.c.email == ALICE
            ),
        )
        await identity.parts.database.run(lambda tx: tx.execute(connected))
        yield identity


@pytest_asyncio.fixture(loop_scope="session", params=[("light", 1280), ("dark", 390)], ids=lambda shape: shape[0])
async def page(identity: RunningIdentity, browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """A browser with no past; scripts are on, because axe-core is one."""
    scheme, width = request.param
    async with await browser.new_context(
        base_url=identity.issuer, color_scheme=scheme, viewport={"width": width, "height": 844}
    ) as context:
        context.set_default_timeout(PATIENCE)
        yield await context.new_page()


async def sign_in(page: Page, email: str, password: str = PASSWORD) -> None:
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


async def test_what_everybody_sees(identity: RunningIdentity, page: Page, npm: Path) -> None:
    found: list[str] = []
    for path in ("/login", "/signup", "/reset", "/signed-out", "/authorize?client_id=nobody"):
        await page.goto(path)
        found += await violations(page, npm, path)
    await page.goto("/login")
    await sign_in(page, ALICE, "wrong-password")
    await expect(page.get_by_role("alert")).to_be_visible()
    found += await violations(page, npm, "refused")
    await page.goto("/signup")
    await page.get_by_label("E-mail").fill("carol@example.com")
    await page.get_by_role("button", name="Send me the link").click()
    await expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    found += await violations(page, npm, "mail is on its way")
    assert found == []


async def test_what_somebody_who_is_signed_in_sees(identity: RunningIdentity, page: Page, npm: Path) -> None:
    found: list[str] = []
    await page.goto("/login")
    await sign_in(page, ALICE)
    await expect(page.get_by_role("heading", name="Alice")).to_be_visible()
    await expect(page.get_by_role("button", name="Disconnect Acme")).to_be_visible()
    found += await violations(page, npm, "account")
    await page.get_by_label("Your password, to disconnect Acme").fill("wrong-password")
    await page.get_by_role("button", name="Disconnect Acme").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    found += await violations(page, npm, "account, not disconnected")
    async with httpx2.AsyncClient() as http:
        partner = OAuthClient(http, identity.issuer, "partner", secret="partner-secret", redirect_uri=LOOPBACK)
        await page.goto(partner.start(scope="openid profile orders:read offline_access").url)
        await expect(page.get_by_role("heading", name="Allow Partner Analytics?")).to_be_visible()
        found += await violations(page, npm, "consent")
        cli = OAuthClient(http, identity.issuer, "cli")
        device = (await cli.post("/device_authorization", scope="openid profile offline_access")).json()
    await page.goto("/device")
    found += await violations(page, npm, "device")
    await page.get_by_label("Code").fill("BBBB-BBBB")
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    found += await violations(page, npm, "device, wrong code")
    await page.get_by_label("Code").fill(device["user_code"])
    await page.get_by_role("button", name="Continue").click()
    await expect(page.get_by_role("heading", name="Allow Rescind at the command line?")).to_be_visible()
    found += await violations(page, npm, "device, to be allowed")
    await page.get_by_role("button", name="Allow").click()
    await expect(page.get_by_role("heading", name="Your device is signed in")).to_be_visible()
    found += await violations(page, npm, "device, allowed")
    await page.goto("/end_session?client_id=mobile")
    await expect(page.get_by_role("heading", name="Sign out?")).to_be_visible()
    found += await violations(page, npm, "end_session")
    assert found == []


async def test_what_an_administrator_sees(identity: RunningIdentity, page: Page, npm: Path) -> None:
    found: list[str] = []
    assert page.context.browser is not None
    elsewhere = await (await page.context.browser.new_context(base_url=identity.issuer)).new_page()
    await elsewhere.goto("/login")
    await sign_in(elsewhere, ALICE)
    await elsewhere.wait_for_url("**/account")
    await page.goto("/login")
    await sign_in(page, ADMIN)
    await page.wait_for_url("**/account")
    for name in ADMIN_PAGES:
        await page.goto(f"/admin/{name}")
        await expect(page.locator("main")).to_be_visible()
        found += await violations(page, npm, name)
    await page.goto("/admin/users")
    await page.get_by_role("link", name="Alice").click()
    await expect(page.get_by_role("button", name="Switch off")).to_be_visible()
    await expect(page.get_by_role("button", name="End the session of")).to_be_visible()
    found += await violations(page, npm, "one account")
    assert found == []
