"""The whole system as processes, and more processes of its services beside it: what the tests of faults break.

`scene` is the story's: clients for the wires of one orders process. `Verifier` is one more orders process, with a scene
of its own, so that several can be asked about one token.
"""

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2

from devstack.process import Process
from devstack.stack import Ports, Stack
from devstack.story import Scene, opened
from devstack.target import Addresses, Fault, Part, StackError
from support.eventually import eventually
from support.orders_wires import stock

MAX_STALENESS = 3.0  # seconds; of every verifier here
CATCH_UP = 5.0  # seconds that a verifier has to be fresh again, whatever happened
START = 30.0  # seconds that a process has to say that it started, on a machine with much else to do


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A target that is not ours to break: other processes of the same system."""

    addresses: Addresses
    name: str = "another"

    async def fault(self, fault: Fault, part: Part) -> None:
        """Refuses: processes that a test starts, it stops itself."""
        raise StackError(f"{self.name} has no {part} to {fault}")

    async def dead_letters(self, *arguments: str) -> str:
        """Refuses likewise."""
        raise StackError(f"{self.name} has no dead letters to {arguments[0]}")

    async def poison(self, payload: bytes) -> None:
        """Refuses likewise."""
        raise StackError(f"{self.name} has no stream to poison")


@dataclass(frozen=True, slots=True)
class Verifier:
    """An orders process: its wires, and what it says of itself."""

    scene: Scene

    async def says(self) -> dict[str, Any]:
        """What /readyz says; empty while there is no answer."""
        return await ready(self.scene.web, self.scene.target.addresses.orders)

    async def fresh(self) -> dict[str, Any]:
        """What it says, if it says that it is FRESH; empty otherwise."""
        said = await self.says()
        return said if said.get("freshness") == "FRESH" else {}


async def ready(web: httpx2.AsyncClient, url: str) -> dict[str, Any]:
    """What /readyz of a service says; empty while there is no answer."""
    try:
        said: dict[str, Any] = (await web.get(f"{url}/readyz", timeout=2)).json()
    except httpx2.HTTPError:
        return {}
    return said


@contextlib.asynccontextmanager
async def running(part: Part, environment: Mapping[str, str], lines: list[str]) -> AsyncIterator[dict[str, Any]]:
    """A service as a process, on ports of its own choosing; gives what it said when it had started.

    Raises:
        AssertionError: it ended instead.
    """
    port = f"{part.upper()}_{{}}_PORT"
    ports = {port.format(wire): "0" for wire in ("HTTP", "GRPC", "METRICS")}
    said: list[dict[str, Any]] = []

    def hear(_name: str, line: str) -> None:
        lines.append(line)
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and fields.get("event") == "started":
                said.append(fields)

    process = Process(part, [sys.executable, "-m", part], {**environment, **ports}, hear)
    await process.start()
    try:

        async def started() -> list[dict[str, Any]]:
            assert process.running, "\n".join(lines)
            return said

        yield (await eventually(started, within=START))[0]
    finally:
        await process.stop()


@contextlib.asynccontextmanager
async def another_orders(stack: Stack, folder: Path, **changes: str) -> AsyncIterator[Verifier]:
    """One more orders process beside the stack's, with a shop of its own and `changes` to its environment."""
    lines: list[str] = []
    environment = stack.environment("orders") | {"ORDERS_DATABASE_URL": f"sqlite:///{folder}/another.db"} | changes
    await stock(environment["ORDERS_DATABASE_URL"])
    async with running("orders", environment, lines) as started:
        addresses = replace(
            stack.addresses,
            orders=f"http://127.0.0.1:{started['http']}",
            orders_grpc=f"127.0.0.1:{started['grpc']}",
        )
        async with opened(Elsewhere(addresses)) as scene:
            yield Verifier(scene)


@contextlib.asynccontextmanager
async def a_stack(
    folder: Path, commands: Mapping[Part, Sequence[str]] | None = None, **env: str
) -> AsyncIterator[Stack]:
    """An embedded system on free ports. What its processes said is shown when the test fails."""
    lines: list[str] = []

    def hear(name: str, line: str) -> None:
        lines.append(f"{name}: {line}")

    try:
        async with Stack(folder, Ports.free(), hear, env, commands) as stack:
            yield stack
    except BaseException:
        sys.stderr.write("\n".join(lines[-60:]))
        raise


async def healthy(stack: Stack, verifier: Verifier) -> None:
    """Mends what a test broke, and waits until the verifier is fresh."""
    for part in ("redis", "identity", "orders"):
        await stack.fault("thaw", part)
        with contextlib.suppress(StackError):  # it runs already
            await stack.fault("start", part)
    await eventually(verifier.fresh, within=2 * CATCH_UP)
