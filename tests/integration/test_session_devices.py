"""Sessions as their person sees and ends them, how long they last, and what needs a fresh sign-in."""

from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio.client import Pipeline
from redis.exceptions import TimeoutError as RedisTimeout
from sqlalchemy import select

from identity.storage import grants
from session.domain import PendingSignOut, key_of
from session.rest.protection import SESSION_COOKIE
from session.storage import RedisSessions
from support.eventually import eventually
from support.session_window import ADMIN, ALICE, BOB, PLAIN_TOKEN, Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
IDLE, LIFE, FRESH = 1800, 12 * 3600, 600  # seconds: the defaults


async def _signed_in(world: World, email: str = BOB) -> Window:
    window = world.window()
    assert (await window.sign_in(email)).status_code == 303
    return window


async def _alone(world: World, email: str = BOB) -> Window:
    """A window of somebody who is signed in nowhere else."""
    await world.revoke(subject=world.subject(email))
    return await _signed_in(world, email)


async def _is_out(window: Window) -> bool:
    return (await window.get("/api/me")).status_code == 401


async def _lives(world: World, gid: str) -> bool:
    """Whether identity still holds the grant good."""
    query = select(grants.c.ended_at).where(grants.c.id == gid)
    return world.parts.database.run_sync(lambda tx: tx.execute(query).scalar_one()) is None


async def _nothing_pending(world: World) -> bool:
    return not await world.redis.exists("session:pending")


@pytest.mark.requirement(29)
async def test_a_person_sees_every_session_of_theirs_and_no_one_elses(world: World) -> None:
    mine, other = await _alone(world), await _signed_in(world)
    await _signed_in(world, ALICE)
    listed = (await mine.get("/api/sessions")).json()
    assert len(listed["sessions"]) == 2
    by_current = {session["current"]: session for session in listed["sessions"]}
    assert by_current[True]["device"] == "Firefox on Linux"
    assert by_current[True]["address"] == "127.0.0.0/24"
    assert by_current[True]["id"] == (await mine.get("/api/me")).json()["session_id"]
    assert by_current[False]["id"] == (await other.get("/api/me")).json()["session_id"]
    assert [app["client_id"] for app in by_current[True]["apps"]] == ["web"]
    assert by_current[True]["apps"][0]["first_party"] is True
    assert (listed["other_logins"], listed["offline_apps"]) == ([], [])


@pytest.mark.requirement(29)
async def test_ending_one_leaves_mine_alive(world: World) -> None:
    mine, other = await _alone(world), await _signed_in(world)
    name = (await other.get("/api/me")).json()["session_id"]
    ended = await mine.request("DELETE", f"/api/sessions/{name}")
    assert (ended.status_code, ended.content) == (204, b"")
    assert await _is_out(other)
    assert (await mine.get("/api/me")).status_code == 200
    assert len((await mine.get("/api/sessions")).json()["sessions"]) == 1
    # At identity too: the other browser is asked for the password again.
    assert (await other.identity.get(f"{world.issuer}/account")).status_code in (302, 303)


async def test_ending_ones_own_session_is_signing_out(world: World) -> None:
    mine = await _alone(world)
    name = (await mine.get("/api/me")).json()["session_id"]
    assert (await mine.request("DELETE", f"/api/sessions/{name}")).status_code == 204
    assert SESSION_COOKIE not in mine.cookies


async def test_nobody_ends_anothers_session(world: World) -> None:
    alice, bob = await _signed_in(world, ALICE), await _alone(world)
    me = (await alice.get("/api/me")).json()
    for id_ in (me["session_id"], me["sid"], "ses_AAAAAAAAAAAAAAAAAAAAAA", "x"):
        refused = await bob.request("DELETE", f"/api/sessions/{id_}")
        assert (refused.status_code, refused.json()["reason"]) == (404, "SESSION_NOT_FOUND")
    assert (await alice.get("/api/me")).status_code == 200


async def test_a_login_without_a_browser_session_is_listed_and_can_be_ended(world: World) -> None:
    mine, other = await _alone(world), await _signed_in(world)
    sid = (await other.get("/api/me")).json()["sid"]
    await world.redis.delete(*[key async for key in world.redis.scan_iter(f"session:s:{_key(other)}")])
    listed = (await mine.get("/api/sessions")).json()
    assert [login["sid"] for login in listed["other_logins"]] == [sid]
    assert (await mine.request("DELETE", f"/api/sessions/{sid}")).status_code == 204
    assert (await mine.get("/api/sessions")).json()["other_logins"] == []


