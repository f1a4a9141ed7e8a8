"""The stack under docker compose: up with one command, not root, unable to write to itself, and telling the story."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.stack import Ports

ROOT = Path(__file__).parents[2]
SERVICES = ("identity", "orders", "notifications", "session")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def _elsewhere(ports: Ports, seeds: Path) -> str:
    """A compose file that moves every published port to a free one, with seeds that know the session service there."""
    return f"""services:
  seed:
    environment: {{RESCIND_ISSUER: "http://localhost:{ports.identity}"}}
    volumes: ["{seeds}:/seeds.json:ro"]
  identity:
    environment: {{RESCIND_ISSUER: "http://localhost:{ports.identity}"}}
    ports: !override ["127.0.0.1:{ports.identity}:8001", "127.0.0.1:{ports.identity_grpc}:9001"]
  orders:
    environment: {{RESCIND_ISSUER: "http://localhost:{ports.identity}"}}
    ports: !override ["127.0.0.1:{ports.orders}:8002", "127.0.0.1:{ports.orders_grpc}:9002"]
  notifications:
    environment: {{RESCIND_ISSUER: "http://localhost:{ports.identity}"}}
    ports: !override ["127.0.0.1:{ports.notifications}:8003", "127.0.0.1:{ports.notifications_grpc}:9003"]
  session:
    environment:
      RESCIND_ISSUER: "http://localhost:{ports.identity}"
      SESSION_PUBLIC_URL: "http://localhost:{ports.session}"
    ports: !override ["127.0.0.1:{ports.session}:8000", "127.0.0.1:{ports.session_grpc}:9000"]
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """What `make up` starts, stopped by what `make down` does.

    It is a compose project of its own at ports of its own: `make down` forgets data, and a person's stack may be up.
    """
    ports = Ports.free()
    folder = tmp_path_factory.mktemp("compose")
    seeds, elsewhere = folder / "seeds.json", folder / "elsewhere.yml"
    given = (ROOT / "deploy" / "seeds.json").read_text()
    seeds.write_text(given.replace("http://localhost:8000/", f"http://localhost:{ports.session}/"))
    elsewhere.write_text(_elsewhere(ports, seeds))
    with pytest.MonkeyPatch.context() as patch:
        project = os.environ.get("RESCIND_TEST_COMPOSE_PROJECT", f"rescind-test-{os.getpid()}")
        patch.setenv("COMPOSE_PROJECT_NAME", project)
        patch.setenv("COMPOSE_FILE", f"docker-compose.yml{os.pathsep}{elsewhere}")
        up = _run("make", "up")
        try:
            assert up.returncode == 0, up.stderr[-3000:]
            yield ports
        finally:
            down = _run("make", "down")
        assert down.returncode == 0, down.stderr[-3000:]
        assert _run("docker", "compose", "ps", "--all", "--quiet").stdout == ""


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
