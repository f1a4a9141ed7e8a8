"""What an order is, without any machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.domain import (
    MAX_ITEMS,
    MAX_PRICE,
    MAX_QUANTITY,
    MAX_STOCK,
    NEXT,
    InvalidOrder,
    Item,
    Line,
    Money,
    NotPossible,
    Order,
    OrderId,
    OutOfStock,
    Owner,
    Product,
    Sku,
    Status,
    UnknownSku,
    checked,
    checked_key,
    checked_product,
    checked_tracking_number,
    fingerprint,
    is_order_id,
    put_back,
    reserve,
)
from orders.service import new_order_id

ORDER = Order(
    OrderId("ord_1"),
    Owner("usr_alice"),
    Status.PLACED,
    (Line("a", 2, "A", Money(150, "EUR")), Line("b", 1, "B", Money(5, "EUR"))),
    created_at=100,
    updated_at=100,
)
SKU_LETTERS = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
SKUS = st.text(max_size=3) | st.text("aZ9._-", min_size=1, max_size=3)
ITEMS = st.lists(st.builds(Item, SKUS, st.integers() | st.integers(1, 1000)), max_size=4)


# What follows what, said once more and in other words than the domain's.
PATHS = {
    Status.PLACED: [(), (Status.CONFIRMED,), (Status.CANCELLED,)],
    Status.CONFIRMED: [(Status.SHIPPED,), (Status.CANCELLED,)],
    Status.SHIPPED: [(Status.DELIVERED,)],
}


def test_a_change_changes_what_it_says_and_nothing_else() -> None:
    cancelled = ORDER.become(Status.CANCELLED, 200)
    assert (cancelled.status, cancelled.updated_at, cancelled.version) == (Status.CANCELLED, 200, 2)
    assert cancelled.as_placed() == ORDER
    assert cancelled.etag != ORDER.etag
    assert ORDER.status is Status.PLACED
    shipped = ORDER.become(Status.CONFIRMED, 200).become(Status.SHIPPED, 300, tracking_number="1Z 9")
    assert shipped.become(Status.DELIVERED, 400).tracking_number == "1Z 9"
    assert shipped.as_placed() == ORDER


@given(st.lists(st.tuples(st.sampled_from(Status), st.integers(0, 500)), max_size=8))
def test_an_order_goes_only_forward(wishes: list[tuple[Status, int]]) -> None:
    order, way = ORDER, [Status.PLACED]
    for wanted, at in wishes:
        allowed = (wanted,) in PATHS.get(order.status, [])
        assert allowed == (wanted in NEXT[order.status])
        if not allowed:
            with pytest.raises(NotPossible):
                order.become(wanted, at)
            continue
        changed = order.become(wanted, at)
        assert (changed.version, changed.lines) == (order.version + 1, order.lines)
        assert changed.updated_at == max(order.updated_at, at), "a clock set back does not undo time"
        order, way = changed, [*way, wanted]
    assert len(set(way)) == len(way), "no state comes twice"
    assert way[-1] is Status.CANCELLED or Status.CANCELLED not in way


def test_a_total_is_the_sum_of_the_lines() -> None:
    assert ORDER.total == Money(305, "EUR")
    old = Order(OrderId("o"), Owner("u"), Status.PLACED, (Line("a", 1),), created_at=1, updated_at=1)
    assert old.total is None


def test_the_dearest_order_fits_into_an_int64() -> None:
    item = Item("a", MAX_QUANTITY)
    shelf = {"a": Product(Sku("a"), "A", Money(MAX_PRICE, "EUR"), MAX_STOCK)}
    lines, _ = reserve([item] * MAX_ITEMS, shelf)
    total = Order(OrderId("o"), Owner("u"), Status.PLACED, lines, created_at=1, updated_at=1).total
    assert total is not None
    assert total.minor_units == MAX_ITEMS * MAX_QUANTITY * MAX_PRICE < 2**63


SHELVES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 12), min_size=1).map(
    lambda stock: {sku: Product(Sku(sku), sku.upper(), Money(7, "EUR"), left, 3) for sku, left in stock.items()}
)


@given(SHELVES, st.lists(st.builds(Item, st.sampled_from("abc"), st.integers(1, 6)), min_size=1, max_size=6))
def test_what_is_reserved_was_there_and_comes_back_whole(shelf: dict[str, Product], items: list[Item]) -> None:
    wanted = {sku: sum(item.quantity for item in items if item.sku == sku) for sku in {item.sku for item in items}}
    if not wanted.keys() <= shelf.keys():
        with pytest.raises(UnknownSku) as unknown:
            reserve(items, shelf)
        assert unknown.value.fields.keys() == {f"items.{n}.sku" for n, i in enumerate(items) if i.sku not in shelf}
        return
    if any(quantity > shelf[sku].stock for sku, quantity in wanted.items()):
        with pytest.raises(OutOfStock):
            reserve(items, shelf)
        return
    lines, left = reserve(items, shelf)
    assert [(line.sku, line.quantity) for line in lines] == [(item.sku, item.quantity) for item in items]
    assert {product.sku: product.stock for product in left} == {
        sku: shelf[sku].stock - quantity for sku, quantity in wanted.items()
    }
    assert all(product.stock >= 0 and product.etag != shelf[product.sku].etag for product in left)
    back = put_back(lines, {product.sku: product for product in left})
    assert {product.sku: product.stock for product in back} == {sku: shelf[sku].stock for sku in wanted}


def test_what_came_back_never_makes_more_than_a_shelf_holds() -> None:
    full = {"a": Product(Sku("a"), "A", Money(1, "EUR"), MAX_STOCK)}
    assert put_back([Line("a", 5), Line("gone", 1)], full)[0].stock == MAX_STOCK


def test_an_order_has_one_currency() -> None:
    shelf = {sku: Product(Sku(sku), sku, Money(1, c), 9) for sku, c in (("a", "EUR"), ("b", "CHF"))}
    with pytest.raises(InvalidOrder) as refused:
        reserve([Item("a", 1), Item("b", 1)], shelf)
    assert refused.value.fields == {"items.1.sku": "is not priced in EUR"}


GOOD = Product(Sku("a"), "A", Money(0, "EUR"), 0)


@pytest.mark.parametrize(
    ("product", "field"),
    [
        (Product(Sku("a b"), "A", Money(1, "EUR"), 1), "sku"),
        (Product(Sku("a"), " ", Money(1, "EUR"), 1), "name"),
        (Product(Sku("a"), "A\n", Money(1, "EUR"), 1), "name"),
        (Product(Sku("a"), "A" * 201, Money(1, "EUR"), 1), "name"),
        (Product(Sku("a"), "A", Money(-1, "EUR"), 1), "price.minor_units"),
        (Product(Sku("a"), "A", Money(MAX_PRICE + 1, "EUR"), 1), "price.minor_units"),
        (Product(Sku("a"), "A", Money(1, "eur"), 1), "price.currency"),
        (Product(Sku("a"), "A", Money(1, ""), 1), "price.currency"),
        (Product(Sku("a"), "A", Money(1, "EUR"), -1), "stock"),
        (Product(Sku("a"), "A", Money(1, "EUR"), MAX_STOCK + 1), "stock"),
    ],
)
def test_what_cannot_be_sold_is_told_by_field(product: Product, field: str) -> None:
    assert checked_product(GOOD) == GOOD
    with pytest.raises(InvalidOrder) as refused:
        checked_product(product)
    assert refused.value.fields.keys() == {field}


@pytest.mark.parametrize("number", ["x" * 65, "a\nb", "<b>", "é"])
def test_a_tracking_number_is_short_and_plain(number: str) -> None:
    assert checked_tracking_number("") == ""
    assert checked_tracking_number("1Z-999/AA 10.1_b") == "1Z-999/AA 10.1_b"
    with pytest.raises(InvalidOrder):
        checked_tracking_number(number)


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
