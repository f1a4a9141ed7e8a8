"""The shop in real browsers: orders, what is told about them while one looks, and what never reaches a browser."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from devstack.seeds import ADMIN, ALICE, BOB
from support.browsers import PATIENCE, NewWindow, Web, go, hashes_in, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def place_one(page: Page, shelf: Page | Locator) -> str:
    """Orders one piece of the first thing that there is; the order's id."""
    await shelf.get_by_role("button", name=re.compile("^Add to the basket")).first.click()
    async with page.expect_response(
        lambda answer: answer.url.endswith("/api/orders") and answer.request.method == "POST"
    ) as placed:
        await page.get_by_role("button", name="Place order").click()
    order = await (await placed.value).json()
    assert order["status"] == "placed", order
    return str(order["id"])


@pytest.mark.requirement(37)
async def test_an_order_is_told_of_while_one_looks_and_no_token_is_seen(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    id_ = await place_one(mine.page, mine.page)
    card = mine.page.locator(f"[data-key='{id_}']")
    await expect(card.get_by_label("Status: placed")).to_be_visible()
    await expect(mine.page.get_by_role("region", name="News").get_by_text("We have your order")).to_be_visible()

    shopkeeper = await new_window()
    await sign_in(shopkeeper.page, ADMIN)
    await go(shopkeeper.page, "Orders")
    await shopkeeper.page.get_by_role("button", name=f"Confirm {id_}").click()
    # Nobody reloads anything here: it arrives.
    await expect(card.get_by_label("Status: confirmed")).to_be_visible()
    bell = mine.page.get_by_role("button", name=re.compile("^Inbox, [1-9][0-9]* unread"))
    await bell.click()
    inbox = mine.page.get_by_role("region", name="Inbox")
    await expect(inbox.get_by_role("listitem").first).to_contain_text("confirmed")
    await inbox.get_by_role("button", name="Mark all read").click()
    await expect(mine.page.get_by_role("button", name="Inbox, nothing unread")).to_be_visible()

    assert any(frame["eventName"] == "notification" for frame in mine.witness.frames)
    assert await mine.witness.tokens() == []
    assert await shopkeeper.witness.tokens() == []


async def test_a_cancelled_order_gives_its_stock_back(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    rare = mine.page.locator(".product").filter(has=mine.page.get_by_text(re.compile("^Only [0-9]+ left")))
    stock = rare.locator(".product-stock")
    before = await stock.text_content()
    id_ = await place_one(mine.page, rare)
    await expect(stock).not_to_have_text(before or "")
    await mine.page.get_by_role("button", name=f"Cancel order {id_}").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Cancel the order").click()
    await expect(mine.page.locator(f"[data-key='{id_}']").get_by_text("cancelled")).to_be_visible()
    await expect(stock).to_have_text(before or "")


async def test_what_is_sold_out_meanwhile_is_said_beside_the_basket(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    rare = mine.page.locator(".product").filter(has=mine.page.get_by_text(re.compile("^Only [0-9]+ left")))
    await rare.get_by_role("button").click()

    async def more(route: Route) -> None:
        """As if the page had been told of more stock than there is."""
        body = route.request.post_data_json
        body["items"][0]["quantity"] = 1000
        await route.continue_(post_data=body)

    await mine.page.route("**/api/orders", more)
    await mine.page.get_by_role("button", name="Place order").click()
    await expect(mine.page.get_by_role("region", name="Basket").get_by_role("alert")).not_to_be_empty()
    await mine.page.unroute("**/api/orders")
    await mine.page.get_by_role("button", name="Place order").click()
    await expect(mine.page.get_by_text("Nothing in it yet")).to_be_visible()


async def test_what_is_added_while_an_order_is_placed_stays_in_the_basket(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    add = mine.page.get_by_role("button", name=re.compile("^Add to the basket"))
    await add.nth(0).click()
    ordered: list[dict[str, Any]] = []
    on_its_way = asyncio.Event()

    async def slowly(route: Route) -> None:
        if route.request.method == "POST":
            ordered.extend(route.request.post_data_json["items"])
            await on_its_way.wait()
        await route.continue_()

    await mine.page.route("**/api/orders", slowly)
    await mine.page.get_by_role("button", name="Place order").click()
    await add.nth(0).click()
    await add.nth(1).click()
    on_its_way.set()
    await expect(mine.page.get_by_label("Status: placed").first).to_be_visible()
    quantities = mine.page.get_by_label("Quantity")
    await expect(quantities).to_have_text(["1", "1"])
    assert [item["quantity"] for item in ordered] == [1]
    await mine.page.get_by_role("button", name="Place order").click()
    await expect(mine.page.get_by_text("Nothing in it yet")).to_be_visible()


async def test_the_page_survives_a_restart_of_the_service(new_window: NewWindow, web: Web) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    await expect(mine.page.locator(".live[data-state=open]")).to_be_visible()
    await web.stack.fault("kill", "session")
    try:
        await expect(mine.page.locator(".live[data-state=waiting]")).to_be_visible()
    finally:
        await web.stack.fault("start", "session")
    await expect(mine.page.locator(".live[data-state=open]")).to_be_visible(timeout=PATIENCE)
    await place_one(mine.page, mine.page)  # under the same session, and told of by the new stream
    await expect(mine.page.get_by_role("region", name="News").get_by_text("We have your order")).to_be_visible()


@pytest.mark.parametrize("missing", ["app.js", "pages/shop.js", "dom.js"])
async def test_a_page_whose_scripts_did_not_come_says_so_and_comes_again(new_window: NewWindow, missing: str) -> None:
    page, at = (await new_window()).page, f"**/static/js/{missing}"
    await page.route(at, lambda route: route.abort("connectionreset"))
    alert = page.get_by_role("main").get_by_role("alert").filter(has_text="the connection broke")
    await opened(page, "/", alert)
    await page.unroute(at)
    await alert.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("main").get_by_role("button", name="Sign in")).to_be_visible()


async def test_a_page_whose_scripts_keep_it_waiting_says_so_until_they_come(new_window: NewWindow) -> None:
    page = (await new_window()).page
    held: list[Route] = []
    await page.clock.install()
    await page.route("**/static/js/dom.js", lambda route: held.append(route))
    await page.goto("/", wait_until="commit")
    main = page.get_by_role("main")
    await expect(main.get_by_text("Loading…")).to_be_visible()
    await page.clock.fast_forward(10_000)
    await expect(main.get_by_role("alert")).to_contain_text("slow to come")
    await held[0].continue_()
    await expect(main.get_by_role("button", name="Sign in")).to_be_visible()
    await expect(main.get_by_role("alert")).to_have_count(0)


async def test_preferences_are_kept(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    await opened(mine.page, "/#/preferences")
    box = mine.page.get_by_label("E-mail about orders")
    await expect(box).to_be_checked()
    await box.uncheck()
    await expect(mine.page.get_by_role("region", name="News").get_by_text("Kept")).to_be_visible()
    await opened(mine.page, "/#/preferences")
    await expect(box).not_to_be_checked()


@pytest.mark.requirement(37)
@pytest.mark.parametrize("kind", ["access token", "refresh token"])
async def test_the_witness_sees_a_token_that_is_there(new_window: NewWindow, kind: str) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    planted = "eyJhbGciOiJSUzI1NiJ9.e30." if kind == "access token" else "k" * 43
    if kind == "refresh token":  # of which identity knows the hash
        mine.witness._refresh_hashes = lambda: hashes_in(planted)  # type: ignore[method-assign]
    assert await mine.witness.tokens() == []
    await mine.page.evaluate("planted => localStorage.setItem('seen', planted)", planted)
    assert len(await mine.witness.tokens()) == 1


async def test_a_page_that_nobody_looks_at_holds_no_stream_and_misses_nothing(new_window: NewWindow) -> None:
    """A browser opens six connections to a server; the seventh page would wait for ever."""
    page, other = (await new_window()).page, (await new_window()).page
    await sign_in(page, BOB)
    await sign_in(other, BOB)
    await expect(page.locator(".live[data-state=open]")).to_be_visible()
    looks = """hidden => { Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange")); }"""
    await page.evaluate(looks, True)
    await expect(page.locator(".live[data-state=waiting]")).to_be_visible()
    await place_one(other, other)
    await page.evaluate(looks, False)
    await expect(page.locator(".live[data-state=open]")).to_be_visible()
    await page.get_by_role("button", name=re.compile("Inbox, [0-9]+ unread")).click()
    await expect(page.locator("#inbox").get_by_text("We have your order").first).to_be_visible()
    await page.get_by_role("button", name="Mark all read").click()
    await expect(page.get_by_role("button", name="Inbox, nothing unread")).to_be_visible()


async def test_the_skip_link_leaves_the_address_alone(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    await opened(mine.page, "/#/preferences")
    await mine.page.get_by_role("link", name="Skip to the content").focus()
    await mine.page.keyboard.press("Enter")
    assert await mine.page.evaluate("document.activeElement.id") == "main"
    assert mine.page.url.endswith("/#/preferences")
