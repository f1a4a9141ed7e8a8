"""A server-rendered app that holds a session cookie, and nothing else: no script, no token, no state of its own.

    python examples/server_rendered.py        then open http://localhost:8010

The browser sends it the cookie of the session service, because cookies belong to a host and not to a port. In
production both stand behind one host name, by path. For each request the app asks SessionsService.Resolve who the
cookie speaks for, and gets an access token for the one service that it is about to call. The app keeps neither.
"""

import argparse
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields
from urllib.parse import parse_qs

import grpc.aio
import httpx2
import jinja2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from contracts.session.v1 import sessions_pb2 as pb
from contracts.session.v1.sessions_pb2_grpc import SessionsServiceStub
from rescind.client_credentials import ClientCredentials

COOKIE = "__Host-rescind_session"
DEADLINE = 3.0  # seconds, for each call to a peer
HEADERS = {
    "content-security-policy": "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # with no-referrer browsers send `Origin: null` with the form
}
PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Orders</title>
<h1>Orders</h1>
{% if person %}
<p>You are <code>{{ person.subject }}</code>, signed in as <code>{{ person.session_id }}</code>.</p>
<ul>{% for order in orders %}<li><code>{{ order.id }}</code> {{ order.status }}:
{% for item in order["items"] %}{{ item.quantity }} × {{ item.sku }}{{ ", " if not loop.last }}{% endfor %}</li>
{% else %}<li>None yet.</li>{% endfor %}</ul>
<form method="post" action="/orders"><label>Product <input name="sku" value="teapot" maxlength="64" required></label>
<button>Order one</button></form>
{% else %}<p>Nobody is signed in. <a href="{{ session }}/auth/login">Sign in</a>, then come back.</p>{% endif %}
{% if problem %}<p role="alert">{{ problem }}</p>{% endif %}
</html>""")


@dataclass(frozen=True, slots=True)
class Peers:
    """Where the system is, and where this app is."""

    session: str = "http://localhost:8000"
    session_grpc: str = "localhost:9000"
    issuer: str = "http://localhost:8001"
    orders: str = "http://localhost:8002"
    own: str = "http://localhost:8010"


def build(peers: Peers, client_secret: str = "gateway-secret") -> FastAPI:
    """The app. Its client `gateway` is one of those that session lets resolve cookies."""
    own_token = ClientCredentials(f"{peers.issuer}/token", "gateway", client_secret, resource="urn:rescind:session")
    sessions: list[SessionsServiceStub] = []

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with grpc.aio.insecure_channel(peers.session_grpc) as channel:
            sessions.append(SessionsServiceStub(channel))
            yield
            sessions.clear()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    async def resolve(request: Request) -> pb.ResolveResponse | None:
        """Who the cookie speaks for, with a token for orders; None when it speaks for nobody (any more)."""
        asked = pb.ResolveRequest(cookie=request.cookies.get(COOKIE, ""), audience="urn:rescind:orders")
        metadata = (("authorization", f"Bearer {await own_token()}"),)
        try:
            answer: pb.ResolveResponse = await sessions[0].Resolve(asked, timeout=DEADLINE, metadata=metadata)
        except grpc.aio.AioRpcError as refusal:
            if refusal.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return answer

    async def page(person: pb.ResolveResponse | None, problem: str = "", status: int = 200) -> Response:
        orders = []
        if person is not None:
            async with httpx2.AsyncClient(base_url=peers.orders, timeout=DEADLINE, trust_env=False) as http:
                answer = await http.get("/v1/orders", headers={"authorization": f"Bearer {person.access_token}"})
                orders = answer.raise_for_status().json()["orders"]
        html = PAGE.render(person=person, orders=orders, problem=problem, session=peers.session)
        return HTMLResponse(html, status, headers=HEADERS)

    @app.get("/")
    async def list_orders(request: Request) -> Response:
        return await page(await resolve(request))

    @app.post("/orders")
    async def place(request: Request) -> Response:
        # SameSite=Strict keeps other sites out; another port of this host is the same site, so the origin counts.
        if request.headers.get("origin") != peers.own:
            return await page(None, "This form was sent from elsewhere.", 403)
        person = await resolve(request)
        if person is None:
            # No redirect: `form-action` holds for all that a form leads to, and a browser would stop there in silence.
            return await page(None, "Your session has ended, and nothing was ordered.", 401)
        sku = parse_qs((await request.body()).decode("latin-1")).get("sku", [""])[0]
        async with httpx2.AsyncClient(base_url=peers.orders, timeout=DEADLINE, trust_env=False) as http:
            bearer = {"authorization": f"Bearer {person.access_token}"}
            answer = await http.post("/v1/orders", json={"items": [{"sku": sku, "quantity": 1}]}, headers=bearer)
        if answer.status_code != 201:
            return await page(person, answer.json()["detail"], answer.status_code)
        return RedirectResponse("/", 303)

    return app


def main() -> None:
    """Serves it beside `make run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Peers):
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default)
    peers = Peers(**vars(parser.parse_args()))
    print(f"Open {peers.own}")
    uvicorn.run(build(peers), host="127.0.0.1", port=httpx2.URL(peers.own).port or 80, log_level="warning")


if __name__ == "__main__":
    main()
