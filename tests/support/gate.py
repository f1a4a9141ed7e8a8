"""A guard whose time, channel and issuer are the test's: for what it does in each state of its knowledge."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from rescind import (
    Answer,
    Feed,
    Guard,
    GuardObserver,
    NobodyAnswered,
    RescindError,
    Staleness,
    Verifier,
)
from rescind.messages import Entry
from rescind.testing import ManualClock, MemoryLog, TokenMint

AUDIENCE = "urn:rescind:orders"


class Identity:
    """Somebody to ask, who answers as the test wishes."""

    def __init__(self) -> None:
        self.asked = self.under_way = self.most_under_way = 0
        self.answer: Callable[[], Answer] = lambda: Answer(active=True)
        self.gate: asyncio.Event | None = None

    async def introspect(self, unverified_token: str) -> Answer:
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.gate is not None:
                await self.gate.wait()
            return self.answer()
        finally:
            self.under_way -= 1


class Outcomes(GuardObserver):
    def __init__(self) -> None:
        self.all: list[str] = []

        self.ends: list[str] = []

    def decided(self, outcome: str) -> None:
        self.all.append(outcome)

    def ended(self, reason: str) -> None:
        self.ends.append(reason)


@dataclass
class Gate:
    """A guard, and everything around it."""

    time: ManualClock = field(default_factory=ManualClock)
    identity: Identity = field(default_factory=Identity)
    outcomes: Outcomes = field(default_factory=Outcomes)

    def __post_init__(self) -> None:
        self.mint = TokenMint(now=lambda: self.time.wall)
        self.log = MemoryLog(self.mint, now=lambda: self.time.wall)
        self.feed = Feed(self.mint.issuer, self.mint.log_keys, self.log, self.log, clock=self.time.clock)
        verifier = Verifier(self.mint.issuer, AUDIENCE, self.mint.keys, self.feed, clock=self.time.clock)
        self.guard = Guard(verifier, self.feed, introspector=self.identity, observer=self.outcomes, ask_timeout=0.2)
        self.token = self.mint.access_token(AUDIENCE, scope="read", jti="jti", life=3600)

    def revoke(self, *entries: Entry, cause: str = "TEST") -> None:
        """Commits a revocation and brings it here."""
        self.feed.receive(self.log.revoke(*entries, cause=cause))

    async def fresh(self) -> "Gate":
        await self.feed.catch_up()
        return self

    async def stale_for(self, seconds: float) -> "Gate":
        await self.fresh()
        self.time.advance(3 + seconds)
        return self

    async def knock(self, staleness: Staleness, token: str = "") -> str:
        """How it was decided: as the observer was told."""
        try:
            await self.guard.authenticate(token or self.token, staleness=staleness)
        except RescindError as error:
            refusal = error
        else:
            return self.outcomes.all[-1]
        assert self.outcomes.all[-1] == refusal.reason
        return refusal.reason


def nobody() -> Answer:
    raise NobodyAnswered("gone")


def broken() -> Answer:
    raise RuntimeError("it answered, with an error")


def no() -> Answer:
    return Answer(active=False, reason="TOKEN_REVOKED")


def yes() -> Answer:
    return Answer(active=True)


async def turns(number: int = 10) -> None:
    """Lets everything that is ready run."""
    for _ in range(number):
        await asyncio.sleep(0)
