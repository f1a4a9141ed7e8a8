"""Pages: how many at once, and where the next one begins. A token has one spelling, and opens nothing by itself."""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from orders.domain import Order, OrderId, Product, is_sku
from servicekit.errors import Kind, ServiceError

DEFAULT_PAGE = 20
LARGEST_PAGE = 100
_ORDER = re.compile(r"1\.(0|[1-9][0-9]{0,15})\.(ord_[A-Za-z0-9_-]{22})")
_PRODUCT = re.compile(r"p\.(.{1,64})")
T = TypeVar("T", Order, Product)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of them; `next_page_token` is empty on the last page."""

    items: tuple[T, ...]
    next_page_token: str


def checked_size(page_size: int) -> int:
    """How many to show (AIP-158).

    Raises:
        ServiceError: VALIDATION_FAILED.
    """
    if not 0 <= page_size <= LARGEST_PAGE:
        raise invalid({"page_size": f"must be 1 to {LARGEST_PAGE}"})
    return page_size or DEFAULT_PAGE


def page_of(found: Sequence[T], size: int) -> Page[T]:
    """A page of `size`, when one more was looked for than fits."""
    shown = tuple(found[:size])
    return Page(shown, _token(shown[-1]) if len(found) > size else "")


def orders_before(page_token: str) -> tuple[int, OrderId] | None:
    """Where a page of orders begins: None for the first.

    Raises:
        ServiceError: BAD_PAGE_TOKEN.
    """
    if not page_token:
        return None
    found = _ORDER.fullmatch(_read(page_token)) or _bad()
    return int(found[1]), OrderId(found[2])


def products_after(page_token: str) -> str:
    """The sku after which a page of products begins.

    Raises:
        ServiceError: BAD_PAGE_TOKEN.
    """
    if not page_token:
        return ""
    found = _PRODUCT.fullmatch(_read(page_token)) or _bad()
    return found[1] if is_sku(found[1]) else _bad()


def invalid(fields: dict[str, str], reason: str = "VALIDATION_FAILED") -> ServiceError:
    """What is wrong where."""
    return ServiceError(Kind.INVALID, reason, "The request does not have the shape it must have.", fields=fields)


def _token(last: Order | Product) -> str:
    """Not secret and not signed: whose orders are listed comes from the caller's token alone."""
    text = f"p.{last.sku}" if isinstance(last, Product) else f"1.{last.created_at}.{last.id}"
    return _spelled(text)


def _spelled(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _read(page_token: str) -> str:
    try:
        padded = page_token + "=" * (-len(page_token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    # Written back and compared: of all the spellings that decode to the same, only ours is accepted.
    return text if _spelled(text) == page_token else _bad()


def _bad() -> NoReturn:
    raise ServiceError(Kind.INVALID, "BAD_PAGE_TOKEN", "Use next_page_token of the page before, unchanged.")
