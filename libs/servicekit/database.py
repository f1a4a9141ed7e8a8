"""SQL in worker threads, one transaction at a time, on SQLite and PostgreSQL.

A use case hands over a plain function of one transaction, `work(tx)`, and awaits the result:

    order = await database.run(lambda tx: storage.find(tx, order_id))

A caller that is cancelled stops *waiting*; a transaction that has begun ends by itself, whole. Nobody waits longer than
`ANSWERING`: a server that stands still (SIGSTOP, a full disk below it) keeps its connections and answers nothing. There
are as many threads as connections, so no thread ever waits for a connection, and a bounded number of callers may wait
for a thread: the rest are turned away at once instead of piling up behind a slow database.

SQLite: write-ahead log, `synchronous=FULL` (a commit survives a power cut), BEGIN IMMEDIATE (writers queue, none has to
upgrade a lock and fail). PostgreSQL: READ COMMITTED; whoever needs more takes row locks. What only reads sees the state
of one moment throughout, on both: on PostgreSQL by REPEATABLE READ, which fails nobody who does not write.
"""

import asyncio
import contextvars
import random
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from servicekit.errors import Kind, ServiceError

T = TypeVar("T")
Work = Callable[[Connection], T]

RETRY_AFTER = 1.0  # seconds: what a caller is told when the database does not answer
ATTEMPTS = 4  # of a transaction that lost against another one (deadlock, serialization failure, busy)
TRYING = 4.0  # seconds, after which no other attempt begins: who waits for the answer is told before they give up
ANSWERING = 10.0  # seconds: less than those who ask give their own work (`eventlog.handling.Patience`)
_READ_ONLY = "servicekit_read_only"
# https://www.postgresql.org/docs/17/errcodes-appendix.html
_LOST_AGAINST_ANOTHER = frozenset({"40001", "40P01", "55P03"})
_NOT_REACHABLE = ("08", "57P", "53")  # classes: connection exception, operator intervention, insufficient resources


