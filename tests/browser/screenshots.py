"""Makes docs/screenshots anew from the running system. Not among the tests; run it by its name:

    .venv/bin/python -m pytest tests/browser/screenshots.py

Each picture is one window's height, as somebody sees it: a desk in light, a phone in dark.
"""

import re
import struct
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from devstack.seeds import ADMIN
from support.browsers import NewWindow, go, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
CONTROL_ROOM = 1030  # pixels: high enough for all that goes on in it
LARGEST = 150 * 1024  # bytes: they live in the repository for ever
LOOKS = {"desk": ("light", 1280, 760), "desk-dark": ("dark", 1280, 760), "phone": ("light", 390, 844)}
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
    await expect(page.locator(".strip .bars .accepted").nth(23)).to_be_attached()
    await page.get_by_role("button", name="Take it back").click()
    await expect(thief).to_contain_text("Refused")
    await expect(page.locator(".strip .bars .refused").nth(15)).to_be_attached()
    await page.evaluate("document.querySelector('.control').scrollIntoView(); scrollBy(0, -70)")


async def nothing(page: Page) -> None:
    """The page as it opens."""
    await expect(page.locator(".loading")).to_have_count(0)


def smaller(png: bytes) -> bytes:
    """The same picture, its pixels compressed as well as zlib can: browsers are in a hurry."""
    packed, rest, place = b"", [], 8
    while place < len(png):
        (size,) = struct.unpack_from(">I", png, place)
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        packed, rest = (packed + data, rest) if kind == b"IDAT" else (packed, [*rest, (kind, data)])
        place += size + 12
    chunks = [*rest[:-1], (b"IDAT", zlib.compress(zlib.decompress(packed), 9)), rest[-1]]
    return png[:8] + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


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
        path.write_bytes(smaller(await mine.page.screenshot()))
        assert path.stat().st_size <= LARGEST, path.name

    await opened(mine.page, "/")
    await picture("landing")
    await sign_in(mine.page, ADMIN)
    for name, (title, prepare) in SCENES.items():
        if width < 900:
            await opened(mine.page, f"/#/{name}")
        else:
            await go(mine.page, title)
        if name == "control" and width > 900:
            await mine.page.set_viewport_size({"width": width, "height": CONTROL_ROOM})
        await prepare(mine.page)
        if name != "shop":  # where it is news
            for close in await mine.page.get_by_role("region", name="News").get_by_role("button").all():
                await close.click()
        await picture(name)
