"""Identity's pages in a real browser: what a person sees, and that the browser's own rules let it work."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from devstack.flow import OAuthClient
from identity.door import DEVICE_COOKIE
from identity.web import BROWSER_COOKIE, SESSION_COOKIE
from support.browsers import PATIENCE, Application
from support.identity_front import ALICE, IDENTITY, ORDERS, PASSWORD
from support.running_identity import RunningIdentity

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def context(identity: RunningIdentity, browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser with no past, and without scripts: the pages need none."""
    async with await browser.new_context(base_url=identity.issuer, java_script_enabled=False) as context:
        context.set_default_timeout(PATIENCE)
        yield context


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


async def sign_in(page: Page, password: str = PASSWORD) -> None:
    await page.get_by_label("E-mail").fill(ALICE)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()


async def test_a_person_signs_in_after_a_wrong_password_and_signs_out(page: Page) -> None:
    await page.goto("/")
    await expect(page).to_have_title("Sign in · Rescind")
    await expect(page.get_by_label("E-mail")).to_be_focused()
    await sign_in(page, "wrong-password")
    await expect(page.get_by_role("alert")).to_have_text("E-mail or password is not right.")
    await expect(page.get_by_label("E-mail")).to_have_value(ALICE)
    await expect(page.get_by_label("Password")).to_have_value("")
    await sign_in(page)
    await expect(page.get_by_role("heading", name="Alice")).to_be_visible()
    cookies = {cookie["name"]: cookie for cookie in await page.context.cookies()}
    assert set(cookies) == {SESSION_COOKIE, DEVICE_COOKIE}
    session = cookies[SESSION_COOKIE]
    assert (session["secure"], session["httpOnly"], session["sameSite"], session["path"]) == (True, True, "Lax", "/")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    # What stays knows the browser again, and lets nobody in.
    assert [cookie["name"] for cookie in await page.context.cookies()] == [DEVICE_COOKIE]
    await page.go_back()
    await page.goto("/account")
    await expect(page).to_have_title("Sign in · Rescind")


async def test_the_browser_follows_from_the_form_to_the_client(
    page: Page, identity: RunningIdentity, application: Application
) -> None:
    async with httpx2.AsyncClient() as http:
        client = OAuthClient(http, identity.issuer, "mobile", redirect_uri=application.url + "callback")
        await page.goto(client.start(scope="openid orders:read", resource=[IDENTITY, ORDERS]).url)
        await expect(page.get_by_text("to continue to Rescind mobile")).to_be_visible()
        await sign_in(page)
        await expect(page.get_by_role("heading", name="The application")).to_be_visible()
    assert application.arrived[0].startswith(application.url + "callback?code=")


async def test_a_third_party_is_allowed_and_another_time_denied(
    page: Page, identity: RunningIdentity, application: Application
) -> None:
    async with httpx2.AsyncClient() as http:
        client = OAuthClient(
            http, identity.issuer, "partner", secret="partner-secret", redirect_uri=application.url + "callback"
        )
        await page.goto(client.start(scope="openid orders:read", resource=[IDENTITY, ORDERS]).url)
        await sign_in(page)
        await expect(page.get_by_role("heading", name="Allow Partner Analytics?")).to_be_visible()
        await expect(page.get_by_text("See your orders")).to_be_visible()
        await page.get_by_role("button", name="Allow").click()
        await expect(page.get_by_role("heading", name="The application")).to_be_visible()
        assert "code=" in application.arrived[-1]
        await page.goto(client.start(scope="openid").url)
        await page.get_by_role("button", name="Deny").click()
        await expect(page.get_by_role("heading", name="The application")).to_be_visible()
        assert "error=access_denied" in application.arrived[-1]


async def test_a_password_is_changed_by_keyboard(page: Page) -> None:
    await page.goto("/login")
    await sign_in(page)
    await page.get_by_label("Current password").fill(PASSWORD)
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("New password")).to_be_focused()
    await page.keyboard.type("another-good-password")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_contain_text("The password has been changed")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
async def test_nothing_overflows_and_nothing_comes_from_elsewhere(
    page: Page, scheme: str, width: int, tmp_path: Path
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    await page.set_viewport_size({"width": width, "height": 800})
    for path in ("/login", "/signed-out", "/authorize?client_id=nobody"):
        await page.goto(path)
        box = await page.locator("main").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    origin = page.url.partition("/authorize")[0]
    assert all(url.startswith(origin + "/") for url in asked)
    assert {url.partition("?")[0].removeprefix(origin) for url in asked} >= {"/static/identity.css", "/static/icon.svg"}


async def test_the_name_of_the_cookie_for_signing_in_is_as_strict(page: Page) -> None:
    await page.goto("/login")
    (cookie,) = await page.context.cookies()
    assert (cookie["name"], cookie["secure"], cookie["httpOnly"]) == (BROWSER_COOKIE, True, True)
