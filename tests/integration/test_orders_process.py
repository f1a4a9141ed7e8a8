"""Orders as a process: what it says when it cannot start, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

NOWHERE = "127.0.0.1:1"  # nobody listens there


def _environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    """A good environment, all ports free ones; identity and Redis are not there."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RESCIND_REDIS_URL": f"redis://user:hunter2@{NOWHERE}/0",
        "RESCIND_IDENTITY_URL": f"http://{NOWHERE}",
        "RESCIND_IDENTITY_GRPC": NOWHERE,
        "RESCIND_START_WITHOUT_REDIS": "true",
        "ORDERS_DATABASE_URL": f"sqlite:///{tmp_path / 'orders.db'}",
        "ORDERS_CLIENT_SECRET": "orders-secret",
        "ORDERS_HTTP_PORT": "0",
        "ORDERS_GRPC_PORT": "0",
        "ORDERS_METRICS_PORT": "0",
    }
    return {name: value for name, value in (environment | changes).items() if value}


@asynccontextmanager
async def _orders(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orders", env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _fails(environment: dict[str, str]) -> tuple[int | None, list[str]]:
    async with _orders(environment) as process:
        _, err = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode, err.decode().splitlines()


async def test_missing_and_wrong_variables_are_all_told_at_once(tmp_path: Path) -> None:
    environment = _environment(tmp_path, ORDERS_CLIENT_SECRET="", ORDERS_HTTP_PORT="x", ORDERS_READ_STALENESS="soon")
    assert await _fails(environment) == (
        2,
        [
            "ORDERS_CLIENT_SECRET is not set",
            "ORDERS_HTTP_PORT: Input should be a valid integer, unable to parse string as an integer",
            "ORDERS_READ_STALENESS: must be strict, best_effort, or a number of seconds",
        ],
    )


async def test_an_unreachable_redis_is_one_clear_line(tmp_path: Path) -> None:
    code, lines = await _fails(_environment(tmp_path, RESCIND_START_WITHOUT_REDIS=""))
    assert code == 1
    (line,) = lines
    assert line.startswith(f"orders cannot start: no Redis at redis://{NOWHERE}/0 (RESCIND_REDIS_URL): ")
    assert "hunter2" not in line


async def test_a_redis_that_accepts_and_never_answers_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        code, lines = await _fails(_environment(tmp_path, RESCIND_START_WITHOUT_REDIS="", RESCIND_REDIS_URL=url))
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"orders cannot start: no Redis at {url} (RESCIND_REDIS_URL): ")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (f"postgresql://orders:hunter2@{NOWHERE}/orders", f"postgresql://{NOWHERE}/orders"),
        ("sqlite:////no/such/folder/orders.db", "sqlite:////no/such/folder/orders.db"),
    ],
)
async def test_an_unreachable_database_is_one_clear_line(tmp_path: Path, url: str, place: str) -> None:
    code, lines = await _fails(_environment(tmp_path, ORDERS_DATABASE_URL=url))
    assert code == 1
    (line,) = lines
    assert line.startswith(f"orders cannot start: no database at {place} (ORDERS_DATABASE_URL): ")
    assert "hunter2" not in line


@pytest.mark.parametrize("variable", ["ORDERS_HTTP_PORT", "ORDERS_GRPC_PORT", "ORDERS_METRICS_PORT"])
async def test_a_busy_port_is_one_clear_line(tmp_path: Path, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = await _fails(_environment(tmp_path, **{variable: str(port)}))
    assert code == 1
    assert lines == [f"orders cannot start: cannot listen on 127.0.0.1:{port} (set {variable}): Address already in use"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_runs_says_that_it_is_syncing_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    async with _orders(_environment(tmp_path)) as process, httpx2.AsyncClient() as client:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while (line := json.loads(await process.stdout.readline()))["event"] != "started":
                assert line["service"] == "orders"
        base = f"http://127.0.0.1:{line['http']}"
        ready = await client.get(f"{base}/readyz")
        assert ready.status_code == 503
        assert ready.json()["freshness"] == "SYNCING"
        refused = await client.get(f"{base}/v1/orders", headers={"authorization": "Bearer a.b.c"})
        assert refused.status_code in (401, 503)
        metrics = (await client.get(f"http://127.0.0.1:{line['metrics']}/metrics")).text
        assert 'rescind_freshness{state="SYNCING"} 1.0' in metrics
        process.send_signal(number)
        out, err = await asyncio.wait_for(process.communicate(), 10)
        assert process.returncode == 0, err.decode()
        assert err == b""
        assert json.loads(out.splitlines()[-1])["event"] == "stopped"
        assert b"hunter2" not in out
        assert b"orders-secret" not in out
