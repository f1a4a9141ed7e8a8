"""Identity over HTTP, for programs: the OAuth endpoints, userinfo, discovery, keys. Translation only.

`install` puts these and the pages into an app, behind the headers that all of them carry.
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from authlib.oauth2 import OAuth2Error
from fastapi import APIRouter, FastAPI, Request
from sqlalchemy import Connection
from starlette.responses import JSONResponse, Response

from identity.authority import bearer
from identity.domain import IDENTITY_AUDIENCE
from identity.keyring import Purpose
from identity.oauth import openapi
from identity.oauth.assertions import claimed_subject, spend
from identity.oauth.metadata import metadata
from identity.oauth.pushed import push
from identity.oauth.requests import OAuthRequest, claimed_client
from identity.oauth.server import Answer, RolledBack, Server
from identity.signin import person
from identity.views import SafeHeaders
from identity.web import Web, read_form
from rescind.errors import InsufficientScope, UntrustedToken
from servicekit.visitor import counted_as

# Long enough to take the load off, short enough for a key that was revoked.
_KEYS_MAY_BE_KEPT = {"cache-control": "public, max-age=10"}
# RFC 8628 section 3.5: a device that waits for its person does what it should.
_NO_FAILURE = frozenset({"authorization_pending", "slow_down"})
_METADATA_MAY_BE_KEPT = {"cache-control": "public, max-age=300"}


def install(app: FastAPI, web: Web, routers: Iterable[APIRouter]) -> None:
    """Adds everything that identity serves over HTTP; `routers` have the pages."""
    # Authlib logs what it issues at DEBUG. No level of ours shall ever let that through.
    logging.getLogger("authlib").setLevel(logging.INFO)
    app.include_router(_oauth(web))
    app.include_router(_published(web))
    for router in routers:
        app.include_router(router)
    app.add_middleware(SafeHeaders)


def _oauth(web: Web) -> APIRouter:
    router = APIRouter()

    @router.post("/token", **openapi.TOKEN)
    async def token(request: Request) -> Response:
        response = await _converse(web, request, lambda server, asked: server.create_token_response(asked))
        web.told()  # it may have given an app access
        return response

    @router.post("/revoke", **openapi.REVOKE)
    async def revoke(request: Request) -> Response:
        response = await _converse(
            web, request, lambda server, asked: server.create_endpoint_response("revocation", asked)
        )
        await web.publish()
        return response

    @router.post("/device_authorization", **openapi.DEVICE_AUTHORIZATION)
    async def device_authorization(request: Request) -> Response:
        return await _converse(
            web, request, lambda server, asked: server.create_endpoint_response("device_authorization", asked)
        )

    @router.post("/introspect", **openapi.INTROSPECT)
    async def introspect(request: Request) -> Response:
        return await _converse(
            web,
            request,
            lambda server, asked: server.create_endpoint_response("introspection", asked),
            only_reads=True,
        )

    @router.post("/par", **openapi.PAR)
    async def par(request: Request) -> Response:
        return await _converse(web, request, push)

    @router.get("/userinfo", **openapi.USERINFO)
    @router.post("/userinfo", **openapi.USERINFO)
    async def userinfo(request: Request) -> JSONResponse:
        """OpenID Connect Core section 5.3. The token comes in the Authorization header and nowhere else."""
        unverified_token = bearer(request.headers.get("authorization"))
        return JSONResponse(await web.database.read(lambda tx: _about(web, tx, unverified_token)))

    return router


def _published(web: Web) -> APIRouter:
    router = APIRouter()
    issuer = web.issuer.issuer

    @router.get("/.well-known/openid-configuration")
    @router.get("/.well-known/oauth-authorization-server")
    async def discovery() -> JSONResponse:
        return JSONResponse(metadata(issuer), headers=_METADATA_MAY_BE_KEPT)

    async def keys(purpose: Purpose) -> JSONResponse:
        jwks = await web.database.read(lambda tx: web.issuer.keyring.jwks(tx, purpose))
        return JSONResponse(jwks, headers=_KEYS_MAY_BE_KEPT, media_type="application/jwk-set+json")

    @router.get("/jwks.json", **openapi.KEYS)
    async def access_keys() -> JSONResponse:
        return await keys("access")

    @router.get("/revocations/jwks.json", **openapi.KEYS)
    async def log_keys() -> JSONResponse:
        return await keys("log")

    return router


async def _converse(
    web: Web, request: Request, respond: Callable[[Server, OAuthRequest], Answer], *, only_reads: bool = False
) -> Response:
    """One OAuth request in one transaction, undone if it is refused."""
    try:
        uri = f"{web.issuer.issuer}{request.url.path}"
        authorization = request.headers.get("authorization")
        asked = OAuthRequest("POST", uri, await read_form(request), authorization=authorization)
    except OAuth2Error as error:
        status, body, headers = error()
        return _response(Answer(status, body, tuple(headers)))
    who, network = claimed_client(asked) or claimed_subject(asked.parameters), counted_as(web.visitor(request))
    await web.door.client(who, network)
    if asked.has_assertion:
        try:
            asked.proven_client = await web.database.run(
                lambda tx: spend(tx, asked.parameters, issuer=web.issuer.issuer, now=web.issuer.now)
            )
        except OAuth2Error as error:
            await web.door.client_failed(who, network)
            status, body, headers = error()
            return _response(Answer(status, body, tuple(headers)))
    run = web.database.read if only_reads else web.database.run
    try:
        answer = await run(lambda tx: web.server(tx).answer(lambda server: respond(server, asked)))
    except RolledBack as refused:
        answer = refused.answer
    else:
        if answer.has_ended:
            await web.publish()
    if answer.status >= 400 and answer.body.get("error") not in _NO_FAILURE:
        await web.door.client_failed(who, network)
    return _response(answer)


def _response(answer: Answer) -> JSONResponse:
    headers = {name: value for name, value in answer.headers if name.lower() != "content-type"}
    return JSONResponse(answer.body, answer.status, headers)


def _about(web: Web, tx: Connection, unverified_token: str) -> dict[str, Any]:
    claims = web.introspector.judge(tx, unverified_token)
    if claims["aud"] != IDENTITY_AUDIENCE:
        raise UntrustedToken("another audience")
    scopes = claims["scope"].split()
    if "openid" not in scopes or not claims["sub"].startswith("usr_"):
        raise InsufficientScope(frozenset({"openid"}))
    about: dict[str, Any] = {"sub": claims["sub"]}
    known = person(tx, claims["sub"])
    if "profile" in scopes:
        about["name"] = known.name
    if "email" in scopes:
        about["email"] = known.email
    return about
