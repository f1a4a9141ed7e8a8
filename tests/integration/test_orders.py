"""What orders promises, the same over HTTP and gRPC, on SQLite and PostgreSQL, behind real tokens."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orders.app import AUDIENCE
from rescind.messages import Entry
from support.orders_wires import BOTH, OrdersUnderTest, Refused, Wire, assert_refused, orders_under_test, refusal_of

ITEMS = [("teapot", 2), ("tea.sencha", 1)]


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(database_url) as world:
        yield world


@pytest.fixture(params=["http", "grpc"])
def wire(request: pytest.FixtureRequest, world: OrdersUnderTest) -> Wire:
    return world.wire(request.param)


def _eur(minor_units: int) -> dict[str, Any]:
    return {"minor_units": minor_units, "currency": "EUR"}


async def test_an_order_is_placed_seen_and_cancelled(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    order = await wire.create(alice, ITEMS)
    assert re.fullmatch(r"ord_[A-Za-z0-9_-]{22}", order["id"])
    assert (order["owner"], order["status"]) == ("usr_alice", "placed")
    assert order["items"] == [
        {"sku": "teapot", "quantity": 2, "name": "Teapot, cast iron, 0.8 l", "unit_price": _eur(5900)},
        {"sku": "tea.sencha", "quantity": 1, "name": "Sencha from Uji, 100 g", "unit_price": _eur(1480)},
    ]
    assert (order["total"], order["tracking_number"]) == (_eur(2 * 5900 + 1480), "")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", order["created_at"])
    assert order["updated_at"] == order["created_at"]
    assert await wire.get(alice, order["id"]) == order
    cancelled = await wire.cancel(alice, order["id"])
    changed = {name: cancelled[name] for name in ("updated_at", "etag")}
    assert cancelled == order | {"status": "cancelled"} | changed
    assert cancelled["etag"] != order["etag"]
    assert await wire.get(alice, order["id"]) == cancelled


async def test_both_wires_show_the_same_order(world: OrdersUnderTest) -> None:
    alice = world.token()
    order = await world.http.create(alice, ITEMS, "one-key")
    assert await world.grpc.get(alice, order["id"]) == order
    assert await world.grpc.create(alice, ITEMS, "one-key") == order
    assert (await world.grpc.list_own(alice))["orders"] == [order]


async def test_an_order_is_cancelled_once(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    order = await wire.create(alice, ITEMS)
    results = await asyncio.gather(*(wire.cancel(alice, order["id"]) for _ in range(10)), return_exceptions=True)
    refusals = [result for result in results if isinstance(result, Refused)]
    assert len(results) - len(refusals) == 1
    for refused in refusals:
        assert_refused(refused, "ORDER_NOT_CANCELLABLE", 409, grpc.StatusCode.ABORTED)


@pytest.mark.requirement(74)
async def test_another_persons_order_does_not_exist(world: OrdersUnderTest, wire: Wire) -> None:
    alice, bob = world.token("usr_alice"), world.token("usr_bob")
    order = await wire.create(alice, ITEMS)
    missing = await refusal_of(wire.get(bob, "ord_" + "A" * 22))
    for call in (wire.get(bob, order["id"]), wire.cancel(bob, order["id"])):
        refused = await refusal_of(call)
        assert_refused(refused, "ORDER_NOT_FOUND", 404, grpc.StatusCode.NOT_FOUND)
        assert (refused.reason, refused.fields) == (missing.reason, missing.fields)
    assert (await wire.list_own(bob))["orders"] == []
    assert (await wire.get(alice, order["id"]))["status"] == "placed"


@pytest.mark.requirement(74)
async def test_a_client_acting_for_itself_sees_nobodys_orders(world: OrdersUnderTest, wire: Wire) -> None:
    order = await wire.create(world.token(), ITEMS)
    client = world.mint.service_token(AUDIENCE, scope=BOTH)
    assert_refused(await refusal_of(wire.get(client, order["id"])), "ORDER_NOT_FOUND", 404, grpc.StatusCode.NOT_FOUND)
    assert_refused(
        await refusal_of(wire.create(client, ITEMS)), "PERSON_REQUIRED", 403, grpc.StatusCode.PERMISSION_DENIED
    )


async def test_the_admin_scope_opens_every_order_but_lists_only_ones_own(world: OrdersUnderTest, wire: Wire) -> None:
    order = await wire.create(world.token(), ITEMS)
    admin = world.token("usr_admin", f"{BOTH} orders:admin")
    backoffice = world.mint.service_token(AUDIENCE, scope="orders:read orders:admin")
    assert await wire.get(admin, order["id"]) == await wire.get(backoffice, order["id"]) == order
    assert (await wire.list_own(admin))["orders"] == []
    assert_refused(await refusal_of(wire.cancel(backoffice, order["id"])), "INSUFFICIENT_SCOPE", 403,
        grpc.StatusCode.PERMISSION_DENIED)  # fmt: skip
    assert (await wire.cancel(admin, order["id"]))["status"] == "cancelled"


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    ("scope", "may"),
    [("orders:read", {"get", "list_own"}), ("orders:write", {"create", "cancel"}), ("", set()),
     ("orders:admin", set()), ("openid profile notifications:read identity:admin", set()),
     ("orders:READ orders:writer xorders:read", set())],
)  # fmt: skip
async def test_each_call_needs_its_scope(world: OrdersUnderTest, wire: Wire, scope: str, may: set[str]) -> None:
    order = await wire.create(world.token(), ITEMS)
    token = world.token(scope=scope)
    calls = {
        "get": wire.get(token, order["id"]),
        "list_own": wire.list_own(token),
        "create": wire.create(token, ITEMS),
        "cancel": wire.cancel(token, order["id"]),
    }
    for name, call in calls.items():
        if name in may:
            await call
        else:
            refused = await refusal_of(call)
            assert_refused(refused, "INSUFFICIENT_SCOPE", 403, grpc.StatusCode.PERMISSION_DENIED)
            if refused.http:
                assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


@pytest.mark.requirement(70)
async def test_without_a_token_nothing_happens(world: OrdersUnderTest, wire: Wire) -> None:
    for call in (wire.create("", ITEMS), wire.get("", "x"), wire.list_own(""), wire.cancel("", "x")):
        refused = await refusal_of(call)
        assert_refused(refused, "TOKEN_MISSING", 401, grpc.StatusCode.UNAUTHENTICATED)
        if refused.http:
            assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement(70)
async def test_a_token_in_the_url_or_the_body_is_no_token(world: OrdersUnderTest) -> None:
    token, client = world.token(), world.http.client
    for query in ("access_token", "token", "authorization"):
        response = await client.get("/v1/orders", params={query: token})
        assert (response.status_code, response.json()["reason"]) == (401, "TOKEN_MISSING")
        response = await client.get("/v1/orders", params={query: token}, headers={"authorization": f"Bearer {token}"})
        assert (response.status_code, response.json()["reason"]) == (400, "UNKNOWN_PARAMETER")
    response = await client.post("/v1/orders", data={"access_token": token})
    assert response.status_code == 401
    response = await client.get("/v1/orders", headers={"cookie": f"access_token={token}"})
    assert response.status_code == 401


@pytest.mark.requirement(21)
@pytest.mark.parametrize(
    "entry",
    [Entry("token", "jti-of-it"), Entry("session", "sid_1"), Entry("grant", "gid_1"), Entry("subject", "usr_alice", 2),
     Entry("client", "mobile", 2)],
    ids=lambda entry: entry.kind,
)  # fmt: skip
async def test_a_revoked_token_is_refused_on_both_wires(world: OrdersUnderTest, entry: Entry) -> None:
    token = world.token(jti="jti-of-it")
    for wire in (world.http, world.grpc):
        await wire.list_own(token)
    world.revoke(entry)
    for wire in (world.http, world.grpc):
        refused = await refusal_of(wire.list_own(token))
        assert_refused(refused, "TOKEN_REVOKED", 401, grpc.StatusCode.UNAUTHENTICATED)
        if refused.http:
            assert 'error="invalid_token"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize(
    "order_id", ["x", "ord_", "ord_" + "A" * 21, "ord_" + "A" * 23, "ord_" + "A" * 21 + "%00", "'--"]
)
async def test_an_id_that_cannot_be_is_not_found(world: OrdersUnderTest, wire: Wire, order_id: str) -> None:
    refused = await refusal_of(wire.get(world.token(), order_id))
    assert_refused(refused, "ORDER_NOT_FOUND", 404, grpc.StatusCode.NOT_FOUND)


@pytest.mark.requirement(83)
async def test_twenty_at_once_with_one_key_place_one_order(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    placed = await asyncio.gather(*(wire.create(alice, ITEMS, "same") for _ in range(20)))
    assert all(order == placed[0] for order in placed)
    assert (await wire.list_own(alice))["orders"] == [placed[0]]


@pytest.mark.requirement(83)
async def test_of_twenty_different_orders_with_one_key_one_is_placed(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    calls = [wire.create(alice, [("cup", quantity)], "same") for quantity in range(1, 21)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    placed = [result for result in results if isinstance(result, dict)]
    assert (await wire.list_own(alice))["orders"] == placed
    assert len(placed) == 1
    for result in results:
        if isinstance(result, Refused):
            assert_refused(result, "IDEMPOTENCY_KEY_REUSED", 422, grpc.StatusCode.FAILED_PRECONDITION)
        else:
            assert result == placed[0]


async def test_a_key_holds_for_its_owner_alone_and_for_ever(world: OrdersUnderTest, wire: Wire) -> None:
    alice, bob = world.token("usr_alice"), world.token("usr_bob")
    first = await wire.create(alice, ITEMS, "k")
    other = await wire.create(bob, ITEMS, "k")
    assert (first["owner"], other["owner"]) == ("usr_alice", "usr_bob")
    assert first["id"] != other["id"]
    await wire.cancel(alice, first["id"])
    assert await wire.create(alice, ITEMS, "k") == first, "the answer to the request, not what became of the order"
    assert (await wire.get(alice, first["id"]))["status"] == "cancelled"
    without = [await wire.create(alice, ITEMS), await wire.create(alice, ITEMS)]
    assert len({order["id"] for order in without}) == 2


@pytest.mark.parametrize("key", ["x" * 256, "tab\there", "\x7f"])
async def test_a_key_that_cannot_be_is_refused(world: OrdersUnderTest, wire: Wire, key: str) -> None:
    refused = await refusal_of(wire.create(world.token(), ITEMS, key))
    assert_refused(refused, "VALIDATION_FAILED", 400, grpc.StatusCode.INVALID_ARGUMENT)
    assert set(refused.fields) == {"idempotency_key"}


async def test_pages_hold_every_order_once_while_others_are_placed(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    placed = [(await wire.create(alice, [("cup", number)]))["id"] for number in range(1, 8)]
    await wire.create(world.token("usr_bob"), ITEMS)
    seen: list[str] = []
    page_token = ""
    while True:
        page = await wire.list_own(alice, 3, page_token)
        seen += [order["id"] for order in page["orders"]]
        await wire.create(alice, [("tea.assam", 1)])
        page_token = page["next_page_token"]
        if not page_token:
            break
        assert len(page["orders"]) == 3
    assert sorted(seen) == sorted(placed)
    assert len((await wire.list_own(alice, 100))["orders"]) == 10


async def test_orders_of_one_millisecond_are_paged_without_loss(world: OrdersUnderTest, wire: Wire) -> None:
    alice = world.token()
    orders = await asyncio.gather(*(wire.create(alice, [("cup", number + 1)]) for number in range(25)))
    first = await wire.list_own(alice)
    assert len(first["orders"]) == 20
    rest = await wire.list_own(alice, 0, first["next_page_token"])
    assert rest["next_page_token"] == ""
    assert {order["id"] for order in first["orders"] + rest["orders"]} == {order["id"] for order in orders}
    exactly = await wire.list_own(alice, 25)
    assert exactly["next_page_token"] == ""


async def test_a_page_token_has_one_spelling_and_opens_only_ones_own(world: OrdersUnderTest, wire: Wire) -> None:
    alice, bob = world.token("usr_alice"), world.token("usr_bob")
    for number in range(3):
        await wire.create(alice, [("cup", number + 1)])
    page_token = (await wire.list_own(alice, 1))["next_page_token"]
    assert (await wire.list_own(bob, 1, page_token))["orders"] == []
    for spelling in (page_token + "=", page_token + "\n", page_token[:-1], page_token + "A", " " + page_token):
        assert_refused(
            await refusal_of(wire.list_own(alice, 1, spelling)), "BAD_PAGE_TOKEN", 400, grpc.StatusCode.INVALID_ARGUMENT
        )


@pytest.mark.requirement(40)
async def test_who_somebody_is_comes_from_the_token_alone(world: OrdersUnderTest) -> None:
    order = await world.http.create(world.token(), ITEMS)
    claims = {"x-user-id": "usr_alice", "x-forwarded-user": "usr_alice", "x-rescind-subject": "usr_alice"}
    headers = claims | {"authorization": f"Bearer {world.token('usr_bob')}"}
    response = await world.http.client.get(f"/v1/orders/{order['id']}", headers=headers)
    assert response.status_code == 404
