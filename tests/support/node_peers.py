"""Clients of somebody else's, in Node processes that are driven line by line."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devstack.flow import Browser
from support.identity_front import ALICE, PASSWORD

NODE = Path(__file__).parents[1] / "peers" / "node"


def installed(folder: Path) -> Path:
    """The peers with what they need, installed from their lock file into `folder`; skips the test where that fails."""
    for path in (NODE / "package.json", NODE / "package-lock.json", NODE / ".npmrc", *NODE.glob("*.js")):
        shutil.copy(path, folder / path.name)
    command = ["npm", "ci", "--no-progress", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    if done.returncode:
        missing_packages = f"npm cannot install the peer: {done.stderr.strip()[-500:]}"
        (pytest.fail if "node" in os.environ.get("RESCIND_REQUIRE", "") else pytest.skip)(missing_packages)
    return folder


class Peer:
    """The client process, one line at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def ask(self, told: dict[str, Any]) -> dict[str, Any]:
        self._in.write(json.dumps(told).encode() + b"\n")
        await self._in.drain()
        async with asyncio.timeout(30):
            answer: dict[str, Any] = json.loads(await self._out.readline())
        assert "failed" not in answer, answer
        return answer


@asynccontextmanager
async def started(folder: Path, script: str) -> AsyncIterator[Peer]:
    """Runs `script` of the peers until the block is left."""
    process = await asyncio.create_subprocess_exec(
        "node",
        script,
        cwd=folder,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def signed_in_and_allowed(browser: Browser, url: str) -> str:
    """Where the browser arrives at the client, after a person has signed in and allowed what was asked."""
    arrived = await browser.walk(await browser.get(url))
    assert not isinstance(arrived, str)
    arrived = await browser.submit(arrived, "/login", email=ALICE, password=PASSWORD)
    if not isinstance(arrived, str):
        arrived = await browser.submit(arrived, "/consent", decision="allow")
    assert isinstance(arrived, str)
    return arrived
