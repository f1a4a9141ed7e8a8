"""Where verification keys come from: a seam of one method.

A `KeySet` gives the key of a `kid`, at once and without I/O. `StaticKeySet` has them from the start; `RemoteKeySet`
fetches the issuer's JWK Set (RFC 7517) and can be asked to look again.

A key is imported only if it can do one thing: verify RS256 (RFC 8725 section 3.1). Anything else in the set is left
out: another `kty`, a `use` other than `sig`, `key_ops` without `verify`, another `alg`, fewer than 2048 bits.
"""

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol

import httpx2
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers

from rescind.clock import since_boot
from rescind.jws import ALGORITHM, MAX_KID, is_plain

MIN_KEY_BITS = 2048
MAX_JWKS_BYTES = 64 * 1024

_log = logging.getLogger("rescind.keys")


class KeySet(Protocol):
    """The keys of one issuer for one purpose."""

    def key(self, kid: str) -> RSAPublicKey | None:
        """The key of that id, or None."""
        ...

    @property
    def empty(self) -> bool:
        """True while there is no key at all, so that no token can be judged."""
        ...

    async def refresh(self) -> None:
        """Looks for newer keys, if that can help and was not just done. Never raises for a failed fetch."""
        ...


class StaticKeySet:
    """Keys that are known from the start."""

    def __init__(self, keys: Mapping[str, RSAPublicKey]) -> None:
        self._keys = MappingProxyType(dict(keys))

    def key(self, kid: str) -> RSAPublicKey | None:
        """The key of that id, or None."""
        return self._keys.get(kid)

    @property
    def empty(self) -> bool:
        """True when it was made without keys."""
        return not self._keys

    async def refresh(self) -> None:
        """Does nothing: these keys never change."""


@cache
def tls_context() -> ssl.SSLContext:
    """The one TLS context of this process. Loading the certificates takes tens of milliseconds of the event loop."""
    return ssl.create_default_context()


def http_fetch(url: str, *, timeout: float = 2.0) -> Callable[[], Awaitable[bytes]]:
    """A fetch of `url` for `RemoteKeySet`: no redirects, at most `MAX_JWKS_BYTES`, at most `timeout` seconds."""

    async def fetch() -> bytes:
        async with (
            asyncio.timeout(timeout),
            httpx2.AsyncClient(
                timeout=timeout, follow_redirects=False, trust_env=False, verify=tls_context()
            ) as client,
            client.stream("GET", url, headers={"accept": "application/json"}) as response,
        ):
            if response.status_code != 200:
                raise ValueError(f"the key set answered {response.status_code}")
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_JWKS_BYTES:
                    raise ValueError("the key set is too large")
            return body

    return fetch


class RemoteKeySet:
    """The JWK Set that `fetch` gets, with three promises.

    One fetch at a time, and none within `cooldown` seconds of the last, whoever asks how often: tokens with invented
    `kid`s cause no traffic. A fetch that fails leaves the keys as they are, for `keep` seconds at most. An empty set
    is a failed fetch.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[bytes]],
        *,
        cooldown: float = 1.0,
        max_age: float = 300.0,
        keep: float = 3600.0,
        monotonic: Callable[[], float] = since_boot,
    ) -> None:
        self._fetch = fetch
        self._cooldown = cooldown
        self._max_age = max_age
        self._keep = keep
        self._monotonic = monotonic
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._fetched_at = float("-inf")
        self._asked_at = float("-inf")
        self._ended = 0  # how many fetches
        self._fetching = asyncio.Lock()

    def key(self, kid: str) -> RSAPublicKey | None:
        """The key of that id, or None; None also when the last good fetch is longer ago than `keep`."""
        return None if self.empty else self._keys.get(kid)

    @property
    def empty(self) -> bool:
        """True before the first good fetch, and when the last one is longer ago than `keep`."""
        return self._monotonic() - self._fetched_at > self._keep

    @property
    def due(self) -> bool:
        """True when the keys are older than `max_age`: time for a routine refresh."""
        return self._monotonic() - self._fetched_at > self._max_age

    async def refresh(self) -> None:
        """Fetches again, unless that was done within the cooldown. Concurrent callers wait for one fetch."""
        if self._monotonic() - self._asked_at < self._cooldown and not self._fetching.locked():
            return
        ended = self._ended
        async with self._fetching:
            # Whoever waited for a fetch that was slower than the cooldown does not start another.
            if self._ended != ended or self._monotonic() - self._asked_at < self._cooldown:
                return
            self._asked_at = self._monotonic()
            try:
                self._keys = public_keys(await self._fetch())
                self._fetched_at = self._monotonic()
            except Exception as failure:  # whatever went wrong, the keys we have are better than none
                _log.warning("fetching keys failed: %s", type(failure).__name__)
            self._ended += 1


def public_keys(jwks: bytes) -> Mapping[str, RSAPublicKey]:
    """The RS256 verification keys of a JWK Set, by `kid`.

    Raises:
        ValueError: not a JWK Set, a `kid` that comes twice, or no usable key in it.
    """
    document = json.loads(jwks)
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("not a JWK Set")
    keys: dict[str, RSAPublicKey] = {}
    for member in members:
        imported = _imported(member)
        if imported is None:
            continue
        kid, key = imported
        if kid in keys:
            raise ValueError("two keys of one kid")
        keys[kid] = key
    if not keys:
        raise ValueError("no usable key in the set")
    return MappingProxyType(keys)


def _imported(jwk: Any) -> tuple[str, RSAPublicKey] | None:
    if not isinstance(jwk, dict) or jwk.get("kty") != "RSA":
        return None
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", ALGORITHM) != ALGORITHM:
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kid = jwk.get("kid")
    if not isinstance(kid, str) or not 1 <= len(kid) <= MAX_KID or not is_plain(kid):
        return None
    modulus, exponent = _unsigned(jwk.get("n")), _unsigned(jwk.get("e"))
    # 65537 and above: small exponents have a history (RFC 8725 asks for sound parameters; FIPS 186-5 for > 2^16).
    if modulus is None or exponent is None or modulus.bit_length() < MIN_KEY_BITS or exponent < 65537:
        return None
    try:
        return kid, RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        return None


def _unsigned(value: Any) -> int | None:
    if not isinstance(value, str) or not value.isascii():
        return None
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
    except ValueError:
        return None
