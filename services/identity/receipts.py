"""Who has applied a revocation, and after how long: what verifiers report. It informs; no decision rests on it.

A verifier is a member as long as it reports: the database clock decides, so that all replicas of identity see the same
members, and one that was killed is missed for MEMBER_FOR_MS and no longer. What is written here need not survive a
power cut, so its transactions wait for no disk, and hold the lock that revocations need on SQLite for a moment only;
what arrives while one is under way goes into the next, together.

Whoever waits is woken by reports that come to this replica, and looks every POLL seconds for those that went elsewhere.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import structlog
from sqlalchemy import Connection, Table, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from identity.storage import receipts, verifiers
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

MEMBER_FOR_MS = 10_000  # after its last report
NEXT_IN_MS = 3_000  # a report may be lost, and the next one late, before a verifier counts as gone
KEPT_MS = 600_000  # how long a delay is remembered
POLL = 0.05  # seconds
MOST_MEMBERS = 1000
_FORGET_EVERY = 10.0  # seconds
_BATCH = 1000  # rows that one transaction forgets

_log = structlog.get_logger("identity.receipts")

Freshness = Literal["SYNCING", "FRESH", "STALE"]


@dataclass(frozen=True, slots=True)
class Member:
    """A process that verifies, by its own word. `reported_at` is milliseconds by the database clock."""

    id: str
    audience: str
    instance: str
    log: str
    position: int
    freshness: Freshness
    reported_at: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """What one verifier says, with a token of `client_id`. `applied` maps positions to delays in milliseconds."""

    member: Member
    client_id: str
    applied: dict[int, float]
    leaving: bool


@dataclass(frozen=True, slots=True)
class Receipt:
    """That `member` has applied a position; `delay_ms` is None where it did not say how long that took."""

    member: Member
    delay_ms: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Of the members of this moment: who has applied one position, and who has not."""

    position: int
    applied: tuple[Receipt, ...]
    outstanding: tuple[Member, ...]

    def __str__(self) -> str:
        """For people: applied by 6 of 6 verifiers, the slowest after 3 ms."""
        number = len(self.applied) + len(self.outstanding)
        delays = [receipt.delay_ms for receipt in self.applied if receipt.delay_ms is not None]
        slowest = f", the slowest after {max(delays):.0f} ms" if delays else ""
        names = ", ".join(f"{member.audience} at {member.instance}" for member in self.outstanding)
        missing = f"; not by {names}" if names else ""
        return f"applied by {len(self.applied)} of {number} verifiers{slowest}{missing}"


@dataclass(eq=False, slots=True)
class _Batch:
    """Reports that are written together."""

    reports: list[Report] = field(default_factory=list)
    of_another: set[int] = field(default_factory=set)  # indexes of those that name a verifier of another client
    written: bool = False
    error: ServiceError | None = None


