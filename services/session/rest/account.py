"""/api/me, /api/sessions, /api/apps: the person, where they are signed in, and which apps have access."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from contracts.identity.v1 import my_account_pb2 as my
from servicekit.http import StrictRoute, only_query
from session.domain import ADMIN, Held, Session, device_of
from session.rest.access import Access
from session.rest.protection import drop_session_cookie
from session.service import Overview, Sessions


class MeBody(BaseModel):
    """Who is signed in in this browser. Times are RFC 3339, UTC."""

    subject: str
    name: str
    email: str
    session_id: str = Field(description="ses_...: its name, not its secret")
    sid: str
    admin: bool
    scopes: list[str]
    authenticated_at: str
    created_at: str
    expires_at: str
    idle_expires_at: str


class AppBody(BaseModel):
    """The access of one app."""

    gid: str
    client_id: str
    client_name: str
    scopes: list[str]
    created_at: str
    expires_at: str
    first_party: bool


class SessionBody(BaseModel):
    """One browser session of the person's."""

    id: str
    device: str
    address: str
    created_at: str
    last_used_at: str
    expires_at: str
    current: bool
    sid: str
    apps: list[AppBody]


class LoginBody(BaseModel):
    """A login session at identity that no browser session hangs on here."""

    sid: str
    device: str
    address: str
    created_at: str
    authenticated_at: str
    expires_at: str
    current: bool
    apps: list[AppBody]


class SessionsBody(BaseModel):
    """Everything of the person's, last used first."""

    sessions: list[SessionBody]
    other_logins: list[LoginBody]
    offline_apps: list[AppBody] = Field(description="They outlive a sign-out")


class EndedBody(BaseModel):
    """How many browser sessions were ended."""

    ended: int


def router(sessions: Sessions, access: Access) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", tags=["account"], route_class=StrictRoute, dependencies=[Depends(only_query())])

    @routes.get("/me")
    async def me(held: Annotated[Held, Depends(access.read)]) -> MeBody:
        return shown_person(held, sessions.idle)

    @routes.get("/sessions")
    async def overview(held: Annotated[Held, Depends(access.presented)]) -> SessionsBody:
        return _shown_overview(held, await sessions.overview(held))

    @routes.delete("/sessions/{session_id}", status_code=204)
    async def end(session_id: str, held: Annotated[Held, Depends(access.presented)]) -> Response:
        response = Response(status_code=204)
        if await sessions.end(held, session_id):
            drop_session_cookie(response)
        return response

    @routes.post("/sessions/end-others")
    async def end_others(held: Annotated[Held, Depends(access.presented)]) -> EndedBody:
        return EndedBody(ended=await sessions.end_others(held))

    @routes.post("/sessions/end-all")
    async def end_all(response: Response, held: Annotated[Held, Depends(access.recently)]) -> EndedBody:
        ended = await sessions.end_all(held)
        drop_session_cookie(response)
        return EndedBody(ended=ended)

    @routes.delete("/apps/{gid}", status_code=204)
    async def withdraw(gid: str, held: Annotated[Held, Depends(access.presented)]) -> Response:
        await sessions.withdraw(held, gid)
        return Response(status_code=204)

    return routes


def shown_person(held: Held, idle: int) -> MeBody:
    """The person and their session, for themselves to see; `idle` is ms."""
    session = held.session
    return MeBody(
        subject=session.subject,
        name=session.display_name,
        email=session.email,
        session_id=session.name,
        sid=session.sid,
        admin=ADMIN in held.scopes,
        scopes=sorted(held.scopes),
        authenticated_at=rfc3339(session.authenticated_at),
        created_at=rfc3339(session.created_at),
        expires_at=rfc3339(session.expires_at),
        idle_expires_at=rfc3339(min(session.last_used_at + idle, session.expires_at)),
    )


def rfc3339(milliseconds: int) -> str:
    """2026-11-24T05:30:00.000Z"""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def _shown_overview(held: Held, overview: Overview) -> SessionsBody:
    logins = {login.sid: login for login in overview.account.sessions}
    here = {session.sid for session in overview.sessions}
    return SessionsBody(
        sessions=[_shown_session(session, held, logins.get(session.sid)) for session in overview.sessions],
        other_logins=[_shown_login(login) for login in overview.account.sessions if login.sid not in here],
        offline_apps=_shown_apps(overview.account.offline_grants),
    )


def _shown_session(session: Session, held: Held, login: my.LoginSession | None) -> SessionBody:
    return SessionBody(
        id=session.name,
        device=session.device,
        address=session.address,
        created_at=rfc3339(session.created_at),
        last_used_at=rfc3339(session.last_used_at),
        expires_at=rfc3339(session.expires_at),
        current=session.key == held.session.key,
        sid=session.sid,
        apps=[] if login is None else _shown_apps(login.grants),
    )


def _shown_login(login: my.LoginSession) -> LoginBody:
    return LoginBody(
        sid=login.sid,
        device=device_of(login.user_agent),
        address=login.address,
        created_at=rfc3339(login.created_at),
        authenticated_at=rfc3339(login.auth_time),
        expires_at=rfc3339(login.expires_at),
        current=login.current,
        apps=_shown_apps(login.grants),
    )


def _shown_apps(grants: Sequence[my.AppGrant]) -> list[AppBody]:
    return [
        AppBody(
            gid=grant.gid,
            client_id=grant.client_id,
            client_name=grant.client_name,
            scopes=list(grant.scopes),
            created_at=rfc3339(grant.created_at),
            expires_at=rfc3339(grant.expires_at),
            first_party=grant.first_party,
        )
        for grant in grants
    ]
