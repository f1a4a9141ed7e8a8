"""Judges an access token here and now: synchronous, no await, no I/O.

The order of the checks: shape, algorithm and kind (`jws`), key, signature, claims (`claims`), and then what can change
while a token lives: is its key still accepted, has it expired, does an entry match, and is all of that knowledge fresh.
The first part depends on nothing but the bytes of the token, so it is remembered, under the token's digest; the second
is done at every call.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from rescind.claims import Expectations, Principal, principal_from
from rescind.clock import Clock
from rescind.denylist import TokenKeys, keys_of
from rescind.errors import (
    ExpiredToken,
    KeysUnavailable,
    MalformedToken,
    NotFresh,
    RevokedToken,
    UnknownKey,
)
from rescind.jws import MAX_TOKEN_BYTES, parse
from rescind.keys import KeySet
from rescind.state import Freshness, Knowledge

ACCESS_TOKEN_TYPES = frozenset({"at+jwt"})  # RFC 9068 section 2.1


class KnowsRevocations(Protocol):
    """Whoever holds the current knowledge: the feed."""

    @property
    def knowledge(self) -> Knowledge:
        """The knowledge of this moment."""
        ...


@dataclass(slots=True, eq=False)
class Verified:
    """A token whose shape, signature and claims hold: what is left to ask, as long as it lives. Made by `Verifier`.

    `dies_at` is seconds since the epoch: its expiry, and the leeway.
    """

    principal: Principal
    keys: TokenKeys
    kid: str
    dies_at: float
    clean_at: int = 0  # the version of the denylist in which nothing matched


class Verifier:
    """Verifies access tokens (RFC 9068) of one issuer for one audience. Belongs to one event loop.

    `max_life` and `leeway` are seconds; `remembered` bounds how many verified tokens are kept (their digests, not the
    tokens).
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySet,
        feed: KnowsRevocations,
        *,
        max_life: int = 3600,
        leeway: int = 5,
        remembered: int = 20_000,
        clock: Clock | None = None,
    ) -> None:
        self._expected = Expectations(issuer, audience, leeway, max_life)
        self._keys = keys
        self._feed = feed
        clock = clock or Clock()
        self._wall = clock.wall
        self._monotonic = clock.monotonic
        # Two generations of half the bound each: when the young one is full, the old one is let go. What is used is
        # carried over, so this is close to least-recently-used, without a list to maintain at every hit.
        self._half = max(1, remembered // 2)
        self._young: dict[bytes, Verified] = {}
        self._old: dict[bytes, Verified] = {}

    @property
    def audience(self) -> str:
        """The one service that this verifier speaks for."""
        return self._expected.audience

    @property
    def keys(self) -> KeySet:
        """Where it finds the issuer's keys."""
        return self._keys

    def for_audience(self, audience: str) -> "Verifier":
        """One like this for another service, on the same keys and knowledge: for whoever holds tokens for several."""
        expected = self._expected
        return Verifier(
            expected.issuer,
            audience,
            self._keys,
            self._feed,
            max_life=expected.max_life,
            leeway=expected.leeway,
            remembered=2 * self._half,
            clock=Clock(wall=self._wall, monotonic=self._monotonic),
        )

    def freshness(self) -> Freshness:
        """Whether a revocation may have been missed, at this moment."""
        return self._feed.knowledge.freshness(self._monotonic())

    def now(self) -> float:
        """Seconds since the epoch by which tokens expire here: this clock, or identity's where that is ahead."""
        return max(self._wall(), self._feed.knowledge.at_least)

    def fresh_for(self) -> float:
        """Seconds that are left until this verifier is no longer fresh; 0 where it is not."""
        return max(0.0, self._feed.knowledge.fresh_until - self._monotonic())

    def stale_for(self) -> float:
        """Seconds since this verifier was last fresh; 0 while it is, infinity if it never was."""
        return max(0.0, self._monotonic() - self._feed.knowledge.fresh_until)

    def signed_in_within(self, principal: Principal, seconds: int) -> bool:
        """Whether the person behind a token signed in so recently; never true of a client that speaks for itself."""
        now = max(self._wall(), self._feed.knowledge.at_least)
        return principal.auth_time is not None and now < principal.auth_time + seconds + self._expected.leeway

    def verify(self, unverified_token: str) -> Principal:
        """The principal of a token that is good right now.

        Raises:
            MalformedToken, UntrustedToken, ExpiredToken, RevokedToken: it is not.
            NotFresh: it may be, but a revocation may have been missed.
            KeysUnavailable: there is no key to judge it with.
        """
        principal = self.verify_unless_revoked_later(unverified_token)
        if self._monotonic() >= self._feed.knowledge.fresh_until:
            raise NotFresh(f"revocations are {self.freshness().value}")
        return principal

    def verify_unless_revoked_later(self, unverified_token: str) -> Principal:
        """All of `verify` but freshness: good as far as this process knows, however long ago it last knew everything.

        The caller must then decide by a staleness policy (`Guard.authenticate` does).

        Raises:
            MalformedToken, UntrustedToken, ExpiredToken, RevokedToken, KeysUnavailable: as `verify`.
        """
        verified = self.verified(unverified_token)
        self.check(verified)
        return verified.principal

    def verified(self, unverified_token: str) -> Verified:
        """What a token says, its signature and claims checked now or remembered. It may have been revoked: `check` it.

        Raises:
            MalformedToken, UntrustedToken, ExpiredToken, RevokedToken, KeysUnavailable: as `verify`.
        """
        if len(unverified_token) > MAX_TOKEN_BYTES:
            raise MalformedToken(f"longer than {MAX_TOKEN_BYTES} bytes")
        try:
            digest = sha256(unverified_token.encode("ascii")).digest()
        except UnicodeEncodeError:
            raise MalformedToken("not ASCII") from None
        known = self._young.get(digest)
        if known is None:
            known = self._recall(digest) or self._remember(digest, self._judge(unverified_token))
        return known

    def check(self, verified: Verified) -> None:
        """Returns if, at this moment, its key is accepted, it has not expired, and no entry matches it.

        Raises:
            ExpiredToken, RevokedToken: otherwise.
        """
        knowledge = self._feed.knowledge
        if knowledge.kids is not None and verified.kid not in knowledge.kids:
            raise RevokedToken("key", "KEY_REVOKED")
        if self._wall() >= verified.dies_at or knowledge.at_least >= verified.dies_at:
            raise ExpiredToken("expired")
        denylist = knowledge.denylist
        if verified.clean_at != denylist.version:  # as long as nothing was added, nothing new can match
            refusal = denylist.match(verified.keys, verified.clean_at)
            if refusal is not None:
                raise refusal
            verified.clean_at = denylist.version

    def _judge(self, unverified_token: str) -> Verified:
        jws = parse(unverified_token, types=ACCESS_TOKEN_TYPES)
        knowledge = self._feed.knowledge
        key = self._keys.key(jws.kid)
        if knowledge.kids is not None and jws.kid not in knowledge.kids:
            if jws.kid in knowledge.former_kids:
                raise RevokedToken("key", "KEY_REVOKED")
            if key is None:
                raise UnknownKey("no key of this kid")
            # The issuer publishes it, but no heartbeat has named it yet: brand new, and we are a moment behind.
            raise KeysUnavailable("the key is not yet known to be accepted")
        if key is None:
            if self._keys.empty or knowledge.kids is not None:
                raise KeysUnavailable("the key is accepted, but this process could not fetch it")
            raise UnknownKey("no key of this kid")
        principal = principal_from(jws.verified_claims(key), self._expected, max(self._wall(), knowledge.at_least))
        return Verified(
            principal=principal,
            keys=keys_of(principal),
            kid=jws.kid,
            dies_at=principal.expires_at + self._expected.leeway,
        )

    def _recall(self, digest: bytes) -> Verified | None:
        known = self._old.get(digest)
        return None if known is None else self._remember(digest, known)

    def _remember(self, digest: bytes, verified: Verified) -> Verified:
        if len(self._young) >= self._half:
            self._old = self._young
            self._young = {}
        self._young[digest] = verified
        return verified
