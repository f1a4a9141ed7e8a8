"""Creating an account, resetting a password, proving an address: by mail, and telling nobody who has an account."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import event, func, select, update

from identity.people.letters import Printer
from identity.people.post import Postman
from identity.people.storage import mail_links, mails
from identity.storage import login_sessions, users
from identity.web import SESSION_COOKIE
from servicekit.mail import MailRefused, MailUnavailable
from support.identity_front import ALICE, BOB, ORDERS, PASSWORD, Front, identity_front
from support.mailbox import Mailbox, link_in
from support.signing_up import GOOD, NEW, asked, finished, mailed, signs_in

PURPOSES = {"/signup": ("signup", "known"), "/reset": ("nobody", "reset")}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    url = f"sqlite:///{tmp_path / 'identity.db'}"
    async with identity_front(url, mail_url=f"file://{tmp_path}/mail") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str, tmp_path: Path) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url, mail_url=f"file://{tmp_path}/mail") as front:
        yield front


async def test_somebody_creates_an_account_and_is_signed_in(front: Front) -> None:
    browser = front.browser()
    link = await mailed(front, "/signup", NEW)
    page = await finished(front, link, browser, name="  Carol   Example ", password=GOOD)
    assert urlsplit(page.url).path == "/account"
    assert "Welcome." in page.text
    assert "Carol Example" in page.text
    assert "confirmed" in page.text
    assert SESSION_COOKIE in browser.cookies
    assert await signs_in(front, NEW, GOOD)
    tokens = await front.client("mobile").sign_in(front.browser(), NEW, GOOD, scope="orders:read", resource=ORDERS)
    assert tokens.scope == "orders:read"


@pytest.mark.requirement(77)
@pytest.mark.parametrize("path", ["/signup", "/reset"])
async def test_an_account_shows_neither_in_the_answer_nor_in_the_work_it_takes(front: Front, path: str) -> None:
    await front.accounts.disable_account(front.user(BOB).id)
    seen: dict[str, Any] = {}
    for email in (ALICE, BOB, "nobody@example.com"):
        statements: list[str] = []

        def note(_c: Any, _cursor: Any, statement: str, *_: Any, into: list[str] = statements) -> None:
            into.append(statement)

        event.listen(front.database.engine, "before_cursor_execute", note)
        page = await asked(front, path, email)
        event.remove(front.database.engine, "before_cursor_execute", note)
        seen[email] = (page.status, page.text, tuple(statements))
    assert len(set(seen.values())) == 1
    came = {mail.to: mail.subject for mail in await Mailbox().empty(front.parts)}
    assert set(came) == {ALICE, BOB, "nobody@example.com"}
    assert len(set(came.values())) == 3


@pytest.mark.requirement(77)
async def test_what_an_account_owner_is_mailed_leads_to_a_reset_and_to_nobody_elses_account(front: Front) -> None:
    link = await mailed(front, "/signup", ALICE)
    assert urlsplit(link).path == "/reset/finish"
    link = await mailed(front, "/reset", "nobody@example.com")
    assert urlsplit(link).path == "/signup/finish"


async def test_a_password_is_reset_and_everything_is_signed_out(front: Front) -> None:
    elsewhere = front.browser()
    tokens = await front.client("mobile").sign_in(
        elsewhere, ALICE, PASSWORD, scope="offline_access orders:read", resource=ORDERS
    )
    page = await finished(front, await mailed(front, "/reset", ALICE), password=GOOD)
    assert urlsplit(page.url).path == "/login"
    assert "Your password has been changed" in page.text
    assert [cause for cause, _ in front.log()] == ["PASSWORD_CHANGED"]
    assert front.pushed
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    assert urlsplit((await elsewhere.open("/account")).url).path == "/login"
    assert not await signs_in(front, ALICE, PASSWORD)
    assert await signs_in(front, ALICE, GOOD)
    told = [mail.subject for mail in await Mailbox().empty(front.parts)]
    assert "Your password was changed" in told


@pytest.mark.requirement(83)
@pytest.mark.parametrize("path", ["/signup", "/reset"])
async def test_of_twenty_who_follow_one_link_at_once_one_succeeds(any_front: Front, path: str) -> None:
    link = await mailed(any_front, path, {"/signup": NEW, "/reset": ALICE}[path])
    browsers = [any_front.browser() for _ in range(20)]
    pages = [await browser.open(link) for browser in browsers]
    action = urlsplit(link).path
    sent = [
        browser.post(action, {**page.form(action).fields, "name": "Carol", "password": f"{GOOD}-{number}"})
        for number, (browser, page) in enumerate(zip(browsers, pages, strict=True))
    ]
    statuses = [response.status_code for response in await asyncio.gather(*sent)]
    assert sorted(statuses) == [303] + [410] * 19
    assert await signs_in(any_front, {"/signup": NEW, "/reset": ALICE}[path], f"{GOOD}-{statuses.index(303)}")


async def test_three_links_to_one_address_make_one_account(any_front: Front) -> None:
    links = []
    for _ in range(3):
        links.append(await mailed(any_front, "/signup", NEW))  # noqa: PERF401  (one after the other)
    pages = []
    for link in links:
        browser = any_front.browser()
        pages.append((browser, await browser.open(link)))
    sent = [
        browser.post("/signup/finish", {**page.form("/signup/finish").fields, "name": "C", "password": GOOD})
        for browser, page in pages
    ]
    statuses = sorted(response.status_code for response in await asyncio.gather(*sent))
    assert statuses == [303, 410, 410]


@pytest.mark.parametrize("path", ["/signup", "/reset"])
async def test_a_link_is_good_once_for_its_time_and_for_its_purpose(front: Front, path: str) -> None:
    email = {"/signup": NEW, "/reset": ALICE}[path]
    link = await mailed(front, path, email)
    secret = parse_qs(urlsplit(link).query)["link"][0]
    for other in ("/signup/finish", "/reset/finish", "/verify"):
        if other != urlsplit(link).path:
            response = await front.browser().get(f"{other}?link={secret}")
            assert (response.status_code, "LINK_SPENT" in response.text) == (410, True)
    for wrong in ("", "x", secret[:-1], secret + "a", "é"):
        assert (await front.browser().get(f"{urlsplit(link).path}?link={wrong}")).status_code == 410
    # Looking at it, as programs that read mail do, spends nothing.
    for _ in range(3):
        assert (await front.browser().get(link)).status_code == 200
    front.clock.forward({"/signup": 86_400, "/reset": 3_600}[path])
    assert (await front.browser().get(link)).status_code == 410


async def test_a_reset_link_dies_with_whatever_signs_out_everywhere(front: Front) -> None:
    first, second = await mailed(front, "/reset", ALICE), await mailed(front, "/reset", ALICE)
    browser, waiting = front.browser(), front.browser()
    page = await waiting.open(second)
    await finished(front, first, browser, password=GOOD)
    late = await waiting.submit(page, "/reset/finish", password="another-good-password")
    assert not isinstance(late, str)
    assert late.status == 410
    assert await signs_in(front, ALICE, GOOD)


async def test_a_disabled_account_is_told_by_mail_and_has_no_link(front: Front) -> None:
    await front.accounts.disable_account(front.user(BOB).id)
    await asked(front, "/reset", BOB)
    (mail,) = await Mailbox().empty(front.parts)
    assert "http" not in mail.text
    # Switched off between asking and finishing, a link does nothing.
    link = await mailed(front, "/reset", ALICE)
    browser = front.browser()
    page = await browser.open(link)
    await front.accounts.disable_account(front.user(ALICE).id)
    late = await browser.submit(page, "/reset/finish", password=GOOD)
    assert not isinstance(late, str)
    assert late.status == 410


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "Carol", "password": "short"}, "at least 8 characters"),
        ({"name": "Carol", "password": "password123"}, "one of the first that anybody would try"),
        ({"name": "Carol", "password": NEW}, "the name of the account"),
        ({"name": " ", "password": GOOD}, "A name has 1 to 100 characters"),
        ({"name": "Ca\u202erol", "password": GOOD}, "A name has 1 to 100 characters"),
        ({"name": "x" * 101, "password": GOOD}, "A name has 1 to 100 characters"),
    ],
)
async def test_what_is_wrong_is_said_beside_the_field_and_the_link_stays_good(
    front: Front, fields: dict[str, str], said: str
) -> None:
    browser = front.browser()
    link = await mailed(front, "/signup", NEW)
    page = await finished(front, link, browser, **fields)
    assert page.status == 422
    assert said in page.text
    page = await browser.submit(page, "/signup/finish", name="Carol", password=GOOD)  # type: ignore[assignment]
    assert urlsplit(page.url).path == "/account"


NO_ADDRESSES = (
    "",
    "carol",
    "carol@",
    "@example.com",
    "a b@example.com",
    "a@b@c.example",
    "a..b@example.com",
    "x" * 65 + "@example.com",
)


@pytest.mark.parametrize("path", ["/signup", "/reset"])
async def test_what_is_no_address_gets_no_mail(front: Front, path: str) -> None:
    for email in NO_ADDRESSES:
        page = await asked(front, path, email)
        assert page.status == 422, email
        assert "This is no e-mail address" in page.text, email
    assert await Mailbox().empty(front.parts) == []


async def test_no_header_of_a_mail_is_made_of_an_address(front: Front) -> None:
    page = await asked(front, "/signup", "carol@example.com\r\nBcc: dave@example.com")
    assert page.status == 400
    assert await Mailbox().empty(front.parts) == []


@pytest.mark.parametrize("path", ["/signup", "/reset"])
async def test_nobodys_mailbox_is_filled(front: Front, path: str) -> None:
    email = "nobody@example.com"
    answers = [await asked(front, path, email) for _ in range(5)]
    assert [page.status for page in answers] == [200] * 4 + [429]
    assert "Please try again in" in answers[-1].text
    assert len(await Mailbox().empty(front.parts)) == 4
    assert (await asked(front, path, ALICE)).status == 200


async def test_the_form_is_ours_or_does_nothing(front: Front) -> None:
    browser = front.browser()
    for path, purpose in (("/signup", "signup"), ("/reset", "reset")):
        form = (await browser.open(path)).form(path).fields
        for changed, headers in (({"csrf_token": ""}, {}), ({}, {"sec-fetch-site": "cross-site"})):
            cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            fields = {**form, "email": NEW, **changed}
            response = await front.http.post(path, data=fields, headers={"cookie": cookies, **headers})
            assert response.status_code == 403
        assert (await front.http.post(path, data={**form, "email": NEW})).status_code == 403
        assert purpose
    assert await Mailbox().empty(front.parts) == []


async def test_an_address_that_nobody_has_proven_is_proven_by_mail(front: Front) -> None:
    front.database.run_sync(lambda tx: tx.execute(update(users).values(email_verified_at=None)))
    browser = front.browser()
    page = await browser.submit(await browser.open("/login"), "/login", email=ALICE, password=PASSWORD)
    assert not isinstance(page, str)
    assert "not confirmed" in page.text
    page = await browser.submit(page, "/account/verify")
    assert not isinstance(page, str)
    assert "A mail with a link is on its way." in page.text
    (mail,) = await Mailbox().empty(front.parts)
    page = await finished(front, link_in(mail))
    assert "Your address is confirmed" in page.text
    assert front.user(ALICE).email_verified_at == front.clock()
    assert (await front.browser().get(link_in(mail))).status_code == 410


async def test_without_mail_the_pages_say_so(tmp_path: Path) -> None:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        for path in ("/signup", "/reset"):
            response = await front.browser().get(path)
            assert (response.status_code, "MAIL_NOT_CONFIGURED" in response.text) == (503, True)
        assert await signs_in(front, ALICE, PASSWORD)
        assert await signs_in(front, ALICE, PASSWORD)
        assert front.database.run_sync(lambda tx: tx.execute(select(func.count()).select_from(mails)).scalar_one()) == 0


async def test_neither_the_database_nor_the_log_holds_what_a_link_opens(front: Front, caplog: Any) -> None:
    link = await mailed(front, "/reset", ALICE)
    secret = parse_qs(urlsplit(link).query)["link"][0]
    await asked(front, "/reset", ALICE)  # this one waits

    def everything(tx: Any) -> str:
        return repr([tx.execute(select(table)).all() for table in (mail_links, mails)])

    stored = front.database.run_sync(everything)
    (mail,) = await Mailbox().empty(front.parts)
    waiting = parse_qs(urlsplit(link_in(mail)).query)["link"][0]
    for one in (secret, waiting):
        assert one not in stored
        assert one not in caplog.text
    assert ALICE not in caplog.text


async def test_mail_that_is_not_taken_now_is_taken_later_under_the_same_id(front: Front) -> None:
    await asked(front, "/signup", NEW)
    mailbox = Mailbox(refuse=MailUnavailable("NOT_CONNECTED"))
    assert await mailbox.empty(front.parts) == []
    row = front.database.run_sync(lambda tx: tx.execute(select(mails)).one())
    assert (row.failure, row.attempts, row.given_up_at) == ("NOT_CONNECTED", 1, None)
    mailbox.refuse = None
    assert await mailbox.empty(front.parts) == []  # not yet
    front.clock.forward(3)
    (mail,) = await mailbox.empty(front.parts)
    assert mail.message_id == f"{row.id}@identity"
    assert front.database.run_sync(lambda tx: tx.execute(select(mails)).all()) == []


@pytest.mark.parametrize("refusal", [MailRefused("RECIPIENT_REFUSED", 550, "5.1.1"), MailUnavailable("NOT_CONNECTED")])
async def test_mail_that_nobody_takes_is_given_up_where_an_operator_can_see_it(
    front: Front, refusal: Exception
) -> None:
    await asked(front, "/reset", ALICE)
    mailbox = Mailbox(refuse=refusal)
    for _ in range(14):
        await mailbox.empty(front.parts)
        front.clock.forward(600)
    row = front.database.run_sync(lambda tx: tx.execute(select(mails)).one())
    assert row.given_up_at is not None
    assert row.failure == str(refusal)
    front.clock.forward(2 * 86_400)
    from identity.housekeeping import sweep

    front.database.run_sync(lambda tx: sweep(tx, front.clock()))
    assert front.database.run_sync(lambda tx: tx.execute(select(mails)).all()) == []


async def test_each_mail_is_sent_by_one_of_several(any_front: Front) -> None:
    for number in range(8):
        await any_front.parts.people.ask_to_sign_up(f"person{number}@example.com")
    boxes = [Mailbox() for _ in range(4)]
    came = await asyncio.gather(*(box.empty(any_front.parts) for box in boxes))
    assert sorted(mail.to for mails_ in came for mail in mails_) == [
        f"person{number}@example.com" for number in range(8)
    ]


async def test_who_died_with_a_mail_leaves_it_to_another(front: Front) -> None:
    await asked(front, "/signup", NEW)

    class Dies(Mailbox):
        async def send(self, mail: Any) -> None:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Dies().empty(front.parts)
    assert await Mailbox().empty(front.parts) == []
    front.clock.forward(61)
    assert len(await Mailbox().empty(front.parts)) == 1


async def test_a_stop_waits_for_the_mail_that_is_being_delivered(front: Front) -> None:
    await asked(front, "/signup", NEW)
    stop: list[asyncio.Task[None]] = []

    class Told(Mailbox):
        async def send(self, mail: Any) -> None:
            stop[0].cancel()
            await asyncio.sleep(0)  # it is told, and what follows was not yet written down
            await super().send(mail)

    told = Told()
    postman = Postman(front.parts.database, front.parts.people.post, Printer(front.parts.settings.issuer), told)
    stop.append(asyncio.create_task(postman.run()))
    with pytest.raises(asyncio.CancelledError):
        await stop[0]
    front.clock.forward(61)
    assert (len(told.mails), await Mailbox().empty(front.parts)) == (1, [])


async def test_who_signs_up_in_anothers_browser_signs_that_one_out(front: Front) -> None:
    browser = front.browser()
    await browser.submit(await browser.open("/login"), "/login", email=BOB, password=PASSWORD)
    await asked(front, "/signup", NEW, browser)
    (mail,) = await Mailbox().empty(front.parts)
    front.pushed.clear()
    await browser.submit(await browser.open(link_in(mail)), "/signup/finish", name="Carol", password=GOOD)
    whose = (login_sessions.c.user_id == front.user(BOB).id) & login_sessions.c.ended_at.is_(None)
    assert front.database.run_sync(lambda tx: tx.execute(select(login_sessions.c.id).where(whose)).all()) == []
    assert front.pushed
