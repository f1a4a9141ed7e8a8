"""Waiting, for tests of real processes: until something is so, and no longer than it may take."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PAUSE = 0.05


async def eventually(condition: Callable[[], Awaitable[T]], *, within: float) -> T:
    """The first true value of `condition`, asked again and again for `within` seconds.

    Raises:
        AssertionError: it was not so in time; with the last value.
    """
    deadline = time.monotonic() + within
    while True:
        value = await condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not so within {within} s; at last it was {value!r}"
        await asyncio.sleep(PAUSE)
