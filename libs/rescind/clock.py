"""Time, passed in: two clocks that everything here reads, and tests set."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

# Where the system has it, a clock that goes on while the machine sleeps: a laptop that wakes up, or a virtual machine
# that is resumed, must not count as fresh what it knew before.
since_boot: Callable[[], float] = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks, in seconds: `wall` since the epoch, `monotonic` for ages. A feed and its verifiers share one."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = since_boot
