"""Why a session is over, told to the person also where others knew of it before this service did."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from session import live
from session.domain import key_of
from session.storage import RedisSessions
from support.session_window import BOB, Event, Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _signed_in(world: World, replica: str = "") -> Window:
    window = world.window(replica)
    assert (await window.sign_in(BOB)).status_code == 303
    return window


async def _end(events: AsyncIterator[Event]) -> Any:
    async with asyncio.timeout(30):
        async for one in events:
            if one.event == "end":
                return one.data["reason"]
    raise AssertionError("the stream ended without a word")


@pytest_asyncio.fixture(loop_scope="session")
async def behind(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """A replica that hears of revocations later than everybody else, by Replay, and keeps its own sessions."""
    monkeypatch.setattr("session.token_handler.RECONSIDERED", 300)  # on a machine with much else to do
    url = world.settings.redis_url.get_secret_value().removesuffix("/0") + "/1"
    changes = {"redis_url": "redis://127.0.0.1:1/0", "sessions_redis_url": url, "start_without_redis": True}
    return (await world.another(**changes))[1]


async def test_a_call_that_is_refused_elsewhere_first(world: World, behind: str) -> None:
    window = await _signed_in(world, behind)
    await world.revoke(session=(await window.get("/api/me")).json()["sid"], cause="CONTROL_ROOM")
    over = await window.get("/api/orders")
    assert (over.status_code, over.json()["fields"]["cause"]) == (401, "CONTROL_ROOM")


async def test_a_live_stream_that_is_ended_elsewhere_first(world: World, behind: str) -> None:
    window = await _signed_in(world, behind)
    async with window.live() as events:
        assert (await anext(events)).event == "keepalive"
        await world.revoke(session=(await window.get("/api/me")).json()["sid"], cause="CONTROL_ROOM")
        assert await _end(events) == "CONTROL_ROOM"


async def test_a_session_that_is_removed_before_anybody_says_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOMENT", 30.0)
    said, found = live._said, asyncio.Event()

    async def noticed(*given: Any) -> Any:
        found.set()
        return await said(*given)

    monkeypatch.setattr(live, "_said", noticed)
    window = await _signed_in(world)
    sid = (await window.get("/api/me")).json()["sid"]
    async with window.live() as events:
        assert (await anext(events)).event == "keepalive"
        await RedisSessions(world.redis).remove(key_of(window.secret))
        await asyncio.wait_for(found.wait(), 30)
        await world.revoke(session=sid, cause="CONTROL_ROOM")
        assert await _end(events) == "CONTROL_ROOM"
