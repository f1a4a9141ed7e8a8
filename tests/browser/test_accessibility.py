"""The pages for everybody: axe-core finds nothing serious, nothing overflows, and a keyboard is enough."""

from pathlib import Path

import pytest
from playwright.async_api import expect

from devstack.seeds import ADMIN
from support.axe import violations
from support.browsers import NewWindow, Web, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
PAGES = {"shop": "Shop", "devices": "Devices", "lab": "Token lab", "orders": "Orders", "control": "Control room"}
PAGES |= {"preferences": "Preferences"}


@pytest.mark.node
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
async def test_axe_finds_nothing_serious_and_nothing_overflows(
    new_window: NewWindow, npm: Path, scheme: str, width: int
) -> None:
    mine = await new_window(color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    page = mine.page
    found: list[str] = []

    async def look(where: str) -> None:
        found.extend(await violations(page, npm, where))
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{where}: wider than the window")

    await opened(page, "/")
    await look("landing")
    await sign_in(page, ADMIN)
    for path, title in PAGES.items():
        await opened(page, f"/#/{path}")
        await expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
        await expect(page.locator(".loading")).to_have_count(0)
        await look(path)
    await page.get_by_role("button", name="Account of").click()
    await look("account menu")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Inbox,").click()
    await look("inbox")
    assert found == []


async def test_everything_is_reached_by_keyboard(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ADMIN)
    await opened(mine.page, "/#/devices")
    await mine.page.keyboard.press("Tab")
    await expect(mine.page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await mine.page.keyboard.press("Enter")
    await expect(mine.page.get_by_role("main")).to_be_focused()
    await mine.page.keyboard.press("Tab")
    await mine.page.keyboard.press("Tab")
    await expect(mine.page.get_by_role("button", name="Sign out everywhere")).to_be_focused()
    await mine.page.keyboard.press("Enter")
    dialog = mine.page.get_by_role("dialog")
    await expect(dialog).to_be_visible()
    await mine.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(mine.page.get_by_role("button", name="Sign out everywhere")).to_be_focused()


@pytest.mark.requirement(35)
async def test_nothing_comes_from_elsewhere_and_nothing_is_inline(new_window: NewWindow, web: Web) -> None:
    mine = await new_window()
    complaints: list[str] = []
    mine.page.on(
        "console", lambda said: complaints.append(said.text) if "Content Security Policy" in said.text else None
    )
    asked: list[str] = []
    mine.page.on("request", lambda request: asked.append(request.url))
    await sign_in(mine.page, ADMIN)
    for path in PAGES:
        await opened(mine.page, f"/#/{path}")
    known = (web.url + "/", web.stack.addresses.issuer + "/", "about:blank")
    assert [url for url in asked if not url.startswith(known)] == []
    assert complaints == []
