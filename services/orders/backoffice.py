"""What the shop does: orders on their way, and what is on the shelf. Everything here needs orders:admin."""

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Connection

from orders import storage
from orders.domain import InvalidOrder, Order, Product, Status, checked_product, checked_tracking_number
from orders.paging import Page, checked_size, invalid, orders_before, page_of
from orders.service import UNCONDITIONAL, Caller, Orders, Precondition
from servicekit.database import Database


class BackOffice:
    """The use cases of whoever works here. `only_if` is as in `Orders.cancel`."""

    def __init__(self, database: Database, orders: Orders) -> None:
        self._database = database
        self._orders = orders

    async def confirm(self, caller: Caller, order_id: str, only_if: Precondition = UNCONDITIONAL) -> Order:
        """Accepts an order.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ETAG_MATCH, ORDER_NOT_CONFIRMABLE.
        """
        return await self._orders.advance(caller, order_id, Status.CONFIRMED, only_if)

    async def ship(
        self, caller: Caller, order_id: str, tracking_number: str = "", only_if: Precondition = UNCONDITIONAL
    ) -> Order:
        """Sends an order on its way; `tracking_number` is empty when it cannot be followed.

        Raises:
            ServiceError: VALIDATION_FAILED, ORDER_NOT_FOUND, ETAG_MISMATCH, ETAG_MATCH, ORDER_NOT_SHIPPABLE.
        """
        try:
            number = checked_tracking_number(tracking_number)
        except InvalidOrder as error:
            raise invalid(error.fields) from error
        return await self._orders.advance(caller, order_id, Status.SHIPPED, only_if, tracking_number=number)

    async def deliver(self, caller: Caller, order_id: str, only_if: Precondition = UNCONDITIONAL) -> Order:
        """Notes that an order arrived.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ETAG_MATCH, ORDER_NOT_DELIVERABLE.
        """
        return await self._orders.advance(caller, order_id, Status.DELIVERED, only_if)

    async def list_all(
        self, page_size: int = 0, page_token: str = "", statuses: Collection[Status] = ()
    ) -> Page[Order]:
        """Everybody's orders, newest first; those in one of `statuses`, or all.

        Raises:
            ServiceError: BAD_PAGE_TOKEN, VALIDATION_FAILED.
        """
        size, before = checked_size(page_size), orders_before(page_token)
        found = await self._database.read(lambda tx: storage.newest(tx, None, size + 1, before, statuses))
        return page_of(found, size)

    async def put_product(self, product: Product, only_if: Precondition = UNCONDITIONAL) -> tuple[Product, bool]:
        """Adds a product, or changes its name, price and stock, if `only_if` holds; tells whether it is new.

        Orders that were placed keep their price.

        Raises:
            ServiceError: VALIDATION_FAILED, ETAG_MISMATCH (also when there is none yet), ETAG_MATCH.
        """
        try:
            wanted = replace(checked_product(product), version=1)
        except InvalidOrder as error:
            raise invalid(error.fields) from error

        def work(tx: Connection) -> tuple[Product, bool]:
            before = storage.shelf(tx, [wanted.sku]).get(wanted.sku)
            if before is None:
                only_if.check("")
                if storage.add_product(tx, wanted):
                    return wanted, True
                before = storage.shelf(tx, [wanted.sku])[wanted.sku]  # somebody was quicker
            only_if.check(before.etag)
            changed = replace(wanted, version=before.version + 1)
            storage.put_product(tx, changed)
            return changed, False

        return await self._database.run(work)
