"""The same check by asking at every request, as one does without a denylist of one's own."""

import time
from collections.abc import Awaitable, Callable, Sequence

import jwt
from redis.asyncio import Redis

from bench.figures import Figure, Say, Scale, duration
from bench.measure import Timings
from bench.system import System
from bench.waiting import until_fresh
from rescind.connect import connected
from rescind.keys import http_fetch, public_keys

Check = Callable[[str], Awaitable[object]]


async def asking(system: System, scale: Scale, say: Say) -> list[Figure]:
    """A guard's answer beside PyJWT with a Redis GET, and beside HTTP introspection: one request after the other."""
    say("asking Redis and identity at every request")
    tokens = await system.tokens(scale.asked)
    keys = public_keys(await http_fetch(f"{system.verifier.identity_url}/jwks.json")())
    key = keys[jwt.get_unverified_header(tokens[0])["kid"]]
    async with connected(system.verifier) as guard, Redis.from_url(system.redis_url) as redis:
        await until_fresh(guard)

        async def get(token: str) -> None:
            claims = jwt.decode(
                token, key, algorithms=["RS256"], audience=system.verifier.audience, issuer=system.verifier.issuer
            )
            if await redis.get(f"revoked:{claims['jti']}") is not None:
                raise PermissionError("revoked")

        async def introspect(token: str) -> None:
            if not (await system.backoffice.introspect(token))["active"]:
                raise PermissionError("not active")

        checks: dict[str, Check] = {"guard": guard.authenticate, "get": get, "introspect": introspect}
        timings = await _take_turns(checks, tokens, scale.rounds)
    mine = duration(timings.typical("guard"))
    peers = {"get": "PyJWT decode and Redis GET", "introspect": "HTTP introspection"}
    return [
        Figure(
            "a request's check, warm", mine, f"{name}, {duration(timings.typical(peer))}", timings.ratio("guard", peer)
        )
        for peer, name in peers.items()
    ]


async def _take_turns(checks: dict[str, Check], tokens: Sequence[str], rounds: int) -> Timings:
    timings: dict[str, list[float]] = {name: [] for name in checks}
    for turn in range(rounds + 1):
        for name, check in checks.items():
            started = time.perf_counter_ns()
            for token in tokens:
                await check(token)
            if turn:  # the first one warms up
                timings[name].append((time.perf_counter_ns() - started) / 1e9 / len(tokens))
    return Timings(timings)
