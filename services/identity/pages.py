"""Identity over HTTP, for people: sign-in, consent, sign-out. No script, every form with a CSRF token.

After a form that carried credentials the answer is 303, so that no browser sends them on (RFC 9700 section 4.12). Where
a person goes after signing in is never in a URL of its own: it is the signed flow, or the account page.
"""

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.responses import Response

from identity import device_pages, signin
from identity.domain import OFFLINE, NewSession, SignInOvertaken
from identity.door import DEVICE_COOKIE
from identity.forms import Flow
from identity.oauth.authorization import Arrival, Consent, Decision, Outcome, SignIn, ToClient, authorize
from identity.oauth.consent import in_plain_words
from identity.oauth.pushed import pulled
from identity.oauth.requests import LONGEST_QUERY, Parameters
from identity.page_routes import (
    OPEN_TOO_LONG,
    NotFromHere,
    browser_secret,
    is_ours,
    page_router,
    see_other,
    session_in,
    unanswerable,
)
from identity.people.browsers import named
from identity.people.service import People
from identity.waiting import unpacked, waiting
from identity.web import (
    BROWSER_COOKIE,
    SESSION_COOKIE,
    Web,
    end_session,
    read_form,
    set_cookie,
    start_session,
)
from servicekit.errors import Kind, ServiceError
from servicekit.throttle import TooMany
from servicekit.visitor import counted_as

_NOT_RIGHT = "E-mail or password is not right."
# What the sign-in page says first, by a word in its URL.
_NOTICES = {"password-reset": "Your password has been changed, and everything has been signed out. Sign in with it."}

_log = structlog.get_logger("identity.signin")


