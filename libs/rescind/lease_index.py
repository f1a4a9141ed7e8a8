"""Where live streams stand, so that what ends them finds them: pure data, no clock, no await.

Whatever is put in is found under each place at which an entry that matches its token may stand, under its token's key,
and, in the order of expiry, in a heap. Taking out is lazy in the heap alone, which is swept when more than half of it
is dead, so all of it is bounded by what is in.
"""

import heapq
from collections.abc import Iterator, Set
from itertools import count
from typing import Generic, Protocol, TypeVar

from rescind.denylist import Place
from rescind.verifier import Verified

SWEEP = 64  # what the heap may hold besides twice what is in


class Tied(Protocol):
    """Whatever goes on only under a token."""

    verified: Verified


T = TypeVar("T", bound=Tied)
K = TypeVar("K")


class LeaseIndex(Generic[T]):
    """Everything that is tied to a token, by what may end it."""

    def __init__(self) -> None:
        self._in: dict[T, Verified] = {}
        self._places: dict[Place, set[T]] = {}
        self._kids: dict[str, set[T]] = {}
        self._expiries: list[tuple[float, int, T, Verified]] = []
        self._numbers = count()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._in)

    def __contains__(self, tied: T) -> bool:
        """Whether it is in."""
        return tied in self._in

    def all(self) -> tuple[T, ...]:
        """All of them, the oldest first."""
        return tuple(self._in)

    def put(self, tied: T) -> None:
        """Puts it in under its token; if it was in under another, under this one instead."""
        if self._in.get(tied) is tied.verified:
            return
        self._take_out(tied)
        verified = self._in[tied] = tied.verified
        for place in verified.keys.places:
            self._places.setdefault(place, set()).add(tied)
        self._kids.setdefault(verified.kid, set()).add(tied)
        heapq.heappush(self._expiries, (verified.dies_at, next(self._numbers), tied, verified))
        self._sweep()

    def remove(self, tied: T) -> bool:
        """Takes it out. False if it was not in."""
        if tied not in self._in:
            return False
        self._take_out(tied)
        del self._in[tied]
        self._sweep()
        return True

    def _sweep(self) -> None:
        if len(self._expiries) > 2 * len(self._in) + SWEEP:
            self._expiries = [expiry for expiry in self._expiries if self._is_current(expiry)]
            heapq.heapify(self._expiries)

    def at(self, place: Place) -> tuple[T, ...]:
        """Those that an entry at `place` may match."""
        return tuple(self._places.get(place, ()))

    def not_under(self, kids: Set[str]) -> tuple[T, ...]:
        """Those whose token is signed with none of these keys."""
        return tuple(tied for kid in self._kids.keys() - kids for tied in self._kids[kid])

    def pop_expired(self, now: float) -> Iterator[T]:
        """Each whose token dies at `now` or before, once. It stays in."""
        while self._expiries and self._expiries[0][0] <= now:
            expiry = heapq.heappop(self._expiries)
            if self._is_current(expiry):
                yield expiry[2]

    @property
    def next_expiry(self) -> float | None:
        """When the next may expire, seconds since the epoch; None where none will."""
        return self._expiries[0][0] if self._in and self._expiries else None

    def _is_current(self, expiry: tuple[float, int, T, Verified]) -> bool:
        _, _, tied, verified = expiry
        return self._in.get(tied) is verified

    def _take_out(self, tied: T) -> None:
        verified = self._in.get(tied)
        if verified is not None:
            for place in verified.keys.places:
                _discard(self._places, place, tied)
            _discard(self._kids, verified.kid, tied)


def _discard(index: dict[K, set[T]], key: K, tied: T) -> None:
    held = index.get(key)
    if held is not None:
        held.discard(tied)
        if not held:
            del index[key]
