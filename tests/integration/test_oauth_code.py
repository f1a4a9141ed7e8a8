"""/authorize and the code grant: who is redirected where with what, and what a code is good for."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from devstack.flow import Browser, FlowFailed, OAuthClient, Refused, Started
from support.identity_front import ADMIN, ALICE, IDENTITY, ISSUER, LOOPBACK, ORDERS, PASSWORD, Front, identity_front


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url) as front:
        yield front


def segment(token: str, number: int) -> dict[str, Any]:
    part = token.split(".")[number]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=="))
    return decoded


async def code_for(front: Front, client: OAuthClient, email: str = ALICE, **asked: Any) -> tuple[Started, str]:
    started = client.start(**({"scope": "openid orders:read", "resource": ORDERS} | asked))
    return started, await client.authorize(front.browser(), started, email, PASSWORD)


def good_request(**changed: str | None) -> list[tuple[str, str]]:
    challenge = base64.urlsafe_b64encode(hashlib.sha256(b"v" * 43).digest()).rstrip(b"=").decode()
    asked: dict[str, str | None] = {
        "response_type": "code",
        "client_id": "mobile",
        "redirect_uri": LOOPBACK,
        "scope": "openid",
        "state": "st ate&1",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **changed,
    }
    return [(name, value) for name, value in asked.items() if value is not None]


async def arrive(front: Front, asked: list[tuple[str, str]] | str) -> tuple[int, str, dict[str, str]]:
    """Status, where to (without query), and the query, of one request to /authorize by nobody."""
    query = asked if isinstance(asked, str) else urlencode(asked)
    response = await front.browser().get(f"/authorize?{query}")
    location = response.headers.get("location", "")
    answer = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
    return response.status_code, location.partition("?")[0], answer


@pytest.mark.requirement(19)
async def test_the_token_is_what_rfc_9068_says_and_no_more(front: Front) -> None:
    client = front.client("mobile")
    tokens = await client.sign_in(
        front.browser(), ALICE, PASSWORD, scope="openid orders:read orders:write", resource=ORDERS
    )
    header, claims = segment(tokens.access_token, 0), segment(tokens.access_token, 1)
    assert set(header) == {"alg", "typ", "kid"}
    assert (header["alg"], header["typ"]) == ("RS256", "at+jwt")
    assert set(claims) == {
        *("iss", "sub", "aud", "client_id", "iat", "exp", "jti", "scope"),
        *("cgen", "gid", "gen", "auth_time", "sid"),
    }
    assert (claims["iss"], claims["aud"], claims["client_id"]) == (ISSUER, ORDERS, "mobile")
    assert claims["sub"] == front.user(ALICE).id
    assert claims["scope"] == tokens.scope == "orders:read orders:write"
    assert claims["exp"] - claims["iat"] == tokens.expires_in == 900
    assert tokens.refresh_token is None


async def test_an_offline_grant_carries_no_sid_and_comes_with_a_refresh_token(front: Front) -> None:
    client = front.client("mobile")
    asked = "openid offline_access orders:read"
    tokens = await client.sign_in(front.browser(), ALICE, PASSWORD, scope=asked, resource=ORDERS)
    assert "sid" not in segment(tokens.access_token, 1)
    assert tokens.refresh_token is not None


async def test_the_web_client_refreshes_without_offline_access_and_stays_tied_to_the_session(front: Front) -> None:
    tokens = await front.client("web").sign_in(front.browser(), ALICE, PASSWORD, scope="openid", resource=IDENTITY)
    assert "sid" in segment(tokens.access_token, 1)
    assert tokens.refresh_token is not None


@pytest.mark.requirement(43)
async def test_success_and_error_both_say_who_answers(front: Front) -> None:
    client, browser = front.client("mobile"), front.browser()
    started = client.start(scope="openid")
    await client.authorize(browser, started, ALICE, PASSWORD)
    again = await browser.get(client.start(scope="openid").url)
    assert parse_qs(urlsplit(again.headers["location"]).query)["iss"] == [ISSUER]
    _, _, answer = await arrive(front, good_request(prompt="none"))
    assert (answer["error"], answer["iss"]) == ("login_required", ISSUER)


@pytest.mark.requirement(48, 63)
@pytest.mark.parametrize(
    "redirect_uri",
    [
        None,
        "https://evil.example/callback",
        "http://127.0.0.1:7777/callback/",
        "http://127.0.0.1:7777/callback?x=1",
        "http://127.0.0.1:7777/callback#x",
        "http://127.0.0.1:7777/Callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:70000/callback",
        "http://127.0.0.1:77@evil.example/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://user@127.0.0.1:7777/callback",
        "http://localhost:7777/callback",
        "https://127.0.0.1:7777/callback",
        "http://127.0.0.1:7777\\@evil.example/callback",
        "javascript:alert(1)",
        'http://127.0.0.1:7777/callback"',
        "HTTP://127.0.0.1:7777/callback",
    ],
)
async def test_an_unregistered_redirect_uri_gives_an_error_page_and_no_redirect(
    front: Front, redirect_uri: str | None
) -> None:
    status, location, _ = await arrive(front, good_request(redirect_uri=redirect_uri))
    assert (status, location) == (400, "")


@pytest.mark.requirement(48)
async def test_only_a_loopback_port_may_differ(front: Front) -> None:
    for port in (1, 8080, 65535):
        status, location, _ = await arrive(front, good_request(redirect_uri=f"http://127.0.0.1:{port}/callback"))
        assert (status, location) == (303, "/login")
    status, location, _ = await arrive(
        front, good_request(client_id="web", redirect_uri="http://localhost:8009/auth/callback")
    )
    assert (status, location) == (400, "")


@pytest.mark.parametrize("client_id", [None, "nobody", "mobile'--", "x" * 5000])
async def test_an_unknown_client_gives_an_error_page(front: Front, client_id: str | None) -> None:
    status, location, _ = await arrive(front, good_request(client_id=client_id))
    assert (status, location) == (400, "")


@pytest.mark.requirement(51, 53)
@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": "s256"}, "invalid_request"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge": "x" * 129}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": 'to"ken\\'}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"scope": None}, "invalid_scope"),
        ({"scope": "openid everything"}, "invalid_scope"),
        ({"scope": "identity:admin"}, "invalid_scope"),
        ({"resource": "urn:rescind:session"}, "invalid_target"),
        ({"resource": "https://evil.example/"}, "invalid_target"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "perhaps"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"request": "eyJhbGciOiJub25lIn0.e30."}, "request_not_supported"),
        ({"request_uri": "https://evil.example/r"}, "request_uri_not_supported"),
        ({"prompt": "none"}, "login_required"),
    ],
)
async def test_what_is_wrong_with_a_request_is_told_to_the_client_with_its_state(
    front: Front, changed: dict[str, str | None], error: str
) -> None:
    status, location, answer = await arrive(front, good_request(**changed))
    assert (status, location) == (303, LOOPBACK)
    assert (answer["error"], answer["state"], answer["iss"]) == (error, "st ate&1", ISSUER)
    assert "code" not in answer


@pytest.mark.requirement(68)
@pytest.mark.parametrize(
    "repeated", ["client_id", "state", "scope", "redirect_uri", "code_challenge", "nonce", "prompt"]
)
async def test_a_repeated_parameter_is_refused(front: Front, repeated: str) -> None:
    asked = [*good_request(nonce="n", prompt="login"), (repeated, "again")]
    assert (await arrive(front, asked))[:2] == (400, "")


@pytest.mark.parametrize(
    "query",
    [
        "client_id=%00",
        "client_id=%FF",
        "state=%0d%0aset-cookie:x",
        "&".join("abcdefgh"[i % 8] + str(i) + "=1" for i in range(60)),
        "x=" + "y" * 9000,
    ],
)
async def test_a_query_that_is_no_text_is_refused(front: Front, query: str) -> None:
    assert (await arrive(front, query))[:2] == (400, "")


async def test_resource_may_repeat_and_then_the_token_is_for_the_one_named(front: Front) -> None:
    client = front.client("mobile")
    started, code = await code_for(front, client, scope="openid email orders:read", resource=[ORDERS, IDENTITY])
    with pytest.raises(Refused, match="invalid_target"):
        await client.redeem(started, code)
    # Refused is not spent.
    tokens = await client.redeem(started, code, resource=IDENTITY)
    assert (segment(tokens.access_token, 1)["aud"], tokens.scope) == (IDENTITY, "email openid")


@pytest.mark.requirement(7)
async def test_no_resource_means_identity_and_an_unauthorized_one_is_refused(front: Front) -> None:
    client = front.client("mobile")
    started, code = await code_for(front, client, scope="openid orders:read", resource=())
    with pytest.raises(Refused, match="invalid_target"):
        await client.redeem(started, code, resource=ORDERS)
    tokens = await client.redeem(started, code)
    assert (segment(tokens.access_token, 1)["aud"], tokens.scope) == (IDENTITY, "openid")


@pytest.mark.requirement(58)
async def test_admin_scopes_are_for_the_role_and_left_out_for_others(front: Front) -> None:
    asked = {"scope": "orders:read orders:admin", "resource": ORDERS}
    granted = {}
    for email in (ALICE, ADMIN):
        granted[email] = (await front.client("mobile").sign_in(front.browser(), email, PASSWORD, **asked)).scope
    assert granted == {ALICE: "orders:read", ADMIN: "orders:admin orders:read"}
    with pytest.raises(Refused, match="invalid_scope"):
        await front.client("mobile").sign_in(front.browser(), ALICE, PASSWORD, scope="orders:admin", resource=ORDERS)


@pytest.mark.requirement(53, 54)
@pytest.mark.parametrize("verifier", [None, "short", "w" * 43, "é" * 43])
async def test_a_code_needs_the_verifier_of_its_challenge(front: Front, verifier: str | None) -> None:
    client = front.client("mobile")
    started, code = await code_for(front, client)
    shown = {} if verifier is None else {"code_verifier": verifier}
    with pytest.raises(Refused) as refused:
        await client.token(grant_type="authorization_code", code=code, redirect_uri=LOOPBACK, **shown)
    assert refused.value.error in ("invalid_request", "invalid_grant")
    # Whoever saw the code without the verifier has not burnt it.
    assert (await client.redeem(started, code)).access_token


async def test_a_code_is_bound_to_its_client_and_redirect_uri(front: Front) -> None:
    client = front.client("mobile")
    started, code = await code_for(front, client)
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("web").redeem(started, code)
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("mobile", redirect_uri="http://127.0.0.1:7778/callback").redeem(started, code)
    assert (await client.redeem(started, code)).access_token


@pytest.mark.requirement(50)
async def test_a_code_lives_sixty_seconds(front: Front) -> None:
    client = front.client("mobile")
    (started, code), (later, late) = await code_for(front, client), await code_for(front, client)
    front.clock.forward(59)
    assert (await client.redeem(started, code)).access_token
    front.clock.forward(1)
    with pytest.raises(Refused, match="invalid_grant"):
        await client.redeem(later, late)


@pytest.mark.requirement(49, 83)
async def test_of_twenty_parallel_redemptions_one_succeeds_and_the_reuse_ends_the_grant(any_front: Front) -> None:
    client = any_front.client("mobile")
    started, code = await code_for(any_front, client, scope="offline_access orders:read")
    results = await asyncio.gather(*(client.redeem(started, code) for _ in range(20)), return_exceptions=True)
    (tokens,) = [result for result in results if not isinstance(result, BaseException)]
    refusals = [result for result in results if isinstance(result, Refused)]
    assert [refusal.error for refusal in refusals] == ["invalid_grant"] * 19
    gid = segment(tokens.access_token, 1)["gid"]
    assert any_front.log() == [("CODE_REUSED", [{"kind": "grant", "id": gid, "gen": 0, "soft": False}])]
    assert any_front.pushed
    with pytest.raises(Refused, match="invalid_grant"):
        await client.refresh(tokens)


async def test_a_sign_out_between_code_and_redemption_ends_it(front: Front) -> None:
    client, browser = front.client("mobile"), front.browser()
    started = client.start(scope="openid offline_access orders:read", resource=ORDERS)
    code = await client.authorize(browser, started, ALICE, PASSWORD)
    await browser.sign_out()
    with pytest.raises(Refused, match="invalid_grant"):
        await client.redeem(started, code)


@pytest.mark.requirement(36)
async def test_no_cross_origin_script_may_read_anything(front: Front) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for method, path in (
        ("GET", f"/authorize?{urlencode(good_request())}"),
        ("OPTIONS", "/authorize"),
        ("POST", "/token"),
    ):
        response = await front.http.request(method, path, headers=headers)
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_authorize_by_post_is_the_same_request(front: Front) -> None:
    response = await front.browser().post("/authorize", dict(good_request()))
    assert response.status_code == 303
    assert parse_qs(urlsplit(response.headers["location"]).query) == {name: [value] for name, value in good_request()}


async def test_a_client_without_the_code_grant_gets_none(front: Front) -> None:
    status, location, _ = await arrive(front, good_request(client_id="backoffice"))
    assert (status, location) == (400, "")


async def test_a_disabled_client_is_an_unknown_one(front: Front) -> None:
    client = front.client("mobile")
    started, code = await code_for(front, client)
    await front.accounts.disable_client("mobile")
    assert (await arrive(front, good_request()))[:2] == (400, "")
    with pytest.raises(Refused, match="invalid_client"):
        await client.redeem(started, code)


async def test_the_flow_module_refuses_answers_that_are_not_its_own(front: Front) -> None:
    client = front.client("mobile")
    started = client.start(scope="openid")
    for location in (
        f"{LOOPBACK}?code=c&state={started.state}",
        f"{LOOPBACK}?code=c&state={started.state}&iss=https://evil.example",
        f"{LOOPBACK}?code=c&state=another&iss={ISSUER}",
        f"https://evil.example/callback?code=c&state={started.state}&iss={ISSUER}",
    ):
        with pytest.raises(FlowFailed):
            client.code_from(started, location)
    assert client.code_from(started, f"{LOOPBACK}?code=c&state={started.state}&iss={ISSUER}") == "c"


async def test_a_browser_stays_at_its_origin(front: Front) -> None:
    with pytest.raises(FlowFailed):
        await Browser(front.http, ISSUER).get("https://evil.example/")
