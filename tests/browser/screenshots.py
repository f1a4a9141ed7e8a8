"""Makes docs/screenshots anew from the running system. Not among the tests; run it by its name:

    .venv/bin/python -m pytest tests/browser/screenshots.py

Each picture is one window's height, as somebody sees it: a desk in light, a phone in dark.
"""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from devstack.seeds import ADMIN
from support.browsers import NewWindow, go, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
LARGEST = 150 * 1024  # bytes: they live in the repository for ever
LOOKS = {"desk": ("light", 1280, 900), "desk-dark": ("dark", 1280, 900), "phone": ("light", 390, 844)}
LOOKS |= {"phone-dark": ("dark", 390, 844)}


async def order_something(page: Page) -> None:
    """Two pieces are ordered, and one lies in the basket."""
    add = page.get_by_role("button", name=re.compile("^Add to the basket"))
    for place in (0, 2):
        await add.nth(place).click()
    await page.get_by_role("button", name="Place order").click()
    await expect(page.get_by_label("Status: placed").first).to_be_visible()
    await add.nth(1).click()


async def take_back(page: Page) -> None:
    """A token is stolen, used, and taken back."""
    await page.get_by_role("button", name="Steal my token").click()
    thief = page.get_by_role("region", name="A stolen token").get_by_role("status")
    await expect(thief).to_have_text("Accepted.")
    await expect(page.locator(".strip .bars .accepted")).to_have_count(24)
    await page.get_by_role("button", name="Take it back").click()
    await expect(thief).to_contain_text("Refused")
    await expect(page.locator(".strip .bars .refused")).not_to_have_count(0)
    await page.locator(".control").scroll_into_view_if_needed()
    await page.evaluate("document.querySelector('.control').scrollIntoView(); scrollBy(0, -80)")


async def nothing(page: Page) -> None:
    """The page as it opens."""
    await expect(page.locator(".loading")).to_have_count(0)


SCENES: dict[str, tuple[str, Callable[[Page], Awaitable[None]]]] = {
    "shop": ("Shop", order_something),
    "devices": ("Devices", nothing),
    "lab": ("Token lab", nothing),
    "control": ("Control room", take_back),
}


@pytest.mark.parametrize("look", LOOKS)
async def test_pictures(new_window: NewWindow, look: str) -> None:
    scheme, width, height = LOOKS[look]
    mine = await new_window(color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce")
    FOLDER.mkdir(exist_ok=True)

    async def picture(name: str) -> None:
        path = FOLDER / f"{name}-{look}.png"
        assert len(await mine.page.screenshot(path=path)) <= LARGEST, path.name

    await opened(mine.page, "/")
    await picture("landing")
    await sign_in(mine.page, ADMIN)
    for name, (title, prepare) in SCENES.items():
        if width < 900:
            await opened(mine.page, f"/#/{name}")
        else:
            await go(mine.page, title)
        await prepare(mine.page)
        await picture(name)
