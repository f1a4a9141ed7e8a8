"""The device page in a real browser, without scripts: from a link to "your device is signed in"."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Page, async_playwright, expect

from devstack.flow import OAuthClient, Refused
from devstack.seeds import DEVICE_CODE
from support.identity_front import ALICE, PASSWORD
from support.requirements import CHROMIUM
from support.running_identity import RunningIdentity, running_identity

pytestmark = pytest.mark.browser
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[RunningIdentity]:
    async with running_identity(tmp_path) as identity:
        yield identity


@pytest.fixture
async def page(identity: RunningIdentity) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(
            base_url=identity.issuer, java_script_enabled=False, viewport={"width": 390, "height": 844}
        )
        context.set_default_timeout(10_000)
        yield await context.new_page()
        await browser.close()


async def test_a_person_lets_a_device_in(identity: RunningIdentity, page: Page) -> None:
    async with httpx2.AsyncClient() as http:
        cli = OAuthClient(http, identity.issuer, "cli")
        device = (await cli.post("/device_authorization", scope="openid profile offline_access")).json()
        await page.goto(device["verification_uri_complete"])
        await page.get_by_label("E-mail").fill(ALICE)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()

        code = page.get_by_label("Code")
        await expect(code).to_have_value(device["user_code"])
        await code.fill("BBBB-BBBB")
        await page.get_by_role("button", name="Continue").click()
        await expect(page.get_by_role("alert")).to_contain_text("not right")
        await page.get_by_label("Code").fill(device["user_code"].lower())
        await page.get_by_role("button", name="Continue").click()

        await expect(page.get_by_role("heading")).to_have_text("Allow Rescind at the command line?")
        await expect(page.get_by_text(device["user_code"])).to_be_visible()
        await expect(page.get_by_role("listitem")).to_have_count(3)
        with pytest.raises(Refused):
            await cli.token(grant_type=DEVICE_CODE, device_code=device["device_code"])
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading")).to_have_text("Your device is signed in")
        tokens = await cli.token(grant_type=DEVICE_CODE, device_code=device["device_code"])
    assert tokens.scope == "offline_access openid profile"
    assert tokens.refresh_token
