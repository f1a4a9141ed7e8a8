"""One system of processes for all tests that leave it as they found it; they share its event loop."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devstack.stack import Stack
from devstack.story import opened
from support.system import Verifier, a_stack, healthy


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """The embedded system."""
    async with a_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def verifier(stack: Stack) -> AsyncIterator[Verifier]:
    """The stack's own orders, FRESH before and after the test."""
    async with opened(stack) as scene:
        held = Verifier(scene)
        await healthy(stack, held)
        yield held
        await healthy(stack, held)
