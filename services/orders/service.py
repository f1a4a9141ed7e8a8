"""The four things that can be done with orders. REST and gRPC say the same, because both end here."""

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from orders import storage
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
from rescind import Principal
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

ADMIN = "orders:admin"  # the scope
DEFAULT_PAGE = 20
LARGEST_PAGE = 100
_CURSOR = re.compile(r"1\.(0|[1-9][0-9]{0,15})\.(ord_[A-Za-z0-9_-]{22})")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the `sub` of a verified token, whether that is a person, and whether they see everyone's orders."""

    subject: Owner
    is_person: bool
    sees_all: bool = False


def caller_of(principal: Principal) -> Caller:
    """Who a verified token speaks for, in this service's words."""
    return Caller(Owner(principal.subject), principal.is_user, ADMIN in principal.scopes)


@dataclass(frozen=True, slots=True)
class Page:
    """Some orders, newest first; `next_page_token` is empty on the last page."""

    orders: tuple[Order, ...]
    next_page_token: str


def new_order_id() -> OrderId:
    """128 random bits: nobody guesses another order's id, though guessing it would not help."""
    return OrderId("ord_" + base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode())


class Orders:
    """The use cases. Each is one transaction."""

    def __init__(self, database: Database, *, new_id: Callable[[], OrderId] = new_order_id) -> None:
        self._database = database
        self._new_id = new_id

    async def place(self, caller: Caller, items: Sequence[Item], key: str = "") -> Order:
        """Places an order. With a `key` the same call may be repeated: it is placed once, the answer is the same.

        Raises:
            ServiceError: VALIDATION_FAILED, PERSON_REQUIRED, IDEMPOTENCY_KEY_REUSED (for another order).
        """
        if not caller.is_person:
            raise ServiceError(Kind.FORBIDDEN, "PERSON_REQUIRED", "An order belongs to a person; a client has none.")
        try:
            wanted = checked(items)
            key = checked_key(key) if key else ""
        except InvalidOrder as error:
            raise _invalid(error.fields) from error
        asked_for = fingerprint(wanted)

        def work(tx: Connection) -> Order:
            now = self._database.now(tx)
            order = Order(self._new_id(), caller.subject, Status.PLACED, wanted, created_at=now, updated_at=now)
            if storage.add(tx, order, key or None, asked_for):
                return order
            earlier, earlier_asked_for = storage.by_key(tx, caller.subject, key)
            if earlier_asked_for != asked_for:
                raise ServiceError(
                    Kind.UNPROCESSABLE, "IDEMPOTENCY_KEY_REUSED", "This key was used before, for another order."
                )
            return earlier.as_placed()

        return await self._database.run(work)

    async def get(self, caller: Caller, order_id: str) -> Order:
        """One order.

        Raises:
            ServiceError: ORDER_NOT_FOUND, also when it is somebody else's: whether it exists is none of the caller's
                business.
        """
        return await self._database.read(lambda tx: _visible(tx, caller, order_id))

    async def list_own(self, caller: Caller, page_size: int = 0, page_token: str = "") -> Page:
        """The caller's own orders, newest first. Orders placed meanwhile shift nothing: a page goes on where the last
        one ended.

        Raises:
            ServiceError: BAD_PAGE_TOKEN, VALIDATION_FAILED.
        """
        if not 0 <= page_size <= LARGEST_PAGE:
            raise _invalid({"page_size": f"must be 1 to {LARGEST_PAGE}"})
        size = page_size or DEFAULT_PAGE
        before = _read_cursor(page_token) if page_token else None
        found = await self._database.read(lambda tx: storage.newest(tx, caller.subject, size + 1, before))
        page = tuple(found[:size])
        return Page(page, _cursor(page[-1]) if len(found) > size else "")

    async def cancel(self, caller: Caller, order_id: str) -> Order:
        """Cancels an order, once.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ORDER_NOT_CANCELLABLE (it is cancelled already; nothing was changed).
        """

        def work(tx: Connection) -> Order:
            order = _visible(tx, caller, order_id, lock=True)
            try:
                cancelled = order.cancelled(self._database.now(tx))
            except NotCancellable as error:
                raise ServiceError(Kind.CONFLICT, "ORDER_NOT_CANCELLABLE", "The order is cancelled already.") from error
            storage.change(tx, cancelled)
            return cancelled

        return await self._database.run(work)


def _visible(tx: Connection, caller: Caller, order_id: str, *, lock: bool = False) -> Order:
    order = storage.find(tx, OrderId(order_id), lock=lock) if is_order_id(order_id) else None
    if order is None or not (order.owner == caller.subject or caller.sees_all):
        raise ServiceError(Kind.NOT_FOUND, "ORDER_NOT_FOUND", "There is no such order.")
    return order


def _invalid(fields: dict[str, str]) -> ServiceError:
    return ServiceError(
        Kind.INVALID, "VALIDATION_FAILED", "The request does not have the shape it must have.", fields=fields
    )


def _cursor(order: Order) -> str:
    """Where a page ended. Not secret and not signed: whose orders are listed comes from the caller's token alone."""
    return base64.urlsafe_b64encode(f"1.{order.created_at}.{order.id}".encode()).rstrip(b"=").decode()


def _read_cursor(page_token: str) -> tuple[int, OrderId]:
    try:
        text = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True).decode(
            "ascii"
        )
    except (binascii.Error, ValueError):
        text = ""
    found = _CURSOR.fullmatch(text)
    # Written back and compared: of all the spellings that decode to the same, only ours is accepted.
    if found is None or base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode() != page_token:
        raise ServiceError(Kind.INVALID, "BAD_PAGE_TOKEN", "Use next_page_token of the page before, unchanged.")
    return int(found[1]), OrderId(found[2])
