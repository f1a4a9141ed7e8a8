"""The stack under docker compose: up with one command, not root, unable to write to itself, and telling the story."""

import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from devstack.stack import Ports
from rescind.messages import REDIS_STREAM_PREFIX
from support.eventually import eventually
from support.session_window import ADMIN, BOB, Window

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
    environment:
      RESCIND_ISSUER: "http://localhost:{ports.identity}"
      NOTIFICATIONS_APP_URL: "http://localhost:{ports.session}"
    ports: !override ["127.0.0.1:{ports.notifications}:8003", "127.0.0.1:{ports.notifications_grpc}:9003"]
  session:
    environment:
      RESCIND_ISSUER: "http://localhost:{ports.identity}"
      # It has a key to say who it is with, and so no use for the secret.
      SESSION_WEB_CLIENT_SECRET: not-the-secret
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


def _mails(service: str) -> str:
    return _run("docker", "compose", "exec", "-T", service, "sh", "-c", "cat /outbox/*.eml").stdout


@asynccontextmanager
async def _window(ports: Ports) -> AsyncIterator[Window]:
    async with httpx2.AsyncClient(timeout=20, follow_redirects=False, trust_env=False) as http:
        yield Window(http, f"http://localhost:{ports.session}", f"http://localhost:{ports.identity}")


async def test_the_image_of_session_holds_the_web_app(stack: Ports) -> None:
    """The page, and the scripts and styles beside it."""
    async with _window(stack) as window:
        page = await window.navigate("/")
        assert page.status_code == 200
        assert "<title>" in page.text
        web = ROOT / "services" / "session" / "web"
        for file in sorted(web.rglob("*.js")):
            served = await window.navigate(f"/static/{file.relative_to(web).as_posix()}")
            assert served.status_code == 200, file
            assert served.content == file.read_bytes()


async def test_an_order_in_the_browser_is_told_in_the_inbox_and_by_mail(stack: Ports) -> None:
    """Sign-in by private_key_jwt and PAR, orders, its events, notifications and the mail folder: all that is wired."""
    async with _window(stack) as window:
        started = await window.navigate("/auth/login")
        assert "request_uri=" in started.headers["location"]
        await window.sign_in(BOB)
        products = (await window.get("/api/products")).json()["products"]
        order = await window.post(
            "/api/orders", {"items": [{"sku": products[0]["sku"], "quantity": 1}]}, idempotency_key="compose-1"
        )
        assert order.status_code == 201, order.text

        async def told() -> bool:
            return order.json()["id"] in (await window.get("/api/notifications")).text

        async def mailed() -> bool:
            return f"To: {BOB}" in _mails("notifications")

        assert await eventually(told, within=30)
        assert await eventually(mailed, within=30)


async def test_a_sign_out_at_identity_reaches_the_session_service(stack: Ports) -> None:
    """By the back channel: identity counts the logout token as taken, and the browser is signed out."""
    async with _window(stack) as window:
        await window.sign_in(BOB)
        assert (await window.get("/api/me")).status_code == 200
        await window.identity.sign_out()

        async def signed_out() -> bool:
            return (await window.get("/api/me")).status_code == 401

        async def taken() -> bool:
            read = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8101/metrics').read().decode())"
            lines = _run("docker", "compose", "exec", "-T", "identity", "python", "-c", read).stdout.splitlines()
            return any(line.startswith('logout_tokens_total{outcome="taken"}') for line in lines)

        assert await eventually(signed_out, within=30)
        assert await eventually(taken, within=30)


async def test_whoever_wants_an_account_gets_a_mail_of_identity(stack: Ports) -> None:
    """Its folder can be written to although the image cannot, and the link leads to where identity is published."""
    async with _window(stack) as window:
        await window.identity.submit(await window.identity.open("/signup"), "/signup", email="carol@example.com")

        async def mailed() -> bool:
            mail = _mails("identity")
            return "To: carol@example.com" in mail and f"http://localhost:{stack.identity}/signup/finish" in mail

        assert await eventually(mailed, within=30)


@pytest.mark.usefixtures("stack")
def test_the_story_against_compose() -> None:
    """`make demo` finds the stack and every step goes as it should."""
    told = _run("make", "demo", "TARGET=compose")
    assert told.returncode == 0, told.stdout[-5000:] + told.stderr[-2000:]
    assert "all as they should be" in told.stdout


async def test_what_the_control_room_says_to_type_breaks_redis_and_mends_it(stack: Ports) -> None:
    """Each of the commands, in this order; whoever may look and not break is told to type them."""
    async with _window(stack) as window, httpx2.AsyncClient(trust_env=False) as http:
        await window.sign_in(ADMIN)
        said = (await window.get("/api/control/faults")).json()
        assert said["available"] is False
        commands = {one["fault"]: one["command"] for one in said["commands"] if one["part"] == "redis"}
        for fault, state in (("freeze", "paused"), ("thaw", "running"), ("kill", "exited"), ("start", "running")):
            typed = _run(*shlex.split(commands[fault]))
            assert typed.returncode == 0, typed.stderr
            assert _run("docker", "compose", "ps", "--all", "--format", "{{.State}}", "redis").stdout.strip() == state
        assert _run(*shlex.split(commands["empty"])).stdout.strip() == "OK"

        async def fresh() -> bool:
            return bool((await http.get(f"http://localhost:{stack.orders}/readyz")).json()["freshness"] == "FRESH")

        async def mended() -> bool:
            keys = _run("docker", "compose", "exec", "-T", "redis", "redis-cli", "--raw", "keys", "*").stdout
            return REDIS_STREAM_PREFIX in keys

        assert await eventually(mended, within=30)
        assert await eventually(fresh, within=30)


@pytest.mark.usefixtures("stack")
def test_logs_hold_no_secret() -> None:
    """After the story: no token, password or e-mail address in any log."""
    logs = _run("docker", "compose", "logs").stdout
    assert "request" in logs
    for secret in ("eyJ", "correct-horse", "@example.com", "-secret", "PRIVATE KEY"):
        assert secret not in logs
