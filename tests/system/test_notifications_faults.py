"""Notifications killed at random moments, many of them between the mail server's having a mail and our knowing it.

Each order has exactly one notification and at least one mail; a mail that comes twice has the same Message-ID, and only
deaths make it come twice. The seed is in the name of the test: set RESCIND_TEST_SEED to play one again.
"""

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from sqlalchemy import create_engine, text

from contracts.orders.v1.events_pb2 import OrderPlaced
from eventlog import StreamUnavailable
from servicekit.migrations import migrate
from support.accounts_server import Accounts, accounts_server, token_endpoint
from support.eventually import eventually
from support.notifications_system import NotificationsSystem
from support.smtp_server import Postbox, smtp_server

SEED = int(os.environ.get("RESCIND_TEST_SEED", "20261124"))
ORDERS, PEOPLE, REPLICAS = 80, 7, 2
WORKER = Path(__file__).parents[1] / "support" / "notifications_worker.py"


class Replicas:
    """Processes that come back when they are killed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._processes: list[asyncio.subprocess.Process] = []
        self._keeping: list[asyncio.Task[None]] = []
        self.deaths = 0
        self._over = False

    async def _keep(self, place: int) -> None:
        while not self._over:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), env=self._environment, stdout=asyncio.subprocess.DEVNULL
            )
            self._processes[place] = process
            code = await process.wait()
            assert self._over or code == -signal.SIGKILL, f"it ended by itself, with {code}"

    async def start(self, count: int) -> None:
        self._processes = [None] * count  # type: ignore[list-item]
        self._keeping = [asyncio.create_task(self._keep(place)) for place in range(count)]

    def kill(self, place: int) -> None:
        process = self._processes[place]
        if process is not None and process.returncode is None:
            self.deaths += 1
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def stop(self) -> None:
        self._over = True
        for process in self._processes:
            if process is not None and process.returncode is None:
                process.terminate()
        await asyncio.wait(self._keeping, timeout=20)
        for task in self._keeping:
            task.result()


@contextlib.asynccontextmanager
async def _world(folder: Path, redis_url: str, postbox: Postbox) -> AsyncIterator[tuple[Replicas, str]]:
    url = f"sqlite:///{folder / 'notifications.db'}"
    migrate(url, "notifications")
    async with accounts_server(Accounts()) as grpc, token_endpoint() as http, smtp_server(postbox) as smtp:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "RESCIND_REDIS_URL": redis_url,
            "RESCIND_IDENTITY_URL": http,
            "RESCIND_IDENTITY_GRPC": grpc,
            "RESCIND_START_WITHOUT_REDIS": "true",
            "RESCIND_MAIL_URL": f"smtp://127.0.0.1:{smtp}",
            "NOTIFICATIONS_DATABASE_URL": url,
            "NOTIFICATIONS_CLIENT_SECRET": "secret",
            "NOTIFICATIONS_HTTP_PORT": "0",
            "NOTIFICATIONS_GRPC_PORT": "0",
            "NOTIFICATIONS_METRICS_PORT": "0",
        }
        replicas = Replicas(environment)
        try:
            yield replicas, url
        finally:
            await replicas.stop()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [SEED], ids=[f"seed{SEED}"])
async def test_every_order_is_told_once_and_mailed_whatever_is_killed(
    tmp_path: Path, embedded_redis_url: str, seed: int
) -> None:
    chance = random.Random(seed)
    postbox = Postbox()
    between = 0  # deaths between the server's having a mail and our knowing it

    async with _world(tmp_path, embedded_redis_url, postbox) as (replicas, url):

        def taken(_: object) -> None:
            nonlocal between
            if chance.random() < 0.08 and replicas.deaths < 10:
                between += 1
                for place in range(REPLICAS):  # whichever it came from: it does not hear the answer
                    replicas.kill(place)

        postbox.taken = taken
        await replicas.start(REPLICAS)
        system = NotificationsSystem(url, embedded_redis_url)
        async with system.producer() as orders:
            for number in range(ORDERS):
                owner = f"usr_{number % PEOPLE}"
                with contextlib.suppress(StreamUnavailable, RedisError):
                    await orders.tell(OrderPlaced(order_id=f"ord_{number}", owner=owner), aggregate=f"ord_{number}")
                if chance.random() < 0.05:
                    replicas.kill(chance.randrange(REPLICAS))
                await asyncio.sleep(chance.random() * 0.06)

        engine = create_engine(url)

        def mailed() -> bool:
            with engine.connect() as tx:
                count = tx.execute(text("SELECT count(*) FROM mails WHERE state = 'sent'")).scalar_one()
            return count == ORDERS

        began = time.monotonic()
        await eventually(lambda: asyncio.to_thread(mailed), within=120)
        healing = time.monotonic() - began
        with engine.connect() as tx:
            told = Counter(tx.execute(text("SELECT about FROM notifications")).scalars())
            gaps = tx.execute(
                text("SELECT person FROM notifications GROUP BY person HAVING count(*) <> max(sequence)")
            ).all()
            ids = set(tx.execute(text("SELECT id FROM notifications")).scalars())
        engine.dispose()

    assert told == Counter({f"ord_{number}": 1 for number in range(ORDERS)})
    assert gaps == []
    copies = Counter(str(mail["Message-ID"]).strip("<>").partition("@")[0] for mail in postbox.mails)
    assert set(copies) == ids, "a mail that belongs to nothing, or none for a notification"
    assert replicas.deaths >= 5
    assert between >= 1
    # What a killed process had in hand may come twice: up to in_hand mails for each replica that died.
    assert sum(copies.values()) - len(copies) <= 8 * replicas.deaths
    assert healing < 90
