"""A stream in this process: for tests, and to be read beside `redis_stream` for what the scripts there mean."""

import asyncio
import itertools
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from eventlog.stream import Acknowledged, Backlog, DeadLetter, Delays, Delivery, Due, GroupLost

SUSPECT = 3  # attempts after which an abandoned entry is delivered alone
_PARKED = ""
_LONG_AGO = float("-inf")


@dataclass(slots=True)
class _Pending:
    position: int
    payload: bytes
    redriven: bool
    consumer: str
    since: float
    attempt: int = 1


@dataclass(slots=True)
class _GroupState:
    """`redriven` holds what was put back and is not delivered yet, `pending` what is delivered and not acknowledged."""

    delivered: int = 0
    pending: dict[str, _Pending] = field(default_factory=dict)
    consumers: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Letters:
    """Lives beside the group: losing the group loses no letter."""

    dead: dict[str, DeadLetter] = field(default_factory=dict)
    redriven: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)  # redriven and not delivered yet


class MemoryStream:
    """Keeps the promises of `Stream` in one process and one event loop. `now` is monotonic, in seconds."""

    def __init__(self, name: str, *, now: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._now = now
        self._ids = itertools.count(1)
        self._news = asyncio.Event()
        self.lose()

    def lose(self) -> None:
        """What a Redis does that comes back empty."""
        self._last = 0
        self._settled = 0
        self._entries: dict[int, bytes] = {}
        self._groups: dict[str, _GroupState] = {}
        self._letters: dict[str, _Letters] = {}
        self._wake()

    async def last(self) -> int:
        """See `Stream`."""
        return self._last

    async def append(self, after: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """See `Stream`."""
        if after == self._last:
            for position, payload in entries:
                if position <= self._last:
                    raise ValueError("positions must ascend")
                self._entries[position] = payload
                self._last = position
            self._wake()
        return self._last

    async def trim(self, required: Collection[str]) -> Acknowledged | None:
        """See `Stream`."""
        if not self._groups or not set(required) <= self._groups.keys():
            return None
        floor = min(
            min((p.position - 1 for p in state.pending.values() if not p.redriven), default=state.delivered)
            for state in self._groups.values()
        )
        dead = [
            position
            for name in {*self._groups, *required}
            if (letters := self._letters.get(name)) is not None
            for position in (*(d.position for d in letters.dead.values()), *(p for p, _ in letters.redriven.values()))
        ]
        for position in [p for p in self._entries if p <= floor]:
            del self._entries[position]
        return Acknowledged(floor, min([floor, *(position - 1 for position in dead)]))

    async def announce(self, settled: int) -> None:
        """See `Stream`."""
        self._settled = settled

    def group(self, name: str) -> "MemoryGroup":
        """See `Stream`."""
        return MemoryGroup(self, name)

    async def aclose(self) -> None:
        """See `Stream`."""

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class MemoryGroup:
    """A group of a `MemoryStream`."""

    def __init__(self, stream: MemoryStream, name: str) -> None:
        self._stream = stream
        self.stream = stream.name
        self.name = name

    @property
    def _state(self) -> _GroupState:
        try:
            return self._stream._groups[self.name]  # noqa: SLF001 # the stream's other half
        except KeyError:
            raise GroupLost(self.name) from None

    @property
    def _letters(self) -> _Letters:
        return self._stream._letters.setdefault(self.name, _Letters())  # noqa: SLF001

    async def join(self) -> None:
        """See `Group`."""
        self._stream._groups.setdefault(self.name, _GroupState())  # noqa: SLF001

    async def read(self, consumer: str, count: int, wait: float) -> Sequence[Delivery]:
        """See `Group`."""
        found = self._take(consumer, count)
        if not found and wait > 0:
            try:
                async with asyncio.timeout(wait):
                    while not found:
                        await self._stream._news.wait()  # noqa: SLF001
                        found = self._take(consumer, count)
            except TimeoutError:
                return []
        return found

    def _take(self, consumer: str, count: int) -> list[Delivery]:
        state, letters, now = self._state, self._letters, self._stream._now()  # noqa: SLF001
        state.consumers[consumer] = now
        taken: list[Delivery] = []
        entries = self._stream._entries  # noqa: SLF001
        for position in sorted(p for p in entries if p > state.delivered)[:count]:
            key = str(position)
            state.pending[key] = _Pending(position, entries[position], False, consumer, now)
            state.delivered = position
            taken.append(Delivery(key, position, entries[position]))
        for key in letters.fresh[:count]:
            letters.fresh.remove(key)
            position, payload = letters.redriven[key]
            state.pending[key] = _Pending(position, payload, True, consumer, now)
            taken.append(Delivery(key, position, payload, redriven=True))
        return taken

    async def due(self, consumer: str, delays: Delays, count: int) -> Due:
        """See `Group`."""
        state, now = self._state, self._stream._now()  # noqa: SLF001
        state.consumers[consumer] = now
        taken: list[Delivery] = []
        parked: int = 0
        next_in: float | None = None
        alone = False
        order = sorted(state.pending.items(), key=lambda p: (p[1].consumer != _PARKED, p[1].redriven, p[1].position))
        for key, pending in order:
            waiting = pending.consumer == _PARKED
            delay = min(delays.first * 2 ** (pending.attempt - 1), delays.longest) if waiting else delays.lease
            remaining = pending.since + delay - now
            suspect = not waiting and pending.attempt >= SUSPECT
            if remaining <= 0 and len(taken) < count and not alone and not (suspect and taken):
                pending.consumer, pending.since = consumer, now
                pending.attempt += 1
                taken.append(
                    Delivery(key, pending.position, pending.payload, pending.attempt, pending.redriven, not waiting)
                )
                alone = suspect
            elif waiting:
                parked += 1
                next_in = max(0.0, remaining if next_in is None else min(next_in, remaining))
        return Due(taken, parked, next_in)

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """See `Group`."""
        state = self._stream._groups.get(self.name)  # noqa: SLF001
        for delivery in deliveries:
            pending = None if state is None else state.pending.pop(delivery.key, None)
            if pending is not None and delivery.redriven:
                self._letters.redriven.pop(delivery.key, None)

    async def park(self, deliveries: Sequence[Delivery], *, counted: bool = True) -> None:
        """See `Group`."""
        state = self._state
        for delivery in deliveries:
            if (pending := state.pending.get(delivery.key)) is not None:
                _park(pending, self._stream._now() if counted else _LONG_AGO)  # noqa: SLF001

    async def give_back(self, consumer: str, *, besides: Collection[Delivery] = (), leave: bool = False) -> None:
        """See `Group`."""
        state = self._state
        kept = {delivery.key for delivery in besides}
        for key, pending in state.pending.items():
            if pending.consumer == consumer and key not in kept:
                _park(pending, _LONG_AGO)
        if leave:
            state.consumers.pop(consumer, None)

    async def bury(self, delivery: Delivery, reason: str, detail: str, *, limit: int) -> bool:
        """See `Group`."""
        state, letters = self._state, self._letters
        if delivery.key not in state.pending:
            return True  # somebody else has dealt with it
        if len(letters.dead) >= limit:
            return False
        number = f"dead-{next(self._stream._ids)}"  # noqa: SLF001
        now = round(self._stream._now() * 1000)  # noqa: SLF001
        letters.dead[number] = DeadLetter(
            number, delivery.position, reason, detail, delivery.attempt, now, delivery.payload
        )
        await self.done([delivery])
        return True

    async def tidy(self, idle: float) -> None:
        """See `Group`."""
        state, now = self._state, self._stream._now()  # noqa: SLF001
        holding = {pending.consumer for pending in state.pending.values()}
        for name in [n for n, seen in state.consumers.items() if n not in holding and now - seen >= idle]:
            del state.consumers[name]

    async def settled(self) -> int:
        """See `Group`."""
        return self._stream._settled  # noqa: SLF001

    async def backlog(self) -> Backlog:
        """See `Group`."""
        state, letters = self._state, self._letters
        new = sum(1 for position in self._stream._entries if position > state.delivered)  # noqa: SLF001
        return Backlog(new + len(letters.fresh), len(state.pending), len(letters.dead))

    async def dead_letters(self, count: int, after: str = "") -> Sequence[DeadLetter]:
        """See `Group`."""
        letters = list(self._letters.dead.values())
        start = next((n for n, letter in enumerate(letters, 1) if letter.id == after), 0)
        return letters[start : start + count]

    async def redrive(self, ids: Sequence[str]) -> int:
        """See `Group`."""
        letters = self._letters
        found = [letters.dead.pop(number) for number in ids if number in letters.dead]
        for letter in found:
            key = f"redriven-{next(self._stream._ids)}"  # noqa: SLF001
            letters.redriven[key] = (letter.position, letter.payload)
            letters.fresh.append(key)
        self._stream._wake()  # noqa: SLF001
        return len(found)

    async def discard(self, ids: Sequence[str]) -> int:
        """See `Group`."""
        return sum(self._letters.dead.pop(number, None) is not None for number in ids)


def _park(pending: _Pending, since: float) -> None:
    pending.consumer, pending.since = _PARKED, since
    if since == _LONG_AGO:  # not counted
        pending.attempt -= 1
