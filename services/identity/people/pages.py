"""Before somebody is signed in: creating an account, resetting a password, proving an address.

Asking for mail is answered alike whatever the address; following a link shows a form, and the form spends it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from identity.oauth.requests import Parameters
from identity.page_routes import NotFromHere, browser_secret, is_ours, page_router, see_other
from identity.passwords import RECOMMENDED, SHORTEST, PasswordRefused
from identity.people.links import Purpose
from identity.people.service import People
from identity.waiting import Waiting, noted, resumed, waiting
from identity.web import BROWSER_COOKIE, SESSION_COOKIE, Web, read_form, set_cookie, start_session
from servicekit.errors import ServiceError
from servicekit.throttle import TooMany
from servicekit.visitor import counted_as

_Ask = Callable[[str, Mapping[str, str]], Awaitable[None]]  # an address, and what waits (`noted`)
# What a form may get wrong, and the field that it is said beside.
_FIELDS = {"ADDRESS_NOT_VALID": "email_fault", "NAME_NOT_VALID": "name_fault"}


def router(web: Web, people: People) -> APIRouter:
    """The pages and the forms on them."""
    pages = page_router(web.views)

    @pages.get("/signup")
    async def show_signup(request: Request) -> Response:
        return await to_ask(request, "signup.html", "signup")

    @pages.post("/signup")
    async def sign_up(request: Request) -> Response:
        return await asked(request, "signup.html", "signup", people.ask_to_sign_up)

    @pages.get("/reset")
    async def show_reset(request: Request) -> Response:
        return await to_ask(request, "reset.html", "reset")

    @pages.post("/reset")
    async def reset(request: Request) -> Response:
        return await asked(request, "reset.html", "reset", people.ask_to_reset)

    @pages.get("/signup/finish")
    async def show_signup_finish(request: Request) -> Response:
        return await followed(request, "signup_finish.html", "signup", name="")

    @pages.post("/signup/finish")
    async def finish_signup(request: Request) -> Response:
        form = await from_here(request, "signup/finish")
        link, name, password = (form.get(field) or "" for field in ("link", "name", "password"))
        about = (await people.linked(link, "signup")).about
        waits = await resumed(web, request, about)
        client_id = "" if waits is None else waits.client_id
        try:
            made = await people.finish_sign_up(
                link,
                name,
                password,
                web.visitor(request),
                client_id=client_id,
                previous=request.cookies.get(SESSION_COOKIE),
            )
        except (PasswordRefused, ServiceError) as error:
            return await faulted(request, error, "signup_finish.html", "signup", link, name=name[:100])
        if SESSION_COOKIE in request.cookies:
            await web.publish()  # it may have been somebody else's session, which has ended now
        web.told()
        if waits is not None:
            response = see_other(waits.location)
        else:
            response = see_other(f"/account?notice={'welcome-go-back' if about.get('flow') else 'welcome'}")
        start_session(response, made.opened)
        web.door.remember(response, made.user_id, made.hard_gen)
        return response

    @pages.get("/reset/finish")
    async def show_reset_finish(request: Request) -> Response:
        return await followed(request, "reset_finish.html", "reset")

    @pages.post("/reset/finish")
    async def finish_reset(request: Request) -> Response:
        form = await from_here(request, "reset/finish")
        link, password = form.get("link") or "", form.get("password") or ""
        waits = await resumed(web, request, (await people.linked(link, "reset")).about)
        try:
            await people.finish_reset(link, password)
        except PasswordRefused as error:
            return await faulted(request, error, "reset_finish.html", "reset", link)
        return see_other(_to_login(waits, notice="password-reset"))

    @pages.get("/verify")
    async def show_verify(request: Request) -> Response:
        return await followed(request, "verify.html", "verify")

    @pages.post("/verify")
    async def verify(request: Request) -> Response:
        form = await from_here(request, "verify")
        await people.verify(form.get("link") or "")
        text = "We know now that this address is yours."
        return web.views.message("Your address is confirmed", text, link="/account", link_text="Your account")

    async def shown(request: Request, template: str, does: str, status: int = 200, **more: Any) -> Response:
        browser = browser_secret(web, request)
        filled = {"email": "", "fault": "", "email_fault": "", "name_fault": "", "password_fault": ""} | more
        page = web.views.page(
            template,
            status=status,
            csrf_token=web.forms.csrf(does, browser),
            shortest=SHORTEST,
            recommended=RECOMMENDED,
            **filled,
        )
        set_cookie(page, BROWSER_COOKIE, browser)
        return page

    async def to_ask(request: Request, template: str, does: str) -> Response:
        people.require_mail()
        return await shown(request, template, does, **_from(await waiting(web, request.query_params.get("flow"))))

    async def asked(request: Request, template: str, does: str, ask: _Ask) -> Response:
        form = await from_here(request, does)
        waits = await waiting(web, form.get("flow"))
        people.require_mail()
        email = (form.get("email") or "")[:254]
        try:
            await web.door.mail(email, counted_as(web.visitor(request)))
            await ask(email, noted(waits, request.cookies[BROWSER_COOKIE]))
        except TooMany as error:
            page = await shown(request, template, does, 429, email=email, fault=error.detail, **_from(waits))
            page.headers["retry-after"] = str(round(error.retry_after or 1))
            return page
        except ServiceError as error:
            if error.reason not in _FIELDS:
                raise
            fault = {_FIELDS[error.reason]: error.detail}
            return await shown(request, template, does, 422, email=email, **fault, **_from(waits))
        text = "If it is one that mail reaches, a mail with a link is on its way. Look into your mail, and at spam too."
        if waits is not None and waits.client is not None:
            text += f" Open the link in this browser, and you go on to {waits.client.name}."
        return web.views.message("Look into your mail", text, link=_to_login(waits), link_text="Back to signing in")

    async def followed(request: Request, template: str, purpose: Purpose, **more: Any) -> Response:
        link = request.query_params.get("link") or ""
        return await shown(request, template, request.url.path[1:], **await proves(request, link, purpose), **more)

    async def proves(request: Request, link: str, purpose: Purpose) -> dict[str, Any]:
        """What the form of a living link says; where answering it may lead."""
        found = await people.linked(link, purpose)
        waits = await resumed(web, request, found.about) if purpose == "signup" else None
        return {"link": link, "email": found.email, "goes_on_to": None if waits is None else waits.goes_on_to}

    async def faulted(
        request: Request, error: Exception, template: str, purpose: Purpose, link: str, **more: Any
    ) -> Response:
        """The form again, with what was wrong beside the field. The link is still good."""
        if isinstance(error, PasswordRefused):
            fault = {"password_fault": str(error)}
        elif isinstance(error, ServiceError) and error.reason in _FIELDS:
            fault = {_FIELDS[error.reason]: error.detail}
        else:
            raise error
        filled = await proves(request, link, purpose)
        return await shown(request, template, request.url.path[1:], 422, **filled, **more, **fault)

    async def from_here(request: Request, does: str) -> Parameters:
        form = await read_form(request)
        if not is_ours(web, request, form, does, BROWSER_COOKIE):
            raise NotFromHere
        return form

    return pages


def _to_login(waits: Waiting | None, **query: str) -> str:
    """Where somebody signs in, and goes on with what waits."""
    flow = {} if waits is None else {"flow": waits.packed}
    return "/login?" + urlencode(flow | query) if flow | query else "/login"


def _from(waits: Waiting | None) -> dict[str, Any]:
    """What a form that asks for mail carries on, and whom it is for."""
    client = None if waits is None else waits.client
    return {"flow": "" if waits is None else waits.packed, "client_name": "" if client is None else client.name}
