"""Acts about OAuth 2.0: a device, a third party, a stolen refresh token, a service that acts for a person, step-up."""

import time
from urllib.parse import urlsplit

from devstack.flow import Browser, FlowFailed, OAuthClient, Page, Refused, Tokens
from devstack.seeds import ALICE, DEVICE_CODE, NOTIFICATIONS, ORDERS, PASSWORD, TOKEN_EXCHANGE
from devstack.story.acts import AT_ONCE
from devstack.story.scene import Answer, Scene, Unexpected, claims_of

_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  (a name)


async def device(scene: Scene) -> None:
    """A terminal shows a code; alice types it in elsewhere, and the terminal is signed in (RFC 8628)."""
    cli, browser = scene.client("cli"), scene.browser()
    asked = await cli.post("/device_authorization", scope="openid orders:read orders:write", resource=ORDERS)
    if asked.status_code != 200:
        raise Unexpected(f"no device code: {asked.status_code}")
    begun = asked.json()
    waiting = {"grant_type": DEVICE_CODE, "device_code": begun["device_code"]}
    refused = await _refused(cli, "authorization_pending", **waiting)
    scene.step("oauth", f"device: the terminal shows {begun['user_code']}", http=refused)
    page: Page | str = await browser.open(begun["verification_uri_complete"])
    page = await browser.submit(_page(page), "/login", email=ALICE, password=PASSWORD)
    page = await browser.submit(_page(page), "/device")
    page = await browser.submit(_page(page), "/device", decision="allow")
    allowed = time.perf_counter()
    token = (await cli.token(**waiting)).access_token
    http, rpc = await scene.both(token, write=True)
    if not (http.accepted and rpc.accepted):
        raise Unexpected(f"the terminal's order was not taken: {http.reason}, {rpc.reason}")
    ms = (time.perf_counter() - allowed) * 1000
    scene.step("oauth", "device: allowed; it places orders", http=http, grpc=rpc, ms=ms, note="from alice's yes")
    await _refused(cli, "invalid_grant", **waiting)  # a code is spent once
    await scene.taken_back("oauth", "device: alice signs out", token, browser.sign_out, within=AT_ONCE)


async def third_party(scene: Scene) -> None:
    """A partner's app asks; alice says no, then yes, then takes it back, and nothing that it holds works."""
    partner, browser = scene.client("partner"), scene.browser()
    scope = "openid offline_access orders:read"
    try:
        await partner.sign_in(browser, ALICE, PASSWORD, scope=scope, resource=ORDERS, consent="deny")
        raise Unexpected("alice said no, and the partner got tokens")
    except Refused as refused:
        if refused.error != "access_denied":
            raise
        scene.step("oauth", "third party: alice says no", http=Answer("302", refused.error))
    tokens = await partner.sign_in(browser, ALICE, PASSWORD, scope=scope, resource=ORDERS)
    http, rpc = await scene.both(tokens.access_token)
    write, _ = await scene.both(tokens.access_token, write=True)
    if not (http.accepted and rpc.accepted) or write.reason != "INSUFFICIENT_SCOPE":
        raise Unexpected(f"the partner reads: {http.reason}, {rpc.reason}; it writes: {write.reason}")
    scene.step("oauth", "third party: alice says yes; it reads", http=http, grpc=rpc, note="and may not write")

    async def withdraw() -> None:
        await _withdraw(scene, browser, claims_of(tokens.access_token)["gid"])

    await scene.taken_back("oauth", "third party: withdrawn", tokens.access_token, withdraw, within=AT_ONCE)
    spent = await _refused(partner, "invalid_grant", grant_type="refresh_token", refresh_token=_refresh(tokens))
    scene.step("oauth", "third party: its refresh token", http=spent)


async def refresh_reuse(scene: Scene) -> None:
    """A refresh token is copied; who uses it second is found out, and both thief and owner lose the grant."""
    phone = scene.client()
    first = await scene.signed_in(scope="openid offline_access orders:read")
    second = await phone.refresh(first)
    third = await phone.refresh(second)
    replayed: list[Answer] = []

    async def replay() -> None:
        spent = {"grant_type": "refresh_token", "refresh_token": _refresh(first)}
        replayed.append(await _refused(phone, "invalid_grant", **spent))

    step = "refresh token used again: what it led to"
    await scene.taken_back("oauth", step, third.access_token, replay, within=AT_ONCE)
    await _refused(phone, "invalid_grant", grant_type="refresh_token", refresh_token=_refresh(third))
    scene.step("oauth", "refresh token used again: itself, and the last", http=replayed[0])


