"""What a verifier knows about revocations at one moment, and how far that knowledge may be behind.

The feed writes it, the verifier reads it; nothing else passes between the two.
"""

from dataclasses import dataclass, field
from enum import Enum

from rescind.denylist import Denylist


class Freshness(Enum):
    """Whether this process may have missed a revocation."""

    SYNCING = "SYNCING"  # it has not yet known everything once
    FRESH = "FRESH"  # it knew everything less than `max_staleness` ago
    STALE = "STALE"  # it knew everything once, but longer ago than that


@dataclass(slots=True)
class Knowledge:
    """The denylist, the accepted keys, and until when all of it counts as fresh.

    `kids` is None before the first heartbeat. `former_kids` were accepted once and are no more. `at_least` is how
    late it is by identity's clock, at least, in seconds since the epoch. `fresh_until` is on the monotonic clock, in
    seconds; minus infinity before the first satisfied heartbeat.
    """

    log: str = ""
    position: int = 0
    denylist: Denylist = field(default_factory=Denylist)
    kids: frozenset[str] | None = None
    former_kids: frozenset[str] = frozenset()
    at_least: float = 0.0
    fresh_until: float = float("-inf")

    def freshness(self, monotonic: float) -> Freshness:
        """The state at that moment of the monotonic clock: computed, never stored."""
        if monotonic < self.fresh_until:
            return Freshness.FRESH
        return Freshness.SYNCING if self.fresh_until == float("-inf") else Freshness.STALE
