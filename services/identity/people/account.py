"""The account page: the address and whether it is proven, where somebody is signed in, which apps have access, the
password; and the forms that end each of these.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import APIRouter, Request
from sqlalchemy import Connection, select
from starlette.responses import Response

from identity.domain import LoginSession, SignInOvertaken
from identity.my_account import MyAccount
from identity.oauth.consent import in_plain_words
from identity.oauth.requests import Parameters
from identity.page_routes import (
    NotFromHere,
    NotSignedInHere,
    is_ours,
    page_router,
    see_other,
    session_in,
)
from identity.passwords import RECOMMENDED, SHORTEST, PasswordRefused, check_new
from identity.people.browsers import named
from identity.people.service import People
from identity.people.vouchers import vouchers_of
from identity.signin import person
from identity.storage import users
from identity.web import SESSION_COOKIE, Web, end_session, read_form, start_session
from servicekit.errors import ServiceError
from servicekit.visitor import counted_as

_NOTICES = {
    "welcome": "Welcome. Your account is ready.",
    "welcome-go-back": "Welcome. Your account is ready. The application that you came from waits in another browser, or"
    " has waited too long: go back to it, and sign in there.",
    "password-changed": "The password has been changed, and everything else has been signed out.",
    "session-ended": "That session has ended, and what hung on it is refused from now on.",
    "others-ended": "Every other session has ended.",
    "withdrawn": "The app has no access any more.",
    "link-sent": "A mail with a link is on its way.",
    "connected": "You can sign in that way from now on.",
    "disconnected": "You cannot sign in that way any more. What was signed in so stays, until you end it.",
}
_log = structlog.get_logger("identity.account")


def router(web: Web, people: People, mine: MyAccount, providers: Mapping[str, str]) -> APIRouter:
    """The page and the forms on it."""
    pages = page_router(web.views)

    @pages.get("/account")
    async def show_account(request: Request) -> Response:
        return await shown(request, notice=_NOTICES.get(request.query_params.get("notice") or "", ""))

    @pages.post("/password")
    async def change_password(request: Request) -> Response:
        form, session = await from_here(request, "password")
        whose = await web.database.read(lambda tx: person(tx, session.user_id))
        current, new = form.get("current_password") or "", form.get("new_password") or ""
        try:
            check_new(new, email=whose.email)
            await web.door.proof(session.user_id, counted_as(web.visitor(request)))
            hard_gen = await web.accounts.change_password(session.user_id, current, new, session_id=session.sid)
        except PasswordRefused as refused:
            return await shown(request, new_fault=str(refused), status=422)
        except ServiceError as error:
            if error.reason == "TOO_MANY_ATTEMPTS":
                page = await shown(request, current_fault=error.detail, status=429)
                page.headers["retry-after"] = str(round(error.retry_after or 1))
                return page
            if error.reason != "WRONG_PASSWORD":
                raise
            _log.warning("password_change_refused", user_id=session.user_id)
            return await shown(request, current_fault="The current password is not right.", status=403)
        try:
            opened = await web.database.run(
                lambda tx: web.issuer.open_session(
                    tx, session.user_id, hard_gen_seen=hard_gen, visitor=web.visitor(request)
                )
            )
        except SignInOvertaken:
            return see_other("/login")
        response = see_other("/account?notice=password-changed")
        start_session(response, opened)
        web.door.remember(response, session.user_id, hard_gen)
        return response

    @pages.post("/account/verify")
    async def send_proof(request: Request) -> Response:
        _, session = await from_here(request, "verify-mail")
        people.require_mail()
        whose = await web.database.read(lambda tx: person(tx, session.user_id))
        await web.door.mail(whose.email, counted_as(web.visitor(request)))
        await people.ask_to_verify(session.user_id)
        return see_other("/account?notice=link-sent")

    @pages.post("/account/sessions/end")
    async def end_place(request: Request) -> Response:
        form, session = await from_here(request, "end-session")
        sid = form.get("sid") or ""
        await mine.end_session(session.user_id, sid)
        if sid == session.sid:
            response = see_other("/signed-out")
            end_session(response)
            return response
        return see_other("/account?notice=session-ended")

    @pages.post("/account/sessions/end-others")
    async def end_others(request: Request) -> Response:
        _, session = await from_here(request, "end-others")
        await mine.end_other_sessions(session.user_id, session.sid)
        return see_other("/account?notice=others-ended")

    @pages.post("/account/sessions/end-all")
    async def end_everything(request: Request) -> Response:
        """Hard: every session, every app, every token, the ones that outlive a sign-out too."""
        _, session = await from_here(request, "end-all")
        await mine.end_everything(session.user_id)
        response = see_other("/signed-out")
        end_session(response)
        return response

    @pages.post("/account/apps/withdraw")
    async def withdraw(request: Request) -> Response:
        form, session = await from_here(request, "withdraw")
        gid = form.get("gid") or ""
        await mine.withdraw(session.user_id, gid)
        return see_other("/account?notice=withdrawn")

    async def from_here(request: Request, does: str) -> tuple[Parameters, LoginSession]:
        """The form, and the session of who sent it.

        Raises:
            NotSignedInHere, NotFromHere.
        """
        form = await read_form(request)
        session = await web.database.run(lambda tx: session_in(web, tx, request))
        if session is None:
            raise NotSignedInHere
        if not is_ours(web, request, form, does, SESSION_COOKIE):
            raise NotFromHere
        return form, session

    async def shown(request: Request, *, status: int = 200, **said: str) -> Response:
        def work(tx: Connection) -> dict[str, Any]:
            session = session_in(web, tx, request)
            if session is None:
                raise NotSignedInHere
            row = tx.execute(select(users).where(users.c.id == session.user_id)).one()
            return {
                "name": row.name,
                "email": row.email,
                "proven": row.email_verified_at is not None,
                "admin": "admin" in row.roles,
                "has_password": bool(row.password_hash),
                "here": session.sid,
                "user_id": row.id,
                "vouchers": vouchers_of(tx, session.user_id),
            }

        about = await web.database.run(work)
        held = await mine.held(about["user_id"])
        offline = {grant.gid for grant in held.offline}
        tied = [grant for place in held.sessions for grant in place.grants]
        apps = sorted([*held.offline, *tied], key=lambda grant: -grant.created_at)
        cookie = request.cookies[SESSION_COOKIE]
        does = (
            "logout",
            "password",
            "verify-mail",
            "end-session",
            "end-others",
            "end-all",
            "withdraw",
            "connect",
            "disconnect",
        )
        csrf = {name.replace("-", "_"): web.forms.csrf(name, cookie) for name in does}
        filled: dict[str, Any] = {"notice": "", "current_fault": "", "new_fault": "", "mails": people.mails} | said
        return web.views.page(
            "account.html",
            places=[(place, named(place.user_agent)) for place in held.sessions],
            apps=[(grant, in_plain_words(grant.scopes), grant.gid in offline) for grant in apps],
            providers=sorted(providers.items()),
            status=status,
            csrf=csrf,
            shortest=SHORTEST,
            recommended=RECOMMENDED,
            **about,
            **filled,
        )

    return pages
