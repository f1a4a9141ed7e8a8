"""Why a request is refused, or why nobody can tell right now.

    RescindError
    ├── TokenRefused              the token is no good: 401, UNAUTHENTICATED
    │   ├── MissingToken          there is none
    │   ├── MalformedToken        not a token that we could have issued: size, encoding, JSON, types
    │   ├── UntrustedToken        well formed, but the wrong algorithm, kind, key, signature, issuer or audience
    │   │   └── UnknownKey        no key of that `kid`; the key set may be behind, so it is worth one fetch
    │   ├── ExpiredToken          its time is over, or has not come
    │   ├── RevokedToken          taken back: `kind` names what was revoked, `cause` why
    │   └── OtherHolder           good, but not of the one who holds the live stream that it was to extend
    ├── InsufficientScope         a good token that does not permit this: 403, PERMISSION_DENIED
    ├── StepUpRequired            a good token, but the person signed in too long ago: 401, UNAUTHENTICATED
    └── CannotTell                the token may be good, this process cannot say so now: 503, UNAVAILABLE, never 401
        ├── NotFresh              revocations may have been missed, for longer than the policy of this route allows
        ├── KeysUnavailable       no keys to verify with, and none can be had
        └── ServerStopping        a live stream ends because its server does: come again, another one answers

`reason` is stable UPPER_SNAKE, the same on every wire. No message holds any part of a token.
"""

from typing import ClassVar, Literal

RevocationKind = Literal["token", "session", "grant", "subject", "client", "key"]


class RescindError(Exception):
    """Everything this library raises on purpose."""

    reason: str = "INTERNAL"


class TokenRefused(RescindError):
    """The token is no good (RFC 6750 section 3.1: `invalid_token`).

    Raised itself only with the reason that the issuer gave when it was asked.
    """

    reason = "TOKEN_REFUSED"

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail)
        if reason is not None:
            self.reason = reason


class MissingToken(TokenRefused):
    """The request came without a bearer token (RFC 6750 section 3: a challenge without an error code)."""

    reason = "TOKEN_MISSING"


class MalformedToken(TokenRefused):
    """Not a token that we could have issued."""

    reason = "TOKEN_MALFORMED"


class UntrustedToken(TokenRefused):
    """Well formed, but not signed for us, by us, or as what it claims to be."""

    reason = "TOKEN_UNTRUSTED"


class UnknownKey(UntrustedToken):
    """No key of the `kid` that the token names."""


class ExpiredToken(TokenRefused):
    """Its time is over, or has not come."""

    reason = "TOKEN_EXPIRED"


class RevokedToken(TokenRefused):
    """Taken back before its time.

    `reason` is TOKEN_REVOKED, or TOKEN_STALE where only a *soft* revocation matches: the holder's refresh token
    still works, and a fresh access token will be accepted.
    """

    reason = "TOKEN_REVOKED"

    def __init__(self, kind: RevocationKind, cause: str, *, soft: bool = False) -> None:
        super().__init__(f"{kind} revoked: {cause}", reason="TOKEN_STALE" if soft else None)
        self.kind: RevocationKind = kind
        self.cause = cause


class OtherHolder(TokenRefused):
    """A good token that extends nothing: the live stream belongs to another subject, client, session or grant."""

    reason = "TOKEN_OF_ANOTHER"


class InsufficientScope(RescindError):
    """A good token that lacks `required` (RFC 6750 section 3.1: `insufficient_scope`)."""

    reason = "INSUFFICIENT_SCOPE"

    def __init__(self, required: frozenset[str]) -> None:
        super().__init__("needs scope " + " ".join(sorted(required)))
        self.required = required


class StepUpRequired(RescindError):
    """A good token, but this needs somebody who signed in within the last `max_auth_age` seconds (RFC 9470).

    The client sends the person to the issuer again, with `max_age`, and comes back with a new token.
    """

    reason = "INSUFFICIENT_USER_AUTHENTICATION"

    def __init__(self, max_auth_age: int) -> None:
        super().__init__(f"needs a sign-in within the last {max_auth_age} s")
        self.max_auth_age = max_auth_age


class CannotTell(RescindError):
    """Ask again in `retry_after` seconds; the token was not judged, so the client must keep it."""

    reason = "VERIFIER_UNAVAILABLE"
    retry_after: ClassVar[int] = 1


class NotFresh(CannotTell):
    """This verifier may have missed a revocation, for longer than the route's staleness policy allows."""

    reason = "VERIFIER_NOT_FRESH"


class KeysUnavailable(CannotTell):
    """There are no keys to verify with, and fetching them failed."""

    reason = "KEYS_UNAVAILABLE"


class ServerStopping(CannotTell):
    """This server ends its live streams because it stops. Connect again: another one answers, or this one, later."""

    reason = "SERVER_STOPPING"
