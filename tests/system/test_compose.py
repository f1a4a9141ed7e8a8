"""The stack under docker compose: comes up with one command, is not root, cannot write to itself, and tells the story."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICES = ("identity", "orders")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stack() -> Iterator[None]:
    """What `make up` starts, stopped by what `make down` does."""
    up = _run("make", "up")
    assert up.returncode == 0, up.stderr[-3000:]
    try:
        yield
    finally:
        _run("make", "down")


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("service", SERVICES)
def test_images_run_as_nobody_special_and_cannot_write_to_themselves(service: str) -> None:
    """Not root, a read-only root file system, no capabilities."""
    user = _run("docker", "compose", "exec", "-T", service, "id", "-u")
    assert user.stdout.strip() == "10001"
    write = _run("docker", "compose", "exec", "-T", service, "touch", "/app/x")
    assert write.returncode != 0
    assert "Read-only file system" in write.stderr
    status = _run("docker", "compose", "exec", "-T", service, "cat", "/proc/1/status").stdout
    assert "CapEff:\t0000000000000000" in status


@pytest.mark.usefixtures("stack")
def test_an_image_holds_one_service() -> None:
    """Orders' image has no line of identity's code, nor what only identity needs."""
    listed = _run("docker", "compose", "exec", "-T", "orders", "ls", "/app/services").stdout.split()
    assert listed == ["orders"]
    imported = _run("docker", "compose", "exec", "-T", "orders", "python", "-c", "import authlib")
    assert "ModuleNotFoundError" in imported.stderr


@pytest.mark.usefixtures("stack")
def test_the_story_against_compose() -> None:
    """`make demo` finds the stack and every step goes as it should."""
    told = _run("make", "demo", "TARGET=compose")
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-2000:]
    assert "all as they should be" in told.stdout


@pytest.mark.usefixtures("stack")
def test_logs_hold_no_secret() -> None:
    """After the story: no token, password or e-mail address in any log."""
    logs = _run("docker", "compose", "logs", "identity", "orders").stdout
    assert "request" in logs
    for secret in ("eyJ", "correct-horse", "@example.com", "-secret"):
        assert secret not in logs
