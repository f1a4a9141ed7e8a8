"""WatchOrders: one's own orders as they change, whichever replica changes them, and whether Redis is there or not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from contracts.orders.v1 import orders_pb2 as pb
from eventlog.memory_stream import MemoryStream
from orders.app import AUDIENCE
from orders.events import STREAM
from orders.wakeups import Hint, MemoryWakeups, RedisWakeups, Wakeups, WakeupsLost
from rescind.messages import Entry
from support.eventually import eventually
from support.orders_wires import ADMIN, OrdersUnderTest, orders_under_test, refused_by_grpc

PLACED, CONFIRMED, CANCELLED = pb.ORDER_STATUS_PLACED, pb.ORDER_STATUS_CONFIRMED, pb.ORDER_STATUS_CANCELLED
Queues = list["asyncio.Queue[Hint | WakeupsLost]"]


@contextlib.asynccontextmanager
async def replicas(database_url: str, one: Wakeups, other: Wakeups) -> AsyncIterator[list[OrdersUnderTest]]:
    """Two processes' worth of orders on one database."""
    stream = MemoryStream(STREAM)
    async with (
        orders_under_test(database_url, stream=stream, wakeups=one, background=True) as here,
        orders_under_test(
            database_url, mint=here.mint, log=here.log, stream=stream, wakeups=other, background=True
        ) as there,
    ):
        yield [here, there]
    await one.aclose()
    await other.aclose()


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(database_url, background=True) as world:
        yield world


async def _begun(world: OrdersUnderTest, token: str) -> Any:
    """A watch that is in place."""
    watch = world.grpc.watch(token)
    assert (await _read(watch)).WhichOneof("event") == "keep_alive"
    return watch


async def _read(watch: Any) -> Any:
    async with asyncio.timeout(30):
        return await watch.read()


async def _order(watch: Any) -> tuple[str, int]:
    """The next order that is shown, signs of life apart."""
    while True:
        response = await _read(watch)
        if response.WhichOneof("event") == "order":
            return response.order.id, response.order.status


async def test_ones_own_orders_are_shown_as_they_change_and_nobody_elses(world: OrdersUnderTest) -> None:
    alice, bob, admin = world.token(), world.token("usr_bob"), world.token("usr_admin", ADMIN)
    before = await world.http.create(alice, [("cup", 1)])
    watch, second, his = await _begun(world, alice), await _begun(world, alice), await _begun(world, bob)
    order = await world.http.create(alice, [("cup", 1)])
    assert await _order(watch) == (order["id"], PLACED)
    await world.grpc.confirm(admin, order["id"])
    assert await _order(watch) == (order["id"], CONFIRMED)
    await world.http.cancel(alice, before["id"])
    assert await _order(watch) == (before["id"], CANCELLED), "also one that was there before"
    bobs = await world.http.create(bob, [("cup", 1)])
    assert await _order(his) == (bobs["id"], PLACED), "and of the three before it, none"
    shown: dict[str, int] = {}  # the second did not read meanwhile, and ends where the first did
    while shown != {order["id"]: CONFIRMED, before["id"]: CANCELLED}:
        shown |= dict([await _order(second)])
    for each in (watch, second, his):
        each.cancel()
    gauge = world.service.metrics.registry.get_sample_value

    async def closed() -> bool:
        return gauge("orders_watches") == 0

    await eventually(closed, within=10)


async def test_whoever_may_not_read_or_is_no_person_watches_nothing(world: OrdersUnderTest) -> None:
    for token, reason in (
        ("", "TOKEN_MISSING"),
        (world.token(scope="orders:write"), "INSUFFICIENT_SCOPE"),
        (world.mint.service_token(AUDIENCE, scope="orders:read"), "PERSON_REQUIRED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await _read(world.grpc.watch(token))
        assert refused_by_grpc(failed.value).reason == reason
    world.revoke(Entry("subject", "usr_alice", 2))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _read(world.grpc.watch(world.token()))
    assert refused_by_grpc(failed.value).reason == "TOKEN_REVOKED"


async def test_one_person_has_so_many_watches_and_no_more(world: OrdersUnderTest) -> None:
    alice = world.token()
    watches = [await _begun(world, alice) for _ in range(20)]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _read(world.grpc.watch(alice))
    refused = refused_by_grpc(failed.value)
    assert (refused.reason, refused.code) == ("TOO_MANY_WATCHES", grpc.StatusCode.RESOURCE_EXHAUSTED)
    await _begun(world, world.token("usr_bob"))
    watches.pop().cancel()

    async def let_in() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):
            watches.append(await _begun(world, alice))
            return True
        return False

    await eventually(let_in, within=10)
    assert len(watches) == 20


async def test_a_server_that_stops_sends_its_watchers_elsewhere(world: OrdersUnderTest) -> None:
    watch = await _begun(world, world.token())
    world.service.stop()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _read(watch)
    assert (refused_by_grpc(failed.value).reason, failed.value.code()) == (
        "SERVER_STOPPING",
        grpc.StatusCode.UNAVAILABLE,
    )
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _read(world.grpc.watch(world.token()))
    assert refused_by_grpc(failed.value).reason == "SERVER_STOPPING"


async def test_what_one_replica_changes_the_other_shows(database_url: str, embedded_redis_url: str) -> None:
    wakeups = [RedisWakeups(embedded_redis_url) for _ in range(2)]
    async with replicas(database_url, *wakeups) as (here, there):
        alice = here.token()
        watches = [await _begun(world, alice) for world in (here, there)]
        for world in (here, there, here):
            order = await world.http.create(alice, [("cup", 1)])
            for watch in watches:
                assert await _order(watch) == (order["id"], PLACED)
        await there.http.cancel(alice, order["id"])
        for watch in watches:
            assert await _order(watch) == (order["id"], CANCELLED)


async def test_what_no_wake_up_tells_of_is_found_by_looking(database_url: str) -> None:
    deaf = [MemoryWakeups([]) for _ in range(2)]  # they listen, and nobody is ever heard
    async with replicas(database_url, *deaf) as (here, there):
        alice = here.token()
        watch = await _begun(there, alice)
        order = await here.http.create(alice, [("cup", 1)])
        assert await _order(watch) == (order["id"], PLACED)


async def test_without_redis_a_watch_goes_on(database_url: str) -> None:
    nowhere = [RedisWakeups("redis://127.0.0.1:1/0") for _ in range(2)]
    async with replicas(database_url, *nowhere) as (here, there):
        alice = here.token()
        watch = await _begun(there, alice)
        order = await here.http.create(alice, [("cup", 1)])
        assert await _order(watch) == (order["id"], PLACED)
        # Here it is known at once; it is not shown a second time when it is found by looking.
        own = await _begun(here, alice)
        again = await here.http.create(alice, [("cup", 1)])
        assert await _order(own) == (again["id"], PLACED)
        last = await there.http.create(alice, [("cup", 1)])
        assert await _order(own) == (last["id"], PLACED)


async def test_a_forged_hint_shows_nobody_anything(database_url: str) -> None:
    queues: Queues = []
    one, other = MemoryWakeups(queues), MemoryWakeups(queues)
    async with replicas(database_url, one, other) as (here, there):
        alice, bob = here.token(), here.token("usr_bob")
        bobs = await here.http.create(bob, [("cup", 1)])
        watch = await _begun(there, alice)
        await one.send([Hint("usr_alice", bobs["id"])])  # type: ignore[arg-type]
        hers = await here.http.create(alice, [("cup", 1)])
        assert await _order(watch) == (hers["id"], PLACED)
