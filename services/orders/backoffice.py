"""What the shop does: orders on their way, and what is on the shelf. Everything here needs orders:admin."""

from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Connection

from orders import storage
from orders.domain import InvalidOrder, Order, Product, Status, checked_product, checked_tracking_number
from orders.paging import Page, checked_size, invalid, orders_before, page_of
from orders.service import ANY_ETAG, Caller, Orders, check_etag
from servicekit.database import Database


class BackOffice:
    """The use cases of whoever works here. `etags` are as in `Orders.cancel`."""

    def __init__(self, database: Database, orders: Orders) -> None:
        self._database = database
        self._orders = orders

    async def confirm(self, caller: Caller, order_id: str, etags: Collection[str] = ANY_ETAG) -> Order:
        """Accepts an order.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ORDER_NOT_CONFIRMABLE.
        """
        return await self._orders.advance(caller, order_id, Status.CONFIRMED, etags)

    async def ship(
        self, caller: Caller, order_id: str, tracking_number: str = "", etags: Collection[str] = ANY_ETAG
    ) -> Order:
        """Sends an order on its way; `tracking_number` is empty when it cannot be followed.

        Raises:
            ServiceError: VALIDATION_FAILED, ORDER_NOT_FOUND, ETAG_MISMATCH, ORDER_NOT_SHIPPABLE.
        """
        try:
            number = checked_tracking_number(tracking_number)
        except InvalidOrder as error:
            raise invalid(error.fields) from error
        return await self._orders.advance(caller, order_id, Status.SHIPPED, etags, tracking_number=number)

    async def deliver(self, caller: Caller, order_id: str, etags: Collection[str] = ANY_ETAG) -> Order:
        """Notes that an order arrived.

        Raises:
            ServiceError: ORDER_NOT_FOUND, ETAG_MISMATCH, ORDER_NOT_DELIVERABLE.
        """
        return await self._orders.advance(caller, order_id, Status.DELIVERED, etags)

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

    async def put_product(self, product: Product, etags: Collection[str] = ANY_ETAG) -> tuple[Product, bool]:
        """Adds a product, or changes its name, price and stock if it is still as one of `etags` says; tells whether it
        is new. Orders that were placed keep their price.

        Raises:
            ServiceError: VALIDATION_FAILED, ETAG_MISMATCH (also when there is none yet and `etags` names one).
        """
        try:
            wanted = replace(checked_product(product), version=1)
        except InvalidOrder as error:
            raise invalid(error.fields) from error

        def work(tx: Connection) -> tuple[Product, bool]:
            before = storage.shelf(tx, [wanted.sku]).get(wanted.sku)
            if before is None:
                check_etag("", etags)
                if storage.add_product(tx, wanted):
                    return wanted, True
                before = storage.shelf(tx, [wanted.sku])[wanted.sku]  # somebody was quicker
            check_etag(before.etag, etags)
            changed = replace(wanted, version=before.version + 1)
            storage.put_product(tx, changed)
            return changed, False

        return await self._database.run(work)
