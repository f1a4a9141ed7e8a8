"""Live streams over gRPC, SSE and WebSocket: nothing missed, nothing twice, wherever a stream hangs, and their ends."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from websockets.exceptions import ConnectionClosed, InvalidStatus

from contracts.orders.v1.events_pb2 import OrderPlaced
from notifications import storage
from notifications.channels.live import Live, LiveMetrics
from notifications.channels.pubsub import CHANNEL, NoWakeUps
from notifications.domain import Kind, Notification, Person, Told, notification_id
from notifications.service import Notifications
from rescind.messages import Entry
from servicekit.database import Database
from servicekit.migrations import migrate
from support.eventually import eventually
from support.notifications_system import WITHIN, NotificationsSystem, Replica, frames
from support.orders_wires import refused_by_grpc

ALICE = "usr_alice"
WIRES = ["grpc", "sse", "socket"]


@pytest.fixture
async def system(tmp_path: Path, embedded_redis_url: str) -> NotificationsSystem:
    return NotificationsSystem(f"sqlite:///{tmp_path / 'test.db'}", embedded_redis_url)


def _placed(*numbers: int, owner: str = ALICE) -> list[OrderPlaced]:
    return [OrderPlaced(order_id=f"ord_{number}", owner=owner) for number in numbers]


@asynccontextmanager
async def _opened(wire: str, replica: Replica, token: str, after: int | None = None):
    """A live stream; yields what gives its (event, sequence, about) in turn."""
    if wire == "grpc":
        call = replica.subscribe(token, after)

        async def over_grpc() -> AsyncIterator[tuple[str, int, str]]:
            first = True
            async for response in call:
                if response.HasField("notification"):
                    yield "notification", response.notification.sequence, response.notification.about
                elif first:
                    yield "ready", response.keep_alive.sequence, ""
                first = False

        yield over_grpc()
        call.cancel()
    elif wire == "sse":
        async with replica.sse(token, after) as sse:

            async def over_sse() -> AsyncIterator[tuple[str, int, str]]:
                async for event in sse:
                    if event["event"] == "end":
                        yield "end", 0, event["data"]["reason"]
                    else:
                        assert event["id"] == str(event["data"]["sequence"])
                        yield event["event"], event["data"]["sequence"], event["data"].get("about", "")

            yield over_sse()
    else:
        async with replica.socket(token, after) as socket:

            async def over_socket() -> AsyncIterator[tuple[str, int, str]]:
                async for frame in frames(socket):
                    if frame["event"] != "keep_alive":
                        yield frame["event"], frame["data"]["sequence"], frame["data"].get("about", "")

            yield over_socket()


async def _take(events: AsyncIterator, count: int) -> list:
    async with asyncio.timeout(WITHIN):
        return [await anext(events) for _ in range(count)]


async def _end(wire: str, events: AsyncIterator) -> str:
    """Why a stream ended, in its wire's words."""
    async with asyncio.timeout(WITHIN):
        try:
            async for kind, _, why in events:
                if kind == "end":
                    return why
        except grpc.aio.AioRpcError as error:
            return refused_by_grpc(error).reason
        except ConnectionClosed as closed:
            return f"{closed.rcvd.code} {closed.rcvd.reason}" if closed.rcvd is not None else "nothing"
    return "nothing"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stream_begins_now_and_then_brings_everything_in_order(system: NotificationsSystem, wire: str) -> None:
    async with system.replica() as replica, system.producer() as orders:
        await orders.tell(*_placed(1, 2))
        async with _opened(wire, replica, system.token(), 0) as old:
            assert [event[:2] for event in await _take(old, 3)] == [
                ("ready", 0),
                ("notification", 1),
                ("notification", 2),
            ]
        async with (
            _opened(wire, replica, system.token()) as events,
            _opened(wire, replica, system.token("usr_b")) as other,
        ):
            assert await _take(events, 1) == [("ready", 2, "")]
            assert await _take(other, 1) == [("ready", 0, "")]
            await orders.tell(*_placed(3, 4, 5))
            await orders.tell(*_placed(9, owner="usr_b"))
            assert [sequence for _, sequence, _ in await _take(events, 3)] == [3, 4, 5]
            assert await _take(other, 1) == [("notification", 1, "ord_9")]


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stream_resumes_behind_any_sequence(system: NotificationsSystem, wire: str) -> None:
    """Also beyond the end: an inbox that was put back to a backup goes on from where it is."""
    async with system.replica() as replica, system.producer() as orders:
        await orders.tell(*_placed(1, 2, 3))
        async with _opened(wire, replica, system.token(), 0) as all_there:
            await _take(all_there, 4)
        async with AsyncExitStack() as stack:
            streams = {}
            for after in (0, 2, 3, 99):
                streams[after] = await stack.enter_async_context(_opened(wire, replica, system.token(), after))
                assert (await _take(streams[after], 1))[0][:2] == ("ready", min(after, 3))
            await orders.tell(*_placed(4))
            for after, events in streams.items():
                behind = range(min(after, 3) + 1, 5)
                assert [one[1] for one in await _take(events, len(behind))] == list(behind)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_push_reaches_the_stream_on_whichever_replica_it_hangs(system: NotificationsSystem, wire: str) -> None:
    """The sweep is switched off: only Pub/Sub can bring it."""
    async with system.replica(sweep=3600) as one, system.replica(sweep=3600) as two, system.producer() as orders:
        async with _opened(wire, one, system.token()) as first, _opened(wire, two, system.token()) as second:
            await asyncio.gather(_take(first, 1), _take(second, 1))
            await eventually(lambda: _heard_by(system, 2), within=WITHIN)
            for number in range(1, 21):
                await orders.tell(*_placed(number))
                heard = [await _take(events, 1) for events in (first, second)]
                assert heard == [[("notification", number, f"ord_{number}")]] * 2
        assert sum(each.metric("eventlog_handled_total", stream="orders.events", group="notifications",
                               outcome="handled") for each in (one, two)) == 20  # fmt: skip


