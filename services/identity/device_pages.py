"""The pages on which a person lets a device in (RFC 8628 section 3.3): the code, who asks for what, yes or no.

The person signs in first, so that guessing codes can be limited. A link that carries the code only fills the form in:
the person still compares it with what the device shows, and decides (section 5.4: somebody may have sent the link).
"""

from urllib.parse import parse_qs, urlencode

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.responses import Response

from identity import signin
from identity.device_codes import ALPHABET, DeviceCodes, plain
from identity.domain import OFFLINE, LoginSession, TooManyUserCodes, UnknownUserCode
from identity.forms import Flow
from identity.oauth.authorization import grantable
from identity.oauth.clients import Client
from identity.oauth.consent import in_plain_words
from identity.page_routes import OPEN_TOO_LONG, is_ours, see_other, session_in
from identity.web import SESSION_COOKIE, Web, read_form

PATH = "/device"
_UNKNOWN = "This code is not right, or is too old. Compare it with your device; if it is too old, begin again there."
_TOO_MANY = "Too many codes were not right. Please wait for ten minutes, and begin again on your device."

_log = structlog.get_logger("identity.device")


def add_to(pages: APIRouter, web: Web) -> None:
    """Adds the page to those that explain their failures to people."""
    codes = DeviceCodes(web.issuer)

    @pages.get(PATH)
    async def show(request: Request) -> Response:
        user_code = request.query_params.get("user_code") or ""
        packed = request.query_params.get("flow")

        def work(tx: Connection) -> tuple[LoginSession | None, Flow | None, int]:
            now = web.issuer.now(tx)
            return session_in(web, tx, request), (packed and web.forms.unpack(packed, now)) or None, now

        session, flow, now = await web.database.run(work)
        if flow is not None and flow.to == PATH:
            user_code = parse_qs(flow.query).get("user_code", [""])[0]
        if session is None:
            return _to_login(web, user_code, now)
        return await _entry(web, request, session, user_code)

    @pages.post(PATH)
    async def decide(request: Request) -> Response:
        form = await read_form(request)
        user_code, decision = form.get("user_code") or "", form.get("decision")
        session = await web.database.run(lambda tx: session_in(web, tx, request))
        if session is None:
            return see_other(PATH)
        if decision is None:
            if not is_ours(web, request, form, "device", SESSION_COOKIE):
                return await _entry(web, request, session, user_code, fault=OPEN_TOO_LONG, status=403)
            return await _ask(web, codes, request, session, user_code)
        if not is_ours(web, request, form, f"device:{plain(user_code)}", SESSION_COOKIE):
            return await _entry(web, request, session, user_code, fault=OPEN_TOO_LONG, status=403)
        return await _decided(web, codes, request, session, user_code, allow=decision == "allow")


async def _ask(web: Web, codes: DeviceCodes, request: Request, session: LoginSession, user_code: str) -> Response:
    def work(tx: Connection) -> tuple[Client, str] | str | None:
        try:
            asked = codes.find(tx, user_code, session)
        except UnknownUserCode:
            return _UNKNOWN  # committed with the count of it
        except TooManyUserCodes:
            return _TOO_MANY
        if session.auth_time < asked.signed_in_since:
            return None
        client = Client.find(tx, asked.client_id)
        if client is None:
            return _UNKNOWN
        return client, grantable(tx, asked.scope, asked.resources, session)

    found = await web.database.run(work)
    if found is None:
        return await _signing_in(web, user_code)
    if isinstance(found, str):
        _log.warning("user_code_refused", user_id=session.user_id, too_many=found is _TOO_MANY)
        status = 429 if found is _TOO_MANY else 422
        return await _entry(web, request, session, "", fault=found, status=status)
    client, scope = found
    whose = await web.database.read(lambda tx: signin.person(tx, session.user_id))
    lives, scopes, shown = web.issuer.lives, scope.split(), plain(user_code)
    return web.views.page(
        "device_consent.html",
        client_name=client.name,
        email=whose.email,
        user_code=f"{shown[:4]}-{shown[4:]}",
        asks=in_plain_words(scopes),
        offline=OFFLINE in scopes,
        offline_days=lives.offline // 86400,
        session_hours=lives.session // 3600,
        csrf_token=web.forms.csrf(f"device:{shown}", request.cookies[SESSION_COOKIE]),
    )


async def _decided(
    web: Web, codes: DeviceCodes, request: Request, session: LoginSession, user_code: str, *, allow: bool
) -> Response:
    def work(tx: Connection) -> str | None:
        try:
            asked = codes.find(tx, user_code, session)
        except (UnknownUserCode, TooManyUserCodes):
            return None
        if session.auth_time < asked.signed_in_since:
            return ""
        # What may be had is judged again: roles may have changed while the page was open.
        scope = grantable(tx, asked.scope, asked.resources, session) if allow else None
        codes.decide(tx, user_code, session, scope=scope)
        return asked.client_id

    client_id = await web.database.run(work)
    if client_id == "":
        return await _signing_in(web, user_code)
    if client_id is None:
        return await _entry(web, request, session, "", fault=_UNKNOWN, status=422)
    _log.info("device_decided", user_id=session.user_id, client_id=client_id, allowed=allow)
    if allow:
        return web.views.message("Your device is signed in", "Go on there. You can close this page.")
    return web.views.message("Your device was refused", "It gets nothing. You can close this page.")


async def _signing_in(web: Web, user_code: str) -> Response:
    """The device wants somebody who signed in lately: they do so again, and come back with the code."""
    return _to_login(web, user_code, await web.database.read(web.issuer.now))


def _to_login(web: Web, user_code: str, now: int) -> Response:
    begun = Flow(urlencode({"user_code": user_code[:64]}), now, PATH)
    return see_other("/login?" + urlencode({"flow": web.forms.pack(begun)}))


async def _entry(
    web: Web, request: Request, session: LoginSession, user_code: str, *, fault: str = "", status: int = 200
) -> Response:
    whose = await web.database.read(lambda tx: signin.person(tx, session.user_id))
    letters = "".join(letter for letter in plain(user_code) if letter in ALPHABET)[:8]
    return web.views.page(
        "device.html",
        status=status,
        email=whose.email,
        user_code=f"{letters[:4]}-{letters[4:]}" if letters else "",
        fault=fault,
        csrf_token=web.forms.csrf("device", request.cookies[SESSION_COOKIE]),
    )
