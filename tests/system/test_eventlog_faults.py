"""Processes are killed at random moments, Redis comes back empty: every event is visible exactly once.

The seed of the faults is printed; `RESCIND_TEST_SEED` plays them again.
"""

import asyncio
import os
import random
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy import func, select

from devstack.process import Process
from devstack.stack import free_port, redis_server
from eventlog import Outbox
from eventlog.deadletters import redrive_all
from eventlog.redis_stream import RedisStream
from servicekit.database import Database
from support.eventlog_worker import GROUP, STREAM, metadata, outbox_tables, repaired, tell, told, visible
from support.eventually import eventually

EVENTS = 600
FAULTS = 14
ROOT = Path(__file__).parents[2]


class World:
    """Two relays, two readers, a Redis that keeps nothing on disk, and a database that stays."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.database_url = database_url
        self.database = Database(database_url)
        self.outbox = Outbox(outbox_tables, STREAM, now=self.database.now)
        self.lines: list[str] = []
        port = free_port()
        self.redis_url = f"redis://127.0.0.1:{port}/0"
        server = [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self.redis = self._process("redis", [*server, "--save", "", "--appendonly", "no"])
        self.workers = [self._worker(f"{role}-{n}", role) for role in ("relay", "reader") for n in (1, 2)]

    def _process(self, name: str, command: list[str]) -> Process:
        paths = os.pathsep.join(str(ROOT / folder) for folder in ("libs", "services", "tests"))
        return Process(name, command, {"PYTHONPATH": paths}, lambda who, line: self.lines.append(f"{who}: {line}"))

    def _worker(self, name: str, role: str) -> Process:
        script = ROOT / "tests" / "support" / "eventlog_worker.py"
        return self._process(name, [sys.executable, str(script), role, self.database_url, self.redis_url])

    async def answers(self) -> bool:
        try:
            async with Redis.from_url(self.redis_url, socket_timeout=1, socket_connect_timeout=1) as client:
                return bool(await client.ping())
        except (RedisError, OSError):
            return False

    async def start(self, process: Process) -> None:
        await process.start()
        if process is self.redis:
            await eventually(self.answers, within=10)

    async def counts(self) -> tuple[int, int, int]:
        """Told, visible, and visible without repeats."""
        seen = visible.c.event_id
        query = select(
            select(func.count()).select_from(told).scalar_subquery(),
            select(func.count(seen)).scalar_subquery(),
            select(func.count(seen.distinct())).scalar_subquery(),
        )
        row = await self.database.read(lambda tx: tx.execute(query).one())
        return row[0], row[1], row[2]

    async def all_visible(self) -> bool:
        all_told, _, distinct = await self.counts()
        return distinct == all_told

    async def close(self) -> None:
        for process in (*self.workers, self.redis):
            await process.stop()
        await self.database.dispose()


@asynccontextmanager
async def _world(database_url: str, folder: Path) -> AsyncIterator[World]:
    world = World(database_url, folder)
    try:
        await world.database.run(lambda tx: metadata.create_all(tx))
        for process in (world.redis, *world.workers):
            await world.start(process)
        yield world
    finally:
        await world.close()


async def _break(world: World, chance: random.Random) -> str:
    what = chance.choice(["kill", "kill", "kill", "stop", "empty", "freeze"])
    process = chance.choice(world.workers)
    match what:
        case "kill":
            await process.kill()
            await world.start(process)
            return f"killed {process.name}"
        case "stop":
            await process.stop()
            await world.start(process)
            return f"stopped {process.name}"
        case "empty":
            await world.redis.kill()
            await asyncio.sleep(chance.random())
            await world.start(world.redis)
            return "redis came back empty"
        case _:
            world.redis.signal(signal.SIGSTOP)
            await asyncio.sleep(3 * chance.random())
            world.redis.signal(signal.SIGCONT)
            return "redis froze for a while"


@pytest.mark.timeout(240)
async def test_every_event_is_visible_exactly_once(database_url: str, tmp_path: Path) -> None:
    seed = os.environ.get("RESCIND_TEST_SEED") or secrets.token_hex(4)
    sys.stdout.write(f"RESCIND_TEST_SEED={seed}\n")
    chance = random.Random(seed)
    async with _world(database_url, tmp_path) as world:
        await eventually(world.all_visible, within=20)

        async def write() -> None:
            for number in range(EVENTS):
                poison = number % 97 == 5
                await world.database.run(
                    lambda tx, number=number, poison=poison: tell(tx, world.outbox, f"ord_{number % 40}", poison=poison)
                )
                await asyncio.sleep(0.01)

        async def break_things() -> None:
            for _ in range(FAULTS):
                sys.stdout.write(await _break(world, chance) + "\n")
                await asyncio.sleep(0.3 * chance.random())

        await asyncio.gather(write(), break_things())
        await world.database.run(lambda tx: tx.execute(repaired.insert().values(what="poison")))
        stream = RedisStream(world.redis_url, STREAM)

        async def redriven_and_visible() -> bool:
            await redrive_all(stream.group(GROUP))
            return await world.all_visible()

        try:
            await eventually(redriven_and_visible, within=60)
        finally:
            sys.stdout.write("\n".join(world.lines[-40:]) + "\n")
            await stream.aclose()
        assert await world.counts() == (EVENTS, EVENTS, EVENTS)


async def test_a_stopped_reader_leaves_nothing_behind(tmp_path: Path) -> None:
    async with _world(f"sqlite:///{tmp_path / 'world.db'}", tmp_path) as world:
        readers = world.workers[2:]
        async with Redis.from_url(world.redis_url) as redis:

            async def consumers() -> list[object]:
                return list(await redis.xinfo_consumers(STREAM, GROUP)) if await redis.exists(STREAM) else []

            async def both_are_there() -> bool:
                return len(await consumers()) == len(readers)

            await eventually(both_are_there, within=20)
            for process in readers:
                await process.stop()
            assert await consumers() == []
            for number in range(20):
                await world.database.run(lambda tx, number=number: tell(tx, world.outbox, f"ord_{number}"))
            await world.start(readers[0])

            async def all_acknowledged_and_trimmed() -> bool:
                (group,) = await redis.xinfo_groups(STREAM)
                return await world.all_visible() and group["pending"] == 0 and await redis.xlen(STREAM) == 0

            await eventually(all_acknowledged_and_trimmed, within=20)
