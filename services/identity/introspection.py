"""The asked, authoritative answer to "is this access token good?", from SQL and nothing else.

It refuses exactly what a verifier refuses that holds the whole denylist, with the same typed errors; the tables say
directly what the entries of the log say to others.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, select

from identity.issuing import ACCESS_TYPE
from identity.keyring import KeyRing
from identity.storage import clients, grants, login_sessions, revoked_tokens, users
from rescind.claims import SERVICE_PREFIX
from rescind.errors import ExpiredToken, RevokedToken, TokenRefused, UnknownKey, UntrustedToken
from rescind.jws import parse
from rescind.messages import EntryKind

_TYPES = frozenset({ACCESS_TYPE})


class Introspector:
    """Judges access tokens of this issuer. Works without Redis."""

    def __init__(self, keyring: KeyRing, *, issuer: str, leeway: int, now: Callable[[Connection], int]) -> None:
        """`leeway` in seconds, as the verifiers'."""
        self._keyring = keyring
        self._issuer = issuer
        self._leeway_ms = leeway * 1000
        self._now = now

    def judge(self, tx: Connection, unverified_token: str) -> Mapping[str, Any]:
        """The claims of an access token that is good right now.

        Raises:
            TokenRefused: it is not; which error, and which `reason`, is what a verifier would say.
        """
        claims = self._signed_claims(tx, unverified_token)
        now = self._now(tx)
        if now >= claims["exp"] * 1000 + self._leeway_ms:
            raise ExpiredToken("expired")
        if now < claims["iat"] * 1000 - self._leeway_ms:
            raise ExpiredToken("not valid yet")
        refusal = self._taken_back(tx, claims)
        if refusal is not None:
            raise refusal
        return claims

    def living(self, tx: Connection, unverified_token: str) -> Mapping[str, Any] | None:
        """The claims of an access token that is good right now; None for anything else."""
        try:
            return self.judge(tx, unverified_token)
        except TokenRefused:
            return None

    def issued(self, tx: Connection, unverified_token: str) -> Mapping[str, Any] | None:
        """The claims of an access token that we signed, dead or alive; None for anything else."""
        try:
            return self._signed_claims(tx, unverified_token)
        except TokenRefused:
            return None

    def _signed_claims(self, tx: Connection, unverified_token: str) -> Mapping[str, Any]:
        jws = parse(unverified_token, types=_TYPES)
        key = self._keyring.public_key(tx, "access", jws.kid)
        if key is None:
            # A signature of a revoked key proves nothing: whoever stole the key can make it.
            if self._keyring.purpose_of(tx, jws.kid) == "access":
                raise RevokedToken("key", "KEY_REVOKED")
            raise UnknownKey("no key of this kid")
        claims = jws.verified_claims(key)
        if claims["iss"] != self._issuer:
            raise UntrustedToken("another issuer")
        return claims

    def _taken_back(self, tx: Connection, claims: Mapping[str, Any]) -> RevokedToken | None:
        prior = list(prior_actors(claims))
        ids = [of[name] for of in (claims, *prior) for name in ("jti", "ojti") if name in of]
        if tx.execute(select(revoked_tokens.c.jti).where(revoked_tokens.c.jti.in_(ids))).first() is not None:
            return _revoked("token")
        if "sid" in claims and _has_ended(tx, login_sessions, claims["sid"]):
            return _revoked("session")
        if "gid" in claims and _has_ended(tx, grants, claims["gid"]):
            return _revoked("grant")
        held: list[tuple[Table, EntryKind, str, int]] = []
        if "gen" in claims:
            held.append((users, "subject", claims["sub"], claims["gen"]))
        held.append((clients, "client", claims["client_id"], claims["cgen"]))
        held.extend((clients, "client", actor["sub"].removeprefix(SERVICE_PREFIX), actor["cgen"]) for actor in prior)
        soft: RevokedToken | None = None  # told only if nothing hard matches, as a denylist does
        for table, kind, key, generation in held:
            refusal = _outdated(tx, table, kind, key, generation)
            if refusal is not None and refusal.reason != "TOKEN_STALE":
                return refusal
            soft = soft or refusal
        return soft


def prior_actors(claims: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Of an exchanged token, the clients before the one that acts (RFC 8693 section 4.1)."""
    link = claims.get("act", {}).get("act")
    while link is not None:
        yield link
        link = link.get("act")


def _has_ended(tx: Connection, table: Any, key: str) -> bool:
    row = tx.execute(select(table.c.ended_at).where(table.c.id == key)).one_or_none()
    return row is None or row.ended_at is not None


def _outdated(tx: Connection, table: Any, kind: EntryKind, key: str, generation: int) -> RevokedToken | None:
    columns = (table.c.gen, table.c.hard_gen, table.c.disabled_at)
    row = tx.execute(select(*columns).where(table.c.id == key)).one_or_none()
    if row is None or row.disabled_at is not None or generation < row.hard_gen:
        return _revoked(kind)
    return RevokedToken(kind, "INTROSPECTED", soft=True) if generation < row.gen else None


def _revoked(kind: EntryKind) -> RevokedToken:
    # The cause is in the log, for those who may read it.
    return RevokedToken(kind, "INTROSPECTED")
