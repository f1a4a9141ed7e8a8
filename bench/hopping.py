"""What the hop through the session service costs: GET /api/orders, cookie to token to gRPC, beside simpler routes.

One request after the other on one connection each, in turns. The peers answer with the same JSON: a plain FastAPI
route, a Starlette route with a session in Redis, and orders itself, asked over REST with the token in hand.
"""

import contextlib
import json
import secrets
import time
from urllib.parse import urlsplit

from redis.asyncio import Redis

from bench.asked import Kept, kept
from bench.beside import listening
from bench.bff_peers import COOKIE, KEY, LIFE, Peers
from bench.figures import Figure, Say, Scale, duration
from bench.measure import Timings
from bench.system import System
from bench.visiting import Visit, request, sign_in
from devstack.flow import Browser, OAuthClient
from devstack.seeds import ALICE, ORDERS, PASSWORD

_ORDERS = 5  # that the person has
_REDIRECT = "http://127.0.0.1:53682/callback"


async def bff(system: System, scale: Scale, say: Say) -> list[Figure]:
    """A request through session to orders, and its ratios to what one would have without either."""
    say("signing in and ordering")
    browser = Browser(system.http, system.stack.addresses.issuer)
    visit = await sign_in(system, browser, ALICE)
    for _ in range(_ORDERS):
        await _order(system, visit)
    phone = OAuthClient(system.http, system.stack.addresses.issuer, "mobile", redirect_uri=_REDIRECT)
    tokens = await phone.sign_in(browser, ALICE, PASSWORD, scope="openid orders:read", resource=ORDERS)
    through = visit.asking("/api/orders")
    session_port, orders_port = (
        urlsplit(url).port or 80 for url in (system.stack.addresses.session, system.stack.addresses.orders)
    )
    async with contextlib.AsyncExitStack() as held:
        session = await held.enter_async_context(kept(session_port))
        body = (await session.ask(through)).decode()
        if len(json.loads(body)["orders"]) < _ORDERS:
            raise RuntimeError("the orders are not there")
        cookie = await _peer_session(system)
        port = await held.enter_async_context(listening("bench.bff_peers", Peers(system.redis_url, body).said()))
        orders = await held.enter_async_context(kept(orders_port))
        plain, stored = [await held.enter_async_context(kept(port)) for _ in range(2)]
        local = {"host": f"127.0.0.1:{port}"}
        bearer = {"host": f"127.0.0.1:{orders_port}", "authorization": f"Bearer {tokens.access_token}"}
        say("taking turns")
        timings = await _take_turns(
            {
                "bff": (session, through),
                "plain": (plain, request("/plain", local)),
                "session": (stored, request("/session", {**local, "cookie": f"{COOKIE}={cookie}"})),
                "orders": (orders, request("/v1/orders", bearer)),
            },
            scale,
        )
    peers = {
        "plain": "a plain FastAPI route",
        "session": "a Starlette route, session in Redis",
        "orders": "orders itself over REST",
    }
    mine = duration(timings.typical("bff"))
    return [
        Figure(
            "GET /api/orders through session", mine, f"{name}, {duration(timings.typical(peer))}",
            timings.ratio("bff", peer),
        )
        for peer, name in peers.items()
    ]  # fmt: skip


async def _take_turns(contestants: dict[str, tuple[Kept, bytes]], scale: Scale) -> Timings:
    timings: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(scale.rounds + 1):
        for name, (connection, asked) in contestants.items():
            began = time.perf_counter_ns()
            for _ in range(scale.asked):
                await connection.ask(asked)
            if turn:  # the first one warms up
                timings[name].append((time.perf_counter_ns() - began) / 1e9 / scale.asked)
    return Timings(timings)


async def _order(system: System, visit: Visit) -> None:
    headers = visit.writing | {"idempotency-key": secrets.token_urlsafe(16)}
    order = {"items": [{"sku": "teapot", "quantity": 1}]}
    (await system.http.post(f"{visit.origin}/api/orders", json=order, headers=headers)).raise_for_status()


async def _peer_session(system: System) -> str:
    """A session as long as a small one of ours."""
    cookie = secrets.token_urlsafe(32)
    held = {"subject": "usr_bench", "scopes": ["orders:read"], "token": secrets.token_urlsafe(600)}
    async with Redis.from_url(system.redis_url) as redis:
        await redis.set(KEY + cookie, json.dumps(held), ex=LIFE)
    return cookie
