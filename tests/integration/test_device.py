"""The device authorization grant (RFC 8628): from the code on a screen to the tokens, and all that may go wrong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from devstack.flow import Browser, FlowFailed, OAuthClient, Page, Refused, Tokens
from devstack.seeds import DEVICE_CODE
from devstack.story.scene import claims_of
from identity.housekeeping import sweep
from identity.storage import device_codes, wrong_user_codes
from support.identity_front import ADMIN, ALICE, BOB, IDENTITY, ISSUER, ORDERS, PASSWORD, Front, identity_front

SCOPE = "openid orders:read"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def begun(client: OAuthClient, **asked: Any) -> dict[str, Any]:
    response = await client.post("/device_authorization", **({"scope": SCOPE} | asked))
    answer: dict[str, Any] = response.json()
    if response.status_code != 200:
        raise Refused(answer["error"], status=response.status_code)
    assert response.headers["cache-control"] == "no-store"
    return answer


async def poll(client: OAuthClient, device: dict[str, Any], **more: str) -> Tokens | str:
    """The tokens, or the error."""
    try:
        return await client.token(grant_type=DEVICE_CODE, device_code=device["device_code"], **more)
    except Refused as refused:
        return refused.error if refused.status == 400 else f"{refused.status} {refused.error}"


async def at_the_form(browser: Browser, url: str = f"{ISSUER}/device", email: str = ALICE) -> Page:
    page = await browser.open(url)
    if any(form.action.endswith("/login") for form in page.forms):
        arrived = await browser.submit(page, "/login", email=email, password=PASSWORD)
        assert isinstance(arrived, Page)
        page = arrived
    return page


async def entered(browser: Browser, user_code: str, *, email: str = ALICE) -> Page:
    arrived = await browser.submit(await at_the_form(browser, email=email), "/device", user_code=user_code)
    assert isinstance(arrived, Page)
    return arrived


async def decided(browser: Browser, user_code: str, decision: str = "allow", *, email: str = ALICE) -> Page:
    arrived = await browser.submit(await entered(browser, user_code, email=email), "/device", decision=decision)
    assert isinstance(arrived, Page)
    return arrived


async def test_what_a_device_learns_when_it_begins(front: Front) -> None:
    device = await begun(front.client("cli"))
    assert set(device) == {
        "device_code",
        "user_code",
        "verification_uri",
        "verification_uri_complete",
        "expires_in",
        "interval",
    }
    assert (device["verification_uri"], device["expires_in"], device["interval"]) == (f"{ISSUER}/device", 600, 5)
    assert device["verification_uri_complete"] == f"{ISSUER}/device?user_code={device['user_code']}"
    metadata = (await front.http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["device_authorization_endpoint"] == f"{ISSUER}/device_authorization"
    assert DEVICE_CODE in metadata["grant_types_supported"]


async def test_the_whole_way_without_a_script(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli, scope="openid offline_access orders:read", resource=ORDERS)
    assert await poll(cli, device) == "authorization_pending"
    page = await entered(browser, device["user_code"])
    for shown in ("Rescind at the command line", ALICE, "See your orders", device["user_code"], "30 days"):
        assert shown in page.text
    arrived = await browser.submit(page, "/device", decision="allow")
    assert isinstance(arrived, Page)
    assert "Your device is signed in" in arrived.text
    tokens = await poll(cli, device)
    assert isinstance(tokens, Tokens)
    assert tokens.scope == "orders:read"
    assert tokens.id_token
    assert tokens.refresh_token
    again = await cli.refresh(tokens, resource=ORDERS)
    assert again.scope == "orders:read"
    assert await poll(cli, device) == "invalid_grant"  # spent
    await cli.refresh(again)  # and a second poll has ended nothing


async def test_a_code_is_read_however_it_is_typed(front: Front) -> None:
    device, browser = await begun(front.client("cli")), front.browser()
    typed = f" {device['user_code'].lower().replace('-', ' ')}. "
    assert "Allow" in (await entered(browser, typed)).text


async def test_a_link_fills_the_form_in_and_no_more(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli)
    page = await at_the_form(browser, device["verification_uri_complete"])  # by way of the sign-in
    assert page.form("/device").fields["user_code"] == device["user_code"]
    assert await poll(cli, device) == "authorization_pending"
    page = await at_the_form(browser, f'{ISSUER}/device?user_code="><script>BCDF')
    assert "<script" not in page.form("/device").fields["user_code"]


async def test_a_person_who_denies_is_heard(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli)
    assert "refused" in (await decided(browser, device["user_code"], "deny")).text
    assert await poll(cli, device) == "access_denied"
    assert (await entered(browser, device["user_code"])).status == 422  # decided is decided


async def test_a_device_that_wants_a_recent_sign_in_gets_one(front: Front) -> None:
    """Step-up (RFC 9470): who signed in too long ago does so again, and comes back to the code."""
    cli, browser = front.client("cli"), front.browser()
    await at_the_form(browser)
    front.clock.forward(700)
    easy, device = await begun(cli), await begun(cli, max_age="600")
    assert "Allow" in (await entered(browser, easy["user_code"])).text
    page = await entered(browser, device["user_code"])
    arrived = await browser.submit(page, "/login", email=ALICE, password=PASSWORD)
    assert isinstance(arrived, Page)
    assert arrived.form("/device").fields["user_code"] == device["user_code"]
    await decided(browser, device["user_code"])
    tokens = await poll(cli, device)
    assert isinstance(tokens, Tokens)
    assert claims_of(tokens.access_token)["auth_time"] == front.clock() // 1000
    for wrong in ("-1", "soon", "1" * 10):
        with pytest.raises(Refused, match="invalid_request"):
            await begun(cli, max_age=wrong)


async def test_a_sign_in_that_was_recent_enough_is_so_while_the_page_is_open(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    await at_the_form(browser)
    device = await begun(cli, max_age="600")
    front.clock.forward(599)
    await decided(browser, device["user_code"])
    assert isinstance(await poll(cli, device), Tokens)


async def test_a_code_lives_for_ten_minutes(front: Front) -> None:
    cli = front.client("cli")
    device = await begun(cli)
    page = await entered(front.browser(), device["user_code"])
    front.clock.forward(600)
    assert await poll(cli, device) == "expired_token"
    browser = front.browser()
    assert (await entered(browser, device["user_code"])).status == 422
    assert page.status == 200


async def test_a_decision_after_the_end_is_none(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli)
    page = await entered(browser, device["user_code"])
    front.clock.forward(600)
    arrived = await browser.submit(page, "/device", decision="allow")
    assert isinstance(arrived, Page)
    assert arrived.status == 422
    assert await poll(cli, device) == "expired_token"


async def test_who_polls_too_fast_has_to_slow_down(front: Front) -> None:
    cli = front.client("cli")
    device = await begun(cli)
    assert await poll(cli, device) == "authorization_pending"
    front.clock.forward(4)
    assert await poll(cli, device) == "slow_down"  # ten seconds from now on
    front.clock.forward(9)
    assert await poll(cli, device) == "slow_down"  # fifteen
    front.clock.forward(15)
    assert await poll(cli, device) == "authorization_pending"
    front.clock.forward(14.6)  # half a second too soon is the network's doing
    assert await poll(cli, device) == "authorization_pending"
    for _ in range(30):
        await poll(cli, device)
    front.clock.forward(60)  # the longest it ever gets
    assert await poll(cli, device) == "authorization_pending"


@pytest.mark.requirement(51)
async def test_only_a_client_with_this_grant_type_begins(front: Front) -> None:
    for client_id in ("mobile", "web"):
        with pytest.raises(Refused) as refused:
            await begun(front.client(client_id))
        assert refused.value.error == "unauthorized_client"
    for parameters in ({"client_id": "nobody"}, {}):
        response = await front.http.post("/device_authorization", data={"scope": SCOPE, **parameters})
        assert (response.status_code, response.json()["error"]) in ((400, "invalid_client"), (401, "invalid_client"))


@pytest.mark.requirement(58)
@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"scope": "everything"}, "invalid_scope"),
        ({"scope": ""}, "invalid_scope"),
        ({"resource": "urn:rescind:session"}, "invalid_target"),
        ({"resource": "https://elsewhere.example"}, "invalid_target"),
    ],
)
async def test_scope_and_audience_are_judged_at_once(front: Front, asked: dict[str, str], error: str) -> None:
    with pytest.raises(Refused) as refused:
        await begun(front.client("cli"), **asked)
    assert refused.value.error == error


async def test_a_device_code_is_its_own_clients_alone(front: Front) -> None:
    device = await begun(front.client("cli"))
    for client_id in ("mobile", "web"):
        assert await poll(front.client(client_id), device) == "unauthorized_client"
    assert await poll(front.client("cli"), {"device_code": "x" * 43}) == "invalid_grant"
    assert await poll(front.client("cli"), {"device_code": ""}) == "invalid_request"


async def test_a_person_gives_what_they_have_and_no_more(front: Front) -> None:
    for email, scope in ((ALICE, "openid"), (ADMIN, "identity:admin openid")):
        cli, browser = front.client("cli"), front.browser()
        device = await begun(cli, scope="openid identity:admin")
        page = await decided(browser, device["user_code"], email=email)
        assert "signed in" in page.text
        tokens = await poll(cli, device)
        assert isinstance(tokens, Tokens)
        assert tokens.scope == scope


async def test_several_audiences_are_authorized_and_one_is_taken(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    response = await front.http.post(
        "/device_authorization",
        content=f"client_id=cli&scope=openid+orders:read+offline_access&resource={IDENTITY}&resource={ORDERS}",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    device = response.json()
    await decided(browser, device["user_code"])
    assert await poll(cli, device) == "invalid_target"  # refused, so nothing is spent
    tokens = await poll(cli, device, resource=ORDERS)
    assert isinstance(tokens, Tokens)
    assert tokens.scope == "orders:read"
    assert (await cli.refresh(tokens, resource=IDENTITY)).scope == "offline_access openid"


@pytest.mark.parametrize("end", ["signed out", "password changed", "client disabled"])
async def test_what_ends_before_the_device_comes_gives_it_nothing(front: Front, end: str) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli, scope="openid offline_access")
    await decided(browser, device["user_code"])
    if end == "signed out":
        await browser.sign_out()
    elif end == "password changed":
        await browser.change_password(PASSWORD, "quite-another-passphrase")
    else:
        await front.accounts.disable_client("cli")
        await front.accounts.enable_client("cli")
    assert await poll(cli, device) == "invalid_grant"


async def test_without_offline_access_it_ends_with_the_sign_in(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli, scope="openid")
    await decided(browser, device["user_code"])
    tokens = await poll(cli, device)
    assert isinstance(tokens, Tokens)
    assert tokens.refresh_token is None
    bearing = {"authorization": f"Bearer {tokens.access_token}"}
    assert (await front.http.get("/userinfo", headers=bearing)).status_code == 200
    await browser.sign_out()
    assert (await front.http.get("/userinfo", headers=bearing)).status_code == 401


@pytest.mark.requirement(76)
async def test_who_guesses_codes_is_stopped_and_only_they(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli)
    for guess in ("BBBB-BBBB", "CCCC-CCCC", "x", "", "ZZZZ-ZZZZ"):
        page = await entered(browser, guess)
        assert page.status == 422
        assert "not right" in page.text
    for attempt in (device["user_code"], "BBBB-BBBB"):  # the right one too: the answer tells nothing
        page = await entered(browser, attempt)
        assert page.status == 429
    other = front.browser()
    assert (await entered(other, device["user_code"])).status == 429  # the same person elsewhere
    assert (await entered(front.browser(), device["user_code"], email=BOB)).status == 200
    front.clock.forward(600.001)
    assert (await entered(browser, (await begun(cli))["user_code"])).status == 200


@pytest.mark.requirement(34)
async def test_no_other_page_decides(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device, other = await begun(cli), await begun(cli)
    page = await entered(browser, device["user_code"])
    token = page.form("/device").fields["csrf_token"]
    for fields in (
        {"user_code": device["user_code"], "decision": "allow"},
        {"user_code": device["user_code"], "decision": "allow", "csrf_token": "x"},
        {"user_code": other["user_code"], "decision": "allow", "csrf_token": token},  # shown for another code
    ):
        assert (await browser.post("/device", fields)).status_code == 403
    fields = {"user_code": device["user_code"], "decision": "allow", "csrf_token": token}
    stranger = front.browser()
    assert (await stranger.post("/device", fields)).headers["location"] == "/device"
    await at_the_form(stranger, email=BOB)
    assert (await stranger.post("/device", fields)).status_code == 403
    for waiting in (device, other):
        assert await poll(cli, waiting) == "authorization_pending"


async def test_a_user_code_does_not_pass_for_an_authorization_request(front: Front) -> None:
    page = await front.browser().open(f"{ISSUER}/device?user_code=BCDF-GHJK")
    flow = page.form("/login").fields["flow"]
    response = await front.browser().get(f"/consent?flow={flow}")
    assert response.status_code == 400
    with pytest.raises(FlowFailed):
        (await front.browser().open(f"{ISSUER}/device?flow=forged.x")).form("/consent")


async def test_what_is_over_is_cleared_away_after_a_day(front: Front) -> None:
    cli, browser = front.client("cli"), front.browser()
    device = await begun(cli, scope="openid")
    await entered(browser, "BBBB-BBBB")
    await decided(browser, device["user_code"])

    def left(tx: Connection) -> int:
        return sum(len(tx.execute(select(table)).all()) for table in (device_codes, wrong_user_codes))

    assert front.database.run_sync(left) == 2
    front.clock.forward(86_401)
    front.database.run_sync(lambda tx: sweep(tx, front.clock.ms))
    assert front.database.run_sync(left) == 1  # ten minutes of life, and then a day
    front.clock.forward(601)
    front.database.run_sync(lambda tx: sweep(tx, front.clock.ms + 1))
    assert front.database.run_sync(left) == 0
