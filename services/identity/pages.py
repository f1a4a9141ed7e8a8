"""Identity over HTTP, for people: sign-in, consent, the account, sign-out. No script, every form with a CSRF token.

After a form that carried credentials the answer is 303, so that no browser sends them on (RFC 9700 section 4.12). Where
a person goes after signing in is never in a URL of its own: it is the signed flow, or the account page.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog
from authlib.oauth2 import OAuth2Error
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from identity import device_pages, signin
from identity.domain import OFFLINE, LoginSession, NewSession, SignInOvertaken, new_secret
from identity.forms import Flow
from identity.oauth.authorization import Arrival, Consent, Decision, Outcome, SignIn, ToClient, authorize
from identity.oauth.clients import Client
from identity.oauth.consent import in_plain_words
from identity.oauth.pushed import pulled
from identity.oauth.requests import LONGEST_QUERY, Parameters
from identity.passwords import RECOMMENDED, SHORTEST, PasswordRefused, check_new
from identity.web import (
    BROWSER_COOKIE,
    SESSION_COOKIE,
    Web,
    end_session,
    is_from_our_page,
    read_form,
    set_cookie,
    start_session,
)
from servicekit.errors import Kind, ServiceError, problem_headers

_OUR_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")  # what a cookie of ours looks like
_NOT_RIGHT = "E-mail or password is not right."
_OPEN_TOO_LONG = "This page was open for too long, or was opened in another window. Please try again."
_PASSWORD_CHANGED = "password-changed"  # noqa: S105  (a word in a URL, not a password)
_NOTICES = {_PASSWORD_CHANGED: "The password has been changed, and everything else has been signed out."}

_log = structlog.get_logger("identity.signin")


class NotFromHere(ServiceError):
    """A form that is not ours, is too old, or was given to another browser."""

    def __init__(self) -> None:
        super().__init__(Kind.FORBIDDEN, "FORM_NOT_ACCEPTED", _OPEN_TOO_LONG)


def router(web: Web) -> APIRouter:
    """The pages and the forms on them."""
    views, issuer = web.views, web.issuer

    class PageRoute(APIRoute):
        """A route whose failures a person can read."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            serve = super().get_route_handler()

            async def serve_or_explain(request: Request) -> Response:
                try:
                    return await serve(request)
                except OAuth2Error as error:
                    return _unanswerable(web, error.error, error.get_error_description())
                except ServiceError as error:
                    page = views.message(error.kind.title, error.detail, status=error.kind.http, code=error.reason)
                    page.headers.update(problem_headers(error))
                    return page

            return serve_or_explain

    pages = APIRouter(route_class=PageRoute, include_in_schema=False)

    @pages.get("/")
    async def front() -> Response:
        return _see_other("/account")

    @pages.get("/static/{name}")
    async def static(name: str) -> Response:
        file = views.file(name)
        if file is None:
            raise ServiceError(Kind.NOT_FOUND, "FILE_NOT_FOUND", "There is no such file.")
        return file

    @pages.get("/authorize")
    async def arrive(request: Request) -> Response:
        query: bytes = request.scope["query_string"]
        if len(query) > LONGEST_QUERY:
            raise ServiceError(Kind.INVALID, "REQUEST_TOO_LONG", "The authorization request is too long.")
        parameters = Parameters.parse(query)

        def work(tx: Connection) -> tuple[Outcome, Flow]:
            now = issuer.now(tx)
            asked = pulled(tx, query.decode(), parameters, now=issuer.now)
            arrival = Arrival(Parameters.parse(asked.encode()), _session(web, tx, request), now)
            return authorize(web.server(tx), arrival), Flow(asked, now)

        outcome, flow = await web.database.run(work)
        if isinstance(outcome, Consent):
            return _see_other("/consent?" + urlencode({"flow": web.forms.pack(flow)}))
        return _lead(web, outcome, flow)

    @pages.post("/authorize")
    async def arrive_by_post(request: Request) -> Response:
        """OpenID Connect Core section 3.1.2.1 wants POST too. As a GET it brings the session cookie along."""
        parameters = await read_form(request)
        pairs = [(name, value) for name, values in parameters.datalist.items() for value in values]
        return _see_other("/authorize?" + urlencode(pairs))

    @pages.get("/login")
    async def show_login(request: Request) -> Response:
        packed = request.query_params.get("flow")
        if packed is None and await web.database.run(lambda tx: _session(web, tx, request)) is not None:
            return _see_other("/account")
        return await _login_page(web, request, packed)

    @pages.post("/login")
    async def log_in(request: Request) -> Response:
        form = await read_form(request)
        packed, email, password = form.get("flow"), form.get("email") or "", form.get("password") or ""

        async def again(fault: str) -> Response:
            return await _login_page(web, request, packed, email=email[:254], fault=fault, status=403)

        if not _is_ours(web, request, form, "login", BROWSER_COOKIE):
            return await again(_OPEN_TOO_LONG)
        known = await web.database.read(lambda tx: web.accounts.credentials(tx, email))
        right = await web.passwords.verify(None if known is None else known.password_hash, password)
        if known is None or not right or known.disabled:
            # One text, one status, one hash's time for all three. The log says which, without the address.
            _log.warning("sign_in_refused", user_id=known and known.user_id, right_password=right)
            return await again(_NOT_RIGHT)
        to = "/account" if packed is None else await web.database.read(lambda tx: _unpacked(web, tx, packed).to)
        proven, previous, visitor = known, request.cookies.get(SESSION_COOKIE), web.visitor(request)

        def work(tx: Connection) -> NewSession:
            client_id = "" if packed is None else _client_of(web, tx, packed)
            return signin.open_session(tx, issuer, proven, previous, visitor=visitor, client_id=client_id)

        try:
            opened = await web.database.run(work)
        except SignInOvertaken:
            _log.warning("sign_in_overtaken", user_id=proven.user_id)
            return await again(_NOT_RIGHT)
        if previous is not None:
            await web.publish()  # it may have been somebody else's session, which has ended now
        web.told()
        _log.info("signed_in", user_id=proven.user_id, sid=opened.sid)
        response = _see_other(to if packed is None else f"{to}?" + urlencode({"flow": packed}))
        start_session(response, opened)
        return response

    @pages.get("/consent")
    async def show_consent(request: Request) -> Response:
        return await decide(request, request.query_params.get("flow") or "", None)

    @pages.post("/consent")
    async def consent(request: Request) -> Response:
        form = await read_form(request)
        packed = form.get("flow") or ""
        if not _is_ours(web, request, form, f"consent:{packed}", SESSION_COOKIE):
            raise NotFromHere
        decision: Decision = "allow" if form.get("decision") == "allow" else "deny"
        return await decide(request, packed, decision)

    async def decide(request: Request, packed: str, decision: Decision | None) -> Response:
        def work(tx: Connection) -> tuple[Outcome, Flow]:
            flow = _unpacked(web, tx, packed)
            arrival = Arrival(
                Parameters.parse(flow.query.encode()), _session(web, tx, request), flow.begun_at, decision
            )
            return authorize(web.server(tx), arrival), flow

        outcome, flow = await web.database.run(work)
        if isinstance(outcome, Consent):
            return await _consent_page(web, request, outcome, packed)
        return _lead(web, outcome, flow)

    @pages.get("/account")
    async def show_account(request: Request) -> Response:
        notice = _NOTICES.get(request.query_params.get("notice") or "", "")
        return await _account_page(web, request, notice=notice)

    @pages.post("/password")
    async def change_password(request: Request) -> Response:
        form = await read_form(request)
        session = await web.database.run(lambda tx: _session(web, tx, request))
        if session is None:
            return _see_other("/login")
        if not _is_ours(web, request, form, "password", SESSION_COOKIE):
            raise NotFromHere
        whose = await web.database.read(lambda tx: signin.person(tx, session.user_id))
        current, new = form.get("current_password") or "", form.get("new_password") or ""
        try:
            check_new(new, email=whose.email)
            hard_gen = await web.accounts.change_password(session.user_id, current, new, session_id=session.sid)
        except PasswordRefused as refused:
            return await _account_page(web, request, fault=str(refused), status=422)
        except ServiceError as error:
            if error.reason != "WRONG_PASSWORD":
                raise
            _log.warning("password_change_refused", user_id=session.user_id)
            return await _account_page(web, request, fault="The current password is not right.", status=403)
        try:
            visitor = web.visitor(request)
            opened = await web.database.run(
                lambda tx: issuer.open_session(tx, session.user_id, hard_gen_seen=hard_gen, visitor=visitor)
            )
        except SignInOvertaken:
            return _see_other("/login")
        response = _see_other(f"/account?notice={_PASSWORD_CHANGED}")
        start_session(response, opened)
        return response

    @pages.post("/logout")
    async def log_out(request: Request) -> Response:
        form = await read_form(request)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:
            if not _is_ours(web, request, form, "logout", SESSION_COOKIE):
                raise NotFromHere
            position = await web.database.run(lambda tx: signin.sign_out(tx, issuer, cookie))
            await web.publish()
            _log.info("signed_out", pos=position and position.pos)
        response = _see_other("/signed-out")
        end_session(response)
        return response

    @pages.get("/signed-out")
    async def signed_out() -> Response:
        text = (
            "Your session here has ended, and so has every application's access that hung on it: it is refused from"
            " now on. Access that you gave for while you are signed out goes on."
        )
        return views.message("You are signed out", text, link="/login", link_text="Sign in again")

    device_pages.add_to(pages, web)
    return pages


