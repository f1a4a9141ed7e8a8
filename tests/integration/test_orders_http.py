"""What only HTTP has: conditional requests (RFC 9110), statuses, and bodies that say nothing twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.orders_wires import ADMIN, OrdersUnderTest, orders_under_test

POT: dict[str, Any] = {"name": "A pot", "price": {"minor_units": 100, "currency": "EUR"}, "stock": 7}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[OrdersUnderTest]:
    async with orders_under_test(f"sqlite:///{tmp_path / 'orders.db'}") as world:
        yield world


def _as(token: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in headers.items()}


async def test_an_order_that_the_caller_holds_is_not_sent_again(world: OrdersUnderTest) -> None:
    alice, client = world.token(), world.http.client
    placed = await client.post("/v1/orders", json={"items": [{"sku": "cup", "quantity": 1}]}, headers=_as(alice))
    etag, url = placed.headers["etag"], f"/v1/orders/{placed.json()['id']}"
    assert etag == placed.json()["etag"] == '"1"'
    for held in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = await client.get(url, headers=_as(alice, if_none_match=held))
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    cancelled = await client.post(f"{url}/cancel", headers=_as(alice, if_match=etag))
    assert cancelled.headers["etag"] == '"2"'
    answer = await client.get(url, headers=_as(alice, if_none_match=etag))
    assert (answer.status_code, answer.json()) == (200, cancelled.json())
    changed = await client.get(url, headers=_as(alice, if_match=etag))
    assert (changed.status_code, changed.json()["reason"]) == (412, "ETAG_MISMATCH")
    bob = await client.get(url, headers=_as(world.token("usr_bob"), if_none_match='"2"'))
    assert bob.status_code == 404


@pytest.mark.parametrize(
    ("if_match", "status"),
    [("*", 200), ('"1"', 200), ('"7" , "1"', 200), ('W/"1"', 412), ('"7"', 412), ("", 200),
     ("1", 400), ('"1', 400), ('"1" "2"', 400), ('"1",', 400), ("x" * 2000, 400), ('"é"', 412)],
)  # fmt: skip
async def test_if_match_is_compared_strongly(world: OrdersUnderTest, if_match: str, status: int) -> None:
    alice = world.token()
    order = await world.http.create(alice, [("cup", 1)])
    headers = [(name, value.encode("latin-1")) for name, value in _as(alice, if_match=if_match).items()]
    answer = await world.http.client.post(f"/v1/orders/{order['id']}/cancel", headers=headers)
    assert answer.status_code == status, answer.text
    reason = {412: "ETAG_MISMATCH", 400: "IF_MATCH_INVALID"}.get(status)
    assert answer.json().get("reason") == reason


async def test_nothing_is_changed_for_who_asked_for_none_like_it(world: OrdersUnderTest) -> None:
    alice = world.token()
    order = await world.http.create(alice, [("cup", 1)])
    for seen, status in (('"1"', 412), ('W/"1"', 412), ("*", 412), ("1", 400), ('"7"', 200)):
        headers = _as(alice, if_none_match=seen)
        answer = await world.http.client.post(f"/v1/orders/{order['id']}/cancel", headers=headers)
        assert answer.status_code == status
        reason = {412: "ETAG_MATCH", 400: "IF_NONE_MATCH_INVALID"}.get(status)
        assert answer.json().get("reason") == reason


async def test_a_product_is_only_added_or_only_changed_if_so_asked(world: OrdersUnderTest) -> None:
    admin, client = world.token("usr_admin", ADMIN), world.http.client
    none_yet = await client.put("/v1/products/pot", json=POT, headers=_as(admin, if_match="*"))
    assert (none_yet.status_code, none_yet.json()["reason"]) == (412, "ETAG_MISMATCH")
    adding = _as(admin, if_none_match="*")
    answers = await asyncio.gather(*[client.put("/v1/products/pot", json=POT, headers=adding) for _ in range(6)])
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * 5
    assert {answer.json().get("reason") for answer in answers} == {None, "ETAG_MATCH"}
    changed = await client.put("/v1/products/pot", json=POT, headers=_as(admin, if_match="*"))
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')


async def test_putting_a_product_says_whether_it_is_new(world: OrdersUnderTest) -> None:
    admin, client = world.token("usr_admin", ADMIN), world.http.client
    made = await client.put("/v1/products/pot", json=POT, headers=_as(admin))
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    again = await client.put("/v1/products/pot", json=POT, headers=_as(admin, if_match="*"))
    assert (again.status_code, again.headers["etag"]) == (200, '"2"')


@pytest.mark.requirement(84)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "/v1/products/pot", POT | {"etag": '"1"'}),
        ("PUT", "/v1/products/pot", POT | {"version": 9}),
        ("PUT", "/v1/products/pot", POT | {"price": {"minor_units": 1, "currency": "EUR", "discount": 1}}),
        ("POST", "/v1/orders/ord_AAAAAAAAAAAAAAAAAAAAAA/ship", {"tracking_number": "1", "status": "delivered"}),
    ],
)
async def test_nothing_else_can_be_set(world: OrdersUnderTest, method: str, path: str, body: dict[str, Any]) -> None:
    answer = await world.http.client.request(method, path, json=body, headers=_as(world.token("usr_admin", ADMIN)))
    assert (answer.status_code, answer.json()["reason"]) == (400, "UNKNOWN_FIELD")


@pytest.mark.requirement(84)
@pytest.mark.parametrize("query", ["status=lost", "status=placed,", "status=PLACED", "status=placed&status=shipped"])
async def test_a_list_by_state_names_states(world: OrdersUnderTest, query: str) -> None:
    answer = await world.http.client.get(f"/v1/admin/orders?{query}", headers=_as(world.token("usr_admin", ADMIN)))
    assert answer.status_code == 400
    assert answer.json()["reason"] in ("VALIDATION_FAILED", "REPEATED_PARAMETER")
