"""Signing in with another provider: who is linked, after proof of both, and every way that a provider can lie."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import func, select

from identity.federation.pages import BEGUN_COOKIE
from identity.federation.providers import parse_providers
from identity.storage import users
from identity.web import SESSION_COOKIE
from support.foreign_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    ISSUER,
    ForeignProvider,
    by_a_stranger,
    by_secret,
    unsigned,
)
from support.identity_front import ALICE, BOB, ORDERS, PASSWORD, Front, identity_front
from support.mailbox import Mailbox, link_in
from support.signing_in_elsewhere import ACME, CAROL, HUB, come_back, comes, gone_out, linked, proven


@pytest.fixture
def provider() -> ForeignProvider:
    return ForeignProvider(person=dict(CAROL))


@pytest.fixture
async def front(tmp_path: Path, provider: ForeignProvider) -> AsyncIterator[Front]:
    async with identity_front(
        f"sqlite:///{tmp_path / 'identity.db'}",
        elsewhere=httpx2.ASGITransport(provider.app),
        providers=json.dumps([ACME, HUB]),
        mail_url=f"file://{tmp_path}/mail",
    ) as front:
        yield front


def people(front: Front) -> int:
    return int(front.database.run_sync(lambda tx: tx.execute(select(func.count()).select_from(users)).scalar_one()))


async def test_somebody_new_proves_their_address_once_and_then_simply_signs_in(
    front: Front, provider: ForeignProvider
) -> None:
    browser, before = front.browser(), people(front)
    page = await comes(front, provider, browser)
    assert "A mail with a link is on its way" in page.text
    assert SESSION_COOKIE not in browser.cookies
    assert people(front) == before
    page = await proven(front, browser)
    assert "Carol" in page.text
    assert linked(front) == [("acme", "acme-carol", front.user("carol@example.com").id)]
    again = front.browser()
    page = await comes(front, provider, again)
    assert page.url.endswith("/account")
    assert SESSION_COOKIE in again.cookies
    assert BEGUN_COOKIE not in again.cookies
    # Such an account has no password, so none opens it.
    other = front.browser()
    for guess in ("", "password", "!"):
        await other.submit(await other.open("/login"), "/login", email="carol@example.com", password=guess)
        assert SESSION_COOKIE not in other.cookies


async def test_who_came_from_a_client_goes_on_to_it_the_first_time_and_the_next(
    front: Front, provider: ForeignProvider
) -> None:
    mobile = front.client("mobile")
    for known in (False, True):
        browser = front.browser()
        started = mobile.start(scope="orders:read", resource=ORDERS)
        form = (await browser.open(started.url)).form("/sign-in-with/acme")
        response = await browser.post(form.action, dict(form.fields))
        back = urlencode(provider.visit(response.headers["refresh"].removeprefix("0;url=")))
        answer = await browser.walk(await browser.get(f"/sign-in-with/acme/callback?{back}"))
        if not known:
            (mail,) = await Mailbox().empty(front.parts)
            answer = await browser.submit(await browser.open(link_in(mail)), "/vouch")
        assert isinstance(answer, str)
        assert (await mobile.redeem(started, mobile.code_from(started, answer))).scope == "orders:read"
    # A device's code waits just as a client's request does.
    browser = front.browser()
    form = (await browser.open("/device?user_code=WDJBMJHT")).form("/sign-in-with/acme")
    response = await browser.post(form.action, dict(form.fields))
    page = await come_back(browser, provider.visit(response.headers["refresh"].removeprefix("0;url=")))
    assert (urlsplit(page.url).path, page.form("/device").fields["user_code"]) == ("/device", "WDJB-MJHT")


async def test_an_account_that_exists_is_linked_by_mail_and_only_in_the_browser_that_came_back(
    front: Front, provider: ForeignProvider
) -> None:
    provider.person |= {"email": ALICE, "sub": "acme-alice"}
    thief = front.browser()
    page = await comes(front, provider, thief)
    assert SESSION_COOKIE not in thief.cookies  # what a provider says of an address opens nothing
    (mail,) = await Mailbox().empty(front.parts)
    assert mail.to == ALICE
    # Alice, who began nothing, follows the link in her own browser.
    alice = front.browser()
    page = await alice.submit(await alice.open(link_in(mail)), "/vouch")  # type: ignore[assignment]
    assert page.status == 410
    assert linked(front) == []
    # In the browser that began it is good, once.
    waiting = await thief.open(link_in(mail))
    await thief.submit(waiting, "/vouch")
    assert linked(front) == [("acme", "acme-alice", front.user(ALICE).id)]


async def test_an_address_that_the_provider_has_not_seen_to_is_refused(front: Front, provider: ForeignProvider) -> None:
    for verified in (False, None, "true", 1):
        provider.person |= {"email": ALICE, "email_verified": verified}
        page = await comes(front, provider)
        assert (page.status, "EMAIL_NOT_VERIFIED" in page.text) == (403, True)
    assert await Mailbox().empty(front.parts) == []
    assert linked(front) == []


async def test_somebody_who_is_signed_in_connects_with_their_password(front: Front, provider: ForeignProvider) -> None:
    provider.person |= {"email": "other@example.com", "email_verified": False, "sub": "acme-alice"}
    browser = front.browser()
    page = await browser.submit(await browser.open("/login"), "/login", email=ALICE, password=PASSWORD)
    assert not isinstance(page, str)
    form = page.form("/account/connect/acme")
    refused = await browser.post(form.action, {**form.fields, "password": "wrong"})
    assert (refused.status_code, "refresh" in refused.headers) == (403, False)
    response = await browser.post(form.action, {**form.fields, "password": PASSWORD})
    url = response.headers["refresh"].removeprefix("0;url=")
    # Somebody else has signed in meanwhile: it is not linked to them.
    answer = provider.visit(url)
    page = await come_back(browser, answer)
    assert "You can sign in that way" in page.text
    assert linked(front) == [("acme", "acme-alice", front.user(ALICE).id)]
    assert (await comes(front, provider)).url.endswith("/account")
    # It is Alice's now, and Bob cannot have it.
    bob = front.browser()
    page = await bob.submit(await bob.open("/login"), "/login", email=BOB, password=PASSWORD)  # type: ignore[assignment]
    form = page.form("/account/connect/acme")
    response = await bob.post(form.action, {**form.fields, "password": PASSWORD})
    page = await come_back(bob, provider.visit(response.headers["refresh"].removeprefix("0;url=")))
    assert (page.status, "IDENTITY_TAKEN" in page.text) == (409, True)


async def test_a_disabled_account_stays_shut(front: Front, provider: ForeignProvider) -> None:
    browser = front.browser()
    await comes(front, provider, browser)
    await proven(front, browser)
    await front.accounts.disable_account(front.user("carol@example.com").id)
    page = await comes(front, provider)
    assert (page.status, "ACCOUNT_NOT_USABLE" in page.text) == (403, True)


LIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "wrong issuer": lambda claims: claims.update(iss="https://login.evil.example"),
    "no issuer": lambda claims: claims.pop("iss"),
    "wrong audience": lambda claims: claims.update(aud="another-client"),
    "several audiences without azp": lambda claims: claims.update(aud=[CLIENT_ID, "another-client"]),
    "another azp": lambda claims: claims.update(aud=[CLIENT_ID, "another"], azp="another"),
    "no audience": lambda claims: claims.pop("aud"),
    "wrong nonce": lambda claims: claims.update(nonce="replayed"),
    "no nonce": lambda claims: claims.pop("nonce"),
    "expired": lambda claims: claims.update(exp=int(time.time()) - 120),
    "no expiry": lambda claims: claims.pop("exp"),
    "expiry as text": lambda claims: claims.update(exp="tomorrow"),
    "no subject": lambda claims: claims.pop("sub"),
    "empty subject": lambda claims: claims.update(sub=""),
    "subject as number": lambda claims: claims.update(sub=7),
}


async def test_an_id_token_that_lies_is_not_believed(front: Front, provider: ForeignProvider) -> None:
    for lie, twist in LIES.items():
        provider.twist = twist
        await refused(front, provider, lie)


async def test_an_id_token_that_is_not_signed_as_it_must_be_is_not_believed(
    front: Front, provider: ForeignProvider
) -> None:
    no_tokens = [(lambda _provider, _claims, text=text: text) for text in ("", "x", "a.b.c", "e30.e30.e30")]
    for number, sign in enumerate([unsigned, by_a_stranger, by_secret, *no_tokens]):
        provider.sign = sign
        await refused(front, provider, str(number))


async def refused(front: Front, provider: ForeignProvider, lie: str) -> None:
    browser = front.browser()
    page = await comes(front, provider, browser)
    assert (page.status, "PROVIDER_NOT_BELIEVED" in page.text) == (403, True), lie
    assert SESSION_COOKIE not in browser.cookies, lie
    assert await Mailbox().empty(front.parts) == [], lie
    assert linked(front) == [], lie


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.evil.example"},
        {"token_endpoint": "http://login.acme.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"userinfo_endpoint": "http://login.acme.example/userinfo"},
        {"authorization_endpoint": None},
    ],
)
async def test_metadata_of_another_or_in_the_clear_is_not_believed(
    front: Front, provider: ForeignProvider, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    browser = front.browser()
    form = (await browser.open("/login")).form("/sign-in-with/acme")
    response = await browser.post(form.action, dict(form.fields))
    assert (response.status_code, "refresh" in response.headers) == (403, False)


async def test_an_answer_that_was_begun_elsewhere_or_comes_twice_is_refused(
    front: Front, provider: ForeignProvider
) -> None:
    browser, thief = front.browser(), front.browser()
    answer = provider.visit(await gone_out(browser))
    foreign = provider.visit(await gone_out(thief))
    for wrong in (
        {**answer, "state": "x"},
        {"code": answer["code"]},
        {"state": answer["state"]},
        foreign,
        {**answer, "iss": "https://login.evil.example"},
    ):
        planted = front.browser()
        planted.cookies |= browser.cookies
        page = await come_back(planted, wrong)
        assert page.status == 403
        assert BEGUN_COOKIE not in planted.cookies
    nobody = await come_back(front.browser(), answer)
    assert nobody.status == 403
    assert "A mail" in (await come_back(browser, {**answer, "iss": ISSUER})).text
    assert (await come_back(browser, answer)).status == 403


async def test_github_vouches_by_its_primary_address_and_its_number(front: Front, provider: ForeignProvider) -> None:
    provider.github = {
        "user": {"id": 4711, "login": "carol", "name": None},
        "emails": [
            {"email": ALICE, "primary": False, "verified": True},
            {"email": "carol@example.com", "primary": True, "verified": True},
        ],
    }
    browser = front.browser()
    page = await comes(front, provider, browser, at="github")
    assert "A mail with a link" in page.text
    await proven(front, browser)
    assert linked(front) == [("github", "4711", front.user("carol@example.com").id)]
    provider.github["user"]["login"] = "renamed"
    assert (await comes(front, provider, at="github")).url.endswith("/account")
    provider.github = {"user": {"id": 1}, "emails": [{"email": BOB, "primary": True, "verified": False}]}
    assert "EMAIL_NOT_VERIFIED" in (await comes(front, provider, at="github")).text


async def test_nothing_of_what_the_provider_gave_is_kept(front: Front, provider: ForeignProvider) -> None:
    browser = front.browser()
    await comes(front, provider, browser)
    await proven(front, browser)
    dumped = "".join(front.database.run_sync(lambda tx: [repr(row) for row in tx.connection.iterdump()]))  # type: ignore[attr-defined]
    assert "acme-carol" in dumped
    assert "upstream-access" not in dumped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "not a JSON list"),
        ('[{"id": "x"}]', "client_id"),
        (json.dumps([{**ACME, "issuer": "http://login.acme.example"}]), "https"),
        (json.dumps([ACME, ACME]), "same id"),
        (json.dumps([{**ACME, "preset": "microsoft", "tenant": "common"}]), "one tenant"),
        (json.dumps([{**ACME, "name": ""}]), "name"),
        (json.dumps([{**ACME, "unknown": 1}]), "unknown"),
    ],
)  # fmt: skip
def test_a_provider_that_is_not_whole_is_refused_at_the_start(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        parse_providers(text)
    assert CLIENT_SECRET not in str(refused.value)


def test_presets_need_only_what_is_ones_own() -> None:
    own = {"client_id": "x", "client_secret": "y"}
    listed = [{"id": "google", "preset": "google", **own}, {"id": "ms", "preset": "microsoft", "tenant": "t-1", **own}]
    google, microsoft = parse_providers(json.dumps(listed))
    assert (google.name, google.issuer) == ("Google", "https://accounts.google.com")
    assert microsoft.issuer == "https://login.microsoftonline.com/t-1/v2.0"
