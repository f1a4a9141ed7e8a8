"""Orders over HTTP."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response

from orders.backoffice import BackOffice
from orders.bodies import (
    CreateOrderBody,
    OrderBody,
    PageBody,
    ProductBody,
    ProductPageBody,
    PutProductBody,
    ShipOrderBody,
    order_body,
    product_body,
    product_of,
)
from orders.domain import Item, Order, Status
from orders.etags import CONDITIONAL, OnlyIf
from orders.paging import Page, invalid
from orders.service import Orders, caller_of
from rescind import Principal
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, only_query

Authenticated = Callable[..., Any]  # a dependency that yields the Principal, or refuses
_no_query = Depends(only_query())
_paged = Depends(only_query("page_size", "page_token"))


@dataclass(frozen=True, slots=True)
class Entrances:
    """Who may read, write and administrate, and how stale an answer about that may be."""

    reader: Authenticated
    writer: Authenticated
    admin: Authenticated


def router(orders: Orders, backoffice: BackOffice, entrances: Entrances) -> APIRouter:
    """Every route. The token is judged before anything else of a request is."""
    routes = APIRouter(prefix="/v1", route_class=StrictRoute)
    _own_orders(routes, orders, Depends(entrances.reader), Depends(entrances.writer))
    _any_orders(routes, backoffice, Depends(entrances.admin))
    _products(routes, orders, backoffice, Depends(entrances.reader), Depends(entrances.admin))
    return routes


def _own_orders(routes: APIRouter, orders: Orders, may_read: Any, may_write: Any) -> None:
    @routes.post("/orders", tags=["orders"], status_code=201, dependencies=[may_write, _no_query])
    async def create(
        principal: Annotated[Principal, may_write],
        body: CreateOrderBody,
        key: Annotated[str, Depends(_idempotency_key)],
        response: Response,
    ) -> OrderBody:
        items = [Item(item.sku, item.quantity) for item in body.items]
        return _shown(await orders.place(caller_of(principal), items, key), response)

    @routes.get("/orders", tags=["orders"], dependencies=[may_read, _paged])
    async def list_own(principal: Annotated[Principal, may_read], page_size: int = 0, page_token: str = "") -> PageBody:
        return _page(await orders.list_own(caller_of(principal), page_size, page_token))

    @routes.get("/orders/{order_id}", tags=["orders"], dependencies=[may_read, _no_query], response_model=OrderBody)
    async def get(
        principal: Annotated[Principal, may_read], order_id: str, only_if: OnlyIf, response: Response
    ) -> OrderBody | Response:
        order = await orders.get(caller_of(principal), order_id)
        only_if.check_match(order.etag)
        if only_if.holds(order.etag):
            return Response(status_code=304, headers={"etag": order.etag})
        return _shown(order, response)

    @routes.post(
        "/orders/{order_id}/cancel", tags=["orders"], dependencies=[may_write, _no_query], openapi_extra=CONDITIONAL
    )
    async def cancel(
        principal: Annotated[Principal, may_write], order_id: str, only_if: OnlyIf, response: Response
    ) -> OrderBody:
        return _shown(await orders.cancel(caller_of(principal), order_id, only_if), response)


def _any_orders(routes: APIRouter, backoffice: BackOffice, may: Any) -> None:
    @routes.get(
        "/admin/orders",
        tags=["back office"],
        dependencies=[may, Depends(only_query("page_size", "page_token", "status"))],
    )
    async def list_all(page_size: int = 0, page_token: str = "", status: str = "") -> PageBody:
        return _page(await backoffice.list_all(page_size, page_token, _statuses(status)))

    options: dict[str, Any] = {"tags": ["back office"], "dependencies": [may, _no_query], "openapi_extra": CONDITIONAL}

    @routes.post("/orders/{order_id}/confirm", **options)
    async def confirm(
        principal: Annotated[Principal, may], order_id: str, only_if: OnlyIf, response: Response
    ) -> OrderBody:
        return _shown(await backoffice.confirm(caller_of(principal), order_id, only_if), response)

    @routes.post("/orders/{order_id}/ship", **options)
    async def ship(
        principal: Annotated[Principal, may],
        order_id: str,
        only_if: OnlyIf,
        response: Response,
        body: ShipOrderBody | None = None,
    ) -> OrderBody:
        number = "" if body is None else body.tracking_number
        return _shown(await backoffice.ship(caller_of(principal), order_id, number, only_if), response)

    @routes.post("/orders/{order_id}/deliver", **options)
    async def deliver(
        principal: Annotated[Principal, may], order_id: str, only_if: OnlyIf, response: Response
    ) -> OrderBody:
        return _shown(await backoffice.deliver(caller_of(principal), order_id, only_if), response)


def _products(routes: APIRouter, orders: Orders, backoffice: BackOffice, may_read: Any, may: Any) -> None:
    @routes.get("/products", tags=["catalogue"], dependencies=[may_read, _paged])
    async def list_products(page_size: int = 0, page_token: str = "") -> ProductPageBody:
        page = await orders.list_products(page_size, page_token)
        products = [product_body(product) for product in page.items]
        return ProductPageBody(products=products, next_page_token=page.next_page_token)

    @routes.put("/products/{sku}", tags=["catalogue"], dependencies=[may, _no_query], openapi_extra=CONDITIONAL)
    async def put_product(sku: str, body: PutProductBody, only_if: OnlyIf, response: Response) -> ProductBody:
        product, is_new = await backoffice.put_product(product_of(sku, body), only_if)
        response.status_code = 201 if is_new else 200
        response.headers["etag"] = product.etag
        return product_body(product)


def _idempotency_key(
    request: Request, idempotency_key: Annotated[str | None, Header(description="1 to 255 printable ASCII")] = None
) -> str:
    if idempotency_key is None:
        return ""
    if len(request.headers.getlist("idempotency-key")) > 1 or not idempotency_key:
        raise ServiceError(Kind.INVALID, "IDEMPOTENCY_KEY_INVALID", "Send one Idempotency-Key, and not an empty one.")
    return idempotency_key


def _statuses(text: str) -> list[Status]:
    """`placed,confirmed`."""
    try:
        return [Status(word) for word in text.split(",")] if text else []
    except ValueError:
        words = ", ".join(status.value for status in Status)
        raise invalid({"status": f"must be some of {words}, with commas between"}) from None


def _shown(order: Order, response: Response) -> OrderBody:
    response.headers["etag"] = order.etag
    return order_body(order)


def _page(page: Page[Order]) -> PageBody:
    return PageBody(orders=[order_body(order) for order in page.items], next_page_token=page.next_page_token)
