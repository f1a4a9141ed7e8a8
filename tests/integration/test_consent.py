"""Third parties: what the person is asked, when they are asked again, and that a yes can be taken back."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devstack.flow import Browser, OAuthClient, Refused, Tokens
from identity.storage import grants
from support.identity_front import ALICE, BOB, IDENTITY, LOOPBACK, ORDERS, PASSWORD, Front, identity_front


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def asked(client: OAuthClient, browser: Browser, *, scope: str = "openid", **more: str) -> str:
    """The page that a signed-in person is led to, or the code or error that the client gets at once."""
    started = client.start(scope=scope, **more)
    location = (await browser.get(started.url)).headers["location"]
    if not location.startswith(LOOPBACK):
        return urlsplit(location).path
    try:
        return "code" if client.code_from(started, location) else ""
    except Refused as refused:
        return refused.error


async def granted(
    front: Front, browser: Browser, *, client_id: str = "calendar", scope: str, email: str = ALICE
) -> Tokens:
    client = front.client(client_id)
    started = client.start(scope=scope, resource=[IDENTITY, ORDERS])
    code = await client.authorize(browser, started, email, PASSWORD)
    return await client.redeem(started, code, resource=IDENTITY)


@pytest.mark.requirement(61)
async def test_the_page_says_who_asks_for_what_and_for_how_long(front: Front) -> None:
    browser = front.browser()
    started = front.client("partner").start(scope="openid profile orders:read", resource=[IDENTITY, ORDERS])
    page = await browser.open(started.url)
    arrived = await browser.submit(page, "/login", email=ALICE, password=PASSWORD)
    assert not isinstance(arrived, str)
    told = ("Partner Analytics", ALICE, "Know who you are", "See your name", "See your orders", "127.0.0.1:7777")
    for words in (*told, "until you sign out, at most 12 hours"):
        assert words in arrived.text
    assert "Place and cancel" not in arrived.text
    offline = front.client("partner").start(scope="openid offline_access")
    page = await browser.open(offline.url)
    for words in ("Keep this access while you are signed out", "up to 30 days", "changing your password ends it"):
        assert words in page.text


@pytest.mark.requirement(61)
async def test_a_yes_is_remembered_and_wider_is_asked_about(front: Front) -> None:
    browser, calendar = front.browser(), front.client("calendar")
    resource = {"resource": ORDERS}
    await granted(front, browser, scope="openid orders:read")
    for scope in ("openid orders:read", "orders:read"):
        assert await asked(calendar, browser, scope=scope, **resource) == "code"
        assert await asked(calendar, browser, scope=scope, prompt="none", **resource) == "code"
    for wider in ("openid orders:read orders:write", "openid orders:read offline_access"):
        assert await asked(calendar, browser, scope=wider, **resource) == "/consent"
        assert await asked(calendar, browser, scope=wider, prompt="none", **resource) == "consent_required"
    assert await asked(calendar, browser, scope="openid profile") == "/consent"  # more of the same audience
    assert await asked(calendar, browser, scope="orders:read", prompt="consent", **resource) == "/consent"


async def test_a_grant_for_one_place_is_none_for_another(front: Front) -> None:
    browser, calendar = front.browser(), front.client("calendar")
    await calendar.sign_in(browser, ALICE, PASSWORD, scope="openid orders:read", resource=ORDERS)
    assert await asked(calendar, browser, scope="openid") == "/consent"  # at identity
    assert await asked(calendar, browser, scope="openid orders:read", resource=ORDERS) == "code"


async def test_one_persons_yes_is_not_anothers_and_one_clients_not_anothers(front: Front) -> None:
    browser = front.browser()
    await granted(front, browser, scope="openid orders:read")
    others = front.browser()
    await granted(front, others, client_id="partner", scope="openid", email=BOB)
    assert await asked(front.client("calendar"), others, scope="openid") == "/consent"
    assert await asked(front.client("partner"), browser, scope="openid") == "/consent"


@pytest.mark.requirement(61)
@pytest.mark.parametrize("end", ["revoked by the client", "signed out", "password changed", "client disabled", "time"])
async def test_whatever_ends_the_grant_forgets_the_yes(front: Front, end: str) -> None:
    browser = front.browser()
    offline = "" if end == "signed out" else " offline_access"
    tokens = await granted(front, browser, scope=f"openid orders:read{offline}")
    calendar = front.client("calendar")
    if end == "revoked by the client":
        await calendar.revoke(tokens.refresh_token or "")
    elif end == "signed out":
        await browser.sign_out()
    elif end == "password changed":
        await browser.change_password(PASSWORD, "quite-another-passphrase")
    elif end == "client disabled":
        await front.accounts.disable_client("calendar")
        await front.accounts.enable_client("calendar")
    else:
        front.clock.forward(30 * 86400)
    if end in ("signed out", "time"):
        await granted(front, browser, client_id="mobile", scope="openid")
    assert await asked(calendar, browser, scope="openid") == "/consent"


async def test_a_code_that_was_never_redeemed_is_no_consent(front: Front) -> None:
    browser, calendar = front.browser(), front.client("calendar")
    await calendar.authorize(browser, calendar.start(scope="openid"), ALICE, PASSWORD)
    assert await asked(calendar, browser) == "/consent"


async def test_somebody_who_says_no_is_asked_again(front: Front) -> None:
    browser, calendar = front.browser(), front.client("calendar")
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await calendar.sign_in(browser, ALICE, PASSWORD, scope="openid", consent="deny")
        assert refused.value.error == "access_denied"
    assert front.database.run_sync(lambda tx: tx.execute(grants.select()).all()) == []


async def test_a_client_that_anybody_may_pretend_to_be_is_asked_about_each_time(front: Front) -> None:
    """RFC 8252 section 8.6: a public client has no secret that tells it from a copy."""
    browser = front.browser()
    await front.database.run(lambda tx: front.make_public(tx, "calendar"))
    calendar = OAuthClient(front.http, front.issuer, "calendar", redirect_uri=LOOPBACK)
    for _ in range(2):
        await calendar.sign_in(browser, ALICE, PASSWORD, scope="openid")
        assert await asked(calendar, browser) == "/consent"
