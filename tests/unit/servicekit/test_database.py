"""SQL in worker threads: whole transactions, bounded waiting, one vocabulary for what goes wrong."""

import asyncio
import os
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, Text, func, select, text
from sqlalchemy.exc import IntegrityError

from servicekit.database import Database, insert_new
from servicekit.errors import Kind, ServiceError

metadata = MetaData()
things = Table("things", metadata, Column("id", BigInteger, primary_key=True), Column("name", Text, unique=True))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, pool_size=4, pause=lambda _: None)
    await database.run(lambda tx: metadata.create_all(tx))
    yield database
    await database.dispose()


def _names(tx: Connection) -> list[str]:
    return list(tx.execute(select(things.c.name).order_by(things.c.id)).scalars())


async def test_what_returns_is_committed_and_what_raises_leaves_nothing(database: Database) -> None:
    await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="kept")))

    def fails(tx: Connection) -> None:
        tx.execute(things.insert().values(id=2, name="lost"))
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        await database.run(fails)
    assert await database.read(_names) == ["kept"]


async def test_what_only_reads_sees_one_moment_and_waits_for_no_writer(database: Database) -> None:
    await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="before")))

    def read_twice(tx: Connection) -> tuple[list[str], list[str]]:
        first = _names(tx)
        database.run_sync(lambda other: other.execute(things.insert().values(id=2, name="meanwhile")))
        return first, _names(tx)

    assert await database.read(read_twice) == (["before"], ["before"])
    assert await database.read(_names) == ["before", "meanwhile"]


async def test_nobody_waits_for_a_database_that_stands_still(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'still.db'}", pool_size=1, answering=0.05)
    goes_on, ran = threading.Event(), []

    def stands_still(_tx: Connection) -> None:
        assert goes_on.wait(20)
        ran.append("begun")

    asked = [database.run(stands_still), *(database.run(lambda _tx: ran.append("waited")) for _ in range(3))]
    for refused in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(refused, ServiceError)
        assert (refused.kind, refused.reason) == (Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    goes_on.set()
    await database.dispose()
    assert ran == ["begun"]


async def test_a_cancelled_caller_does_not_tear_its_transaction(database: Database) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        tx.execute(things.insert().values(id=1, name="whole"))
        begun.set()
        assert go_on.wait(5)

    task = asyncio.create_task(database.run(slow))
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await database.dispose()  # waits for what has begun
    again = Database(database.engine.url.render_as_string(hide_password=False))
    assert await again.read(_names) == ["whole"]
    await again.dispose()


async def test_too_many_callers_are_turned_away_at_once(database_url: str) -> None:
    database = Database(database_url, pool_size=1, waiting_limit=2)
    go_on = threading.Event()
    waiting = [asyncio.create_task(database.read(lambda _: go_on.wait(5))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(ServiceError) as refused:
        await database.read(lambda tx: tx)
    assert (refused.value.kind, refused.value.reason) == (Kind.UNAVAILABLE, "DATABASE_OVERLOADED")
    assert refused.value.retry_after
    go_on.set()
    assert await asyncio.gather(*waiting) == [True] * 3
    await asyncio.sleep(0)
    assert await database.read(lambda tx: tx.execute(text("SELECT 1")).scalar_one()) == 1
    await database.dispose()


async def test_of_many_equal_inserts_one_is_told_that_it_was_the_first(database: Database) -> None:
    def insert(number: int) -> bool:
        return database.run_sync(lambda tx: insert_new(tx, things, {"id": number, "name": "the only one"}))

    told = await asyncio.gather(*(asyncio.to_thread(insert, number) for number in range(20)))
    assert sorted(told) == [False] * 19 + [True]
    assert await database.read(lambda tx: tx.execute(select(func.count()).select_from(things)).scalar_one()) == 1


async def test_transactions_that_count_up_one_row_lose_no_count(database: Database) -> None:
    await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="0")))

    def count_up(tx: Connection) -> None:
        row = tx.execute(select(things.c.name).where(things.c.id == 1).with_for_update()).scalar_one()
        tx.execute(things.update().where(things.c.id == 1).values(name=str(int(row) + 1)))

    await asyncio.gather(*(database.run(count_up) for _ in range(30)))
    assert await database.read(_names) == ["30"]


async def test_a_read_cannot_write_where_the_database_knows_the_difference(postgres_url: str) -> None:
    database = Database(postgres_url)
    await database.run(lambda tx: metadata.create_all(tx))
    with pytest.raises(Exception, match="read-only"):
        await database.read(lambda tx: tx.execute(things.insert().values(id=1, name="no")))
    await database.dispose()


async def test_a_constraint_is_the_callers_own_affair(database: Database) -> None:
    await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="a")))
    with pytest.raises(IntegrityError) as refused:
        await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="secret-value")))
    assert "secret-value" not in str(refused.value.statement) + str(refused.value.args)


async def test_a_busy_database_is_tried_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    pauses: list[float] = []
    database = Database(
        f"sqlite:///{tmp_path / 'busy.db'}", statement_timeout=0.01, pause=pauses.append, chance=lambda: 0.5
    )
    blocker = sqlite3.connect(database.engine.url.database or "", isolation_level=None)
    blocker.execute("PRAGMA journal_mode=WAL")
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceError) as refused:
        await database.run(lambda tx: tx.execute(text("SELECT 1")))
    assert refused.value.reason == "DATABASE_BUSY"
    assert len(pauses) == 3
    assert pauses == sorted(pauses)
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await database.run(lambda tx: tx.execute(text("SELECT 1")).scalar_one()) == 1
    await database.dispose()


