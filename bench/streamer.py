"""One process of live streams: a guard on the real system, and a server whose streams say hello and then nothing.

It reads what it needs from stdin, and says on which port it listens. Each stream holds a lease, as any does behind
`GuardInterceptor`: it ends when its token is taken back.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench.waiting import until_fresh
from rescind import BOUNDED
from rescind.connect import Addresses, connected
from rescind.grpc import GuardInterceptor, Rule

SERVICE = "bench.Streams"
HELLO = b"hello"
_STALENESS = 60.0  # seconds
_STREAMS = 100_000  # of one connection


async def _watch(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield HELLO
    await asyncio.Event().wait()


async def _ping(_request: bytes, _context: Any) -> bytes:
    return HELLO


async def stream(addresses: Addresses) -> None:
    """Serves until it is killed."""
    async with connected(addresses) as guard:
        await until_fresh(guard)
        rule = Rule("orders:read", staleness=BOUNDED(_STALENESS))
        handlers: dict[str, Any] = {
            "Watch": grpc.unary_stream_rpc_method_handler(_watch),  # type: ignore[arg-type]
            "Ping": grpc.unary_unary_rpc_method_handler(_ping),  # type: ignore[arg-type]
        }
        server = grpc.aio.server(
            interceptors=[GuardInterceptor(guard, {f"/{SERVICE}/{name}": rule for name in handlers})],
            options=[("grpc.so_reuseport", 0), ("grpc.max_concurrent_streams", _STREAMS)],
        )
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(json.dumps({"listening": port}), flush=True)
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(stream(Addresses(**json.loads(sys.stdin.read()))))
