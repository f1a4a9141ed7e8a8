"""What a verified access token says (RFC 9068), as values.

Only the verifier builds a `Principal`: whoever holds one knows that the token behind it was signed by the issuer, for
this audience, and neither expired nor revoked when it was checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rescind.errors import ExpiredToken, MalformedToken, UntrustedToken
from rescind.jws import is_plain

USER_PREFIX = "usr_"
SERVICE_PREFIX = "svc_"
MAX_PRIOR_ACTORS = 4  # how many services may have passed a person's token on, each for the next
_MAX_TEXT = 2048
_FROM_VERIFIED_CLAIMS = object()


@dataclass(frozen=True, slots=True)
class PriorActor:
    """A client in whose hands the person's rights were before an exchange (RFC 8693 section 4.1).

    `ojti` is the `jti` that its own token came from, if that was exchanged too.
    """

    client_id: str
    cgen: int
    ojti: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a verified token speaks for, and what it permits. Times are seconds since the epoch.

    In an exchanged token (RFC 8693) `actor` is the service that acts for the person, `svc_` and its `client_id`;
    `prior_actors` are the clients before it, the latest first and the one that the person chose last.
    """

    subject: str
    client_id: str
    audience: str
    scopes: frozenset[str]
    jti: str
    issued_at: int
    expires_at: int
    cgen: int
    gid: str | None
    gen: int | None
    auth_time: int | None
    sid: str | None
    ojti: str | None
    actor: str | None = None
    prior_actors: tuple[PriorActor, ...] = ()
    _proof: object = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuses to be built outside this module."""
        if self._proof is not _FROM_VERIFIED_CLAIMS:
            raise TypeError("only the verifier builds a Principal; tests sign a token with rescind.testing.TokenMint")

    @property
    def is_user(self) -> bool:
        """True for a person, false for a client that speaks for itself."""
        return self.subject.startswith(USER_PREFIX)


@dataclass(frozen=True, slots=True)
class Expectations:
    """What claims must say to be accepted. Seconds."""

    issuer: str
    audience: str
    leeway: int
    max_life: int


def principal_from(claims: Mapping[str, Any], expected: Expectations, now: float) -> Principal:
    """Reads claims whose signature holds.

    Raises:
        MalformedToken: a required claim is missing or of the wrong type (RFC 9068 section 2.2), dates included.
        UntrustedToken: another issuer or audience, a subject that is neither a person nor this client, a life too long.
        ExpiredToken: `exp` has passed, or `nbf` or `iat` has not come, by more than the leeway.
    """
    if _text(claims, "iss") != expected.issuer:
        raise UntrustedToken("another issuer")
    audience = claims.get("aud")
    if audience != expected.audience:  # exactly one service, as text: an array is another form, which we never issue
        raise UntrustedToken("another audience")
    issued_at, expires_at = _date(claims, "iat"), _date(claims, "exp")
    not_before = _date(claims, "nbf") if "nbf" in claims else issued_at
    if expires_at - issued_at > expected.max_life:
        raise UntrustedToken("lives longer than the policy allows")
    if expires_at <= issued_at:
        raise MalformedToken("expires before it was issued")
    if now >= expires_at + expected.leeway:
        raise ExpiredToken("expired")
    if now < max(issued_at, not_before) - expected.leeway:
        raise ExpiredToken("not valid yet")
    subject, client_id = _text(claims, "sub"), _text(claims, "client_id")
    is_user = subject.startswith(USER_PREFIX)
    if not is_user and subject != SERVICE_PREFIX + client_id:
        raise UntrustedToken("the subject is neither a person nor this client")
    if not is_user and any(name in claims for name in ("gid", "gen", "sid", "auth_time")):
        raise UntrustedToken("a service's token carries a person's claims")
    actor, prior_actors = _actors(claims, client_id, is_user=is_user)
    return Principal(
        subject=subject,
        client_id=client_id,
        audience=expected.audience,
        scopes=frozenset(_text(claims, "scope", empty=True).split()),
        jti=_text(claims, "jti"),
        issued_at=issued_at,
        expires_at=expires_at,
        cgen=_date(claims, "cgen"),
        gid=_text(claims, "gid") if is_user else None,
        gen=_date(claims, "gen") if is_user else None,
        auth_time=_date(claims, "auth_time") if is_user else None,
        sid=_text(claims, "sid") if "sid" in claims else None,
        ojti=_text(claims, "ojti") if "ojti" in claims else None,
        actor=actor,
        prior_actors=prior_actors,
        _proof=_FROM_VERIFIED_CLAIMS,
    )


def _actors(claims: Mapping[str, Any], client_id: str, *, is_user: bool) -> tuple[str | None, tuple[PriorActor, ...]]:
    """Who acts, and who did before: `{"sub": "svc_x", "act": {"sub": "svc_y", "cgen": 3, "ojti": "...", "act": ...}}`.

    The outermost is the client of the token itself, so its generation and `ojti` are the token's.
    """
    if "act" not in claims:
        return None, ()
    if not is_user or "ojti" not in claims:
        raise UntrustedToken("nobody acts for a service, and whoever acts has exchanged a token")
    outermost = _object(claims["act"])
    actor = _text(outermost, "sub")
    if actor != SERVICE_PREFIX + client_id:
        raise UntrustedToken("another client acts than the token is for")
    prior: list[PriorActor] = []
    link = outermost
    while "act" in link:
        if len(prior) == MAX_PRIOR_ACTORS:
            raise UntrustedToken("passed on too often")
        link = _object(link["act"])
        subject = _text(link, "sub")
        if not subject.startswith(SERVICE_PREFIX):
            raise UntrustedToken("a prior actor is no client")
        ojti = _text(link, "ojti") if "ojti" in link else None
        prior.append(PriorActor(subject.removeprefix(SERVICE_PREFIX), _date(link, "cgen"), ojti))
    if not prior:
        raise MalformedToken("act names nobody whose token was exchanged")
    return actor, tuple(prior)


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedToken("act is no object")
    return value


def _text(claims: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or len(value) > _MAX_TEXT or not is_plain(value) or not (value or empty):
        raise MalformedToken(f"{name} is missing or no plain text")
    return value


def _date(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or value < 0:  # bool is an int to isinstance; a float or text date is refused
        raise MalformedToken(f"{name} is missing or no whole number")
    return value
