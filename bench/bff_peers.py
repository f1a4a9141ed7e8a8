"""One process of the routes that a BFF is measured against: the same bytes, with nothing behind them.

`/plain` is a FastAPI route; `/session` a Starlette one that loads a session from Redis by a cookie and prolongs it. The
server is set up as `servicekit.lifecycle` does. It reads what it needs from stdin, and says on which port it listens.
"""

import asyncio
import json
import socket
import sys
from dataclasses import asdict, dataclass
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

COOKIE = "session"
KEY = "bench:session:"
LIFE = 1800  # seconds


@dataclass(frozen=True, slots=True)
class Peers:
    """What the process is told. `body` is the JSON that both routes answer with."""

    redis_url: str
    body: str

    def said(self) -> bytes:
        """As it is read from stdin."""
        return json.dumps(asdict(self)).encode()


def _app(told: Peers, redis: "Redis") -> FastAPI:
    app = FastAPI(openapi_url=None)
    body = json.loads(told.body)

    @app.get("/plain")
    async def plain() -> dict[str, Any]:
        answer: dict[str, Any] = body
        return answer

    async def session(request: Request) -> Response:
        loaded = await redis.getex(KEY + request.cookies.get(COOKIE, ""), ex=LIFE)
        if loaded is None or not json.loads(loaded)["subject"]:
            return Response(status_code=401)
        return JSONResponse(body)

    app.add_route("/session", session)
    return app


async def serve(told: Peers) -> None:
    """Serves until it is killed."""
    async with Redis.from_url(told.redis_url) as redis:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(
                _app(told, redis), loop="none", http="h11", ws="none", lifespan="off", log_config=None, access_log=False
            )
            print(json.dumps({"listening": listener.getsockname()[1]}), flush=True)
            await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Peers(**json.loads(sys.stdin.read()))))
