"""A key set that answers slowly, or never: one fetch for everybody, and nobody waits for ever."""

import asyncio
import json

import pytest

from rescind.errors import KeysUnavailable
from rescind.feed import Feed
from rescind.guard import Guard
from rescind.keys import RemoteKeySet
from rescind.testing import MemoryLog, TokenMint, jwk_of, rsa_key
from rescind.verifier import Verifier


async def test_who_waited_for_a_slow_fetch_does_not_start_another() -> None:
    now, asked, answer, fetches = 0.0, asyncio.Event(), asyncio.Event(), 0

    async def fetch() -> bytes:
        nonlocal fetches
        fetches += 1
        asked.set()
        await answer.wait()
        return json.dumps({"keys": [jwk_of(rsa_key("access-1"), "access-1")]}).encode()

    keys = RemoteKeySet(fetch, cooldown=1.0, monotonic=lambda: now)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(keys.refresh())
        await asked.wait()
        now = 2.0  # longer than the cooldown
        answer.set()
    assert fetches == 1
    assert keys.key("access-1") is not None


async def test_a_request_does_not_wait_for_keys_that_never_come() -> None:
    async def never() -> bytes:
        return await asyncio.get_running_loop().create_future()

    mint = TokenMint()
    keys, log = RemoteKeySet(never), MemoryLog(mint)
    feed = Feed(mint.issuer, mint.log_keys, log, log)
    guard = Guard(Verifier(mint.issuer, "urn:x", keys, feed), feed, keys=[keys], ask_timeout=0.01)
    async with asyncio.timeout(5):
        with pytest.raises(KeysUnavailable):
            await guard.authenticate(mint.access_token("urn:x"))
