"""AES-256-GCM over what a session keeps: tokens are readable in the session that they were put into, and nowhere else.

The session's key and the purpose are associated data, so a ciphertext that is copied into another session, or from one
place of a session to another, does not open. Each carries the id of the key that sealed it: the newest one writes, all
of them read, so a new key is put in front and the old one taken away once the longest session is over.
"""

import base64
import binascii

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from session.domain import Entropy, SessionKey

ALGORITHM = "AES-256-GCM"
_NONCE_BYTES = 12


class SealBroken(Exception):
    """No key opens this: its key is gone, it was made for another session or purpose, or it was altered."""


class Vault:
    """Seals with the newest key, opens with any. `keys` are (id, 32 bytes), newest first."""

    def __init__(self, keys: tuple[tuple[str, bytes], ...], *, entropy: Entropy) -> None:
        self._keys = {key_id: AESGCM(_derived(key, b"rescind session sealing")) for key_id, key in keys}
        self._newest = keys[0][0]
        self._entropy = entropy

    def seal(self, session: SessionKey, purpose: str, secret: str) -> str:
        """`secret`, encrypted for one place in one session."""
        nonce = self._entropy(_NONCE_BYTES)
        sealed = self._keys[self._newest].encrypt(nonce, secret.encode(), _associated(session, purpose))
        return f"{self._newest}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, session: SessionKey, purpose: str, sealed: str) -> str:
        """What was sealed for this place in this session.

        Raises:
            SealBroken: it was not.
        """
        key_id, _, encoded = sealed.rpartition(".")
        key = self._keys.get(key_id)
        if key is None:
            raise SealBroken("the key that sealed it is not in SESSION_SECRET_KEYS")
        try:
            raw = base64.urlsafe_b64decode(encoded)
            return key.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _associated(session, purpose)).decode()
        except (InvalidTag, ValueError, binascii.Error):  # ValueError: too short to hold a nonce
            raise SealBroken("sealed for another session or purpose, or altered") from None

    @staticmethod
    def key_id_of(sealed: str) -> str:
        """The id of the key that sealed this."""
        return sealed.rpartition(".")[0]


def _associated(session: SessionKey, purpose: str) -> bytes:
    return f"{purpose}|{session}".encode()


def limits_key(keys: tuple[tuple[str, bytes], ...]) -> bytes:
    """The key that names who is counted: of the oldest, so that a new key in front does not set counters back."""
    return _derived(keys[-1][1], b"rescind session limits")


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key)
