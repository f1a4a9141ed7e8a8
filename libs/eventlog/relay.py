"""The relay: sees to it that the stream ends like SQL.

Every round asks the stream for its last position, places what was committed, and appends what the stream lacks, each of
the three safe to be done by several processes at once and to be cut off anywhere:

- placing is one transaction behind one row lock;
- appending is one step in the stream, and happens only on top of the position that the relay has just seen.

So the ordinary case, a crash half-way, a stream that came back empty, a lagging replica that was promoted and a
database that was restored from a backup are all the same round.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection

from eventlog.metrics import RelayMetrics
from eventlog.outbox import Outbox, Placed, Standing
from eventlog.stream import Stream, StreamUnavailable
from servicekit.database import Database
from servicekit.errors import ServiceError

_FORGET = 1000  # rows deleted in one transaction
_log = structlog.get_logger("eventlog.relay")


@dataclass(frozen=True, slots=True)
class Pace:
    """How a relay spends its time, in seconds.

    `poll`: between looks when nobody wakes it. `linger`: before it comes back to work that another relay is at; what is
    committed meanwhile goes along. `longest_pause`: between attempts when SQL or the stream does not answer.
    `tidy`: between looks at what may be forgotten. `retention`: how long a settled event stays in SQL.
    """

    batch: int = 256
    poll: float = 1.0
    linger: float = 0.01
    longest_pause: float = 2.0
    tidy: float = 5.0
    retention: float = 24 * 3600.0


class Relay:
    """Publishes an outbox. Every replica of a service runs one.

    `required` names the groups without whose acknowledgement nothing is forgotten, even before they exist.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        stream: Stream,
        *,
        metrics: RelayMetrics,
        required: Collection[str] = (),
        pace: Pace = Pace(),  # frozen
        chance: Callable[[], float] = random.random,
    ) -> None:
        if stream.name != outbox.stream:
            raise ValueError(f"the outbox is for {outbox.stream}, the stream is {stream.name}")
        self._database = database
        self._outbox = outbox
        self._stream = stream
        self._required = frozenset(required)
        self._metrics = metrics
        self._pace = pace
        self._chance = chance
        self._woken = asyncio.Event()
        self._highest = 0  # of the stream's last positions that this relay has seen

    def wake(self) -> None:
        """Something was committed: publish it now and not at the next poll. Call it in the event loop."""
        self._woken.set()

    async def run(self) -> None:
        """Publishes and tidies until it is cancelled. Trouble is logged and outlasted."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publish())
            tasks.create_task(self._tidy())

    async def publish(self) -> bool:
        """One round; tells whether another one is due at once.

        Raises:
            StreamUnavailable, ServiceError: nothing is lost, the next round begins where this one began.
        """
        last = await self._stream.last()
        standing = await self._database.read(self._outbox.standing)
        head = standing.head
        if standing.unplaced:
            placed = await self._database.run(lambda tx: self._outbox.place(tx, above=last, limit=self._pace.batch))
            if placed is None:
                await asyncio.sleep(self._pace.linger * (0.5 + self._chance()))
                return True
            head = placed
        self._notice(last, standing)
        if last >= head:
            self._metrics.behind.labels(self._stream.name).set(0)
            return standing.unplaced
        # What is settled nobody needs again, and SQL may have forgotten it.
        begin = max(last, standing.settled)
        rows, at = await self._database.read(
            lambda tx: (self._outbox.after(tx, begin, self._pace.batch), self._database.now(tx))
        )
        if not rows:
            return False  # all that the stream lacks is settled
        now = await self._append(last, rows, at)
        self._metrics.behind.labels(self._stream.name).set(max(0, head - now))
        return now < head or standing.unplaced

    async def tidy(self) -> None:
        """Forgets, in the stream and in SQL, what every group is through with.

        Raises:
            StreamUnavailable, ServiceError.
        """
        acknowledged = await self._stream.trim(self._required)
        if acknowledged is not None:
            standing = await self._database.read(self._outbox.standing)
            settled = max(standing.settled, acknowledged.settled)
            if settled > standing.settled:
                await self._database.run(lambda tx: self._outbox.settle(tx, settled))
            # SQL first: on this word the readers forget what they have handled, so it must not come again.
            await self._stream.announce(settled)
            self._metrics.unsettled.labels(self._stream.name).set(max(0, standing.head - settled))

        def forget(tx: Connection) -> int:
            before = self._database.now(tx) - round(self._pace.retention * 1000)
            return self._outbox.forget(tx, before=before, limit=_FORGET)

        while await self._database.run(forget) == _FORGET:
            pass

    async def _append(self, last: int, rows: list[Placed], at: int) -> int:
        now = await self._stream.append(last, [(row.position, row.envelope) for row in rows])
        if now == rows[-1].position:
            self._highest = max(self._highest, now)
            self._metrics.published.labels(self._stream.name).inc(len(rows))
            delay = self._metrics.delay.labels(self._stream.name)
            for row in rows:
                delay.observe(max(0, at - row.created_at) / 1000)
        return now

    def _notice(self, last: int, standing: Standing) -> None:
        if last < self._highest:
            _log.warning("the stream lost what it held", stream=self._stream.name, held=self._highest, holds=last)
            self._metrics.restored.labels(self._stream.name).inc()
        if last > standing.head and standing.unplaced:
            # Or another relay has placed and published since we looked: not worth a lock to find out.
            _log.info("the stream is ahead of SQL", stream=self._stream.name, holds=last, head=standing.head)
        self._highest = last

    async def _publish(self) -> None:
        pause = 0.05
        while True:
            self._woken.clear()
            try:
                more = await self.publish()
                pause = 0.05
            except Exception as error:
                self._complain(error)
                pause = min(self._pace.longest_pause, pause * 2)
                await asyncio.sleep(pause * (0.5 + self._chance()))
                continue
            if not more:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.poll * (0.75 + self._chance() / 2)):
                        await self._woken.wait()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(self._pace.tidy * (0.5 + self._chance()))
            try:
                await self.tidy()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        self._metrics.failures.labels(self._stream.name).inc()
        if isinstance(error, StreamUnavailable | ServiceError):
            _log.warning("the relay waits", stream=self._stream.name, reason=str(error))
        else:
            # A relay that ended would let events wait for a restart that nobody asked for.
            _log.error("the relay met something unforeseen", stream=self._stream.name, exc_info=error)
