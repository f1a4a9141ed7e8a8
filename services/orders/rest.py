"""Orders over HTTP."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel, ConfigDict, Field

from orders.domain import Item, Order
from orders.service import Orders, caller_of
from rescind import Principal
from servicekit.errors import Kind, ServiceError
from servicekit.http import StrictRoute, only_query

Authenticated = Callable[..., Any]  # a dependency that yields the Principal, or refuses


class _Strict(BaseModel):
    """Refuses members that nobody declared, so no request can set what is not the caller's to set."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ItemBody(_Strict):
    """How many of what: 1 to 1000 of 1 to 64 characters. The domain checks the ranges, for both wires alike."""

    sku: str
    quantity: int


class CreateOrderBody(_Strict):
    """1 to 100 items."""

    items: list[ItemBody]


class OrderBody(BaseModel):
    """An order as it is shown."""

    id: str
    owner: str
    status: str
    items: list[ItemBody]
    created_at: str = Field(description="RFC 3339, UTC")
    updated_at: str = Field(description="RFC 3339, UTC")


class PageBody(BaseModel):
    """Some of the caller's orders, newest first."""

    orders: list[OrderBody]
    next_page_token: str = Field(description="Empty on the last page")


def router(orders: Orders, *, reader: Authenticated, writer: Authenticated) -> APIRouter:
    """The routes. `reader` and `writer` say who may read and write, and how stale an answer about that may be."""
    routes = APIRouter(prefix="/v1/orders", tags=["orders"], route_class=StrictRoute)
    # The token is judged before anything else of the request is.
    may_read, may_write = Depends(reader), Depends(writer)
    no_query = Depends(only_query())

    @routes.post("", status_code=201, dependencies=[may_write, no_query])
    async def create(
        principal: Annotated[Principal, may_write],
        body: CreateOrderBody,
        key: Annotated[str, Depends(_idempotency_key)],
    ) -> OrderBody:
        items = [Item(item.sku, item.quantity) for item in body.items]
        return _shown(await orders.place(caller_of(principal), items, key))

    @routes.get("", dependencies=[may_read, Depends(only_query("page_size", "page_token"))])
    async def list_own(principal: Annotated[Principal, may_read], page_size: int = 0, page_token: str = "") -> PageBody:
        page = await orders.list_own(caller_of(principal), page_size, page_token)
        return PageBody(orders=[_shown(order) for order in page.orders], next_page_token=page.next_page_token)

    @routes.get("/{order_id}", dependencies=[may_read, no_query])
    async def get(principal: Annotated[Principal, may_read], order_id: str) -> OrderBody:
        return _shown(await orders.get(caller_of(principal), order_id))

    @routes.post("/{order_id}/cancel", dependencies=[may_write, no_query])
    async def cancel(principal: Annotated[Principal, may_write], order_id: str) -> OrderBody:
        return _shown(await orders.cancel(caller_of(principal), order_id))

    return routes


def _idempotency_key(
    request: Request, idempotency_key: Annotated[str | None, Header(description="1 to 255 printable ASCII")] = None
) -> str:
    if idempotency_key is None:
        return ""
    if len(request.headers.getlist("idempotency-key")) > 1 or not idempotency_key:
        raise ServiceError(Kind.INVALID, "IDEMPOTENCY_KEY_INVALID", "Send one Idempotency-Key, and not an empty one.")
    return idempotency_key


def _shown(order: Order) -> OrderBody:
    return OrderBody(
        id=order.id,
        owner=order.owner,
        status=order.status.value,
        items=[ItemBody(sku=item.sku, quantity=item.quantity) for item in order.items],
        created_at=_rfc3339(order.created_at),
        updated_at=_rfc3339(order.updated_at),
    )


def _rfc3339(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
