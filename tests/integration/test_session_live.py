"""The live stream: what comes, where it resumes, and how fast it ends when the session does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from urllib.parse import urlsplit

import pytest

from support.eventually import eventually
from support.session_window import ALICE, BOB, PLAIN_TOKEN, Event, Window
from support.session_world import World
from support.stalled import Stalled, stalled

pytestmark = pytest.mark.asyncio(loop_scope="session")
AT_ONCE = 1.0  # seconds: milliseconds on a quiet machine


async def _signed_in(world: World, email: str = BOB, replica: str = "") -> Window:
    window = world.window(replica)
    assert (await window.sign_in(email)).status_code == 303
    return window


async def _next(events: AsyncIterator[Event], event: str) -> Event:
    async with asyncio.timeout(10):
        while True:
            one = await anext(events)
            if one.event == event:
                return one
            assert one.event == "keepalive", one


async def test_notifications_come_as_they_are_made(world: World) -> None:
    window = await _signed_in(world)
    async with window.live() as events:
        await _next(events, "keepalive")
        await world.notifications.tell(world.subject(ALICE), "none of yours")
        await world.notifications.tell(world.subject(BOB), "Your order is placed")
        came = await _next(events, "notification")
        assert came.data["title"] == "Your order is placed"
        assert came.id == str(came.data["sequence"])
        assert not PLAIN_TOKEN.search(str(came))


async def test_it_resumes_behind_what_was_seen(world: World) -> None:
    window, subject = await _signed_in(world), world.subject(BOB)
    for number in range(3):
        await world.notifications.tell(subject, f"number {number}")
    seen = len(world.notifications.inboxes[subject]) - 2
    async with window.live(last_event_id=str(seen)) as events:
        titles = [(await _next(events, "notification")).data["title"] for _ in range(2)]
    assert titles == ["number 1", "number 2"]


@pytest.mark.parametrize("last_event_id", ["x", "-1", "1.5", "9" * 30, "0" * 20 + "9" * 20, "0" * 5001, "٣"])
async def test_a_last_event_id_that_is_none_is_refused(world: World, last_event_id: str) -> None:
    window = await _signed_in(world)
    headers = [(b"last-event-id", last_event_id.encode())]
    answer = await world.http.get(
        f"{world.origin}/api/live", headers=[*headers, (b"cookie", f"__Host-rescind_session={window.secret}".encode())]
    )
    assert (answer.status_code, answer.json()["reason"]) == (400, "LAST_EVENT_ID_INVALID")


@pytest.mark.requirement(21)
@pytest.mark.parametrize("kind", ["session", "grant", "subject"])
async def test_a_revocation_ends_it_at_once_and_says_why(world: World, kind: str) -> None:
    window = await _signed_in(world)
    claims = (await window.get("/api/lab")).json()["access_tokens"][0]["claims"]
    target = {"session": claims["sid"], "grant": claims["gid"], "subject": claims["sub"]}[kind]
    async with window.live() as events:
        await _next(events, "keepalive")
        await world.revoke(**{kind: target}, cause="LOST_PHONE")
        acknowledged = time.monotonic()
        end = await _next(events, "end")
        assert end.data == {"reason": "LOST_PHONE", "reconnect": False}
        assert time.monotonic() - acknowledged < AT_ONCE
        assert [one async for one in events] == []
    assert (await window.get("/api/live")).status_code == 401


@pytest.mark.requirement(21)
async def test_it_ends_on_a_replica_that_never_saw_the_revocation_being_asked_for(world: World) -> None:
    _, replica = await world.another()
    here = await _signed_in(world)
    there = world.window(replica)
    there.cookies = dict(here.cookies)
    async with there.live() as events:
        await _next(events, "keepalive")
        assert (await here.post("/auth/logout")).status_code == 204
        assert (await _next(events, "end")).data["reconnect"] is False


async def test_a_soft_revocation_does_not_end_it(world: World) -> None:
    window, subject = await _signed_in(world), world.subject(BOB)
    async with window.live() as events:
        await _next(events, "keepalive")
        before = len(world.notifications.subscriptions)
        await world.revoke(subject=subject, soft=True)

        async def subscribed_anew() -> bool:
            return len(world.notifications.subscriptions) > before

        await eventually(subscribed_anew, within=10)
        await world.notifications.tell(subject, "still here")
        assert (await _next(events, "notification")).data["title"] == "still here"


async def test_it_outlives_its_access_token_without_a_gap(world: World) -> None:
    window, subject = await _signed_in(world), world.subject(BOB)
    async with window.live() as events:
        await _next(events, "keepalive")
        await world.notifications.tell(subject, "one")
        assert (await _next(events, "notification")).data["title"] == "one"
        before = len(world.notifications.subscriptions)
        world.forward(880)  # the token has 20 s left

        async def subscribed_anew() -> bool:
            return len(world.notifications.subscriptions) > before

        await eventually(subscribed_anew, within=10)
        assert world.notifications.subscriptions[-1] == (subject, len(world.notifications.inboxes[subject]))
        await world.notifications.tell(subject, "two")
        assert (await _next(events, "notification")).data["title"] == "two"


async def test_it_ends_with_a_session_that_nobody_uses(world: World) -> None:
    window = await _signed_in(world)
    async with window.live() as events:
        await _next(events, "keepalive")
        world.forward(1801)
        assert (await _next(events, "end")).data == {"reason": "SESSION_EXPIRED", "reconnect": False}


async def test_signing_in_again_ends_it_and_asks_the_page_to_reconnect(world: World) -> None:
    window = await _signed_in(world)
    async with window.live() as events:
        await _next(events, "keepalive")
        await window.sign_in(BOB, path="/auth/reauthenticate")
        assert (await _next(events, "end")).data == {"reason": "SIGNED_IN_AGAIN", "reconnect": True}


async def test_a_server_that_stops_ends_it_and_asks_the_page_to_reconnect(world: World) -> None:
    service, replica = await world.another()
    window = await _signed_in(world, replica=replica)
    async with window.live() as events:
        await _next(events, "keepalive")
        service.stop()
        assert (await _next(events, "end")).data == {"reason": "SERVER_STOPPING", "reconnect": True}


async def test_a_session_has_so_many_streams_and_a_process_so_many(world: World) -> None:
    _, replica = await world.another(streams_per_session=2, streams=3)
    alice, bob = await _signed_in(world, ALICE, replica), await _signed_in(world, BOB, replica)
    async with alice.live() as one, alice.live() as two:
        await _next(one, "keepalive")
        await _next(two, "keepalive")
        refused = await alice.get("/api/live")
        assert (refused.status_code, refused.json()["reason"]) == (429, "TOO_MANY_STREAMS")
        async with bob.live() as three:
            await _next(three, "keepalive")
            refused = await bob.get("/api/live")
            assert refused.status_code == 429

    async def free_again() -> bool:
        async with bob.live() as again:
            return (await _next(again, "keepalive")).event == "keepalive"

    await eventually(free_again, within=10)


@pytest.mark.requirement(21)
async def test_a_reader_that_stalls_costs_no_one_else_anything_and_is_cut_off_with_its_session(world: World) -> None:
    reader, lively, subject = await _signed_in(world), await _signed_in(world), world.subject(BOB)
    sid = (await reader.get("/api/me")).json()["sid"]
    before = _open_streams(world)
    async with _unread(reader) as unread, lively.live() as events:
        await _next(events, "keepalive")
        for number in range(200):
            await world.notifications.tell(subject, f"{number} " + "x" * 100_000)
        titles = [(await _next(events, "notification")).data["title"].split()[0] for _ in range(200)]
        assert titles == [str(number) for number in range(200)]
        assert _open_streams(world) == before + 2

        await world.revoke(session=sid)

        async def cut() -> bool:
            return _open_streams(world) == before + 1

        await eventually(cut, within=AT_ONCE)
        await unread.cut()
        await world.notifications.tell(subject, "goes on")
        assert (await _next(events, "notification")).data["title"] == "goes on"
    world.notifications.inboxes[subject].clear()


def _unread(window: Window) -> AbstractAsyncContextManager[Stalled]:
    address = urlsplit(window.replica)
    cookies = "; ".join(f"{name}={value}" for name, value in window.cookies.items())
    assert address.port is not None
    return stalled(address.port, f"GET /api/live HTTP/1.1\nHost: {address.netloc}\nCookie: {cookies}\n\n")


def _open_streams(world: World) -> float:
    return world.session.metrics.registry.get_sample_value("session_live_streams") or 0.0
