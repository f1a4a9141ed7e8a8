"""The control room, the shop's back office and the inbox through the browser's session."""

import asyncio
import json
from pathlib import Path

import pytest
from sqlalchemy import update

from identity.storage import grants
from support.eventually import eventually
from support.session_window import ADMIN, ALICE, Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _signed_in(world: World, email: str = ADMIN, replica: str = "") -> Window:
    window = world.window(replica)
    assert (await window.sign_in(email)).status_code == 303
    return window


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/control/status", None),
        ("GET", "/api/control/receipts/1", None),
        ("GET", "/api/control/faults", None),
        ("POST", "/api/control/faults", {"part": "redis", "fault": "kill"}),
        ("POST", "/api/control/revoke", {"kind": "subject", "target": "usr_x"}),
        ("POST", "/api/control/stolen", None),
    ],
)
async def test_it_is_for_administrators(world: World, method: str, path: str, body: object) -> None:
    window = await _signed_in(world, ALICE)
    refused = await window.request(method, path, body=body)
    assert (refused.status_code, refused.json()["reason"]) == (403, "INSUFFICIENT_SCOPE")


async def test_it_shows_every_verifier_and_watches_a_revocation_arrive(world: World) -> None:
    admin, alice = await _signed_in(world), await _signed_in(world, ALICE)
    sid = (await alice.get("/api/me")).json()["sid"]

    async def reported() -> bool:
        verifiers = (await admin.get("/api/control/status")).json()["verifiers"]
        return {"urn:rescind:session", "urn:rescind:orders"} <= {one["audience"] for one in verifiers}

    await eventually(reported, within=15)
    revoked = (
        await admin.post("/api/control/revoke", {"kind": "session", "target": sid, "cause": "LOST_PHONE"})
    ).json()
    assert revoked["position"] > 0

    async def applied() -> bool:
        receipts = (await admin.get(f"/api/control/receipts/{revoked['position']}")).json()
        return {"urn:rescind:session", "urn:rescind:orders"} <= {one["audience"] for one in receipts["applied"]}

    await eventually(applied, within=15)
    assert (await alice.get("/api/me")).status_code == 401


@pytest.mark.requirement(29)
async def test_taking_back_needs_a_fresh_sign_in(world: World) -> None:
    admin = await _signed_in(world)
    world.forward(601)
    refused = await admin.post("/api/control/revoke", {"kind": "subject", "target": world.subject(ALICE)})
    assert (refused.status_code, refused.json()["reason"]) == (403, "REAUTHENTICATION_REQUIRED")


@pytest.mark.requirement(29)
async def test_identitys_own_wish_for_a_fresh_sign_in_is_passed_on_as_ours(world: World) -> None:
    """Here the session is young, and the sign-in that its grant rests on is not."""
    admin = await _signed_in(world)
    mine, old = grants.c.user_id == world.subject(ADMIN), {"auth_time": grants.c.auth_time - 601_000}
    world.parts.database.run_sync(lambda tx: tx.execute(update(grants).where(mine).values(old)))
    lab = (await admin.get("/api/lab")).json()["access_tokens"]
    held = next(token["claims"]["jti"] for token in lab if token["audience"] == "urn:rescind:identity")
    await world.revoke(token=held)  # the next one tells when the person signed in, as the grant has it now
    order = {"kind": "token", "target": "a-jti"}
    refused = await admin.post("/api/control/revoke", order)
    assert (refused.status_code, refused.json()["reason"]) == (403, "REAUTHENTICATION_REQUIRED")
    assert (await admin.get("/api/control/status")).status_code == 200
    assert (await admin.sign_in(ADMIN, path="/auth/reauthenticate")).status_code == 303
    assert (await admin.post("/api/control/revoke", order)).status_code == 200


async def test_a_thief_gets_in_until_it_is_taken_back(world: World) -> None:
    """Over gRPC; the world's orders have no HTTP, which the thief is told."""
    admin = await _signed_in(world)
    stolen = (await admin.post("/api/control/stolen")).json()["id"]
    tried = (await admin.post(f"/api/control/stolen/{stolen}/use")).json()
    assert tried["grpc"] == {"code": "OK", "reason": ""}
    lab = (await admin.get("/api/lab")).json()["access_tokens"]
    jti = next(token["claims"]["jti"] for token in lab if token["audience"] == "urn:rescind:orders")
    await world.revoke(token=jti)

    async def is_refused() -> bool:
        tried = (await admin.post(f"/api/control/stolen/{stolen}/use")).json()
        return bool(tried["grpc"] == {"code": "UNAUTHENTICATED", "reason": "TOKEN_REVOKED"} and not tried["accepted"])

    await eventually(is_refused, within=10)
    other = await _signed_in(world, ADMIN)
    assert (await other.post("/api/control/stolen/none/use")).status_code == 404