async def test_ending_the_others(world: World) -> None:
    mine, others = await _alone(world), [await _signed_in(world) for _ in range(3)]
    assert (await mine.post("/api/sessions/end-others")).json() == {"ended": 3}
    assert all([await _is_out(other) for other in others])
    assert (await mine.get("/api/me")).status_code == 200


@pytest.mark.requirement(24)
@pytest.mark.requirement(29)
async def test_signing_out_everywhere(world: World) -> None:
    mine, other = await _alone(world), await _signed_in(world)
    ended = await mine.post("/api/sessions/end-all")
    assert ended.json() == {"ended": 2}
    assert SESSION_COOKIE not in mine.cookies
    assert await _is_out(other)


@pytest.mark.requirement(29)
async def test_signing_out_everywhere_needs_a_fresh_sign_in(world: World) -> None:
    mine = await _alone(world)
    world.forward(FRESH + 1)
    refused = await mine.post("/api/sessions/end-all")
    assert (refused.status_code, refused.json()["reason"]) == (403, "REAUTHENTICATION_REQUIRED")
    assert (await mine.get("/api/me")).status_code == 200


@pytest.mark.requirement(29)
async def test_after_re_authentication_it_is_allowed(world: World) -> None:
    mine = await _alone(world)
    before = (await mine.get("/api/me")).json()
    await mine.sign_in(BOB, path="/auth/reauthenticate")
    after = (await mine.get("/api/me")).json()
    assert after["authenticated_at"] >= before["authenticated_at"]
    assert after["session_id"] != before["session_id"]
    assert (await mine.post("/api/sessions/end-all")).status_code == 200


async def test_signing_out_ends_the_session_here_and_at_identity(world: World) -> None:
    mine = await _alone(world)
    secret = mine.secret
    assert (await mine.post("/auth/logout")).status_code == 204
    assert SESSION_COOKIE not in mine.cookies
    mine.cookies[SESSION_COOKIE] = secret
    assert await _is_out(mine)
    page = await mine.identity.open(f"{world.issuer}/login")
    assert page.form("/login")


async def test_signing_out_while_identity_is_down_is_finished_when_it_is_back(world: World) -> None:
    _, replica = await world.another(identity_grpc="127.0.0.1:1", finishes=False)
    mine = await _alone(world)
    held = await RedisSessions(world.redis).find(key_of(mine.secret), world.now(), IDLE * 1000, use=False)
    assert held is not None
    mine.replica, world.wire.cut = replica, True
    told = await mine.post("/auth/logout")
    assert (told.status_code, told.json()["reason"]) == (503, "SIGNED_OUT_HERE_ONLY")
    assert told.json()["fields"] == {"identity": "TOLD_LATER"}
    assert await _is_out(mine)

    async def tried() -> bool:
        due = await world.redis.zscore("session:pending", key_of(mine.secret))
        return due is not None and due > world.now()

    await eventually(tried, within=10)
    assert await _lives(world, held.session.gid)
    kept = await world.redis.hgetall("session:pending:records")
    assert not PLAIN_TOKEN.search(str(kept))
    world.wire.cut = False
    await eventually(lambda: _nothing_pending(world), within=10)
    assert not await _lives(world, held.session.gid)
    page = await mine.identity.open(f"{world.issuer}/login")
    assert page.form("/login")


async def test_who_signed_in_again_meanwhile_stays_signed_in_and_the_old_grant_ends(world: World) -> None:
    _, replica = await world.another(identity_grpc="127.0.0.1:1", finishes=False)
    mine = await _alone(world)
    old = await RedisSessions(world.redis).find(key_of(mine.secret), world.now(), IDLE * 1000, use=False)
    assert old is not None
    mine.replica, world.wire.cut = replica, True
    assert (await mine.post("/auth/logout")).json()["fields"] == {"identity": "TOLD_LATER"}
    # Identity is back; before the rest can be finished, the browser goes by its login session there, no password asked.
    world.wire.cut, world.wire.cut_at = False, frozenset({"/revoke"})
    mine.replica = world.origin
    started = await mine.navigate("/auth/login")
    arrived = await mine.identity.walk(await mine.identity.get(started.headers["location"]))
    assert isinstance(arrived, str)
    await mine.arrive(arrived)
    assert not await _nothing_pending(world)
    world.wire.reset()
    await eventually(lambda: _nothing_pending(world), within=10)
    assert not await _lives(world, old.session.gid)
    assert (await mine.get("/api/me")).status_code == 200


