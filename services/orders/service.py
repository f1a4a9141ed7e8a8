"""What people can do with orders. REST and gRPC say the same, because both end here."""

import base64
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from eventlog import Outbox
from orders import storage
from orders.domain import (
    InvalidOrder,
    Item,
    Line,
    NotPossible,
    Order,
    OrderId,
    OutOfStock,
    Owner,
    Product,
    Status,
    UnknownSku,
    checked,
    checked_key,
    fingerprint,
    is_order_id,
    put_back,
    reserve,
)
from orders.events import tell
from orders.paging import Page, checked_size, invalid, orders_before, page_of, products_after
from rescind import Principal
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

ADMIN = "orders:admin"  # the scope
Changed = Callable[[Order], None]  # told of an order that was changed, after the commit, in the event loop
_REASONS = {
    Status.CONFIRMED: "ORDER_NOT_CONFIRMABLE",
    Status.SHIPPED: "ORDER_NOT_SHIPPABLE",
    Status.DELIVERED: "ORDER_NOT_DELIVERABLE",
    Status.CANCELLED: "ORDER_NOT_CANCELLABLE",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the `sub` of a verified token, whether that is a person, and whether they see everyone's orders."""

    subject: Owner
    is_person: bool
    sees_all: bool = False


def caller_of(principal: Principal) -> Caller:
    """Who a verified token speaks for, in this service's words."""
    return Caller(Owner(principal.subject), principal.is_user, ADMIN in principal.scopes)


def new_order_id() -> OrderId:
    """128 random bits: nobody guesses another order's id, though guessing it would not help."""
    return OrderId("ord_" + base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode())


ANY = "*"  # in a precondition: whatever etag there is


@dataclass(frozen=True, slots=True)
class Precondition:
    """What a caller has seen, and whether it must still be so (RFC 9110 section 13.1); by itself it asks for nothing.

    One of `match` must hold, and none of `none_match` may. What does not exist has the etag "", which nothing equals.
    """

    match: Collection[str] | None = None
    none_match: Collection[str] = ()

    def check(self, etag: str) -> None:
        """Passes when a change may be made.

        Raises:
            ServiceError: ETAG_MISMATCH, ETAG_MATCH.
        """
        self.check_match(etag)
        if self.holds(etag):
            raise ServiceError(Kind.PRECONDITION, "ETAG_MATCH", "There is one, and you asked for none like it.")

    def check_match(self, etag: str) -> None:
        """Passes when it is still as the caller says.

        Raises:
            ServiceError: ETAG_MISMATCH.
        """
        if self.match is not None and not _among(etag, self.match):
            raise ServiceError(Kind.PRECONDITION, "ETAG_MISMATCH", "It has changed since you looked. Look again.")

    def holds(self, etag: str) -> bool:
        """Whether the caller holds this one already, and need not be shown it."""
        return _among(etag, self.none_match)


UNCONDITIONAL = Precondition()


def _among(etag: str, etags: Collection[str]) -> bool:
    return bool(etag) and (etag in etags or ANY in etags)


class Orders:
    """The use cases. Each is one transaction, and each change tells one event in it."""

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        *,
        changed: Changed = lambda _order: None,
        new_id: Callable[[], OrderId] = new_order_id,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._changed = changed
        self._new_id = new_id

    async def place(self, caller: Caller, items: Sequence[Item], key: str = "") -> Order:
        """Places an order and sets its stock aside. With a `key` the same call may be repeated: the order is placed
        once, the answer is the same.

        Raises:
            ServiceError: VALIDATION_FAILED, PERSON_REQUIRED, UNKNOWN_SKU, OUT_OF_STOCK, IDEMPOTENCY_KEY_REUSED (for
                another order).
        """
        if not caller.is_person:
            raise ServiceError(Kind.FORBIDDEN, "PERSON_REQUIRED", "An order belongs to a person; a client has none.")
        try:
            wanted = checked(items)
            key = checked_key(key) if key else ""
        except InvalidOrder as error:
            raise invalid(error.fields) from error
        asked_for = fingerprint(wanted)

        def work(tx: Connection) -> tuple[Order, bool]:
            shelf = storage.shelf(tx, (item.sku for item in wanted))
            # Looked up behind the shelf's lock: whoever sends the same again waits there for the first to commit.
            if key and (earlier := _placed_before(tx, caller.subject, key, asked_for)):
                return earlier, False
            lines, left = _reserved(wanted, shelf)
            now = self._database.now(tx)
            order = Order(self._new_id(), caller.subject, Status.PLACED, lines, created_at=now, updated_at=now)
            if not storage.add(tx, order, key or None, asked_for):  # the same key, for other things, a moment before
                raise _key_reused()
            storage.restock(tx, left)
            tell(self._outbox, tx, order, caller.subject)
            return order, True

        order, is_new = await self._database.run(work)
        if is_new:
            self._changed(order)
        return order

    async def get(self, caller: Caller, order_id: str) -> Order:
        """One order.

        Raises:
            ServiceError: ORDER_NOT_FOUND, also when it is somebody else's: whether it exists is none of the caller's
                business.
        """
        return await self._database.read(lambda tx: _visible(tx, caller, order_id))

    async def list_own(self, caller: Caller, page_size: int = 0, page_token: str = "") -> Page[Order]:
        """The caller's own orders, newest first. Orders placed meanwhile shift nothing: a page goes on where the last
        one ended.

        Raises:
            ServiceError: BAD_PAGE_TOKEN, VALIDATION_FAILED.
        """
        size, before = checked_size(page_size), orders_before(page_token)
        return page_of(await self._database.read(lambda tx: storage.newest(tx, caller.subject, size + 1, before)), size)

    async def list_products(self, page_size: int = 0, page_token: str = "") -> Page[Product]:
        """What can be ordered, by sku.

        Raises:
            ServiceError: BAD_PAGE_TOKEN, VALIDATION_FAILED.
        """
        size, after = checked_size(page_size), products_after(page_token)
        return page_of(await self._database.read(lambda tx: storage.catalogue(tx, size + 1, after)), size)

    async def cancel(self, caller: Caller, order_id: str, only_if: Precondition = UNCONDITIONAL) -> Order:
        """Cancels an order, once, if `only_if` holds; its stock is free again.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ETAG_MATCH, ORDER_NOT_CANCELLABLE; nothing was changed.
        """
        return await self.advance(caller, order_id, Status.CANCELLED, only_if)

    async def advance(
        self, caller: Caller, order_id: str, status: Status, only_if: Precondition, *, tracking_number: str = ""
    ) -> Order:
        """Brings an order into its next state, if `only_if` holds. Of many at once, one does.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ETAG_MATCH, or ORDER_NOT_... by `status`; nothing was changed.
        """

        def work(tx: Connection) -> Order:
            order = _visible(tx, caller, order_id, lock=True)
            only_if.check(order.etag)
            try:
                changed = order.become(status, self._database.now(tx), tracking_number=tracking_number)
            except NotPossible as error:
                raise ServiceError(Kind.CONFLICT, _REASONS[status], f"The order is {error.status.value}.") from error
            if status is Status.CANCELLED:
                storage.restock(tx, put_back(order.lines, storage.shelf(tx, (line.sku for line in order.lines))))
            storage.change(tx, changed)
            tell(self._outbox, tx, changed, caller.subject)
            return changed

        order = await self._database.run(work)
        self._changed(order)
        return order


def _visible(tx: Connection, caller: Caller, order_id: str, *, lock: bool = False) -> Order:
    order = storage.find(tx, OrderId(order_id), lock=lock) if is_order_id(order_id) else None
    if order is None or not (order.owner == caller.subject or caller.sees_all):
        raise ServiceError(Kind.NOT_FOUND, "ORDER_NOT_FOUND", "There is no such order.")
    return order


def _placed_before(tx: Connection, owner: Owner, key: str, asked_for: str) -> Order | None:
    found = storage.by_key(tx, owner, key)
    if found is None:
        return None
    earlier, earlier_asked_for = found
    if earlier_asked_for != asked_for:
        raise _key_reused()
    return earlier.as_placed()


def _reserved(wanted: Sequence[Item], shelf: dict[str, Product]) -> tuple[tuple[Line, ...], tuple[Product, ...]]:
    try:
        return reserve(wanted, shelf)
    except UnknownSku as error:
        raise invalid(error.fields, "UNKNOWN_SKU") from error
    except OutOfStock as error:
        detail = f"There is not enough: {'; '.join(error.fields.values())}."
        raise ServiceError(Kind.CONFLICT, "OUT_OF_STOCK", detail, fields=error.fields) from error
    except InvalidOrder as error:
        raise invalid(error.fields) from error


def _key_reused() -> ServiceError:
    return ServiceError(Kind.UNPROCESSABLE, "IDEMPOTENCY_KEY_REUSED", "This key was used before, for another order.")
