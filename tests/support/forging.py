"""Signatures that no issuer would make: JWS by hand, with real keys, so that a test's bad token is bad in one thing."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from rescind.testing import rsa_key

Signer = Callable[[bytes], bytes]


def b64(data: bytes) -> str:
    """Unpadded base64url."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def compact(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes, sign: Signer) -> str:
    """A JWS of these very bytes (or of the JSON of these members)."""
    segments = ".".join(
        b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, payload)
    )
    return f"{segments}.{b64(sign(segments.encode()))}"


def rsa(name: str, digest: hashes.HashAlgorithm | None = None) -> Signer:
    """RS256, or another PKCS #1 signature, with the key of that name."""
    key = rsa_key(name)
    return lambda signed: key.sign(signed, padding.PKCS1v15(), digest or hashes.SHA256())


def pss(name: str) -> Signer:
    """PS256."""
    key = rsa_key(name)
    return lambda signed: key.sign(signed, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


def hmac_with(secret: bytes) -> Signer:
    """HS256."""
    return lambda signed: hmac.new(secret, signed, hashlib.sha256).digest()


def unsigned(_signed: bytes) -> bytes:
    """No signature at all."""
    return b""


def public_pem(key: RSAPrivateKey) -> bytes:
    """What everybody may know of a key, as text that a careless verifier might take for an HMAC secret."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
