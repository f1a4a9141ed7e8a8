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

from devstack.seeds import CATALOGUE as CATALOGUE_OF_DEVSTACK
from support.orders_wires import CATALOGUE

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


async def _command(environment: dict[str, str], *words: str, given: str = "") -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "orders", *words, env=environment, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(given.encode()), 60)
    return process.returncode, out.decode().strip(), err.decode().strip()


async def test_the_shop_is_opened_by_one_command_that_may_be_repeated(tmp_path: Path) -> None:
    database = {"ORDERS_DATABASE_URL": f"sqlite:///{tmp_path / 'orders.db'}"}
    needed = {
        name: value for name, value in _environment(tmp_path).items() if name in ("PATH", "PYTHONPATH")
    } | database
    assert await _command(needed, "migrate") == (0, "the schema is up to date", "")
    assert await _command(needed, "seed", given=CATALOGUE.read_text()) == (0, "12 added", "")
    assert await _command(needed, "seed", given=CATALOGUE.read_text()) == (0, "0 added", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{", "seed failed: 1 faults in the file, the first: : Invalid JSON"),
        (
            '{"currency": "EUR", "products": [{"sku": "a"}]}',
            "seed failed: 3 faults in the file, the first: products.0.",
        ),
        (
            '{"currency": "EUR", "products": [{"sku": "a b", "name": "A", "price": 1, "stock": 1}]}',
            "seed failed: sku: must be 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
    ],
)
async def test_a_catalogue_that_cannot_be_is_refused_in_one_line(tmp_path: Path, given: str, said: str) -> None:
    code, out, err = await _command(_environment(tmp_path), "seed", given=given)
    assert (code, out, err.count("\n")) == (1, "", 0)
    assert err.startswith(said)


def test_both_runs_open_the_same_shop() -> None:
    assert json.loads(CATALOGUE.read_text()) == CATALOGUE_OF_DEVSTACK
