"""The log as it is pushed, by the library's own feed: Redis tells at once, identity (`Replay`) fills what is missing.

The feed verifies; here its messages are put in order, each shown once. What is between two positions is waited for: a
push may be lost, and the next message or heartbeat, each second, has the feed get it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from console.following import Follower
from console.signin import ConsoleError
from rescind import Feed, FeedObserver, Freshness
from rescind.feed import LogSource, ReplaySource
from rescind.grpc_source import GrpcIdentity
from rescind.messages import RevocationMessage
from rescind.redis_source import RedisSource

LOOK_EVERY = 1.0  # seconds: how soon it is said that nothing comes any more


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about the log that is no revocation."""

    kind: Literal["unreadable", "new_log", "stale", "fresh"]
    detail: str = ""


class InOrder(FeedObserver):
    """What a feed learns, behind `position` of `log`, in the order of positions."""

    def __init__(self, log: str, position: int) -> None:
        self.heard: asyncio.Queue[RevocationMessage | Notice] = asyncio.Queue()
        self._log = log
        self._position = position
        self._ahead: dict[int, RevocationMessage] = {}

    def revoked(self, message: RevocationMessage) -> None:
        """Passed on once nothing before it is missing."""
        if message.log != self._log or message.pos <= self._position:
            return
        self._ahead[message.pos] = message
        while (following := self._ahead.pop(self._position + 1, None)) is not None:
            self._position += 1
            self.heard.put_nowait(following)

    def renewed(self, log: str, position: int) -> None:
        """What is up to here and has not come is dead: nothing waits for it."""
        if log != self._log:
            return
        for pos in sorted(pos for pos in self._ahead if pos <= position):
            self.heard.put_nowait(self._ahead.pop(pos))
        self._position = max(self._position, position)

    def began(self, log: str) -> None:
        """Another log begins at its beginning."""
        if log != self._log:
            self._log, self._position = log, 0
            self._ahead.clear()
            self.heard.put_nowait(Notice("new_log", log))

    def unreadable(self, why: str) -> None:
        """Said: somebody else may write to the channel."""
        self.heard.put_nowait(Notice("unreadable", why))


@dataclass(frozen=True, slots=True)
class Listener:
    """Listens from where `begun` has read to."""

    begun: Follower
    source: LogSource
    replay: ReplaySource

    async def listen(self) -> AsyncIterator[RevocationMessage | Notice]:
        """Every revocation from there on, in order, for ever; and a notice when knowledge is stale, or fresh again."""
        observer = InOrder(self.begun.log, self.begun.position)
        feed = Feed(self.begun.issuer, self.begun.keys, self.source, self.replay, observer=observer)
        running = asyncio.create_task(feed.run(), name="console-feed")
        stale = False
        try:
            while not running.done():
                heard: RevocationMessage | Notice | None = None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        heard = await observer.heard.get()
                if heard is not None:
                    yield heard
                if stale is not (feed.freshness() is Freshness.STALE):
                    stale = not stale
                    yield Notice("stale" if stale else "fresh")
            running.result()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@contextlib.asynccontextmanager
async def listener(begun: Follower, redis_url: str) -> AsyncIterator[Listener]:
    """Listens to that Redis, until the block is left.

    Raises:
        ConsoleError: the URL is none.
    """
    try:
        redis = RedisSource(redis_url)
    except ValueError:
        raise ConsoleError("RESCIND_REDIS_URL is no address of a Redis.") from None  # it may hold a password
    try:
        yield Listener(begun, redis, GrpcIdentity(begun.identity.channel, begun.identity.sign_in))
    finally:
        await redis.aclose()
