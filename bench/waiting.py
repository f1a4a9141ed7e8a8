"""Waiting for what tells nobody when it comes true."""

import asyncio
from collections.abc import Callable

from rescind import Freshness, Guard


async def until(condition: Callable[[], bool], *, look: float) -> None:
    """Returns once `condition` holds. Looks every `look` seconds: as exact as what is measured by it."""
    while not condition():  # noqa: ASYNC110  (freshness is computed when it is asked for: no event to wait on)
        await asyncio.sleep(look)


async def until_fresh(guard: Guard, *, look: float = 0.002) -> None:
    """Returns once the guard is FRESH."""
    await until(lambda: guard.verifier.freshness() is Freshness.FRESH, look=look)
