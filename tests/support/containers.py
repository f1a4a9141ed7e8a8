"""Real databases and a real Redis for the suites that every implementation must pass.

`database_url` runs a test twice: on a new SQLite file, and on a new database of a PostgreSQL in a container.
`redis_container_url` is an emptied Redis in a container. Without Docker these skip, and say so.

`RESCIND_TEST_POSTGRES_URL` names a PostgreSQL server that is there already, to be used instead of a container.
"""

import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from support.requirements import need_image

POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:8"
# In memory: on a disk, a new database takes 30 ms or 600, as the disk likes. What dies in a test has its own server.
_DATA = "/var/lib/postgresql/data"
_LITTLE_LOG = "-c max_wal_size=128MB"


def _without_ryuk() -> None:
    """Ryuk, the container that cleans up after a killed test run, is to be had from a registry only."""
    from testcontainers.core.config import testcontainers_config

    testcontainers_config.ryuk_disabled = True


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """A PostgreSQL server, as the URL of a database in which others may be created."""
    if url := os.environ.get("RESCIND_TEST_POSTGRES_URL"):
        yield url
        return
    need_image(POSTGRES_IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is not ours
        from testcontainers.community.postgres import PostgresContainer

        _without_ryuk()
        server = PostgresContainer(POSTGRES_IMAGE, driver=None).with_tmpfs_mount(_DATA).with_command(_LITTLE_LOG)
        with server as container:
            yield container.get_connection_url()


@pytest.fixture
def postgres_url(postgres_server_url: str) -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    name = f"test_{secrets.token_hex(8)}"
    server = make_url(postgres_server_url).set(drivername="postgresql+psycopg")
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield server.set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def _redis_container() -> Iterator[str]:
    need_image(REDIS_IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from testcontainers.community.redis import RedisContainer

        _without_ryuk()
        with RedisContainer(REDIS_IMAGE) as container:
            yield f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"


@pytest.fixture
def redis_container_url(_redis_container: str) -> str:
    """A real Redis, emptied."""
    from redis import Redis

    with Redis.from_url(_redis_container) as client:
        client.flushall()
    return _redis_container
