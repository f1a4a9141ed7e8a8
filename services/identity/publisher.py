"""Publishing: what is committed reaches Redis at once, and Redis ends like SQL a second later whatever happened to it.

After a commit `publish_pending` appends what SQL has and Redis has not. Once a second a *tick* looks at the log in
Redis, compares it with SQL and mends it, then publishes a signed heartbeat. Both are done by one loop, `run`, so they
never overlap inside a process; between replicas the scripts of `redis_log` decide.

What a tick may find, and does:

    nothing, a stranger's data, a hole, an altered message      built anew from SQL, from the floor on
    an honest log that ends early                               continued
    a message or heartbeat with our signature that SQL does     SQL went back in time (a restored backup):
    not know, or knows otherwise                                a new log begins

Redis is looked at before SQL is read, so what another replica committed and published in between is in SQL already.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection, select

from identity.redis_log import RedisLog, Seen
from identity.revocations import RevocationLog, Snapshot
from identity.storage import log_state, revocations
from rescind.messages import Heartbeat, RevocationMessage
from servicekit.database import Database
from servicekit.errors import ServiceError

PAGE = 500  # messages read or appended at once: some 400 KB
TICK_SECONDS = 1.0

# Gives the message if its signature is ours; None for anything else.
Reader = Callable[[Connection, bytes], RevocationMessage | Heartbeat | None]

_log = structlog.get_logger(__name__)
_TROUBLE = (RedisError, OSError, TimeoutError, ServiceError)


def _nobody(_messages: int) -> None:
    """Counts nothing."""


def _nothing() -> None:
    """Wakes nobody."""


class Verdict(Enum):
    """What Redis' log is, compared with SQL."""

    EQUAL = auto()
    SHORT = auto()
    BROKEN = auto()
    AHEAD = auto()  # signed by us and not in SQL


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict, and what it was judged by."""

    verdict: Verdict
    snapshot: Snapshot


class Publisher:
    """Keeps Redis like SQL. Nothing that a caller awaits here ever fails it."""

    def __init__(
        self,
        database: Database,
        log: RevocationLog,
        redis: RedisLog,
        *,
        read: Reader,
        begin_new_log: Callable[[str], Awaitable[object]],
        wait: float,
        published: Callable[[int], None] = _nobody,
        committed: Callable[[], None] = _nothing,
    ) -> None:
        """`wait` (seconds) bounds what an acknowledgement waits for Redis. `begin_new_log(log)` ends `log` in SQL.
        `published` is told how many messages were appended, for metrics. `committed` is called when there may be
        something to publish: it wakes whoever else sends on what was committed.
        """
        self._database = database
        self._log = log
        self._redis = redis
        self._read = read
        self._begin_new_log = begin_new_log
        self._wait = wait
        self._published = published
        self._committed = committed
        self._reached: tuple[str, int] | None = None  # log and position up to which Redis is known to be like SQL
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._beat_wanted = True
        self.in_trouble = False

    async def publish_pending(self) -> None:
        """Returns when what is committed has been pushed, or after `wait`: then the next tick sees to it."""
        self._committed()
        await self._turn()

    async def beat_now(self) -> None:
        """Like `publish_pending`, with a heartbeat: for a key that was revoked."""
        self._beat_wanted = True
        await self._turn()

    async def run(self) -> None:
        """Publishes on request and ticks every second, until it is cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                self._beat_wanted = True
            self._wake.clear()
            waiting, self._waiting = self._waiting, []
            beat, self._beat_wanted = self._beat_wanted, False
            if beat:
                due = clock() + TICK_SECONDS
            try:
                await (self.tick() if beat else self.flush())
                self._calm()
            except _TROUBLE as error:
                self._troubled(error)
            finally:
                for future in waiting:
                    if not future.done():
                        future.set_result(None)

    async def flush(self) -> None:
        """Appends to Redis what SQL has behind the position that Redis is known to have reached.

        Raises:
            RedisError, OSError, ServiceError: Redis or the database does not answer.
        """
        while self._reached is not None:
            log, reached = self._reached
            current, messages = await self._database.read(partial(self._after, log=log, after=reached))
            if current != log or (messages and messages[0][0] != reached + 1):
                self._reached = None
            elif not messages:
                return
            else:
                appended = await self._redis.append(log, messages)
                if not appended.ok:
                    self._reached = None
                    break
                self._published(len(messages))
                self._reached = (log, messages[-1][0])
                if len(messages) < PAGE:
                    return  # what was committed since then has a waiter of its own
        await self._mend()

    async def tick(self) -> None:
        """Sees to it that Redis ends like SQL, then publishes a heartbeat.

        Raises:
            RedisError, OSError, ServiceError: Redis or the database does not answer.
        """
        await self._mend()
        snapshot, heartbeat = await self._database.run(self._signed)
        await self._redis.beat(snapshot.log, snapshot.floor, heartbeat)

    async def _mend(self) -> None:
        for _ in range(3):  # each turn leaves less to do; another replica may do the same work
            log = await self._database.read(_current_log)
            seen = await self._redis.look(log)
            judged = await self._database.read(partial(self._judge, log=log, seen=seen))
            if judged is None:
                continue  # another log has begun
            head = judged.snapshot.head
            if judged.verdict is Verdict.EQUAL:
                self._reached = (log, head)
                return
            if judged.verdict is Verdict.AHEAD:
                _log.error("log_ahead_of_sql", log=log, head=head, redis_last=seen.last)
                await self._begin_new_log(log)
                await self._redis.forget(log)
                continue
            if judged.verdict is Verdict.SHORT and seen.last is not None:
                if await self._continue(log, seen.last, head):
                    self._reached = (log, head)
                    return
                continue
            if head:
                _log.warning("log_rebuilt", log=log, head=head, floor=judged.snapshot.floor, redis_last=seen.last)
            begin = judged.snapshot.floor - 1
            if await self._redis.rebuild(log, self._pages(log, begin, head), begin=begin, seen=seen):
                self._reached = (log, head)
                return
        self._reached = None

    def _judge(self, tx: Connection, log: str, seen: Seen) -> Judged | None:
        snapshot = self._log.snapshot(tx)
        if snapshot.log != log:
            return None
        return Judged(self._verdict(tx, snapshot, seen), snapshot)

    def _verdict(self, tx: Connection, snapshot: Snapshot, seen: Seen) -> Verdict:
        beat = self._read(tx, seen.heartbeat) if seen.heartbeat else None
        if (
            isinstance(beat, Heartbeat)
            and beat.log == snapshot.log
            and self._unknown(tx, snapshot, beat.head, beat.hash)
        ):
            return Verdict.AHEAD
        if seen.last is None:
            return Verdict.BROKEN
        if seen.message is None:
            if seen.last == snapshot.head:
                # Every message was trimmed; right only if none is alive.
                return Verdict.EQUAL if snapshot.floor > snapshot.head else Verdict.BROKEN
            return Verdict.SHORT if snapshot.floor - 1 <= seen.last < snapshot.head else Verdict.BROKEN
        message = self._message_at(tx, snapshot.log, seen.newest)
        if seen.newest > snapshot.head or message != seen.message:
            signed = self._read(tx, seen.message)
            ours = isinstance(signed, RevocationMessage) and (signed.log, signed.pos) == (snapshot.log, seen.newest)
            # A message too old to be in SQL at all proves nothing.
            known_otherwise = message is not None or seen.newest > snapshot.head
            return Verdict.AHEAD if ours and known_otherwise else Verdict.BROKEN
        whole = seen.length == seen.newest - seen.oldest + 1 and seen.oldest <= snapshot.floor
        if not whole or seen.newest != seen.last:
            return Verdict.BROKEN
        return Verdict.EQUAL if seen.newest == snapshot.head else Verdict.SHORT

    def _unknown(self, tx: Connection, snapshot: Snapshot, head: int, head_hash: str) -> bool:
        """Whether SQL once had a position that it has no longer, or has otherwise."""
        if head > snapshot.head:
            return True
        query = select(revocations.c.hash).where(revocations.c.log == snapshot.log, revocations.c.pos == head)
        held = tx.execute(query).scalar_one_or_none()
        return held is not None and held != head_hash

    def _message_at(self, tx: Connection, log: str, pos: int) -> bytes | None:
        query = select(revocations.c.message).where(revocations.c.log == log, revocations.c.pos == pos)
        message = tx.execute(query).scalar_one_or_none()
        return None if message is None else bytes(message)

    def _after(self, tx: Connection, log: str, after: int) -> tuple[str, list[tuple[int, bytes]]]:
        current = tx.execute(select(log_state.c.log)).scalar_one()
        return current, self._log.messages(tx, log, after, limit=PAGE)

    def _signed(self, tx: Connection) -> tuple[Snapshot, bytes]:
        snapshot = self._log.snapshot(tx)
        return snapshot, self._log.heartbeat(tx, snapshot)

    async def _pages(self, log: str, after: int, head: int) -> AsyncIterator[Sequence[tuple[int, bytes]]]:
        """SQL's messages behind `after` up to `head`."""
        while after < head:
            page = await self._database.read(partial(self._log.messages, log=log, after=after, limit=PAGE))
            page = [(pos, message) for pos, message in page if pos <= head]
            if not page:
                return
            yield page
            after = page[-1][0]

    async def _continue(self, log: str, last: int, head: int) -> bool:
        async for page in self._pages(log, last, head):
            if page[0][0] != last + 1:
                # SQL keeps rows for a day longer than they live; a Redis that lagged for more is built anew.
                return False
            appended = await self._redis.append(log, page)
            if not appended.ok:
                return False
            self._published(len(page))
            last = page[-1][0]
        return last == head

    async def _turn(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._wake.set()
        try:
            async with asyncio.timeout(self._wait):
                await future
        except TimeoutError:
            return

    def _troubled(self, error: Exception) -> None:
        self._reached = None
        if not self.in_trouble:
            _log.warning("publishing_interrupted", error=type(error).__name__)
        self.in_trouble = True

    def _calm(self) -> None:
        if self.in_trouble:
            _log.info("publishing_resumed")
        self.in_trouble = False


def _current_log(tx: Connection) -> str:
    return str(tx.execute(select(log_state.c.log)).scalar_one())
