"""OpenID Connect: discovery, ID tokens, userinfo, prompt and max_age."""

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import jwt
import pytest

from devstack.flow import Browser, OAuthClient, Refused, Started, Tokens
from rescind import StepUpRequired
from support.identity_front import ALICE, BOB, ISSUER, LOOPBACK, ORDERS, PASSWORD, Front, identity_front

METADATA = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server")


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def verified(front: Front, token: str, audience: str) -> dict[str, Any]:
    keys = jwt.PyJWKSet.from_dict((await front.http.get("/jwks.json")).json())
    key = keys[jwt.get_unverified_header(token)["kid"]]
    # The clock is on a lever, so expiry is compared by the tests themselves.
    options: Any = {"verify_exp": False, "verify_iat": False}
    claims: dict[str, Any] = jwt.decode(token, key, ["RS256"], audience=audience, issuer=ISSUER, options=options)
    return claims


async def signed_in(
    front: Front, browser: Browser | None = None, client_id: str = "mobile", **asked: Any
) -> tuple[Tokens, Started]:
    client = front.client(client_id)
    started = client.start(**({"scope": "openid"} | asked))
    code = await client.authorize(browser or front.browser(), started, ALICE, PASSWORD)
    return await client.redeem(started, code), started


async def silently(client: OAuthClient, browser: Browser, **more: str) -> str:
    """The code, or the error, that a request gets without the person being asked for anything."""
    started = client.start(scope="openid", **more)
    response = await browser.get(started.url)
    location = response.headers["location"]
    if not location.startswith(LOOPBACK):
        return f"asked at {urlsplit(location).path}"
    try:
        return "code" if client.code_from(started, location) else ""
    except Refused as refused:
        return refused.error


@pytest.mark.requirement(73)
async def test_the_metadata_names_what_is_there_and_nothing_else(front: Front) -> None:
    openid, oauth = [(await front.http.get(path)).json() for path in METADATA]
    assert oauth == openid
    assert openid["issuer"] == ISSUER
    assert openid["code_challenge_methods_supported"] == ["S256"]
    assert openid["authorization_response_iss_parameter_supported"] is True
    assert openid["response_types_supported"] == ["code"]
    assert openid["id_token_signing_alg_values_supported"] == ["RS256"]
    assert openid["subject_types_supported"] == ["public"]
    assert not {"password", "implicit"} & set(openid["grant_types_supported"])
    assert "none" not in openid["introspection_endpoint_auth_methods_supported"]
    for absent in ("registration", "pushed_authorization_request", "end_session"):
        assert f"{absent}_endpoint" not in openid
    for name, url in openid.items():
        if name.endswith(("_endpoint", "_uri")):
            assert url.startswith(ISSUER + "/")
            response = await front.http.get(url)
            assert response.status_code != 404, name


@pytest.mark.requirement(73)
async def test_authlib_itself_finds_the_metadata_valid(front: Front) -> None:
    from authlib.oauth2.rfc8414 import AuthorizationServerMetadata, get_well_known_url

    assert get_well_known_url(ISSUER) == METADATA[1]
    metadata = AuthorizationServerMetadata((await front.http.get(METADATA[1])).json())
    metadata.validate_issuer = lambda: None  # insists on https, also for the loopback
    for url in (
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "revocation_endpoint",
        "introspection_endpoint",
    ):
        setattr(metadata, f"validate_{url}", lambda: None)
    metadata.validate()


async def test_the_key_sets_are_public_apart_and_hold_no_private_part(front: Front) -> None:
    access, log = [(await front.http.get(path)).json()["keys"] for path in ("/jwks.json", "/revocations/jwks.json")]
    assert len(access) == len(log) == 2
    assert not {key["kid"] for key in access} & {key["kid"] for key in log}
    for key in (*access, *log):
        assert set(key) == {"kty", "n", "e", "kid", "use", "alg"}
        assert (key["kty"], key["use"], key["alg"]) == ("RSA", "sig", "RS256")


