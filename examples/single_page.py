"""A single-page app of a third party, with the small backend that keeps its tokens (a BFF, RFC 10017 section 6.1).

    python examples/single_page.py            then open http://127.0.0.1:8020

It is "Partner Analytics": people are asked for consent, find it under Devices, and take it back there. The page
(single_page/) holds a cookie that no script can read. This file is all of the backend: it signs people in as a
confidential client, calls orders for them, and forgets their tokens when they sign out or identity refuses to renew.
"""

import argparse
import base64
import hashlib
import secrets
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlencode

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

PAGES = Path(__file__).parent / "single_page"
COOKIE = "__Host-partner"
ORDERS = "urn:rescind:orders"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the system is, and where this app is."""

    issuer: str = "http://localhost:8001"
    orders: str = "http://localhost:8002"
    own: str = "http://127.0.0.1:8020"


@dataclass(slots=True)
class Visitor:
    """What the backend keeps of one browser. In memory, so a restart signs everybody out: a real one has a store."""

    state: str
    verifier: str = field(repr=False)
    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)
    expires_at: float = 0.0  # seconds, monotonic


def build(peers: Peers, client_secret: str = "partner-secret") -> FastAPI:
    """The app: its page, /login, /callback, /logout and /api/orders."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    visitors: dict[str, Visitor] = {}  # by the digest of the cookie
    redirect_uri = f"{peers.own}/callback"

    def visitor_of(request: Request) -> Visitor | None:
        return visitors.get(_digest(request.cookies.get(COOKIE, "")))

    def forget(request: Request) -> None:
        visitors.pop(_digest(request.cookies.get(COOKIE, "")), None)

    async def tokens(visitor: Visitor, form: dict[str, str]) -> bool:
        """Has identity issue tokens; False when it will not."""
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
            auth = httpx2.BasicAuth("partner", client_secret)
            answer = await http.post(f"{peers.issuer}/token", data=form | {"resource": ORDERS}, auth=auth)
        if answer.status_code != 200:
            return False
        said = answer.json()
        visitor.access_token, visitor.refresh_token = said["access_token"], said["refresh_token"]
        visitor.expires_at = time.monotonic() + said["expires_in"] - 30
        return True

    @app.middleware("http")
    async def strictly(request: Request, call_next):  # type: ignore[no-untyped-def]
        response = await call_next(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["referrer-policy"] = "no-referrer"
        response.headers.setdefault("cache-control", "no-store")
        return response

    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGES / "index.html")

    @app.get("/login")
    async def login() -> Response:
        secret = secrets.token_urlsafe(32)
        visitor = visitors[_digest(secret)] = Visitor(secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(visitor.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {"response_type": "code", "client_id": "partner", "redirect_uri": redirect_uri, "state": visitor.state}
        asked |= {"scope": "openid offline_access orders:read", "resource": ORDERS}
        asked |= {"code_challenge": challenge, "code_challenge_method": "S256"}
        response = RedirectResponse(f"{peers.issuer}/authorize?{urlencode(asked)}", 303)
        # Lax: identity's redirect comes from another site. Replaced by a Strict one of another value after signing in.
        response.set_cookie(COOKIE, secret, secure=True, httponly=True, samesite="lax")
        return response

    @app.get("/callback")
    async def callback(request: Request, state: str = "", iss: str = "", code: str = "") -> Response:
        visitor = visitor_of(request)
        forget(request)
        response = RedirectResponse("/", 303)
        if visitor is None or state != visitor.state or iss != peers.issuer or not code:
            return response
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": visitor.verifier}
        if await tokens(visitor, form | {"redirect_uri": redirect_uri}):
            secret = secrets.token_urlsafe(32)
            visitors[_digest(secret)] = visitor
            response.set_cookie(COOKIE, secret, secure=True, httponly=True, samesite="strict")
        return response

    @app.post("/logout", status_code=204)
    async def logout(request: Request) -> Response:
        if request.headers.get("origin") != peers.own:
            return JSONResponse({"reason": "CROSS_ORIGIN"}, 403)
        forget(request)
        return Response(status_code=204)

    @app.get("/api/orders")
    async def orders(request: Request) -> Response:
        visitor = visitor_of(request)
        if visitor is None or not visitor.refresh_token:
            return JSONResponse({"reason": "NOT_SIGNED_IN"}, 401)
        form = {"grant_type": "refresh_token", "refresh_token": visitor.refresh_token}
        for attempt in range(2):
            if (attempt or time.monotonic() > visitor.expires_at) and not await tokens(visitor, form):
                forget(request)
                return JSONResponse({"reason": "ACCESS_WITHDRAWN"}, 401)
            async with httpx2.AsyncClient(base_url=peers.orders, timeout=5, trust_env=False) as http:
                bearer = {"authorization": f"Bearer {visitor.access_token}"}
                answer = await http.get("/v1/orders", headers=bearer)
            if answer.status_code != 401:  # revoked, or stale: ask once for another
                break
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    app.mount("/", StaticFiles(directory=PAGES))
    return app


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def main() -> None:
    """Serves it beside `make run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for one in fields(Peers):
        parser.add_argument(f"--{one.name}", default=one.default)
    peers = Peers(**vars(parser.parse_args()))
    print(f"Open {peers.own}")
    uvicorn.run(build(peers), host="127.0.0.1", port=httpx2.URL(peers.own).port or 80, log_level="warning")


if __name__ == "__main__":
    main()
