"""/api/lab: what is where. Decoded headers and claims, never a token and never a signature."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from servicekit.http import StrictRoute, only_query
from session.domain import Held
from session.inside import Inside, Shown
from session.rest.access import Access
from session.rest.account import MeBody, rfc3339, shown_person
from session.rest.protection import SESSION_COOKIE
from session.sealing import ALGORITHM, Vault

ATTRIBUTES = ["__Host- prefix", "Secure", "HttpOnly", "SameSite=Strict", "Path=/", "no Domain"]


class CookieBody(BaseModel):
    """What the browser holds."""

    name: str
    attributes: list[str]
    readable_by_scripts: bool


class SessionBody(MeBody):
    """What the server keeps, and under which name."""

    where: str
    key: str


class RefreshBody(BaseModel):
    """Where the refresh token lives."""

    where: str
    sealed: str
    key_id: str
    rotated_at: str


class AccessTokenBody(BaseModel):
    """What one service sees: the decoded header and claims."""

    audience: str
    header: dict[str, Any]
    claims: dict[str, Any]
    expires_at: str
    cached: bool


class LabBody(BaseModel):
    """All of it."""

    cookie: CookieBody
    session: SessionBody
    refresh_token: RefreshBody
    access_tokens: list[AccessTokenBody]


def router(inside: Inside, idle: int, access: Access) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/api", tags=["lab"], route_class=StrictRoute)

    @routes.get("/lab", dependencies=[Depends(only_query())])
    async def lab(held: Annotated[Held, Depends(access.read)]) -> LabBody:
        person = shown_person(held, idle)
        return LabBody(
            cookie=CookieBody(name=SESSION_COOKIE, attributes=ATTRIBUTES, readable_by_scripts=False),
            session=SessionBody(**person.model_dump(), where="Redis", key="SHA-256 of the id"),
            refresh_token=RefreshBody(
                where="Redis, in the session",
                sealed=ALGORITHM,
                key_id=Vault.key_id_of(held.refresh),
                rotated_at=rfc3339(held.rotated_at),
            ),
            access_tokens=[_shown(one) for one in inside.tokens_of(held)],
        )

    return routes


def _shown(one: Shown) -> AccessTokenBody:
    return AccessTokenBody(
        audience=one.audience,
        header=_plain(one.header),
        claims=_plain(one.claims),
        expires_at=rfc3339(one.expires_at),
        cached=True,
    )


def _plain(members: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(members)))
    return plain