async def _heard_by(system: NotificationsSystem, replicas: int) -> bool:
    async with Redis.from_url(system.redis_url) as redis:
        (told,) = await redis.pubsub_numsub(CHANNEL)
    return told == (CHANNEL.encode(), replicas)


async def test_without_pubsub_a_sweep_finds_what_came(system: NotificationsSystem) -> None:
    async with (
        system.replica(wake_ups=NoWakeUps(), sweep=0.05, stream=_deaf(system)) as looking_on,
        system.replica(wake_ups=NoWakeUps()),
        system.producer() as orders,
        _opened("sse", looking_on, system.token()) as events,
    ):
        await _take(events, 1)
        await orders.tell(*_placed(1))
        assert await _take(events, 1) == [("notification", 1, "ord_1")]


def _deaf(system: NotificationsSystem):
    """Streams on which nothing comes: so that another replica handles the events."""
    from eventlog.memory_stream import MemoryStream

    return MemoryStream


@pytest.mark.requirement(21)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_revocation_ends_exactly_the_streams_it_covers(system: NotificationsSystem, wire: str) -> None:
    async with system.replica() as replica:
        mine = system.token(gen=1)
        async with _opened(wire, replica, mine) as ended, _opened(wire, replica, system.token("usr_b")) as other:
            await asyncio.gather(_take(ended, 1), _take(other, 1))
            system.revoke(Entry("subject", ALICE, 2))
            assert "TOKEN_" in await _end(wire, ended)
            async with system.producer() as orders:
                await orders.tell(*_placed(1, owner="usr_b"))
                assert await _take(other, 1) == [("notification", 1, "ord_1")]
        assert (await replica.get("/v1/notifications/stream", mine)).status_code == 401


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stop_ends_streams_with_a_hint_to_come_again_and_another_replica_goes_on(
    system: NotificationsSystem, wire: str
) -> None:
    async with system.replica() as staying, system.producer() as orders:
        async with AsyncExitStack() as leaving:
            stopping = await leaving.enter_async_context(system.replica())
            async with _opened(wire, stopping, system.token()) as events:
                await _take(events, 1)
                await orders.tell(*_placed(1))
                await _take(events, 1)
                stopping.service.stop()
                said = await _end(wire, events)
                assert said == ("1012 SERVER_STOPPING" if wire == "socket" else "SERVER_STOPPING")
        await orders.tell(*_placed(2))
        async with _opened(wire, staying, system.token(), 1) as events:
            assert (await _take(events, 2))[1][:2] == ("notification", 2)


