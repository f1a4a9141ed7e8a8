"""The two commands as a person types them: the story ends well, and whatever ends `run` leaves no process behind."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devstack.cli import ANEW, KEPT
from devstack.control import RunningStack
from devstack.story import opened
from support.eventually import eventually

START, STOP = 60.0, 30.0  # seconds: bounds on what hangs, not promises


@pytest.mark.timeout(300)
async def test_the_story_is_told_to_its_end_and_leaves_no_process(tmp_path: Path) -> None:
    async with command(tmp_path, "demo", "--target", "embedded") as process:
        assert process.stdout is not None
        output = (await asyncio.wait_for(process.stdout.read(), 270)).decode()
        assert await process.wait() == 0, output
    steps = re.search(r"(\d+) steps, all as they should be", output)
    assert steps is not None, output
    assert int(steps[1]) == 51
    for kind in ("token", "session", "grant", "subject", "client", "key"):
        assert re.search(rf"{kind}.*(401|TOKEN_REVOKED|KEY_REVOKED)", output), kind
    for reason in ("TOKEN_REVOKED", "503", "UNAVAILABLE"):
        assert reason in output
    for act in ("4401 TOKEN_REVOKED", "end TOKEN_REVOKED", "by 3 of 3", "UNREADABLE"):  # streams, receipts, poison
        assert act in output
    for act in ("__Host-rescind_session", "SIGNED_OUT", "no token"):  # the browser
        assert act in output
    for error in ("authorization_pending", "access_denied", "invalid_grant", "login_required"):  # OAuth
        assert error in output


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_run_stays_up_until_it_is_told_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / ANEW).mkdir(parents=True)
    (tmp_path / ANEW / "identity.db").write_text("of other addresses")
    async with command(tmp_path, "run", "--free-ports", "--quiet") as process:
        assert process.stdout is not None
        welcome = ""
        async with asyncio.timeout(START):
            while "the story" not in welcome:
                welcome += (line := (await process.stdout.readline()).decode())
                assert line, welcome
        held = await RunningStack.found(tmp_path / ANEW)
        assert held is not None
        assert not (tmp_path / KEPT).exists()  # what `make run` keeps is of its own addresses
        for address in (held.addresses.issuer, held.addresses.orders, held.addresses.orders_grpc):
            assert address in welcome
        async with opened(held) as scene:
            token = (await scene.signed_in()).access_token
            await scene.accepted(token)
        if number == signal.SIGINT:  # what the story does to a stack that is somebody else's
            await held.poison(b"no envelope")

            async def buried() -> bool:
                return "UNREADABLE" in await held.dead_letters("list")

            await eventually(buried, within=30)
        children = descendants(process.pid)
        assert len(children) >= 3  # Redis, identity, orders

        process.send_signal(number)
        rest = (await asyncio.wait_for(process.stdout.read(), STOP)).decode()
        code = await process.wait()
        if number == signal.SIGKILL:  # not even then: the kernel ends its children
            assert code == -signal.SIGKILL
        else:
            assert code == 0, rest
            assert "Traceback" not in rest

        async def gone() -> bool:
            return not any(alive(pid) for pid in children)

        await eventually(gone, within=5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_run_ends_with_a_clear_line_when_a_part_dies(tmp_path: Path) -> None:
    async with command(tmp_path, "run", "--free-ports", "--quiet") as process:
        assert process.stdout is not None
        async with asyncio.timeout(START):
            while b"the story" not in (line := await process.stdout.readline()):
                assert line
        children = descendants(process.pid)
        (orders,) = [pid for pid in children if command_line(pid).endswith("-m orders")]
        os.kill(orders, signal.SIGKILL)
        rest = (await asyncio.wait_for(process.stdout.read(), STOP)).decode()
        assert await process.wait() == 1
        assert "orders ended" in rest
        assert "Traceback" not in rest
        assert not any(alive(pid) for pid in children)


async def test_a_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # busy already: so be it
            taken.bind(("127.0.0.1", 8001))
            taken.listen()
        async with command(tmp_path, "run") as process:
            assert process.stdout is not None
            output = (await asyncio.wait_for(process.stdout.read(), STOP)).decode()
            assert await process.wait() == 1
    (line,) = [line for line in output.splitlines() if line.strip() and "starting" not in line]
    assert line.startswith("port ")
    assert "8001" in line
    assert "busy" in line


@asynccontextmanager
async def command(folder: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m devstack`, in an empty folder; both its outputs in one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "devstack", *arguments),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "COLUMNS": "250"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def descendants(pid: int) -> list[int]:
    """Every process below that one."""
    children = [child for child in _all_processes() if parent(child) == pid]
    return [one for child in children for one in (child, *descendants(child))]


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return ["X", "0"]


def parent(pid: int) -> int:
    """Its parent; 0 when it is no more."""
    return int(_stat(pid)[1])


def alive(pid: int) -> bool:
    """Whether it runs; what has ended and was not yet waited for does not."""
    return _stat(pid)[0] not in "ZX"


def command_line(pid: int) -> str:
    """What it was started as."""
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
