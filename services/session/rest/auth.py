"""/auth: to identity and back, out again, and what identity itself says about signing out."""

from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from rescind import TokenRefused
from servicekit.errors import Kind, ServiceError
from servicekit.http import only_query
from session.domain import Held, is_secret, key_of, return_path
from session.rest.access import Access
from session.rest.door import Door
from session.rest.navigation import NavigatedRoute, told
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


_LOCATION = {"location": {"schema": {"type": "string"}}}
_TO_IDENTITY: dict[str, Any] = {
    "status_code": 302,
    "responses": {
        302: {"description": "To identity, to sign in there", "headers": _LOCATION},
        303: {"description": "Back into the app, told why not; to navigations alone", "headers": _LOCATION},
    },
}
_INTO_THE_APP: dict[str, Any] = {
    "status_code": 303,
    "responses": {303: {"description": "Back into the app, signed in or told why not", "headers": _LOCATION}},
}
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
    routes = APIRouter(prefix="/auth", tags=["sign-in"], route_class=NavigatedRoute)
    begins = [Depends(door.begin), Depends(only_query("return_to"))]

    @routes.get("/login", response_class=Response, dependencies=begins, **_TO_IDENTITY)
    async def login(return_to: str = "/") -> Response:
        return _on_the_way(await sign_ins.begin(return_path(return_to)))

    @routes.get("/reauthenticate", response_class=Response, dependencies=begins, **_TO_IDENTITY)
    async def reauthenticate(request: Request, return_to: str = "/") -> Response:
        # Without a session, or coming by a link from elsewhere, it is an ordinary sign-in.
        try:
            held: Held | None = await sessions.current(session_cookie(request))
        except ServiceError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
            held = None
        return _on_the_way(await sign_ins.begin(return_path(return_to), again=held))

    @routes.get("/callback", response_class=Response, dependencies=[Depends(door.answer)], **_INTO_THE_APP)
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
            response = told(refusal.error)
        else:
            response = RedirectResponse(completed.return_to, 303)
            set_session_cookie(response, completed.secret)
        drop_login_cookie(response, answer.state)
        return response

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