async def test_an_sse_stream_tells_browsers_when_to_come_again_and_is_never_stored(system: NotificationsSystem) -> None:
    async with system.replica(keep_alive=0.05) as replica, replica.sse(system.token()) as sse:
        assert sse.response.headers["content-type"].startswith("text/event-stream")
        assert sse.response.headers["cache-control"] == "no-store"
        events = aiter(sse)
        ready = await anext(events)
        assert (ready["event"], ready["id"], ready["retry"]) == ("ready", "0", "1000")
        async with asyncio.timeout(WITHIN), system.producer() as orders:
            next_one = asyncio.create_task(anext(events))
            await eventually(lambda: _now(sse.comments), within=WITHIN)
            await orders.tell(*_placed(1))
            assert (await next_one)["data"]["kind"] == "ORDER_PLACED"


async def test_a_refreshed_token_extends_a_socket_without_a_cut(system: NotificationsSystem) -> None:
    async with system.replica() as replica, system.producer() as orders:
        old = system.token(jti="old")
        async with replica.socket(old) as socket:
            said = frames(socket)
            assert (await anext(said))["event"] == "ready"
            await socket.send(json.dumps({"token": system.token("usr_eve")}))
            assert "refused" in await anext(said)
            await socket.send(json.dumps({"token": system.token(jti="new")}))
            assert await anext(said) == {"extended": True}
            system.revoke(Entry("token", "old"))
            await orders.tell(*_placed(1))
            assert (await anext(said))["data"]["sequence"] == 1


@pytest.mark.requirement(41)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:8000"])
async def test_a_page_of_another_origin_may_not_connect(system: NotificationsSystem, origin: str) -> None:
    async with system.replica() as replica:
        headers = {"authorization": f"Bearer {system.token()}", "origin": origin}
        answer = await replica.client.get("/v1/notifications/stream", headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "ORIGIN_NOT_ALLOWED")
        with pytest.raises(InvalidStatus) as refused:
            async with replica.socket(system.token(), origin=origin):
                pass
        assert refused.value.response.status_code == 403


@pytest.mark.requirement(41)
async def test_a_page_that_is_allowed_may(system: NotificationsSystem) -> None:
    page = "https://app.example.com"
    async with system.replica(settings={"allowed_origins": f"{page}, https://other.example.com"}) as replica:
        async with replica.sse(system.token(), origin=page) as sse:
            assert (await anext(aiter(sse)))["event"] == "ready"
        async with replica.socket(system.token(), origin=page) as socket:
            assert (await anext(frames(socket)))["event"] == "ready"


async def test_a_sequence_is_a_number_that_was_given_out(system: NotificationsSystem) -> None:
    async with system.replica() as replica:
        headers = {"authorization": f"Bearer {system.token()}"}
        for last in ("-1", "x", "1.5", "01", "9" * 17, str(2**53), "1 ", "१"):
            answer = await replica.client.get("/v1/notifications/stream", params={"after": last}, headers=headers)
            assert (answer.status_code, answer.json()["reason"]) == (400, "SEQUENCE_INVALID")
            if last.isascii() and last == last.strip():
                sent = headers | {"last-event-id": last}
                answer = await replica.client.get("/v1/notifications/stream", headers=sent)
                assert (answer.status_code, answer.json()["reason"]) == (400, "SEQUENCE_INVALID")
        with pytest.raises(InvalidStatus) as refused:
            async with replica.socket(system.token(), after=-1):
                pass
        assert refused.value.response.status_code == 400


