"""Is this bearer token good, right now, without asking anyone?

A `Guard` verifies RS256 access tokens (RFC 9068) locally, against a denylist that identity keeps current through a
signed stream of revocations, and knows whether it may have missed one.

    async with connected(Addresses(...)) as guard:
        principal = await guard.authenticate(token, scopes=frozenset({"orders:read"}), staleness=BOUNDED(60))

The way of a request: `fastapi` or `grpc` → `guard` → `verifier` → `jws`, `keys`, `claims`, `denylist`.
The way of a revocation: `redis_source` or `grpc_source` → `feed` → `chain`, `ledger` → `denylist`.
`state.Knowledge` is where the two meet. `fastapi`, `grpc`, `redis_source`, `grpc_source`, `connect` and `testing` need
their extras; everything else needs cryptography and httpx2 alone.
"""

from rescind.claims import Principal, PriorActor
from rescind.clock import Clock
from rescind.denylist import Denylist
from rescind.errors import (
    CannotTell,
    ExpiredToken,
    InsufficientScope,
    KeysUnavailable,
    MalformedToken,
    MissingToken,
    NotFresh,
    RescindError,
    RevokedToken,
    StepUpRequired,
    TokenRefused,
    UnknownKey,
    UntrustedToken,
)
from rescind.feed import Feed, LogSource, ReplaySource
from rescind.guard import Answer, Guard, GuardObserver, Introspector, NobodyAnswered
from rescind.keys import KeySet, RemoteKeySet, StaticKeySet, http_fetch
from rescind.ledger import FeedObserver
from rescind.policy import BEST_EFFORT, BOUNDED, STRICT, Staleness
from rescind.state import Freshness, Knowledge
from rescind.verifier import Verifier

__all__ = [
    "BEST_EFFORT",
    "BOUNDED",
    "STRICT",
    "Answer",
    "CannotTell",
    "Clock",
    "Denylist",
    "ExpiredToken",
    "Feed",
    "FeedObserver",
    "Freshness",
    "Guard",
    "GuardObserver",
    "InsufficientScope",
    "Introspector",
    "KeySet",
    "KeysUnavailable",
    "Knowledge",
    "LogSource",
    "MalformedToken",
    "MissingToken",
    "NobodyAnswered",
    "NotFresh",
    "Principal",
    "PriorActor",
    "RemoteKeySet",
    "ReplaySource",
    "RescindError",
    "RevokedToken",
    "Staleness",
    "StaticKeySet",
    "StepUpRequired",
    "TokenRefused",
    "UnknownKey",
    "UntrustedToken",
    "Verifier",
    "http_fetch",
]
