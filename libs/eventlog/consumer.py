"""A consumer: takes events of one group, hands them over, and lets none get lost or in the way of the others.

Events of one aggregate are handed over one after the other, in order, within one consumer. With several consumers in a
group, and after a failed attempt, a later event may come first: whoever minds looks at `Event.sequence`.

One loop talks to the stream, so that it is always known what is pending for this consumer and not in its hands: what an
answer that got lost has left behind. A read that blocks goes on while parked events are looked after.
"""

import asyncio
import contextlib
import random
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from eventlog.event import Event, UnreadableEvent, decoded
from eventlog.handling import Handler, Later, NeverRetry, Patience
from eventlog.metrics import ConsumerMetrics
from eventlog.stream import Delivery, Group, GroupLost, StreamUnavailable
from servicekit.errors import Kind, ServiceError
from servicekit.telemetry import redact_text, request_context

_log = structlog.get_logger("eventlog.consumer")
_LONGEST_DETAIL = 500  # characters of an error's text that a dead letter keeps


def consumer_name() -> str:
    """A name that no other process has: one that comes back must not take itself for the one that died."""
    return f"{socket.gethostname()}-{random.getrandbits(48):012x}"  # nothing secret


class Consumer:
    """Reads for one group, as one of its consumers. `in_hand` bounds, roughly, how many events it handles at a time.

    `wait` (seconds) is how long one read blocks. `name` must be this process's alone: see `consumer_name`.
    """

    def __init__(
        self,
        group: Group,
        handler: Handler,
        *,
        name: str,
        metrics: ConsumerMetrics,
        patience: Patience = Patience(),  # noqa: B008 # frozen
        in_hand: int = 64,
        wait: float = 2.0,
        chance: Callable[[], float] = random.random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._handler = handler
        self._name = name
        self._metrics = metrics
        self._patience = patience
        self._limit = in_hand
        self._wait = wait
        self._chance = chance
        self._now = now
        self._labels = (group.stream, group.name)
        self._about = {"stream": group.stream, "group": group.name, "consumer": name}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # a hand is free, or something was parked
        self._in_hand: set[Delivery] = set()
        self._lanes: dict[str, deque[tuple[Delivery, Event]]] = {}
        self._finished: list[Delivery] = []
        self._acknowledging = False
        self._reading: asyncio.Task[Sequence[Delivery]] | None = None
        self._asked_for = 0  # by that read
        self._next_look = 0.0  # for what is due
        self._parked = 0
        self._pause = 0.0
        self._pause_until = 0.0

    async def run(self) -> None:
        """Consumes, once, until it is cancelled; then finishes what is in hand, puts the rest back, and leaves."""
        work = asyncio.create_task(self._work())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping.set()
            self._changed.set()
            await asyncio.wait({work}, timeout=self._patience.stopping)
            raise
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            # What was read and not begun is due for the others at once.
            with contextlib.suppress(StreamUnavailable, GroupLost):
                await self._group.give_back(self._name, leave=True)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tidying = tasks.create_task(self._tidy())
            joined, failures = False, 0
            while not self._stopping.is_set():
                try:
                    if not joined:
                        await self._group.join()
                        await self._group.give_back(self._name, besides=self._in_hand)
                        joined, self._next_look = True, 0.0
                    await self._round(tasks)
                    failures = 0
                except Exception as error:
                    joined, failures = False, failures + 1
                    self._complain(error)
                    await self._quiet(self._backoff(failures))
            await self._stop_reading()
            tidying.cancel()

    async def _round(self, tasks: asyncio.TaskGroup) -> None:
        """Takes what is due and what is new, as far as there are hands; returns when there is reason to look again."""
        self._changed.clear()
        now = self._now()
        if now < self._pause_until:
            await self._stop_reading()
            await self._quiet(self._pause_until - now)
            return
        if now >= self._next_look:
            await self._take_due(tasks)
        # A quarter of the hands is left to what comes again, so that neither starves the other.
        room = max(1, self._limit * 3 // 4) - len(self._in_hand)
        if self._reading is None and room > 0 and self._parked < self._patience.outstanding:
            self._asked_for = room
            self._reading = asyncio.create_task(self._read(room))
        await self._until_changed(max(0.0, self._next_look - self._now()))
        if self._reading is not None and self._reading.done():
            read, self._reading = self._reading, None
            self._dispatch(tasks, read.result())

    async def _read(self, room: int) -> Sequence[Delivery]:
        try:
            return await self._group.read(self._name, room, self._wait)
        finally:
            self._changed.set()

    async def _stop_reading(self) -> None:
        """What a read had taken when it is cut off stays pending for this consumer: joining and leaving find it."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _take_due(self, tasks: asyncio.TaskGroup) -> None:
        asked_for = self._asked_for if self._reading is not None else 0
        room = max(1, self._limit - asked_for - len(self._in_hand))
        due = await self._group.due(self._name, self._patience.delays, room)
        self._parked = due.parked
        self._metrics.parked.labels(*self._labels).set(due.parked)
        # Not all replicas at the same moment.
        pause = min(self._wait, self._patience.delays.lease / 4) * (0.5 + self._chance() / 2)
        if due.next_in is not None:
            pause = min(pause, due.next_in + 0.02 * self._chance())
        if len(due.deliveries) >= room:
            pause = 0.01  # there may be more
        self._next_look = self._now() + pause
        self._dispatch(tasks, due.deliveries)

    def _dispatch(self, tasks: asyncio.TaskGroup, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._in_hand.add(delivery)
            try:
                event = decoded(delivery.payload)
            except UnreadableEvent as error:
                self._count("unreadable")
                tasks.create_task(self._give_up(delivery, "UNREADABLE", str(error)))
                continue
            if event.aggregate in self._lanes:
                self._lanes[event.aggregate].append((delivery, event))
            else:
                self._lanes[event.aggregate] = deque([(delivery, event)])
                tasks.create_task(self._serve(event.aggregate))

    async def _serve(self, aggregate: str) -> None:
        """Handles what there is of one aggregate, in order; after the stop, only what has begun."""
        lane = self._lanes[aggregate]
        while lane and not self._stopping.is_set():
            delivery, event = lane.popleft()
            if delivery.abandoned and delivery.attempt > self._patience.crashes:
                await self._give_up(delivery, "CRASHED", f"its reader fell silent {delivery.attempt - 1} times")
            else:
                with request_context({"traceparent": event.traceparent}):
                    await self._attempt(delivery, event)
        del self._lanes[aggregate]

    async def _attempt(self, delivery: Delivery, event: Event) -> None:
        about = {"event_id": event.id, "event_type": event.type, "attempt": delivery.attempt, **self._about}
        try:
            with self._metrics.seconds.labels(*self._labels).time():
                async with asyncio.timeout(self._patience.handling):
                    outcome = await self._handler.handle(event, delivery.position)
        except NeverRetry as error:
            self._count("never")
            await self._give_up(delivery, error.reason, error.detail)
        except UnreadableEvent as error:
            self._count("unreadable")
            await self._give_up(delivery, "UNREADABLE", str(error))
        except Later as error:
            self._count("later")
            _log.info("event is for later", **about, reason=error.reason)
            await self._again(delivery, self._patience.later_attempts, error.reason, error.detail)
        except Exception as error:
            if isinstance(error, ServiceError) and error.kind is Kind.UNAVAILABLE:
                self._count("held")
                _log.warning("the consumer pauses", **about, reason=error.reason)
                await self._hold(delivery)
                return
            self._count("unforeseen")
            _log.error("event failed", **about, exc_info=error)
            detail = redact_text(f"{type(error).__name__}: {error}")[:_LONGEST_DETAIL]
            await self._again(delivery, self._patience.attempts, "UNFORESEEN", detail)
        else:
            self._pause = 0.0
            self._count(outcome.value)
            await self._acknowledge(delivery)

    async def _acknowledge(self, delivery: Delivery) -> None:
        # Whoever comes while an acknowledgement is on its way goes along with the next.
        self._finished.append(delivery)
        if self._acknowledging:
            return
        self._acknowledging = True
        try:
            while self._finished:
                batch, self._finished = self._finished, []
                await self._say(self._group.done(batch), batch)
        finally:
            self._acknowledging = False

    async def _again(self, delivery: Delivery, attempts: int, reason: str, detail: str) -> None:
        if delivery.attempt >= attempts:
            await self._give_up(delivery, reason, detail)
            return
        self._parked += 1  # until the next look counts them
        await self._say(self._group.park([delivery]), [delivery])
        self._look_within(self._patience.delays.first)

    async def _hold(self, delivery: Delivery) -> None:
        now = self._now()
        if now >= self._pause_until:  # the first of those in hand speaks for all
            self._pause = min(self._patience.longest_pause, max(0.1, self._pause * 2))
            self._pause_until = now + self._pause * (0.5 + self._chance() / 2)
        await self._say(self._group.park([delivery], counted=False), [delivery])
        self._look_within(0.0)

    async def _give_up(self, delivery: Delivery, reason: str, detail: str) -> None:
        async def bury() -> None:
            if await self._group.bury(delivery, reason, detail, limit=self._patience.dead_letters):
                self._count("buried")
                _log.error("event is a dead letter", **self._about, position=delivery.position, reason=reason)
            else:
                _log.error("the dead letters are full", **self._about, position=delivery.position, reason=reason)
                await self._group.park([delivery])

        await self._say(bury(), [delivery])

    async def _say(self, word: Awaitable[None], about: Sequence[Delivery]) -> None:
        """If the stream does not hear it, the deliveries stay pending, come after the lease, and are recognised."""
        try:
            await word
        except (StreamUnavailable, GroupLost) as error:
            _log.info("not said to the stream", **self._about, reason=str(error))
        finally:
            self._in_hand.difference_update(about)
            self._changed.set()

    async def _tidy(self) -> None:
        while True:
            try:
                backlog = await self._group.backlog()
                self._metrics.undelivered.labels(*self._labels).set(backlog.undelivered)
                self._metrics.pending.labels(*self._labels).set(backlog.pending)
                self._metrics.dead.labels(*self._labels).set(backlog.dead)
                await self._group.tidy(idle=max(3600.0, 4 * self._patience.delays.lease))
                await self._handler.forget(await self._group.settled())
            except (StreamUnavailable, GroupLost, ServiceError):
                pass  # `_work` and the handlers say it already
            except Exception as error:
                _log.error("tidying failed", **self._about, exc_info=error)
            await asyncio.sleep(self._patience.tidy * (0.5 + self._chance()))

    def _look_within(self, seconds: float) -> None:
        self._next_look = min(self._next_look, self._now() + seconds)
        self._changed.set()

    async def _until_changed(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()

    async def _quiet(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _backoff(self, failures: int) -> float:
        return min(self._patience.longest_pause, 0.05 * 2.0 ** min(failures, 10)) * (0.5 + self._chance() / 2)

    def _count(self, outcome: str) -> None:
        self._metrics.handled.labels(*self._labels, outcome).inc()

    def _complain(self, error: Exception) -> None:
        if isinstance(error, GroupLost):
            _log.warning("the group is gone: joining it again", **self._about)
        elif isinstance(error, StreamUnavailable):
            _log.warning("the consumer waits", **self._about, reason=str(error))
        else:
            _log.error("the consumer met something unforeseen", **self._about, exc_info=error)
