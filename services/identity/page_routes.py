"""What every page of identity's stands on: failures that a person can read, the session behind a cookie, our own forms.

A route made by `page_router` answers a refusal with a page. `is_ours` is asked before any form does anything: it was
given to this browser, does this one thing, and was not sent by another site's page.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any

from authlib.oauth2 import OAuth2Error
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.responses import RedirectResponse, Response

from identity.domain import LoginSession, new_secret
from identity.oauth.requests import Parameters
from identity.views import Views
from identity.web import BROWSER_COOKIE, SESSION_COOKIE, Web, is_from_our_page
from servicekit.errors import Kind, ServiceError, problem_headers

OPEN_TOO_LONG = "This page was open for too long, or was opened in another window. Please try again."
_OUR_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")  # what a cookie of ours looks like


class NotFromHere(ServiceError):
    """A form that is not ours, is too old, or was given to another browser."""

    def __init__(self) -> None:
        super().__init__(Kind.FORBIDDEN, "FORM_NOT_ACCEPTED", OPEN_TOO_LONG)


class NotSignedInHere(ServiceError):
    """A page for somebody who is signed in; `page_router` sends them to the sign-in page."""

    def __init__(self) -> None:
        super().__init__(Kind.UNAUTHENTICATED, "NOT_SIGNED_IN", "Please sign in first.")


def page_router(views: Views) -> APIRouter:
    """A router whose failures a person can read."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            serve = super().get_route_handler()

            async def serve_or_explain(request: Request) -> Response:
                try:
                    if any("\0" in text for text in (request.url.path, *request.query_params.values())):
                        raise ServiceError(Kind.INVALID, "BAD_TEXT", "There is a NUL in the address.")
                    return await serve(request)
                except OAuth2Error as error:
                    return unanswerable(views, error.error, error.get_error_description())
                except NotSignedInHere:
                    return see_other("/login")
                except ServiceError as error:
                    return explained(views, error)

            return serve_or_explain

    return APIRouter(route_class=PageRoute, include_in_schema=False)


def explained(views: Views, error: ServiceError) -> Response:
    """A refusal as a page, with the status and the headers that belong to it."""
    page = views.message(error.kind.title, error.detail, status=error.kind.http, code=error.reason)
    page.headers.update(problem_headers(error))
    return page


def unanswerable(views: Views, error: str, description: str) -> Response:
    """An authorization request that leads nowhere, as a page."""
    text = description or "The application asked for something that cannot be answered."
    return views.message("This request cannot be answered", text, status=400, code=error)


def see_other(location: str) -> RedirectResponse:
    """303: whatever the method was, the next request is a GET, and carries nothing on (RFC 9700 section 4.12)."""
    return RedirectResponse(location, status_code=303)


def session_in(web: Web, tx: Connection, request: Request) -> LoginSession | None:
    """The living login session of this browser, locked for issuing; None if there is none."""
    cookie = request.cookies.get(SESSION_COOKIE)
    return None if cookie is None else web.issuer.session_of(tx, cookie)


def is_ours(web: Web, request: Request, form: Parameters, does: str, cookie: str) -> bool:
    """Whether this form `does` what it says, was given to the browser that holds `cookie`, and was sent by our page."""
    token = form.get("csrf_token") or ""
    return is_from_our_page(request) and web.forms.is_csrf(token, does, request.cookies.get(cookie))


def browser_secret(web: Web, request: Request) -> str:
    """What binds a form to this browser before anybody is signed in: the cookie it has, or a new one."""
    browser = request.cookies.get(BROWSER_COOKIE) or ""
    return browser if _OUR_SECRET.fullmatch(browser) else new_secret(web.issuer.entropy)
