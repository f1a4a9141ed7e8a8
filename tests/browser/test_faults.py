"""The buttons that break things, pressed one after another: what the control room shows, and what a thief gets."""

import contextlib
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from devstack.control import controlled
from devstack.seeds import ADMIN
from devstack.target import StackError
from support.browsers import NewWindow, Web, Window, go, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
DONE = 40_000  # milliseconds that a part has to come back
SERVICES = ("notifications", "orders", "session")


@pytest_asyncio.fixture(loop_scope="session")
async def mine(web: Web, new_window: NewWindow) -> AsyncIterator[Window]:
    """The control room of the system that all tests here use; it is whole again afterwards."""
    async with controlled(web.stack, web.folder):
        mine = await new_window()
        await sign_in(mine.page, ADMIN)
        await go(mine.page, "Control room")
        yield mine
        for part in ("redis", "identity"):
            with contextlib.suppress(StackError):  # it runs
                await web.stack.fault("start", part)


async def press(page: Page, label: str) -> None:
    """Presses one of the panel's buttons, and waits until it is done."""
    news = page.get_by_role("region", name="News")
    await page.get_by_role("button", name=label, exact=True).click()
    await expect(news).to_contain_text(f"Done: {label.lower()}", timeout=DONE)
    for close in await news.get_by_role("button").all():
        await close.click()


async def verifiers_are(page: Page, freshness: str) -> None:
    """What the table says of each, in the end."""
    table = page.get_by_role("region", name="Processes that verify").get_by_role("table")
    for service in SERVICES:
        row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=service))
        await expect(row.get_by_text(freshness, exact=True)).to_be_visible()


async def steal(page: Page) -> Locator:
    """Where it says what the thief gets, who has got in."""
    thief = page.get_by_role("region", name="A stolen token")
    await thief.get_by_role("button", name="Steal my token and use it").click()
    await expect(thief.get_by_role("status")).to_contain_text("Accepted")
    return thief.get_by_role("status")


async def take_it_back(page: Page) -> None:
    """The stolen token: the newest of the person's for orders."""
    await page.get_by_role("button", name=re.compile("my token for orders")).click()
    await page.get_by_role("button", name="Take it back").click()


@pytest.mark.requirement(21)
async def test_what_the_page_shows_of_each_fault(mine: Window) -> None:
    page = mine.page
    identity_is_silent = page.get_by_text("Identity does not say how it stands")
    thief = await steal(page)

    # Identity goes: what was issued is still judged, here and at orders, and nothing old is shown as if it were so.
    await press(page, "Stop identity")
    await expect(identity_is_silent).to_be_visible()
    await verifiers_are(page, "UNKNOWN")
    await expect(thief).to_have_text("Accepted.")
    await press(page, "Start identity")
    await expect(identity_is_silent).to_have_count(0)
    await verifiers_are(page, "FRESH")

    # Redis goes: verifiers ask identity instead, so they are fresh, and a token that is taken back is refused.
    await press(page, "Stop redis")
    await verifiers_are(page, "FRESH")
    await take_it_back(page)
    await expect(thief).to_contain_text(re.compile("^Refused, first seen .* TOKEN_REVOKED"))
    receipts = page.get_by_role("region", name="Receipts")
    await expect(receipts.get_by_role("status")).to_contain_text(re.compile(r"applied by (\d+) of \1 verifiers"))

    # It comes back empty, and is emptied once more: nothing that was taken back is let in again.
    for label in ("Start redis", "Empty redis"):
        await press(page, label)
        await verifiers_are(page, "FRESH")
        await expect(thief).to_contain_text("TOKEN_REVOKED")
    await expect(page.get_by_role("img", name="The stolen token is refused")).to_be_visible()

    # What came in the place of the stolen token is good, and is the next to be stolen.
    await page.get_by_role("button", name="Drop it").click()
    await steal(page)

    # Who signs out while identity is down is out here, and is told that the rest will be done.
    await press(page, "Stop identity")
    await page.get_by_role("button", name="Account of Ada Admin").click()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("alert")).to_contain_text("identity did not answer. It is told as soon as it does.")
    assert await mine.witness.tokens() == []
