"""What forms carry to prove where they come from: CSRF tokens, and what waits for a sign-in.

Both are signed and not stored, so every replica can read them. A CSRF token is bound to the cookie of the browser that
got the form and to the one thing that the form does. The request on its way ("flow") is the query of /authorize as it
came, and when: after sign-in it is judged again from the start, so nothing in it is believed for being signed. The
signature is there so that /login and /consent take part only in requests that began at /authorize. A user code on its
way to the device page (RFC 8628) travels alike.
"""

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Sequence
from dataclasses import dataclass

from identity.domain import base64url

_FLOW = "flow"


@dataclass(frozen=True, slots=True)
class Flow:
    """An authorization request, or a user code, that waits for a person. `begun_at` in ms by the database clock."""

    query: str
    begun_at: int
    to: str = "/consent"  # the page of ours that goes on with it after sign-in


class Forms:
    """Signs with the newest key, accepts any."""

    def __init__(self, keys: Sequence[bytes], *, flow_life: int = 1800) -> None:
        """`flow_life`: how many seconds a person has for signing in and deciding."""
        self._keys = tuple(keys)
        self._flow_life_ms = flow_life * 1000

    def csrf(self, does: str, cookie: str) -> str:
        """The token of a form that `does` something, for the browser that holds `cookie`."""
        return self._sign(self._keys[0], f"csrf:{does}", cookie)

    def is_csrf(self, token: str, does: str, cookie: str | None) -> bool:
        """Whether `token` is from a form of ours that does this, given to this browser."""
        if not cookie or not token.isascii():
            return False
        return any(hmac.compare_digest(token, self._sign(key, f"csrf:{does}", cookie)) for key in self._keys)

    def pack(self, flow: Flow) -> str:
        """The flow as one parameter of a URL or form."""
        payload = base64url(json.dumps([flow.query, flow.begun_at, flow.to], separators=(",", ":")).encode())
        return f"{payload}.{self._sign(self._keys[0], _FLOW, payload)}"

    def unpack(self, packed: str, now: int) -> Flow | None:
        """What `pack` packed; None if it was not us, or is too long ago. `now` in ms."""
        payload, _, signature = packed.partition(".")
        if not packed.isascii():
            return None
        if not any(hmac.compare_digest(signature, self._sign(key, _FLOW, payload)) for key in self._keys):
            return None
        query, begun_at, to = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Flow(query, begun_at, to) if now - begun_at < self._flow_life_ms else None

    def _sign(self, key: bytes, purpose: str, text: str) -> str:
        return base64url(hmac.digest(key, f"{purpose}\0{text}".encode(), hashlib.sha256))
