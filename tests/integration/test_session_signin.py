"""Signing in through the browser: a session comes only of a flow that this very browser began."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from session.rest.protection import SESSION_COOKIE
from support.session_window import ADMIN, ALICE, BOB
from support.session_world import World, session_world


@pytest.fixture
async def world(tmp_path: Path, embedded_redis_url: str) -> AsyncIterator[World]:
    async with session_world(tmp_path, embedded_redis_url) as running:
        yield running


async def test_signing_in_shows_who_is_signed_in(world: World) -> None:
    window = world.window()
    assert (await window.get("/api/me")).status_code == 401
    arrived = await window.sign_in(ALICE, path="/auth/login?return_to=/%23/devices")
    assert (arrived.status_code, arrived.headers["location"]) == (303, "/#/devices")
    me = (await window.get("/api/me")).json()
    assert (me["email"], me["name"], me["admin"]) == (ALICE, "Alice Example", False)
