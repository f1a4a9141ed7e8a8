"""The tokens of a session: refreshed once however many ask, sealed, healed where they can be, ended where they must."""

import asyncio
import json
from typing import Any

import httpx2
import pytest

from session.domain import key_of
from session.rest.protection import SESSION_COOKIE
from session.storage import RedisSessions
from support.eventually import eventually
from support.session_window import ADMIN, ALICE, BOB, PLAIN_TOKEN, Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
ORDERS = "urn:rescind:orders"
TOKEN_LIFE = 900  # seconds


async def _signed_in(world: World, email: str = ALICE, replica: str = "") -> Window:
    window = world.window(replica)
    assert (await window.sign_in(email)).status_code == 303
    world.wire.forms.clear()
    return window


async def test_a_token_is_fetched_once_and_used_again(world: World) -> None:
    window = await _signed_in(world)
    for _ in range(3):
        assert (await window.get("/api/orders")).status_code == 200
    assert world.wire.refreshes() == 0


async def test_fifty_requests_as_the_token_ends_make_one_refresh(world: World) -> None:
    window = await _signed_in(world)
    world.forward(TOKEN_LIFE)
    answers = await asyncio.gather(*(window.get("/api/orders") for _ in range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert world.wire.refreshes() == 1


async def test_fifty_requests_over_two_replicas_make_one_refresh(world: World) -> None:
    window = await _signed_in(world)
    _, replica = await world.another()
    there = world.window(replica)
    there.cookies = window.cookies
    assert (await there.get("/api/orders")).status_code == 200
    world.forward(TOKEN_LIFE)
    world.wire.forms.clear()
    answers = await asyncio.gather(*(each.get("/api/orders") for _ in range(25) for each in (window, there)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert world.wire.refreshes() == 1


async def test_each_service_gets_a_token_of_its_own(world: World) -> None:
    window = await _signed_in(world)
    await window.get("/api/orders")
    used = world.orders.metadata[-1]["authorization"]
    lab = (await window.get("/api/lab")).json()
    audiences = {token["audience"]: token["claims"]["aud"] for token in lab["access_tokens"]}
    assert audiences == {one: one for one in ("urn:rescind:identity", ORDERS, "urn:rescind:notifications")}
    assert used.startswith("Bearer ey")


@pytest.mark.requirement(37)
async def test_no_answer_holds_a_token_or_any_part_that_could_be_presented(world: World) -> None:
    window = await _signed_in(world)
    for path in ("/api/me", "/api/sessions", "/api/lab", "/api/orders", "/api/products", "/api/notifications"):
        assert (await window.get(path)).status_code == 200, path
    await window.post("/api/orders", {"items": [{"sku": "tea", "quantity": 1}]})
    held = await world.redis.hgetall(f"session:s:{key_of(window.secret)}")
    sealed = [held["refresh"], *(json.loads(value)["sealed"] for name, value in held.items() if name.startswith("t:"))]
    used = {call["authorization"].removeprefix("Bearer ") for call in world.orders.metadata}
    for response in window.seen:
        said = response.text + str(response.headers)
        assert not PLAIN_TOKEN.search(said)
        assert not any(secret in said for secret in sealed)
        assert not any(token.split(".")[2] in said for token in used)


@pytest.mark.requirement(79)
async def test_tokens_at_rest_are_sealed_and_do_not_open_in_another_session(world: World) -> None:
    alice, bob = await _signed_in(world, ALICE), await _signed_in(world, BOB)
    places = [f"session:s:{key_of(window.secret)}" for window in (alice, bob)]
    held = [await world.redis.hgetall(place) for place in places]
    assert not PLAIN_TOKEN.search(json.dumps(held))
    assert all(each["refresh"].startswith("k1.") for each in held)
    # Bob's tokens, pasted into Alice's session: she gets nothing of his, and her session ends.
    stolen = {name: value for name, value in held[1].items() if name == "refresh" or name.startswith("t:")}
    await world.redis.hset(places[0], mapping=stolen)
    refused = await alice.get("/api/orders")
    assert (refused.status_code, refused.json()["fields"]["cause"]) == (401, "SEAL_BROKEN")
    assert (await bob.get("/api/orders")).status_code == 200


@pytest.mark.requirement(79)
async def test_an_access_token_moved_to_another_place_of_its_session_is_not_used(world: World) -> None:
    window = await _signed_in(world)
    place = f"session:s:{key_of(window.secret)}"
    await world.redis.hset(place, f"t:{ORDERS}", await world.redis.hget(place, "t:urn:rescind:identity"))
    assert (await window.get("/api/orders")).status_code == 200
    assert world.wire.refreshes(ORDERS) == 1


@pytest.mark.requirement(79)
async def test_old_keys_are_read_and_the_newest_writes(world: World) -> None:
    window = await _signed_in(world)
    rotated = (
        "k2:" + "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=" + "," + world.settings.secret_keys.get_secret_value()
    )
    _, replica = await world.another(secret_keys=rotated)
    window.replica = replica
    assert (await window.get("/api/orders")).status_code == 200
    world.forward(TOKEN_LIFE)
    assert (await window.get("/api/orders")).status_code == 200
    held = await world.redis.hgetall(f"session:s:{key_of(window.secret)}")
    assert held["refresh"].startswith("k2.")


async def test_with_the_key_gone_the_session_ends_and_nothing_is_shown(world: World) -> None:
    window = await _signed_in(world)
    _, replica = await world.another(secret_keys="k9:" + "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=")
    window.replica = replica
    assert (await window.get("/api/orders")).json()["fields"]["cause"] == "SEAL_BROKEN"


async def test_an_identity_that_is_down_signs_nobody_out(world: World) -> None:
    window = await _signed_in(world)
    world.forward(TOKEN_LIFE)
    world.wire.cut = True
    down = await window.get("/api/orders")
    assert (down.status_code, down.json()["reason"]) == (503, "IDENTITY_UNAVAILABLE")
    assert "retry-after" in down.headers
    world.wire.cut = False
    assert (await window.get("/api/orders")).status_code == 200


async def test_a_token_in_its_last_seconds_still_serves_while_identity_is_down(world: World) -> None:
    window = await _signed_in(world)
    world.forward(TOKEN_LIFE - 15)
    world.wire.cut = True
    assert (await window.get("/api/orders")).status_code == 200


@pytest.mark.parametrize("status", [500, 502, 429])
async def test_an_answer_that_is_no_token_response_signs_nobody_out(world: World, status: int) -> None:
    window = await _signed_in(world)
    world.forward(TOKEN_LIFE)
    world.wire.answer = lambda _: httpx2.Response(status, text="<html>")
    assert (await window.get("/api/orders")).status_code == 503
    assert window.cookies[SESSION_COOKIE]
    assert await world.redis.exists(f"session:s:{key_of(window.secret)}")


async def test_a_grant_that_identity_has_ended_ends_the_session(world: World) -> None:
    window = await _signed_in(world)
    world.forward(TOKEN_LIFE)
    refused = httpx2.Response(400, json={"error": "invalid_grant"})
    world.wire.answer = lambda _: refused
    ended = await window.get("/api/orders")
    assert (ended.status_code, ended.json()["reason"]) == (401, "SESSION_ENDED")
    assert ended.json()["fields"]["cause"] == "GRANT_ENDED"
    world.wire.answer = None
    assert (await window.get("/api/me")).status_code == 401


@pytest.mark.requirement(21)
@pytest.mark.parametrize("kind", ["session", "grant", "subject"])
async def test_what_is_taken_back_at_identity_is_over_here_at_once(world: World, kind: str) -> None:
    window = await _signed_in(world, BOB)
    claims = await _claims(window)
    target = {"session": claims["sid"], "grant": claims["gid"], "subject": claims["sub"]}[kind]
    await world.revoke(**{kind: target})

    async def is_out() -> bool:
        return (await window.get("/api/me")).status_code == 401

    await eventually(is_out, within=5)

    async def is_gone() -> bool:
        return not await world.redis.exists(f"session:s:{key_of(window.secret)}")

    await eventually(is_gone, within=5)


@pytest.mark.requirement(21)
async def test_a_session_that_is_revoked_and_not_deleted_yet_is_refused(world: World) -> None:
    """What is stored comes back after the revocation removed it, as a lagging replica of Redis might bring it."""
    window = await _signed_in(world, BOB)
    place = f"session:s:{key_of(window.secret)}"
    held = await world.redis.hgetall(place)
    await world.revoke(session=(await _claims(window))["sid"])

    async def is_gone() -> bool:
        return not await world.redis.exists(place)

    await eventually(is_gone, within=5)
    await world.redis.hset(place, mapping=held)
    for path in ("/api/me", "/api/orders"):
        await world.redis.hset(place, mapping=held)
        assert (await window.get(path)).json()["reason"] == "SESSION_ENDED"


async def test_signing_in_after_everything_was_revoked_works(world: World) -> None:
    window = await _signed_in(world, BOB)
    await world.revoke(subject=world.subject(BOB))
    again = await _signed_in(world, BOB)
    assert (await again.get("/api/me")).status_code == 200
    assert (await again.get("/api/orders")).status_code == 200
    assert (await window.get("/api/me")).status_code == 401


async def test_a_soft_revocation_is_healed_by_one_refresh_that_nobody_sees(world: World) -> None:
    window = await _signed_in(world, ADMIN)
    await world.revoke(subject=world.subject(ADMIN), soft=True)
    answers = await asyncio.gather(*(window.get("/api/orders") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert world.wire.refreshes(ORDERS) == 1
    assert (await window.get("/api/me")).json()["admin"] is True


async def test_a_token_revoked_by_its_jti_is_replaced(world: World) -> None:
    window = await _signed_in(world)
    lab = (await window.get("/api/lab")).json()
    jti = next(token["claims"]["jti"] for token in lab["access_tokens"] if token["audience"] == ORDERS)
    await world.revoke(token=jti)
    assert (await window.get("/api/orders")).status_code == 200
    assert world.wire.refreshes(ORDERS) == 1


async def test_what_the_service_refuses_is_tried_once_more_with_another_token(world: World) -> None:
    """Orders knows of a revocation before this service does."""
    window = await _signed_in(world)
    calls = len(world.orders.calls)
    feed = world.session.background[0].__self__.feed  # type: ignore[attr-defined]
    receive, feed.receive = feed.receive, lambda raw: None
    try:
        await world.revoke(subject=world.subject(ALICE), soft=True)
        assert (await window.get("/api/orders")).status_code == 200
    finally:
        feed.receive = receive
    assert world.wire.refreshes(ORDERS) == 1
    assert len(world.orders.calls) == calls + 1


async def _claims(window: Window) -> dict[str, Any]:
    lab = (await window.get("/api/lab")).json()
    claims: dict[str, Any] = lab["access_tokens"][0]["claims"]
    return claims


async def test_who_held_the_lock_too_long_signs_nobody_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another replica has refreshed meanwhile: the session lives, and so does what it got."""
    mine = await _signed_in(world)
    _, replica = await world.another()
    there, renew, late = world.window(replica), RedisSessions.renew, []
    there.cookies = mine.cookies
    world.forward(TOKEN_LIFE)

    async def slow(self: RedisSessions, key: Any, version: int, renewed: Any) -> bool:
        if not late:
            late.append(key)
            await world.redis.delete(f"session:lock:{key}")  # it ran out
            assert (await there.get("/api/orders")).status_code == 200
        return await renew(self, key, version, renewed)

    monkeypatch.setattr(RedisSessions, "renew", slow)
    assert (await mine.get("/api/orders")).status_code == 200
    assert late
    assert (await mine.get("/api/orders")).status_code == 200
