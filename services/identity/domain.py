"""The words of identity: ids, scopes and audiences, what is issued, and why issuing is refused.

IssuingError
├── InvalidGrant          the code or refresh token is no good, or what it hangs on has ended
│   ├── CodeReused        a second use: the grant made from the code has been ended, and that must be committed
│   └── RefreshReused     a replay after the retry window: likewise
├── SignInOvertaken       everything was signed out while this sign-in was under way
├── NotSignedIn           there is no living login session
├── UnauthorizedClient    the client is unknown, disabled, or may not use this grant type
├── DeviceError           a device code (RFC 8628) gives no token: pending, polled too soon, expired, denied
├── UnknownUserCode       no device waits under this user code, or not any more
├── TooManyUserCodes      this person has entered too many wrong ones
├── InvalidTarget         an audience that was not authorized (RFC 8707)
└── InvalidScope          nothing of the scope that was asked for may be had here
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NewType

UserId = NewType("UserId", str)
ClientId = NewType("ClientId", str)
SessionId = NewType("SessionId", str)
GrantId = NewType("GrantId", str)

# `entropy(n)` gives n unpredictable bytes: secrets.token_bytes everywhere but in tests.
Entropy = Callable[[int], bytes]

IDENTITY_AUDIENCE = "urn:rescind:identity"
# How a person proved who they are (RFC 8176). No value says that another provider vouched, so then none is given.
PASSWORD = "pwd"  # noqa: S105  (a word, not a password)
VOUCHED_FOR = ""
OFFLINE = "offline_access"

# Which scopes mean something at which audience: a token for one service carries no scope of another.
AUDIENCE_SCOPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        IDENTITY_AUDIENCE: frozenset({"openid", "profile", "email", OFFLINE, "identity:admin"}),
        "urn:rescind:session": frozenset(),
        "urn:rescind:orders": frozenset({"orders:read", "orders:write", "orders:admin"}),
        "urn:rescind:notifications": frozenset({"notifications:read"}),
    }
)

# What a person can be, beyond a person.
ROLES = frozenset({"admin"})

# A generation's upper bits are the epoch of the log, so a database restored from a backup never reuses one.
GENERATION_BITS = 32


class Cause:
    """Why something was revoked, as the log says it. An administrator may give others."""

    SIGNED_OUT = "SIGNED_OUT"
    SIGNED_OUT_EVERYWHERE = "SIGNED_OUT_EVERYWHERE"
    PASSWORD_CHANGED = "PASSWORD_CHANGED"  # noqa: S105  (a word, not a password)
    ROLES_CHANGED = "ROLES_CHANGED"
    ACCOUNT_DISABLED = "ACCOUNT_DISABLED"
    CLIENT_DISABLED = "CLIENT_DISABLED"
    CODE_REUSED = "CODE_REUSED"
    REFRESH_REUSED = "REFRESH_REUSED"
    GRANT_WITHDRAWN = "GRANT_WITHDRAWN"
    TOKEN_REVOKED = "TOKEN_REVOKED"  # noqa: S105
    ADMINISTRATOR = "ADMINISTRATOR"
    CARRIED_OVER = "CARRIED_OVER"


class IssuingError(Exception):
    """Nothing was issued. The text is for logs; `reason` is stable UPPER_SNAKE."""

    reason = "INVALID_REQUEST"


class InvalidGrant(IssuingError):
    """The code or refresh token is unknown, spent, expired, another client's, or what it hangs on has ended."""

    reason = "INVALID_GRANT"


class CodeReused(InvalidGrant):
    """A code came twice. The grant made from it has been ended in this transaction, which must be committed."""

    reason = "CODE_REUSED"


class RefreshReused(InvalidGrant):
    """A spent refresh token came back. Its grant has been ended in this transaction, which must be committed."""

    reason = "REFRESH_REUSED"


class SignInOvertaken(IssuingError):
    """The account was disabled, or everything of it signed out, after this sign-in's password was read."""

    reason = "SIGN_IN_OVERTAKEN"


class NotSignedIn(IssuingError):
    """The login session is unknown, ended or expired."""

    reason = "NOT_SIGNED_IN"


