"""What the event log needs of a stream. `RedisStream` and `MemoryStream` keep these promises, and pass one suite.

A stream holds entries by *position*, 1, 2, 3 ..., which SQL gave out. It may be lost or go back in time; its producer
notices by its last position and appends again. So positions name the same event for ever, and whoever reads tells
repeats by the event's id.

Every *group* reads the whole stream; within a group each entry is delivered to one consumer at a time. An entry that
was delivered is *pending* until it is acknowledged, however often its consumer dies. A pending entry is in the hands of
a consumer; or *parked*, for nobody in particular, until its delay is over; or abandoned, when nobody has touched it for
the length of a lease.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol


class StreamUnavailable(Exception):
    """The stream does not answer, or refuses: later it will."""


class GroupLost(Exception):
    """The stream does not know the group: it came back without it. Join again, and read what there is."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry in the hands of a consumer.

    `key` is opaque. `attempt` counts deliveries, this one included. `redriven`: it comes out of the dead letters.
    `abandoned`: the consumer that had it before fell silent.
    """

    key: str
    position: int
    payload: bytes
    attempt: int = 1
    redriven: bool = False
    abandoned: bool = False


@dataclass(frozen=True, slots=True)
class Delays:
    """When a pending entry is due again, in seconds: parked ones after `first`, doubled at every attempt up to
    `longest`; those in somebody's hands after `lease`."""

    first: float = 0.2
    longest: float = 300.0
    lease: float = 30.0


@dataclass(frozen=True, slots=True)
class Due:
    """What was due, how many entries stay parked, and in how many seconds the next of them is due (None: none is)."""

    deliveries: Sequence[Delivery]
    parked: int
    next_in: float | None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far all groups are. At or below `floor` nothing waits or is pending; at or below `settled`, moreover, nothing
    lies in the dead letters: a stream that is lost loses those too, and they must come again."""

    floor: int
    settled: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a group has before it: entries not delivered yet, pending ones (the parked among them), dead letters."""

    undelivered: int
    pending: int
    dead: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that could not be handled. `id` is opaque; `buried_at` in milliseconds since the epoch."""

    id: str
    position: int
    reason: str
    detail: str
    attempts: int
    buried_at: int
    payload: bytes


class Group(Protocol):
    """One group of readers, as its consumers and its operators see it.

    Every method raises StreamUnavailable; those that read raise GroupLost.
    """

    stream: str
    name: str

    async def join(self) -> None:
        """Makes the group, at the beginning of the stream, unless it is there."""

    async def read(self, consumer: str, count: int, wait: float) -> Sequence[Delivery]:
        """Some `count` entries that nobody had before; waits at most `wait` seconds for the first."""

    async def due(self, consumer: str, delays: Delays, count: int) -> Due:
        """Takes over at most `count` parked or abandoned entries whose time has come.

        What was abandoned several times may be what kills its readers: it comes alone.
        """

    async def done(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledges: they are never delivered again."""

    async def park(self, deliveries: Sequence[Delivery], *, counted: bool = True) -> None:
        """Puts them back, to be due again after their delay; if not `counted`, at once and as if never delivered."""

    async def give_back(self, consumer: str, *, besides: Collection[Delivery] = (), leave: bool = False) -> None:
        """Parks all that is pending for `consumer` but `besides`, due at once and not counted as attempts.

        With `leave` the consumer is forgotten too.
        """

    async def bury(self, delivery: Delivery, reason: str, detail: str, *, limit: int) -> bool:
        """Moves it to the dead letters in one step; False, and nothing happens, when there are `limit` already."""

    async def tidy(self, idle: float) -> None:
        """Forgets consumers that hold nothing and were silent for `idle` seconds."""

    async def settled(self) -> int:
        """The settled position that the producer announced last; 0 when it is not known."""

    async def backlog(self) -> Backlog:
        """What the group has before it."""

    async def dead_letters(self, count: int, after: str = "") -> Sequence[DeadLetter]:
        """At most `count` dead letters, oldest first, those after the id `after`."""

    async def redrive(self, ids: Sequence[str]) -> int:
        """Delivers dead letters again, to this group alone; returns how many there were."""

    async def discard(self, ids: Sequence[str]) -> int:
        """Drops dead letters for good; returns how many there were."""


class Stream(Protocol):
    """A stream, as its producer sees it. Every method raises StreamUnavailable."""

    name: str

    async def last(self) -> int:
        """The last position appended, trimmed or not; 0 for a stream that is new, or lost."""

    async def append(self, after: int, entries: Sequence[tuple[int, bytes]]) -> int:
        """Appends `entries` (position, payload; ascending) if, and only if, the last position is `after`.

        Returns the last position as it is then.
        """

    async def trim(self, required: Collection[str]) -> Acknowledged | None:
        """Drops, in one step, what all groups have acknowledged, and tells how far they are.

        None, and nothing is dropped, as long as there is no group, or one of `required` is missing.
        """

    async def announce(self, settled: int) -> None:
        """Tells the groups that nothing at or below `settled` will be appended again."""

    def group(self, name: str) -> Group:
        """The group of that name, whether it exists or not."""

    async def aclose(self) -> None:
        """Closes the connections."""
