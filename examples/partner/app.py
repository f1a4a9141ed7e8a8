"""Partner Analytics: somebody else's application that sees a person's orders, for as long as the person lets it.

    make run                                  # in one window
    .venv/bin/python examples/partner/app.py  # in another; then open http://127.0.0.1:7700

It knows nothing of Rescind but its addresses and what every OAuth client knows: a client id and a secret. It connects
by authorization code with PKCE (Authlib's client), calls orders with a token that is good there and nowhere else,
refreshes it when it is refused, and learns that way when access was withdrawn: the next call is a 401 and the refresh
an `invalid_grant`. Then it forgets everything, and can only ask again.
"""

import argparse
import html
import secrets
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse

CLIENT_ID, CLIENT_SECRET = "partner", "partner-secret"  # registered by the seeds
SCOPE, ORDERS = "openid offline_access orders:read", "urn:rescind:orders"
COOKIE = "partner_visitor"


@dataclass
class Visitor:
    """One browser: the request that is under way, and the tokens that came of it."""

    state: str = ""
    verifier: str = ""
    tokens: dict[str, Any] = field(default_factory=dict)
    notice: str = ""


def create_app(issuer: str, orders: str, redirect_uri: str) -> FastAPI:
    """The application. `issuer` and `orders` are the addresses of identity and orders."""
    app = FastAPI(openapi_url=None)
    visitors: dict[str, Visitor] = {}

    def visitor(request: Request) -> Visitor:
        return visitors.get(request.cookies.get(COOKIE, ""), Visitor())

    def oauth() -> AsyncOAuth2Client:
        return AsyncOAuth2Client(
            CLIENT_ID, CLIENT_SECRET, redirect_uri=redirect_uri, scope=SCOPE, code_challenge_method="S256", timeout=5
        )

    async def orders_of(who: Visitor) -> list[dict[str, Any]] | None:
        """The person's orders; None if they are refused, even with a new token."""
        async with httpx2.AsyncClient(timeout=5) as http, oauth() as client:
            for last in (False, True):
                bearing = {"authorization": f"Bearer {who.tokens['access_token']}"}
                answer = await http.get(f"{orders}/v1/orders", headers=bearing)
                if answer.status_code != 401:
                    return list(answer.raise_for_status().json()["orders"])
                who.notice = f"Orders says 401, {answer.json()['reason']}."
                if last:
                    break
                try:
                    spent = who.tokens["refresh_token"]
                    who.tokens = await client.refresh_token(f"{issuer}/token", refresh_token=spent, resource=ORDERS)
                except OAuthError as refused:
                    who.notice += f" Identity says {refused.error}."
                    break
        who.tokens = {}
        return None

    @app.get("/")
    async def front(request: Request) -> HTMLResponse:
        who = visitor(request)
        if who.tokens and (found := await orders_of(who)) is not None:
            rows = "".join(f"<li>{html.escape(order['id'])}: {html.escape(order['status'])}</li>" for order in found)
            return page(f"<p>Your orders ({len(found)}):</p><ul>{rows}</ul>", reload=True)
        gone = f"<p><strong>Access was withdrawn.</strong> {html.escape(who.notice)}</p>" if who.notice else ""
        return page(gone + '<p><a href="/connect">Connect with Rescind</a></p>')

    @app.get("/connect")
    async def connect() -> RedirectResponse:
        who, name = Visitor(verifier=secrets.token_urlsafe(48)), secrets.token_urlsafe(32)
        async with oauth() as client:
            url, who.state = client.create_authorization_url(
                f"{issuer}/authorize", code_verifier=who.verifier, resource=ORDERS
            )
        visitors[name] = who
        answer = RedirectResponse(url, 303)
        answer.set_cookie(COOKIE, name, httponly=True, samesite="lax")
        return answer

    @app.get("/callback")
    async def callback(request: Request, state: str = "", iss: str = "", code: str = "", error: str = "") -> Any:
        who = visitor(request)
        if not who.state or not secrets.compare_digest(state, who.state) or iss != issuer:  # CSRF; mix-up (RFC 9207)
            return page("<p>This answer is not to a question of ours.</p>")
        who.state = ""
        if error:
            return page(f'<p>You said no ({html.escape(error)}). <a href="/connect">Ask me again</a></p>')
        async with oauth() as client:
            who.tokens = await client.fetch_token(f"{issuer}/token", code=code, code_verifier=who.verifier)
        return RedirectResponse("/", 303)

    @app.post("/disconnect")
    async def disconnect(request: Request) -> RedirectResponse:
        who = visitor(request)
        async with oauth() as client:
            if who.tokens:
                await client.revoke_token(f"{issuer}/revoke", token=who.tokens["refresh_token"])
        who.tokens = {}
        return RedirectResponse("/", 303)

    return app


def page(content: str, *, reload: bool = False) -> HTMLResponse:
    """A page; with `reload` it comes anew every two seconds, so a withdrawal shows."""
    leave = '<form method="post" action="/disconnect"><button>Disconnect</button></form>'
    again = f'<meta http-equiv="refresh" content="2">{leave}' if reload else ""
    return HTMLResponse(f"<!doctype html><title>Partner Analytics</title><h1>Partner Analytics</h1>{content}{again}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A third-party application of Rescind's.")
    parser.add_argument("--issuer", default="http://localhost:8001")
    parser.add_argument("--orders", default="http://localhost:8002")
    parser.add_argument("--port", type=int, default=7700)
    options = parser.parse_args()
    here = f"http://127.0.0.1:{options.port}"
    uvicorn.run(create_app(options.issuer, options.orders, f"{here}/callback"), port=options.port, log_level="warning")
