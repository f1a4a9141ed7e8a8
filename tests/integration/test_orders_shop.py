"""The shop: stock that is never sold twice, states, etags, and the back office; over HTTP and gRPC alike."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orders.app import AUDIENCE
from rescind.messages import Entry
from support.orders_wires import ADMIN, BOTH, OrdersUnderTest, Refused, Wire, orders_under_test

CAKE = "tea.pu-erh-1988"  # five in stock
ABORTED = grpc.StatusCode.ABORTED
INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
POT = {"sku": "pot", "name": "A pot", "price": {"minor_units": 100, "currency": "EUR"}, "stock": 7}


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(database_url) as world:
        yield world


@pytest.fixture(params=["http", "grpc"])
def wire(request: pytest.FixtureRequest, world: OrdersUnderTest) -> Wire:
    return world.wire(request.param)


async def _refused(call: Any, reason: str, http: int, code: grpc.StatusCode) -> Refused:
    with pytest.raises(Refused) as refused:
        await call
    assert refused.value.reason == reason
    assert (refused.value.http, refused.value.code) in ((http, None), (None, code))
    return refused.value


async def _stock(world: OrdersUnderTest, wire: Wire) -> dict[str, int]:
    page = await wire.products(world.token(), 100)
    return {product["sku"]: product["stock"] for product in page["products"]}


@pytest.mark.requirement(83)
async def test_of_twenty_who_want_the_last_five_exactly_five_get_one(world: OrdersUnderTest, wire: Wire) -> None:
    people = [world.token(f"usr_{number}") for number in range(20)]
    results = await asyncio.gather(*(wire.create(who, [(CAKE, 1)]) for who in people), return_exceptions=True)
    placed = [result for result in results if isinstance(result, dict)]
    assert len(placed) == 5
    for result in results:
        if isinstance(result, Refused):
            assert (result.reason, result.fields) == (
                "OUT_OF_STOCK",
                {"items.0.quantity": f"of {CAKE} there are 0 left"},
            )
            assert (result.http, result.code) in ((409, None), (None, ABORTED))
        else:
            assert isinstance(result, dict), result
    assert (await _stock(world, wire))[CAKE] == 0
    one = next(n for n, result in enumerate(results) if isinstance(result, dict))
    await wire.cancel(people[one], results[one]["id"])  # type: ignore[index]
    assert (await _stock(world, wire))[CAKE] == 1
    await wire.create(people[0], [(CAKE, 1)])


@pytest.mark.requirement(83)
async def test_orders_for_the_same_things_in_any_order_and_cancellations_never_lock_each_other_out(
    world: OrdersUnderTest, wire: Wire
) -> None:
    skus = ["cup", "honey", "infuser", "kettle", "teapot"]
    before = await _stock(world, wire)
    chance = random.Random(4711)

    async def shop(person: int) -> None:
        token = world.token(f"usr_{person}")
        for _ in range(3):
            order = await wire.create(token, [(sku, 2) for sku in chance.sample(skus, 4)])
            await wire.cancel(token, order["id"])

    await asyncio.gather(*(shop(person) for person in range(12)))
    assert await _stock(world, wire) == before


async def test_an_order_that_cannot_be_filled_takes_nothing(world: OrdersUnderTest, wire: Wire) -> None:
    before = await _stock(world, wire)
    alice = world.token()
    refused = await _refused(wire.create(alice, [("cup", 1), (CAKE, 6)]), "OUT_OF_STOCK", 409, ABORTED)
    assert refused.fields == {"items.1.quantity": f"of {CAKE} there are 5 left"}
    refused = await _refused(wire.create(alice, [(CAKE, 3), (CAKE, 3)]), "OUT_OF_STOCK", 409, ABORTED)
    assert set(refused.fields) == {"items.1.quantity"}
    refused = await _refused(wire.create(alice, [("cup", 1), ("cup.gold", 1)]), "UNKNOWN_SKU", 400, INVALID)
    assert refused.fields == {"items.1.sku": "is not in the catalogue"}
    assert await _stock(world, wire) == before
    assert (await wire.list_own(alice))["orders"] == []


async def test_a_repeated_request_takes_its_stock_once_even_when_there_is_no_more(
    world: OrdersUnderTest, wire: Wire
) -> None:
    alice = world.token()
    calls = [wire.create(alice, [(CAKE, 5)], "all of it") for _ in range(10)]
    orders = await asyncio.gather(*calls)
    assert all(order == orders[0] for order in orders)
    assert await wire.create(alice, [(CAKE, 5)], "all of it") == orders[0]
    await _refused(wire.create(alice, [(CAKE, 5)], "more"), "OUT_OF_STOCK", 409, ABORTED)


async def test_an_order_keeps_the_name_and_the_price_it_was_placed_at(world: OrdersUnderTest, wire: Wire) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    order = await wire.create(alice, [("cup", 3)])
    dearer = {"sku": "cup", "name": "Cup", "price": {"minor_units": 9999, "currency": "EUR"}, "stock": 10}
    await wire.put(admin, dearer)
    assert await wire.get(alice, order["id"]) == order
    assert order["total"] == {"minor_units": 3750, "currency": "EUR"}
    assert (await wire.create(alice, [("cup", 1)]))["total"]["minor_units"] == 9999
    swiss = dearer | {"price": {"minor_units": 5, "currency": "CHF"}}
    await wire.put(admin, swiss)
    refused = await _refused(wire.create(alice, [("cup", 1), ("teapot", 1)]), "VALIDATION_FAILED", 400, INVALID)
    assert refused.fields == {"items.1.sku": "is not priced in CHF"}


async def test_an_order_goes_its_way(world: OrdersUnderTest, wire: Wire) -> None:
    alice, admin = world.token(), world.token("usr_admin", "orders:admin")
    order = await wire.create(alice, [("cup", 1)])
    await _refused(wire.ship(admin, order["id"]), "ORDER_NOT_SHIPPABLE", 409, ABORTED)
    await _refused(wire.deliver(admin, order["id"]), "ORDER_NOT_DELIVERABLE", 409, ABORTED)
    confirmed = await wire.confirm(admin, order["id"], order["etag"])
    assert confirmed["status"] == "confirmed"
    await _refused(wire.confirm(admin, order["id"]), "ORDER_NOT_CONFIRMABLE", 409, ABORTED)
    shipped = await wire.ship(admin, order["id"], "1Z 999", confirmed["etag"])
    assert (shipped["status"], shipped["tracking_number"]) == ("shipped", "1Z 999")
    await _refused(wire.cancel(alice, order["id"]), "ORDER_NOT_CANCELLABLE", 409, ABORTED)
    delivered = await wire.deliver(admin, order["id"], shipped["etag"])
    assert (delivered["status"], delivered["tracking_number"]) == ("delivered", "1Z 999")
    assert await wire.get(alice, order["id"]) == delivered
    assert len({each["etag"] for each in (order, confirmed, shipped, delivered)}) == 4
    bad = await _refused(wire.ship(admin, order["id"], "x" * 65), "VALIDATION_FAILED", 400, INVALID)
    assert set(bad.fields) == {"tracking_number"}
    nothing = wire.confirm(admin, "ord_" + "A" * 22)
    await _refused(nothing, "ORDER_NOT_FOUND", 404, grpc.StatusCode.NOT_FOUND)


async def test_who_saw_an_older_order_changes_nothing(world: OrdersUnderTest, wire: Wire) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    order = await wire.create(alice, [("cup", 1)])
    confirmed = await wire.confirm(admin, order["id"], order["etag"])
    for stale in (order["etag"], '"999"', '"0"'):
        await _refused(wire.cancel(alice, order["id"], stale), "ETAG_MISMATCH", 412, ABORTED)
    assert await wire.get(alice, order["id"]) == confirmed
    assert (await wire.cancel(alice, order["id"], confirmed["etag"]))["status"] == "cancelled"
    # What came too late is told so before it is told that the state would not have allowed it either.
    await _refused(wire.confirm(admin, order["id"], order["etag"]), "ETAG_MISMATCH", 412, ABORTED)


@pytest.mark.requirement(83)
async def test_of_many_edits_of_one_order_at_once_one_wins(world: OrdersUnderTest, wire: Wire) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    order = await wire.create(alice, [("cup", 1)])
    edits = [wire.confirm(admin, order["id"], order["etag"]) for _ in range(8)]
    edits += [wire.cancel(alice, order["id"], order["etag"]) for _ in range(8)]
    results = await asyncio.gather(*edits, return_exceptions=True)
    won = [result for result in results if isinstance(result, dict)]
    assert len(won) == 1
    assert await wire.get(alice, order["id"]) == won[0]
    for result in results:
        if isinstance(result, Refused):
            assert result.reason == "ETAG_MISMATCH"
            assert (result.http, result.code) in ((412, None), (None, ABORTED))


@pytest.mark.requirement(67)
@pytest.mark.requirement(74)
async def test_the_back_office_is_for_those_who_work_there(world: OrdersUnderTest, wire: Wire) -> None:
    order = await wire.create(world.token(), [("cup", 1)])
    for token in (world.token(), world.token(scope="identity:admin"), world.mint.service_token(AUDIENCE, scope=BOTH)):
        for call in (
            wire.confirm(token, order["id"]),
            wire.ship(token, order["id"]),
            wire.deliver(token, order["id"]),
            wire.list_all(token),
            wire.put(token, POT),
        ):
            await _refused(call, "INSUFFICIENT_SCOPE", 403, DENIED)
    for call in (wire.confirm("", order["id"]), wire.list_all(""), wire.put("", POT), wire.products("")):
        await _refused(call, "TOKEN_MISSING", 401, grpc.StatusCode.UNAUTHENTICATED)
    await _refused(wire.products(world.token(scope="orders:admin")), "INSUFFICIENT_SCOPE", 403, DENIED)
    backoffice = world.mint.service_token(AUDIENCE, scope="orders:admin")
    assert (await wire.confirm(backoffice, order["id"]))["status"] == "confirmed"


@pytest.mark.requirement(75)
async def test_who_no_longer_works_there_is_out_at_once(world: OrdersUnderTest, wire: Wire) -> None:
    order = await wire.create(world.token(), [("cup", 1)])
    admin = world.token("usr_admin", ADMIN)
    await wire.confirm(admin, order["id"])
    world.revoke(Entry("subject", "usr_admin", 2, soft=True))  # what identity says when roles have changed
    await _refused(wire.ship(admin, order["id"]), "TOKEN_STALE", 401, grpc.StatusCode.UNAUTHENTICATED)
    refreshed = world.token("usr_admin", BOTH, gen=2)
    await _refused(wire.ship(refreshed, order["id"]), "INSUFFICIENT_SCOPE", 403, DENIED)
    assert (await wire.list_own(refreshed))["orders"] == []


async def test_the_back_office_sees_everybodys_orders_by_state(world: OrdersUnderTest, wire: Wire) -> None:
    admin = world.token("usr_admin", ADMIN)
    placed = [await wire.create(world.token(f"usr_{n}"), [("cup", 1)]) for n in range(5)]
    confirmed = await wire.confirm(admin, placed[2]["id"])
    seen, page_token = [], ""
    while True:
        page = await wire.list_all(admin, 2, page_token)
        seen += page["orders"]
        if not (page_token := page["next_page_token"]):
            break
    assert sorted(order["id"] for order in seen) == sorted(order["id"] for order in placed)
    assert (await wire.list_all(admin, statuses=["confirmed"]))["orders"] == [confirmed]
    assert len((await wire.list_all(admin, statuses=["confirmed", "placed"]))["orders"]) == 5
    assert (await wire.list_all(admin, statuses=["shipped"]))["orders"] == []
    await _refused(wire.list_all(admin, 101), "VALIDATION_FAILED", 400, INVALID)
    await _refused(wire.list_all(admin, 0, "x"), "BAD_PAGE_TOKEN", 400, INVALID)


async def test_a_product_is_put_changed_and_ordered(world: OrdersUnderTest, wire: Wire) -> None:
    alice, admin = world.token(), world.token("usr_admin", ADMIN)
    await _refused(wire.put(admin, POT, '"1"'), "ETAG_MISMATCH", 412, ABORTED)
    made = await wire.put(admin, POT)
    assert made == POT | {"etag": made["etag"]}
    changed = await wire.put(admin, POT | {"stock": 2}, made["etag"])
    assert (changed["stock"], changed["etag"] != made["etag"]) == (2, True)
    await _refused(wire.put(admin, POT, made["etag"]), "ETAG_MISMATCH", 412, ABORTED)
    await wire.create(alice, [("pot", 2)])
    await _refused(wire.put(admin, POT, changed["etag"]), "ETAG_MISMATCH", 412, ABORTED)
    await _refused(wire.create(alice, [("pot", 1)]), "OUT_OF_STOCK", 409, ABORTED)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"sku": "a b"}, {"sku"}),
        ({"name": ""}, {"name"}),
        ({"price": {"minor_units": -1, "currency": "EUR"}}, {"price.minor_units"}),
        ({"price": {"minor_units": 2**62, "currency": "euro"}}, {"price.minor_units", "price.currency"}),
        ({"stock": -1}, {"stock"}),
        ({"stock": 2**31 - 1}, {"stock"}),
    ],
)
async def test_what_cannot_be_sold_is_told_by_field(
    world: OrdersUnderTest, wire: Wire, change: dict[str, Any], fields: set[str]
) -> None:
    refused = await _refused(wire.put(world.token("usr_a", ADMIN), POT | change), "VALIDATION_FAILED", 400, INVALID)
    assert set(refused.fields) == fields


async def test_the_catalogue_comes_in_pages(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    whole = (await wire.products(alice))["products"]
    assert len(whole) == 12
    seen, page_token = [], ""
    while True:
        page = await wire.products(alice, 5, page_token)
        seen += page["products"]
        if not (page_token := page["next_page_token"]):
            break
    assert seen == whole
    own = (await wire.list_own(alice))["next_page_token"]
    assert own == ""
    for bad in ("x", "cC4", "cC4gYQ", "cC5hLg=="):
        await _refused(wire.products(alice, 1, bad), "BAD_PAGE_TOKEN", 400, INVALID)
