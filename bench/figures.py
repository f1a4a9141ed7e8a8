"""What a run found: figures, each beside its peer and its target."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """What was promised: `says` in words, `met` by this run."""

    says: str
    met: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. `ratio` is the figure divided by that of `peer`, in the same run."""

    what: str
    value: str
    peer: str = ""
    ratio: float | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. `FULL` is what is reported; `TINY` only shows that everything still runs."""

    tokens: int  # different tokens in the comparisons of libraries
    working_set: int  # different tokens that a verifier sees again and again
    rounds: int
    held: tuple[int, ...]  # entries held, smallest first
    weighed: int  # entries whose memory is measured
    revocations: int
    verifiers: tuple[int, ...]  # processes
    streams: int  # open at once
    receipts: int  # revocations that are waited for until every verifier has reported
    asked: int  # requests in a round of asking
    to_catch_up: tuple[int, ...]  # live entries, smallest first
    catch_ups: int
    events: int  # committed at once, to be told to people
    event_rounds: int
    events_alone: int  # each told when the one before has arrived
    live: int  # streams of Server-Sent Events, open at once
    live_seconds: int  # each stream gets an event a second
    stalled: int  # further streams, whose readers do not read
    history: int  # events that a reader who stalls is behind


FULL = Scale(
    tokens=300,
    working_set=8_000,
    rounds=31,
    held=(1_000, 100_000, 1_000_000),
    weighed=1_000_000,
    revocations=200,
    verifiers=(1, 4),
    streams=500,
    receipts=50,
    asked=20,
    to_catch_up=(1_000, 50_000),
    catch_ups=3,
    events=2_000,
    event_rounds=5,
    events_alone=30,
    live=1_000,
    live_seconds=20,
    stalled=10,
    history=20_000,
)
TINY = Scale(
    tokens=10,
    working_set=20,
    rounds=2,
    held=(10, 100),
    weighed=5_000,
    revocations=5,
    verifiers=(1, 2),
    streams=12,
    receipts=3,
    asked=2,
    to_catch_up=(10, 50),
    catch_ups=1,
    events=50,
    event_rounds=1,
    events_alone=2,
    live=20,
    live_seconds=2,
    stalled=2,
    history=100,
)

Say = Callable[[str], None]  # progress, for whoever watches


def counted(number: int) -> str:
    """1 k, 100 k, 1 M."""
    for size, unit in ((1_000_000, " M"), (1_000, " k")):
        if number >= size and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def duration(seconds: float) -> str:
    """In the unit that fits."""
    if seconds == 0:
        return "0"
    for least, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= least:
            return f"{seconds / least:.2f} {unit}"
    return f"{seconds * 1e6:.2f} µs" if seconds < 10e-6 else f"{seconds * 1e6:.0f} µs"
