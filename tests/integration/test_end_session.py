"""RP-initiated logout: who may sign a person out without asking them, where the browser goes, and what has ended."""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import select, update

from devstack.flow import Browser, Page, Tokens
from identity.domain import Cause
from identity.storage import clients, login_sessions
from identity.web import SESSION_COOKIE
from support.identity_front import ALICE, BOB, ISSUER, ORDERS, PASSWORD, Front, identity_front

BACK = "http://localhost:8000/"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        front.database.run_sync(
            lambda tx: tx.execute(
                update(clients).where(clients.c.id == "web").values(post_logout_redirect_uris=[BACK, BACK + "?bye=1"])
            )
        )
        yield front


async def signed_in(front: Front, browser: Browser, email: str = ALICE) -> Tokens:
    return await front.client("web").sign_in(browser, email, PASSWORD, scope="openid orders:read", resource=ORDERS)


def url(**parameters: str) -> str:
    return f"{ISSUER}/end_session?{urlencode(parameters)}"


def living(front: Front) -> int:
    query = select(login_sessions.c.id).where(login_sessions.c.ended_at.is_(None))
    return len(front.database.run_sync(lambda tx: tx.execute(query).all()))


async def asked(front: Front, browser: Browser, **parameters: str) -> Page:
    """The page that asks; nothing has ended yet."""
    before = living(front)
    page = await browser.open(url(**parameters))
    page.form("/end_session")
    assert living(front) == before
    assert SESSION_COOKIE in browser.cookies
    return page


@pytest.mark.requirement(60)
async def test_the_client_that_signed_in_here_signs_out_without_a_question(front: Front) -> None:
    browser = front.browser()
    tokens = await signed_in(front, browser)
    pushed = len(front.pushed)
    answer = await browser.get(url(id_token_hint=tokens.id_token or "", post_logout_redirect_uri=BACK, state="a&b"))
    assert (answer.status_code, answer.headers["location"]) == (303, BACK + "?state=a%26b")
    assert SESSION_COOKIE not in browser.cookies
    assert living(front) == 0
    assert [cause for cause, _ in front.log()] == [Cause.SIGNED_OUT]
    assert len(front.pushed) == pushed + 1
    assert (await browser.get(f"{ISSUER}/account")).headers["location"] == "/login"


@pytest.mark.requirement(60)
async def test_an_expired_id_token_still_tells_who_asks(front: Front) -> None:
    browser = front.browser()
    tokens = await signed_in(front, browser)
    front.clock.forward(3600)
    answer = await browser.get(
        url(id_token_hint=tokens.id_token or "", post_logout_redirect_uri=BACK + "?bye=1", state="s")
    )
    assert answer.headers["location"] == BACK + "?bye=1&state=s"
    assert living(front) == 0


@pytest.mark.requirement(60)
async def test_without_a_hint_the_person_is_asked(front: Front) -> None:
    browser = front.browser()
    await signed_in(front, browser)
    page = await asked(front, browser, client_id="web", post_logout_redirect_uri=BACK, state="s")
    assert "Rescind web" in page.text
    assert ALICE in page.text
    assert await browser.submit(page, "/end_session") == BACK + "?state=s"
    assert living(front) == 0
    assert SESSION_COOKIE not in browser.cookies


@pytest.mark.requirement(60)
async def test_with_nothing_at_all_the_person_is_asked_and_stays_here(front: Front) -> None:
    browser = front.browser()
    await signed_in(front, browser)
    arrived = await browser.submit(await asked(front, browser), "/end_session")
    assert not isinstance(arrived, str)
    assert urlsplit(arrived.url).path == "/signed-out"
    assert living(front) == 0


@pytest.mark.requirement(60)
async def test_the_hint_of_another_session_or_person_is_no_proof(front: Front) -> None:
    older, browser = front.browser(), front.browser()
    elsewhere = (await signed_in(front, older)).id_token or ""
    bobs = (await signed_in(front, front.browser(), BOB)).id_token or ""
    await signed_in(front, browser)
    for hint in (elsewhere, bobs):
        await asked(front, browser, id_token_hint=hint, post_logout_redirect_uri=BACK)


