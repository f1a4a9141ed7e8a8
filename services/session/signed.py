"""What identity signs for this client: ID tokens (OpenID Connect Core) and logout tokens (Back-Channel Logout).

Parsed as strictly as access tokens are (`rescind.jws`), and told apart by `typ`, so none is ever taken for another.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rescind import Guard, MalformedToken, UntrustedToken
from rescind.errors import ExpiredToken, UnknownKey
from rescind.jws import parse
from session.domain import Attempt

LEEWAY = 5  # seconds between identity's clock and ours
LONGEST_LOGOUT_LIFE = 300  # seconds that a logout token may live (BCL section 2.4 recommends two minutes)
_ID_TYPES = frozenset({"jwt"})
_LOGOUT_TYPES = frozenset({"logout+jwt"})
_LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_PATIENCE = 2.0  # seconds that a fetch of keys may take


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What an ID token says. `authenticated_at` is seconds since the epoch."""

    subject: str
    sid: str
    authenticated_at: int


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """What a logout token says: of a person, one login session or all of them. `expires_at` in seconds."""

    subject: str | None
    sid: str | None
    jti: str
    expires_at: int


class SignedByIdentity:
    """Reads tokens for `client_id`. `guard` has identity's keys, and knows which of them are accepted."""

    def __init__(self, guard: Guard, issuer: str, client_id: str, now: Callable[[], float]) -> None:
        self._guard = guard
        self._issuer = issuer
        self._client_id = client_id
        self._now = now

    async def id_token(self, unverified_token: str, attempt: Attempt, access_token: str) -> SignedIn:
        """What it says, if it answers this attempt and came with this access token (OIDC Core section 3.1.3.7).

        Raises:
            TokenRefused: it does not.
        """
        claims = await self._claims(unverified_token, _ID_TYPES)
        self._check_dates(claims)
        if not hmac.compare_digest(_text(claims, "nonce"), attempt.nonce):
            raise UntrustedToken("another nonce")
        if not hmac.compare_digest(_text(claims, "at_hash"), _half_hash(access_token)):
            raise UntrustedToken("it came with another access token")
        signed_in = SignedIn(_text(claims, "sub"), _text(claims, "sid"), _date(claims, "auth_time"))
        if attempt.replaces is not None:
            # prompt=login asks for a new sign-in; an answer from an old one is not what was asked for.
            if signed_in.authenticated_at * 1000 < attempt.begun_at - LEEWAY * 1000:
                raise UntrustedToken("the person did not sign in anew")
            if signed_in.subject != attempt.subject:
                raise UntrustedToken("somebody else signed in")
        return signed_in

    async def logout_token(self, unverified_token: str) -> LoggedOut:
        """What it says (OIDC Back-Channel Logout section 2.6). Whether it was seen before is the caller's to know.

        Raises:
            TokenRefused: it is no logout token of identity's for this client.
        """
        claims = await self._claims(unverified_token, _LOGOUT_TYPES)
        self._check_dates(claims)
        if _date(claims, "exp") - _date(claims, "iat") > LONGEST_LOGOUT_LIFE:
            raise UntrustedToken("lives longer than a logout token may")
        events = claims.get("events")
        if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT_EVENT), dict):
            raise UntrustedToken("it is not about a logout")
        if "nonce" in claims:
            raise UntrustedToken("a logout token has no nonce")
        subject = _text(claims, "sub") if "sub" in claims else None
        sid = _text(claims, "sid") if "sid" in claims else None
        if subject is None and sid is None:
            raise MalformedToken("it names nobody")
        return LoggedOut(subject, sid, _text(claims, "jti"), _date(claims, "exp"))

    async def _claims(self, unverified_token: str, types: frozenset[str]) -> Mapping[str, Any]:
        jws = parse(unverified_token, types=types)
        keys, kids = self._guard.verifier.keys, self._guard.feed.knowledge.kids
        key = keys.key(jws.kid)
        if key is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE):
                    await keys.refresh()
            key = keys.key(jws.kid)
        if key is None or (kids is not None and jws.kid not in kids):
            raise UnknownKey("no accepted key of this kid")
        claims = jws.verified_claims(key)
        if _text(claims, "iss") != self._issuer:
            raise UntrustedToken("another issuer")
        self._check_audience(claims)
        return claims

    def _check_audience(self, claims: Mapping[str, Any]) -> None:
        audience = claims.get("aud")
        several = audience if isinstance(audience, list) else [audience]
        if self._client_id not in several:
            raise UntrustedToken("another client")
        if (len(several) > 1 or "azp" in claims) and claims.get("azp") != self._client_id:
            raise UntrustedToken("another client is the authorized party")

    def _check_dates(self, claims: Mapping[str, Any]) -> None:
        now = self._now()
        if now >= _date(claims, "exp") + LEEWAY:
            raise ExpiredToken("expired")
        if now < _date(claims, "iat") - LEEWAY:
            raise ExpiredToken("not valid yet")


def _half_hash(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not value or len(value) > 2048 or not value.isascii():
        raise MalformedToken(f"{name} is missing or no text")
    return value


def _date(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or value < 0:
        raise MalformedToken(f"{name} is missing or no whole number")
    return value