def _see_other(location: str) -> RedirectResponse:
    return RedirectResponse(location, status_code=303)


def _session(web: Web, tx: Connection, request: Request) -> LoginSession | None:
    cookie = request.cookies.get(SESSION_COOKIE)
    return None if cookie is None else web.issuer.session_of(tx, cookie)


def _is_ours(web: Web, request: Request, form: Parameters, does: str, cookie: str) -> bool:
    token = form.get("csrf_token") or ""
    return is_from_our_page(request) and web.forms.is_csrf(token, does, request.cookies.get(cookie))


def _unpacked(web: Web, tx: Connection, packed: str) -> Flow:
    flow = web.forms.unpack(packed, web.issuer.now(tx))
    if flow is None:
        detail = "This took too long. Please go back to the application and begin again."
        raise ServiceError(Kind.INVALID, "FLOW_EXPIRED", detail)
    return flow


def _client_of(web: Web, tx: Connection, packed: str) -> str:
    """The client whose request waits for the sign-in; empty if it is none of ours."""
    flow = web.forms.unpack(packed, web.issuer.now(tx))
    asked = Parameters(()) if flow is None else Parameters.parse(flow.query.encode())
    client = Client.find(tx, asked.get("client_id") or "")
    return "" if client is None else client.id


def _lead(web: Web, outcome: Outcome, flow: Flow) -> Response:
    if isinstance(outcome, ToClient):
        return _see_other(outcome.location)
    if isinstance(outcome, SignIn):
        return _see_other("/login?" + urlencode({"flow": web.forms.pack(flow)}))
    if isinstance(outcome, Consent):
        raise TypeError("a question for the person leads nowhere")
    return _unanswerable(web, outcome.error, outcome.description)


