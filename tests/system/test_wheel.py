"""The library on its own: its wheel in an empty environment, and the programs of its README against a real system."""

import asyncio
import re
import subprocess
import sys
import venv
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import httpx2
import pytest
import pytest_asyncio

from devstack.process import Process
from devstack.stack import Stack, free_port
from devstack.story import opened
from support.eventually import eventually

LIBRARY = Path(__file__).parents[2] / "libs" / "rescind"
EXTRAS = "fastapi,grpc,redis"

pytestmark = pytest.mark.timeout(300)
shares_the_stack = pytest.mark.asyncio(loop_scope="session")


def _programs() -> dict[str, str]:
    """The README's programs, by the name in the comment above each."""
    text = (LIBRARY / "README.md").read_text()
    return dict(re.findall(r"<!-- program: (\w+) -->\n```python\n(.*?)```", text, re.DOTALL))


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment that holds the wheel, what it needs, and nothing of ours."""

    python: str

    def program(self, name: str, stack: Stack, folder: Path) -> Path:
        """A README program in a folder of its own, with this stack's addresses in the place of the documented ones."""
        addresses = stack.addresses
        text = (
            _programs()[name]
            .replace("http://localhost:8001", addresses.issuer)
            .replace("localhost:9001", addresses.identity_grpc)
            .replace("redis://localhost:6379", stack.redis_url)
        )
        path = folder / f"{name}_program.py"
        path.write_text(text)
        return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Builds the wheel and installs it as the README says."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(LIBRARY)], check=True, timeout=120)
    (wheel,) = folder.glob("rescind-*.whl")
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    # uvicorn only serves the FastAPI program; the versions are the ones that everything else here is tested with.
    constraints = folder / "constraints.txt"
    lock = (LIBRARY.parents[1] / "locks" / "dev.lock").read_text()
    constraints.write_text("\n".join(re.findall(r"^[A-Za-z0-9_.-]+==[^\s;\\]+(?= ;| \\)", lock, re.MULTILINE)))
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(constraints)]
    subprocess.run([*install, f"{wheel}[{EXTRAS}]", "uvicorn"], check=True, timeout=240)
    return Installed(python)


@pytest_asyncio.fixture(loop_scope="session")
async def token(stack: Stack) -> AsyncIterator[tuple[str, object]]:
    """A person's token for orders, and a browser that can sign her out."""
    async with opened(stack) as scene:
        browser = scene.browser()
        yield (await scene.signed_in(browser=browser)).access_token, browser


def test_it_holds_the_library_and_nothing_else(installed: Installed) -> None:
    """No package of ours comes along, and none is needed to import any part."""
    modules = ["rescind", "rescind.fastapi", "rescind.grpc", "rescind.connect"]
    code = f"import importlib, sys; [importlib.import_module(m) for m in {modules}]; print(sorted(sys.modules))"
    said = subprocess.run([installed.python, "-c", code], check=True, capture_output=True, text=True, cwd="/").stdout
    for ours in ("contracts", "servicekit", "devstack", "identity", "orders"):
        assert f"'{ours}'" not in said


def test_it_imports_without_any_extra(tmp_path: Path) -> None:
    """`import rescind` touches neither FastAPI, gRPC nor Redis."""
    code = "import sys, rescind; print([m for m in ('fastapi', 'grpc', 'redis', 'jwt') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert said.stdout.strip() == "[]"


@shares_the_stack
async def test_the_fastapi_program(
    installed: Installed, stack: Stack, token: tuple[str, object], tmp_path: Path
) -> None:
    """Lets a good token through, and refuses it once its holder has signed out."""
    good, browser = token
    port = free_port()
    path = installed.program("fastapi", stack, tmp_path)
    command = [installed.python, "-m", "uvicorn", "--port", str(port), "--app-dir", str(tmp_path), f"{path.stem}:app"]
    process = Process("program", command, {"PYTHONPATH": ""}, lambda *_: None)
    await process.start()
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as web:

            async def answered() -> httpx2.Response | None:
                try:
                    response = await web.get("/hello", headers={"authorization": f"Bearer {good}"})
                except httpx2.TransportError:
                    return None
                return None if response.status_code == 503 else response

            accepted = await eventually(answered, within=20)
            assert accepted.status_code == 200, "\n".join(process.tail)
            assert accepted.json()["hello"].startswith("usr_")
            assert (await web.get("/hello")).headers["www-authenticate"] == "Bearer"
            await browser.sign_out()  # type: ignore[attr-defined]

            async def refused() -> httpx2.Response | None:
                response = await web.get("/hello", headers={"authorization": f"Bearer {good}"})
                return response if response.status_code == 401 else None

            answer = await eventually(refused, within=2)
            assert answer.json()["reason"] == "TOKEN_REVOKED"
    finally:
        await process.stop()


@shares_the_stack
async def test_the_grpc_program(installed: Installed, stack: Stack, token: tuple[str, object], tmp_path: Path) -> None:
    """The same over gRPC; and a method without a rule is refused."""
    good, browser = token
    port = free_port()
    path = installed.program("grpc", stack, tmp_path)
    path.write_text(path.read_text().replace("127.0.0.1:50051", f"127.0.0.1:{port}"))
    process = Process("program", [installed.python, str(path)], {"PYTHONPATH": ""}, lambda *_: None)
    await process.start()
    metadata = grpc.aio.Metadata(("authorization", f"Bearer {good}"))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/demo.Greeter/Hello")

            async def code() -> tuple[grpc.StatusCode, bytes]:
                try:
                    return grpc.StatusCode.OK, await call(b"", metadata=metadata, timeout=2)
                except grpc.aio.AioRpcError as failure:
                    return failure.code(), str(failure.details()).encode()

            async def settled() -> tuple[grpc.StatusCode, bytes] | None:
                answer = await code()
                return None if answer[0] is grpc.StatusCode.UNAVAILABLE else answer

            status, said = await eventually(settled, within=20)
            assert (status, said[:10]) == (grpc.StatusCode.OK, b"hello usr_"), "\n".join(process.tail)
            await browser.sign_out()  # type: ignore[attr-defined]

            async def refused() -> bytes | None:
                status, said = await code()
                return said if status is grpc.StatusCode.UNAUTHENTICATED else None

            assert await eventually(refused, within=2) == b"TOKEN_REVOKED"
    finally:
        await process.stop()
        await asyncio.sleep(0)
