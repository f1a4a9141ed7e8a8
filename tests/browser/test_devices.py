"""Sessions in several browsers of one person: what ends, what lives, and how soon the other one sees it."""

import re

import pytest
from playwright.async_api import Page, expect

from devstack.seeds import ALICE, BOB
from support.browsers import NewWindow, Web, Window, enter_password, go, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile Safari/604.1"
SOON = 1000  # milliseconds from the answer to whoever ends it, to the other page saying so
# When the page says that the session is over, by the clock of the machine.
_WATCH = """() => { window.over = new Promise(done => new MutationObserver((_, observer) => {
  if (document.querySelector('.ended')) { observer.disconnect(); done(Date.now()); }
}).observe(document.body, {childList: true, subtree: true})); }"""


async def two_windows(new_window: NewWindow, person: str) -> tuple[Window, Window]:
    """A desktop and a phone of one person; the desktop is on Devices and sees both."""
    desktop, phone = await new_window(), await new_window(user_agent=PHONE)
    await sign_in(phone.page, person)
    await sign_in(desktop.page, person)
    await go(desktop.page, "Devices")
    return desktop, phone


def card(page: Page, name: str, *, current: bool = False) -> object:
    """The newest card of a device of that name."""
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, level=3)).first


@pytest.mark.requirement(29)
@pytest.mark.requirement(37)
async def test_ending_the_phone_leaves_the_desktop_alone(new_window: NewWindow) -> None:
    desktop, phone = await two_windows(new_window, ALICE)
    page = desktop.page
    mine = page.get_by_role("listitem").filter(has=page.get_by_text("this one", exact=True))
    await expect(mine).to_have_count(1)
    theirs = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="Safari on iPhone"))
    before = await theirs.count()
    await theirs.first.get_by_role("button", name="Sign out").click()
    await page.get_by_role("dialog").get_by_role("button", name="Sign it out").click()
    await expect(phone.page.get_by_role("alert")).to_contain_text("You were signed out: SIGNED_OUT")
    await expect(phone.page.get_by_role("button", name="Sign in again")).to_be_visible()
    await expect(theirs).to_have_count(before - 1)
    await go(page, "Shop")
    await expect(page.get_by_role("region", name="Products").get_by_role("listitem").first).to_be_visible()
    assert await desktop.witness.tokens() == []
    assert await phone.witness.tokens() == []


@pytest.mark.requirement(21)
async def test_everywhere_takes_the_other_page_and_its_stream_within_a_second(new_window: NewWindow) -> None:
    desktop, phone = await two_windows(new_window, BOB)
    await expect(phone.page.locator(".live[data-state=open]")).to_be_visible()
    await phone.page.evaluate(_WATCH)
    await desktop.page.get_by_role("button", name="Sign out everywhere").click()
    async with desktop.page.expect_response("**/api/sessions/end-all") as ended:
        await desktop.page.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
    answered = await (await ended.value).finished() or await desktop.page.evaluate("Date.now()")
    seen = await phone.page.evaluate("window.over")
    assert seen - answered <= SOON
    for window in (desktop, phone):
        alert = window.page.get_by_role("alert")
        await expect(alert).to_contain_text("You were signed out: SIGNED_OUT")
    assert [frame["eventName"] for frame in phone.witness.frames][-1] == "end"
    # Going back shows nothing of the person either.
    asked = "fetch('/api/me').then(async answer => [answer.status, await answer.text()])"
    assert (await phone.page.evaluate(asked))[0] == 401
    assert await phone.witness.tokens() == []


@pytest.mark.requirement(29)
async def test_who_signed_in_long_ago_enters_the_password_again(new_window: NewWindow, web: Web) -> None:
    mine = await new_window()
    await sign_in(mine.page, ALICE)
    await go(mine.page, "Devices")
    await web.signed_in_ago(mine, minutes=11)
    before = {cookie["name"]: cookie["value"] for cookie in await mine.page.context.cookies(web.url)}
    await mine.page.get_by_role("button", name="Sign out everywhere").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Enter the password").click()
    await expect(mine.page).to_have_title("Sign in · Rescind")
    await enter_password(mine.page, ALICE)
    await expect(mine.page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    await expect(mine.page.get_by_role("region", name="News")).to_contain_text("You can sign out everywhere now")
    after = {cookie["name"]: cookie["value"] for cookie in await mine.page.context.cookies(web.url)}
    assert after["__Host-rescind_session"] != before["__Host-rescind_session"]
    await mine.page.get_by_role("button", name="Sign out everywhere").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
    await expect(mine.page.get_by_role("alert")).to_contain_text("You were signed out: SIGNED_OUT")
    assert await mine.witness.tokens() == []


async def test_signing_out_here_comes_back_to_the_first_page(new_window: NewWindow) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    await mine.page.get_by_role("button", name="Account of Bob Example").click()
    await mine.page.get_by_role("button", name="Sign out").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
    await expect(mine.page.get_by_role("alert")).to_contain_text("You were signed out")
    await mine.page.reload()
    await expect(mine.page.get_by_role("heading", name="Stateless tokens that you can take back")).to_be_visible()
    await expect(mine.page.get_by_role("alert")).to_have_count(0)


async def test_nothing_that_was_told_stays_when_the_session_has_ended(new_window: NewWindow) -> None:
    desktop, phone = await two_windows(new_window, BOB)
    news = phone.page.get_by_role("region", name="News")
    await phone.page.get_by_role("button", name=re.compile("^Add to the basket")).first.click()
    await phone.page.get_by_role("button", name="Place order").click()
    await news.get_by_text("We have your order").hover()  # where a pointer is, nothing goes by itself
    await desktop.page.get_by_role("button", name="Sign out the others").click()
    await desktop.page.get_by_role("dialog").get_by_role("button", name="Sign the others out").click()
    await expect(phone.page.get_by_role("alert")).to_contain_text("You were signed out")
    assert await news.text_content() == ""
