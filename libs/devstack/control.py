"""Lets another process of this machine and user break a stack that `make run` holds: one line of JSON, one answer.

The socket lies in the stack's own folder, which only its user may enter.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path

from devstack.stack import CONTROL_SOCKET, Stack
from devstack.target import FAULTS, PARTS, Addresses, Fault, Part, StackError


@contextlib.asynccontextmanager
async def controlled(stack: Stack, folder: Path) -> AsyncIterator[None]:
    """Answers commands for `stack` during the block."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = json.loads(await reader.readline())
            if command.get("fault") is not None:
                fault, part = command["fault"], command["part"]
                if fault not in FAULTS or part not in PARTS:
                    raise StackError("unknown fault or part")
                await stack.fault(fault, part)
            said = {"addresses": asdict(stack.addresses)}
            if "poison" in command:
                await stack.poison(bytes.fromhex(command["poison"]))
            if "dead_letters" in command:
                said["printed"] = {"text": await stack.dead_letters(*map(str, command["dead_letters"]))}
        except (StackError, ValueError, KeyError, TypeError) as error:
            said = {"error": {"text": str(error)}}
        writer.write(json.dumps(said).encode() + b"\n")
        with contextlib.suppress(OSError):
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    path = folder / CONTROL_SOCKET
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answer, path)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)


class RunningStack:
    """The stack that `make run` holds in another terminal: a `Target`."""

    def __init__(self, folder: Path, addresses: Addresses) -> None:
        self._folder = folder
        self.addresses = addresses
        self.name = "embedded, held by make run"

    @classmethod
    async def found(cls, folder: Path) -> "RunningStack | None":
        """The stack of that folder, or None if none answers."""
        try:
            said = await _asked(folder, {})
        except (OSError, StackError):
            return None
        return cls(folder, Addresses(**said["addresses"]))

    async def fault(self, fault: Fault, part: Part) -> None:
        """Has it done.

        Raises:
            StackError: it could not be done.
        """
        await _asked(self._folder, {"fault": fault, "part": part})

    async def dead_letters(self, *arguments: str) -> str:
        """See `Target`."""
        return (await _asked(self._folder, {"dead_letters": arguments}))["printed"]["text"]

    async def poison(self, payload: bytes) -> None:
        """See `Target`."""
        await _asked(self._folder, {"poison": payload.hex()})


async def _asked(folder: Path, command: Mapping[str, object]) -> dict[str, dict[str, str]]:
    reader, writer = await asyncio.open_unix_connection(folder / CONTROL_SOCKET)
    try:
        writer.write(json.dumps(command).encode() + b"\n")
        await writer.drain()
        async with asyncio.timeout(90):
            said: dict[str, dict[str, str]] = json.loads(await reader.readline())
    finally:
        writer.close()
        await writer.wait_closed()
    if "error" in said:
        raise StackError(said["error"]["text"])
    return said
