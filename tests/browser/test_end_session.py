"""Signing out at a client's wish, in a real browser: its own rules let the form lead on to the client."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from sqlalchemy import update

from devstack.flow import OAuthClient
from identity.door import DEVICE_COOKIE
from identity.storage import clients
from support.browsers import PATIENCE, Application
from support.identity_front import ALICE, PASSWORD
from support.running_identity import RunningIdentity, running_identity

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def identity(tmp_path: Path, application: Application) -> AsyncIterator[RunningIdentity]:
    async with running_identity(tmp_path) as identity:
        addresses = {"post_logout_redirect_uris": [application.url], "redirect_uris": [application.url]}
        registered = update(clients).where(clients.c.id == "mobile").values(addresses)
        await identity.parts.database.run(lambda tx: tx.execute(registered))
        yield identity


@pytest_asyncio.fixture(loop_scope="session")
async def page(identity: RunningIdentity, browser: Browser) -> AsyncIterator[Page]:
    """A browser with no past and without scripts, in which alice is signed in."""
    async with await browser.new_context(base_url=identity.issuer, java_script_enabled=False) as context:
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        await page.goto("/login")
        await page.get_by_label("E-mail").fill(ALICE)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="Alice")).to_be_visible()
        yield page


@pytest.mark.requirement(60)
async def test_the_person_is_asked_and_may_stay_or_go_on_to_the_application(
    page: Page, application: Application
) -> None:
    asked = urlencode({"client_id": "mobile", "post_logout_redirect_uri": application.url, "state": "s"})
    await page.goto(f"/end_session?{asked}")
    await expect(page.get_by_role("heading", name="Sign out?")).to_be_visible()
    await expect(page.get_by_text("Rescind mobile asks to sign you out")).to_be_visible()
    await page.get_by_role("link", name="Stay signed in").click()
    await expect(page.get_by_role("heading", name="Alice")).to_be_visible()
    await page.goto(f"/end_session?{asked}")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="The application")).to_be_visible()
    assert application.arrived == [application.url + "?state=s"]
    # That this browser is known outlives a sign-out.
    assert [cookie["name"] for cookie in await page.context.cookies()] == [DEVICE_COOKIE]


@pytest.mark.requirement(60)
async def test_the_client_that_signed_in_goes_through_without_a_question(
    page: Page, application: Application, identity: RunningIdentity
) -> None:
    async with httpx2.AsyncClient() as http:
        client = OAuthClient(http, identity.issuer, "mobile", redirect_uri=application.url)
        started = client.start(scope="openid")
        await page.goto(started.url)
        tokens = await client.redeem(started, client.code_from(started, application.arrived.pop()))
    asked = urlencode({"id_token_hint": tokens.id_token or "", "post_logout_redirect_uri": application.url})
    await page.goto(f"/end_session?{asked}")
    await expect(page.get_by_role("heading", name="The application")).to_be_visible()
    assert application.arrived == [application.url]
    # That this browser is known outlives a sign-out.
    assert [cookie["name"] for cookie in await page.context.cookies()] == [DEVICE_COOKIE]
