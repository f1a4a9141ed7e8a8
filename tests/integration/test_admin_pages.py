"""The pages under /admin: who may see them, that dangerous acts ask again, and that each act is written down."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DBAPIError

from devstack.flow import Browser, OAuthClient, Page, Refused
from identity.admin.proof import local_path
from identity.audit import AuditRecord, audit_log
from support.identity_front import ADMIN, ALICE, BOB, ISSUER, ORDERS, PASSWORD, Front, identity_front

PAGES = ("/admin/users", "/admin/clients", "/admin/new-client", "/admin/keys", "/admin/audit")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}", mail_url=f"file://{tmp_path}/mail") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url) as front:
        yield front


async def signed_in(front: Front, email: str = ADMIN) -> Browser:
    browser = front.browser()
    await browser.submit(await browser.open("/login"), "/login", email=email, password=PASSWORD)
    return browser


async def does(browser: Browser, where: str, act: str, **fields: str) -> Page:
    """What answers the form that posts to `where`/`act`."""
    action = act if act.startswith("/") else f"{where}/{act}"
    page = await browser.submit(await browser.open(where), action, **fields)
    assert not isinstance(page, str)
    return page


def written(front: Front) -> list[AuditRecord]:
    records, _ = front.database.run_sync(lambda tx: front.parts.audit.read(tx))
    return records


def user_page(front: Front, email: str) -> str:
    return f"/admin/users/{front.user(email).id}"


@pytest.mark.parametrize("path", PAGES)
async def test_who_is_no_administrator_sees_nothing(front: Front, path: str) -> None:
    nobody = await front.browser().get(path)
    assert (nobody.status_code, nobody.headers["location"]) == (303, "/login")
    alice = await signed_in(front, ALICE)
    response = await alice.get(path)
    assert (response.status_code, "NOT_AN_ADMINISTRATOR" in response.text) == (403, True)
    assert "Administration" not in (await alice.get("/account")).text
    admin = await signed_in(front)
    assert (await admin.get(path)).status_code == 200
    assert "Administration" in (await admin.get("/account")).text


async def test_who_loses_the_role_loses_the_pages_at_once(front: Front) -> None:
    browser = await signed_in(front)
    await front.accounts.change_roles(front.user(ADMIN).id, [])
    assert (await browser.get("/admin/users")).status_code == 403


@pytest.mark.requirement(22, 82)
async def test_switching_an_account_off_ends_everything_and_is_written_down(front: Front) -> None:
    alice = front.browser()
    tokens = await front.client("mobile").sign_in(alice, ALICE, PASSWORD, scope="orders:read", resource=ORDERS)
    browser = await signed_in(front)
    page = await does(browser, user_page(front, ALICE), "disable")
    assert "switched off" in page.text
    assert urlsplit((await alice.open("/account")).url).path == "/login"
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    (record,) = written(front)
    admin, subject = front.user(ADMIN).id, front.user(ALICE).id
    assert (record.by, record.action, record.target_kind, record.target) == (admin, "ACCOUNT_DISABLED", "user", subject)
    assert record.at == front.clock()
    assert record.request_id
    await does(browser, user_page(front, ALICE), "enable")
    assert (await signed_in(front, ALICE)).cookies
    assert [record.action for record in written(front)] == ["ACCOUNT_ENABLED", "ACCOUNT_DISABLED"]


async def test_one_single_session_is_ended_and_no_other_persons(front: Front) -> None:
    first, second, bob, browser = [await signed_in(front, email) for email in (ALICE, ALICE, BOB, ADMIN)]
    page = await browser.open(user_page(front, ALICE))
    action = f"{user_page(front, ALICE)}/end-session"
    forms = [form.fields for form in page.forms if urlsplit(form.action).path == action]
    assert len(forms) == 2
    of_bob = (await bob.open("/account")).form("/account/sessions/end").fields["sid"]
    assert (await browser.post(action, {**forms[0], "sid": of_bob})).status_code == 404
    page = await does(browser, user_page(front, ALICE), "end-session", sid=forms[0]["sid"])
    assert "That session has ended" in page.text
    alive = [urlsplit((await one.open("/account")).url).path for one in (first, second, bob)]
    assert sorted(alive) == ["/account", "/account", "/login"]
    assert alive[2] == "/account"
    (record,) = written(front)
    assert (record.action, record.target_kind, record.target) == ("REVOKED", "session", forms[0]["sid"])


@pytest.mark.requirement(24)
async def test_one_persons_sessions_are_ended_or_everybodys(front: Front) -> None:
    alice, bob, browser = await signed_in(front, ALICE), await signed_in(front, BOB), await signed_in(front)
    tokens = await front.client("mobile").sign_in(
        bob, BOB, PASSWORD, scope="offline_access orders:read", resource=ORDERS
    )
    await does(browser, user_page(front, ALICE), "end")
    assert urlsplit((await alice.open("/account")).url).path == "/login"
    assert urlsplit((await bob.open("/account")).url).path == "/account"
    page = await does(browser, "/admin/keys", "/admin/end-everything")
    assert urlsplit(page.url).path == "/login"
    for one in (bob, browser):
        assert urlsplit((await one.open("/account")).url).path == "/login"
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("mobile").refresh(tokens)
    assert [record.action for record in written(front)] == ["NEW_LOG", "REVOKED"]
    assert (await signed_in(front, BOB)).cookies


@pytest.mark.requirement(29)
async def test_who_signed_in_long_ago_is_asked_again_and_led_back(front: Front) -> None:
    browser = await signed_in(front)
    front.clock.forward(601)
    where = user_page(front, ALICE)
    page = await does(browser, where, "disable")
    assert page.status == 403
    assert "Is it you?" in page.text
    assert front.user(ALICE).disabled_at is None
    wrong = await browser.submit(page, "/admin/proof", password="wrong")
    assert not isinstance(wrong, str)
    assert (wrong.status, "The password is not right." in wrong.text) == (403, True)
    before = dict(browser.cookies)
    back = await browser.submit(wrong, "/admin/proof", password=PASSWORD)
    assert not isinstance(back, str)
    assert urlsplit(back.url).path == where
    assert browser.cookies != before  # a cookie that nobody has seen (ASVS 7.2.4)
    await does(browser, where, "disable")
    assert front.user(ALICE).disabled_at is not None


@pytest.mark.requirement(63)
@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/admin", "/admin//evil", "/login", "/admin/../x", "/admin\\x", ""]
)
def test_a_proof_leads_nowhere_else(back: str) -> None:
    assert local_path(back) == "/admin"
    assert local_path("/admin/users/usr_x") == "/admin/users/usr_x"


async def test_an_administrator_switches_neither_themselves_off_nor_down(front: Front) -> None:
    browser = await signed_in(front)
    where = user_page(front, ADMIN)
    page = await browser.open(where)
    offered = {urlsplit(form.action).path for form in page.forms}
    assert f"{where}/end" in offered
    assert not offered & {f"{where}/disable", f"{where}/unmake-admin"}
    other = await browser.open(user_page(front, ALICE))
    assert f"{user_page(front, ALICE)}/disable" in {urlsplit(form.action).path for form in other.forms}
    await does(browser, user_page(front, ALICE), "make-admin")
    alice = await signed_in(front, ALICE)
    await does(alice, where, "unmake-admin")
    assert list(front.user(ADMIN).roles) == []
    assert [record.details for record in written(front)] == [{"roles": ""}, {"roles": "admin"}]


async def test_people_are_found_by_part_of_a_name_or_an_address(front: Front) -> None:
    browser = await signed_in(front)
    for search, found in (("LIC", {ALICE}), ("example", {ALICE, BOB, ADMIN}), ("%", set()), ("_", set())):
        page = (await browser.open(f"/admin/users?search={search.replace('%', '%25')}")).text
        assert {email for email in (ALICE, BOB, ADMIN) if email in page} == found
    page = await browser.open(f"/admin/users?search={front.user(BOB).id}")
    assert BOB in page.text
    assert ALICE not in page.text


async def test_an_apps_access_is_withdrawn_by_an_administrator(front: Front) -> None:
    alice = front.browser()
    tokens = await front.client("partner").sign_in(
        alice, ALICE, PASSWORD, scope="offline_access orders:read", resource=ORDERS
    )
    browser = await signed_in(front)
    assert "Partner Analytics" in (await browser.open(user_page(front, ALICE))).text
    await does(browser, user_page(front, ALICE), "withdraw")
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    assert written(front)[0].target_kind == "grant"
    # Another person's grant is not this person's.
    bob = front.browser()
    await front.client("partner").sign_in(bob, BOB, PASSWORD, scope="offline_access orders:read", resource=ORDERS)
    held = await front.parts.my_account.held(front.user(BOB).id)
    page = await browser.open(user_page(front, BOB))
    form = page.form(f"{user_page(front, BOB)}/withdraw")
    assert form.fields["gid"] == held.offline[0].gid


async def test_a_client_is_registered_used_given_a_new_secret_and_switched_off(front: Front) -> None:
    browser = await signed_in(front)
    fields = {
        "client_id": "reports",
        "name": "Monthly reports",
        "redirect_uris": "https://reports.example/callback http://127.0.0.1/callback",
        "confidential": "yes",
        "first_party": "",
        "grant_type.authorization_code": "yes",
        "grant_type.client_credentials": "yes",
        "resource.urn:rescind:orders": "yes",
        "scope.orders:read": "yes",
    }
    form = (await browser.open("/admin/new-client")).form("/admin/new-client").fields
    cleared = {name: value for name, value in form.items() if value != "yes"}
    response = await browser.post("/admin/new-client", {**cleared, **fields})
    assert response.status_code == 200
    secret = response.text.split('class="secret">')[1].split("<")[0]
    assert len(secret) == 43
    client = OAuthClient(front.http, ISSUER, "reports", secret=secret)
    tokens = await client.client_credentials(resource=ORDERS, scope="orders:read")
    page = await does(browser, "/admin/clients/reports", "rotate-secret")
    assert "which is shown this once" in page.text
    with pytest.raises(Refused, match="invalid_client"):
        await client.client_credentials(resource=ORDERS)
    assert (await front.client("backoffice").introspect(tokens.access_token))["active"] is True
    await does(browser, "/admin/clients/reports", "disable")
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    actions = [record.action for record in written(front)]
    assert actions == ["CLIENT_DISABLED", "CLIENT_SECRET_ROTATED", "CLIENT_CREATED"]
    assert secret not in repr(written(front))


async def test_keys_are_rotated_and_revoked(front: Front) -> None:
    browser = await signed_in(front)
    tokens = await front.client("backoffice").client_credentials(resource=ORDERS)
    active = next(key.kid for key in await front.parts.administration.keys() if key.status == "active")
    page = await does(browser, "/admin/keys", "/admin/rotate-keys")
    assert "Another key signs from now on." in page.text
    await does(browser, "/admin/keys", f"/admin/keys/{active}/revoke")
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    assert next((record.action, record.target) for record in written(front)) == ("KEY_REVOKED", active)


@pytest.mark.parametrize("how", ["no token", "another form's", "another site"])
async def test_a_form_that_is_not_ours_does_nothing(front: Front, how: str) -> None:
    browser = await signed_in(front)
    where = user_page(front, ALICE)
    page = await browser.open(where)
    token = page.form(f"{where}/disable").fields["csrf_token"]
    if how == "no token":
        token = ""
    elif how == "another form's":
        token = page.form(f"{where}/end").fields["csrf_token"]
    headers = {"cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}
    if how == "another site":
        headers["sec-fetch-site"] = "cross-site"
    response = await front.http.post(f"{where}/disable", data={"csrf_token": token}, headers=headers)
    assert response.status_code == 403
    assert front.user(ALICE).disabled_at is None
    assert written(front) == []


@pytest.mark.requirement(82)
async def test_the_audit_log_only_grows(any_front: Front) -> None:
    await any_front.accounts.disable_account(any_front.user(ALICE).id, by="usr_somebody")
    before = written(any_front)
    statements: list[Any] = [update(audit_log).values(by="nobody"), delete(audit_log)]
    if any_front.database.is_postgresql:
        statements.append(text("TRUNCATE audit_log"))
    for statement in statements:
        with pytest.raises(DBAPIError, match="only grows"):
            any_front.database.run_sync(lambda tx, statement=statement: tx.execute(statement))
    assert written(any_front) == before


async def test_what_is_undone_is_not_written_down(any_front: Front) -> None:
    def work(tx: Any) -> None:
        any_front.parts.audit.write(tx, "usr_a", "NOTHING", "user", "usr_b")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        any_front.database.run_sync(work)
    assert written(any_front) == []


async def test_the_audit_log_is_read_in_pages_and_by_id(any_front: Front) -> None:
    def work(tx: Any) -> None:
        for number in range(7):
            any_front.parts.audit.write(tx, f"usr_{number % 2}", "DONE", "user", f"usr_x{number}", more="x" * 500)

    any_front.database.run_sync(work)
    read = any_front.parts.audit.read
    seen, token = [], ""
    while True:
        records, token = any_front.database.run_sync(lambda tx, token=token: read(tx, size=3, token=token))
        seen += [record.target for record in records]
        assert all(len(record.details["more"]) == 200 for record in records)
        if not token:
            break
    assert seen == [f"usr_x{number}" for number in range(6, -1, -1)]
    records, _ = any_front.database.run_sync(lambda tx: read(tx, about="usr_1"))
    assert len(records) == 3


async def test_pages_carry_on_where_the_one_before_ended(front: Front) -> None:
    from identity.admin.directory import find_users

    seen, token = [], ""
    while True:
        found, token = front.database.run_sync(lambda tx, token=token: find_users(tx, size=1, token=token))
        seen += [user.email for user in found]
        if not token:
            break
    assert seen == [ADMIN, ALICE, BOB]
    browser = await signed_in(front)
    for wrong in ("%00", "é", "!!!"):
        assert (await browser.get(f"/admin/audit?page={wrong}")).status_code == 400


@pytest.mark.parametrize("path", ["/admin/users/%00/disable", "/admin/clients/%00/disable"])
async def test_a_nul_in_a_path_is_refused_whoever_sends_it(any_front: Front, path: str) -> None:
    assert (await any_front.http.post(path, data={"csrf_token": "x"})).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["users/%00", "users?search=%00", "users?page=AA", "audit?about=%00", "clients/%00"],
)
async def test_no_text_that_a_database_cannot_hold_is_an_accident(any_front: Front, path: str) -> None:
    browser = await signed_in(any_front)
    assert (await browser.get(f"/admin/{path}")).status_code == 400


async def test_who_is_not_signed_in_learns_of_no_client(front: Front) -> None:
    answers = [
        await front.http.post(f"/admin/clients/{name}/disable", data={"csrf_token": "x"})
        for name in ("backoffice", "nobody")
    ]
    assert answers[0].status_code == answers[1].status_code == 303
