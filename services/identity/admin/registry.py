"""Registering clients: what is accepted as one, and secrets that are shown once.

What is refused here is what best current practice refuses (RFC 9700): redirect URIs that are not exact, plain http to
anywhere but this machine, secrets for clients that cannot keep one, grant types that do not exist here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Connection, select, update

from identity.admin.directory import ClientRecord, get_client
from identity.audit import AuditTrail
from identity.domain import AUDIENCE_SCOPES, Entropy, new_secret, secret_digest
from identity.service import Accounts, NewClient
from identity.storage import clients, exclusive
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials", DEVICE, EXCHANGE)
# What a client for itself may be permitted here. `introspect_any`, `revoke` and `contacts` are for our own.
PERMISSIONS = ("introspect", "introspect_any", "replay", "revoke", "contacts")
SCOPES = tuple(sorted(frozenset[str]().union(*AUDIENCE_SCOPES.values())))
RESOURCES = tuple(AUDIENCE_SCOPES)

_CLIENT_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{1,62}")
_CUSTOM_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(?:\.[a-z0-9+-]+)+")  # RFC 8252 section 7.1: a reversed domain name
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MOST = 20  # redirect URIs
_log = structlog.get_logger("identity.registry")


@dataclass(frozen=True, slots=True)
class Registered:
    """A client, and the only copy of its secret (empty for a public client)."""

    client: ClientRecord
    secret: str


@dataclass(frozen=True, slots=True)
class Registry:
    """Registers clients and gives them secrets."""

    database: Database
    accounts: Accounts
    audit: AuditTrail
    entropy: Entropy

    async def create(self, asked: NewClient, *, confidential: bool, by: str) -> Registered:
        """Registers a client.

        Raises:
            ServiceError: CLIENT_NOT_VALID, by field; CLIENT_EXISTS.
        """
        check(asked, confidential=confidential)
        secret = new_secret(self.entropy) if confidential else ""
        made = NewClient(
            id=asked.id,
            name=" ".join(asked.name.split()),
            secret_hash=secret_digest(secret) if secret else None,
            first_party=asked.first_party,
            redirect_uris=tuple(asked.redirect_uris),
            grant_types=tuple(asked.grant_types),
            scopes=tuple(asked.scopes),
            resources=tuple(asked.resources),
            permissions=tuple(asked.permissions),
        )

        def work(tx: Connection) -> ClientRecord:
            if not self.accounts.add_client(tx, made):
                raise ServiceError(Kind.CONFLICT, "CLIENT_EXISTS", "There is a client of this id already.")
            self.audit.write(tx, by, "CLIENT_CREATED", "client", made.id, scopes=" ".join(made.scopes))
            return get_client(tx, made.id)

        record = await self.database.run(work)
        _log.info("client_created", client_id=made.id)
        return Registered(record, secret)

    async def rotate_secret(self, client_id: str, *, by: str) -> str:
        """Gives a confidential client a new secret; the old one is dead when this returns.

        Raises:
            ServiceError: NO_SUCH_CLIENT; CLIENT_IS_PUBLIC.
        """
        secret = new_secret(self.entropy)

        def work(tx: Connection) -> None:
            row = tx.execute(exclusive(select(clients.c.secret_hash).where(clients.c.id == client_id))).one_or_none()
            if row is None:
                raise ServiceError(Kind.NOT_FOUND, "NO_SUCH_CLIENT", "There is no such client.")
            if row.secret_hash is None:
                raise ServiceError(Kind.UNPROCESSABLE, "CLIENT_IS_PUBLIC", "A public client has no secret.")
            tx.execute(update(clients).where(clients.c.id == client_id).values(secret_hash=secret_digest(secret)))
            self.audit.write(tx, by, "CLIENT_SECRET_ROTATED", "client", client_id)

        await self.database.run(work)
        _log.info("client_secret_rotated", client_id=client_id)
        return secret


def check(asked: NewClient, *, confidential: bool) -> None:
    """Returns when a client may be registered like this.

    Raises:
        ServiceError: CLIENT_NOT_VALID; `fields` says what is wrong where.
    """
    faults: dict[str, str] = {}
    if _CLIENT_ID.fullmatch(asked.id) is None or asked.id.startswith(("usr_", "svc_")):
        faults["client_id"] = "2 to 63 of a-z, 0-9, dot, dash and underscore"
    name = " ".join(asked.name.split())
    if not 1 <= len(name) <= 100 or not name.isprintable():
        faults["name"] = "1 to 100 characters that can be printed"
    for field, given, known in (
        ("grant_types", asked.grant_types, GRANT_TYPES),
        ("scopes", asked.scopes, SCOPES),
        ("resources", asked.resources, RESOURCES),
        ("permissions", asked.permissions, PERMISSIONS),
    ):
        if unknown := sorted(set(given) - set(known)):
            faults[field] = f"unknown: {', '.join(unknown)[:100]}"
    if not asked.grant_types:
        faults["grant_types"] = "at least one"
    uses_redirects = "authorization_code" in asked.grant_types
    if bool(asked.redirect_uris) != uses_redirects or len(asked.redirect_uris) > _MOST:
        faults["redirect_uris"] = f"1 to {_MOST} with authorization_code, none without"
    elif wrong := [uri for uri in asked.redirect_uris if not _is_redirect_uri(uri)]:
        faults["redirect_uris"] = (
            f"https, or http to this machine, exact and without a fragment: {wrong[0][:100]!r} is not"
        )
    if not confidential and (asked.permissions or {"client_credentials", EXCHANGE} & set(asked.grant_types)):
        faults["confidential"] = "a public client speaks for nobody but people"
    if faults:
        raise ServiceError(Kind.UNPROCESSABLE, "CLIENT_NOT_VALID", "The client cannot be registered.", fields=faults)


def words(text: str) -> tuple[str, ...]:
    """The words of a text, each once, in order."""
    return tuple(dict.fromkeys(text.split()))


def _is_redirect_uri(uri: str) -> bool:
    """RFC 9700 section 2.1 and RFC 8252: exact, no fragment, no user, nothing that a browser would read differently."""
    if not uri.isascii() or not uri.isprintable() or any(sign in uri for sign in ' "<>\\^`{|}*#'):
        return False
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018  (reading it finds a port that is none)
    except ValueError:
        return False
    if parts.username is not None:
        return False
    if parts.scheme == "https":
        return bool(parts.hostname)
    if parts.scheme == "http":
        return parts.hostname in _LOOPBACK
    return _CUSTOM_SCHEME.fullmatch(parts.scheme) is not None and bool(parts.path)


def as_new_client(record: Iterable[tuple[str, str]]) -> NewClient:
    """A client from the fields of a form: lists are words."""
    given = dict(record)
    return NewClient(
        id=given.get("client_id", "").strip(),
        name=given.get("name", ""),
        first_party=given.get("first_party") == "yes",
        redirect_uris=words(given.get("redirect_uris", "")),
        grant_types=words(given.get("grant_types", "")),
        scopes=words(given.get("scopes", "")),
        resources=words(given.get("resources", "")),
    )