class Database:
    """A database and the threads that talk to it. Connects when first used, not before.

    `now` replaces the database clock (milliseconds since the epoch) in tests. Without `durable`, a commit need not
    survive a power cut, and so waits for no disk: for what informs and is soon told again.

    Raises:
        ValueError: the URL names no database that this class knows how to run.
    """

    def __init__(
        self,
        url: str,
        *,
        now: Callable[[], int] | None = None,
        pool_size: int = 8,
        waiting_limit: int = 256,
        durable: bool = True,
        statement_timeout: float = 5.0,
        answering: float = ANSWERING,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = _engine(url, pool_size, statement_timeout, durable=durable)
        self._now = now
        self._pause = pause
        self._chance = chance
        self._clock = clock
        self._threads = ThreadPoolExecutor(pool_size, thread_name_prefix="sql")
        self._answering = answering
        self._waiting_limit = waiting_limit + pool_size
        self._inside = 0

    @property
    def is_postgresql(self) -> bool:
        """Whether rows can be locked one by one; SQLite locks the whole file."""
        return self.engine.dialect.name == "postgresql"

    async def run(self, work: Work[T]) -> T:
        """Runs `work` in one transaction: committed when it returns, rolled back when it raises.

        `work` may run again when it lost against another transaction, so it has no effect outside of `tx`.

        Raises:
            ServiceError: DATABASE_UNAVAILABLE, DATABASE_OVERLOADED.
        """
        return await self._in_thread(lambda: self.run_sync(work))

    async def read(self, work: Work[T]) -> T:
        """Like `run`, for work that only reads: all its statements see the database as the first of them found it.

        On SQLite it waits for no writer. A clock asked here (`now`) may be a moment later than what is seen.
        """
        return await self._in_thread(lambda: self.run_sync(work, read_only=True))

    def run_sync(self, work: Work[T], *, read_only: bool = False) -> T:
        """Like `run`, in the calling thread."""
        began = self._clock()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._connect(read_only) as connection, connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if not lost_against_another(error):
                    raise _unavailable(error) or error from error
                if attempt == ATTEMPTS or self._clock() - began > TRYING:
                    raise ServiceError(
                        Kind.UNAVAILABLE, "DATABASE_BUSY", "Too many changes at once.", retry_after=RETRY_AFTER
                    ) from error
                self._pause(0.01 * 2**attempt * (0.5 + self._chance()))
        raise AssertionError("unreachable")

    def now(self, tx: Connection) -> int:
        """Milliseconds since the epoch by the database clock, at this moment and not at the transaction's start."""
        if self._now is not None:
            return self._now()
        if self.is_postgresql:
            statement = text("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
            return int(tx.execute(statement).scalar_one())
        return time.time_ns() // 1_000_000

    def ping(self) -> None:
        """Returns when the database answers.

        Raises:
            ServiceError: DATABASE_UNAVAILABLE.
        """
        self.run_sync(lambda tx: tx.execute(text("SELECT 1")), read_only=True)

    async def dispose(self) -> None:
        """Waits for the transactions that have begun, then closes every connection."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self.engine.dispose()

    def _connect(self, read_only: bool) -> Connection:
        if read_only:
            return self.engine.connect().execution_options(**{_READ_ONLY: True})
        return self.engine.connect()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        if self._inside >= self._waiting_limit:
            raise ServiceError(
                Kind.UNAVAILABLE, "DATABASE_OVERLOADED", "Too many requests at once.", retry_after=RETRY_AFTER
            )
        # The context goes along, so that what is logged in the thread carries the request's id.
        job = self._threads.submit(contextvars.copy_context().run, call)
        loop = asyncio.get_running_loop()
        self._inside += 1
        # Counted down when the thread is done, not when the caller stops waiting: the thread is what is scarce.
        job.add_done_callback(lambda _: _call_soon(loop, self._left))
        try:
            async with asyncio.timeout(self._answering) as limit:
                return await asyncio.wrap_future(job)
        except TimeoutError as error:
            if not limit.expired():
                raise
            # What waits for a thread will not run any more; what has begun may still be committed.
            raise ServiceError(
                Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "The database does not answer.", retry_after=RETRY_AFTER
            ) from error

    def _left(self) -> None:
        self._inside -= 1


def insert_new(tx: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Inserts a row unless a unique constraint already holds one like it; tells whether it did.

    Decided by the database in one statement, so of many at once exactly one is told True.
    """
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    key = next(iter(table.primary_key))
    # RETURNING and not `rowcount`, which an INSERT does not promise: it said -1 for rows that PostgreSQL had inserted.
    return tx.execute(insert(table).values(**values).on_conflict_do_nothing().returning(key)).first() is not None


def lost_against_another(error: DBAPIError) -> bool:
    """Whether the same transaction may well succeed when it is tried again."""
    cause = error.orig
    if isinstance(cause, sqlite3.OperationalError):
        return (cause.sqlite_errorcode & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    return getattr(cause, "sqlstate", None) in _LOST_AGAINST_ANOTHER


def _unavailable(error: DBAPIError) -> ServiceError | None:
    cause = error.orig
    state = getattr(cause, "sqlstate", None) or ""
    if isinstance(cause, sqlite3.OperationalError):
        code = cause.sqlite_errorcode & 0xFF
        gone = code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    else:
        # psycopg gives no SQLSTATE when the server never answered.
        gone = error.connection_invalidated or state.startswith(_NOT_REACHABLE) or type(cause).__name__ in _NO_ANSWER
    if not gone:
        return None
    return ServiceError(
        Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "The database does not answer.", retry_after=RETRY_AFTER
    )


_NO_ANSWER = ("ConnectionTimeout", "OperationalError", "QueryCanceled", "PoolTimeout")


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    # At exit the loop may be closed before the last thread is done; then nobody counts any more.
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)


def parse_url(url: str) -> URL:
    """What `url` names.

    Raises:
        ValueError: no database that `Database` knows how to run; says why, with nothing of the URL in it.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # From None: their text holds what stood where the port belongs, which may be half of a password.
        raise ValueError("not a database URL (sqlite:///file.db, postgresql+psycopg://user:password@host/db)") from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file: every thread has a connection of its own")
    elif parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ValueError("not supported: use sqlite or postgresql")
    return parsed


def _engine(url: str, pool_size: int, statement_timeout: float, *, durable: bool) -> Engine:
    parsed = parse_url(url)
    # hide_parameters: an exception's text must not carry what people typed in.
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            connect_args={"timeout": statement_timeout},
        )
        event.listen(engine, "connect", partial(_prepare_sqlite, synchronous="FULL" if durable else "NORMAL"))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    milliseconds = round(statement_timeout * 1000)
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=True,
        pool_recycle=1800,
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": 3,
            "tcp_user_timeout": 5000,
            # A host that vanished while we wait for its answer: nothing of ours is unacknowledged then.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout={2 * milliseconds} -c timezone=UTC"
            f" -c synchronous_commit={'on' if durable else 'off'}",
        },
    )
    event.listen(engine, "begin", _begin_postgresql)
    return engine


def _prepare_sqlite(connection: Any, _record: Any, *, synchronous: str) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself; `_begin_sqlite` does
    cursor = connection.cursor()
    # The mode stays in the file. Changing it needs the file alone, and does not wait for that by itself.
    for patience in range(100, -1, -1):
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if not patience:
                raise
            time.sleep(0.05)
    cursor.execute(f"PRAGMA synchronous={synchronous}")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    if connection.get_execution_options().get(_READ_ONLY, False):
        # One moment for every statement: under READ COMMITTED the second may know of a commit that the first does not.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def reason_unreachable(error: Exception) -> str:
    """One line for whoever starts a process: which database trouble it is, without parameters or passwords."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return str(error.orig).strip().splitlines()[0]
    if isinstance(error, ServiceError) and isinstance(error.__cause__, SQLAlchemyError):
        return reason_unreachable(error.__cause__)
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
