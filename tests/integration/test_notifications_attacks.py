"""The whole attack table against notifications, on every way in: the right reason, and nothing of an inbox."""

import json
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from contracts.notifications.v1 import notifications_pb2 as pb
from notifications.app import AUDIENCE
from rescind.messages import Entry
from support.attacks import ATTACKS, Attack, Forge
from support.notifications_system import READ, NotificationsSystem, Replica, bearer, frames
from support.orders_wires import refused_by_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory, _embedded_redis: str
) -> AsyncIterator[tuple[NotificationsSystem, Replica]]:
    folder = tmp_path_factory.mktemp("notifications")
    system = NotificationsSystem(f"sqlite:///{folder / 'test.db'}", _embedded_redis.replace("/0", "/6"))
    async with system.replica() as replica:
        system.revoke(Entry("token", "taken-back"))
        yield system, replica


def _on(wire: str) -> list[object]:
    return [
        pytest.param(attack, id=attack.name, marks=[pytest.mark.requirement(row) for row in attack.rows])
        for attack in ATTACKS
        if wire in attack.wires
    ]


def _forge(system: NotificationsSystem) -> Forge:
    return Forge(system.mint, AUDIENCE, READ)


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return tuple(bearer(token).items())


@pytest.mark.parametrize("attack", _on("http"))
async def test_over_http(world: tuple[NotificationsSystem, Replica], attack: Attack) -> None:
    system, replica = world
    token = attack.forge(_forge(system))
    for path in ("/v1/notifications", "/v1/notifications/stream", "/v1/notifications/preferences"):
        answer = await replica.get(path, token)
        assert (answer.status_code, answer.json()["reason"]) == (401, attack.reason)
        assert answer.headers["www-authenticate"] == (
            f'Bearer error="invalid_token", error_description="{attack.reason}"'
        )


@pytest.mark.parametrize("attack", _on("http"))
async def test_over_a_socket(world: tuple[NotificationsSystem, Replica], attack: Attack) -> None:
    system, replica = world
    token = attack.forge(_forge(system))
    if len(token) > 8000:  # longer than the handshake's lines may be: refused before anybody reads it
        with pytest.raises(InvalidStatus) as unread:
            await replica.socket(token)
        assert unread.value.response.status_code == 400
        assert json.loads(unread.value.response.body)["reason"] == "HANDSHAKE_UNREADABLE"
        return
    async with replica.socket(token) as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, attack.reason)


@pytest.mark.parametrize("attack", _on("grpc"))
async def test_over_grpc(world: tuple[NotificationsSystem, Replica], attack: Attack) -> None:
    system, replica = world
    token = attack.forge(_forge(system))
    for call in (
        replica.stub.List(pb.ListRequest(), metadata=_metadata(token)),
        anext(aiter(replica.subscribe(token))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert (refused.value.code(), refused_by_grpc(refused.value).reason) == (
            grpc.StatusCode.UNAUTHENTICATED, attack.reason,
        )  # fmt: skip


async def test_a_good_token_passes_everywhere(world: tuple[NotificationsSystem, Replica]) -> None:
    """So that what was refused above was refused for the one thing that differed."""
    system, replica = world
    good = _forge(system).good
    assert (await replica.get("/v1/notifications", good)).status_code == 200
    assert (await replica.stub.List(pb.ListRequest(), metadata=_metadata(good))).unread_count == 0
    assert (await anext(aiter(replica.subscribe(good)))).HasField("keep_alive")
    async with replica.sse(good) as sse:
        assert (await anext(aiter(sse)))["event"] == "ready"
    async with replica.socket(good) as socket:
        assert (await anext(frames(socket)))["event"] == "ready"


@pytest.mark.requirement(67)
async def test_another_scope_opens_nothing(world: tuple[NotificationsSystem, Replica]) -> None:
    system, replica = world
    token = system.token(scope="orders:read orders:admin identity:admin")
    for method, path in [
        ("GET", ""), ("GET", "/stream"), ("GET", "/preferences"), ("PUT", "/preferences"),
        ("POST", f"/ntf_{'a' * 22}/read"),
    ]:  # fmt: skip
        answer = await replica.client.request(method, f"/v1/notifications{path}", headers=bearer(token))
        assert (answer.status_code, answer.json()["reason"]) == (403, "INSUFFICIENT_SCOPE")
        assert answer.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{READ}"'
    with pytest.raises(ConnectionClosed) as closed:
        async with replica.socket(token) as socket:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4403
    for call in (
        replica.stub.List(pb.ListRequest(), metadata=_metadata(token)),
        replica.stub.MarkRead(pb.MarkReadRequest(id="x"), metadata=_metadata(token)),
        replica.stub.GetPreferences(pb.GetPreferencesRequest(), metadata=_metadata(token)),
        replica.stub.SetPreferences(pb.SetPreferencesRequest(), metadata=_metadata(token)),
        anext(aiter(replica.subscribe(token))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.requirement(70)
@pytest.mark.requirement(37)
async def test_a_token_in_the_url_is_none(world: tuple[NotificationsSystem, Replica]) -> None:
    system, replica = world
    for path in ("", "/stream", "/preferences"):
        answer = await replica.get(f"/v1/notifications{path}?access_token={system.token()}", "")
        assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_MISSING")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement(37)
async def test_no_frame_of_a_stream_holds_a_token(world: tuple[NotificationsSystem, Replica]) -> None:
    system, replica = world
    token = system.token()
    async with replica.sse(token) as sse:
        ready = await anext(aiter(sse))
        assert token.rpartition(".")[2] not in f"{ready}{dict(sse.response.headers)}"
