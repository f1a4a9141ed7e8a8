"""An authorization request that is too long for a cookie waits here while its person is at another provider."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import func, select

from devstack.flow import Browser, OAuthClient, Page, Started
from identity.federation.pages import BEGUN_COOKIE
from identity.oauth.requests import LONGEST_QUERY
from identity.storage import pushed_requests
from support.foreign_provider import ForeignProvider
from support.identity_front import ORDERS, Front, identity_front
from support.mailbox import Mailbox, link_in
from support.signing_in_elsewhere import ACME, CAROL, comes, proven

SIGN_INS = 300  # that one network may have kept in ten minutes


@pytest.fixture
def provider() -> ForeignProvider:
    return ForeignProvider(person=dict(CAROL))


@pytest.fixture
async def front(database_url: str, tmp_path: Path, provider: ForeignProvider) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(
        database_url,
        elsewhere=httpx2.ASGITransport(provider.app),
        providers=json.dumps([ACME]),
        mail_url=f"file://{tmp_path}/mail",
    ) as front:
        yield front


def kept(front: Front) -> int:
    return int(
        front.database.run_sync(lambda tx: tx.execute(select(func.count()).select_from(pushed_requests)).scalar_one())
    )


def started(client: OAuthClient, length: int) -> Started:
    """An authorization request whose query has this many bytes. `ui` is nothing that identity knows, and so ignores."""
    short = client.start(scope="orders:read", resource=ORDERS)
    missing = length - len(urlsplit(short.url).query) - len("&ui=")
    return Started(f"{short.url}&ui={'x' * missing}", short.state, short.nonce, short.verifier)


async def gone_out(browser: Browser, url: str) -> str:
    """Where the browser is sent by the button on the sign-in page."""
    form = (await browser.open(url)).form("/sign-in-with/acme")
    response = await browser.post(form.action, dict(form.fields))
    assert response.status_code == 200, response.text
    return response.headers["refresh"].removeprefix("0;url=")


async def back(browser: Browser, answer: dict[str, str]) -> Page | str:
    return await browser.walk(await browser.get(f"/sign-in-with/acme/callback?{urlencode(answer)}"))


@pytest.mark.parametrize("length", [1000, 1400, 1500, 2000, 4000, LONGEST_QUERY])
async def test_a_request_of_any_length_goes_on_the_first_time_and_the_next(
    front: Front, provider: ForeignProvider, length: int
) -> None:
    mobile = front.client("mobile")
    for known in (False, True):
        browser, begun = front.browser(), started(mobile, length)
        assert len(urlsplit(begun.url).query) == length
        answer = provider.visit(await gone_out(browser, begun.url))
        assert BEGUN_COOKIE in browser.cookies
        assert kept(front) == int(length >= 1500)
        location = await back(browser, answer)
        if not known:
            (mail,) = await Mailbox().empty(front.parts)
            location = await browser.submit(await browser.open(link_in(mail)), "/vouch")
        assert isinstance(location, str)
        assert (await mobile.redeem(begun, mobile.code_from(begun, location))).scope == "orders:read"
        assert kept(front) == 0


async def test_what_a_long_request_wants_is_known_before_and_after(front: Front, provider: ForeignProvider) -> None:
    await comes(front, provider, carol := front.browser())
    await proven(front, carol)
    front.clock.forward(60)
    begun = started(front.client("mobile"), LONGEST_QUERY - 100)
    url = await gone_out(carol, f"{begun.url}&prompt=login")
    assert "max_age=0" in url
    assert isinstance(await back(carol, provider.visit(url)), str)  # not asked to sign in again


async def test_a_long_request_is_kept_for_ten_minutes_and_for_once(front: Front, provider: ForeignProvider) -> None:
    await comes(front, provider, carol := front.browser())
    await proven(front, carol)
    begun = started(front.client("mobile"), LONGEST_QUERY)
    late = front.browser()
    answer = provider.visit(await gone_out(late, begun.url))
    front.clock.forward(600)
    page = await back(late, answer)
    assert isinstance(page, Page)
    assert (page.status, "FLOW_EXPIRED" in page.text, BEGUN_COOKIE in late.cookies) == (400, True, False)
    # A copy of the cookie does not bring the request back.
    first, copy = front.browser(), front.browser()
    url = await gone_out(first, begun.url)
    copy.cookies |= first.cookies
    assert isinstance(await back(first, provider.visit(url)), str)
    page = await back(copy, provider.visit(url))
    assert isinstance(page, Page)
    assert "FLOW_EXPIRED" in page.text


async def test_one_network_has_only_so_many_kept(front: Front) -> None:
    browser, begun = front.browser(), started(front.client("mobile"), LONGEST_QUERY)
    form = (await browser.open(begun.url)).form("/sign-in-with/acme")
    statuses = [(await browser.post(form.action, dict(form.fields))).status_code for _ in range(SIGN_INS + 1)]
    assert (set(statuses[:-1]), statuses[-1]) == ({200}, 429)
    assert kept(front) == SIGN_INS
    short = (await browser.open(started(front.client("mobile"), 1000).url)).form("/sign-in-with/acme")
    assert (await browser.post(short.action, dict(short.fields))).status_code == 200