@pytest.mark.requirement(60)
@pytest.mark.requirement(14)
async def test_what_is_no_id_token_of_ours_is_no_proof(front: Front) -> None:
    browser = front.browser()
    tokens = await signed_in(front, browser)
    id_token = tokens.id_token or ""
    header, payload, signature = id_token.split(".")
    hints = (
        "nonsense",
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{payload}.",
        tokens.access_token,
        "eyJhbGciOiJub25lIn0." + payload + ".",
        "x" * 5000,
    )
    for hint in hints:
        await asked(front, browser, id_token_hint=hint)
        refused = await browser.get(url(id_token_hint=hint, post_logout_redirect_uri=BACK))
        assert (refused.status_code, "location" in refused.headers) == (400, False)


@pytest.mark.requirement(63)
@pytest.mark.parametrize(
    "parameters",
    [
        {"post_logout_redirect_uri": "http://evil.example/"},
        {"post_logout_redirect_uri": BACK + "x"},
        {"post_logout_redirect_uri": BACK.rstrip("/")},
        {"post_logout_redirect_uri": BACK.replace("8000", "8001")},
        {"post_logout_redirect_uri": BACK + "?bye=1&x=2"},
        {"post_logout_redirect_uri": "//localhost:8000/"},
        {"post_logout_redirect_uri": BACK, "client_id": "mobile"},
        {"post_logout_redirect_uri": BACK, "client_id": "nobody"},
        {"post_logout_redirect_uri": BACK, "client_id": "web", "state": "x" * 2049},
    ],
)
async def test_nobody_is_sent_on_to_what_is_not_registered(front: Front, parameters: dict[str, str]) -> None:
    for browser in (front.browser(), front.browser()):
        for more in ({}, {"client_id": "web"} | parameters):
            answer = await browser.get(url(**(parameters | more)))
            assert answer.status_code == 400
            assert "location" not in answer.headers
            assert "evil.example" not in answer.text
        await signed_in(front, browser)
    assert living(front) == 2


@pytest.mark.requirement(60)
async def test_the_hint_and_the_named_client_must_be_one(front: Front) -> None:
    browser = front.browser()
    tokens = await signed_in(front, browser)
    answer = await browser.get(url(id_token_hint=tokens.id_token or "", client_id="mobile"))
    assert answer.status_code == 400
    assert living(front) == 1


async def test_whoever_is_not_signed_in_goes_straight_on_and_keeps_their_cookies(front: Front) -> None:
    answer = await front.browser().get(url(client_id="web", post_logout_redirect_uri=BACK))
    assert (answer.status_code, answer.headers["location"]) == (303, BACK)
    assert "set-cookie" not in answer.headers
    assert (await front.browser().get(url())).headers["location"] == "/signed-out"


@pytest.mark.requirement(60)
async def test_the_form_counts_in_the_browser_that_got_it_and_for_what_it_said(front: Front) -> None:
    browser, other = front.browser(), front.browser()
    await signed_in(front, browser)
    await signed_in(front, other)
    form = (await asked(front, browser, client_id="web", post_logout_redirect_uri=BACK)).form("/end_session")
    page = f"{ISSUER}/end_session"
    assert (await other.post(page, form.fields)).status_code == 403
    changed = {**form.fields, "asked": form.fields["asked"].replace("web", "mobile")}
    assert (await browser.post(page, changed)).status_code == 403
    assert (await browser.post(page, {**form.fields, "csrf_token": "x"})).status_code == 403
    cross = {"sec-fetch-site": "cross-site", "cookie": f"{SESSION_COOKIE}={browser.cookies[SESSION_COOKIE]}"}
    assert (await front.http.post(page, data=dict(form.fields), headers=cross)).status_code == 403
    assert living(front) == 2


async def test_a_clients_own_post_is_answered_as_a_get(front: Front) -> None:
    answer = await front.http.post(f"{ISSUER}/end_session", data={"client_id": "web", "state": "s"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/end_session?client_id=web&state=s")


@pytest.mark.requirement(66)
async def test_the_page_is_as_strict_as_the_others(front: Front) -> None:
    browser = front.browser()
    await signed_in(front, browser)
    answer: httpx2.Response = await browser.get(url(client_id="web", post_logout_redirect_uri=BACK))
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' http://localhost:8000;" in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    for bad in ("?a=1&a=2", "?" + "x" * 9000, "?a=%ff"):
        assert (await browser.get(f"{ISSUER}/end_session{bad}")).status_code == 400
