"""Notifications on both wires: one's own inbox and nobody else's, strict bodies, pages, preferences."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from contracts.identity.v1.events_pb2 import PasswordChanged
from contracts.notifications.v1 import notifications_pb2 as pb
from contracts.orders.v1.events_pb2 import OrderPlaced
from support.eventually import eventually
from support.notifications_system import WITHIN, NotificationsSystem, Replica, bearer
from support.orders_wires import refused_by_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")


class World(NotificationsSystem):
    replica_: Replica

    async def inbox(self, person: str, size: int = 100) -> list[dict]:
        answer = await self.replica_.get("/v1/notifications", self.token(person), params={"page_size": size})
        assert answer.status_code == 200, answer.text
        return answer.json()["notifications"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory, _embedded_redis: str) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("notifications")
    world = World(f"sqlite:///{folder / 'test.db'}", _embedded_redis.replace("/0", "/5"))
    async with world.replica() as world.replica_, world.producer() as orders, world.producer("identity.events") as told:
        for n in range(5):
            await orders.tell(OrderPlaced(order_id=f"ord_{n}", owner="usr_alice"))
        await orders.tell(OrderPlaced(order_id="ord_bob", owner="usr_bob"))
        await told.tell(PasswordChanged(subject="usr_alice", session_id="sid_1"), aggregate="usr_alice")

        async def arrived() -> bool:
            return len(await world.inbox("usr_alice")) == 6 and len(await world.inbox("usr_bob")) == 1

        await eventually(arrived, within=WITHIN)
        yield world


def _metadata(token: str):
    return tuple(bearer(token).items())


async def _refused(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    said = refused_by_grpc(refused.value)
    return said.code, said.reason


async def test_an_inbox_is_shown_newest_first_and_alike_on_both_wires(world: World) -> None:
    shown = await world.inbox("usr_alice")
    assert [one["sequence"] for one in shown] == [6, 5, 4, 3, 2, 1]
    listed = await world.replica_.stub.List(pb.ListRequest(page_size=100), metadata=_metadata(world.token()))
    assert [one.id for one in listed.notifications] == [one["id"] for one in shown]
    first, same = shown[-1], listed.notifications[-1]
    assert first["kind"] in ("ORDER_PLACED", "PASSWORD_CHANGED")
    assert (first["kind"], first["title"], first["body"], first["about"]) == (
        same.kind, same.title, same.body, same.about,
    )  # fmt: skip
    assert {one["category"] for one in shown} == {"orders", "security"}
    assert {one.category for one in listed.notifications} == {pb.CATEGORY_ORDERS, pb.CATEGORY_SECURITY}
    assert first["created_at"].startswith("2026-11-24T06:")
    assert f"{same.created_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z" == first["created_at"]


async def test_pages_follow_each_other(world: World) -> None:
    token, seen, page_token = world.token(), [], ""
    for size in (4, 2):
        answer = await world.replica_.get(
            "/v1/notifications", token, params={"page_size": size, **({"page_token": page_token} if page_token else {})}
        )
        page = answer.json()
        seen += [one["sequence"] for one in page["notifications"]]
        page_token = page["next_page_token"]
    assert seen == [6, 5, 4, 3, 2, 1]
    assert page_token == ""


@pytest.mark.parametrize(
    ("query", "reason"),
    [("page_size=101", "VALIDATION_FAILED"), ("page_size=-1", "VALIDATION_FAILED"),
     ("page_size=x", "VALIDATION_FAILED"),
     ("page_token=x", "BAD_PAGE_TOKEN"), ("page_token=MS4w", "BAD_PAGE_TOKEN"), ("person=usr_bob", "UNKNOWN_PARAMETER"),
     ("page_size=1&page_size=2", "REPEATED_PARAMETER"), ("access_token=x", "UNKNOWN_PARAMETER")],
)  # fmt: skip
async def test_what_is_not_understood_is_refused(world: World, query: str, reason: str) -> None:
    answer = await world.replica_.get(f"/v1/notifications?{query}", world.token())
    assert (answer.status_code, answer.json()["reason"]) == (400, reason)


async def test_reading_is_marked_once_and_counted(world: World) -> None:
    token = world.token("usr_bob")
    [one] = await world.inbox("usr_bob")
    unread = (await world.replica_.get("/v1/notifications", token)).json()["unread_count"]
    assert unread == 1
    path = f"/v1/notifications/{one['id']}/read"
    first = (await world.replica_.client.post(path, headers=bearer(token))).json()
    again = await world.replica_.stub.MarkRead(pb.MarkReadRequest(id=one["id"]), metadata=_metadata(token))
    assert first["read_at"] is not None
    assert f"{again.read_at.ToDatetime():%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z" == first["read_at"]
    listed = await world.replica_.stub.List(pb.ListRequest(), metadata=_metadata(token))
    assert listed.unread_count == 0


@pytest.mark.requirement(74)
async def test_somebody_elses_is_not_there(world: World) -> None:
    theirs = (await world.inbox("usr_alice"))[0]["id"]
    for wanted in (theirs, "ntf_" + "a" * 22, "ntf_x", "nonsense"):
        answer = await world.replica_.client.post(
            f"/v1/notifications/{wanted}/read", headers=bearer(world.token("usr_bob"))
        )
        assert (answer.status_code, answer.json()["reason"]) == (404, "NOTIFICATION_NOT_FOUND")
        refused = await _refused(
            world.replica_.stub.MarkRead(pb.MarkReadRequest(id=wanted), metadata=_metadata(world.token("usr_bob")))
        )
        assert refused == (grpc.StatusCode.NOT_FOUND, "NOTIFICATION_NOT_FOUND")
    assert all(one["read_at"] is None for one in await world.inbox("usr_alice"))


async def test_preferences_are_kept_and_each_person_has_their_own(world: World) -> None:
    token, path = world.token("usr_carol"), "/v1/notifications/preferences"
    everything = {"order_emails": True, "security_emails": True}
    assert (await world.replica_.get(path, token)).json() == everything
    wanted = {"order_emails": False, "security_emails": True}
    assert (await world.replica_.client.put(path, headers=bearer(token), json=wanted)).json() == wanted
    got = await world.replica_.stub.GetPreferences(pb.GetPreferencesRequest(), metadata=_metadata(token))
    assert (got.order_emails, got.security_emails) == (False, True)
    request = pb.SetPreferencesRequest(preferences=pb.Preferences(order_emails=True))
    await world.replica_.stub.SetPreferences(request, metadata=_metadata(token))
    assert (await world.replica_.get(path, token)).json() == {"order_emails": True, "security_emails": False}
    assert (await world.replica_.get(path, world.token("usr_dave"))).json() == everything


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    "body",
    ['{"order_emails":true}', '{"order_emails":true,"security_emails":true,"person":"usr_bob"}',
     '{"order_emails":1,"security_emails":true}', '{"order_emails":"yes","security_emails":true}', "[]", "null", "{",
     '{"order_emails":true,"order_emails":false,"security_emails":true}'],
)  # fmt: skip
async def test_a_body_is_exactly_what_it_must_be(world: World, body: str) -> None:
    headers = bearer(world.token("usr_erin")) | {"content-type": "application/json"}
    answer = await world.replica_.client.put("/v1/notifications/preferences", headers=headers, content=body)
    assert answer.status_code == 400
    assert (await world.replica_.get("/v1/notifications/preferences", world.token("usr_erin"))).json() == {
        "order_emails": True, "security_emails": True,
    }  # fmt: skip


async def test_preferences_must_be_said(world: World) -> None:
    call = world.replica_.stub.SetPreferences(pb.SetPreferencesRequest(), metadata=_metadata(world.token()))
    assert await _refused(call) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")


async def test_a_client_has_no_inbox(world: World) -> None:
    from notifications.app import AUDIENCE

    token = world.mint.service_token(AUDIENCE, scope="notifications:read")
    answer = await world.replica_.get("/v1/notifications", token)
    assert (answer.status_code, answer.json()["reason"]) == (403, "PERSON_REQUIRED")
    stream = await world.replica_.get("/v1/notifications/stream", token)
    assert (stream.status_code, stream.json()["reason"]) == (403, "PERSON_REQUIRED")
    call = world.replica_.stub.List(pb.ListRequest(), metadata=_metadata(token))
    assert await _refused(call) == (grpc.StatusCode.PERMISSION_DENIED, "PERSON_REQUIRED")


async def test_everybody_was_mailed_but_by_preference(world: World) -> None:
    async def all_sent() -> bool:
        return len(world.outgoing.sent) == 7

    await eventually(all_sent, within=WITHIN)
    assert len({mail.message_id for mail in world.outgoing.sent}) == 7
    assert {mail.to for mail in world.outgoing.sent} == {"usr_alice@example.com", "usr_bob@example.com"}
