"""The control room and the token lab in real browsers: what is taken back, who says so, and what a thief gets."""

import asyncio
import re

import pytest
from playwright.async_api import Route, expect

from devstack.seeds import ADMIN, ALICE
from support.browsers import NewWindow, go, sign_in
from support.eventually import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


@pytest.mark.requirement(21)
@pytest.mark.requirement(37)
async def test_a_stolen_token_is_taken_back_and_every_verifier_says_so(new_window: NewWindow) -> None:
    mine = await new_window()
    page = mine.page
    await sign_in(page, ADMIN)
    await go(page, "Control room")
    table = page.get_by_role("region", name="Verifiers").get_by_role("table")
    for service in ("session", "orders", "notifications"):
        row = table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=service))
        await expect(row.get_by_text("FRESH")).to_be_visible()

    thief = page.get_by_role("region", name="A stolen token")
    await thief.get_by_role("button", name="Steal my token and use it").click()
    await expect(thief.get_by_role("status")).to_have_text("Accepted.")
    await expect(page.get_by_label("Which")).to_have_value(re.compile("."))
    await page.get_by_role("button", name=re.compile("my token for orders")).click()
    await page.get_by_role("button", name="Take it back").click()
    await expect(thief.get_by_role("status")).to_contain_text(re.compile("^Refused, first seen .* TOKEN_REVOKED"))

    receipts = page.get_by_role("region", name="Receipts")
    await expect(receipts.get_by_role("status")).to_contain_text(
        re.compile(r"applied by (\d+) of \1 verifiers, the slowest")
    )
    assert await receipts.get_by_role("listitem").count() >= 3
    await expect(receipts.get_by_role("listitem").first).to_contain_text("ms")
    await expect(page.get_by_role("img", name=re.compile(r"^Latency histogram\. [1-9]"))).to_be_visible()
    # The person goes on as if nothing had happened: one token was taken back, and another is fetched.
    await go(page, "Shop")
    await expect(page.get_by_role("region", name="Products").get_by_role("listitem").first).to_be_visible()
    assert await mine.witness.tokens() == []


async def test_taking_back_ones_own_session_ends_the_page(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ADMIN)
    await go(mine.page, "Control room")
    which = mine.page.get_by_label("Which")
    await expect(which).to_have_value(re.compile("."))
    # While the targets of the new kind are on their way, the old one's is not offered for it.
    on_its_way = asyncio.Event()

    async def slowly(route: Route) -> None:
        await on_its_way.wait()
        await route.continue_()

    await mine.page.route("**/api/lab", slowly)
    await mine.page.get_by_label("What").select_option("session")
    await expect(which).to_have_value("")
    on_its_way.set()
    await expect(which).to_have_value(re.compile("^sid_"))
    await mine.page.get_by_role("button", name="Take it back").click()
    question = mine.page.get_by_role("dialog")
    await expect(question).to_contain_text("This is your own")
    await question.get_by_role("button", name="Take it back").click()
    await expect(mine.page.get_by_role("alert")).to_contain_text("You were signed out: CONTROL_ROOM")


async def test_people_without_the_scope_do_not_see_it_and_cannot_ask(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    await expect(mine.page.get_by_role("banner").get_by_role("link", name="Control room")).to_have_count(0)
    for path in ("/api/control/status", "/api/admin/orders"):
        asked = "path => fetch(path).then(async answer => [answer.status, await answer.text()])"
        assert (await mine.page.evaluate(asked, path))[0] == 403


@pytest.mark.requirement(37)
async def test_the_lab_shows_what_a_token_says_and_not_the_token(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    await go(mine.page, "Token lab")
    await expect(mine.page.get_by_role("region", name="Session cookie")).to_contain_text("__Host-rescind_session")
    await expect(mine.page.get_by_role("region", name="OAuth 2.0 grant")).to_contain_text("AES-256-GCM")
    tokens = mine.page.get_by_role("region", name="JWT access tokens").get_by_role("listitem")
    await tokens.filter(has_text="urn:rescind:orders").get_by_role("button", name="Decode").click()
    decoded = mine.page.get_by_role("region", name="Access token for urn:rescind:orders")
    for text in ("RS256", "at+jwt", "urn:rescind:orders", "usr_"):
        await expect(decoded.get_by_text(text).first).to_be_visible()
    left = decoded.locator("[data-until]")
    before = await left.text_content()
    await expect(left).not_to_have_text(before or "")  # it ticks
    await expect(decoded.get_by_text("A claim that this page does not know.")).to_have_count(0)
    assert await mine.witness.tokens() == []


async def test_that_identity_is_silent_is_said_once(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, ADMIN)
    await go(mine.page, "Control room")
    await mine.page.evaluate("""() => {
      window.said = 0;
      const region = document.querySelector("main > [role=status]");
      new MutationObserver(() => (window.said += 1)).observe(region, { childList: true });
    }""")
    asked = []

    async def silent(route: Route) -> None:
        asked.append(route)
        body = {"status": 503, "reason": "IDENTITY_UNAVAILABLE", "detail": "Identity does not answer."}
        await route.fulfill(status=503, json=body, content_type="application/problem+json")

    await mine.page.route("**/api/control/status", silent)
    notice = mine.page.get_by_text("Identity does not say how it stands")
    await expect(notice).to_be_visible()

    async def asked_again() -> bool:
        return len(asked) > 3

    await eventually(asked_again, within=20)
    assert await mine.page.evaluate("window.said") == 1
    await mine.page.unroute("**/api/control/status")
    await expect(notice).to_have_count(0)
    assert await mine.page.evaluate("window.said") == 2
