"""The device page in a real browser, without scripts: from a link to "your device is signed in"."""

from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from devstack.flow import OAuthClient, Refused
from devstack.seeds import DEVICE_CODE
from support.browsers import PATIENCE
from support.identity_front import ALICE, PASSWORD
from support.running_identity import RunningIdentity

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def page(identity: RunningIdentity, browser: Browser) -> AsyncIterator[Page]:
    async with await browser.new_context(
        base_url=identity.issuer, java_script_enabled=False, viewport={"width": 390, "height": 844}
    ) as context:
        context.set_default_timeout(PATIENCE)
        yield await context.new_page()


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
