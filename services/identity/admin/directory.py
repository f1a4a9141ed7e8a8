"""Finding people and clients: reads, in pages, of what an administrator may see. No hash and no secret is among it."""

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, or_, select

from identity.domain import base64url
from identity.storage import clients, users
from servicekit.errors import Kind, ServiceError

PAGE, LARGEST_PAGE = 50, 100
_LONGEST_SEARCH = 254


@dataclass(frozen=True, slots=True)
class UserRecord:
    """A person. Times in ms; None: never."""

    id: str
    email: str
    name: str
    roles: tuple[str, ...]
    created_at: int
    email_verified_at: int | None
    disabled_at: int | None
    has_password: bool


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """A client. Times in ms; None: never."""

    id: str
    name: str
    confidential: bool
    first_party: bool
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    scopes: tuple[str, ...]
    resources: tuple[str, ...]
    permissions: tuple[str, ...]
    created_at: int
    disabled_at: int | None


def page_size(asked: int) -> int:
    """How many to give when `asked` for so many; 0 leaves it to us.

    Raises:
        ServiceError: BAD_PAGE_SIZE.
    """
    if not 0 <= asked <= LARGEST_PAGE:
        raise ServiceError(Kind.INVALID, "BAD_PAGE_SIZE", f"A page has 1 to {LARGEST_PAGE} entries.")
    return asked or PAGE


def find_users(tx: Connection, *, search: str = "", size: int = PAGE, token: str = "") -> tuple[list[UserRecord], str]:
    """People by e-mail address, at most `size`, and the token of the page behind them (empty: that was all).

    Raises:
        ServiceError: BAD_PAGE_TOKEN.
    """
    query = select(users).order_by(users.c.email).limit(size + 1)
    wanted = search.strip()[:_LONGEST_SEARCH]
    if wanted:
        part = f"%{_escaped(wanted.lower())}%"
        named = users.c.name.ilike(part, escape="\\")
        query = query.where(or_(users.c.id == wanted, users.c.email.like(part, escape="\\"), named))
    if token:
        query = query.where(users.c.email > _decoded(token))
    rows = tx.execute(query).all()
    # The address is in the token as the place to go on from: the reader has just seen it.
    behind = base64url(rows[size - 1].email.encode()) if len(rows) > size else ""
    return [_user(row) for row in rows[:size]], behind


def get_user(tx: Connection, user_id: str) -> UserRecord:
    """The person of this id.

    Raises:
        ServiceError: NO_SUCH_ACCOUNT.
    """
    row = tx.execute(select(users).where(users.c.id == user_id)).one_or_none()
    if row is None:
        raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_ACCOUNT", "There is no such account.")
    return _user(row)


def list_clients(tx: Connection) -> list[ClientRecord]:
    """Every client there is, by id."""
    return [_client(row) for row in tx.execute(select(clients).order_by(clients.c.id))]


def get_client(tx: Connection, client_id: str) -> ClientRecord:
    """The client of this id.

    Raises:
        ServiceError: NO_SUCH_CLIENT.
    """
    row = tx.execute(select(clients).where(clients.c.id == client_id)).one_or_none()
    if row is None:
        raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_CLIENT", "There is no such client.")
    return _client(row)


def _user(row: Row[Any]) -> UserRecord:
    return UserRecord(
        id=row.id,
        email=row.email,
        name=row.name,
        roles=tuple(row.roles),
        created_at=row.created_at,
        email_verified_at=row.email_verified_at,
        disabled_at=row.disabled_at,
        has_password=bool(row.password_hash),
    )


def _client(row: Row[Any]) -> ClientRecord:
    return ClientRecord(
        id=row.id,
        name=row.name,
        confidential=row.secret_hash is not None,
        first_party=row.first_party,
        redirect_uris=tuple(row.redirect_uris),
        grant_types=tuple(row.grant_types),
        scopes=tuple(row.scopes),
        resources=tuple(row.resources),
        permissions=tuple(row.permissions),
        created_at=row.created_at,
        disabled_at=row.disabled_at,
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _decoded(token: str) -> str:
    try:
        behind = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        if "\0" in behind:
            raise ValueError
        return behind
    except (binascii.Error, ValueError):
        raise ServiceError(Kind.INVALID, "BAD_PAGE_TOKEN", "This page token is none of ours.") from None
