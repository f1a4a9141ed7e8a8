"""The server's secret keys, and all that is derived from them: sealed private keys, refresh successors, form tokens.

The keys are a list, newest first. The newest one writes; all of them read, so a new one is put in front, and the oldest
taken away once nothing sealed with it is left.
"""

import hashlib
import hmac
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from identity.domain import Entropy, base64url

_VERSION = b"\x01"
_NONCE_BYTES = 12


class SealBroken(Exception):
    """No key opens this, or it was made for another name, or altered."""


class SecretKeys:
    """Seals and derives with the newest key; opens with any."""

    def __init__(self, keys: tuple[tuple[str, bytes], ...], *, entropy: Entropy) -> None:
        """`keys` are (id, 32 bytes), newest first."""
        self._sealing = {key_id: AESGCM(_derived(key, b"rescind identity sealing")) for key_id, key in keys}
        self._refresh = [_derived(key, b"rescind identity refresh successor") for _, key in keys]
        self._forms = [_derived(key, b"rescind identity forms") for _, key in keys]
        self._limits = _derived(keys[-1][1], b"rescind identity limits")
        self._devices = [_derived(key, b"rescind identity devices") for _, key in keys]
        self._newest = keys[0][0]
        self._entropy = entropy

    def seal(self, name: str, secret: bytes) -> bytes:
        """AES-256-GCM over `secret`, bound to `name`, with the key's id in front."""
        nonce = self._entropy(_NONCE_BYTES)
        key_id = self._newest.encode()
        sealed = self._sealing[self._newest].encrypt(nonce, secret, name.encode())
        return _VERSION + bytes([len(key_id)]) + key_id + nonce + sealed

    def open(self, name: str, sealed: bytes) -> bytes:
        """What was sealed under `name`.

        Raises:
            SealBroken: its key is not among ours, or it is not what we sealed under this name.
        """
        if len(sealed) < 2 or sealed[:1] != _VERSION:
            raise SealBroken("not sealed by this program")
        end = 2 + sealed[1]
        key = self._sealing.get(sealed[2:end].decode(errors="replace"))
        if key is None:
            raise SealBroken(f"{name}: the key that sealed it is not in IDENTITY_SECRET_KEYS")
        try:
            return key.decrypt(sealed[end : end + _NONCE_BYTES], sealed[end + _NONCE_BYTES :], name.encode())
        except (InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            raise SealBroken(f"{name}: sealed under another name, or altered") from None

    def key_of(self, sealed: bytes) -> str:
        """The id of the key that sealed this, for finding what to seal anew after a rotation."""
        return sealed[2 : 2 + sealed[1]].decode(errors="replace")

    def successors(self, presented: str) -> Iterator[str]:
        """The refresh token that follows `presented`: under the newest key, then as older keys would have made it."""
        for key in self._refresh:
            digest = hmac.new(key, presented.encode(), hashlib.sha256).digest()
            yield base64url(digest)

    @property
    def form_keys(self) -> tuple[bytes, ...]:
        """Keys for signed form state, newest first."""
        return tuple(self._forms)

    @property
    def device_keys(self) -> tuple[bytes, ...]:
        """Keys for what a known browser holds, newest first."""
        return tuple(self._devices)

    @property
    def limits_key(self) -> bytes:
        """The key that names attempts: of the oldest, so that a new key in front does not set counters back."""
        return self._limits


def _derived(key: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(key)
