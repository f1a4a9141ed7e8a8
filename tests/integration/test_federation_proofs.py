"""How long another provider's word is good, and for what: proofs that a password change ends, sign-ins that are old."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import select, update
from starlette.responses import HTMLResponse, JSONResponse

from devstack.flow import Browser
from devstack.story.scene import claims_of
from identity.federation.pages import BEGUN_COOKIE
from identity.federation.service import Federation
from identity.storage import login_sessions, users
from identity.web import SESSION_COOKIE
from support.foreign_provider import ForeignProvider
from support.identity_front import ALICE, BOB, PASSWORD, Front, identity_front
from support.mailbox import Mailbox, link_in
from support.signing_in_elsewhere import ACME, CAROL, HUB, come_back, comes, gone_out, linked, proven
from support.signing_up import GOOD

DAY = 86_400


@pytest.fixture
def provider() -> ForeignProvider:
    return ForeignProvider(person=dict(CAROL))


def _front(folder: Path, app: Any) -> Any:
    return identity_front(
        f"sqlite:///{folder / 'identity.db'}",
        elsewhere=httpx2.ASGITransport(app),
        providers=json.dumps([ACME, HUB]),
        mail_url=f"file://{folder}/mail",
    )


@pytest.fixture
async def front(tmp_path: Path, provider: ForeignProvider) -> AsyncIterator[Front]:
    async with _front(tmp_path, provider.app) as front:
        yield front


async def signed_in(front: Front, email: str) -> Browser:
    browser = front.browser()
    await browser.submit(await browser.open("/login"), "/login", email=email, password=PASSWORD)
    return browser


async def carol(front: Front, provider: ForeignProvider) -> Browser:
    """Where she is signed in, by the provider that vouches for her."""
    browser = front.browser()
    await comes(front, provider, browser)
    await proven(front, browser)
    return browser


async def again(front: Front, provider: ForeignProvider, browser: Browser, **wish: str) -> tuple[dict[str, Any], Any]:
    """What the provider is asked when a client wants a sign-in, and where the browser is afterwards."""
    page = await browser.walk(await browser.get(front.client("mobile").start(scope="openid", **wish).url))
    form = page.form("/sign-in-with/acme")
    response = await browser.post(form.action, dict(form.fields))
    url = response.headers["refresh"].removeprefix("0;url=")
    answer = await browser.get(f"/sign-in-with/acme/callback?{urlencode(provider.visit(url))}")
    return parse_qs(urlsplit(url).query), answer


def living(front: Front, email: str) -> int:
    whose = (login_sessions.c.user_id == front.user(email).id) & login_sessions.c.ended_at.is_(None)
    return len(front.database.run_sync(lambda tx: tx.execute(select(login_sessions.c.id).where(whose)).all()))


# A new sign-in is one at the provider, too


@pytest.mark.parametrize("wish", [{"prompt": "login"}, {"max_age": "60"}])
async def test_a_new_sign_in_is_asked_of_the_provider_and_believed_when_it_says_so(
    front: Front, provider: ForeignProvider, wish: dict[str, str]
) -> None:
    browser = await carol(front, provider)
    front.clock.forward(3600)
    mobile = front.client("mobile")
    started = mobile.start(scope="openid", **wish)
    page = await browser.walk(await browser.get(started.url))
    form = page.form("/sign-in-with/acme")
    response = await browser.post(form.action, dict(form.fields))
    url = response.headers["refresh"].removeprefix("0;url=")
    asked = parse_qs(urlsplit(url).query)
    assert (asked["prompt"], asked["max_age"]) == (["login"], ["0"])
    location = await browser.walk(await browser.get(f"/sign-in-with/acme/callback?{urlencode(provider.visit(url))}"))
    tokens = await mobile.redeem(started, mobile.code_from(started, location))
    claims = claims_of(tokens.id_token)
    assert claims["auth_time"] == front.clock.ms // 1000


@pytest.mark.parametrize("says", [int(time.time()) - DAY, None, True, "now"], ids=["old", "nothing", "true", "text"])
async def test_a_click_is_no_new_sign_in(front: Front, provider: ForeignProvider, says: object) -> None:
    browser = await carol(front, provider)
    front.clock.forward(3600)
    provider.person["auth_time"] = says
    for wish in ({"prompt": "login"}, {"prompt": "select_account"}, {"max_age": "60"}):
        _, answer = await again(front, provider, browser, **wish)
        assert (answer.status_code, "PROVIDER_SIGN_IN_TOO_OLD" in answer.text) == (403, True)
        assert "Acme did not ask for one. Sign in with your password." in answer.text


@pytest.mark.parametrize("out_first", [False, True], ids=["signed in", "signed out first"])
async def test_no_administrator_proves_who_they_are_by_a_click(
    front: Front, provider: ForeignProvider, out_first: bool
) -> None:
    browser = await carol(front, provider)
    admin = update(users).where(users.c.email == CAROL["email"]).values(roles=["admin"])
    front.database.run_sync(lambda tx: tx.execute(admin))
    alice = front.user(ALICE).id

    async def switches_off() -> int:
        form = (await browser.open(f"/admin/users/{alice}")).form(f"/admin/users/{alice}/disable")
        return (await browser.post(form.action, dict(form.fields))).status_code

    front.clock.forward(3600)
    assert await switches_off() == 403  # asks for the password
    for says in (int(time.time()) - DAY, None):
        provider.person["auth_time"] = says
        if out_first:
            del browser.cookies[SESSION_COOKIE]
            await comes(front, provider, browser)
        else:
            await again(front, provider, browser, prompt="login")
        assert await switches_off() == 403


async def test_a_sign_in_is_as_old_as_the_one_at_the_provider_or_as_old_as_one_may_be(
    front: Front, provider: ForeignProvider
) -> None:
    await carol(front, provider)
    mobile, now = front.client("mobile"), front.clock.ms // 1000
    for says, expected in ((int(time.time()) - 1000, now - 1000), (None, now - front.parts.issuer.lives.session)):
        provider.person["auth_time"] = says
        browser = front.browser()
        await comes(front, provider, browser)
        started = mobile.start(scope="openid")
        location = await browser.walk(await browser.get(started.url))
        tokens = await mobile.redeem(started, mobile.code_from(started, location))
        claims = claims_of(tokens.id_token)
        assert abs(claims["auth_time"] - expected) <= 2


async def test_a_provider_that_cannot_be_asked_for_a_new_sign_in_is_not_gone_to(front: Front) -> None:
    browser = front.browser()
    page = await browser.walk(await browser.get(front.client("mobile").start(scope="openid", prompt="login").url))
    form = page.form("/sign-in-with/github")
    response = await browser.post(form.action, dict(form.fields))
    assert (response.status_code, "PROVIDER_SIGN_IN_TOO_OLD" in response.text) == (403, True)


# What signs out everywhere ends what began before it


async def test_a_mailed_proof_dies_with_a_password_change(front: Front, provider: ForeignProvider) -> None:
    """Mallory reads Alice's mail for a moment, and has an identity of Mallory's vouch for Alice's address."""
    provider.person |= {"sub": "acme-mallory", "email": ALICE}
    mallory = front.browser()
    await comes(front, provider, mallory)
    (mail,) = await Mailbox().empty(front.parts)
    alice = await signed_in(front, ALICE)
    await alice.change_password(PASSWORD, GOOD)
    page = await mallory.submit(await mallory.open(link_in(mail)), "/vouch")
    assert (page.status, linked(front)) == (410, [])