async def test_faults_go_to_the_embedded_runs_socket_and_nowhere_else(world: World, tmp_path: Path) -> None:
    admin = await _signed_in(world)
    assert (await admin.get("/api/control/faults")).json()["available"] is False
    fault = {"part": "redis", "fault": "freeze"}
    assert (await admin.post("/api/control/faults", fault)).json()["reason"] == "FAULTS_UNAVAILABLE"
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(json.loads(await reader.readline()))
        writer.write(b"{}\n")
        await writer.drain()
        writer.close()

    socket = tmp_path / "control.sock"
    async with await asyncio.start_unix_server(answer, socket):
        _, admin.replica = await world.another(fault_socket=socket)
        assert (await admin.post("/api/control/faults", fault)).status_code == 204
        unknown = [{"part": "sessions", "fault": "kill"}, {"part": "orders", "fault": "empty"}]
        answers = [await admin.post("/api/control/faults", one) for one in unknown]
    assert asked == [fault]
    assert {answer.json()["reason"] for answer in answers} == {"FAULT_UNKNOWN"}


async def test_orders_through_the_session_keep_the_services_words(world: World) -> None:
    alice, admin = await _signed_in(world, ALICE), await _signed_in(world)
    made = await alice.post("/api/orders", {"items": [{"sku": "tea", "quantity": 2}]}, idempotency_key="one")
    assert (made.status_code, made.json()["total"]) == (201, {"minor_units": 1995, "currency": "EUR"})
    order = made.json()["id"]
    assert (await alice.post("/api/orders", {"items": []})).json()["fields"] == {"items": "must be 1 to 100 items"}
    assert (await admin.get(f"/api/orders/{order}")).json()["reason"] == "ORDER_NOT_FOUND"
    stale = await alice.post(f"/api/orders/{order}/cancel", if_match='"9"')
    assert (stale.status_code, stale.json()["reason"]) == (412, "ETAG_MISMATCH")
    refused = await alice.get("/api/admin/orders")
    assert (refused.status_code, refused.json()["reason"]) == (403, "INSUFFICIENT_SCOPE")
    assert order in {one["id"] for one in (await admin.get("/api/admin/orders")).json()["orders"]}
    assert (await admin.post(f"/api/admin/orders/{order}/confirm")).json()["status"] == "confirmed"
    assert (await alice.post(f"/api/orders/{order}/cancel")).json()["status"] == "cancelled"


async def test_the_trace_goes_on_to_the_service(world: World) -> None:
    alice = await _signed_in(world, ALICE)
    trace = "0af7651916cd43dd8448eb211c80319c"
    await alice.get("/api/orders", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    assert trace in world.orders.metadata[-1]["traceparent"]


async def test_the_inbox_and_the_preferences(world: World) -> None:
    alice = await _signed_in(world, ALICE)
    await world.notifications.tell(world.subject(ALICE), "Hello")
    inbox = (await alice.get("/api/notifications")).json()
    first = inbox["notifications"][0]
    assert (first["title"], first["read_at"], inbox["unread_count"] > 0) == ("Hello", None, True)
    assert (await alice.post(f"/api/notifications/{first['id']}/read")).json()["read_at"] is not None
    assert (await alice.post("/api/notifications/ntf_none/read")).json()["reason"] == "NOTIFICATION_NOT_FOUND"
    wanted = {"order_emails": False, "security_emails": True}
    assert (await alice.request("PUT", "/api/notification-preferences", body=wanted)).json() == wanted
    assert (await alice.get("/api/notification-preferences")).json() == wanted


async def test_sessions_lost_with_their_redis_are_signed_in_anew_and_nobody_gets_anothers(world: World) -> None:
    alice, admin = await _signed_in(world, ALICE), await _signed_in(world)
    await world.redis.flushdb()
    for window in (alice, admin):
        assert (await window.get("/api/me")).json()["reason"] == "SESSION_ENDED"
    await admin.sign_in(ADMIN)
    assert (await alice.get("/api/me")).status_code == 401
    await alice.sign_in(ALICE)
    assert (await alice.get("/api/me")).json()["email"] == ALICE
    assert (await admin.get("/api/me")).json()["email"] == ADMIN
