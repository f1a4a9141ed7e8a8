"""Sign-ins that come to nothing: the app says so in a sentence, and offers another try."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import expect

from devstack.seeds import ALICE, BOB
from support.browsers import NewWindow, Web, enter_password, go, opened, sign_in

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]
SILENT = "Identity does not answer right now."


@pytest_asyncio.fixture(loop_scope="session")
async def stopped(web: Web) -> AsyncIterator[list[str]]:
    """What a test has stopped; it runs again afterwards."""
    parts: list[str] = []
    yield parts
    for part in parts:
        await web.stack.fault("start", part)


async def test_while_identity_is_down(new_window: NewWindow, web: Web, stopped: list[str]) -> None:
    page = (await new_window()).page
    await opened(page, "/#/devices")
    await web.stack.fault("kill", "identity")
    stopped.append("identity")
    main = page.get_by_role("main")
    await main.get_by_role("button", name="Sign in").click()
    await expect(main.get_by_role("alert")).to_contain_text(f"You are not signed in: IDENTITY_UNAVAILABLE{SILENT}")
    assert page.url == f"{web.url}/#/devices"
    await web.stack.fault("start", stopped.pop())
    await main.get_by_role("button", name="Try again").click()
    await enter_password(page, ALICE)
    await expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()


async def test_with_a_session_that_goes_on(new_window: NewWindow, web: Web, stopped: list[str]) -> None:
    mine = await new_window()
    await sign_in(mine.page, BOB)
    await go(mine.page, "Devices")
    await web.signed_in_ago(mine, minutes=11)
    await mine.page.get_by_role("button", name="Sign out everywhere").click()
    await mine.page.get_by_role("dialog").get_by_role("button", name="Sign out everywhere").click()
    agree = mine.page.get_by_role("dialog").get_by_role("button", name="Enter the password")
    await expect(agree).to_be_visible()
    await web.stack.fault("kill", "identity")
    stopped.append("identity")
    await agree.click()
    news = mine.page.get_by_role("region", name="News")
    await expect(news).to_contain_text(SILENT)
    await expect(mine.page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    await web.stack.fault("start", stopped.pop())
    await news.get_by_role("button", name="Try again").click()
    await enter_password(mine.page, BOB)
    await expect(news).to_contain_text("You can sign out everywhere now")


@pytest.mark.parametrize("said", ["Call 555-0100 <b>now</b>", "constructor", "__proto__"])
async def test_what_somebody_wrote_into_the_address_is_not_shown(new_window: NewWindow, web: Web, said: str) -> None:
    page = (await new_window()).page
    await page.goto(f"/?sign_in={said}")
    alert = page.get_by_role("main").get_by_role("alert")
    await expect(alert).to_contain_text("You are not signed in: sign_in_failed")
    assert said not in await page.content()
    assert page.url == f"{web.url}/"
