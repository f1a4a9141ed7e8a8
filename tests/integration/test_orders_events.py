"""What orders tells: one event for each change, in its transaction, and none for what did not happen."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from contracts.orders.v1 import events_pb2 as pb
from eventlog import Event, Stream
from eventlog.event import decoded, read_as
from eventlog.memory_stream import MemoryStream
from eventlog.redis_stream import RedisStream
from orders import storage
from orders.events import STREAM
from support.eventually import eventually
from support.orders_wires import ADMIN, OrdersUnderTest, Refused, orders_under_test

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(database_url, background=True) as world:
        yield world


async def _told(stream: Stream, count: int) -> list[Event]:
    """All that the stream holds, once it holds `count`."""
    group = stream.group("spy")
    await group.join()
    events: list[Event] = []

    async def enough() -> bool:
        events.extend(decoded(delivery.payload) for delivery in await group.read("spy", 10_000, 0))
        return len(events) >= count

    await eventually(enough, within=30)
    return events


async def _rows(world: OrdersUnderTest) -> int:
    query = select(func.count()).select_from(storage.outbox.events)
    return await world.database.read(lambda tx: int(tx.execute(query).scalar_one()))


async def test_every_change_of_an_order_is_told_once_and_in_order(world: OrdersUnderTest) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    order = await world.http.create(alice, [("teapot", 1), ("cup", 2)])
    other = await world.grpc.create(alice, [("cup", 1)])
    await world.http.confirm(admin, order["id"])
    await world.grpc.ship(admin, order["id"], "1Z 999")
    await world.http.deliver(admin, order["id"])
    await world.grpc.cancel(admin, other["id"])
    events = await _told(world.stream, 6)
    of_order = [event for event in events if event.aggregate == order["id"]]
    assert [(event.sequence, event.type.rpartition(".")[2]) for event in of_order] == [
        (1, "OrderPlaced"), (2, "OrderConfirmed"), (3, "OrderShipped"), (4, "OrderDelivered")
    ]  # fmt: skip
    placed = read_as(of_order[0], pb.OrderPlaced)
    assert (placed.order_id, placed.owner) == (order["id"], "usr_alice")
    assert [(line.sku, line.quantity, line.unit_price.minor_units) for line in placed.lines] == [
        ("teapot", 1, 5900), ("cup", 2, 1250)
    ]  # fmt: skip
    assert placed.lines[0].name == "Teapot, cast iron, 0.8 l"
    assert (placed.total.minor_units, placed.total.currency) == (8400, "EUR")
    assert read_as(of_order[2], pb.OrderShipped).tracking_number == "1Z 999"
    cancelled = read_as([event for event in events if event.aggregate == other["id"]][1], pb.OrderCancelled)
    assert (cancelled.owner, cancelled.cancelled_by) == ("usr_alice", "usr_admin")
    assert cancelled.reason == "CANCELLED_BY_SHOP"
    assert len({event.id for event in events}) == len(events) == await _rows(world) == 6


async def test_the_trace_of_the_request_goes_along(world: OrdersUnderTest) -> None:
    headers = {"authorization": f"Bearer {world.token()}", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    body = {"items": [{"sku": "cup", "quantity": 1}]}
    assert (await world.http.client.post("/v1/orders", json=body, headers=headers)).status_code == 201
    (event,) = await _told(world.stream, 1)
    assert event.traceparent.split("-")[1] == TRACE


@pytest.mark.requirement(83)
async def test_of_edits_at_once_only_the_one_that_won_is_told(world: OrdersUnderTest) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    order = await world.http.create(alice, [("cup", 1)])
    edits: list[Any] = [world.grpc.confirm(admin, order["id"], order["etag"]) for _ in range(6)]
    edits += [world.http.cancel(alice, order["id"]) for _ in range(6)]
    results = await asyncio.gather(*edits, return_exceptions=True)
    won = sum(isinstance(result, dict) for result in results)
    assert all(isinstance(result, dict | Refused) for result in results)
    assert won in (1, 2), "cancelled; or confirmed, and then cancelled by somebody who did not mind"
    events = await _told(world.stream, 1 + won)
    assert [event.sequence for event in events] == list(range(1, 2 + won))
    assert await _rows(world) == 1 + won


@pytest.mark.requirement(83)
async def test_a_request_sent_again_or_refused_tells_nothing(world: OrdersUnderTest) -> None:
    alice = world.token()
    await asyncio.gather(*(world.http.create(alice, [("cup", 1)], "k") for _ in range(10)))
    for call in (
        world.http.create(alice, [("cup", 2)], "k"),
        world.http.create(alice, [("tea.pu-erh-1988", 6)]),
        world.http.create(alice, [("unknown", 1)]),
        world.http.confirm(alice, "ord_" + "A" * 22),
    ):
        with pytest.raises(Refused):
            await call
    assert await _rows(world) == 1


async def test_without_redis_orders_are_taken_and_told_when_it_is_there(
    tmp_path: Path, embedded_redis_url: str
) -> None:
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    nowhere = RedisStream("redis://127.0.0.1:1/0", STREAM)
    async with orders_under_test(url, stream=nowhere, background=True) as world:
        alice = world.token()
        placed = [(await world.http.create(alice, [("cup", 1)]))["id"] for _ in range(3)]
        assert (await world.http.cancel(alice, placed[0]))["status"] == "cancelled"
    there = RedisStream(embedded_redis_url, STREAM)
    async with orders_under_test(url, stream=there, background=True) as world:
        events = await _told(there, 4)
        assert [event.aggregate for event in events] == [*placed, placed[0]]


async def test_two_replicas_tell_each_change_once(database_url: str) -> None:
    stream = MemoryStream(STREAM)
    async with (
        orders_under_test(database_url, stream=stream, background=True) as one,
        orders_under_test(database_url, mint=one.mint, log=one.log, stream=stream, background=True) as other,
    ):
        alice = one.token()
        both = [world.http.create(alice, [("cup", 1)]) for world in (one, other) for _ in range(15)]
        placed = await asyncio.gather(*both)
        events = await _told(stream, 30)
        assert sorted(event.aggregate for event in events) == sorted(order["id"] for order in placed)
