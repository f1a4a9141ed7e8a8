"""An account made, or a password reset, on the way to a client: who goes on to it, and what is not gone on with."""

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from devstack.flow import Browser
from support.identity_front import ALICE, ORDERS, Front, identity_front
from support.mailbox import Mailbox, link_in
from support.signing_up import GOOD, NEW, asked, finished


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    url = f"sqlite:///{tmp_path / 'identity.db'}"
    async with identity_front(url, mail_url=f"file://{tmp_path}/mail") as front:
        yield front


async def sent_from(front: Front, client: str, browser: Browser, email: str = NEW) -> str:
    """The link that is mailed to somebody whom a client sent to sign in, and who wants an account."""
    page = await browser.open(front.client(client).start(scope="openid orders:read", resource=ORDERS).url)
    flow = page.form("/login").fields["flow"]
    page = await asked(front, f"/signup?flow={quote(flow)}", email, browser)
    (mail,) = await Mailbox().empty(front.parts)
    return link_in(mail)


async def led_by_mail(front: Front, browser: Browser, url: str, path: str, email: str) -> str:
    """The link that is mailed to who goes from the page of signing in to `path`, which says whom they go on to."""
    page = await browser.open(url)
    flow = page.form("/login").fields["flow"]
    assert f'href="{path}?flow={quote(flow)}"' in (await browser.get(page.url)).text
    page = await asked(front, f"{path}?flow={quote(flow)}", email, browser)
    assert "Open the link in this browser, and you go on to Rescind mobile." in page.text
    (mail,) = await Mailbox().empty(front.parts)
    return link_in(mail)


async def test_who_came_from_a_client_goes_on_to_it_with_a_code(front: Front) -> None:
    browser, mobile = front.browser(), front.client("mobile")
    started = mobile.start(scope="orders:read", resource=ORDERS)
    link = await led_by_mail(front, browser, started.url, "/signup", NEW)
    form = await browser.get(link)
    assert "form-action 'self' http://127.0.0.1:7777;" in form.headers["content-security-policy"]
    answer = await browser.submit(await browser.open(link), "/signup/finish", name="Carol", password=GOOD)
    assert isinstance(answer, str)
    tokens = await mobile.redeem(started, mobile.code_from(started, answer))
    assert tokens.scope == "orders:read"


async def test_a_third_party_is_still_consented_to(front: Front) -> None:
    browser = front.browser()
    page = await finished(front, await sent_from(front, "calendar", browser), browser, name="Carol", password=GOOD)
    assert urlsplit(page.url).path == "/consent"
    assert "Calendar" in page.text


@pytest.mark.parametrize("path", ["/reset", "/signup"])
async def test_who_has_an_account_chooses_a_new_password_and_goes_on_with_a_code(front: Front, path: str) -> None:
    browser, mobile = front.browser(), front.client("mobile")
    started = mobile.start(scope="orders:read", resource=ORDERS)
    link = await led_by_mail(front, browser, started.url, path, ALICE)
    page = await finished(front, link, browser, password=GOOD)
    assert "to continue to Rescind mobile" in page.text
    assert "Your password has been changed" in page.text
    answer = await browser.submit(page, "/login", email=ALICE, password=GOOD)
    assert isinstance(answer, str)
    assert (await mobile.redeem(started, mobile.code_from(started, answer))).scope == "orders:read"


@pytest.mark.parametrize("late", [False, True], ids=["in another browser", "too late"])
async def test_elsewhere_or_too_late_the_password_is_reset_and_nothing_waits(front: Front, late: bool) -> None:
    browser = front.browser()
    link = await sent_from(front, "mobile", browser, ALICE)
    if late:
        front.clock.forward(1_801)
    page = await finished(front, link, browser if late else front.browser(), password=GOOD)
    assert urlsplit(page.url).query == "notice=password-reset"
    assert "flow" not in page.form("/login").fields


@pytest.mark.parametrize("late", [False, True], ids=["in another browser", "too late"])
async def test_elsewhere_or_too_late_the_account_is_made_and_the_page_says_where_to_go_on(
    front: Front, late: bool
) -> None:
    browser = front.browser()
    link = await sent_from(front, "mobile", browser)
    if late:
        front.clock.forward(1_801)
    page = await finished(front, link, browser if late else front.browser(), name="Carol", password=GOOD)
    assert urlsplit(page.url).path == "/account"
    assert "go back to it, and sign in there" in page.text


async def test_nothing_is_gone_on_with_that_did_not_begin_here(front: Front) -> None:
    for path, forged in product(("/signup", "/reset"), ("https://evil.example/", "e30.e30", "W10.x")):
        response = await front.browser().get(f"{path}?flow={quote(forged)}")
        assert (response.status_code, "FLOW_EXPIRED" in response.text) == (400, True)
        browser = front.browser()
        form = (await browser.open(path)).form(path).fields
        response = await browser.post(path, {**form, "email": NEW, "flow": forged})
        assert (response.status_code, "FLOW_EXPIRED" in response.text) == (400, True)
    assert await Mailbox().empty(front.parts) == []
