"""A really running identity: its process' life on real sockets, an embedded Valkey, a database of its own.

For peers that speak HTTP themselves: another implementation's client, a browser. It runs in the test's event loop.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.stack import free_port
from identity.app import Parts, assemble, build
from servicekit.lifecycle import Ports, serve
from support.identity_front import front_settings, quick_passwords, seed
from support.redis_servers import embedded_valkey
from support.schemas import prepare


@dataclass(frozen=True)
class RunningIdentity:
    """Where it is, and what is inside."""

    issuer: str
    parts: Parts
    redis_url: str = ""
    grpc_port: int = 0


@asynccontextmanager
async def running_identity(folder: Path, *, port: int = 0, **changes: Any) -> AsyncIterator[RunningIdentity]:
    """Serves until the block is left; seeded as `identity_front` is. `changes` are settings."""
    # The issuer has to be known before anything listens.
    port = port or free_port()
    issuer = f"http://localhost:{port}"
    redis = embedded_valkey(folder / "valkey")
    await asyncio.to_thread(redis.start)
    try:
        database_url = f"sqlite:///{folder / 'identity.db'}"
        prepare(database_url, "identity")
        settings = front_settings(
            database_url,
            issuer=issuer,
            redis_url=redis.connection_url,
            publish_wait_ms=250,
            http_port=port,
            mail_url=f"file://{folder}/mail",
            **changes,
        )
        parts = assemble(settings, passwords=quick_passwords())
        await parts.found()
        await seed(parts)
        service = build(settings, parts=parts)
        started: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve(service, started=started.set_result))
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        try:
            if serving.done():
                await serving
            yield RunningIdentity(issuer, parts, redis.connection_url, started.result().grpc)
        finally:
            service.stop()
            await serving
    finally:
        await asyncio.to_thread(redis.stop)
