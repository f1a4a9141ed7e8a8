"""A process beside the benchmark's own, which says on its first line of output where it listens."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator

from devstack.process import Process

_PATIENCE = 30.0  # seconds for it to start


@contextlib.asynccontextmanager
async def listening(module: str, told: bytes) -> AsyncIterator[int]:
    """Runs `module`, which is `told` this on its standard input, as long as the block; its port.

    Raises:
        RuntimeError: it did not start, with what it said instead.
    """
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    trouble: list[str] = []

    def hear(_name: str, line: str) -> None:
        try:
            port.set_result(int(json.loads(line)["listening"]))
        except (ValueError, KeyError, TypeError):
            trouble.append(line)

    process = Process(module, [sys.executable, "-m", module], {}, hear)
    await process.start(told)
    try:
        done, _ = await asyncio.wait({port}, timeout=_PATIENCE)
        if not done:
            raise RuntimeError("\n".join([f"{module} did not start", *trouble[-30:]]))
        yield port.result()
    finally:
        await process.kill()
