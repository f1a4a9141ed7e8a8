"""The fixtures of session's tests: one world for all that do not break it, and one of its own for each that does.

Every test loads this module, and few of them need the four services that a world imports.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from support.redis_servers import embedded_valkey

if TYPE_CHECKING:
    from support.session_world import World


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator["World"]:
    from support.session_world import session_world

    redis = embedded_valkey()
    await asyncio.to_thread(redis.start)
    try:
        url = f"redis://127.0.0.1:{redis.port}/0"
        async with session_world(tmp_path_factory.mktemp("session"), url) as running:
            yield running
    finally:
        await asyncio.to_thread(redis.stop)


@pytest_asyncio.fixture(loop_scope="session")
async def world(_shared_world: "World") -> AsyncIterator["World"]:
    """The shared world, its levers put back afterwards. Tests that use it run in the session's loop."""
    yield _shared_world
    _shared_world.ahead = 0
    _shared_world.wire.reset()


@pytest.fixture
async def own_world(tmp_path: Path, embedded_redis_url: str) -> AsyncIterator["World"]:
    """A world of the test's own, to break."""
    from support.session_world import session_world

    async with session_world(tmp_path, embedded_redis_url) as running:
        yield running
