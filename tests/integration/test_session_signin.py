"""Signing in through the browser: a session comes only of a flow that this very browser began."""

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from devstack.flow import Page
from rescind.testing import rsa_key
from servicekit.errors import ServiceError
from session.domain import key_of
from session.relying_party import Registration, RelyingParty
from session.rest.protection import SESSION_COOKIE
from support.session_window import ADMIN, ALICE, BOB, PASSWORD, Window
from support.session_world import WEB_KEY, World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_signing_in_shows_who_is_signed_in(world: World) -> None:
    window = world.window()
    assert (await window.get("/api/me")).json()["reason"] == "NOT_SIGNED_IN"
    arrived = await window.sign_in(ALICE, path="/auth/login?return_to=/%23/devices")
    assert (arrived.status_code, arrived.headers["location"]) == (303, "/#/devices")
    me = (await window.get("/api/me")).json()
    assert (me["email"], me["name"], me["admin"]) == (ALICE, "Alice Example", False)
    assert "orders:read" in me["scopes"]
    assert "orders:admin" not in me["scopes"]


async def test_an_administrator_is_one(world: World) -> None:
    window = world.window()
    await window.sign_in(ADMIN)
    assert (await window.get("/api/me")).json()["admin"] is True


@pytest.mark.requirement(31)
@pytest.mark.requirement(32)
@pytest.mark.requirement(33)
async def test_the_session_cookie_is_host_only_unreadable_and_strict(world: World) -> None:
    window = world.window()
    await window.sign_in()
    session, login = {}, {}
    for line in window.set_cookies:
        name, _, rest = line.partition("=")
        kept = session if name == SESSION_COOKIE else login
        kept[name] = {part.strip().lower() for part in rest.split(";")[1:]}
    attributes = session[SESSION_COOKIE]
    assert attributes == {"httponly", "path=/", "samesite=strict", "secure"}
    assert all({"httponly", "secure", "path=/", "samesite=lax"} <= each for each in login.values())
    assert len(login) == 1


@pytest.mark.requirement(26)
async def test_a_session_id_is_256_random_bits_and_stored_as_its_digest_alone(world: World) -> None:
    windows = [world.window() for _ in range(3)]
    for window in windows:
        await window.sign_in()
    secrets = {window.secret for window in windows}
    assert len(secrets) == 3
    assert all(len(secret) == 43 for secret in secrets)
    stored = " ".join([str(key) async for key in world.redis.scan_iter()])
    for secret in secrets:
        assert hashlib.sha256(secret.encode()).hexdigest() in stored
        assert secret not in stored
        assert secret not in json.dumps(await world.redis.hgetall(f"session:s:{key_of(secret)}"))


@pytest.mark.requirement(32)
async def test_neither_body_nor_url_ever_holds_the_session_id(world: World, caplog: pytest.LogCaptureFixture) -> None:
    window = world.window()
    await window.sign_in()
    for path in ("/api/me", "/api/sessions", "/api/lab", "/api/orders", "/api/notifications"):
        assert window.secret not in (await window.get(path)).text
    assert all(window.secret not in str(response.url) + response.text for response in window.seen)
    assert all(window.secret not in response.headers.get("location", "") for response in window.seen)
    assert window.secret not in caplog.text


@pytest.mark.requirement(27)
async def test_an_id_that_was_planted_is_not_the_one_after_signing_in(world: World) -> None:
    window = world.window()
    planted = "A" * 43
    window.cookies[SESSION_COOKIE] = planted
    assert (await window.get("/api/me")).json()["reason"] == "SESSION_ENDED"
    await window.sign_in()
    assert window.secret != planted
    thief = world.window()
    thief.cookies[SESSION_COOKIE] = planted
    assert (await thief.get("/api/me")).status_code == 401


@pytest.mark.requirement(27)
async def test_signing_in_again_kills_the_old_id(world: World) -> None:
    window = world.window()
    await window.sign_in()
    old = window.secret
    arrived = await window.sign_in(path="/auth/reauthenticate?return_to=/")
    assert arrived.status_code == 303, arrived.text
    assert window.secret != old
    assert (await window.get("/api/me")).status_code == 200
    thief = world.window()
    thief.cookies[SESSION_COOKIE] = old
    assert (await thief.get("/api/me")).status_code == 401