async def acting_for_a_person(scene: Scene) -> None:
    """Notifications exchanges alice's token to read her orders for her; it dies with the one that it came from."""
    phone = scene.client()
    # The grant must hold both: a service that acts for somebody gets nothing that its caller could not have.
    started = phone.start(scope="openid notifications:read orders:read", resource=[NOTIFICATIONS, ORDERS])
    code = await phone.authorize(scene.browser(), started, ALICE, PASSWORD)
    parent = await phone.redeem(started, code, resource=NOTIFICATIONS)
    service = scene.client("notifications")
    exchanged = await service.token(
        grant_type=TOKEN_EXCHANGE,
        subject_token=parent.access_token,
        subject_token_type=_ACCESS_TOKEN,
        resource=ORDERS,
    )
    claims = claims_of(exchanged.access_token)
    if claims["act"]["sub"] != "svc_notifications" or claims["ojti"] != claims_of(parent.access_token)["jti"]:
        raise Unexpected("the exchanged token does not say who acts, or what it came from")
    await scene.taken_back(
        "oauth",
        "exchanged token: the phone gives its own back",
        exchanged.access_token,
        lambda: phone.revoke(parent.access_token),
        within=AT_ONCE,
        note="orders:read, acting for alice",
    )


async def step_up(scene: Scene) -> None:
    """A client that needs a fresh sign-in asks for one: signed in is not enough, the password is."""
    phone, browser = scene.client(), scene.browser()
    before = await phone.sign_in(browser, ALICE, PASSWORD, scope="openid orders:read", resource=ORDERS)
    silently = phone.start(scope="openid orders:read", resource=ORDERS, prompt="none")
    code = await phone.authorize(browser, silently, ALICE, "no password is asked for")
    if claims_of((await phone.redeem(silently, code)).access_token)["auth_time"] != _auth_time(before):
        raise Unexpected("a sign-in that asked for nothing counts as one")
    strict = phone.start(scope="openid orders:read", resource=ORDERS, prompt="none", max_age="0")
    try:
        await phone.authorize(browser, strict, ALICE, PASSWORD)
        raise Unexpected("an old sign-in was good enough")
    except Refused as refused:
        if refused.error != "login_required":
            raise
        scene.step("oauth", "step-up: max_age=0, and nobody to ask", http=Answer("302", refused.error))
    again = phone.start(scope="openid orders:read", resource=ORDERS, max_age="0")
    page = await browser.open(again.url)
    if "/login" not in {urlsplit(form.action).path for form in page.forms}:
        raise Unexpected("the password is not asked for")
    arrived = await browser.submit(page, "/login", email=ALICE, password=PASSWORD)
    if not isinstance(arrived, str):
        raise Unexpected(f"the new sign-in was answered {arrived.status}")
    after = await phone.redeem(again, phone.code_from(again, arrived))
    if _auth_time(after) < _auth_time(before):
        raise Unexpected("the new token tells of the old sign-in")
    http, rpc = await scene.both(after.access_token)
    scene.step("oauth", "step-up: alice gives her password again", http=http, grpc=rpc)


def _auth_time(tokens: Tokens) -> int:
    return int(claims_of(tokens.access_token)["auth_time"])


async def _withdraw(scene: Scene, browser: Browser, gid: str) -> None:
    """Presses the button beside that app on the account page."""
    page = await browser.open(f"{scene.target.addresses.issuer}/account")
    for form in page.forms:
        if urlsplit(form.action).path == "/account/apps/withdraw" and form.fields.get("gid") == gid:
            if isinstance(await browser.walk(await browser.post(form.action, form.fields)), str):
                raise Unexpected("the withdrawal led away from identity")
            return
    raise Unexpected("the account page does not list the app")


async def _refused(client: OAuthClient, error: str, **asked: str) -> Answer:
    """The refusal of a request to the token endpoint.

    Raises:
        Unexpected: it was granted, or refused as something else.
    """
    try:
        await client.token(**asked)
    except Refused as refused:
        if refused.error != error:
            raise Unexpected(f"should be refused as {error}, was: {refused.error}") from refused
        return Answer(str(refused.status), refused.error)
    raise Unexpected(f"should be refused as {error}, and was granted")


def _refresh(tokens: Tokens) -> str:
    if tokens.refresh_token is None:
        raise FlowFailed("there is no refresh token")
    return tokens.refresh_token


def _page(arrived: Page | str) -> Page:
    if isinstance(arrived, str):
        raise FlowFailed("led away from identity")
    return arrived
