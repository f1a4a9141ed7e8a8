"""The same system under docker compose: a `Target` whose faults are compose commands."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx2

from devstack.target import POISON, Addresses, Fault, Part, StackError

_COMMANDS: dict[Fault, tuple[str, ...]] = {
    "kill": ("kill",),
    "start": ("start",),
    "freeze": ("pause",),
    "thaw": ("unpause",),
}
_READY_SECONDS = 60.0


class Compose:
    """A compose stack that runs; `found` looks for it."""

    def __init__(self, folder: Path, addresses: Addresses) -> None:
        self._folder = folder
        self.addresses = addresses
        self.name = "compose"

    @classmethod
    async def found(cls, folder: Path) -> "Compose | None":
        """The stack that runs for the compose files of `folder`; None too where there is no Docker.

        Where it is, its own configuration says: COMPOSE_FILE and COMPOSE_PROJECT_NAME may have changed it.
        """
        try:
            listed = await _compose(folder, "ps", "--format", "json")
            services = [json.loads(line) for line in listed.splitlines() if line.startswith("{")]
            if not any(one.get("Service") == "identity" and one.get("State") == "running" for one in services):
                return None
            return cls(folder, _addresses(json.loads(await _compose(folder, "config", "--format", "json"))))
        except (StackError, OSError):
            return None

    async def fault(self, fault: Fault, part: Part) -> None:
        """Breaks a service, or brings it back.

        Raises:
            StackError: compose refused, or the service did not become ready.
        """
        if fault == "empty":
            if part != "redis":
                raise StackError(f"{part} cannot be emptied")
            await _compose(self._folder, "exec", "-T", "redis", "redis-cli", "flushall")
            return
        await _compose(self._folder, *_COMMANDS[fault], part)
        if fault == "start":
            await self._ready(part)

    async def dead_letters(self, *arguments: str) -> str:
        """See `Target`."""
        command = ("exec", "-T", "notifications", "python", "-m", "notifications", "dead-letters")
        return await _compose(self._folder, *command, *arguments)

    async def poison(self, payload: bytes) -> None:
        """See `Target`."""
        await _compose(self._folder, "exec", "-T", "notifications", "python", "-c", POISON, payload.hex())

    async def _ready(self, part: Part) -> None:
        at = self.addresses
        urls = {"identity": at.issuer, "orders": at.orders, "notifications": at.notifications, "session": at.session}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_SECONDS
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as http:
            while loop.time() < deadline:
                with contextlib.suppress(httpx2.HTTPError, StackError):
                    if part == "redis":
                        if "PONG" in await _compose(self._folder, "exec", "-T", "redis", "redis-cli", "ping"):
                            return
                    elif (await http.get(f"{urls[part]}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.1)
        raise StackError(f"{part} was not ready after {_READY_SECONDS:.0f} s")


def _addresses(configuration: dict[str, Any]) -> Addresses:
    services = configuration["services"]
    published = {
        (name, port["target"]): f"127.0.0.1:{port['published']}"
        for name in ("identity", "orders", "notifications", "session")
        for port in services[name]["ports"]
    }
    return Addresses(
        issuer=services["identity"]["environment"]["RESCIND_ISSUER"],
        identity_grpc=published["identity", 9001],
        orders=f"http://{published['orders', 8002]}",
        orders_grpc=published["orders", 9002],
        notifications=f"http://{published['notifications', 8003]}",
        notifications_grpc=published["notifications", 9003],
        session="http://" + published["session", 8000].replace("127.0.0.1", "localhost"),
        session_grpc=published["session", 9000],
    )


async def _compose(folder: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "docker", "compose", *arguments,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    if process.returncode != 0:
        raise StackError(f"docker compose {arguments[0]} failed: {error.decode(errors='replace').strip()[-400:]}")
    return out.decode(errors="replace")
