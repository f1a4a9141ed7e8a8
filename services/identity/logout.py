"""Signing out at a client's wish, over HTTP: /end_session, with a page that asks where asking is due."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import structlog
from authlib.oauth2 import OAuth2Error
from fastapi import APIRouter, Request
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from identity import signin
from identity.domain import LoginSession, Position
from identity.oauth.end_session import EndSessionRefused, Leaving, judge
from identity.oauth.requests import LONGEST_QUERY, Parameters
from identity.web import SESSION_COOKIE, Web, end_session, is_from_our_page, read_form
from servicekit.errors import ServiceError, problem_headers

_DOES = "end_session"
_log = structlog.get_logger("identity.signin")

Serve = Callable[[Request], Awaitable[Response]]


def router(web: Web) -> APIRouter:
    """The route and its form."""
    routes = APIRouter(include_in_schema=False)
    views, issuer = web.views, web.issuer

    def refused(text: str, *, status: int = 400, code: str = "invalid_request") -> Response:
        return views.message("This request cannot be answered", text, status=status, code=code)

    def explaining(serve: Serve) -> Serve:
        """`serve`, with failures that a person can read."""

        async def served(request: Request) -> Response:
            try:
                return await serve(request)
            except OAuth2Error as error:
                return refused(error.get_error_description() or "", code=error.error)
            except EndSessionRefused as error:
                return refused(str(error))
            except ServiceError as error:
                page = refused(error.detail, status=error.kind.http, code=error.reason)
                page.headers.update(problem_headers(error))
                return page

        return served

    def judged(tx: Connection, request: Request, asked: Parameters) -> tuple[Leaving, LoginSession | None]:
        cookie = request.cookies.get(SESSION_COOKIE)
        session = None if cookie is None else issuer.session_of(tx, cookie)
        return judge(tx, issuer.keyring, issuer.issuer, asked, session), session

    async def left(request: Request, leaving: Leaving) -> Response:
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is not None:

            def work(tx: Connection) -> Position | None:
                return signin.sign_out(tx, issuer, cookie)

            position = await web.database.run(work)
            await web.publish()
            client_id = None if leaving.client is None else leaving.client.id
            _log.info("signed_out", pos=position and position.pos, client_id=client_id)
        response = RedirectResponse(leaving.goes_to or "/signed-out", status_code=303)
        if cookie is not None:
            end_session(response)
        return response

    @explaining
    async def arrive(request: Request) -> Response:
        query: bytes = request.scope["query_string"]
        if len(query) > LONGEST_QUERY:
            return refused("The request is too long.")
        asked = Parameters.parse(query)
        leaving, session = await web.database.run(lambda tx: judged(tx, request, asked))
        if leaving.sure or session is None:
            return await left(request, leaving)
        whose = await web.database.read(lambda tx: signin.person(tx, session.user_id))
        packed = query.decode()
        shown: dict[str, Any] = {"csrf_token": web.forms.csrf(f"{_DOES}:{packed}", request.cookies[SESSION_COOKIE])}
        return views.page(
            "end_session.html",
            goes_on_to=leaving.goes_to,
            client_name="" if leaving.client is None else leaving.client.name,
            email=whose.email,
            asked=packed,
            **shown,
        )

    @explaining
    async def decide(request: Request) -> Response:
        form = await read_form(request)
        packed, token = form.get("asked") or "", form.get("csrf_token")
        if token is None:
            # A client's own POST (section 2). As a GET it brings the session cookie along, which no POST from another
            # site does.
            pairs = [(name, value) for name, values in form.datalist.items() for value in values]
            return RedirectResponse("/end_session?" + urlencode(pairs), status_code=303)
        cookie = request.cookies.get(SESSION_COOKIE)
        if not is_from_our_page(request) or not web.forms.is_csrf(token, f"{_DOES}:{packed}", cookie):
            return refused(
                "This page was open for too long, or was opened in another window. Please try again.",
                status=403,
                code="FORM_NOT_ACCEPTED",
            )
        asked = Parameters.parse(packed.encode())
        leaving, _ = await web.database.run(lambda tx: judged(tx, request, asked))
        return await left(request, leaving)

    routes.add_api_route("/end_session", arrive, methods=["GET"], response_class=Response)
    routes.add_api_route("/end_session", decide, methods=["POST"], response_class=Response)
    return routes