async def test_grpc_refuses_a_negative_sequence(system: NotificationsSystem) -> None:
    async with system.replica() as replica:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(replica.subscribe(system.token(), -1)))
        assert refused_by_grpc(refused.value).reason == "VALIDATION_FAILED"


async def test_many_streams_of_one_process_all_hear_and_leave_nothing_behind(system: NotificationsSystem) -> None:
    async with system.replica() as replica, system.producer() as orders:
        token, count = system.token(), 300
        calls = [replica.subscribe(token) for _ in range(count)]
        streams = [aiter(call) for call in calls]
        async with asyncio.timeout(4 * WITHIN):
            await asyncio.gather(*(anext(stream) for stream in streams))
            assert replica.metric("notifications_live_streams") == count
            await orders.tell(*_placed(1))
            heard = await asyncio.gather(*(anext(stream) for stream in streams))
        assert {response.notification.sequence for response in heard} == {1}
        for call in calls:
            call.cancel()
        await eventually(lambda: _now(not replica.metric("notifications_live_streams")), within=WITHIN)


async def test_a_reader_that_does_not_read_costs_nothing_and_gets_it_all_later(system: NotificationsSystem) -> None:
    async with system.replica() as replica, system.producer() as orders, replica.sse(system.token(), 0) as sse:
        events = aiter(sse)
        assert (await anext(events))["event"] == "ready"
        for start in range(0, 300, 50):
            await orders.tell(*_placed(*range(start, start + 50)))
        async with asyncio.timeout(2 * WITHIN):
            async for number in _numbers(300):
                assert (await anext(events))["id"] == str(number)


async def _numbers(most: int) -> AsyncIterator[int]:
    for number in range(1, most + 1):
        yield number


_names = itertools.count()


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    reconnects=st.lists(st.integers(1, 5), max_size=4),
    start=st.integers(0, 3),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resuming_from_anywhere_while_others_write_loses_and_repeats_nothing(
    tmp_path: Path, sizes: list[int], reconnects: list[int], start: int
) -> None:
    """A reader that comes and goes, and writers that commit late and out of turn."""
    url = f"sqlite:///{tmp_path / f'{next(_names)}.db'}"
    migrate(url, "notifications")
    person, total = Person(ALICE), start + sum(sizes)

    async def check() -> None:
        database = Database(url)
        live = Live(lambda _: _nothing(), NoWakeUps(), metrics=LiveMetrics(CollectorRegistry()))
        inbox = Notifications(database, live)
        told = Told(person, Kind.ORDER_PLACED, "T", "B", "", Kind.ORDER_PLACED.mailing)
        events = itertools.count()

        async def write(count: int) -> None:
            def work(tx) -> list[int]:
                return [storage.tell(tx, notification_id(f"{next(events)}"), told, at=1) for _ in range(count)]

            for sequence in await database.run(work):
                live.grown([(person, sequence)])

        if start:
            await write(start)
        writing = [asyncio.create_task(write(size)) for size in sizes]
        seen: list[int] = []
        turns = iter(reconnects)
        while len(seen) < total:
            turn, got = next(turns, total), 0
            stream = inbox.follow(person, seen[-1] if seen else 0)
            async for event in stream:
                if isinstance(event, Notification):
                    seen.append(event.sequence)
                    got += 1
                if got == turn or len(seen) == total:
                    break
            await stream.aclose()
        await asyncio.gather(*writing)
        assert seen == list(range(1, total + 1))
        await database.dispose()

    asyncio.run(asyncio.wait_for(check(), WITHIN))


async def _nothing() -> dict:
    return {}


async def _now(value):
    return value
