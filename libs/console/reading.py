"""Taking a token apart: first without believing it, then verified against the issuer's keys. Never shown whole."""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rescind.errors import RescindError
from rescind.jws import parse
from rescind.keys import KeySet

# What each claim is for. The RFCs: 7519, 9068, OpenID Connect Core; the last ones are ours (docs/revocation.md).
EXPLAINED: Mapping[str, str] = {
    "alg": "how it is signed",
    "typ": "what kind of token it is",
    "kid": "which key signed it",
    "iss": "who issued it",
    "sub": "whom it speaks for",
    "aud": "the one service that may accept it",
    "client_id": "the client that got it",
    "azp": "the client that it was issued to",
    "iat": "when it was issued",
    "exp": "when it ends",
    "auth_time": "when the person proved who they are",
    "jti": "its own id: revoke it with `rescind revoke token`",
    "scope": "what it permits",
    "sid": "the login session it hangs on: `rescind revoke session`",
    "gid": "the grant it hangs on: `rescind revoke grant`",
    "gen": "the person's generation when it was issued: `rescind revoke subject` raises it",
    "cgen": "the client's generation when it was issued: `rescind revoke client` raises it",
    "act": "who acts for the subject (RFC 8693)",
    "ojti": "the token it was exchanged from: revoking that one refuses this one",
    "acr": "how the person proved who they are",
    "amr": "by what means",
    "nonce": "the request that it answers",
    "at_hash": "the access token that came with it",
}
_TIMES = ("iat", "exp", "nbf", "auth_time")
_LONGEST = 65_536  # characters


class Unreadable(Exception):
    """It is no token: why, in a few words."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a token says of itself. Nothing of it is proven; the signature is not among it."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]


def read(token: str) -> Reading:
    """What `token` says.

    Raises:
        Unreadable: it is not three segments of JSON.
    """
    if not token:
        raise Unreadable("There is nothing to read.")
    if len(token) > _LONGEST:
        raise Unreadable("It is too long for a token.")
    segments = token.split(".")
    if len(segments) == 1:
        raise Unreadable("It is opaque, as our refresh tokens and codes are: only its issuer knows what it stands for.")
    if len(segments) != 3:
        raise Unreadable(f"It has {len(segments)} segments; a signed token has three.")
    return Reading(_object(segments[0], "header"), _object(segments[1], "payload"))


async def verified(token: str, keys: KeySet) -> str:
    """Empty when the signature holds under a key of the issuer, and everything is written as it must be; or why not."""
    try:
        jws = parse(token, types=frozenset({"at+jwt", "jwt", "secevent+jwt", "logout+jwt"}))
        if keys.key(jws.kid) is None:
            await keys.refresh()
        key = keys.key(jws.kid)
        if key is None:
            return "no key of this id is published by the issuer"
        jws.verified_claims(key)
    except RescindError as error:
        return str(error)
    return ""


def plain(text: str) -> str:
    """`text` with nothing in it that a terminal would do instead of showing it: a token may say anything."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def in_words(name: str, value: Any) -> str:
    """A claim's value, times as times; with nothing in it that is not shown."""
    if name in _TIMES and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**11:
        return f"{value}  ({datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC)"
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _object(segment: str, which: str) -> Mapping[str, Any]:
    try:
        value = json.loads(base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise Unreadable(f"Its {which} is not JSON in base64url.") from None
    if not isinstance(value, dict):
        raise Unreadable(f"Its {which} is no JSON object.")
    return value
