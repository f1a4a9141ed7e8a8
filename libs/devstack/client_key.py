"""The key by which the session service, as the client `web`, says who it is at identity (private_key_jwt).

Each folder of the embedded run has a pair of its own, made once. The session service is given the private half as
SESSION_CLIENT_KEY (PEM), identity the public half with the seeds.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

FILE = "session-client-key.pem"


def client_key(folder: Path) -> str:
    """The private key of this folder, PEM; made when it is first asked for, readable by its owner alone."""
    file = folder / FILE
    if not file.exists():
        key = generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
            opened.write(pem)
    return file.read_text()


def public_jwks(pem: str) -> dict[str, Any]:
    """The public half as a JWK Set (RFC 7517); its `kid` is the thumbprint (RFC 7638)."""
    key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise TypeError("an RSA key was expected")
    numbers = key.public_key().public_numbers()
    members = {"e": _encoded(numbers.e), "kty": "RSA", "n": _encoded(numbers.n)}
    thumbprint = hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest()
    return {"keys": [members | {"kid": _base64url(thumbprint), "use": "sig", "alg": "RS256"}]}


def _encoded(number: int) -> str:
    return _base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