async def test_the_id_token_says_who_signed_in_when_and_for_which_request(front: Front) -> None:
    front.clock.forward(100)
    tokens, started = await signed_in(front, scope="openid profile email", resource=ORDERS)
    assert tokens.id_token is not None
    assert jwt.get_unverified_header(tokens.id_token)["typ"] == "JWT"
    claims = await verified(front, tokens.id_token, "mobile")
    half = hashlib.sha256(tokens.access_token.encode()).digest()[:16]
    access = await verified(front, tokens.access_token, ORDERS)
    now = front.clock.ms // 1000
    assert claims == {
        "iss": ISSUER,
        "sub": front.user(ALICE).id,
        "aud": "mobile",
        "iat": now,
        "exp": now + 900,
        "auth_time": now,
        "nonce": started.nonce,
        "sid": access["sid"],
        "acr": "urn:rescind:acr:password",
        "amr": ["pwd"],
        "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
    }


async def test_without_openid_there_is_no_id_token(front: Front) -> None:
    tokens, _ = await signed_in(front, scope="orders:read", resource=ORDERS)
    assert tokens.id_token is None


async def test_a_refreshed_id_token_keeps_auth_time_and_has_no_nonce(front: Front) -> None:
    tokens, _ = await signed_in(front, scope="openid offline_access")
    first = await verified(front, tokens.id_token or "", "mobile")
    front.clock.forward(300)
    again = await front.client("mobile").refresh(tokens)
    second = await verified(front, again.id_token or "", "mobile")
    assert "nonce" not in second
    assert (second["auth_time"], second["sub"]) == (first["auth_time"], first["sub"])
    assert second["iat"] == first["iat"] + 300


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ("openid", set()),
        ("openid profile", {"name"}),
        ("openid email", {"email"}),
        ("openid profile email", {"name", "email"}),
    ],
)
async def test_userinfo_tells_what_the_scope_permits(front: Front, scope: str, told: set[str]) -> None:
    tokens, _ = await signed_in(front, scope=scope)
    for method in ("GET", "POST"):
        response = await front.http.request(
            method, "/userinfo", headers={"authorization": f"Bearer {tokens.access_token}"}
        )
        known = {"sub": front.user(ALICE).id, "name": "Alice", "email": ALICE}
        assert response.json() == {name: value for name, value in known.items() if name in {"sub", *told}}


@pytest.mark.requirement(70)
async def test_userinfo_refuses_in_the_words_of_rfc_6750(front: Front) -> None:
    for_orders, _ = await signed_in(front, scope="openid orders:read", resource=ORDERS)
    own = await front.client("backoffice").client_credentials()
    good, _ = await signed_in(front)

    async def ask(token: str | None, query: str = "") -> tuple[int, str]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        response = await front.http.get(f"/userinfo{query}", headers=headers)
        return response.status_code, response.headers.get("www-authenticate", "")

    assert await ask(None) == (401, "Bearer")
    assert await ask(None, f"?access_token={good.access_token}") == (401, "Bearer")
    for token in ("nonsense", for_orders.access_token, good.id_token, good.access_token[:-8] + "AAAAAAAA"):
        status, challenge = await ask(token)
        assert status == 401
        assert 'error="invalid_token"' in challenge
    assert await ask(own.access_token) == (403, 'Bearer error="insufficient_scope", scope="openid"')
    await front.client("mobile").revoke(good.access_token)
    status, challenge = await ask(good.access_token)
    assert (status, 'error="invalid_token"' in challenge) == (401, True)


