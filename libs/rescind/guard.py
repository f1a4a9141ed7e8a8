"""Stands before a service: one call answers whether a request may pass, by the policy of its route.

A `Guard` joins a verifier, the feed that keeps it current, and somebody to ask when the feed is behind.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Protocol

from rescind.claims import Principal
from rescind.errors import (
    InsufficientScope,
    KeysUnavailable,
    NotFresh,
    RescindError,
    StepUpRequired,
    TokenRefused,
    UnknownKey,
)
from rescind.feed import Feed
from rescind.keys import KeySet, RemoteKeySet
from rescind.policy import STRICT, Staleness
from rescind.state import Freshness
from rescind.verifier import Verifier

MAX_QUESTIONS = 64  # introspections under way at once; more would not help an identity that is already slow

_log = logging.getLogger("rescind.guard")


class NobodyAnswered(Exception):
    """The issuer could not be reached, or did not answer in time. Any other failure is an answer, and refuses."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the issuer says of a token. `reason` is UPPER_SNAKE where it is not active, and may be empty."""

    active: bool
    reason: str = ""


class Introspector(Protocol):
    """The issuer, asked about one token (RFC 7662)."""

    async def introspect(self, unverified_token: str) -> Answer:
        """What the issuer says.

        Raises:
            NobodyAnswered: it said nothing.
        """
        ...


class GuardObserver:
    """Is told of every decision, for metrics. Subclass what you need; return quickly, do not raise."""

    def decided(self, outcome: str) -> None:
        """`outcome` is ACCEPTED, ACCEPTED_STALE, ACCEPTED_BY_ISSUER, or the reason of a refusal."""


class Guard:
    """Lets requests pass or refuses them. Run it beside your server: `async with guard.running(): ...`.

    `introspector` may be missing: then nobody ever answers. `ask_timeout` (seconds) bounds what a request waits for it,
    and what it waits for keys.
    """

    def __init__(
        self,
        verifier: Verifier,
        feed: Feed,
        *,
        keys: Iterable[KeySet] = (),
        introspector: Introspector | None = None,
        observer: GuardObserver | None = None,
        ask_timeout: float = 1.0,
    ) -> None:
        self.verifier = verifier
        self.feed = feed
        self._keys = [keyset for keyset in keys if isinstance(keyset, RemoteKeySet)]
        self._introspector = introspector
        self._observer = observer or GuardObserver()
        self._ask_timeout = ask_timeout
        self._questions = asyncio.Semaphore(MAX_QUESTIONS)

    async def authenticate(
        self,
        unverified_token: str,
        *,
        scopes: frozenset[str] = frozenset(),
        staleness: Staleness = STRICT,
        max_auth_age: int | None = None,
    ) -> Principal:
        """The principal of a token that is good right now, by `staleness`, and holds all of `scopes`.

        With `max_auth_age` (seconds) it speaks for a person who signed in so recently.

        Raises:
            TokenRefused: the token is no good; the subclass and `reason` say why.
            InsufficientScope: it is good, but lacks a scope.
            StepUpRequired: it is good, but the person signed in too long ago (RFC 9470).
            CannotTell: this process may have missed a revocation for longer than `staleness` allows, or has no keys.
        """
        try:
            principal, outcome = await self._judge(unverified_token, scopes, staleness)
            if max_auth_age is not None and not self.verifier.signed_in_within(principal, max_auth_age):
                raise StepUpRequired(max_auth_age)
        except RescindError as refusal:
            self._observer.decided(refusal.reason)
            raise
        self._observer.decided(outcome)
        return principal

    async def _judge(
        self, unverified_token: str, scopes: frozenset[str], staleness: Staleness
    ) -> tuple[Principal, str]:
        try:
            principal = self.verifier.verify_unless_revoked_later(unverified_token)
        except (UnknownKey, KeysUnavailable):
            # The key set may be behind: one fetch, shared and cooled down, and one more look.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._ask_timeout):
                    await asyncio.gather(*(keyset.refresh() for keyset in self._keys))
            principal = self.verifier.verify_unless_revoked_later(unverified_token)
        if not scopes <= principal.scopes:
            raise InsufficientScope(scopes)  # whatever else is true of it, and before anybody is asked
        freshness = self.verifier.freshness()
        if freshness is Freshness.FRESH:
            return principal, "ACCEPTED"
        if staleness.kind == "strict":
            raise NotFresh(f"revocations are {freshness.value}, and this is STRICT")
        if staleness.kind == "best_effort" and freshness is Freshness.STALE:
            _log.warning("accepted while revocations are STALE, by BEST_EFFORT")
            return principal, "ACCEPTED_STALE"
        try:
            answer = await self._ask(unverified_token)
        except NobodyAnswered:
            stale_for = self.verifier.stale_for()  # infinite while SYNCING
            if staleness.kind == "best_effort" or stale_for > staleness.seconds:
                raise NotFresh(f"revocations are {freshness.value}, and nobody answers") from None
            outcome = "ACCEPTED_STALE"
        else:
            if not answer.active:
                raise TokenRefused("the issuer refuses it", reason=answer.reason or None)
            outcome = "ACCEPTED_BY_ISSUER"
        # Meanwhile this process may have learned better.
        return self.verifier.verify_unless_revoked_later(unverified_token), outcome

    async def _ask(self, unverified_token: str) -> Answer:
        if self._introspector is None:
            raise NobodyAnswered("there is nobody to ask")
        try:
            # Waiting in line counts: whoever gets no turn in time has no answer either.
            async with asyncio.timeout(self._ask_timeout), self._questions:
                return await self._introspector.introspect(unverified_token)
        except TimeoutError:
            raise NobodyAnswered(f"no answer in {self._ask_timeout} s") from None
        except (NobodyAnswered, RescindError):
            raise
        except Exception as failure:  # an error is an answer too, and not a yes
            raise NotFresh(f"asking the issuer failed: {type(failure).__name__}") from None

    async def run(self) -> None:
        """Keeps knowledge and keys current until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run(), name="rescind-feed")
            for keyset in self._keys:
                group.create_task(_keep_current(keyset), name="rescind-keys")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the guard for the length of a block."""
        task = asyncio.create_task(self.run(), name="rescind-guard")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _keep_current(keyset: RemoteKeySet) -> None:
    while True:
        if keyset.due:
            await keyset.refresh()
        # Without any key nothing can be verified: then every second, else now and then.
        await asyncio.sleep(1.0 if keyset.empty else 15.0)