async def test_a_sign_out_that_nothing_can_finish_any_more_is_given_up(world: World) -> None:
    mine = await _alone(world)
    store, world.wire.cut = RedisSessions(world.redis), True
    held = await store.find(key_of(mine.secret), world.now(), IDLE * 1000, use=False)
    assert held is not None
    ends = world.now() + 60_000
    too_late = PendingSignOut(key_of("late"), "sid_late", held.refresh, ends - LIFE * 1000, world.now() - 1)
    for pending in (too_late, replace(too_late, key=key_of("unreadable"), refresh="gone.AAAA", expires_at=ends)):
        assert await store.keep_pending(pending, world.now(), 10)
    await eventually(lambda: _nothing_pending(world), within=10)


@pytest.mark.requirement(28)
async def test_a_session_ends_without_use(world: World) -> None:
    mine = await _alone(world)
    world.forward(IDLE - 60)
    assert (await mine.get("/api/me")).status_code == 200
    world.forward(IDLE - 60)
    assert (await mine.get("/api/me")).status_code == 200
    world.forward(IDLE + 1)
    assert await _is_out(mine)


@pytest.mark.requirement(28)
async def test_a_session_ends_for_good_however_much_it_is_used(world: World) -> None:
    mine = await _alone(world)
    expires_at = (await mine.get("/api/me")).json()["expires_at"]
    for _ in range(LIFE // (IDLE - 60)):
        world.forward(IDLE - 60)
        me = await mine.get("/api/me")
        assert me.status_code == 200
        assert me.json()["expires_at"] == expires_at
    world.forward(IDLE - 60)
    assert await _is_out(mine)


async def test_an_apps_access_is_taken_back(world: World) -> None:
    mine = await _alone(world)
    app: dict[str, Any] = (await mine.get("/api/sessions")).json()["sessions"][0]["apps"][0]
    assert (await mine.request("DELETE", f"/api/apps/{app['gid']}")).status_code == 204
    assert await _is_out(mine)  # it was this very app's


@pytest.mark.requirement(22)
@pytest.mark.requirement(24)
async def test_a_disabled_account_is_out_everywhere(world: World) -> None:
    windows = [await _alone(world, ADMIN), await _signed_in(world, ADMIN)]
    await world.revoke(subject=world.subject(ADMIN), cause="ACCOUNT_DISABLED")

    async def all_out() -> bool:
        return all([await _is_out(window) for window in windows])

    await eventually(all_out, within=5)


@pytest.mark.requirement(23)
async def test_a_changed_password_signs_the_other_browsers_out(world: World) -> None:
    mine, other = await _alone(world), await _signed_in(world)
    await mine.identity.change_password("correct-horse-battery-staple", "another-long-password-1")
    try:

        async def other_is_out() -> bool:
            return await _is_out(other)

        await eventually(other_is_out, within=5)
    finally:
        await mine.identity.change_password("another-long-password-1", "correct-horse-battery-staple")


def _key(window: Window) -> str:
    return key_of(window.secret)


async def test_a_sign_out_is_kept_though_redis_fails_half_way(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _, replica = await world.another(identity_grpc="127.0.0.1:1", finishes=False)
    mine, execute = await _alone(world), Pipeline.execute
    secret = mine.secret

    async def fails_on_indexes(self: Any, *arguments: Any, **options: Any) -> Any:
        if any(command[0] == "ZREM" and "session:by:" in str(command[1]) for command, _ in self.command_stack):
            raise RedisTimeout
        return await execute(self, *arguments, **options)

    mine.replica, world.wire.cut = replica, True
    monkeypatch.setattr(Pipeline, "execute", fails_on_indexes)
    told = await mine.post("/auth/logout")
    monkeypatch.undo()
    assert told.json()["fields"] == {"identity": "TOLD_LATER"}
    assert await world.redis.hexists("session:pending:records", key_of(secret))
    world.wire.cut = False
    await eventually(lambda: _nothing_pending(world), within=10)
    page = await mine.identity.open(f"{world.issuer}/login")
    assert page.form("/login")
