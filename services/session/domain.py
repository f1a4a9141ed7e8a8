"""What a browser session is. Knows no wire, no store and no clock.

A session has two names. The *secret* is in the cookie and nowhere else; what is stored is its SHA-256, the *key*. The
*name* (`ses_...`) is for people and lists: whoever knows it can do nothing with it.
"""

import base64
import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NewType
from urllib.parse import urlsplit

SessionSecret = NewType("SessionSecret", str)  # 43 characters: 256 random bits, base64url
SessionKey = NewType("SessionKey", str)  # SHA-256 of the secret, hex
SessionName = NewType("SessionName", str)  # ses_ and 22 characters

# `entropy(n)` gives n unpredictable bytes: secrets.token_bytes everywhere but in tests.
Entropy = Callable[[int], bytes]

IDENTITY, SESSION = "urn:rescind:identity", "urn:rescind:session"
ORDERS, NOTIFICATIONS = "urn:rescind:orders", "urn:rescind:notifications"
AUDIENCES = (IDENTITY, ORDERS, NOTIFICATIONS)  # what the people of this app are given tokens for
ADMIN = "identity:admin"  # the scope

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"ses_[A-Za-z0-9_-]{22}")
_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?#-]*")
_LONGEST_PATH = 512
_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Whose it is, what it hangs on at identity, and how long it lives. Times are milliseconds since the epoch.

    `gen` and `cgen` are the generations of its newest token: a revocation of the person or the client that names a
    higher one means this session.
    """

    key: SessionKey
    name: SessionName
    subject: str
    sid: str
    gid: str
    client_id: str
    gen: int
    cgen: int
    display_name: str
    email: str = field(repr=False)
    device: str
    address: str
    authenticated_at: int
    created_at: int
    last_used_at: int
    expires_at: int  # absolute: no use moves it


@dataclass(frozen=True, slots=True)
class SealedToken:
    """An access token as it is kept: encrypted, with what may be known of it without opening it."""

    sealed: str
    expires_at: int  # ms
    scope: str


@dataclass(frozen=True, slots=True)
class Held:
    """A session and the tokens in it. `version` counts refreshes: whoever saves names the one that was read."""

    session: Session
    refresh: str  # sealed
    version: int
    rotated_at: int  # ms: when the refresh token last changed
    tokens: Mapping[str, SealedToken] = field(default_factory=lambda: MappingProxyType({}))  # by audience

    @property
    def scopes(self) -> frozenset[str]:
        """What the newest token for each audience permits."""
        return frozenset(scope for token in self.tokens.values() for scope in token.scope.split())


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that a browser has begun: what the answer must fit. Kept under the digest of the pre-login cookie."""

    state: str
    nonce: str
    verifier: str = field(repr=False)
    return_to: str
    replaces: SessionKey | None  # re-authentication: the session that the new one takes the place of
    subject: str | None  # re-authentication: who must come back
    begun_at: int  # ms


@dataclass(frozen=True, slots=True)
class PendingSignOut:
    """A sign-out that identity has not heard of: what is needed to tell it, and until when that makes sense."""

    key: SessionKey
    sid: str
    refresh: str  # sealed, as in the session that it was in
    since: int  # ms
    expires_at: int  # ms: when the session would have ended by itself


def new_secret(entropy: Entropy) -> str:
    """256 random bits, base64url: a session's secret, a state, a nonce, a PKCE verifier."""
    return base64.urlsafe_b64encode(entropy(32)).rstrip(b"=").decode()


def new_name(entropy: Entropy) -> SessionName:
    """The public name of a new session."""
    return SessionName("ses_" + base64.urlsafe_b64encode(entropy(16)).rstrip(b"=").decode())


def key_of(secret: str) -> SessionKey:
    """Where a secret is looked up. They are 256 random bits, so no salt and no slow hash is needed."""
    return SessionKey(hashlib.sha256(secret.encode()).hexdigest())


def is_secret(text: str) -> bool:
    """Whether `text` can be a session's secret at all."""
    return _SECRET.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether `text` can name a session at all."""
    return _NAME.fullmatch(text) is not None


def return_path(asked: str | None) -> str:
    """Where to go after signing in: `asked` if it is a path of this app, else its first page.

    A browser reads `//host`, `/\\host` and a leading control character as another site; none of them passes.
    """
    if not asked or len(asked) > _LONGEST_PATH or _PATH.fullmatch(asked) is None or asked.startswith("//"):
        return "/"
    parts = urlsplit(asked)
    # What begins a sign-in, or ends one, is no place to come back to.
    if parts.scheme or parts.netloc or parts.path.startswith(("/auth/", "/api/")):
        return "/"
    return asked


def device_of(user_agent: str) -> str:
    """ "Firefox on Linux": what people recognise their devices by. Never the text itself, which anybody chooses."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "A browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser


def coarse_address(host: str) -> str:
    """The network that an address is in (/24, /48): enough to recognise a place, too little to find a person."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None) or address
    return str(ipaddress.ip_network(f"{mapped}/{24 if mapped.version == 4 else 48}", strict=False))
