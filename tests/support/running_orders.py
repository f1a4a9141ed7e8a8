"""A really running orders beside a running identity, on real sockets, in the test's event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orders.app import build
from orders.settings import Settings
from servicekit.lifecycle import Ports, serve
from support.eventually import eventually
from support.orders_wires import stock
from support.running_identity import RunningIdentity


@asynccontextmanager
async def running_orders(folder: Path, identity: RunningIdentity) -> AsyncIterator[str]:
    """Where orders is, once it knows every revocation; until the block is left."""
    settings: Any = {
        "database_url": f"sqlite:///{folder / 'orders.db'}",
        "redis_url": identity.redis_url,
        "issuer": identity.issuer,
        "identity_url": identity.issuer,
        "identity_grpc": f"127.0.0.1:{identity.grpc_port}",
        "client_secret": "orders-secret",
        "http_port": 0,
        "grpc_port": 0,
        "metrics_port": 0,
    }
    await stock(settings["database_url"])
    service = build(Settings(**settings))
    started: asyncio.Future[Ports] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(service, started=started.set_result))
    await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if serving.done():
            await serving

        async def ready() -> bool:
            return service.ready().ready

        await eventually(ready, within=20)
        yield f"http://127.0.0.1:{started.result().http}"
    finally:
        service.stop()
        await serving
