"""Orders, notifications and Redis, which comes back empty, killed with SIGKILL at random moments under a load.

The failure names its seed; `RESCIND_SEED` plays the blows again. `RESCIND_ORDERS` is how many orders are placed.
"""

import asyncio
import os
import secrets
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from devstack.outbox import FOLDER
from devstack.stack import Stack, free_port
from devstack.story import opened
from devstack.target import Fault, Part
from support.containers import POSTGRES_IMAGE
from support.eventually import eventually
from support.ordeal import SECURITY, Books, History, Ordeal, complaints, planned, settled
from support.requirements import need_image
from support.system import a_stack

SEED = os.environ.get("RESCIND_SEED") or secrets.token_hex(4)
ORDERS = int(os.environ.get("RESCIND_ORDERS", "2000"))
ORDERS_WITH_POSTGRES = max(100, ORDERS // 10)
HEALING = 120.0  # seconds after the last blow; on a quiet machine it is a few
# With leases of seconds, where the service's own are half a minute and a minute: what a killed process had in hand.
HASTY: dict[Part, list[str]] = {
    "notifications": [sys.executable, str(Path(__file__).parents[1] / "support" / "notifications_worker.py")]
}


async def _endured(
    stack: Stack, folder: Path, orders: int, parts: list[str], each: int, strike: Any, urls: tuple[str, str]
) -> None:
    plan = planned(SEED, orders, parts, each)
    start = time.monotonic()
    async with opened(stack) as scene:
        try:
            history = await Ordeal(scene, SEED, orders, strike, asyncio.sleep).run(plan)
        except BaseException:
            sys.stderr.write(f"RESCIND_SEED={SEED}\n")
            raise
    began = time.monotonic()
    books = await settled(history, *urls, folder / FOLDER, within=HEALING)
    sys.stdout.write(
        f"{orders} orders in {began - start:.1f} s, told and mailed {time.monotonic() - began:.1f} s later; "
        f"customers noticed: {dict(history.refusals)}\n"
    )
    found = complaints(history, books)
    assert not found, f"RESCIND_SEED={SEED} RESCIND_ORDERS={ORDERS}: {len(found)} complaints: {found[:20]}; {plan}"
    assert len(books.orders) == orders
    assert history.struck == plan
    # Orders comes back after a second or so, and twelve customers do not wait for it.
    assert history.refusals.total() >= sum("orders" in blow.parts for blow in plan), "nobody noticed that orders died"
    assert {kind for _, kind in history.security} == set(SECURITY)


@pytest.mark.timeout(420)
async def test_every_order_is_told_once_and_mailed_whatever_is_killed(tmp_path: Path) -> None:
    async with a_stack(tmp_path, HASTY) as stack:
        urls = (f"sqlite:///{tmp_path}/orders.db", f"sqlite:///{tmp_path}/notifications.db")
        await _endured(stack, tmp_path, ORDERS, ["redis", "orders", "notifications"], 3, stack.fault, urls)


class Postgres:
    """A PostgreSQL in a container, on one port for all its lives."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._server = make_url(container.get_connection_url()).set(drivername="postgresql+psycopg")

    def database(self, name: str) -> str:
        engine = create_engine(self._server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._server.set(database=name).render_as_string(hide_password=False)

    async def fault(self, fault: Fault) -> None:
        container = self._container.get_wrapped_container()
        await asyncio.to_thread(container.kill if fault == "kill" else container.start)
        if fault == "start":
            await eventually(lambda: asyncio.to_thread(self._answers), within=60)

    def _answers(self) -> bool:
        engine = create_engine(self._server, connect_args={"connect_timeout": 2})
        try:
            with engine.connect():
                return True
        except OperationalError:
            return False
        finally:
            engine.dispose()


@contextmanager
def _postgres() -> Iterator[Postgres]:
    need_image(POSTGRES_IMAGE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a library that is not ours
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config

        testcontainers_config.ryuk_disabled = True
        with PostgresContainer(POSTGRES_IMAGE, driver=None).with_bind_ports(5432, free_port()) as container:
            yield Postgres(container)


@pytest.mark.docker
@pytest.mark.timeout(300)
async def test_the_same_when_postgresql_dies_too(tmp_path: Path) -> None:
    with _postgres() as postgres:
        urls = (postgres.database("orders"), postgres.database("notifications"))
        env = {"ORDERS_DATABASE_URL": urls[0], "NOTIFICATIONS_DATABASE_URL": urls[1]}
        async with a_stack(tmp_path, HASTY, **env) as stack:  # type: ignore[arg-type]

            async def strike(fault: Fault, part: Any) -> None:
                await (postgres.fault(fault) if part == "postgres" else stack.fault(fault, part))

            parts = ["postgres", "redis", "orders", "notifications"]
            await _endured(stack, tmp_path, ORDERS_WITH_POSTGRES, parts, 1, strike, urls)


def test_a_seed_gives_one_plan() -> None:
    parts = ["redis", "orders", "notifications"]
    plan = planned("a", 2000, parts, 4)
    assert plan == planned("a", 2000, parts, 4) != planned("b", 2000, parts, 4)
    for part in parts:
        assert sum(part in blow.parts for blow in plan) >= 4


def test_the_checker_finds_what_is_wrong() -> None:
    person, order, note = "usr_a", "ord_1", ("ntf_1", "usr_a", "ORDER_PLACED", "ord_1")
    history = History(placed={"key": order}, owners={order: person})
    good = Books(orders=[(order, person)], told=[note], gaps=[], mailed=["ntf_1"], unsent=[])
    assert complaints(history, good) == []
    wrong = [
        replace(good, orders=[]),
        replace(good, orders=[(order, person), ("ord_2", person)]),
        replace(good, told=[], mailed=[]),
        replace(good, told=[note, ("ntf_2", *note[1:])], mailed=["ntf_1", "ntf_2"]),
        replace(good, told=[("ntf_1", "usr_b", *note[2:])]),
        replace(good, told=[note, ("ntf_3", person, "SIGNED_IN", "sid_1")], mailed=["ntf_1", "ntf_3"]),
        replace(good, mailed=[]),
        replace(good, mailed=["ntf_1", "ntf_9"]),
        replace(good, unsent=[("ntf_1", "refused")]),
        replace(good, gaps=[person]),
    ]
    for books in wrong:
        assert complaints(history, books), books
    history.security[person, "SIGNED_IN"] += 1
    assert complaints(history, good)
