"""Signing out, when answers are lost: in the end the login session at identity is over, and every token of it."""

import secrets
from typing import Any

import pytest
from sqlalchemy import select, update

from devstack.flow import OAuthClient
from devstack.seeds import client_secret
from identity.storage import grants, login_sessions, refresh_tokens
from servicekit.settings import parse_secret_keys
from session.domain import Held, key_of
from session.sealing import Vault
from session.storage import RedisSessions
from support.eventually import eventually
from support.session_window import BOB, Window
from support.session_world import KEY, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
IDENTITY = "urn:rescind:identity"
TOKEN_LIFE = 900  # seconds: identity's default


async def _signed_in(world: World) -> tuple[Window, Held]:
    window = world.window()
    assert (await window.sign_in(BOB)).status_code == 303
    held = await RedisSessions(world.redis).find(key_of(window.secret), world.now(), 1_800_000, use=False)
    assert held is not None
    return window, held


class Elsewhere:
    """What happens to a refresh token where no answer reaches the session service."""

    def __init__(self, world: World, held: Held) -> None:
        vault = Vault(parse_secret_keys(KEY), entropy=secrets.token_bytes)
        self._refresh_token = vault.open(held.session.key, "refresh", held.refresh)
        self._world = world
        self._web = OAuthClient(world.http, world.issuer, "web", secret=client_secret("web"))

    async def spend(self) -> str:
        """Rotates it, longer ago than the retry window has; the access token that came with it."""
        access_token = (await self._refreshed())["access_token"]
        _no_more_retries(self._world)
        return str(access_token)

    async def use_again(self) -> None:
        """Identity takes it for a thief's, and ends the grant."""
        assert (await self._refreshed())["error"] == "invalid_grant"

    async def _refreshed(self) -> Any:
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token, "resource": IDENTITY}
        return (await self._web.post("/token", **form)).json()


def _no_more_retries(world: World) -> None:
    """A minute goes by at identity for every refresh token that is spent."""
    spent = update(refresh_tokens).where(refresh_tokens.c.consumed_at.is_not(None))
    world.parts.database.run_sync(
        lambda tx: tx.execute(spent.values(consumed_at=refresh_tokens.c.consumed_at - 60_000))
    )


def _over(world: World, held: Held) -> bool:
    """Whether identity has ended the login session, and the grant with it."""

    def work(tx: Any) -> bool:
        ended = [
            tx.execute(select(table.c.ended_at).where(table.c.id == id_)).scalar_one()
            for table, id_ in ((login_sessions, held.session.sid), (grants, held.session.gid))
        ]
        return None not in ended

    return world.parts.database.run_sync(work)


async def _finished(world: World) -> None:
    async def nothing_pending() -> bool:
        return not await world.redis.exists("session:pending")

    await eventually(nothing_pending, within=10)


async def _asks_for_the_password(world: World, window: Window) -> bool:
    return bool((await window.identity.open(f"{world.issuer}/login")).form("/login"))


async def test_whose_refresh_token_was_spent_unseen_is_signed_out_everywhere(world: World) -> None:
    mine, held = await _signed_in(world)
    access_token = await Elsewhere(world, held).spend()
    world.forward(TOKEN_LIFE)  # no token is left here that could tell identity
    assert (await mine.post("/auth/logout")).status_code == 204
    assert _over(world, held)
    assert await _asks_for_the_password(world, mine)
    backoffice = OAuthClient(world.http, world.issuer, "backoffice", secret=client_secret("backoffice"))
    assert await backoffice.introspect(access_token) == {"active": False}


async def test_a_grant_that_reuse_has_ended_leaves_no_login_session_behind(world: World) -> None:
    mine, held = await _signed_in(world)
    world.wire.cut = True
    world.forward(TOKEN_LIFE)
    assert (await mine.post("/auth/logout")).json()["fields"] == {"identity": "TOLD_LATER"}
    elsewhere = Elsewhere(world, held)
    await elsewhere.spend()
    await elsewhere.use_again()
    assert not _over(world, held)
    world.wire.reset()
    await _finished(world)
    assert _over(world, held)
    assert await _asks_for_the_password(world, mine)


async def test_a_sign_out_whose_answers_are_lost_is_asked_for_until_one_comes(world: World) -> None:
    _, replica = await world.another(identity_grpc="127.0.0.1:1", finishes=False)
    mine, held = await _signed_in(world)
    mine.replica, world.wire.lost_at = replica, frozenset({"/token", "/revoke"})
    world.forward(TOKEN_LIFE)
    told = await mine.post("/auth/logout")
    assert (told.status_code, told.json()["fields"]) == (503, {"identity": "TOLD_LATER"})
    assert (await mine.get("/api/me")).status_code == 401

    async def tried_again() -> bool:
        due = await world.redis.zscore("session:pending", held.session.key)
        return due is not None and due > world.now()

    await eventually(tried_again, within=10)
    _no_more_retries(world)
    world.forward(60)
    world.wire.reset()
    await _finished(world)
    assert _over(world, held)
    assert await _asks_for_the_password(world, mine)


async def test_who_cannot_open_a_session_any_more_says_where_to_sign_out(world: World) -> None:
    _, replica = await world.another(secret_keys="k2:" + KEY.partition(":")[2], finishes=False)
    mine, held = await _signed_in(world)
    mine.replica = replica
    told = await mine.post("/auth/logout")
    assert (told.status_code, told.json()["reason"]) == (503, "SIGNED_OUT_HERE_ONLY")
    assert "fields" not in told.json()
    assert "Sign out there as well" in told.json()["detail"]
    assert (await mine.get("/api/me")).status_code == 401
    assert not await world.redis.hexists("session:pending:records", held.session.key)
