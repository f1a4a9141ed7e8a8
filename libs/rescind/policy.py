"""What a route or RPC does when this process may have missed a revocation: declared, never an accident.

| policy | not FRESH | and nobody answers |
|---|---|---|
| `STRICT` | refuses | refuses |
| `BOUNDED(seconds)` | asks the issuer | accepts until that long after it was last fresh |
| `BEST_EFFORT` | accepts, counts and logs | (does not ask) |

A process that was never fresh (SYNCING) asks under BOUNDED and BEST_EFFORT, and refuses without an answer.
Refusing for staleness is 503 / UNAVAILABLE with Retry-After, never 401, which would make clients throw away their
refresh tokens.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Staleness:
    """A policy. Use `STRICT`, `BOUNDED(seconds)` or `BEST_EFFORT`."""

    kind: Literal["strict", "bounded", "best_effort"]
    seconds: float = 0.0


STRICT = Staleness("strict")
BEST_EFFORT = Staleness("best_effort")


def BOUNDED(seconds: float) -> Staleness:  # noqa: N802  (one of three constants to whoever writes a route)
    """Ask when not fresh; if nobody answers, accept until `seconds` after this process was last fresh."""
    if seconds < 0:
        raise ValueError("a bound is not negative")
    return Staleness("bounded", seconds)
