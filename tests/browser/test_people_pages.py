"""Sign-up, the account and the administration in a real browser, without scripts; and the screenshots in docs/.

`PYTHONPATH=tests python tests/browser/test_people_pages.py docs/screenshots` writes those anew.
"""

import asyncio
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from devstack.flow import OAuthClient
from support.browsers import PATIENCE, chromium
from support.eventually import eventually
from support.identity_front import ADMIN, ALICE, PASSWORD
from support.running_identity import RunningIdentity, running_identity

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
SHAPES = {"phone": (390, 844), "desktop": (1280, 900)}
ADMIN_PAGES = ("users", "clients", "new-client", "keys", "audit")


async def window(browser: Browser, identity: RunningIdentity, shape: str = "desktop", scheme: str = "light") -> Page:
    width, height = SHAPES[shape]
    context: BrowserContext = await browser.new_context(
        base_url=identity.issuer,
        java_script_enabled=False,
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    context.set_default_timeout(PATIENCE)
    return await context.new_page()


@pytest_asyncio.fixture(loop_scope="session")
async def page(identity: RunningIdentity, browser: Browser) -> AsyncIterator[Page]:
    opened = await window(browser, identity)
    yield opened
    await opened.context.close()


async def sign_in(page: Page, email: str) -> None:
    await page.goto("/login")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/account")


def eml(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.eml"))


async def mailed(folder: Path) -> str:
    """The path of the link in the one mail of the outbox."""

    async def arrived() -> list[Path]:
        return eml(folder)

    (file,) = await eventually(arrived, within=20)
    mail = message_from_bytes(file.read_bytes(), policy=policy.default)
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    found = re.search(r"https?://[^/\s]+(/\S+)", text)
    assert found is not None
    return found[1]


async def test_somebody_signs_up_and_ends_everything(page: Page, tmp_path: Path) -> None:
    width, height = SHAPES["phone"]
    await page.set_viewport_size({"width": width, "height": height})
    await page.goto("/login")
    await page.get_by_role("link", name="Create an account").click()
    await page.get_by_label("E-mail").fill("carol@example.com")
    await page.get_by_role("button", name="Send me the link").click()
    await expect(page.get_by_role("heading", name="Look into your mail")).to_be_visible()
    await page.goto(await mailed(tmp_path / "mail"))
    await page.get_by_label("Name").fill("Carol")
    await page.get_by_label("Password").fill("password123")
    await page.get_by_role("button", name="Create the account").click()
    field = page.get_by_label("Password")
    await expect(field).to_have_attribute("aria-invalid", "true")
    described = (await field.get_attribute("aria-describedby") or "").split()
    await expect(page.locator(f"#{described[-1]}")).to_contain_text("first that anybody would try")
    await field.fill("a-lamp-of-purple-glass")
    await page.get_by_role("button", name="Create the account").click()
    await expect(page.get_by_role("heading", name="Carol")).to_be_visible()
    await page.get_by_role("button", name="End everything").click()
    await expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()


async def test_an_administrator_switches_an_account_off(page: Page) -> None:
    await sign_in(page, ADMIN)
    await page.get_by_role("link", name="Administration").click()
    await page.get_by_role("link", name="Alice").click()
    await page.get_by_role("button", name="Switch off").click()
    await expect(page.get_by_role("status")).to_contain_text("switched off")
    await page.get_by_role("link", name="Audit log").click()
    await expect(page.get_by_text("ACCOUNT_DISABLED")).to_be_visible()


@pytest.mark.parametrize("width", [320, 1280])
async def test_nothing_overflows(page: Page, width: int) -> None:
    await page.set_viewport_size({"width": width, "height": 800})
    await sign_in(page, ADMIN)
    for path in ("/account", "/signup", "/reset", *(f"/admin/{name}" for name in ADMIN_PAGES)):
        await page.goto(path)
        box = await page.locator("main").bounding_box()
        assert box is not None
        assert box["x"] >= 0, path
        assert box["x"] + box["width"] <= width, path
        wide = await page.locator("html").bounding_box()
        assert wide is not None
        assert wide["width"] <= width, path


async def take(folder: Path) -> None:
    """Every page in both shapes and schemes."""
    with tempfile.TemporaryDirectory() as data:
        async with running_identity(Path(data)) as identity, chromium() as browser:
            async with httpx2.AsyncClient() as http:
                partner = OAuthClient(
                    http,
                    identity.issuer,
                    "partner",
                    secret="partner-secret",
                    redirect_uri="http://127.0.0.1:7777/callback",
                )
                asked = partner.start(scope="openid profile orders:read offline_access").url
                cli = OAuthClient(http, identity.issuer, "cli")
                device = (await cli.post("/device_authorization", scope="openid profile offline_access")).json()
            for shape in SHAPES:
                for scheme in ("light", "dark"):
                    page = await window(browser, identity, shape, scheme)
                    name = f"identity-{{}}-{shape}-{scheme}.png"
                    for path, what in (("/login", "sign-in"), ("/signup", "sign-up")):
                        await page.goto(path)
                        await page.screenshot(path=folder / name.format(what))
                    await sign_in(page, ALICE)
                    await page.goto(asked)
                    await page.screenshot(path=folder / name.format("consent"))
                    await page.goto(device["verification_uri_complete"])
                    await page.screenshot(path=folder / name.format("device"))
                    await page.get_by_role("button", name="Continue").click()
                    await page.get_by_role("button", name="Allow").wait_for()
                    await page.screenshot(path=folder / name.format("device-consent"))
                    await page.goto("/account")
                    await page.screenshot(path=folder / name.format("account"), full_page=True)
                    await page.context.clear_cookies()
                    await sign_in(page, ADMIN)
                    await page.goto("/admin/users")
                    await page.screenshot(path=folder / name.format("admin"))
                    await page.context.close()


if __name__ == "__main__":
    asyncio.run(take(Path(sys.argv[1])))
