"""The pages: sign-in, consent, the account, sign-out; their forms, cookies and headers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from structlog.testing import capture_logs

from devstack.flow import Browser, FlowFailed, Refused, Tokens
from identity.web import BROWSER_COOKIE, SESSION_COOKIE
from support.identity_front import ADMIN, ALICE, BOB, LOOPBACK, ORDERS, PASSWORD, Front, identity_front

DOOR = ("signed_in", "sign_in_refused", "signed_out", "sign_in_slowed")
PAGES = ("/login", "/account", "/signed-out", "/consent?flow=x", "/authorize?client_id=nobody")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url) as front:
        yield front


async def signed_in(front: Front, email: str = ALICE, password: str = PASSWORD) -> Browser:
    browser = front.browser()
    arrived = await browser.submit(await browser.open("/login"), "/login", email=email, password=password)
    assert not isinstance(arrived, str)
    assert urlsplit(arrived.url).path == "/account"
    return browser


async def tokens_for(front: Front, browser: Browser, scope: str = "orders:read", client: str = "mobile") -> Tokens:
    return await front.client(client).sign_in(browser, ALICE, PASSWORD, scope=scope, resource=ORDERS)


def cookies_set(response: httpx2.Response) -> dict[str, str]:
    lines = response.headers.get_list("set-cookie")
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines}


async def test_a_person_signs_in_and_sees_the_account(front: Front) -> None:
    browser = await signed_in(front)
    page = await browser.open("/account")
    assert "Alice" in page.text
    assert ALICE in page.text


async def test_the_address_is_taken_whatever_its_case_and_the_password_is_not(front: Front) -> None:
    assert SESSION_COOKIE in (await signed_in(front, " ALICE@Example.com ")).cookies
    browser = front.browser()
    page = await browser.submit(await browser.open("/login"), "/login", email=ALICE, password=PASSWORD.upper())
    assert not isinstance(page, str)
    assert page.status == 403


@pytest.mark.requirement(77)
async def test_wrong_password_unknown_and_disabled_account_are_answered_alike(front: Front) -> None:
    await front.accounts.disable_account(front.user(BOB).id)
    answers = set()
    for email, password in (
        (ALICE, "wrong"),
        ("nobody@example.com", PASSWORD),
        (BOB, PASSWORD),
        (ALICE, ""),
        (ALICE, "x" * 500),
    ):
        browser = front.browser()
        page = await browser.submit(await browser.open("/login"), "/login", email=email, password=password)
        assert not isinstance(page, str)
        assert SESSION_COOKIE not in browser.cookies
        answers.add((page.status, page.text))
    ((status, text),) = answers
    assert status == 403
    assert text.startswith("Rescind Sign in E-mail or password is not right. E-mail Password Sign in")


async def test_what_was_typed_comes_back_escaped_and_the_password_not_at_all(front: Front) -> None:
    browser = front.browser()
    form = (await browser.open("/login")).form("/login")
    email = '"><script>alert(1)</script>@example.com'
    response = await browser.post("/login", {**form.fields, "email": email, "password": "secret-word-here"})
    assert "<script" not in response.text
    assert "secret-word-here" not in response.text
    assert "&#34;&gt;&lt;script&gt;" in response.text


@pytest.mark.requirement(31)
async def test_the_session_cookie_is_for_this_origin_and_no_script(front: Front) -> None:
    browser = front.browser()
    form = (await browser.open("/login")).form("/login")
    response = await browser.post("/login", {**form.fields, "email": ALICE, "password": PASSWORD})
    value, _, attributes = cookies_set(response)[SESSION_COOKIE].partition("; ")
    assert SESSION_COOKIE.startswith("__Host-")
    assert len(value) == 43
    assert set(attributes.lower().split("; ")) == {"httponly", "path=/", "samesite=lax", "secure"}
    assert cookies_set(response)[BROWSER_COOKIE].startswith('""; ')


@pytest.mark.requirement(62)
async def test_after_credentials_the_answer_is_303(front: Front) -> None:
    browser = front.browser()
    form = (await browser.open("/login")).form("/login")
    response = await browser.post("/login", {**form.fields, "email": ALICE, "password": PASSWORD})
    assert (response.status_code, response.headers["location"]) == (303, "/account")
    form = (await browser.open("/account")).form("/password")
    changed = {"current_password": PASSWORD, "new_password": "another-good-password"}
    response = await browser.post("/password", {**form.fields, **changed})
    assert response.status_code == 303


async def test_signing_in_again_gives_a_cookie_never_seen_before_and_the_old_one_is_dead(front: Front) -> None:
    browser = await signed_in(front)
    planted = browser.cookies[SESSION_COOKIE]
    front.clock.forward(1)
    page = await browser.open(front.client("mobile").start(scope="openid", prompt="login").url)
    await browser.submit(page, "/login", email=ALICE, password=PASSWORD)
    assert browser.cookies[SESSION_COOKIE] != planted
    old = front.browser()
    old.cookies[SESSION_COOKIE] = planted
    assert urlsplit((await old.open("/account")).url).path == "/login"


async def test_another_person_in_the_same_browser_signs_the_first_one_out(front: Front) -> None:
    browser = await signed_in(front)
    tokens = await tokens_for(front, browser)
    front.clock.forward(1)
    page = await browser.open(front.client("mobile").start(scope="openid", prompt="login").url)
    await browser.submit(page, "/login", email=BOB, password=PASSWORD)
    assert BOB in (await browser.open("/account")).text
    assert [cause for cause, _ in front.log()] == ["SIGNED_OUT"]
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}


async def test_what_happens_at_the_door_is_logged_and_nobodys_address_is(front: Front) -> None:
    with capture_logs() as logged:
        browser = await signed_in(front)
        for email in (BOB, "nobody@example.com"):
            other = front.browser()
            page = await other.open("/login")
            await other.submit(page, "/login", email=email, password="wrong-password")
        await browser.sign_out()
    told = [(line["event"], line.get("user_id")) for line in logged if line["event"] in DOOR]
    alice, bob = front.user(ALICE).id, front.user(BOB).id
    assert told == [("signed_in", alice), ("sign_in_refused", bob), ("sign_in_refused", None), ("signed_out", None)]
    assert "example.com" not in repr(logged)
    assert "wrong-password" not in repr(logged)


async def test_a_cookie_for_signing_in_that_is_not_ours_is_not_taken_over(front: Front) -> None:
    browser = front.browser()
    browser.cookies[BROWSER_COOKIE] = "planted"
    await browser.open("/login")
    assert len(browser.cookies[BROWSER_COOKIE]) == 43


async def test_a_cookie_that_is_invented_is_nobodys(front: Front) -> None:
    for value in ("x", "x" * 43, "x" * 5000):
        browser = front.browser()
        browser.cookies[SESSION_COOKIE] = value
        assert urlsplit((await browser.open("/account")).url).path == "/login"
        assert urlsplit((await browser.open("/login")).url).path == "/login"


@pytest.mark.parametrize("path", ["/login", "/logout", "/password", "/consent"])
@pytest.mark.parametrize("how", ["no token", "invented", "another form's", "another browser's", "another site"])
async def test_a_form_that_is_not_ours_does_nothing(front: Front, path: str, how: str) -> None:
    browser = await signed_in(front)
    partner = front.client("partner").start(scope="openid", resource=()).url
    forms = {form.action.rpartition("/")[2]: form for form in (await browser.open("/account")).forms}
    forms["consent"] = (await browser.open(partner)).form("/consent")
    nobody = front.browser()
    forms["login"] = (await nobody.open("/login")).form("/login")
    fields = dict(forms[path[1:]].fields)
    fields |= {"email": ALICE, "password": PASSWORD, "decision": "allow"}
    fields |= {"current_password": PASSWORD, "new_password": "another-good-password"}
    sender, headers = (nobody if path == "/login" else browser), {}
    if how == "no token":
        del fields["csrf_token"]
    elif how == "invented":
        fields["csrf_token"] = "é" * 10
    elif how == "another form's":
        others = {"/logout": "password"}.get(path, "logout")
        fields["csrf_token"] = forms[others].fields["csrf_token"]
    elif how == "another browser's":
        sender = front.browser()
        await sender.open("/login")
        if path != "/login":
            sender = await signed_in(front, BOB)
    else:
        headers["sec-fetch-site"] = "cross-site"
    cookies = "; ".join(f"{name}={value}" for name, value in sender.cookies.items())
    response = await front.http.post(path, data=fields, headers={"cookie": cookies, **headers})
    assert response.status_code == 403
    assert SESSION_COOKIE not in cookies_set(response)
    assert front.log() == []
    assert urlsplit((await browser.open("/account")).url).path == "/account"
    assert (await signed_in(front)).cookies  # the password is the one it was


async def test_signing_out_ends_the_session_and_what_hangs_on_it(front: Front) -> None:
    browser = await signed_in(front)
    tied, offline = await tokens_for(front, browser), await tokens_for(front, browser, "offline_access orders:read")
    planted = browser.cookies[SESSION_COOKIE]
    page = await browser.sign_out()
    assert "signed out" in page.text
    assert SESSION_COOKIE not in browser.cookies
    ((cause, (entry,)),) = front.log()
    assert (cause, entry["kind"]) == ("SIGNED_OUT", "session")
    assert front.pushed
    asks = front.client("backoffice")
    assert await asks.introspect(tied.access_token) == {"active": False}
    assert (await asks.introspect(offline.access_token))["active"] is True
    old = front.browser()
    old.cookies[SESSION_COOKIE] = planted
    assert urlsplit((await old.open("/account")).url).path == "/login"
    with pytest.raises(FlowFailed):
        await browser.sign_out()
    # A second sign-out with the dead cookie changes nothing.
    assert len(front.log()) == 1


async def test_ten_windows_sign_in_again_and_ten_sign_out_at_once(any_front: Front) -> None:
    browser = await signed_in(any_front)
    any_front.clock.forward(1)
    page = await browser.open(any_front.client("mobile").start(scope="openid", prompt="login").url)
    fields = {**page.form("/login").fields, "email": ALICE, "password": PASSWORD}
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    again = [any_front.http.post("/login", data=fields, headers={"cookie": cookie}) for _ in range(10)]
    answers = await asyncio.gather(*again)
    assert {answer.status_code for answer in answers} == {303}
    # One of them renewed the session; the others, whose cookie was dead by then, opened sessions of their own.
    values = {cookies_set(answer)[SESSION_COOKIE].partition(";")[0] for answer in answers}
    assert len(values) == 10
    for value in values:
        browser.cookies[SESSION_COOKIE] = value
        assert urlsplit((await browser.open("/account")).url).path == "/account"
    fields = dict((await browser.open("/account")).form("/logout").fields)
    cookie = f"{SESSION_COOKIE}={browser.cookies[SESSION_COOKIE]}"
    leave = [any_front.http.post("/logout", data=fields, headers={"cookie": cookie}) for _ in range(10)]
    assert {answer.status_code for answer in await asyncio.gather(*leave)} == {303}
    assert [cause for cause, _ in any_front.log()] == ["SIGNED_OUT"]


@pytest.mark.requirement(23)
async def test_a_changed_password_ends_everything_else_and_keeps_this_browser(front: Front) -> None:
    elsewhere, browser = await signed_in(front), await signed_in(front)
    tokens = await tokens_for(front, elsewhere, "offline_access orders:read")
    before = browser.cookies[SESSION_COOKIE]
    page = await browser.change_password(PASSWORD, "another-good-password")
    assert "everything else has been signed out" in page.text
    assert browser.cookies[SESSION_COOKIE] != before
    assert [cause for cause, _ in front.log()] == ["PASSWORD_CHANGED"]
    assert urlsplit((await elsewhere.open("/account")).url).path == "/login"
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("mobile").refresh(tokens)
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    with pytest.raises(AssertionError):
        await signed_in(front)
    assert await signed_in(front, password="another-good-password")


@pytest.mark.parametrize(
    ("current", "new", "status", "said"),
    [
        ("wrong-password", "another-good-password", 403, "The current password is not right."),
        ("", "another-good-password", 403, "The current password is not right."),
        (PASSWORD, "short", 422, "at least 8 characters"),
        (PASSWORD, "x1" * 65, 422, "at most 128 characters"),
        (PASSWORD, "password123", 422, "one of the first that anybody would try"),
        (PASSWORD, ALICE, 422, "the name of the account"),
    ],
)
async def test_a_password_change_that_is_refused_changes_nothing(
    front: Front, current: str, new: str, status: int, said: str
) -> None:
    browser = await signed_in(front)
    page = await browser.submit(await browser.open("/account"), "/password", current_password=current, new_password=new)
    assert not isinstance(page, str)
    assert page.status == status
    assert said in page.text
    assert front.log() == []
    assert (await signed_in(front)).cookies


async def test_a_third_party_asks_and_says_for_what(front: Front) -> None:
    browser = await signed_in(front)
    client = front.client("partner")
    started = client.start(scope="openid profile orders:read offline_access", resource=ORDERS)
    page = await browser.open(started.url)
    for said in (
        "Partner Analytics",
        ALICE,
        "See your orders",
        "while you are signed out",
        "30 days",
        "127.0.0.1:7777",
    ):
        assert said in page.text
    assert "See your name" not in page.text  # the profile is identity's to tell, and was not asked for there
    location = await browser.submit(page, "/consent", decision="allow")
    assert isinstance(location, str)
    tokens = await client.redeem(started, client.code_from(started, location))
    assert tokens.scope == "orders:read"


@pytest.mark.parametrize("decision", ["deny", "", "perhaps"])
async def test_whoever_does_not_allow_denies(front: Front, decision: str) -> None:
    browser = await signed_in(front)
    client = front.client("partner")
    started = client.start(scope="openid")
    location = await browser.submit(await browser.open(started.url), "/consent", decision=decision)
    assert isinstance(location, str)
    with pytest.raises(Refused, match="access_denied"):
        client.code_from(started, location)


async def test_consent_names_no_scope_that_the_person_cannot_give(front: Front) -> None:
    pages = {}
    for email in (ALICE, ADMIN):
        browser = await signed_in(front, email)
        url = front.client("mobile").start(scope="orders:read orders:admin", resource=ORDERS, prompt="consent").url
        pages[email] = (await browser.open(url)).text
    assert ["orders of everybody" in pages[email] for email in (ALICE, ADMIN)] == [False, True]


async def test_a_sign_out_in_another_window_takes_the_question_along(front: Front) -> None:
    browser = await signed_in(front)
    page = await browser.open(front.client("partner").start(scope="openid").url)
    await browser.sign_out()
    answered = await browser.submit(page, "/consent", decision="allow")
    assert not isinstance(answered, str)
    assert answered.status == 403


@pytest.mark.requirement(35, 64, 66)
async def test_every_page_carries_the_headers_that_keep_it_to_itself(front: Front) -> None:
    browser = await signed_in(front)
    consent = front.client("partner").start(scope="openid").url
    for where in (
        *PAGES,
        consent,
        "/.well-known/openid-configuration",
        "/jwks.json",
        "/userinfo",
        "/static/none",
        "/nowhere",
    ):
        response = await browser.get(where)
        if "location" in response.headers and response.headers["location"].startswith("/"):
            response = await browser.get(response.headers["location"])
        policy = response.headers["content-security-policy"]
        for directive in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "object-src 'none'"):
            assert directive in policy, where
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        assert response.headers["strict-transport-security"].startswith("max-age=63072000")
        if response.headers["content-type"].startswith("text/html"):
            assert response.headers["cache-control"] == "no-store"
            assert "<script" not in response.text
            assert "http://" not in response.text.replace("http://www.w3.org", "")


async def test_a_form_may_lead_to_its_own_client_and_no_other(front: Front) -> None:
    browser = front.browser()
    response = await browser.get(
        (await browser.get(front.client("mobile").start(scope="openid").url)).headers["location"]
    )
    assert f"form-action 'self' {LOOPBACK.removesuffix('/callback')};" in response.headers["content-security-policy"]
    response = await browser.get("/login")
    assert "form-action 'self';" in response.headers["content-security-policy"]


@pytest.mark.requirement(63)
async def test_no_parameter_of_the_login_page_leads_elsewhere(front: Front) -> None:
    for name in ("next", "return_to", "redirect_uri", "continue"):
        browser = front.browser()
        page = await browser.open("/login?" + urlencode({name: "https://evil.example/"}))
        fields = {**page.form("/login").fields, "email": ALICE, "password": PASSWORD}
        response = await browser.post("/login", {**fields, name: "https://evil.example/"})
        assert response.headers["location"] == "/account"


async def test_static_files_may_be_kept_and_others_do_not_exist(front: Front) -> None:
    page = (await front.browser().get("/login")).text
    for part in page.split('"'):
        if part.startswith("/static/"):
            response = await front.http.get(part)
            assert response.status_code == 200
            assert "immutable" in response.headers["cache-control"]
    for name in ("nothing", "..%2frest.py", "%2e%2e/pages.py"):
        assert (await front.http.get(f"/static/{name}")).status_code == 404


async def test_trouble_is_told_to_a_person_as_a_page(front: Front, tmp_path: Path) -> None:
    (tmp_path / "identity.db").rename(tmp_path / "away.db")
    front.database.engine.dispose()
    (tmp_path / "identity.db").mkdir()
    browser = front.browser()
    response = await browser.get("/login?flow=x")
    front.database.engine.dispose()
    assert (response.status_code, response.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert "DATABASE_UNAVAILABLE" in response.text
    assert response.headers["retry-after"] == "1"