async def test_a_mailed_proof_for_nobody_is_none_for_who_signed_up_since(
    front: Front, provider: ForeignProvider
) -> None:
    browser = front.browser()
    await comes(front, provider, browser)
    (mail,) = await Mailbox().empty(front.parts)
    page = await browser.submit(await browser.open("/signup"), "/signup", email=CAROL["email"])
    (sign_up,) = await Mailbox().empty(front.parts)
    other = front.browser()
    await other.submit(await other.open(link_in(sign_up)), "/signup/finish", name="Carol", password=GOOD)
    page = await browser.submit(await browser.open(link_in(mail)), "/vouch")
    assert (page.status, linked(front)) == (410, [])


async def test_connecting_needs_the_password_of_now(front: Front, provider: ForeignProvider) -> None:
    provider.person |= {"sub": "acme-mallory", "email": "mallory@example.com"}
    mallory = await signed_in(front, ALICE)  # with the password of before
    form = (await mallory.open("/account")).form("/account/connect/acme")
    response = await mallory.post(form.action, {**form.fields, "password": PASSWORD})
    alice = await signed_in(front, ALICE)
    await alice.change_password(PASSWORD, GOOD)
    mallory.cookies[SESSION_COOKIE] = alice.cookies[SESSION_COOKIE]  # stolen: no password comes with it
    page = await come_back(mallory, provider.visit(response.headers["refresh"].removeprefix("0;url=")))
    assert (page.status, linked(front)) == (403, [])


