"""The public keys of a client that signs its assertions instead of showing a secret (RFC 7517, RFC 7523).

Registered inline and kept in SQL. There is no `jwks_uri`: fetching keys while a client waits to authenticate would make
sign-in depend on somebody else's server, and would let whoever registers a client have identity call any address.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from jwt import PyJWK, PyJWKError
from jwt.exceptions import InvalidKeyError

# Asymmetric only, each with the one kind of key it takes: (kty, crv).
ALGORITHMS: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {"RS256": ("RSA", None), "PS256": ("RSA", None), "ES256": ("EC", "P-256")}
)
SMALLEST_RSA = 2048  # bits (RFC 7518 section 3.3)
MOST_KEYS = 8
_SECRET_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """A JWK Set that has been checked."""

    jwks: tuple[Mapping[str, Any], ...]

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """The keys of a JWK Set (RFC 7517 section 5).

        Raises:
            ValueError: says which key cannot be used, and why.
        """
        keys = document.get("keys")
        if not isinstance(keys, list) or not 1 <= len(keys) <= MOST_KEYS:
            raise ValueError(f"a JWK Set has `keys`: 1 to {MOST_KEYS} of them")
        for number, jwk in enumerate(keys, start=1):
            _check(jwk, f"key {number}")
        kids = [jwk.get("kid") for jwk in keys]
        if len(keys) > 1 and (None in kids or len(set(kids)) != len(kids)):
            raise ValueError("of several keys each has a `kid` of its own")
        return cls(tuple(keys))

    def document(self) -> dict[str, Any]:
        """The JWK Set."""
        return {"keys": [dict(jwk) for jwk in self.jwks]}

    def verify(self, algorithm: str, kid: str | None, signing_input: bytes, signature: bytes) -> bool:
        """Whether one of the keys made the signature, by an algorithm of ALGORITHMS and of that key."""
        tried = [jwk for jwk in self.jwks if _takes(jwk, algorithm) and (kid is None or jwk.get("kid") in (None, kid))]
        keys = [_key(jwk, algorithm) for jwk in tried]
        return any(key.Algorithm.verify(signing_input, key.key, signature) for key in keys)


def _takes(jwk: Mapping[str, Any], algorithm: str) -> bool:
    fits = (jwk.get("kty"), jwk.get("crv")) == ALGORITHMS.get(algorithm)
    return fits and jwk.get("alg") in (None, algorithm)


def _check(jwk: Any, which: str) -> None:
    if not isinstance(jwk, dict):
        raise ValueError(f"{which} is no JSON object")
    if jwk.keys() & _SECRET_MEMBERS:
        raise ValueError(f"{which} has private members: register the public key")
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
        raise ValueError(f"{which} is not for signatures")
    if not isinstance(jwk.get("kid", ""), str) or len(jwk.get("kid", "")) > 128:
        raise ValueError(f"{which} has a kid that is no short text")
    fitting = [name for name in ALGORITHMS if _takes(jwk, name)]
    if not fitting:
        raise ValueError(f"{which} fits none of {', '.join(ALGORITHMS)}")
    try:
        key = _key(jwk, fitting[0]).key
    except (PyJWKError, InvalidKeyError, ValueError, TypeError):
        raise ValueError(f"{which} cannot be read") from None
    if jwk["kty"] == "RSA" and key.key_size < SMALLEST_RSA:
        raise ValueError(f"{which} has less than {SMALLEST_RSA} bits")


def _key(jwk: Mapping[str, Any], algorithm: str) -> PyJWK:
    return PyJWK.from_dict(dict(jwk), algorithm=algorithm)
