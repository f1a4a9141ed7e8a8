"""What identity's signed words do to a process's knowledge. No I/O, no await: who listens and asks is `feed`.

A heartbeat says how far the log goes, with which hash, which keys are accepted, and when. It is *satisfied* when every
position from its floor to its head is held and the hashes match; from then on knowledge is fresh for `max_staleness`
seconds after the heartbeat was true. Nothing takes freshness away but time: a newer heartbeat that is not yet
satisfied does not, and neither does garbage.

What each piece rests on:

- A message counts if its own signature holds, or if the chain of hashes from it ends in something signed.
- A signed message applies at once, also ahead of its predecessors: refusing early is safe. Its position counts only
  when there is no gap before it.
- `at` only moves forward, so an old heartbeat played again is nothing. Only an answer with our own nonce may move it
  back: then identity's clock was set back.
- Age is counted from when a heartbeat arrived and by its `at`, whichever is older, if the clocks are within
  MAX_CLOCK_SKEW. If they are not, a pushed heartbeat still says what is revoked, and nothing about age: `in_doubt` asks
  for an answer with a nonce, which is aged from when it was asked for.
- A head smaller than one that was signed before is no word of an honest log, nor are two messages at one position:
  identity's database went back in time. Knowledge is not renewed on such a log any more; identity begins a new one.
- A new log is held in full beside the old one, then takes its place in one step. The old one is never returned to.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rescind.chain import Chain, Chained, Collected, Missing
from rescind.clock import Clock
from rescind.messages import Heartbeat, RevocationMessage
from rescind.state import Knowledge

MAX_CLOCK_SKEW = 2.0  # seconds between identity's clock and ours beyond which `at` says nothing about age
MAX_PENDING = 4096  # messages ahead of their predecessors; with more, only catching up helps
MAX_FORMER_KIDS = 64
TURN = 200  # messages that are applied before others get their turn: some 5 ms

_log = logging.getLogger("rescind.ledger")


class FeedObserver:
    """Is told what happens, for metrics and receipts. Subclass what you need; return quickly, do not raise."""

    def applied(self, log: str, position: int, delay: float) -> None:
        """A revocation was applied, `delay` seconds after its `at` (by two clocks, so with their difference)."""

    def revoked(self, message: RevocationMessage) -> None:
        """The entries of a message are in the denylist: pushed, caught up with, or of a log that is new altogether.

        A message may come again; none of a log comes before `began` says that the log is held.
        """

    def began(self, log: str) -> None:
        """Another log is held now, the first included: everything known of the one before is gone."""

    def accepts(self, kids: frozenset[str]) -> None:
        """From now on only tokens under these keys are accepted; told when they are others than before."""

    def renewed(self, log: str, position: int) -> None:
        """A heartbeat is satisfied: everything up to `position` is held, so knowledge is fresh once more."""

    def unreadable(self, why: str) -> None:
        """A message could not be read, or not be trusted."""

    def caught_up(self, source: str, messages: int) -> None:
        """A catch-up from `source`, "log" or "replay", brought that many messages."""


class Observers(FeedObserver):
    """Tells several. One that raises is logged, and harms neither the others nor what this process knows."""

    def __init__(self, *observers: FeedObserver) -> None:
        self._all = list(observers)

    def add(self, observer: FeedObserver) -> None:
        """Tells that one too, from now on."""
        self._all.append(observer)

    def applied(self, log: str, position: int, delay: float) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.applied(log, position, delay))

    def revoked(self, message: RevocationMessage) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.revoked(message))

    def began(self, log: str) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.began(log))

    def accepts(self, kids: frozenset[str]) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.accepts(kids))

    def renewed(self, log: str, position: int) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.renewed(log, position))

    def unreadable(self, why: str) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.unreadable(why))

    def caught_up(self, source: str, messages: int) -> None:
        """Passed on."""
        self._tell(lambda observer: observer.caught_up(source, messages))

    def _tell(self, tell: Callable[[FeedObserver], None]) -> None:
        for observer in self._all:
            try:
                tell(observer)
            except Exception:
                _log.exception("an observer of the feed failed")


@dataclass(frozen=True, slots=True)
class Heard:
    """A heartbeat, and since when (monotonic seconds) its word counts; None where the clocks cannot tell."""

    heartbeat: Heartbeat
    origin: float | None


class Ledger:
    """The revocations of one issuer, as far as this process has them."""

    def __init__(self, *, max_staleness: float, observer: FeedObserver, clock: Clock) -> None:
        self._max_staleness = max_staleness
        self._observer = observer
        self._clock = clock
        self.knowledge = Knowledge()
        self.in_doubt = False  # only an answer with our own nonce will do
        self._chain = Chain("")  # no log is called "": before the first heartbeat nothing fits
        self._following = ""  # the log that the newest heartbeat speaks of; `_chain` may still be of the one before
        self._head = 0  # of the log that is followed
        self._newest_at = 0
        self._heard_at = float("-inf")
        self._floor = 1  # the highest that was relied on, of the log that is held
        self._dropped_at = 0.0  # seconds, by identity's clock
        self._unsatisfied: Heard | None = None  # the newest heartbeat, while something of it is missing
        self._pending: dict[int, Chained] = {}  # of the log that is followed, waiting for their predecessors
        self._retired: set[str] = set()  # grows by one with each restored backup
        self._forked = False

    @property
    def held(self) -> tuple[str, int]:
        """The log and the position up to which everything alive is held."""
        return self._chain.log, self._chain.position

    @property
    def missing(self) -> Missing | None:
        """What has to be got for the newest heartbeat, or for a message that came ahead; None when nothing is."""
        chain = self._chain
        if self._unsatisfied is not None:
            return self.missing_for(self._unsatisfied.heartbeat)
        if self._pending and chain.log == self._following:
            first = min(self._pending)
            return Missing(chain.log, chain.position, first - 1, self._pending[first].message.prev)
        return None

    def missing_for(self, heartbeat: Heartbeat) -> Missing:
        """What has to be got, at most, for that heartbeat to be satisfied."""
        after = heartbeat.floor - 1
        if heartbeat.log == self._chain.log:
            after = max(after, self._chain.position)
        return Missing(heartbeat.log, after, heartbeat.head, heartbeat.hash)

    def take(self, chained: Chained) -> None:
        """Takes a revocation whose own signature holds."""
        message, chain = chained.message, self._chain
        if message.log != self._following or message.pos in self._pending:
            return  # of a log that no heartbeat has spoken of: when one does, it will be missing
        if message.log == chain.log:
            if chain.contradicts(chained):
                self._fork()
            if message.pos <= chain.position:
                return
        if len(self._pending) < MAX_PENDING:
            self._pending[message.pos] = chained
            if message.log == chain.log:
                self._apply(self.knowledge, chained)
        self._settle()

    def hear(self, heartbeat: Heartbeat) -> bool:
        """Takes a pushed heartbeat whose signature holds. True if it is news of a log that we go by."""
        if heartbeat.at <= self._newest_at:
            return False
        age = self._clock.wall() - heartbeat.at / 1000
        if abs(age) <= MAX_CLOCK_SKEW:
            return self._accept(Heard(heartbeat, self._clock.monotonic() - max(0.0, age)))
        self.in_doubt = True  # held back, or clocks that disagree
        return self._accept(Heard(heartbeat, None))

    def hear_answer(self, heartbeat: Heartbeat, asked_at: float) -> Heard:
        """Takes a signed heartbeat that repeats our nonce: it is younger than the question, whatever its `at`."""
        self.in_doubt = False
        heard = Heard(heartbeat, asked_at)
        if heartbeat.at > self._newest_at or self._heard_at < asked_at:
            self._accept(heard)
        return heard

    def absorb(self, collected: Collected) -> Iterator[None]:
        """Applies messages that something signed vouches for. Yields now and then, for others to have their turn.

        Pushes may come in between; nothing is applied twice, and nothing is held that does not fit.
        """
        if not collected.messages or collected.log != self._following:
            return
        if collected.log == self._chain.log:
            yield from self._continue(collected)
        else:
            yield from self._begin(collected)
        self._settle()

    def confirm(self, heard: Heard) -> None:
        """Renews freshness by an answer if it is satisfied by now, though a newer heartbeat may have come meanwhile."""
        heartbeat = heard.heartbeat
        current = heartbeat.log == self._following == self._chain.log and heartbeat.head >= self._head
        if current and not self._forked and self._chain.hash_at(heartbeat.head) == heartbeat.hash:
            self._renew(heard)

    def _accept(self, heard: Heard) -> bool:
        heartbeat = heard.heartbeat
        if heartbeat.log in self._retired:
            return False
        if heartbeat.log != self._following:
            if self._following:
                self._retired.add(self._following)
                _log.warning("identity began a new log; everything is held anew")
            self._following, self._head, self._forked = heartbeat.log, 0, False
            self._pending.clear()
        if heartbeat.head < self._head:
            return False
        self._newest_at, self._head = heartbeat.at, heartbeat.head
        self._heard_at = self._clock.monotonic()
        self._accept_kids(heartbeat.kids)  # at once: leaving a key out must not wait for the log
        self.knowledge.at_least = max(heartbeat.at / 1000, self._dropped_at)
        self._unsatisfied = None if self._forked else heard
        self._settle()
        return True

    def _accept_kids(self, kids: frozenset[str]) -> None:
        knowledge = self.knowledge
        if knowledge.kids is not None and kids != knowledge.kids:
            former = [*sorted(knowledge.kids - kids), *sorted(knowledge.former_kids - knowledge.kids - kids)]
            knowledge.former_kids = frozenset(former[:MAX_FORMER_KIDS])
        changed, knowledge.kids = kids != knowledge.kids, kids
        if changed:
            self._observer.accepts(kids)

    def _settle(self) -> None:
        """Moves on as far as what is held allows: pending messages, the position, the newest heartbeat."""
        self._drain()
        if self._unsatisfied is None or self._forked:
            return
        heartbeat = self._unsatisfied.heartbeat
        behind = self._chain.log != heartbeat.log or self._chain.position < heartbeat.head
        if behind and heartbeat.floor <= heartbeat.head:
            return
        if behind:  # nothing is alive in the log, so nothing of it is missing
            self._hold(Chain(heartbeat.log, heartbeat.head, heartbeat.hash))
            self._drain()
        heard, self._unsatisfied = self._unsatisfied, None
        known = self._chain.hash_at(heartbeat.head)
        if known == heartbeat.hash:
            self._renew(heard)
        elif known is not None:
            self._fork()
        # Else its head is further back than our memory of hashes: the next heartbeat will tell.

    def _drain(self) -> None:
        chain = self._chain
        if chain.log == self._following and not self._forked:
            while (chained := self._pending.pop(chain.position + 1, None)) is not None:
                if not chain.follows(chained):
                    self._fork()
                    break
                chain.extend(chained)
            if self._pending and min(self._pending) <= chain.position:
                self._pending = {pos: held for pos, held in self._pending.items() if pos > chain.position}
        self.knowledge.position = chain.position

    def _renew(self, heard: Heard) -> None:
        knowledge, at = self.knowledge, heard.heartbeat.at / 1000
        dropped = knowledge.denylist.drop_below(heard.heartbeat.floor)
        if dropped or heard.heartbeat.floor > self._floor:  # or never got, because it was dead
            self._floor = heard.heartbeat.floor
            # What was dropped was dead by identity's clock. Ours may be behind, or identity's be set back: from now on
            # it is at least as late here as it was there (see _accept), so no token that an entry had matched comes
            # back to life.
            self._dropped_at = max(self._dropped_at, at)
        if heard.origin is not None and heard.origin + self._max_staleness > knowledge.fresh_until:
            knowledge.fresh_until = heard.origin + self._max_staleness
            self._observer.renewed(self._chain.log, self._chain.position)

    def _continue(self, collected: Collected) -> Iterator[None]:
        for count, chained in enumerate(collected.messages, start=1):
            if self._chain.log != collected.log or self._forked:
                return  # overtaken
            pos = chained.message.pos
            if pos > self._chain.position + 1:  # it begins at the floor, and we hold nothing up to there
                self._hold(Chain(collected.log, pos - 1))
            if self._chain.contradicts(chained):
                self._fork()
                return
            if pos == self._chain.position + 1:
                ahead = self._pending.pop(pos, None)
                if ahead is None:
                    self._apply(self.knowledge, chained)
                self._chain.extend(chained)
                if ahead is not None and ahead.hash != chained.hash:
                    self._fork()
                    return
            if count % TURN == 0:
                yield

    def _begin(self, collected: Collected) -> Iterator[None]:
        knowledge = Knowledge()
        chain = Chain(collected.log, collected.messages[0].message.pos - 1)
        for count, chained in enumerate(collected.messages, start=1):
            for entry in chained.message.entries:
                knowledge.denylist.add(chained.message.pos, entry, chained.message.cause)
            chain.extend(chained)
            if count % TURN == 0:
                yield
        if self._following == collected.log != self._chain.log:
            self._hold(chain, knowledge)
            for count, chained in enumerate(collected.messages, start=1):
                self._observer.revoked(chained.message)
                if count % TURN == 0:
                    yield

    def _hold(self, chain: Chain, knowledge: Knowledge | None = None) -> None:
        """Goes over to `chain`; if that is another log, to what is known of it too, in one step."""
        if chain.log != self._chain.log:
            before, after = self.knowledge, knowledge or Knowledge()
            after.log, after.kids, after.former_kids = chain.log, before.kids, before.former_kids
            after.at_least, after.fresh_until = before.at_least, before.fresh_until
            self.knowledge = after
            self._chain, self._floor = chain, 1
            self._observer.began(chain.log)
            for chained in self._pending.values():  # they waited for this log, and are in no denylist yet
                self._apply(after, chained)
        self._chain = chain

    def _apply(self, knowledge: Knowledge, chained: Chained) -> None:
        message = chained.message
        for entry in message.entries:
            knowledge.denylist.add(message.pos, entry, message.cause)
        self._observer.revoked(message)
        self._observer.applied(message.log, message.pos, self._clock.wall() - message.at / 1000)

    def _fork(self) -> None:
        self._forked = True
        self._unsatisfied = None
        self._pending.clear()
        self.knowledge.fresh_until = min(self.knowledge.fresh_until, self._clock.monotonic())
        self._observer.unreadable("identity signed two histories")
        _log.error("identity signed two histories of log %s: was its database restored?", self._following)