def router(web: Web, people: People, providers: Mapping[str, str]) -> APIRouter:
    """The pages and the forms on them. `providers`: who else one may sign in with, names by id."""
    views, issuer = web.views, web.issuer

    pages = page_router(views)

    @pages.get("/")
    async def front() -> Response:
        return see_other("/account")

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
            arrival = Arrival(Parameters.parse(asked.encode()), session_in(web, tx, request), now)
            return authorize(web.server(tx), arrival), Flow(asked, now)

        outcome, flow = await web.database.run(work)
        if isinstance(outcome, Consent):
            return see_other("/consent?" + urlencode({"flow": web.forms.pack(flow)}))
        return _lead(web, outcome, flow)

    @pages.post("/authorize")
    async def arrive_by_post(request: Request) -> Response:
        """OpenID Connect Core section 3.1.2.1 wants POST too. As a GET it brings the session cookie along."""
        parameters = await read_form(request)
        pairs = [(name, value) for name, values in parameters.datalist.items() for value in values]
        return see_other("/authorize?" + urlencode(pairs))

    @pages.get("/login")
    async def show_login(request: Request) -> Response:
        packed = request.query_params.get("flow")
        if packed is None and await web.database.run(lambda tx: session_in(web, tx, request)) is not None:
            return see_other("/account")
        return await _login_page(web, providers, request, packed)

    @pages.post("/login")
    async def log_in(request: Request) -> Response:
        form = await read_form(request)
        packed, email, password = form.get("flow"), form.get("email") or "", form.get("password") or ""

        async def again(fault: str) -> Response:
            return await _login_page(web, providers, request, packed, email=email[:254], fault=fault, status=403)

        if not is_ours(web, request, form, "login", BROWSER_COOKIE):
            return await again(OPEN_TOO_LONG)
        known = await web.database.read(lambda tx: web.accounts.credentials(tx, email))
        device_cookie, visitor = request.cookies.get(DEVICE_COOKIE), web.visitor(request)
        try:
            guess = await web.door.admit(email, counted_as(visitor), known, device_cookie)
        except TooMany as error:
            _log.warning("sign_in_slowed", user_id=known and known.user_id)
            page = await _login_page(web, providers, request, packed, email=email[:254], fault=error.detail, status=429)
            page.headers["retry-after"] = str(round(error.retry_after or 1))
            return page
        right = await web.passwords.verify(None if known is None else known.password_hash, password)
        if known is None or not right or known.disabled:
            # One text, one status, one hash's time for all three. The log says which, without the address.
            _log.warning("sign_in_refused", user_id=known and known.user_id, right_password=right)
            await web.door.failed(guess)
            return await again(_NOT_RIGHT)
        waits = await waiting(web, packed)
        proven, previous = known, request.cookies.get(SESSION_COOKIE)

        def work(tx: Connection) -> NewSession:
            client_id = "" if waits is None else waits.client_id
            if guess.device is None:
                people.notice_new_device(tx, proven.user_id, named(visitor.user_agent))
            return signin.open_session(tx, issuer, proven, previous, visitor=visitor, client_id=client_id)

        try:
            opened = await web.database.run(work)
        except SignInOvertaken:
            _log.warning("sign_in_overtaken", user_id=proven.user_id)
            return await again(_NOT_RIGHT)
        await web.door.right(guess)
        people.post.handed_in.set()
        if previous is not None:
            await web.publish()  # it may have been somebody else's session, which has ended now
        web.told()
        _log.info("signed_in", user_id=proven.user_id, sid=opened.sid)
        response = see_other("/account" if waits is None else waits.location)
        start_session(response, opened)
        if guess.device is None:
            web.door.remember(response, proven.user_id, proven.hard_gen)
        return response

    @pages.get("/consent")
    async def show_consent(request: Request) -> Response:
        return await decide(request, request.query_params.get("flow") or "", None)

    @pages.post("/consent")
    async def consent(request: Request) -> Response:
        form = await read_form(request)
        packed = form.get("flow") or ""
        if not is_ours(web, request, form, f"consent:{packed}", SESSION_COOKIE):
            raise NotFromHere
        decision: Decision = "allow" if form.get("decision") == "allow" else "deny"
        return await decide(request, packed, decision)

    async def decide(request: Request, packed: str, decision: Decision | None) -> Response:
        def work(tx: Connection) -> tuple[Outcome, Flow]:
            flow = unpacked(web, tx, packed)
            arrival = Arrival(
                Parameters.parse(flow.query.encode()), session_in(web, tx, request), flow.begun_at, decision
            )
            return authorize(web.server(tx), arrival), flow

        outcome, flow = await web.database.run(work)
        if isinstance(outcome, Consent):
            return await _consent_page(web, request, outcome, packed)
        return _lead(web, outcome, flow)

    @pages.post("/logout")
    async def log_out(request: Request) -> Response:
        form = await read_form(request)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:
            if not is_ours(web, request, form, "logout", SESSION_COOKIE):
                raise NotFromHere
            position = await web.database.run(lambda tx: signin.sign_out(tx, issuer, cookie))
            await web.publish()
            _log.info("signed_out", pos=position and position.pos)
        response = see_other("/signed-out")
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


def _lead(web: Web, outcome: Outcome, flow: Flow) -> Response:
    if isinstance(outcome, ToClient):
        return see_other(outcome.location)
    if isinstance(outcome, SignIn):
        return see_other("/login?" + urlencode({"flow": web.forms.pack(flow)}))
    if isinstance(outcome, Consent):
        raise TypeError("a question for the person leads nowhere")
    return unanswerable(web.views, outcome.error, outcome.description)


async def _login_page(
    web: Web,
    providers: Mapping[str, str],
    request: Request,
    packed: str | None,
    *,
    email: str = "",
    fault: str = "",
    status: int = 200,
) -> Response:
    waits = await waiting(web, packed)
    client = None if waits is None else waits.client
    browser = browser_secret(web, request)
    page = web.views.page(
        "login.html",
        status=status,
        goes_on_to=None if waits is None else waits.goes_on_to,
        client_name=client.name if client is not None else "",
        csrf_token=web.forms.csrf("login", browser),
        flow=packed or "",
        email=email or ("" if waits is None else waits.login_hint),
        fault=fault,
        notice="" if fault else _NOTICES.get(request.query_params.get("notice") or "", ""),
        providers=sorted(providers.items()),
        csrf_provider=web.forms.csrf("sign-in-with", browser),
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