class UnauthorizedClient(IssuingError):
    """The client is unknown, disabled, or may not do this."""

    reason = "UNAUTHORIZED_CLIENT"


class DeviceError(IssuingError):
    """The device gets no token now. `error` is RFC 8628's word (section 3.5); commit what was noted of the poll."""

    reason = "DEVICE_WAITS"

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


class UnknownUserCode(IssuingError):
    """No device waits under this user code: mistyped, expired, or decided already."""

    reason = "USER_CODE_UNKNOWN"


class TooManyUserCodes(IssuingError):
    """Too many wrong user codes by this person in too short a time (RFC 8628 section 5.1)."""

    reason = "TOO_MANY_USER_CODES"


class InvalidTarget(IssuingError):
    """RFC 8707: an audience that was not authorized."""

    reason = "INVALID_TARGET"


class InvalidScope(IssuingError):
    """Nothing of the scope that was asked for may be had here."""

    reason = "INVALID_SCOPE"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a revocation stands in the log. `pos` is 0 when nothing alive matched, so that none was needed."""

    log: str
    pos: int
    at: int  # ms, database clock


@dataclass(frozen=True, slots=True)
class NewSession:
    """A login session just opened; `cookie` is the only copy of the secret that presents it."""

    sid: SessionId
    cookie: str
    auth_time: int  # ms
    expires_at: int  # ms


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A living login session and whose it is."""

    sid: SessionId
    user_id: UserId
    auth_time: int  # ms
    expires_at: int  # ms


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What a code stood for; redeeming it has made the grant."""

    grant_id: GrantId
    user_id: UserId
    client_id: ClientId
    session_id: SessionId  # the login session it was authorized in, also for offline grants
    redirect_uri: str
    scope: str
    resources: tuple[str, ...]
    nonce: str | None
    code_challenge: str
    auth_time: int  # ms


@dataclass(frozen=True, slots=True)
class Grant:
    """A living grant. `session_id` is None for offline_access, which outlives a sign-out."""

    grant_id: GrantId
    user_id: UserId
    client_id: ClientId
    session_id: SessionId | None
    scope: str
    resources: tuple[str, ...]
    auth_time: int  # ms
    expires_at: int  # ms, absolute


@dataclass(frozen=True, slots=True)
class WaitingDevice:
    """A device that began to wait: its own secret, and what it shows to a person."""

    device_code: str
    user_code: str
    expires_in: int  # s
    interval: int  # s


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a waiting device asks a person for."""

    client_id: ClientId
    scope: str
    resources: tuple[str, ...]
    signed_in_since: int  # ms: the earliest sign-in that will do; 0 for any


@dataclass(frozen=True, slots=True)
class Rotated:
    """A refresh token spent, and the one that follows it (the same one for every retry inside the window)."""

    grant: Grant
    successor: str


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A signed access token; `scope` is what was granted, which may be less than was asked for."""

    token: str
    claims: Mapping[str, Any]
    scope: str
    expires_in: int  # s


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a password is checked against. Read before hashing, so that `hard_gen` is from before it."""

    user_id: UserId
    password_hash: str
    hard_gen: int
    disabled: bool


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a person can be reached."""

    user_id: str
    email: str
    name: str
    disabled: bool


def new_id(prefix: str, entropy: Entropy) -> str:
    """`<prefix>_` and 128 random bits in base64url."""
    return f"{prefix}_{base64url(entropy(16))}" if prefix else base64url(entropy(16))


def new_secret(entropy: Entropy) -> str:
    """256 random bits in base64url: a cookie, a code, a refresh token."""
    return base64url(entropy(32))


def secret_digest(secret: str) -> str:
    """What is stored of a secret: SHA-256, hex. They are random 256 bits, so no salt and no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def scope_for(requested: Iterable[str], *, audience: str, roles: Iterable[str]) -> str:
    """What of `requested` means something at `audience` and is open to somebody with `roles`, in a stable order."""
    admin = "admin" in roles
    known = AUDIENCE_SCOPES.get(audience, frozenset())
    kept = {scope for scope in requested if scope in known and (admin or not scope.endswith(":admin"))}
    return " ".join(sorted(kept))


def base64url(raw: bytes) -> str:
    """Unpadded, as JOSE writes it (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
