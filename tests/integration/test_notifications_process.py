"""Notifications as a process: what it says when it cannot start, and how it ends with a stream open."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

NOWHERE = "127.0.0.1:1"  # nobody listens there
WITHIN = 30.0


def _environment(tmp_path: Path, **changes: str) -> dict[str, str]:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RESCIND_REDIS_URL": f"redis://user:hunter2@{NOWHERE}/0",
        "RESCIND_IDENTITY_URL": f"http://{NOWHERE}",
        "RESCIND_IDENTITY_GRPC": NOWHERE,
        "RESCIND_START_WITHOUT_REDIS": "true",
        "RESCIND_MAIL_URL": f"smtp://user:hunter2@{NOWHERE}",
        "NOTIFICATIONS_DATABASE_URL": f"sqlite:///{tmp_path / 'notifications.db'}",
        "NOTIFICATIONS_CLIENT_SECRET": "hunter2",
        "NOTIFICATIONS_HTTP_PORT": "0",
        "NOTIFICATIONS_GRPC_PORT": "0",
        "NOTIFICATIONS_METRICS_PORT": "0",
    }
    return {name: value for name, value in (environment | changes).items() if value}


@asynccontextmanager
async def _started(environment: dict[str, str], *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "notifications", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_missing_and_wrong_variables_are_all_told_at_once(tmp_path: Path) -> None:
    changes = {
        "NOTIFICATIONS_CLIENT_SECRET": "",
        "RESCIND_MAIL_URL": "http://mail",
        "RESCIND_MAIL_FROM": "nobody",
        "NOTIFICATIONS_ALLOWED_ORIGINS": "https://app.example.com/path",
        "NOTIFICATIONS_APP_URL": "app/",
    }
    async with _started(_environment(tmp_path, **changes)) as process:
        _, err = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode == 2
    assert [line.partition(":")[0] for line in err.decode().splitlines()] == [
        "NOTIFICATIONS_ALLOWED_ORIGINS", "NOTIFICATIONS_APP_URL", "NOTIFICATIONS_CLIENT_SECRET is not set",
        "RESCIND_MAIL_FROM", "RESCIND_MAIL_URL",
    ]  # fmt: skip
    assert "hunter2" not in err.decode()


async def test_it_starts_with_nobody_there_and_ends_when_it_is_told(tmp_path: Path) -> None:
    async with _started(_environment(tmp_path)) as process:
        assert process.stdout is not None
        started: dict = {}
        said = b""
        async with asyncio.timeout(WITHIN):
            while started.get("event") != "started":
                said += (line := await process.stdout.readline())
                started = json.loads(line)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{started['http']}", trust_env=False) as http:
            assert (await http.get("/livez")).status_code == 200
            assert (await http.get("/readyz")).json()["freshness"] == "SYNCING"
            assert (await http.get("/v1/notifications")).status_code == 401
        process.send_signal(signal.SIGTERM)
        out, err = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode == 0, err.decode()
    assert b"hunter2" not in said + out + err
    assert b"Traceback" not in said + out + err


async def test_a_command_without_a_database_says_so(tmp_path: Path) -> None:
    environment = _environment(
        tmp_path, NOTIFICATIONS_DATABASE_URL=f"postgresql://user:hunter2@{NOWHERE}/notifications"
    )
    async with _started(environment, "mails", "list") as process:
        out, err = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode == 1
    assert err.decode().strip() == "no database: DATABASE_UNAVAILABLE"
    assert out == b""
