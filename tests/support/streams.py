"""Live streams for tests: a source that the test drives, whoever follows it, and a revocation at the worst moment."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from rescind import GuardObserver, Lease, RescindError


class Source:
    """An endless stream of numbers that waits for the test before each."""

    def __init__(self) -> None:
        self.go = asyncio.Semaphore(0)
        self.waiting = self.closed = self.cancelled = False

    async def numbers(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(1_000_000):
                self.waiting = True
                await self.go.acquire()
                self.waiting = False
                yield number
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.closed = True


async def follow(lease: Lease, source: AsyncIterator[int], got: list[int]) -> RescindError | None:
    """What ended the stream; None if it ended by itself."""
    try:
        async for item in lease.stream(source):
            got.append(item)  # noqa: PERF401  (what was got before it ends counts)
    except RescindError as error:
        return error
    return None


class RevokesMeanwhile(GuardObserver):
    """A revocation that arrives when the token has been judged and its lease is not yet registered."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] | None = None

    def decided(self, outcome: str) -> None:
        if self.meanwhile is not None:
            self.meanwhile()
