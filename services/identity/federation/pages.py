"""Signing in with another provider: out, back, and the proof by mail of whoever is new.

What an answer is checked against waits in a sealed cookie of the browser that began, so an answer that was begun
elsewhere is refused (login CSRF), and it is good once: the cookie is taken back whatever comes of it. A request of a
client's that is too long for the cookie is kept meanwhile, and named there.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.responses import Response

from identity import signin
from identity.domain import VOUCHED_FOR, NewSession, SignInOvertaken, new_secret
from identity.federation.service import Federation
from identity.federation.upstream import Begun, NotBelieved, Upstream, Vouched
from identity.oauth.requests import Parameters
from identity.page_routes import (
    NotFromHere,
    NotSignedInHere,
    browser_secret,
    is_ours,
    page_router,
    see_other,
    session_in,
)
from identity.sealing import SealBroken, SecretKeys
from identity.waiting import resumed, set_aside, taken_up, waiting
from identity.web import BROWSER_COOKIE, SESSION_COOKIE, Web, read_form, set_cookie, start_session
from servicekit.errors import Kind, ServiceError
from servicekit.visitor import counted_as

BEGUN_COOKIE = "__Host-rescind_elsewhere"
_LIFE = 600  # seconds that somebody has at the other provider
_log = structlog.get_logger("identity.federation")


def router(web: Web, federation: Federation, upstreams: Mapping[str, Upstream], secret_keys: SecretKeys) -> APIRouter:
    """The routes."""
    pages = page_router(web.views)

    @pages.post("/sign-in-with/{provider}")
    async def begin(request: Request, provider: str) -> Response:
        form = await read_form(request)
        if not is_ours(web, request, form, "sign-in-with", BROWSER_COOKIE):
            raise NotFromHere
        waits = await waiting(web, form.get("flow"))
        # Who is signed in here and comes this way is to prove again who they are.
        signed_in = await web.database.run(lambda tx: session_in(web, tx, request)) is not None
        flow = await set_aside(web, request, waits, life=_LIFE)
        return await out(provider, flow=flow, anew=signed_in or (waits is not None and waits.anew))

    @pages.post("/account/connect/{provider}")
    async def connect(request: Request, provider: str) -> Response:
        form = await read_form(request)
        user_id, hard_gen = await proven_again(request, form, "connect")
        return await out(provider, link_to=user_id, hard_gen=hard_gen)

    @pages.post("/account/disconnect")
    async def disconnect(request: Request) -> Response:
        form = await read_form(request)
        user_id, _ = await proven_again(request, form, "disconnect")
        await federation.unlink(user_id, form.get("provider") or "", form.get("subject") or "")
        return see_other("/account?notice=disconnected")

    @pages.get("/sign-in-with/{provider}/callback")
    async def back(request: Request, provider: str) -> Response:
        begun = opened(request.cookies.get(BEGUN_COOKIE))
        try:
            response = await answered(request, provider, begun)
        except ServiceError as error:
            why = error.why if isinstance(error, NotBelieved) else error.reason
            _log.warning("vouching_refused", provider=provider, why=why)
            response = web.views.message(error.kind.title, error.detail, status=error.kind.http, code=error.reason)
        response.delete_cookie(BEGUN_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response

    @pages.get("/vouch")
    async def show_proof(request: Request) -> Response:
        link = request.query_params.get("link") or ""
        found = await federation.people.linked(link, "vouch")
        waits = await resumed(web, request, found.about)
        browser = browser_secret(web, request)
        page = web.views.page(
            "vouch.html",
            goes_on_to=None if waits is None else waits.goes_on_to,
            csrf_token=web.forms.csrf("vouch", browser),
            link=link,
            email=found.email,
        )
        set_cookie(page, BROWSER_COOKIE, browser)
        return page

    @pages.post("/vouch")
    async def prove(request: Request) -> Response:
        form = await read_form(request)
        if not is_ours(web, request, form, "vouch", BROWSER_COOKIE):
            raise NotFromHere
        link = form.get("link") or ""
        waits = await resumed(web, request, (await federation.people.linked(link, "vouch")).about)
        made = await federation.prove(
            link,
            request.cookies[BROWSER_COOKIE],
            web.visitor(request),
            client_id="" if waits is None else waits.client_id,
            previous=request.cookies.get(SESSION_COOKIE),
        )
        if SESSION_COOKIE in request.cookies:
            await web.publish()  # as in /login
        web.told()
        response = see_other("/account?notice=connected" if waits is None else waits.location)
        start_session(response, made.opened)
        web.door.remember(response, made.user_id, made.hard_gen)
        return response

    async def proven_again(request: Request, form: Parameters, does: str) -> tuple[str, int]:
        """Who sent this form of the account page, with their password in it; the hard generation that it was of.

        Raises:
            NotSignedInHere, NotFromHere, TooMany.
            ServiceError: WRONG_PASSWORD, also for somebody who has none.
        """
        session = await web.database.run(lambda tx: session_in(web, tx, request))
        if session is None:
            raise NotSignedInHere
        if not is_ours(web, request, form, does, SESSION_COOKIE):
            raise NotFromHere
        await web.door.proof(session.user_id, counted_as(web.visitor(request)))
        whose = await web.database.read(lambda tx: signin.person(tx, session.user_id))
        known = await web.database.read(lambda tx: web.accounts.credentials(tx, whose.email))
        right = await web.passwords.verify(None if known is None else known.password_hash, form.get("password") or "")
        if known is None or not right:
            raise ServiceError(Kind.FORBIDDEN, "WRONG_PASSWORD", "The password is not right. Go back and try again.")
        return session.user_id, known.hard_gen

    async def out(
        provider: str, *, flow: str = "", anew: bool = False, link_to: str = "", hard_gen: int = 0
    ) -> Response:
        upstream = upstreams.get(provider)
        if upstream is None:
            raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_PROVIDER", "There is no such provider here.")
        state, nonce, verifier = (new_secret(web.issuer.entropy) for _ in range(3))
        begun = Begun(provider, state, nonce, verifier, upstream.now(), anew, flow, link_to, hard_gen)
        url = await upstream.start(begun)
        # Not a redirect: it would have to be allowed by the policy (form-action) of every page with such a form on it.
        text = f"You go on to {upstream.provider.name}, and come back."
        response = web.views.message("One moment", text, link=url, link_text="Go on")
        response.headers["refresh"] = f"0;url={url}"
        sealed = secret_keys.seal("federation", json.dumps(asdict(begun)).encode())
        value = base64.urlsafe_b64encode(sealed).decode()
        response.set_cookie(BEGUN_COOKIE, value, max_age=_LIFE, path="/", secure=True, httponly=True, samesite="lax")
        return response

    def opened(cookie: str | None) -> Begun | None:
        try:
            return Begun(**json.loads(secret_keys.open("federation", base64.urlsafe_b64decode(cookie or ""))))
        except (SealBroken, binascii.Error, ValueError):
            return None

    async def answered(request: Request, provider: str, begun: Begun | None) -> Response:
        given = request.query_params
        if begun is None or begun.provider != provider or given.get("state") != begun.state:
            raise NotBelieved("begun elsewhere")
        if len(given.multi_items()) != len(given) or not given.get("code"):
            raise NotBelieved("no code")
        vouched = await upstreams[provider].finish(begun, given["code"], given.get("iss"))
        if begun.link_to:
            return await connected(request, vouched, begun.link_to, begun.hard_gen)
        flow = await taken_up(web, begun.flow)
        known = await federation.known(vouched)
        if known is None:
            browser = browser_secret(web, request)
            await web.door.mail(vouched.email or vouched.subject, counted_as(web.visitor(request)))
            await federation.ask_for_proof(vouched, browser, flow)
            text = "A mail with a link is on its way. Open it in this browser, and you are signed in."
            page = web.views.message("One more step", text)
            set_cookie(page, BROWSER_COOKIE, browser)
            return page
        waits = await waiting(web, flow)
        client_id = "" if waits is None else waits.client_id
        previous, visitor = request.cookies.get(SESSION_COOKIE), web.visitor(request)
        # Who did not have to sign in there has not done so here: their sign-in is as old as that one, and where it is
        # not said how old that is, as old as one here may be.
        ago = 0 if begun.anew else web.issuer.lives.session if vouched.signed_in_for is None else vouched.signed_in_for

        def work(tx: Connection) -> NewSession:
            return signin.open_session(
                tx, web.issuer, known, previous, visitor=visitor, client_id=client_id, amr=VOUCHED_FOR, ago=ago
            )

        try:
            session = await web.database.run(work)
        except SignInOvertaken:
            raise NotBelieved("the account changed meanwhile") from None
        if previous is not None:
            await web.publish()  # it may have been somebody else's session, which has ended now
        web.told()
        _log.info("signed_in", user_id=known.user_id, sid=session.sid, provider=provider)
        response = see_other("/account" if waits is None else waits.location)
        start_session(response, session)
        web.door.remember(response, known.user_id, known.hard_gen)
        return response

    async def connected(request: Request, vouched: Vouched, link_to: str, hard_gen: int) -> Response:
        session = await web.database.run(lambda tx: session_in(web, tx, request))
        if session is None or session.user_id != link_to:
            raise NotBelieved("somebody else is signed in now")
        await federation.link(vouched, link_to, hard_gen)
        return see_other("/account?notice=connected")

    return pages