class Receipts:
    """Takes reports and tells what they say. `database` may be one that is not durable; `now` is its clock (ms)."""

    def __init__(self, database: Database, *, now: Callable[[Connection], int] | None = None) -> None:
        self._database = database
        self._now = now or database.now
        self._turn = asyncio.Lock()
        self._batch = _Batch()
        self._news = asyncio.Event()

    async def report(self, report: Report) -> None:
        """Writes what a verifier says, together with whatever else came meanwhile.

        Raises:
            ServiceError: VERIFIER_OF_ANOTHER; DATABASE_UNAVAILABLE.
        """
        batch, index = self._batch, len(self._batch.reports)
        batch.reports.append(report)
        async with self._turn:
            if not batch.written and batch.error is None:
                if batch is self._batch:
                    self._batch = _Batch()
                try:
                    batch.of_another = await self._database.run(partial(self._write, reports=tuple(batch.reports)))
                except ServiceError as error:
                    batch.error = error
                else:
                    batch.written = True
                    self._news.set()
                    self._news = asyncio.Event()
        if batch.error is not None:
            raise batch.error
        if index in batch.of_another:
            raise ServiceError(Kind.FORBIDDEN, "VERIFIER_OF_ANOTHER", "Another client reports for this verifier.")

    async def members(self) -> list[Member]:
        """Everyone who verifies now, by audience."""
        return await self._database.read(self._members)

    async def coverage(self, log: str, position: int) -> Coverage:
        """Who has applied a position, by what is known now."""
        return await self._database.read(partial(self._coverage, log=log, position=position))

    async def applied_everywhere(self, log: str, position: int, *, within: float) -> Coverage:
        """Waits until every member has applied a position, for `within` seconds at most; who has by then."""
        deadline = asyncio.get_running_loop().time() + within
        while True:
            news = self._news
            covered = await self.coverage(log, position)
            left = deadline - asyncio.get_running_loop().time()
            if not covered.outstanding or left <= 0:
                return covered
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL)):
                    await news.wait()

    async def run(self) -> None:
        """Forgets what is old until it is cancelled."""
        while True:
            forgotten = 0
            try:
                forgotten = await self._database.run(self.forget)
            except ServiceError as error:
                _log.warning("forgetting_failed", reason=error.reason)
            await asyncio.sleep(0.1 if forgotten >= _BATCH else _FORGET_EVERY)

    def forget(self, tx: Connection) -> int:
        """Deletes about a batch of what is older than KEPT_MS; how many rows that were."""
        before = self._now(tx) - KEPT_MS
        return sum(_forget(tx, table, before) for table in (receipts, verifiers))

    def _write(self, tx: Connection, reports: Sequence[Report]) -> set[int]:
        insert: Any = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        now = self._now(tx)
        of_another = set()
        # In the order of their ids, so that two replicas that write the same verifiers do not wait for each other.
        for index, report in sorted(enumerate(reports), key=lambda each: each[1].member.id):
            member = report.member
            if report.leaving:
                same = (verifiers.c.id == member.id) & (verifiers.c.client_id == report.client_id)
                tx.execute(delete(verifiers).where(same))
            else:
                said = {
                    "audience": member.audience,
                    "instance": member.instance,
                    "log": member.log,
                    "pos": member.position,
                    "freshness": member.freshness,
                    "reported_at": now,
                }
                upsert = insert(verifiers).values(id=member.id, client_id=report.client_id, **said)
                upsert = upsert.on_conflict_do_update(
                    index_elements=["id"], set_=said, where=verifiers.c.client_id == report.client_id
                ).returning(verifiers.c.id)
                if tx.execute(upsert).first() is None:
                    of_another.add(index)
                    continue
            if report.applied:
                rows = [
                    {"log": member.log, "pos": pos, "verifier_id": member.id, "delay_ms": delay, "reported_at": now}
                    for pos, delay in sorted(report.applied.items())
                ]
                tx.execute(insert(receipts).on_conflict_do_nothing(), rows)
        return of_another

    def _members(self, tx: Connection) -> list[Member]:
        query = (
            select(verifiers)
            .where(verifiers.c.reported_at > self._now(tx) - MEMBER_FOR_MS)
            .order_by(verifiers.c.audience, verifiers.c.id)
            .limit(MOST_MEMBERS)
        )
        return [
            Member(row.id, row.audience, row.instance, row.log, row.pos, row.freshness, row.reported_at)
            for row in tx.execute(query)
        ]

    def _coverage(self, tx: Connection, log: str, position: int) -> Coverage:
        query = select(receipts.c.verifier_id, receipts.c.delay_ms).where(
            receipts.c.log == log, receipts.c.pos == position
        )
        delays: dict[str, float] = {row.verifier_id: row.delay_ms for row in tx.execute(query)}
        applied, outstanding = [], []
        for member in self._members(tx):
            if member.id in delays or (member.log == log and member.position >= position):
                applied.append(Receipt(member, delays.get(member.id)))
            else:
                outstanding.append(member)
        return Coverage(position, tuple(applied), tuple(outstanding))


def _forget(tx: Connection, table: Table, before: int) -> int:
    old = select(table.c.reported_at).where(table.c.reported_at < before).order_by(table.c.reported_at)
    last = tx.execute(old.offset(_BATCH - 1).limit(1)).scalar_one_or_none()
    upto = before - 1 if last is None else last
    return tx.execute(delete(table).where(table.c.reported_at <= upto)).rowcount
