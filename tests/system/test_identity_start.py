"""Identity that cannot start says why in one clear line and ends with an error; orders does so in its own test."""

import asyncio
import os
import secrets
import socket
import sqlite3
import sys
from base64 import b64encode
from pathlib import Path

import pytest

from support.identity_core import NO_REDIS, SECRET_KEYS

NOWHERE = "127.0.0.1:1"  # nobody listens there


async def fails(folder: Path, **changes: str) -> tuple[int | None, list[str]]:
    """The exit code and the lines on stderr of an identity with these changes to a good environment."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "RESCIND_REDIS_URL": NO_REDIS,
        "IDENTITY_DATABASE_URL": f"sqlite:///{folder / 'identity.db'}",
        "IDENTITY_SECRET_KEYS": SECRET_KEYS,
        **dict.fromkeys(("IDENTITY_HTTP_PORT", "IDENTITY_GRPC_PORT", "IDENTITY_METRICS_PORT"), "0"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "identity"),
        env={name: value for name, value in (environment | changes).items() if value},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, error = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return process.returncode, error.decode().splitlines()


async def test_missing_and_wrong_variables_are_all_told_at_once(tmp_path: Path) -> None:
    short = "k1:" + b64encode(secrets.token_bytes(16)).decode()
    changes = {"RESCIND_REDIS_URL": "", "IDENTITY_DATABASE_URL": "", "IDENTITY_SECRET_KEYS": short}
    code, lines = await fails(tmp_path, IDENTITY_HTTP_PORT="x", **changes)
    assert code == 2
    assert sorted(line.split(":")[0] for line in lines) == [
        "IDENTITY_DATABASE_URL is not set",
        "IDENTITY_HTTP_PORT",
        "IDENTITY_SECRET_KEYS",
        "RESCIND_REDIS_URL is not set",
    ]
    assert "'k1' has 16 bytes instead of 32" in "\n".join(lines)
    assert short not in "\n".join(lines)


async def test_an_unreachable_redis_is_one_clear_line(tmp_path: Path) -> None:
    code, lines = await fails(tmp_path, RESCIND_REDIS_URL=f"redis://user:hunter2@{NOWHERE}/0")
    assert code == 1
    (line,) = lines
    assert line.startswith(f"identity cannot start: no Redis at redis://{NOWHERE}/0 (RESCIND_REDIS_URL): ")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (f"postgresql://identity:hunter2@{NOWHERE}/identity", f"postgresql://{NOWHERE}/identity"),
        ("sqlite:////no/such/folder/identity.db", "sqlite:////no/such/folder/identity.db"),
    ],
)
async def test_an_unreachable_database_is_one_clear_line(tmp_path: Path, url: str, place: str) -> None:
    code, lines = await fails(tmp_path, IDENTITY_DATABASE_URL=url)
    assert code == 1
    (line,) = lines
    assert line.startswith(f"identity cannot start: no database at {place} (IDENTITY_DATABASE_URL): ")
    assert "hunter2" not in line


async def test_a_file_that_is_no_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "identity.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "identity.db").execute("SELECT 1 FROM sqlite_master")
    code, lines = await fails(tmp_path)
    assert code == 1
    (line,) = lines
    assert line.startswith("identity cannot start: no database at ")


@pytest.mark.parametrize("variable", ["IDENTITY_HTTP_PORT", "IDENTITY_GRPC_PORT", "IDENTITY_METRICS_PORT"])
async def test_a_busy_port_is_one_clear_line(tmp_path: Path, embedded_redis_url: str, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = await fails(tmp_path, RESCIND_REDIS_URL=embedded_redis_url, **{variable: str(port)})
    assert code == 1
    assert lines == [
        f"identity cannot start: cannot listen on 127.0.0.1:{port} (set {variable}): Address already in use"
    ]
