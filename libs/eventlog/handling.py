"""What becomes of an event, in the words of whoever handles it.

returns                   acknowledged
NeverRetry                to the dead letters at once, with its reason
Later                     again after a delay that doubles, `later_attempts` times
any other error           again after a delay that doubles, `attempts` times: a bug may be one of the moment
ServiceError UNAVAILABLE  nothing is wrong with the event: it is put back uncounted, and the whole consumer pauses
the process dies          another consumer takes it over when the lease is over, `crashes` times
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from eventlog.event import Event
from eventlog.stream import Delays


class _Failed(Exception):
    """`reason` is UPPER_SNAKE and stable, `detail` for people; neither holds a secret."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class NeverRetry(_Failed):
    """No attempt will ever succeed."""


class Later(_Failed):
    """What this event needs is not there yet."""


class Outcome(Enum):
    """What handling came to, for the metrics: REPEATED had its effect before, UNKNOWN has a type nobody reacts to."""

    HANDLED = "handled"
    REPEATED = "repeated"
    UNKNOWN = "unknown"


class Handler(Protocol):
    """What a consumer hands events to."""

    async def handle(self, event: Event, position: int) -> Outcome:
        """Handles one event; may be called again with an event that was handled before.

        Raises:
            NeverRetry, Later, UnreadableEvent, ServiceError: see the module.
        """

    async def forget(self, settled: int) -> None:
        """May forget what was handled at or below `settled`: the stream will not bring it again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a consumer tries; durations in seconds. The defaults give `Later` about a day.

    At `dead_letters` dead letters something is wrong with more than single events: nothing is given up any more, but
    parked. At `outstanding` parked events nothing new is taken. Both show in the metrics, and lose nothing.
    """

    attempts: int = 5
    later_attempts: int = 300
    crashes: int = 10
    delays: Delays = field(default_factory=Delays)
    handling: float = 12.0  # of one event; well below the lease
    stopping: float = 5.0  # that what is in hand may take after the stop
    dead_letters: int = 1000
    outstanding: int = 1000
    longest_pause: float = 5.0
    tidy: float = 15.0