async def test_somebody_who_is_signed_in_is_not_asked_again(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    assert await silently(client, browser, prompt="none") == "login_required"
    await signed_in(front, browser)
    assert await silently(client, browser) == "code"
    assert await silently(client, browser, prompt="none") == "code"


async def test_prompt_login_wants_the_password_again_and_once(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    first, _ = await signed_in(front, browser)
    front.clock.forward(60)
    assert await silently(client, browser, prompt="login") == "asked at /login"
    second, _ = await signed_in(front, browser, prompt="login")
    before, after = [await verified(front, tokens.id_token or "", "mobile") for tokens in (first, second)]
    assert after["auth_time"] == before["auth_time"] + 60
    assert after["sid"] == before["sid"]  # the same session, proven again: what hangs on it lives on
    assert await silently(client, browser) == "code"


@pytest.mark.parametrize(("max_age", "asked"), [("0", True), ("59", True), ("60", False), ("3600", False)])
async def test_max_age_is_kept_to(front: Front, max_age: str, asked: bool) -> None:
    browser, client = front.browser(), front.client("mobile")
    await signed_in(front, browser)
    front.clock.forward(60)
    assert await silently(client, browser, max_age=max_age) == ("asked at /login" if asked else "code")
    assert await silently(client, browser, max_age=max_age, prompt="none") == ("login_required" if asked else "code")
    tokens, _ = await signed_in(front, browser, max_age=max_age)
    claims = await verified(front, tokens.id_token or "", "mobile")
    assert claims["iat"] - claims["auth_time"] <= int(max_age)


async def hint(front: Front, browser: Browser, client_id: str = "mobile") -> str:
    tokens, _ = await signed_in(front, browser, client_id)
    assert tokens.id_token is not None
    return tokens.id_token


async def test_an_id_token_hint_names_who_is_expected(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    alices = await hint(front, browser)
    front.clock.forward(3600)  # an expired one hints as well (section 3.1.2.1)
    assert await silently(client, browser, id_token_hint=alices) == "code"
    assert await silently(client, browser, id_token_hint=alices, prompt="none") == "code"
    others = front.browser()
    await client.sign_in(others, BOB, PASSWORD, scope="openid")
    assert await silently(client, others, id_token_hint=alices, prompt="none") == "login_required"
    assert await silently(client, front.browser(), id_token_hint=alices, prompt="none") == "login_required"
    front.clock.forward(1)
    assert await silently(client, others, id_token_hint=alices) == "asked at /login"
    started = client.start(scope="openid", id_token_hint=alices)
    with pytest.raises(Refused) as refused:  # Bob again: the client hears that it is not whom it expects
        await client.authorize(others, started, BOB, PASSWORD)
    assert refused.value.error == "login_required"
    front.clock.forward(1)
    started = client.start(scope="openid", id_token_hint=alices)
    assert await client.authorize(others, started, ALICE, PASSWORD)


async def test_a_hint_that_is_not_ours_for_this_client_is_refused(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    good = await hint(front, browser)
    tokens, _ = await signed_in(front, browser)
    for bad in ("nonsense", tokens.access_token, good[:-8] + "AAAAAAAA", await hint(front, browser, "partner")):
        assert await silently(client, browser, id_token_hint=bad) == "invalid_request"


@pytest.mark.parametrize("asked", ["urn:rescind:acr:password", "urn:example:gold urn:example:silver", "0"])
async def test_acr_values_are_a_wish_and_the_id_token_tells_the_truth(front: Front, asked: str) -> None:
    """Section 5.5.1.1: a voluntary claim. There is one way to sign in, so there is one answer."""
    tokens, _ = await signed_in(front, acr_values=asked)
    claims = await verified(front, tokens.id_token or "", "mobile")
    assert (claims["acr"], claims["amr"]) == ("urn:rescind:acr:password", ["pwd"])
    metadata = (await front.http.get(METADATA[0])).json()
    assert metadata["acr_values_supported"] == ["urn:rescind:acr:password"]


async def test_parameters_that_nobody_knows_are_ignored(front: Front) -> None:
    more = {"ui_locales": "de", "display": "popup", "claims": "{}", "vtr": "x", "utm_source": "y"}
    tokens, _ = await signed_in(front, **more)
    assert tokens.id_token
    started = front.client("mobile").start(scope="openid")
    code = await front.client("mobile").authorize(front.browser(), started, ALICE, PASSWORD)
    assert await front.client("mobile").redeem(started, code, something="else")


async def test_only_the_query_carries_an_answer(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    await signed_in(front, browser)
    assert await silently(client, browser, response_mode="query") == "code"
    for mode in ("fragment", "form_post", "query.jwt", "x"):
        assert await silently(client, browser, response_mode=mode) == "invalid_request"


@pytest.mark.requirement(29)
async def test_a_resource_that_wants_a_recent_sign_in_gets_one(front: Front) -> None:
    """RFC 9470 from end to end: refused, back to identity with `max_age`, accepted."""
    browser, client = front.browser(), front.client("mobile")
    tokens, _ = await signed_in(front, browser, scope="openid orders:read", resource=ORDERS)
    front.clock.forward(400)
    guard = await front.guard(ORDERS)
    with pytest.raises(StepUpRequired) as refused:
        await guard.authenticate(tokens.access_token, max_auth_age=300)
    started = client.start(scope="openid orders:read", resource=ORDERS, max_age=str(refused.value.max_auth_age))
    again = await client.redeem(started, await client.authorize(browser, started, ALICE, PASSWORD))
    principal = await guard.authenticate(again.access_token, max_auth_age=300)
    assert principal.sid == (await verified(front, tokens.access_token, ORDERS))["sid"]  # the same session
    await guard.authenticate(tokens.access_token)  # the old token is as good as it was, for everything else


async def test_prompt_consent_asks_first_party_clients_too(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    await signed_in(front, browser)
    assert await silently(client, browser, prompt="consent") == "asked at /consent"
    tokens, _ = await signed_in(front, browser, prompt="consent")
    assert tokens.id_token


async def test_a_third_party_always_asks_and_cannot_ask_silently(front: Front) -> None:
    browser, client = front.browser(), front.client("partner")
    tokens, _ = await signed_in(front, browser, client_id="partner")
    assert tokens.id_token
    assert await silently(client, browser) == "asked at /consent"
    assert await silently(client, browser, prompt="none") == "consent_required"


async def test_a_session_that_ended_is_no_sign_in(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    await signed_in(front, browser)
    front.clock.forward(12 * 3600)
    assert await silently(client, browser, prompt="none") == "login_required"


async def test_login_hint_fills_the_form_in(front: Front) -> None:
    browser, client = front.browser(), front.client("mobile")
    page = await browser.open(client.start(scope="openid", login_hint='bob"<b>@example.com').url)
    assert page.form("/login").fields["email"] == 'bob"<b>@example.com'


async def test_a_request_that_took_too_long_has_to_begin_again(front: Front) -> None:
    browser = front.browser()
    page = await browser.open(front.client("mobile").start(scope="openid").url)
    flow = page.form("/login").fields["flow"]
    front.clock.forward(1801)
    for path in ("/login", "/consent"):
        response = await browser.get(f"{path}?{urlencode({'flow': flow})}")
        assert response.status_code == 400
        assert "location" not in response.headers


@pytest.mark.requirement(63)
async def test_a_flow_cannot_be_made_by_others(front: Front) -> None:
    browser = front.browser()
    await signed_in(front, browser)
    page = await browser.open(front.client("partner").start(scope="openid").url)
    flow = page.form("/consent").fields["flow"]
    payload, _, signature = flow.partition(".")
    evil = base64.urlsafe_b64encode(b'["client_id=partner&redirect_uri=https://evil.example/",1]').decode().rstrip("=")
    for forged in ("", "x", f"{payload}.", f".{signature}", f"{evil}.{signature}", f"{payload}x.{signature}", "é.é"):
        response = await browser.get(f"/consent?{urlencode({'flow': forged})}")
        assert response.status_code == 400
        assert "location" not in response.headers
