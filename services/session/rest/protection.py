"""What stands between a browser and every route: cookies that only the server reads, one origin, strict headers.

SameSite=Strict keeps the session cookie out of every request that another site causes. The custom header makes a
browser ask first (CORS preflight, which nobody answers here) before another origin could send it; Origin and
Sec-Fetch-Site say who is asking. Each would do alone; together none of them is a single point of failure.
"""

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servicekit.errors import Kind, ServiceError

# The prefix has browsers insist on Secure, Path=/ and no Domain (RFC 6265bis section 4.1.3).
SESSION_COOKIE = "__Host-rescind_session"
_LOGIN_COOKIE = "__Host-rescind_login_"
LOGIN_LIFE = 600  # seconds
REQUEST_HEADER = "x-rescind-request"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS: Mapping[str, str] = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; base-uri 'none'; "
    "object-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class StrictHeaders:
    """Middleware around everything: the headers of HEADERS on every answer, and no caching of what is personal."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith(("/api", "/auth")):
                    headers["cache-control"] = "no-store"
            await send(message)

        await self._app(scope, receive, strictly)


class SameOrigin:
    """Refuses what another site's page sends. `origin` is where people open this app."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._host = urlsplit(origin).netloc

    def is_home(self, request: Request) -> bool:
        """Whether the browser came by the name that its cookies are for."""
        return request.headers.get("host", "") == self._host

    def check(self, request: Request) -> None:
        """A dependency of every /api route, and of what changes something under /auth.

        Raises:
            ServiceError: CROSS_ORIGIN, REQUEST_HEADER_MISSING.
        """
        safe = request.method in _SAFE
        origins, sites = request.headers.getlist("origin"), request.headers.getlist("sec-fetch-site")
        if any(origin != self._origin for origin in origins):
            raise _cross_origin()
        # `none`: somebody typed the address, which does not send a POST.
        if any(site != "same-origin" and not (safe and site == "none") for site in sites):
            raise _cross_origin()
        if safe:
            return
        if not origins and not sites:  # every browser of the last years says at least one
            raise _cross_origin()
        if request.headers.getlist(REQUEST_HEADER) != ["1"]:
            raise ServiceError(
                Kind.FORBIDDEN,
                "REQUEST_HEADER_MISSING",
                "What changes something needs the header X-Rescind-Request: 1.",
            )


def _cross_origin() -> ServiceError:
    return ServiceError(Kind.FORBIDDEN, "CROSS_ORIGIN", "This may be asked from the app's own pages only.")


def session_cookie(request: Request) -> str | None:
    """What the browser presents. The server alone reads it."""
    return request.cookies.get(SESSION_COOKIE)


def set_session_cookie(response: Response, secret: str) -> None:
    """Until the browser closes; the server ends sessions by its own clock."""
    response.set_cookie(SESSION_COOKIE, secret, path="/", secure=True, httponly=True, samesite="strict")


def drop_session_cookie(response: Response) -> None:
    """Takes the cookie back."""
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="strict")


def login_cookie(state: str) -> str:
    """The name of the pre-login cookie of one sign-in: several windows may sign in at once."""
    return _LOGIN_COOKIE + hashlib.sha256(state.encode()).hexdigest()[:16]


def set_login_cookie(response: Response, state: str, secret: str) -> None:
    """Lax, unlike the session's: identity's redirect to /auth/callback comes from another site, and needs it."""
    name = login_cookie(state)
    response.set_cookie(name, secret, max_age=LOGIN_LIFE, path="/", secure=True, httponly=True, samesite="lax")


def drop_login_cookie(response: Response, state: str) -> None:
    """Takes the pre-login cookie back."""
    response.delete_cookie(login_cookie(state), path="/", secure=True, httponly=True, samesite="lax")
