"""What orders refuses before it asks its database, the same over HTTP and gRPC."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from support.orders_wires import OrdersUnderTest, Wire, assert_refused, orders_under_test, refusal_of

ITEMS = [("teapot", 2), ("tea.sencha", 1)]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(f"sqlite:///{tmp_path_factory.mktemp('orders') / 'orders.db'}") as world:
        yield world


@pytest.fixture(params=["http", "grpc"])
def wire(request: pytest.FixtureRequest, world: OrdersUnderTest) -> Wire:
    return world.wire(request.param)


@pytest.mark.parametrize(
    ("items", "fields"),
    [
        ([], {"items"}),
        ([("a", 1)] * 101, {"items"}),
        ([("", 1)], {"items.0.sku"}),
        ([("a" * 65, 1)], {"items.0.sku"}),
        ([("a b", 1)], {"items.0.sku"}),
        ([("a\n", 1)], {"items.0.sku"}),
        ([("a\x00", 1)], {"items.0.sku"}),
        ([("é", 1)], {"items.0.sku"}),
        ([("a", 0)], {"items.0.quantity"}),
        ([("a", -1)], {"items.0.quantity"}),
        ([("a", 1001)], {"items.0.quantity"}),
        ([("a", 1), ("?", 0)], {"items.1.sku", "items.1.quantity"}),
    ],
)
async def test_what_cannot_be_ordered_is_told_by_field(
    world: OrdersUnderTest, wire: Wire, items: list[tuple[str, int]], fields: set[str]
) -> None:
    refused = await refusal_of(wire.create(world.token(), items))
    assert_refused(refused, "VALIDATION_FAILED", 400, grpc.StatusCode.INVALID_ARGUMENT)
    assert set(refused.fields) == fields
    assert (await wire.list_own(world.token()))["orders"] == []


@pytest.mark.parametrize(
    "page_token",
    ["x", "=", "MS4x", "!!!!", "MS4tMS5vcmRfQUFBQUFBQUFBQUFBQUFBQUFBQUFBQQ", "A" * 5000, "MS4x.orders", "é"],
)
async def test_a_page_token_of_somebodys_own_making_is_refused(
    world: OrdersUnderTest, wire: Wire, page_token: str
) -> None:
    refused = await refusal_of(wire.list_own(world.token(), 0, page_token))
    assert_refused(refused, "BAD_PAGE_TOKEN", 400, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("page_size", [-1, 101, 2**31 - 1])
async def test_a_page_has_one_to_a_hundred_orders(world: OrdersUnderTest, wire: Wire, page_size: int) -> None:
    refused = await refusal_of(wire.list_own(world.token(), page_size))
    assert_refused(refused, "VALIDATION_FAILED", 400, grpc.StatusCode.INVALID_ARGUMENT)
    assert set(refused.fields) == {"page_size"}


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    "more",
    [{"owner": "usr_bob"}, {"id": "ord_" + "A" * 22}, {"status": "cancelled"}, {"created_at": "2000-01-01T00:00:00Z"},
     {"items": [{"sku": "a", "quantity": 1, "price": 0}]}],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
async def test_nothing_but_what_may_be_asked_for_can_be_set(world: OrdersUnderTest, more: dict[str, Any]) -> None:
    body = {"items": [{"sku": "a", "quantity": 1}]} | more
    response = await world.http.client.post(
        "/v1/orders", json=body, headers={"authorization": f"Bearer {world.token()}"}
    )
    assert (response.status_code, response.json()["reason"]) == (400, "UNKNOWN_FIELD")
    assert (await world.http.list_own(world.token()))["orders"] == []


@pytest.mark.requirement(84)
@pytest.mark.parametrize("quantity", ['"1"', "1.0", "true", "null", "1e1", "9" * 30, "9" * 5000, "NaN", "[]"])
async def test_a_quantity_is_a_whole_number(world: OrdersUnderTest, quantity: str) -> None:
    headers = {"authorization": f"Bearer {world.token()}", "content-type": "application/json"}
    body = '{"items": [{"sku": "a", "quantity": ' + quantity + "}]}"
    response = await world.http.client.post("/v1/orders", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["reason"] in ("VALIDATION_FAILED", "JSON_MALFORMED")


@pytest.mark.requirement(84)
async def test_one_request_has_one_idempotency_key(world: OrdersUnderTest) -> None:
    for keys in (["a", "b"], [""]):
        headers = [("authorization", f"Bearer {world.token()}"), *(("idempotency-key", key) for key in keys)]
        response = await world.http.client.post(
            "/v1/orders", json={"items": [{"sku": "a", "quantity": 1}]}, headers=headers
        )
        assert (response.status_code, response.json()["reason"]) == (400, "IDEMPOTENCY_KEY_INVALID")


async def test_a_body_too_large_is_refused_before_it_is_read(world: OrdersUnderTest) -> None:
    headers = {"authorization": f"Bearer {world.token()}", "content-type": "application/json"}
    response = await world.http.client.post("/v1/orders", content=b"[" * 70_000, headers=headers)
    assert (response.status_code, response.json()["reason"]) == (413, "BODY_TOO_LARGE")
