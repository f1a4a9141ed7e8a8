"""Live streams that end when their token does: revoked, expired, too long unchecked, or the server stops.

A request is judged once; a stream would go on for hours after. So it holds a *lease*:

    async with guard.lease(token, scopes=frozenset({"orders:read"}), staleness=BOUNDED(900)) as lease:
        async for item in lease.stream(source):
            ...

**Nothing slips between.** The token is verified, the lease registered, and the token verified again: a revocation that
comes before the second look is found by it, one that comes after finds the lease.

**A revocation costs what it ends.** `lease_index` finds the leases that an entry, a key or the time may end, and no
other is looked at, save when a new log begins. What is found the verifier judges as it would a request, so the error is
the same.

**No stream has a timer.** Expiry is one heap and one timer of the event loop. While this process is not FRESH, `run`
holds all streams to their policies as `Guard.authenticate` holds requests: it asks the issuer about each *token* once a
round, few at a time, and when the issuer does not answer one question it asks no other in that round.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Protocol, TypeVar

from rescind.claims import Principal
from rescind.denylist import place_of
from rescind.errors import OtherHolder, RescindError, ServerStopping
from rescind.introspection import Answer, Questions, needs_answer, settle
from rescind.lease_index import LeaseIndex
from rescind.ledger import FeedObserver
from rescind.messages import RevocationMessage
from rescind.policy import Staleness
from rescind.state import Freshness
from rescind.verifier import Verified, Verifier

CLOSED = "CLOSED"  # why a lease ended whose block was left
ASKING = 8  # tokens that one process asks about at once, for all its streams
ASK_AGAIN = 3.0  # seconds between two questions about one token, while this process is not FRESH
TRY_AGAIN = 1.0  # seconds, when nobody answered; and how late a loss of freshness may be noticed
LONGEST_TIMER = 3600.0  # seconds; the wall clock may be set meanwhile

T = TypeVar("T")


class Authenticate(Protocol):
    """`Guard.authenticate`."""

    async def __call__(
        self,
        unverified_token: str,
        *,
        scopes: frozenset[str],
        staleness: Staleness,
        max_auth_age: int | None = None,
    ) -> Principal:
        """The principal, or a RescindError."""
        ...


class Lease:
    """One stream's right to go on, for the length of the block that `Guard.lease` opens.

    `verified` and `unverified_token` are those that it was begun or last extended with.
    """

    def __init__(
        self, leases: "Leases", verified: Verified, unverified_token: str, scopes: frozenset[str], staleness: Staleness
    ) -> None:
        self.verified = verified
        self.unverified_token = unverified_token
        self.scopes = scopes
        self.staleness = staleness
        self.error: RescindError | None = None  # what ended it
        self._leases = leases
        self._over = asyncio.Event()
        self._scoped: set[asyncio.Timeout] = set()

    @property
    def principal(self) -> Principal:
        """Who the stream is for."""
        return self.verified.principal

    async def stream(self, source: AsyncIterable[T]) -> AsyncGenerator[T, None]:
        """The items of `source` until it ends. It is closed in any case, and what it then does is waited for.

        Raises:
            RescindError: the lease ended; the item that was waited for is cancelled.
        """
        iterator = aiter(source)
        try:
            while True:
                async with self.while_good():
                    try:
                        item = await anext(iterator)
                    except StopAsyncIteration:
                        return
                yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    @contextlib.asynccontextmanager
    async def while_good(self) -> AsyncIterator[None]:
        """Cancels what the block waits for when the lease ends. Do not `yield` inside it.

        Raises:
            RescindError: the lease has ended.
        """
        self.raise_if_ended()
        scope = asyncio.timeout(None)  # its way to cancel, and to tell it from any other cancellation, is what we need
        try:
            async with scope:
                self._scoped.add(scope)
                try:
                    yield
                finally:
                    self._scoped.discard(scope)
        except Exception:
            if scope.expired():  # whatever the block made of being cancelled
                self.raise_if_ended()
            raise
        self.raise_if_ended()

    async def ended(self) -> RescindError:
        """Waits until something ends the lease, and tells what. It waits on where the block is simply left."""
        while self.error is None:
            await self._over.wait()
        return self.error

    async def extend(self, unverified_token: str) -> None:
        """Goes on under a newer token of the same holder, without a cut: a routine refresh.

        The same subject, client, audience, session and grant, and every scope that the stream needs.

        Raises:
            RescindError: the new token does not do, and the lease goes on under the old one; or the lease has ended.
        """
        await self._leases.extend(self, unverified_token)

    def end(self, error: RescindError) -> None:
        """Ends it now, with `error`, unless it has ended before."""
        if self._leases.leave(self, error.reason):
            self.error = error.with_traceback(None)
            self._over.set()
            now = asyncio.get_running_loop().time()
            for scope in tuple(self._scoped):
                scope.reschedule(now)
            self._scoped.clear()

    def raise_if_ended(self) -> None:
        """Returns while it holds.

        Raises:
            RescindError: what ended it.
        """
        if self.error is not None:
            raise self.error.with_traceback(None)


class Leases(FeedObserver):
    """All leases of one guard, which makes it. Belongs to one event loop.

    `ended` is told why each lease ended: the reason of its error, or CLOSED.
    """

    def __init__(
        self, verifier: Verifier, questions: Questions, authenticate: Authenticate, *, ended: Callable[[str], None]
    ) -> None:
        self._verifier = verifier
        self._questions = questions
        self._authenticate = authenticate
        self._ended = ended
        self._live: LeaseIndex[Lease] = LeaseIndex()
        self._timer: asyncio.TimerHandle | None = None
        self._occupied = asyncio.Event()
        self._stopping = False

    def __len__(self) -> int:
        """How many leases there are."""
        return len(self._live)

    @contextlib.asynccontextmanager
    async def opened(
        self,
        unverified_token: str,
        *,
        scopes: frozenset[str],
        staleness: Staleness,
        max_auth_age: int | None = None,
    ) -> AsyncIterator[Lease]:
        """A lease for the length of a block.

        Raises:
            RescindError: as `Guard.lease`.
        """
        self._refuse_when_stopping()
        await self._authenticate(unverified_token, scopes=scopes, staleness=staleness, max_auth_age=max_auth_age)
        self._refuse_when_stopping()
        lease = Lease(self, self._verifier.verified(unverified_token), unverified_token, scopes, staleness)
        self._enter(lease)
        try:
            self._check(lease)
            lease.raise_if_ended()
            yield lease
        finally:
            self.leave(lease, CLOSED)

    async def extend(self, lease: Lease, unverified_token: str) -> None:
        """As `Lease.extend`.

        Raises:
            RescindError: as `Lease.extend`.
        """
        lease.raise_if_ended()
        principal = await self._authenticate(unverified_token, scopes=lease.scopes, staleness=lease.staleness)
        lease.raise_if_ended()
        if lease not in self._live or _holder(principal) != _holder(lease.principal):
            raise OtherHolder("the stream belongs to another subject, client, session or grant")
        verified = self._verifier.verified(unverified_token)
        self._verifier.check(verified)  # nothing can come between this and what follows: there is no await
        lease.verified, lease.unverified_token = verified, unverified_token
        self._enter(lease)

    def leave(self, lease: Lease, reason: str) -> bool:
        """Knows the lease no more. False where it did not."""
        if not self._live.remove(lease):
            return False
        if not self._live:
            self._occupied.clear()
            self._set_timer()
        self._ended(reason)
        return True

    def stop(self) -> None:
        """Ends every lease with SERVER_STOPPING, and lets none begin any more."""
        self._stopping = True
        for lease in self._live.all():
            lease.end(ServerStopping("this server stops"))

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise ServerStopping("this server stops")

    def _enter(self, lease: Lease) -> None:
        next_before = self._live.next_expiry
        self._live.put(lease)
        self._occupied.set()
        if self._live.next_expiry != next_before:
            self._set_timer()

    # What ends them

    def revoked(self, message: RevocationMessage) -> None:
        """Ends what the entries match."""
        for entry in message.entries:
            self._check_all(self._live.at(place_of(entry)))

    def began(self, log: str) -> None:  # noqa: ARG002
        """Looks at every lease again: what was found before need not be true of another log."""
        self._check_all(self._live.all())

    def accepts(self, kids: frozenset[str]) -> None:
        """Ends what was signed under any other key."""
        self._check_all(self._live.not_under(kids))

    def renewed(self, log: str, position: int) -> None:  # noqa: ARG002
        """Sees to expiry: by identity's clock, and by ours, which may have been set."""
        self.expire()

    def expire(self) -> None:
        """Ends what has expired by now."""
        self._check_all(self._live.pop_expired(self._verifier.now()))
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        expiry = self._live.next_expiry
        if expiry is not None:
            delay = min(max(0.001, expiry - self._verifier.now()), LONGEST_TIMER)
            self._timer = asyncio.get_running_loop().call_later(delay, self.expire)

    def _check_all(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self._check(lease)

    def _check(self, lease: Lease) -> None:
        try:
            self._verifier.check(lease.verified)
        except RescindError as error:
            lease.end(error)

    # Staleness

    async def run(self) -> None:
        """Holds every stream to its staleness policy until cancelled."""
        while True:
            await self._occupied.wait()
            if self._verifier.fresh_for() == 0:
                await asyncio.sleep(await self.hold_to_policies())
            else:
                await asyncio.sleep(min(self._verifier.fresh_for(), TRY_AGAIN))

    async def hold_to_policies(self) -> float:
        """Ends the streams that may not go on while this process is not FRESH. Seconds until they are due again."""
        in_question: dict[str, list[Lease]] = {}
        freshness = self._verifier.freshness()
        for lease in self._live.all():
            try:
                if needs_answer(lease.staleness, freshness):
                    in_question.setdefault(lease.unverified_token, []).append(lease)
            except RescindError as error:
                lease.end(error)
        if await self._ask_about(in_question):
            # Spread, so that processes which lost the same Redis do not ask identity in step.
            return ASK_AGAIN * random.uniform(0.8, 1.2)  # noqa: S311
        stale_for = self._verifier.stale_for()
        bounds = (each.staleness.seconds - stale_for for each in self._live.all() if each.staleness.kind == "bounded")
        return min([TRY_AGAIN, *(left for left in bounds if left > 0)])

    async def _ask_about(self, in_question: dict[str, list[Lease]]) -> bool:
        """Puts the question about each token to the issuer, and judges its leases. False where nobody answered."""
        left = deque(in_question.items())
        silent = False

        async def ask_in_turn() -> None:
            nonlocal silent
            while left and self._verifier.freshness() is not Freshness.FRESH:
                unverified_token, leases = left.popleft()
                answer: Answer | None = None
                refusal: RescindError | None = None
                if not silent:
                    try:
                        answer = await self._questions.ask(unverified_token)
                        if answer is None:
                            silent = True
                    except RescindError as error:
                        refusal = error
                for lease in leases:
                    if lease.unverified_token == unverified_token:  # else it was judged when it was extended
                        self._settle(lease, answer, refusal)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(ASKING, len(left))):
                group.create_task(ask_in_turn(), name="rescind-ask")
        return not silent

    def _settle(self, lease: Lease, answer: Answer | None, refusal: RescindError | None) -> None:
        freshness = self._verifier.freshness()
        if refusal is not None:
            lease.end(refusal)
        elif answer is not None or freshness is not Freshness.FRESH:
            try:
                settle(answer, lease.staleness, freshness, self._verifier.stale_for())
            except RescindError as error:
                lease.end(error)


def _holder(principal: Principal) -> tuple[str | None, ...]:
    return principal.subject, principal.client_id, principal.audience, principal.sid, principal.gid
