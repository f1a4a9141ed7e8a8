"""Clients that sign: real keys, their public JWK Sets, and assertions, good ones and any other."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def private_key(name: str, algorithm: str = "RS256", bits: int = 2048) -> Any:
    """The key called `name`: the same one at every call."""
    return _made(name, algorithm, bits)


@cache  # a pair takes 100 ms to make
def _made(name: str, algorithm: str, bits: int) -> Any:
    if algorithm == "ES256":
        return generate_ec(SECP256R1())
    return generate_rsa(public_exponent=65537, key_size=bits)


def public_jwk(name: str, algorithm: str = "RS256", **members: Any) -> dict[str, Any]:
    """The public half of that key as a JWK."""
    kind = ECAlgorithm if algorithm == "ES256" else RSAAlgorithm
    jwk: dict[str, Any] = kind.to_jwk(private_key(name, algorithm).public_key(), as_dict=True)
    jwk.pop("key_ops", None)
    return jwk | {"kid": name} | members


@dataclass
class SigningClient:
    """A client at identity that authenticates by private_key_jwt. `now` in ms, as the database clock."""

    http: httpx2.AsyncClient
    issuer: str
    client_id: str
    now: Callable[[], int]
    key: str = "web-1"
    algorithm: str = "RS256"

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of a good assertion, with `changes`; None takes a claim away."""
        now = self.now() // 1000
        claims = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self.issuer,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_urlsafe(16),
        } | changes
        return {name: value for name, value in claims.items() if value is not None}

    def assertion(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A signed assertion."""
        key = private_key(self.key, self.algorithm)
        headers = {"kid": self.key} if header is None else header
        # PyJWT checks the types of some claims, and tests need wrong ones.
        payload = jwt.api_jws.json.dumps(self.claims(**changes)).encode()
        return jwt.api_jws.encode(payload, key, self.algorithm, headers)

    async def post(self, path: str, *, assertion: str | None = None, **parameters: Any) -> httpx2.Response:
        """A request with a new assertion, or with this one."""
        proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion or self.assertion()}
        return await self.http.post(self.issuer + path, data=proof | parameters)
