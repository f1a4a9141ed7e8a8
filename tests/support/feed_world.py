"""A feed, and the identity in memory that it listens to."""

from typing import Any

from rescind import Feed, FeedObserver, Freshness
from rescind.messages import Entry
from rescind.testing import ManualClock, MemoryLog, TokenMint

FRESH, STALE, SYNCING = Freshness.FRESH, Freshness.STALE, Freshness.SYNCING


class Counting(FeedObserver):
    """Counts what a feed tells."""

    def __init__(self) -> None:
        self.unreadable_messages: list[str] = []
        self.catch_ups: list[tuple[str, int]] = []
        self.delays: list[float] = []

    def applied(self, log: str, position: int, delay: float) -> None:
        self.delays.append(delay)

    def unreadable(self, why: str) -> None:
        self.unreadable_messages.append(why)

    def caught_up(self, source: str, messages: int) -> None:
        self.catch_ups.append((source, messages))


class World:
    """Identity in memory, a feed that listens to it, and the time of both."""

    def __init__(self, **feed: Any) -> None:
        self.time = ManualClock()
        self.mint = TokenMint(now=lambda: self.time.wall)
        self.identity_ahead = 0.0  # seconds by which identity's clock differs from ours
        self.log = MemoryLog(self.mint, now=lambda: self.time.wall + self.identity_ahead)
        self.observer = Counting()
        sources = {"source": self.log, "replay": self.log, **feed}
        self.feed = Feed(self.mint.issuer, self.mint.log_keys, observer=self.observer, clock=self.time.clock, **sources)

    def revoke(self, name: str, *, push: bool = True) -> bytes:
        """A token is taken back; pushed unless the channel loses it."""
        message = self.log.revoke(Entry("token", name))
        if push:
            self.feed.receive(message)
        return message

    def beat(self) -> None:
        self.feed.receive(self.log.heartbeat())

    def refuses(self, *names: str) -> bool:
        return all(self.feed.knowledge.denylist.matches("token", name) for name in names)

    @property
    def state(self) -> Freshness:
        return self.feed.freshness()

    async def synced(self) -> "World":
        """The world once the feed knows everything through push alone."""
        await self.feed.catch_up()
        self.beat()
        assert self.state is FRESH
        self.log.replays = 0
        self.observer.catch_ups.clear()
        return self
