"""/auth: to identity and back, out again, and what identity itself says about signing out."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qs

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import RedirectResponse, Response

from rescind import TokenRefused
from servicekit.errors import Kind, ServiceError
from servicekit.http import only_query
from session.domain import Held, is_secret, key_of, return_path
from session.rest.access import Access
from session.rest.door import Door
from session.rest.protection import (
    drop_login_cookie,
    drop_session_cookie,
    login_cookie,
    session_cookie,
    set_login_cookie,
    set_session_cookie,
)
from session.service import Sessions
from session.sign_in import Begun, Callback, SignInRefused, SignIns
from session.signed import LONGEST_LOGOUT_LIFE, SignedByIdentity
from session.storage import SessionStore

_FORM = "application/x-www-form-urlencoded"
# What identity may say instead of a code, as the page is told it (web/js/reasons.js); anything else is one word.
_ERRORS = frozenset({"access_denied", "login_required", "consent_required", "temporarily_unavailable", "invalid_scope"})
_log = structlog.get_logger("session.auth")


class _Navigated(APIRoute):
    """A route that people are sent to. Where a browser opens it as a page (Fetch Metadata says so), a refusal brings
    them back into the app, which has words for it; everybody else gets problem details.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, and what becomes of its refusals."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                if request.headers.get("sec-fetch-mode") != "navigate":
                    raise
                _log.info("a sign-in is refused", reason=error.reason)
                return _told(_WORDS.get(error.kind, "sign_in_failed"))

        return handled


_WORDS = {Kind.UNAVAILABLE: "temporarily_unavailable", Kind.RATE_LIMITED: "too_many_attempts"}


def _told(error: str) -> Response:
    return RedirectResponse(f"/?sign_in={error}", 303)


def _sent_on(description: str) -> dict[str, Any]:
    """What the OpenAPI document says of an answer that is a redirect."""
    return {"description": description, "headers": {"location": {"schema": {"type": "string"}}}}


_BACK = {303: _sent_on("Back into the app, signed in or told why not")}
_TO_IDENTITY: dict[str, Any] = {
    "status_code": 302,
    "responses": {302: _sent_on("To identity, to sign in there")} | _BACK,
}
_INTO_THE_APP: dict[str, Any] = {"status_code": 303, "responses": _BACK}
_LOGOUT_TOKEN = {
    "schema": {"type": "object", "required": ["logout_token"], "properties": {"logout_token": {"type": "string"}}}
}
_BACKCHANNEL: dict[str, Any] = {
    "responses": {200: {"description": "Ended (OpenID Connect Back-Channel Logout section 2.8)", "content": {}}},
    "openapi_extra": {"requestBody": {"required": True, "content": {_FORM: _LOGOUT_TOKEN}}},
}


def router(
    sign_ins: SignIns, sessions: Sessions, signed: SignedByIdentity, store: SessionStore, access: Access, door: Door
) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/auth", tags=["sign-in"])
    pages = APIRouter(route_class=_Navigated)
    begins = [Depends(door.begin), Depends(only_query("return_to"))]

    @pages.get("/login", response_class=Response, dependencies=begins, **_TO_IDENTITY)
    async def login(return_to: str = "/") -> Response:
        return _on_the_way(await sign_ins.begin(return_path(return_to)))

    @pages.get("/reauthenticate", response_class=Response, dependencies=begins, **_TO_IDENTITY)
    async def reauthenticate(request: Request, return_to: str = "/") -> Response:
        # Without a session, or coming by a link from elsewhere, it is an ordinary sign-in.
        try:
            held: Held | None = await sessions.current(session_cookie(request))
        except ServiceError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
            held = None
        return _on_the_way(await sign_ins.begin(return_path(return_to), again=held))

    @pages.get("/callback", response_class=Response, dependencies=[Depends(door.answer)], **_INTO_THE_APP)
    async def callback(request: Request) -> Response:
        asked = _each_once(request)
        answer = Callback(asked.get("state", ""), asked.get("iss", ""), asked.get("code", ""), asked.get("error", ""))
        pre_login = request.cookies.get(login_cookie(answer.state), "")
        old = session_cookie(request)
        try:
            completed = await sign_ins.complete(
                answer, pre_login, door.visitor(request), key_of(old) if old and is_secret(old) else None
            )
        except SignInRefused as refusal:
            error = refusal.error if refusal.error in _ERRORS else "sign_in_failed"
            response: Response = _told(error)
        else:
            response = RedirectResponse(completed.return_to, 303)
            set_session_cookie(response, completed.secret)
        drop_login_cookie(response, answer.state)
        return response

    routes.include_router(pages)

    @routes.post("/logout", status_code=204, dependencies=[Depends(only_query())])
    async def logout(held: Annotated[Held, Depends(access.presented)]) -> Response:
        await sessions.sign_out(held)
        response = Response(status_code=204)
        drop_session_cookie(response)
        return response

    @routes.post("/backchannel-logout", response_class=Response, dependencies=[Depends(only_query())], **_BACKCHANNEL)
    async def backchannel_logout(request: Request) -> Response:
        token = await _logout_token(request)
        try:
            told = await signed.logout_token(token)
        except TokenRefused as error:
            raise ServiceError(Kind.INVALID, "LOGOUT_TOKEN_REFUSED", "This is no logout token for us.") from error
        # As long as it could be played again, clocks' error included.
        if not await store.first_time(told.jti, (LONGEST_LOGOUT_LIFE + 60) * 1000):
            raise ServiceError(Kind.INVALID, "LOGOUT_TOKEN_REUSED", "This logout token was used before.")
        await sessions.logged_out_at_identity(told.subject, told.sid)
        return Response(status_code=200)

    return routes


def _on_the_way(begun: Begun) -> Response:
    response = RedirectResponse(begun.url, 302)
    set_login_cookie(response, begun.state, begun.secret)
    return response


def _each_once(request: Request) -> dict[str, str]:
    given = request.query_params.multi_items()
    if len({name for name, _ in given}) != len(given):
        raise ServiceError(Kind.INVALID, "REPEATED_PARAMETER", "The URL has the same parameter twice.")
    return dict(given)


async def _logout_token(request: Request) -> str:
    """The one parameter of a back-channel logout request (section 2.5); others are ignored, as the section says."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise ServiceError(Kind.UNSUPPORTED_MEDIA, "CONTENT_TYPE_NOT_SUPPORTED", f"The body must be {_FORM}.")
    values = parse_qs((await request.body()).decode("latin-1")).get("logout_token", [])
    if len(values) != 1:
        raise ServiceError(Kind.INVALID, "LOGOUT_TOKEN_MISSING", "Send one logout_token.")
    return values[0]