@pytest.mark.requirement(29)
async def test_re_authentication_asks_for_the_password_and_moves_the_time_of_it(world: World) -> None:
    window = world.window()
    await window.sign_in()
    url = await _authorization_request(world, window, "/auth/reauthenticate")
    assert url["prompt"] == ["login"]
    page = await window.identity.open((await window.navigate("/auth/reauthenticate")).headers["location"])
    assert [urlsplit(form.action).path for form in page.forms] == ["/login"]


@pytest.mark.requirement(29)
async def test_somebody_else_cannot_re_authenticate_for_a_person(world: World) -> None:
    window = world.window()
    await window.sign_in(ALICE)
    arrived = await window.sign_in(BOB, path="/auth/reauthenticate")
    assert arrived.json()["reason"] == "ID_TOKEN_REFUSED"


@pytest.mark.requirement(39)
async def test_it_asks_with_code_and_pkce_and_authenticates_itself(world: World) -> None:
    window = world.window()
    asked = await _authorization_request(world, window, "/auth/login")
    assert asked["response_type"] == ["code"]
    assert asked["code_challenge_method"] == ["S256"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    assert asked["resource"] == ["urn:rescind:identity", "urn:rescind:orders", "urn:rescind:notifications"]
    world.wire.forms.clear()
    await window.sign_in()
    redeemed = world.wire.forms[0]
    assert redeemed["grant_type"] == "authorization_code"
    assert len(redeemed["code_verifier"]) == 43


@pytest.mark.requirement(30)
@pytest.mark.requirement(42)
async def test_a_callback_of_another_browsers_flow_makes_no_session(world: World) -> None:
    attacker, victim = world.window(), world.window()
    address = await attacker.away()
    refused = await victim.arrive(address)
    assert (refused.status_code, refused.json()["reason"]) == (400, "SIGN_IN_NOT_BEGUN")
    assert SESSION_COOKIE not in victim.cookies
    # Even with a flow of its own under way, and the attacker's cookie name tried for size.
    await victim.navigate("/auth/login")
    assert (await victim.arrive(address)).json()["reason"] == "SIGN_IN_NOT_BEGUN"


@pytest.mark.requirement(42)
async def test_a_foreign_code_under_ones_own_state_is_refused(world: World) -> None:
    attacker, victim = world.window(), world.window()
    stolen = parse_qs(urlsplit(await attacker.away()).query)["code"][0]
    own = parse_qs(urlsplit(await victim.away()).query)
    refused = await victim.arrive(_callback(world, code=stolen, state=own["state"][0], iss=world.issuer))
    assert refused.json()["reason"] == "CODE_REFUSED"


@pytest.mark.requirement(30)
@pytest.mark.requirement(44)
async def test_a_callback_is_good_once(world: World) -> None:
    window = world.window()
    address = await window.away()
    cookies = dict(window.cookies)
    assert (await window.arrive(address)).status_code == 303
    window.cookies = cookies
    assert (await window.arrive(address)).json()["reason"] == "SIGN_IN_NOT_BEGUN"


@pytest.mark.requirement(42)
@pytest.mark.parametrize("state", ["", "x", "A" * 43])
async def test_another_state_is_refused(world: World, state: str) -> None:
    window = world.window()
    own = parse_qs(urlsplit(await window.away()).query)
    refused = await window.arrive(_callback(world, code=own["code"][0], state=state, iss=world.issuer))
    assert refused.status_code == 400
    assert SESSION_COOKIE not in window.cookies


@pytest.mark.requirement(43)
@pytest.mark.parametrize("issuer", [None, "", "https://evil.example", "suffix"])
async def test_an_answer_of_another_issuer_or_of_none_is_refused(world: World, issuer: str | None) -> None:
    window = world.window()
    own = parse_qs(urlsplit(await window.away()).query)
    given = {} if issuer is None else {"iss": world.issuer + "/" if issuer == "suffix" else issuer}
    refused = await window.arrive(_callback(world, code=own["code"][0], state=own["state"][0], **given))
    assert refused.json()["reason"] == "ISSUER_MISMATCH"
    assert SESSION_COOKIE not in window.cookies


@pytest.mark.requirement(44)
@pytest.mark.requirement(46)
@pytest.mark.parametrize(
    "changes",
    [{"nonce": "another"}, {"nonce": None}, {"aud": "mobile"}, {"iss": "https://evil.example"}, {"exp": 1}, {"key": 1}],
    ids=["nonce", "no nonce", "audience", "issuer", "expired", "signature"],
)
async def test_a_false_id_token_makes_no_session(world: World, changes: dict[str, Any]) -> None:
    """Signed with identity's own key where the change allows it: only the one claim is wrong."""
    window = world.window()
    world.wire.answer = lambda answer: _with_id_token(world, answer, changes)
    refused = await window.sign_in()
    assert (refused.status_code, refused.json()["reason"]) == (400, "ID_TOKEN_REFUSED")
    assert SESSION_COOKIE not in window.cookies


async def test_an_id_token_signed_anew_without_a_change_is_accepted(world: World) -> None:
    """The counterpart of the test above: what it refuses, it refuses for the change."""
    window = world.window()
    world.wire.answer = lambda answer: _with_id_token(world, answer, {})
    assert (await window.sign_in()).status_code == 303


@pytest.mark.requirement(45)
async def test_metadata_of_another_issuer_is_not_used(world: World) -> None:
    registration = Registration(
        issuer="http://localhost:1", identity_url=world.issuer, client_id="web", client_secret="x", redirect_uri="x"
    )
    party = RelyingParty(registration)
    with pytest.raises(ServiceError, match="another issuer"):
        await party.metadata()
    await party.aclose()


@pytest.mark.requirement(63)
@pytest.mark.parametrize(
    "return_to",
    [
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/%09/evil.example",
        "javascript:alert(1)",
        "/auth/logout",
    ],
)
async def test_return_to_leads_nowhere_else(world: World, return_to: str) -> None:
    window = world.window()
    arrived = await window.sign_in(path=f"/auth/login?{urlencode({'return_to': return_to})}")
    location = arrived.headers["location"]
    assert location == "/" or (location.startswith("/%09") and not location.startswith("//"))


async def test_what_the_person_declined_at_identity_is_told_to_the_page(world: World) -> None:
    window = world.window()
    own = parse_qs(urlsplit(await window.away()).query)
    declined = await window.arrive(_callback(world, error="access_denied", state=own["state"][0], iss=world.issuer))
    assert (declined.status_code, declined.headers["location"]) == (303, "/?sign_in=access_denied")


async def test_two_windows_of_one_browser_may_sign_in_at_once(world: World) -> None:
    window = world.window()
    first = (await window.navigate("/auth/login?return_to=/one")).headers["location"]
    second = await window.away("/auth/login?return_to=/two")
    assert (await window.arrive(second)).headers["location"] == "/two"
    arrived = await window.identity.walk(await window.identity.get(first))
    assert isinstance(arrived, str)
    assert (await window.arrive(arrived)).headers["location"] == "/one"


@pytest.mark.requirement(69)
async def test_nothing_of_a_person_is_cached(world: World) -> None:
    window = world.window()
    await window.sign_in()
    await window.get("/api/me")
    personal = [response for response in window.seen if response.url.path.startswith(("/api", "/auth"))]
    assert personal
    assert all(response.headers["cache-control"] == "no-store" for response in personal)


@pytest.mark.requirement(59)
async def test_with_a_key_it_pushes_its_request_and_signs_for_itself_everywhere(world: World) -> None:
    """The secret is not shown once, neither in a form nor in a header: this one would not open anything."""
    _, replica = await world.another(client_key=WEB_KEY, web_client_secret="not-the-secret")
    window = world.window(replica)
    asked: list[httpx2.Request] = []
    inner = world.wire.handle_async_request

    async def listen(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            asked.append(request)
        return await inner(request)

    world.wire.handle_async_request = listen  # type: ignore[method-assign]
    try:
        location = (await window.navigate("/auth/login")).headers["location"]
        arrived = await window.identity.submit(await _page(window, location), "/login", email=ALICE, password=PASSWORD)
        assert isinstance(arrived, str)
        assert (await window.arrive(arrived)).status_code == 303
        assert (await window.get("/api/orders")).status_code == 200
    finally:
        world.wire.handle_async_request = inner  # type: ignore[method-assign]
    # RFC 9126: the browser carries the name of the request, and nothing of what is in it.
    assert parse_qs(urlsplit(location).query).keys() == {"client_id", "request_uri"}
    assert {"/par", "/token"} <= {request.url.path for request in asked}
    proofs = []
    for request in asked:
        form = parse_qs(request.content.decode())
        assert form["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
        assert "client_secret" not in form
        assert "authorization" not in request.headers
        proofs += form["client_assertion"]
    assert len(proofs) == len(set(proofs)) >= 3  # /par, the code, the refresh for orders


@pytest.mark.requirement(59)
async def test_a_key_that_identity_does_not_know_signs_nobody_in(world: World) -> None:
    """Nor does the session service fall back to its secret, which is right."""
    pem = rsa_key("a stranger's").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    _, replica = await world.another(client_key=pem)
    refused = await world.window(replica).navigate("/auth/login")
    assert refused.status_code >= 400
    assert "location" not in refused.headers
    assert "PRIVATE KEY" not in refused.text


async def _page(window: Window, location: str) -> Page:
    """The sign-in page."""
    page = await window.identity.walk(await window.identity.get(location))
    assert not isinstance(page, str)
    return page


async def _authorization_request(world: World, window: Window, path: str) -> dict[str, list[str]]:
    """What it asked identity for: pushed, or in the address."""
    pushed: list[bytes] = []
    inner = world.wire.handle_async_request

    async def listen(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/par":
            pushed.append(request.content)
        return await inner(request)

    world.wire.handle_async_request = listen  # type: ignore[method-assign]
    try:
        location = (await window.navigate(path)).headers["location"]
    finally:
        world.wire.handle_async_request = inner  # type: ignore[method-assign]
    return parse_qs(pushed[0].decode() if pushed else urlsplit(location).query)


def _callback(world: World, **answer: str) -> str:
    return f"{world.origin}/auth/callback?{urlencode(answer)}"


def _with_id_token(world: World, answer: httpx2.Response, changes: dict[str, Any]) -> httpx2.Response:
    body = answer.json()
    if "id_token" in body:
        body["id_token"] = _signed_anew(world, body["id_token"], changes)
    return httpx2.Response(answer.status_code, json=body)


def _signed_anew(world: World, id_token: str, changes: dict[str, Any]) -> str:
    import jwt

    claims = jwt.decode(id_token, options={"verify_signature": False})
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None and name != "key"}
    if "key" in changes:
        headers = {"typ": "JWT", "kid": jwt.get_unverified_header(id_token)["kid"]}
        return jwt.encode(claims, rsa_key("a stranger's"), algorithm="RS256", headers=headers)
    parts = world.parts
    return parts.database.run_sync(lambda tx: parts.keyring.signing_key(tx, "access").sign("JWT", claims))


@pytest.mark.requirement(76)
async def test_an_address_begins_and_answers_so_many_sign_ins_over_all_replicas(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("servicekit.throttle.TIMEOUT", 20.0)  # a machine that stood still is another test's matter
    limited = {"sign_ins": 3, "trusted_proxies": "127.0.0.0/8"}
    replicas = [(await world.another(**limited))[1] for _ in range(2)]
    _, unproxied = await world.another(sign_ins=3)

    async def ask(replica: str, path: str, address: str) -> Any:
        return await world.window(replica).get(path, x_forwarded_for=address)

    for path, passed in [("/auth/login", 302), ("/auth/callback?state=x&iss=y&code=z", 400)]:
        begun = [await ask(replicas[number % 2], path, "198.51.100.1") for number in range(3)]
        assert [answer.status_code for answer in begun] == [passed] * 3
        for replica in replicas:
            answer = await ask(replica, path, "198.51.100.1")
            assert (answer.status_code, answer.json()["reason"]) == (429, "TOO_MANY_ATTEMPTS")
            assert answer.headers["content-type"] == "application/problem+json"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert (await ask(replicas[0], path, "198.51.100.2")).status_code == passed
        # Who is no proxy of ours chooses no address to be counted under.
        answers = [(await ask(unproxied, path, f"198.51.100.{number}")).status_code for number in range(10, 14)]
        assert answers == [passed] * 3 + [429]
    assert (await ask(replicas[0], "/auth/reauthenticate", "198.51.100.1")).status_code == 429
