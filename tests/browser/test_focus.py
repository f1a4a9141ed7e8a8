"""What is pressed by keyboard may be gone a moment later: the focus goes to what took its place, and never nowhere."""

import re

import pytest
from playwright.async_api import Locator, Page, expect

from devstack.seeds import ADMIN, ALICE, BOB
from support.browsers import NewWindow, go, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) Version/18.5 Mobile/15E148 Safari/604.1"


async def press(button: Locator) -> None:
    """By keyboard."""
    await button.focus()
    await button.press("Enter")


async def answer(page: Page, yes: str) -> None:
    """The question that is asked now."""
    await press(page.get_by_role("dialog").get_by_role("button", name=yes, exact=True))
    await expect(page.get_by_role("dialog")).to_have_count(0)


def heading(page: Page, name: str) -> Locator:
    return page.get_by_role("heading", name=name, exact=True)


async def order(page: Page, product: int) -> str:
    """One piece of a product, placed by keyboard; the order's id."""
    await press(page.get_by_role("button", name=re.compile("^Add to the basket")).nth(product))
    async with page.expect_response(
        lambda response: response.url.endswith("/api/orders") and response.request.method == "POST"
    ) as placed:
        await press(page.get_by_role("button", name="Place order"))
    await expect(heading(page, "Basket")).to_be_focused()
    return str((await (await placed.value).json())["id"])


async def test_in_the_shop(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, BOB)
    rare = page.locator(".product").filter(has=page.get_by_text(re.compile("^Only [0-9]+ left")))
    add = rare.get_by_role("button")
    await add.focus()
    while await add.is_enabled():
        await add.press("Enter")
    await expect(add).to_be_focused()
    await page.get_by_role("button", name=re.compile("^Add to the basket")).nth(1).press("Enter")

    less = page.get_by_role("button", name=re.compile("^One less"))
    while await less.count() > 1:
        await less.first.press("Enter")
    await expect(less).to_be_focused()
    await press(less)
    await expect(heading(page, "Basket")).to_be_focused()

    first, second = await order(page, 0), await order(page, 1)
    await press(page.get_by_role("button", name=f"Cancel order {second}"))
    await answer(page, "Keep it")
    await expect(page.get_by_role("button", name=f"Cancel order {second}")).to_be_focused()
    await page.keyboard.press("Enter")
    await answer(page, "Cancel the order")
    await expect(page.get_by_role("button", name=f"Cancel order {first}")).to_be_focused()
    cancel = page.get_by_role("button", name=re.compile("^Cancel order"))
    for left in range(await cancel.count(), 0, -1):
        await press(cancel.last)
        await answer(page, "Cancel the order")
        await expect(cancel).to_have_count(left - 1)
        await expect(cancel.last if left > 1 else heading(page, "My orders")).to_be_focused()


async def test_a_key_that_is_held_down_takes_one_line_out_of_the_basket(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, BOB)
    for product in (0, 1):
        await page.get_by_role("button", name=re.compile("^Add to the basket")).nth(product).click()
    less = page.get_by_role("button", name=re.compile("^One less"))
    await less.first.focus()
    for _ in range(3):  # without letting go of it
        await page.keyboard.down("Enter")
    await expect(less).to_be_focused()
    await page.keyboard.up("Enter")
    await page.keyboard.press("Enter")
    await expect(less).to_have_count(0)


async def test_in_the_back_office(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, ADMIN)
    id_ = await order(page, 0)
    await go(page, "Orders")
    card = page.locator(f"[data-key='{id_}']")
    await press(card.get_by_role("button", name="Confirm"))
    for verb in ("Ship", "Deliver"):
        await expect(card.get_by_role("button", name=verb)).to_be_focused()
        await page.keyboard.press("Enter")
    await expect(card.get_by_label("Status: delivered")).to_be_visible()
    await expect(page.get_by_role("main").locator(":focus")).to_have_count(1)


async def test_among_devices(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, ALICE)
    await go(page, "Devices")
    await expect(page.get_by_text("this one", exact=True)).to_be_visible()
    phones = page.get_by_role("listitem").filter(has=heading(page, "Safari on iPhone"))
    before = await phones.count()
    for _ in range(3):
        await sign_in((await new_window(user_agent=IPHONE)).page, ALICE)
    await go(page, "Shop")
    await go(page, "Devices")
    await expect(phones).to_have_count(before + 3)
    await press(phones.first.get_by_role("button", name="Sign out"))
    await answer(page, "Sign it out")
    await expect(phones).to_have_count(before + 2)
    await expect(page.locator(".device button:focus")).to_have_text("Sign out")

    await phones.first.locator("summary").press("Enter")
    await press(phones.first.get_by_role("button", name=re.compile("^Take back")))
    await answer(page, "Take it back")
    await expect(page.get_by_role("main").locator(":focus")).to_have_count(1)

    await press(page.get_by_role("button", name="Sign out the others"))
    await answer(page, "Sign the others out")
    await expect(phones).to_have_count(0)
    await expect(heading(page, "Devices")).to_be_focused()


async def test_in_the_inbox_and_among_news(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, BOB)
    await order(page, 0)
    await order(page, 1)
    news = page.get_by_role("region", name="News").get_by_role("button", name="Close")
    await expect(news).to_have_count(2)
    await press(news.first)
    await expect(news).to_be_focused()
    await press(news)
    await expect(heading(page, "Basket")).to_be_focused()  # where it came from

    await press(page.get_by_role("button", name=re.compile("Inbox, [0-9]+ unread")))
    mark = page.get_by_role("button", name=re.compile("^Mark read"))
    before = await mark.count()
    await press(mark.first)
    await expect(mark).to_have_count(before - 1)
    await expect(mark.first).to_be_focused()
    await press(page.get_by_role("button", name="Mark all read"))
    await expect(heading(page, "Inbox")).to_be_focused()


async def test_after_a_question_that_was_asked_from_a_menu(new_window: NewWindow) -> None:
    page = (await new_window()).page
    await sign_in(page, BOB)
    account = page.get_by_role("button", name="Account of Bob Example")
    await press(account)
    await press(page.get_by_role("button", name="Sign out"))
    await answer(page, "Cancel")
    await expect(account).to_be_focused()
