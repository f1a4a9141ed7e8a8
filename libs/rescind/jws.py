"""Parses a JSON Web Signature as strictly as an issuer that writes only one form allows.

Accepted is exactly one form: compact serialization (RFC 7515 section 7.1), three unpadded base64url segments in
canonical encoding, header members `alg`, `kid` and `typ` and no other, `alg` RS256, and UTF-8 JSON objects without
duplicate members. So `none`, HMAC with a public key, `jku`, `x5c`, `jwk`, `crit`, `b64`, `zip`, encryption (five
segments) and JSON serialization are not cases to handle: they do not parse (RFC 8725 sections 3.1, 3.3, 3.10).

The payload cannot be read before the signature holds: `UnverifiedJws` has no claims, `verified_claims` returns them.
"""

import binascii
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from rescind.errors import MalformedToken, UntrustedToken

ALGORITHM = "RS256"
MAX_TOKEN_BYTES = 8 * 1024  # what HTTP servers take as one header line
MAX_MESSAGE_BYTES = 256 * 1024  # a log message: a few entries; a heartbeat: a few key ids
MAX_KID = 128

_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_HEADER_MEMBERS = {"alg", "kid", "typ"}
_PADDING = PKCS1v15()
_HASH = SHA256()
_CANONICAL_ENDS = {0: frozenset(), 2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


@dataclass(frozen=True, slots=True)
class UnverifiedJws:
    """A well-formed JWS whose signature nobody has checked yet. Only its header may steer anything."""

    kid: str
    typ: str
    signing_input: bytes
    payload: str
    signature: bytes

    def verified_claims(self, key: RSAPublicKey) -> dict[str, Any]:
        """The claims, once the signature holds under `key` (RS256, RFC 7518 section 3.3).

        Raises:
            UntrustedToken: the signature is not of this key.
            MalformedToken: the signed payload is not one JSON object in UTF-8 without duplicate members.
        """
        try:
            key.verify(self.signature, self.signing_input, _PADDING, _HASH)
        except InvalidSignature:
            raise UntrustedToken("the signature is wrong") from None
        return self.claims_authenticated_otherwise()

    def claims_authenticated_otherwise(self) -> dict[str, Any]:
        """The claims without checking the signature: only for bytes whose hash a signed message vouches for.

        Raises:
            MalformedToken: the payload is not one JSON object in UTF-8 without duplicate members.
        """
        return _json_object(self.payload)


def parse(unverified: str, *, types: frozenset[str], max_bytes: int = MAX_TOKEN_BYTES) -> UnverifiedJws:
    """Takes apart a JWS whose `typ` is one of `types` (lower case).

    Raises:
        MalformedToken: not the one form described above.
        UntrustedToken: another algorithm, another kind, or a header member that we never send.
    """
    if len(unverified) > max_bytes:
        raise MalformedToken(f"longer than {max_bytes} bytes")
    shape = _SHAPE.fullmatch(unverified)
    if shape is None:
        raise MalformedToken("not three segments of unpadded base64url")
    header_segment, payload_segment, signature_segment = shape.groups()
    kid, typ = _header(header_segment)
    # Media types are compared without regard to case, "application/" may be left out (RFC 7515 section 4.1.9).
    if typ.lower().removeprefix("application/") not in types:
        raise UntrustedToken("the wrong kind of token")
    return UnverifiedJws(
        kid=kid,
        typ=typ,
        signing_input=unverified[: shape.end(2)].encode("ascii"),
        payload=payload_segment,
        signature=_decode(signature_segment),
    )


@lru_cache(maxsize=64)  # whatever an issuer signs with one key has one header; what is refused is not remembered
def _header(segment: str) -> tuple[str, str]:
    """`kid` and `typ` of a header that is as it must be."""
    header = _json_object(segment)
    if header.get("alg") != ALGORITHM:
        raise UntrustedToken("the algorithm is not RS256")
    if header.keys() != _HEADER_MEMBERS:
        raise UntrustedToken("the header is not exactly alg, kid and typ")
    kid, typ = header["kid"], header["typ"]
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID or not is_plain(kid):
        raise MalformedToken("kid is no short printable text")
    if not isinstance(typ, str):
        raise UntrustedToken("typ is no text")
    return kid, typ


def is_plain(text: str) -> bool:
    """Printable ASCII: what ids, scopes and URIs in our tokens are made of."""
    return text.isascii() and text.isprintable()


def _decode(segment: str) -> bytes:
    # One text for one value: a segment whose unused last bits are set, or of impossible length, is refused
    # (RFC 4648 section 3.5), so that nobody can present one token under several spellings.
    over = len(segment) % 4
    if over == 1 or (over and segment[-1] not in _CANONICAL_ENDS[over]):
        raise MalformedToken("not canonical base64url")
    try:
        return binascii.a2b_base64(segment.replace("-", "+").replace("_", "/") + "=" * (-len(segment) % 4))
    except binascii.Error:
        raise MalformedToken("not base64url") from None


def _json_object(segment: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(_decode(segment).decode("utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise MalformedToken("not UTF-8 JSON") from None
    if not isinstance(value, dict):
        raise MalformedToken("not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedToken("a member comes twice")
    return members


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
