"""The same system under docker compose, at the documented ports: a `Target` whose faults are compose commands."""

import asyncio
import contextlib
import json
from pathlib import Path

import httpx2

from devstack.target import Addresses, Fault, Part, StackError

_COMMANDS: dict[Fault, tuple[str, ...]] = {
    "kill": ("kill",),
    "start": ("start",),
    "freeze": ("pause",),
    "thaw": ("unpause",),
}
_READY_SECONDS = 60.0


class Compose:
    """A stack that `make up` started in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        """What it is."""
        return "compose"

    @property
    def addresses(self) -> Addresses:
        """Where it is."""
        return Addresses(
            issuer="http://localhost:8001",
            identity_grpc="127.0.0.1:9001",
            orders="http://127.0.0.1:8002",
            orders_grpc="127.0.0.1:9002",
        )

    async def running(self) -> bool:
        """Whether identity runs under compose here; False also where there is no Docker."""
        with contextlib.suppress(StackError, OSError):
            listed = await self._compose("ps", "--format", "json")
            services = [json.loads(line) for line in listed.splitlines() if line.startswith("{")]
            return any(one.get("Service") == "identity" and one.get("State") == "running" for one in services)
        return False

    async def fault(self, fault: Fault, part: Part) -> None:
        """Breaks a service, or brings it back.

        Raises:
            StackError: compose refused, or the service did not become ready.
        """
        await self._compose(*_COMMANDS[fault], part)
        if fault == "start":
            await self._ready(part)

    async def _ready(self, part: Part) -> None:
        urls = {"identity": self.addresses.issuer, "orders": self.addresses.orders}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_SECONDS
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as http:
            while loop.time() < deadline:
                with contextlib.suppress(httpx2.HTTPError, StackError):
                    if part == "redis":
                        if "PONG" in await self._compose("exec", "-T", "redis", "redis-cli", "ping"):
                            return
                    elif (await http.get(f"{urls[part]}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise StackError(f"{part} was not ready after {_READY_SECONDS:.0f} s")

    async def _compose(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "docker", "compose", *arguments,
            cwd=self._folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        if process.returncode != 0:
            raise StackError(f"docker compose {arguments[0]} failed: {error.decode(errors='replace').strip()[-400:]}")
        return out.decode(errors="replace")
