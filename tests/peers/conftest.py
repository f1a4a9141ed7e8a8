"""What the tests with peers share: the installed peers, and a really running identity."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support.node_peers import installed
from support.running_identity import RunningIdentity, running_identity


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the peers are installed."""
    return installed(tmp_path_factory.mktemp("peer"))


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[RunningIdentity]:
    """Served on the loopback, with the people and clients of the tests."""
    async with running_identity(tmp_path) as identity:
        yield identity
