"""One Chromium for all, and one whole system for the web app; each test has browser contexts of its own.

A test of identity's own pages has an identity of its own too.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from support.browsers import (
    Application,
    NetworkChanged,
    NewWindow,
    Web,
    Window,
    chromium,
    given_up,
    network_unchanged,
    window,
)
from support.running_identity import RunningIdentity, running_identity
from support.system import a_stack

NODE = Path(__file__).parent / "node"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test of which the machine's network took something away runs again, up to three times; no other does."""
    again = pytest.mark.flaky(reruns=3, only_rerun=[NetworkChanged.__name__])
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(again)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """See `network_unchanged`."""
    given_up.clear()
    with network_unchanged():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """See `network_unchanged`."""
    with network_unchanged():
        yield


@pytest.fixture(scope="session")
def npm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the checks' packages are, installed from their lock file."""
    folder = tmp_path_factory.mktemp("web-checks")
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(NODE / name, folder / name)
    command = ["npm", "ci", "--no-progress", "--ignore-scripts"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    if installed.returncode:
        missing = f"npm cannot install the checks: {installed.stderr.strip()[-500:]}"
        (pytest.fail if "node" in os.environ.get("RESCIND_REQUIRE", "") else pytest.skip)(missing)
    return folder / "node_modules"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def web(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Web]:
    """The embedded system, on free ports."""
    folder = tmp_path_factory.mktemp("web")
    async with a_stack(folder) as stack:
        yield Web(stack, folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One Chromium for all."""
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def identity(tmp_path: Path) -> AsyncIterator[RunningIdentity]:
    """Identity alone, in this process."""
    async with running_identity(tmp_path) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def application() -> AsyncIterator[Application]:
    started = Application()
    server = await asyncio.start_server(started.serve, "127.0.0.1", 0)
    started.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        yield started
    finally:
        server.close()


@pytest_asyncio.fixture(loop_scope="session")
async def new_window(web: Web, browser: Browser) -> AsyncIterator[NewWindow]:
    """Opens browsers with no past; `options` are Playwright's of a context."""
    opened: list[Window] = []

    async def open_one(**options: Any) -> Window:
        one = await window(browser, web.url, web.identity_database, **options)
        opened.append(one)
        return one

    yield open_one
    for one in opened:
        await one.witness.leave()