async def test_who_waited_long_for_a_lock_is_told_and_does_not_wait_as_long_again(tmp_path: Path) -> None:
    """An event is handled within seconds, or counts as one that cannot be: a lock held by others is none of its own."""
    pauses: list[float] = []
    database = Database(
        f"sqlite:///{tmp_path / 'busy.db'}", statement_timeout=0.01, pause=pauses.append, clock=count(0, 5).__next__
    )
    blocker = sqlite3.connect(database.engine.url.database or "", isolation_level=None)
    blocker.execute("PRAGMA journal_mode=WAL")
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceError) as refused:
        await database.run(lambda tx: tx.execute(text("SELECT 1")))
    assert (refused.value.reason, refused.value.kind, pauses) == ("DATABASE_BUSY", Kind.UNAVAILABLE, [])
    blocker.close()
    await database.dispose()


async def test_the_loser_of_a_deadlock_is_run_again(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=4, statement_timeout=20)
    await database.run(lambda tx: metadata.create_all(tx))
    await database.run(lambda tx: tx.execute(things.insert(), [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]))
    both_hold_one = threading.Barrier(2)
    runs: list[int] = []

    def cross(first: int, second: int) -> None:
        def work(tx: Connection) -> None:
            runs.append(first)
            tx.execute(select(things).where(things.c.id == first).with_for_update())
            if len(runs) <= 2:
                both_hold_one.wait(5)
            tx.execute(select(things).where(things.c.id == second).with_for_update())

        database.run_sync(work)

    await asyncio.gather(asyncio.to_thread(cross, 1, 2), asyncio.to_thread(cross, 2, 1))
    assert len(runs) == 3
    await database.dispose()


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/x.db", "postgresql://u:hidden@127.0.0.1:1/x"])
async def test_a_database_that_does_not_answer_is_unavailable(url: str) -> None:
    database = Database(url)
    with pytest.raises(ServiceError) as refused:
        await database.run(lambda tx: tx)
    assert (refused.value.kind, refused.value.reason) == (Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    assert refused.value.retry_after
    assert "hidden" not in refused.value.detail
    await database.dispose()


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/x", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_work_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|SQLite needs|not supported"):
        Database(url)


async def test_the_database_clock_can_be_held_still(database_url: str) -> None:
    database = Database(database_url, now=lambda: 1234)
    assert await database.read(database.now) == 1234
    real = Database(database_url)
    first, second = await real.read(lambda tx: (real.now(tx), real.now(tx)))
    assert 1_700_000_000_000 < first <= second
    await database.dispose()
    await real.dispose()


async def test_a_connection_lost_while_idle_is_replaced_and_one_lost_at_work_is_told(postgres_url: str) -> None:
    database = Database(postgres_url, pool_size=1)
    await database.run(lambda tx: metadata.create_all(tx))

    def cut_off(pid: int) -> None:
        killer = Database(postgres_url, pool_size=1)
        killer.run_sync(lambda tx: tx.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}))
        killer.engine.dispose()

    def own_pid(tx: Connection) -> int:
        return int(tx.execute(text("SELECT pg_backend_pid()")).scalar_one())

    cut_off(await database.read(own_pid))
    assert await database.read(_names) == []

    def dies_at_work(tx: Connection) -> None:
        tx.execute(things.insert().values(id=1, name="half"))
        cut_off(own_pid(tx))
        tx.execute(things.insert().values(id=2, name="never"))

    with pytest.raises(ServiceError) as refused:
        await database.run(dies_at_work)
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    assert await database.read(_names) == []
    await database.dispose()


async def test_a_statement_that_hangs_is_given_up(postgres_url: str) -> None:
    database = Database(postgres_url, statement_timeout=0.2)
    with pytest.raises(ServiceError) as refused:
        await database.run(lambda tx: tx.execute(text("SELECT pg_sleep(30)")))
    assert refused.value.reason == "DATABASE_UNAVAILABLE"
    await database.dispose()


async def test_a_full_disk_refuses_writes_clearly_and_keeps_what_is_there(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'full.db'}", pool_size=1)
    await database.run(lambda tx: metadata.create_all(tx))
    await database.run(lambda tx: tx.execute(things.insert().values(id=1, name="kept")))
    await database.run(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count=8"))
    with pytest.raises(ServiceError) as refused:
        await database.run(lambda tx: tx.execute(things.insert().values(id=2, name="x" * 100_000)))
    assert (refused.value.kind, refused.value.reason) == (Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE")
    await database.run(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count=100000"))
    await database.run(lambda tx: tx.execute(things.insert().values(id=2, name="fits again")))
    assert await database.read(_names) == ["kept", "fits again"]
    await database.dispose()


async def test_a_commit_that_need_not_survive_a_power_cut_waits_for_no_disk(database_url: str) -> None:
    settings = {}
    for durable in (True, False):
        database = Database(database_url, durable=durable)
        question = "SHOW synchronous_commit" if database.is_postgresql else "PRAGMA synchronous"
        settings[durable] = await database.read(lambda tx, question=question: tx.execute(text(question)).scalar_one())
        await database.dispose()
    # https://www.sqlite.org/pragma.html#pragma_synchronous: 2 is FULL, 1 NORMAL
    assert settings == ({True: "on", False: "off"} if "postgresql" in database_url else {True: 2, False: 1})


async def test_a_host_that_vanishes_while_it_is_asked_is_noticed_within_seconds(postgres_url: str) -> None:
    """By keepalives: nothing of ours is unacknowledged then, and the system's own would come after two hours."""
    database = Database(postgres_url)

    def keepalives(tx: Connection) -> list[int]:
        connection: Any = tx.connection.driver_connection  # psycopg's own
        with socket.socket(fileno=os.dup(connection.fileno())) as wire:
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            return [wire.getsockopt(socket.IPPROTO_TCP, option) for option in options]

    assert await database.run(keepalives) == [5, 2, 3]
    await database.dispose()
