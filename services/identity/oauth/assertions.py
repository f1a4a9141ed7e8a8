"""private_key_jwt: a client proves who it is by a signature (RFC 7523 section 3, OpenID Connect Core section 9).

Stricter than both, as their revision (RFC 7523bis) asks: `aud` is the issuer, as one string and nothing else, so an
assertion made for another server, or for one of our endpoints by name, is worth nothing here. An assertion counts for
five minutes at most, whatever its `exp`, and once: its `jti` is remembered in a transaction of its own, before the
request is looked at, so it is spent whatever becomes of the request.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from authlib.oauth2.rfc6749 import InvalidClientError
from sqlalchemy import Connection, select

from identity.client_keys import ALGORITHMS, ClientKeys
from identity.oauth.requests import Parameters
from identity.storage import client_assertions, clients
from servicekit.database import insert_new

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
METHOD = "private_key_jwt"
LONGEST_LIFE = 300  # seconds
LEEWAY = 5  # seconds between two clocks
_LONGEST = 8 * 1024  # characters
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_TYPES = frozenset({"", "jwt", "client-authentication+jwt"})


def spend(tx: Connection, asked: Parameters, *, issuer: str, now: Callable[[Connection], int]) -> str:
    """The client that the assertion in `asked` is of; from the commit on, the assertion is worth nothing.

    Of any number of requests with one assertion at once, one gets past here.

    Raises:
        InvalidClientError: there is no good assertion. The text does not tell which part of it is wrong.
    """
    claims = _proven_claims(tx, asked)
    expires_at = _checked(claims, issuer, now(tx))
    client_id: str = claims["sub"]
    if asked.get("client_id") not in (None, client_id):
        raise _refused()
    row = {
        "client_id": client_id,
        "jti_hash": hashlib.sha256(claims["jti"].encode()).hexdigest(),
        "expires_at": (expires_at + LEEWAY) * 1000 + 1000,
    }
    if not insert_new(tx, client_assertions, row):
        raise _refused()
    return client_id


def claimed_subject(asked: Parameters) -> str:
    """Which client the assertion says it is of, unproven: for counting attempts, and nothing else."""
    shape = _SHAPE.fullmatch((asked.get("client_assertion") or "")[:_LONGEST])
    try:
        named = None if shape is None else _object(shape[2]).get("sub")
    except InvalidClientError:
        return ""
    return named if isinstance(named, str) and named.isprintable() else ""


def _proven_claims(tx: Connection, asked: Parameters) -> dict[str, Any]:
    assertion = asked.get("client_assertion") or ""
    shape = _SHAPE.fullmatch(assertion)
    if asked.get("client_assertion_type") != ASSERTION_TYPE or shape is None or len(assertion) > _LONGEST:
        raise _refused()
    header, claims = _object(shape[1]), _object(shape[2])
    algorithm, kid, typ = header.get("alg"), header.get("kid"), header.get("typ", "")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or not header.keys() <= _HEADER_MEMBERS:
        raise _refused()
    if not isinstance(typ, str) or typ.lower() not in _TYPES or not isinstance(kid, str | None):
        raise _refused()
    # Whose keys to try is all that is believed of the claims before the signature holds.
    named = claims.get("sub")
    if not isinstance(named, str) or not named.isprintable():  # a NUL is no text to PostgreSQL
        raise _refused()
    query = select(clients.c.jwks).where(clients.c.id == named, clients.c.disabled_at.is_(None))
    jwks = tx.execute(query).scalar_one_or_none()
    signing_input = assertion[: shape.end(2)].encode("ascii")
    if jwks is None or not ClientKeys(tuple(jwks["keys"])).verify(algorithm, kid, signing_input, _decoded(shape[3])):
        raise _refused()
    return claims


def _checked(claims: dict[str, Any], issuer: str, now_ms: int) -> int:
    """When the assertion is worth nothing any more, in seconds, once every claim is as it must be."""
    now = now_ms // 1000
    jti, expires_at = claims.get("jti"), claims.get("exp")
    if claims.get("iss") != claims["sub"] or claims.get("aud") != issuer:
        raise _refused()
    if not isinstance(jti, str) or not 1 <= len(jti) <= 256 or not jti.isprintable():
        raise _refused()
    for name in ("iat", "nbf"):
        begins_at = claims.get(name, now)
        if type(begins_at) is not int or begins_at > now + LEEWAY:
            raise _refused()
    if type(expires_at) is not int:
        raise _refused()
    if "iat" in claims:
        # Authlib's client, for one, always writes an hour: five minutes of it count.
        expires_at = min(expires_at, claims["iat"] + LONGEST_LIFE)
    if not now - LEEWAY < expires_at <= now + LONGEST_LIFE + LEEWAY:
        raise _refused()
    return expires_at


def _refused() -> InvalidClientError:
    return InvalidClientError(status_code=401, description="The client's assertion is not accepted.")


def _decoded(segment: str) -> bytes:
    try:
        return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise _refused() from None


def _object(segment: str) -> dict[str, Any]:
    try:
        value = json.loads(_decoded(segment).decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # bytes that are no UTF-8, too
        raise _refused() from None
    if not isinstance(value, dict):
        raise _refused()
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member comes twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
