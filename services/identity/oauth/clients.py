"""Who is asking: a registered client, as Authlib sees it."""

import hmac
import re
from dataclasses import dataclass
from typing import Self

from authlib.oauth2.rfc6749 import ClientMixin
from sqlalchemy import Connection, select

from identity.domain import secret_digest
from identity.storage import clients

# RFC 8252 section 7.3: a native app takes whatever port is free. Only IP literals: `localhost` may resolve elsewhere.
_LOOPBACK = re.compile(r"(?P<host>http://(?:127\.0\.0\.1|\[::1\]))(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?].*)?")

# How a client may authenticate: one that has a secret or keys, and anybody.
CONFIDENTIAL = ("client_secret_basic", "client_secret_post", "private_key_jwt")
ANYBODY = (*CONFIDENTIAL, "none")


@dataclass(frozen=True, slots=True)
class Client(ClientMixin):  # type: ignore[misc]  # Authlib is untyped
    """A client that is registered and not disabled."""

    id: str
    name: str
    secret_hash: str | None  # None: no secret
    first_party: bool
    redirect_uris: tuple[str, ...]
    grant_types: frozenset[str]
    scopes: frozenset[str]
    resources: tuple[str, ...]
    permissions: frozenset[str]
    refresh_without_offline: bool
    exchange_scopes: frozenset[str] = frozenset()
    asks_always: bool = False
    post_logout_redirect_uris: tuple[str, ...] = ()
    has_keys: bool = False  # with neither secret nor keys it is a public client

    @classmethod
    def find(cls, tx: Connection, client_id: str) -> Self | None:
        """The client of this id, None if there is none or it is disabled."""
        row = tx.execute(select(clients).where(clients.c.id == client_id)).one_or_none()
        if row is None or row.disabled_at is not None:
            return None
        return cls(
            id=row.id,
            name=row.name,
            secret_hash=row.secret_hash,
            has_keys=row.jwks is not None,
            first_party=row.first_party,
            redirect_uris=tuple(row.redirect_uris),
            grant_types=frozenset(row.grant_types),
            scopes=frozenset(row.scopes),
            resources=tuple(row.resources),
            permissions=frozenset(row.permissions),
            refresh_without_offline=row.refresh_without_offline,
            exchange_scopes=frozenset(row.exchange_scopes),
            asks_always=row.asks_always,
            post_logout_redirect_uris=tuple(row.post_logout_redirect_uris),
        )

    @property
    def is_confidential(self) -> bool:
        """Whether it can prove who it is (RFC 6749 section 2.1)."""
        return self.secret_hash is not None or self.has_keys

    @property
    def remembers_consent(self) -> bool:
        """Whether what a person granted need not be asked again. A public client may be an impostor's copy of itself,
        so it is asked about each time (RFC 8252 section 8.6)."""
        return self.is_confidential and not self.asks_always

    def get_client_id(self) -> str:
        return self.id

    def get_default_redirect_uri(self) -> None:
        """None: OpenID Connect Core section 3.1.2.1 requires `redirect_uri` in every request."""

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """What of `scope` the client may ask for; None if nothing is left, which refuses the request."""
        kept = [name for name in dict.fromkeys((scope or "").split()) if name in self.scopes]
        return " ".join(kept) or None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """Whether it is registered: character by character, save the port of a loopback address."""
        return any(redirect_uri == known or _same_but_port(redirect_uri, known) for known in self.redirect_uris)

    def check_client_secret(self, client_secret: str) -> bool:
        return self.secret_hash is not None and hmac.compare_digest(secret_digest(client_secret), self.secret_hash)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:  # noqa: ARG002  (Authlib's signature)
        """A client that has a secret shows it, one that has keys signs; one that has neither says who it is."""
        if method == "private_key_jwt":
            return self.has_keys
        if method == "none":
            return not self.is_confidential
        return self.secret_hash is not None and method in CONFIDENTIAL

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and "authorization_code" in self.grant_types

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.grant_types


def _same_but_port(presented: str, registered: str) -> bool:
    left, right = _LOOPBACK.fullmatch(presented), _LOOPBACK.fullmatch(registered)
    if left is None or right is None or not 0 < int(left["port"] or 80) < 65536:
        return False
    return (left["host"], left["rest"]) == (right["host"], right["rest"])
