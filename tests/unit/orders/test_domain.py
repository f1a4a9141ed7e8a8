"""What an order is, without any machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.domain import (
    InvalidOrder,
    Item,
    NotCancellable,
    Order,
    OrderId,
    Owner,
    Status,
    checked,
    checked_key,
    fingerprint,
    is_order_id,
)
from orders.service import new_order_id

ORDER = Order(OrderId("ord_1"), Owner("usr_alice"), Status.PLACED, (Item("a", 1),), created_at=100, updated_at=100)
SKU_LETTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
SKUS = st.text(max_size=3) | st.text("aZ9._-", min_size=1, max_size=3)
ITEMS = st.lists(st.builds(Item, SKUS, st.integers() | st.integers(1, 1000)), max_size=4)


def test_cancelling_changes_status_and_time_and_nothing_else() -> None:
    cancelled = ORDER.cancelled(200)
    assert (cancelled.status, cancelled.updated_at) == (Status.CANCELLED, 200)
    assert cancelled.as_placed() == ORDER
    assert ORDER.status is Status.PLACED


def test_a_cancelled_order_is_not_cancelled_again() -> None:
    with pytest.raises(NotCancellable):
        ORDER.cancelled(200).cancelled(300)


def test_a_clock_set_back_does_not_undo_time() -> None:
    assert ORDER.cancelled(50).updated_at == 100


@given(ITEMS)
def test_what_can_be_ordered_is_not_altered_and_what_cannot_is_named(items: list[Item]) -> None:
    def possible(item: Item) -> bool:
        return 1 <= len(item.sku) <= 64 and set(item.sku) <= SKU_LETTERS and 1 <= item.quantity <= 1000

    if items and all(possible(item) for item in items):
        assert list(checked(items)) == items
    else:
        with pytest.raises(InvalidOrder) as refused:
            checked(items)
        named = {int(name.split(".")[1]) for name in refused.value.fields if "." in name}
        assert named == {index for index, item in enumerate(items) if not possible(item)}


@given(ITEMS, ITEMS)
def test_the_fingerprint_tells_requests_apart(one: list[Item], other: list[Item]) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)


def test_the_fingerprint_is_not_fooled_by_what_runs_together() -> None:
    pairs = [([Item("a", 11)], [Item("a1", 1)]), ([Item("a", 1), Item("b", 1)], [Item("b", 1), Item("a", 1)])]
    assert all(fingerprint(one) != fingerprint(other) for one, other in pairs)


@pytest.mark.parametrize("key", ["x", "x" * 255, "8e03978e-40d5-43e8-bc93-6894a57f9324", "with space ~!"])
def test_a_printable_key_is_taken_as_it_is(key: str) -> None:
    assert checked_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "é", "a\nb", "\x00", "a\n"])
def test_any_other_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidOrder):
        checked_key(key)


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_order_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_order_id(order_id) for order_id in ids)
