"""Stands before a service: one call answers whether a request may pass, by the policy of its route.

A `Guard` joins a verifier, the feed that keeps it current, and somebody to ask when the feed is behind.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

from rescind.claims import Principal
from rescind.errors import InsufficientScope, KeysUnavailable, RescindError, StepUpRequired, UnknownKey
from rescind.feed import Feed
from rescind.introspection import Introspector, Questions, needs_answer, settle
from rescind.keys import KeySet, RemoteKeySet
from rescind.leases import Lease, Leases
from rescind.policy import STRICT, Staleness
from rescind.receipts import Reporter
from rescind.state import Freshness
from rescind.verifier import Verifier

_log = logging.getLogger("rescind.guard")


class GuardObserver:
    """Is told of every decision, for metrics. Subclass what you need; return quickly, do not raise."""

    def decided(self, outcome: str) -> None:
        """`outcome` is ACCEPTED, ACCEPTED_STALE, ACCEPTED_BY_ISSUER, or the reason of a refusal."""

    def ended(self, reason: str) -> None:
        """A live stream's lease ended: `reason` is that of the error that ended it, or CLOSED where its stream did."""


class Guard:
    """Lets requests pass or refuses them. Run it beside your server: `async with guard.running(): ...`.

    `introspector` may be missing: then nobody ever answers. `reporter` runs along. `ask_timeout` (seconds) bounds what
    a request waits for the issuer, and what it waits for keys.
    """

    def __init__(
        self,
        verifier: Verifier,
        feed: Feed,
        *,
        keys: Iterable[KeySet] = (),
        introspector: Introspector | None = None,
        observer: GuardObserver | None = None,
        reporter: Reporter | None = None,
        ask_timeout: float = 1.0,
    ) -> None:
        self.verifier = verifier
        self.feed = feed
        self._keys = [keyset for keyset in keys if isinstance(keyset, RemoteKeySet)]
        self._observer = observer or GuardObserver()
        self._ask_timeout = ask_timeout
        self._introspector = introspector
        self._questions = Questions(introspector, timeout=ask_timeout)
        self.leases = Leases(verifier, self._questions, self.authenticate, ended=self._observer.ended)
        feed.observe(self.leases)
        self._others: list[Guard] = []
        self._reporter = reporter

    def for_audience(self, audience: str) -> "Guard":
        """One like this for another service's tokens, on the same feed: for whoever holds tokens for several.

        It need not run: this one keeps keys and knowledge current for both, and holds its streams to their policies if
        it was made before this one runs.
        """
        other = Guard(
            self.verifier.for_audience(audience),
            self.feed,
            keys=self._keys,
            introspector=self._introspector,
            observer=self._observer,
            ask_timeout=self._ask_timeout,
        )
        self._others.append(other)
        return other

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
        outcome = "ACCEPTED"
        freshness = self.verifier.freshness()
        if needs_answer(staleness, freshness):
            answer = await self._questions.ask(unverified_token)
            settle(answer, staleness, freshness, self.verifier.stale_for())
            outcome = "ACCEPTED_STALE" if answer is None else "ACCEPTED_BY_ISSUER"
            # Meanwhile this process may have learned better.
            principal = self.verifier.verify_unless_revoked_later(unverified_token)
        elif freshness is not Freshness.FRESH:
            _log.warning("accepted while revocations are STALE, by BEST_EFFORT")
            outcome = "ACCEPTED_STALE"
        return principal, outcome

    def lease(
        self,
        unverified_token: str,
        *,
        scopes: frozenset[str] = frozenset(),
        staleness: Staleness = STRICT,
        max_auth_age: int | None = None,
    ) -> contextlib.AbstractAsyncContextManager[Lease]:
        """A live stream's tie to its token, for the length of a block (`rescind.leases`).

        How recently the person signed in (`max_auth_age`) is asked when the stream begins, not again.

        Raises:
            RescindError: as `authenticate`; ServerStopping where no stream begins any more.
        """
        return self.leases.opened(unverified_token, scopes=scopes, staleness=staleness, max_auth_age=max_auth_age)

    async def run(self) -> None:
        """Keeps knowledge and keys current until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.feed.run(), name="rescind-feed")
            for guard in (self, *self._others):
                group.create_task(guard.leases.run(), name="rescind-leases")
            if self._reporter is not None:
                group.create_task(self._reporter.run(), name="rescind-receipts")
            for keyset in self._keys:
                group.create_task(_keep_current(keyset), name="rescind-keys")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the guard for the length of a block."""
        task = asyncio.create_task(self.run(), name="rescind-guard")
        try:
            yield
        finally:
            for guard in (self, *self._others):
                guard.leases.stop()
            task.cancel()
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait({task})
                raise
            if not task.cancelled():
                task.result()


async def _keep_current(keyset: RemoteKeySet) -> None:
    while True:
        if keyset.due:
            await keyset.refresh()
        # Without any key nothing can be verified: then every second, else now and then.
        await asyncio.sleep(1.0 if keyset.empty else 15.0)