async def test_a_password_change_overtakes_a_connection(
    front: Front, provider: ForeignProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = await signed_in(front, ALICE)
    form = (await browser.open("/account")).form("/account/connect/acme")
    response = await browser.post(form.action, {**form.fields, "password": PASSWORD})
    alice, link = front.user(ALICE).id, Federation.link

    async def overtaken(self: Federation, *arguments: Any) -> None:
        await front.accounts.change_password(alice, PASSWORD, GOOD)
        await link(self, *arguments)

    monkeypatch.setattr(Federation, "link", overtaken)
    page = await come_back(browser, provider.visit(response.headers["refresh"].removeprefix("0;url=")))
    assert (page.status, linked(front)) == (403, [])


# Whoever was signed in in this browser


@pytest.mark.parametrize("by_mail", [False, True], ids=["known", "by mail"])
async def test_who_comes_by_a_provider_signs_out_whoever_was_here_and_at_once(
    front: Front, provider: ForeignProvider, by_mail: bool
) -> None:
    if not by_mail:
        await carol(front, provider)
    browser = await signed_in(front, BOB)
    front.clock.forward(5)
    front.pushed.clear()
    _, answer = await again(front, provider, browser, prompt="login")
    if by_mail:
        assert answer.status_code == 200
        (mail,) = [mail for mail in await Mailbox().empty(front.parts) if mail.subject.startswith("Connect")]
        front.pushed.clear()
        await browser.submit(await browser.open(link_in(mail)), "/vouch")
    assert (living(front, CAROL["email"]), living(front, BOB)) == (1 if by_mail else 2, 0)
    assert front.pushed, "committed, and not pushed before the answer"


# Answers that are none


async def test_who_says_that_they_name_themselves_does_so(front: Front, provider: ForeignProvider) -> None:
    """RFC 9207 section 2.4."""
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    assert (await comes(front, provider)).status == 403


def _instead(provider: ForeignProvider, path: str, answer: Any) -> Callable[..., Any]:
    app = provider.app

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await (answer if scope["path"] == path else app)(scope, receive, send)

    return served


async def test_a_token_endpoint_that_speaks_no_json(tmp_path: Path, provider: ForeignProvider) -> None:
    async with _front(tmp_path, _instead(provider, "/token", HTMLResponse("<h1>Maintenance</h1>"))) as front:
        browser = front.browser()
        answer = provider.visit(await gone_out(browser))
        response = await browser.get(f"/sign-in-with/acme/callback?{urlencode(answer)}")
        assert (response.status_code, BEGUN_COOKIE in browser.cookies) == (403, False)


async def test_metadata_that_is_no_object(tmp_path: Path, provider: ForeignProvider) -> None:
    app = _instead(provider, "/.well-known/openid-configuration", JSONResponse([]))
    async with _front(tmp_path, app) as front:
        browser = front.browser()
        form = (await browser.open("/login")).form("/sign-in-with/acme")
        assert (await browser.post(form.action, dict(form.fields))).status_code == 403
