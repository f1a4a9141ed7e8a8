"""Fair comparisons on a noisy machine: contestants take turns, medians tell."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

Round = Callable[[], float]  # does one round of the work; seconds per call
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per call, by contestant: one figure a round."""

    rounds: Mapping[str, Sequence[float]]

    def typical(self, name: str) -> float:
        """The median of a contestant's rounds."""
        return median(self.rounds[name])

    def ratio(self, name: str, peer: str) -> float:
        """How many times as long as `peer` it takes: the median of the ratios within a round."""
        return median(mine / theirs for mine, theirs in zip(self.rounds[name], self.rounds[peer], strict=True))


def take_turns(contestants: Mapping[str, Round], rounds: int) -> Timings:
    """Each contestant does a round in turn, `rounds` times; each time another one begins. One round more warms up."""
    names = list(contestants)
    timings: dict[str, list[float]] = {name: [] for name in names}
    for contestant in contestants.values():
        contestant()
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            timings[name].append(contestants[name]())
    return Timings(timings)


def per_call(work: Callable[[T], object], items: Sequence[T]) -> float:
    """Seconds that one call of `work` takes, over all items. The loop's own 10 to 20 ns count."""
    started = time.perf_counter_ns()
    for item in items:
        work(item)
    return (time.perf_counter_ns() - started) / 1e9 / len(items)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
