"""Reactions in SQL: what a service does when something was told, in one transaction with the note that it did.

Events that arrive together share a transaction, because a commit is what costs. When one of them fails, the transaction
is undone and made again with a savepoint for each, so that it takes none of the others with it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from google.protobuf.message import Message
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, OperationalError

from eventlog.event import Event, read_as
from eventlog.handling import Later, Outcome
from eventlog.inbox import Inbox
from eventlog.metrics import ConsumerMetrics
from servicekit.database import Database, lost_against_another
from servicekit.errors import ServiceError
from servicekit.telemetry import request_context

Reaction = Callable[[Connection, Event, Any], object]  # the third: the message, of the type it was registered for
Preparation = Callable[[Connection, Sequence[tuple[Event, Any]]], None]
_FORGET = 1000  # rows deleted in one transaction
_TOOK_TOO_LONG = "57014"  # PostgreSQL: query_canceled, by statement_timeout
_log = structlog.get_logger("eventlog.reactions")


@dataclass(frozen=True, slots=True)
class _Arrival:
    event: Event
    position: int
    message: Message
    reaction: Reaction
    result: "asyncio.Future[Outcome]"


@dataclass(frozen=True, slots=True)
class _Ending:
    """Of one arrival in a transaction: an exception has undone it."""

    outcome: Outcome | Exception
    returned: object = None


class _OneFailed(Exception):
    """A reaction failed in company."""


class Reactions:
    """Calls reactions in SQL, each event once. A `Handler` for a `Consumer`.

    `reactions` maps message types to functions `react(tx, event, message)`, which run in a worker thread, in the
    transaction that also notes the event. They may run again when that transaction has to, so they have no effect
    outside of it. What they return, unless it is None, goes to `committed` after the commit, in the event loop: for
    live pushes and the like, which may get lost when the process dies there.

    `prepare(tx, events and messages)` comes before the reactions of one transaction, with all that it may react to: for
    locks that must be taken in one order, or two transactions with several events each wait for each other.

    Readers are tolerant: a type that is not in `reactions` is acknowledged and counted, and a revision above
    `revisions` (1 where it names none) is counted and read.
    """

    def __init__(
        self,
        database: Database,
        inbox: Inbox,
        reactions: Mapping[type[Message], Reaction],
        *,
        metrics: ConsumerMetrics,
        prepare: Preparation | None = None,
        committed: Callable[[Sequence[object]], None] | None = None,
        revisions: Mapping[type[Message], int] | None = None,
        retention: float = 7 * 24 * 3600.0,
        together: int = 64,
    ) -> None:
        self._database = database
        self._inbox = inbox
        self._known = {kind.DESCRIPTOR.full_name: (kind, reaction) for kind, reaction in reactions.items()}
        self._revisions = {kind.DESCRIPTOR.full_name: number for kind, number in (revisions or {}).items()}
        self._newer = metrics.newer.labels(inbox.stream, inbox.reader)
        self._prepare = prepare
        self._committed = committed
        self._retention = retention
        self._together = together
        self._arrived: list[_Arrival] = []
        self._working: asyncio.Task[None] | None = None

    async def handle(self, event: Event, position: int) -> Outcome:
        """See `Handler`. What the reaction raises comes out here."""
        known = self._known.get(event.type)
        if known is None:
            return Outcome.UNKNOWN
        kind, reaction = known
        if event.version > self._revisions.get(event.type, 1):
            self._newer.inc()
        result: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._arrived.append(_Arrival(event, position, read_as(event, kind), reaction, result))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await result

    async def forget(self, settled: int) -> None:
        """See `Handler`."""

        def work(tx: Connection) -> int:
            retention = round(self._retention * 1000)
            before = self._database.now(tx) - retention
            # Clocks differ by less than half of a retention, and what is told anew is younger than the other half.
            return self._inbox.forget(tx, settled=settled, before=before, slack=retention // 2, limit=_FORGET)

        while settled and await self._database.run(work) == _FORGET:
            pass

    async def _work(self) -> None:
        """Runs while there is something to do, and no longer: nobody has to stop it."""
        try:
            while self._arrived:
                batch, self._arrived = self._arrived[: self._together], self._arrived[self._together :]
                # In one order everywhere, so that two replicas with the same events do not wait for each other.
                await self._commit(sorted(batch, key=lambda arrival: arrival.position))
        finally:
            self._working = None

    async def _commit(self, batch: Sequence[_Arrival]) -> None:
        try:
            try:
                endings = await self._database.run(lambda tx: self._react(tx, batch))
            except _OneFailed:
                endings = await self._database.run(lambda tx: self._react_carefully(tx, batch))
        except ServiceError as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One of them spoils the commit: that must not count against the others.
            for arrival in batch:
                await self._commit([arrival])
        except BaseException:
            _fail(batch, Later("CUT_OFF"))
            raise
        else:
            self._tell(batch, endings)

    def _react(self, tx: Connection, batch: Sequence[_Arrival]) -> list[_Ending]:
        """All of them, or none.

        Raises:
            _OneFailed: none.
        """
        events = [(arrival.event, arrival.position) for arrival in batch]
        new = self._inbox.first_times(tx, events, at=self._database.now(tx))
        self._before(tx, [arrival for arrival in batch if arrival.event.id in new])
        endings: list[_Ending] = []
        for arrival in batch:
            if arrival.event.id not in new:
                endings.append(_Ending(Outcome.REPEATED))
                continue
            new.remove(arrival.event.id)  # it may be here twice
            try:
                with request_context({"traceparent": arrival.event.traceparent}):
                    endings.append(_Ending(Outcome.HANDLED, arrival.reaction(tx, arrival.event, arrival.message)))
            except Exception as error:
                if isinstance(error, DBAPIError) and _spoils_transaction(error):
                    raise
                raise _OneFailed from error
        return endings

    def _react_carefully(self, tx: Connection, batch: Sequence[_Arrival]) -> list[_Ending]:
        """Each of them, or not; whoever fails is undone alone."""
        at = self._database.now(tx)
        floor = self._inbox.floor(tx)
        self._before(tx, batch)
        endings: list[_Ending] = []
        for arrival in batch:
            try:
                with tx.begin_nested(), request_context({"traceparent": arrival.event.traceparent}):
                    if self._inbox.first_time(tx, arrival.event, arrival.position, at=at, floor=floor):
                        returned = arrival.reaction(tx, arrival.event, arrival.message)
                        ending = _Ending(Outcome.HANDLED, returned)
                    else:
                        ending = _Ending(Outcome.REPEATED)
            except DBAPIError as error:
                if _spoils_transaction(error):
                    raise
                ending = _Ending(error)
            except Exception as error:
                ending = _Ending(error)
            endings.append(ending)
        return endings

    def _before(self, tx: Connection, batch: Sequence[_Arrival]) -> None:
        if self._prepare is not None and batch:
            self._prepare(tx, [(arrival.event, arrival.message) for arrival in batch])

    def _tell(self, batch: Sequence[_Arrival], endings: Sequence[_Ending]) -> None:
        for arrival, ending in zip(batch, endings, strict=True):
            if isinstance(ending.outcome, Exception):
                _fail([arrival], ending.outcome)
            elif not arrival.result.done():
                arrival.result.set_result(ending.outcome)
        returned = [ending.returned for ending in endings if ending.returned is not None]
        if returned and self._committed is not None:
            try:
                self._committed(returned)
            except Exception:
                _log.exception("what follows a commit failed", stream=self._inbox.stream, group=self._inbox.reader)


def _fail(batch: Sequence[_Arrival], error: Exception) -> None:
    for arrival in batch:
        # One that is done was given up by its consumer: the event comes again, and is recognised if it had its effect.
        if not arrival.result.done():
            arrival.result.set_exception(error)


def _spoils_transaction(error: DBAPIError) -> bool:
    """Whether rolling back to the savepoint is not enough."""
    if lost_against_another(error) or error.connection_invalidated:
        return True
    # A statement that took too long is the event's own trouble.
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) != _TOOK_TOO_LONG
