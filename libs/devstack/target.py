"""What the story is told against: where the system is, and how to break it."""

from dataclasses import dataclass
from typing import Literal, Protocol

# `sessions` is the Redis that keeps browsers signed in while the other one is broken: nobody breaks it.
Part = Literal["redis", "identity", "orders", "notifications", "sessions", "session"]
Fault = Literal["kill", "start", "freeze", "thaw", "empty"]  # the last is for Redis alone
PARTS: tuple[Part, ...] = ("redis", "identity", "orders", "notifications")
FAULTS: tuple[Fault, ...] = ("kill", "start", "freeze", "thaw", "empty")

# What `poison` runs in the place of notifications, which reads that stream.
POISON = """
import asyncio, os, sys
from eventlog.redis_stream import RedisStream

async def append():
    stream = RedisStream(os.environ["RESCIND_REDIS_URL"], "orders.events")
    try:
        last = await stream.last()
        if await stream.append(last, [(last + 1, bytes.fromhex(sys.argv[1]))]) != last + 1:
            raise SystemExit("somebody else appended meanwhile")
    finally:
        await stream.aclose()

asyncio.run(append())
"""

# How long orders goes on writing while identity does not answer: 60 s by default, short here so that one can watch it.
WRITE_STALENESS = 2


class StackError(Exception):
    """The stack cannot do what was asked; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running system is; empty for what it does not have."""

    issuer: str
    identity_grpc: str
    orders: str
    orders_grpc: str
    notifications: str = ""
    notifications_grpc: str = ""
    session: str = ""
    session_grpc: str = ""


class Target(Protocol):
    """A running system that can be broken on command."""

    @property
    def name(self) -> str:
        """What it is, for the headline."""
        ...

    @property
    def addresses(self) -> Addresses:
        """Where it is."""
        ...

    async def fault(self, fault: Fault, part: Part) -> None:
        """Does it. A killed Redis comes back empty; `empty` has one that runs forget everything.

        `start` returns once the part accepts connections.

        Raises:
            StackError: it could not be done.
        """
        ...

    async def dead_letters(self, *arguments: str) -> str:
        """What `python -m notifications dead-letters` prints for `arguments`, run where that service runs.

        Raises:
            StackError: the command failed.
        """
        ...

    async def poison(self, payload: bytes) -> None:
        """Appends to orders.events what a broken producer might. Not while an order is on its way there.

        Raises:
            StackError: it could not be done.
        """
        ...