def _unanswerable(web: Web, error: str, description: str) -> Response:
    text = description or "The application asked for something that cannot be answered."
    return web.views.message("This request cannot be answered", text, status=400, code=error)


async def _login_page(
    web: Web, request: Request, packed: str | None, *, email: str = "", fault: str = "", status: int = 200
) -> Response:
    def work(tx: Connection) -> tuple[Client | None, Parameters]:
        if packed is None:
            return None, Parameters(())
        asked = Parameters.parse(_unpacked(web, tx, packed).query.encode())
        return Client.find(tx, asked.get("client_id") or ""), asked

    client, asked = await web.database.run(work)
    redirect_uri = asked.get("redirect_uri") or ""
    goes_on_to = redirect_uri if client is not None and client.check_redirect_uri(redirect_uri) else None
    browser = request.cookies.get(BROWSER_COOKIE) or ""
    if _OUR_SECRET.fullmatch(browser) is None:
        browser = new_secret(web.issuer.entropy)
    page = web.views.page(
        "login.html",
        status=status,
        goes_on_to=goes_on_to,
        client_name=client.name if client is not None else "",
        csrf_token=web.forms.csrf("login", browser),
        flow=packed or "",
        email=email or (asked.get("login_hint") or "")[:254],
        fault=fault,
    )
    set_cookie(page, BROWSER_COOKIE, browser)
    return page


async def _consent_page(web: Web, request: Request, consent: Consent, packed: str) -> Response:
    whose = await web.database.read(lambda tx: signin.person(tx, consent.session.user_id))
    lives = web.issuer.lives
    return web.views.page(
        "consent.html",
        goes_on_to=consent.redirect_uri,
        client_name=consent.client.name,
        email=whose.email,
        asks=in_plain_words(consent.scopes),
        offline=OFFLINE in consent.scopes,
        offline_days=lives.offline // 86400,
        session_hours=lives.session // 3600,
        destination=urlsplit(consent.redirect_uri).netloc or consent.redirect_uri,
        csrf_token=web.forms.csrf(f"consent:{packed}", request.cookies[SESSION_COOKIE]),
        flow=packed,
    )


async def _account_page(
    web: Web, request: Request, *, notice: str = "", fault: str = "", status: int = 200
) -> Response:
    def work(tx: Connection) -> signin.Person | None:
        session = _session(web, tx, request)
        return None if session is None else signin.person(tx, session.user_id)

    whose = await web.database.run(work)
    if whose is None:
        return _see_other("/login")
    cookie = request.cookies[SESSION_COOKIE]
    shown: dict[str, Any] = {"shortest": SHORTEST, "recommended": RECOMMENDED, "notice": notice, "fault": fault}
    return web.views.page(
        "account.html",
        status=status,
        name=whose.name,
        email=whose.email,
        csrf_logout=web.forms.csrf("logout", cookie),
        csrf_password=web.forms.csrf("password", cookie),
        **shown,
    )
