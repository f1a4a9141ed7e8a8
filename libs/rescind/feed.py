"""Keeps a process's knowledge of revocations: push and catch-up in, denylist and freshness out.

A heartbeat, signed by identity every second, says how far the log goes and with which hash. It is *satisfied* when this
process holds every position from the heartbeat's floor to its head and the hashes match. Knowledge is fresh while the
newest satisfied heartbeat is younger than `max_staleness`. Whatever is irregular (a gap, a reconnect, a hash that does
not fit, silence, clocks too far apart, another log) leads to one call, `catch_up`: first from the log in Redis, then,
for what is not there, from identity itself.

The channel is not trusted. A message counts if its signature holds, or if the chain of hashes that ends in a signed
heartbeat holds it. A message that cannot be read is never skipped in silence: its position stays missing, so the next
heartbeat is not satisfied, so it is asked for elsewhere.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from rescind.chain import Chain, Chained, Collected, text_of
from rescind.errors import TokenRefused, UnknownKey, UntrustedToken
from rescind.jws import MAX_MESSAGE_BYTES, parse
from rescind.keys import KeySet, StaticKeySet
from rescind.messages import MESSAGE_TYPE, Heartbeat, RevocationMessage, digest, message_from
from rescind.state import Freshness, Knowledge

MESSAGE_TYPES = frozenset({MESSAGE_TYPE})
MAX_CLOCK_SKEW = 2.0  # seconds between identity's clock and ours beyond which `at` says nothing about age
MAX_PENDING = 4096  # pushes that came ahead of their predecessors; with more, only catching up helps
MAX_FORMER_KIDS = 64
PAGE = 500  # messages per read of the log
_YIELD_EVERY = 200  # messages between two turns of the event loop

_log = logging.getLogger("rescind.feed")


class LogSource(Protocol):
    """Push and log: Redis, or the memory of a test. What it gives is not trusted."""

    def subscribe(self) -> AsyncIterator[bytes | None]:
        """Pushed messages as they come; None whenever the connection is new, so that something may have been missed."""
        ...

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        """Up to `limit` messages of `log` after position `after`, in order. Empty when there are none."""
        ...


class ReplaySource(Protocol):
    """Identity itself, asked."""

    def replay(self, log: str, after: int, nonce: str) -> AsyncIterator[bytes]:
        """The messages after `after`, or from the floor if `log` is not current; then a heartbeat with `nonce`."""
        ...


class FeedObserver:
    """Is told what happens, for metrics and receipts. Subclass what you need; return quickly, do not raise."""

    def applied(self, log: str, position: int, delay: float) -> None:
        """A revocation was applied, `delay` seconds after its `at` (by two clocks, so with their difference)."""

    def unreadable(self, why: str) -> None:
        """A message could not be read, or not be trusted."""

    def caught_up(self, source: str, messages: int) -> None:
        """A catch-up from `source`, "log" or "identity", brought that many messages."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Two clocks, in seconds: `wall` since the epoch, `monotonic` for ages."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class _Heard:
    """A heartbeat, and since when (monotonic seconds) its word counts."""

    heartbeat: Heartbeat
    origin: float


class Feed:
    """The revocations of one issuer, as this process knows them.

    `source` (push and log) or `replay` may be missing, not both. `token_keys` is refreshed when identity accepts a key
    that it lacks. `max_staleness` and `silence` are seconds: how old the newest satisfied heartbeat may be, and after
    how long without a pushed one identity is asked.
    """

    def __init__(
        self,
        issuer: str,
        log_keys: KeySet,
        source: LogSource | None = None,
        replay: ReplaySource | None = None,
        *,
        token_keys: KeySet | None = None,
        max_staleness: float = 3.0,
        silence: float = 1.25,
        observer: FeedObserver | None = None,
        clock: Clock | None = None,
    ) -> None:
        if source is None and replay is None:
            raise ValueError("a feed needs a log source, a replay source, or both")
        self._issuer = issuer
        self._log_keys = log_keys
        self._token_keys = token_keys or StaticKeySet({})
        self._watches_token_keys = token_keys is not None
        self._source = source
        self._replay = replay
        self._max_staleness = max_staleness
        self._silence = silence
        self._observer = observer or FeedObserver()
        self._clock = clock or Clock()

        self._knowledge = Knowledge()
        self._chain = Chain("")  # no log is called "", so before the first heartbeat nothing fits
        self._pending: dict[int, Chained] = {}  # applied already, waiting for their predecessors
        self._unsatisfied: _Heard | None = None  # the newest heartbeat, while something of it is missing
        self._newest_at = 0
        self._heard_at = float("-inf")  # monotonic: the last heartbeat accepted, from wherever
        self._pushed_at = float("-inf")  # monotonic: the last one accepted from a push
        self._highest_head = 0
        self._retired: set[str] = set()
        self._wanted = asyncio.Event()
        self._challenge = False  # only an answer with our own nonce will do
        self._keys_wanted = False

    # What others read

    @property
    def knowledge(self) -> Knowledge:
        """What verifiers judge by, at this moment."""
        return self._knowledge

    def freshness(self) -> Freshness:
        """Whether something may have been missed, at this moment."""
        return self._knowledge.freshness(self._clock.monotonic())

    @property
    def irregular(self) -> bool:
        """True when something calls for `catch_up`."""
        return self._wanted.is_set()

    # Push

    def receive(self, raw: bytes) -> None:
        """Takes one pushed message: applies it, or notes that there is something to catch up with. Never raises."""
        try:
            message = self._verified(raw)
        except TokenRefused as refusal:
            self._observer.unreadable(str(refusal))
            self._wanted.set()
            return
        if isinstance(message, Heartbeat):
            self._hear_pushed(message)
        else:
            self._take(Chained(message, digest(raw)))

    def _take(self, chained: Chained) -> None:
        message, chain = chained.message, self._chain
        if message.log != chain.log:
            self._wanted.set()  # a heartbeat will say which log counts
            return
        if message.pos <= chain.position or message.pos in self._pending:
            return
        if chain.follows(chained):
            self._apply(self._knowledge, chained)
            chain.extend(chained)
        elif message.pos == chain.position + 1:
            self._start_over()  # signed, next in line, and chained to something else than we hold
        else:
            self._wanted.set()
            if len(self._pending) >= MAX_PENDING:
                return
            self._apply(self._knowledge, chained)  # also ahead of its predecessors: refusing early is safe
            self._pending[message.pos] = chained
        self._settle()

    def _apply(self, knowledge: Knowledge, chained: Chained) -> None:
        message = chained.message
        for entry in message.entries:
            knowledge.denylist.add(message.pos, entry, message.cause)
        self._observer.applied(message.log, message.pos, self._clock.wall() - message.at / 1000)

    # Heartbeats

    def _hear_pushed(self, heartbeat: Heartbeat) -> None:
        """A pushed heartbeat may have been held back, so its age counts, by both clocks."""
        if heartbeat.at <= self._newest_at:
            return
        age = self._clock.wall() - heartbeat.at / 1000
        if abs(age) > MAX_CLOCK_SKEW:
            # Held back, played again, or clocks that disagree: an answer with our own nonce tells.
            self._challenge = True
            self._wanted.set()
            return
        monotonic = self._clock.monotonic()
        if self._accept(_Heard(heartbeat, monotonic - max(0.0, age))):
            self._pushed_at = monotonic

    def _hear_answer(self, heartbeat: Heartbeat, asked_at: float) -> None:
        """An answer with our nonce is younger than the question, whatever its `at`: so it may move `at` back."""
        self._challenge = False
        heard = _Heard(heartbeat, asked_at)
        if heartbeat.at > self._newest_at or self._heard_at < asked_at:
            self._accept(heard)
        else:
            self._renew(heard)  # a pushed one overtook it: all that it tells is that everything up to it is held
            self._settle()

    def _accept(self, heard: _Heard) -> bool:
        heartbeat = heard.heartbeat
        if heartbeat.log in self._retired:
            return False
        if heartbeat.log == self._chain.log and heartbeat.head < self._highest_head:
            return False  # identity forgets nothing, so this is no word of a log we know
        self._newest_at = heartbeat.at
        self._heard_at = self._clock.monotonic()
        self._accept_kids(heartbeat.kids)  # at once: a key left out must not wait for the log
        self._unsatisfied = heard
        self._settle()
        return True

    def _accept_kids(self, kids: frozenset[str]) -> None:
        knowledge = self._knowledge
        if knowledge.kids is not None and kids != knowledge.kids:
            former = sorted((knowledge.former_kids | knowledge.kids) - kids)
            knowledge.former_kids = frozenset(former[:MAX_FORMER_KIDS])
        knowledge.kids = kids
        if self._watches_token_keys and any(self._token_keys.key(kid) is None for kid in kids):
            self._keys_wanted = True
            self._wanted.set()

    def _settle(self) -> None:
        """Moves on as far as what is held allows: pending messages, the position, the newest heartbeat."""
        chain = self._chain
        while (chained := self._pending.pop(chain.position + 1, None)) is not None:
            if not chain.follows(chained):
                self._start_over()
                return
            chain.extend(chained)
        self._knowledge.position = chain.position
        heard = self._unsatisfied
        if heard is None:
            return
        if self._renew(heard):
            self._unsatisfied = None
        elif chain.contradicts(heard.heartbeat):
            self._start_over()
        else:
            self._wanted.set()

    def _renew(self, heard: _Heard) -> bool:
        """Counts as fresh from the heartbeat's origin on, if it is satisfied."""
        heartbeat = heard.heartbeat
        if heartbeat.floor > heartbeat.head and not self._chain.satisfies(heartbeat):
            if heartbeat.log == self._chain.log and self._chain.position >= heartbeat.head:
                return False
            # Nothing is alive in it, so nothing is missing.
            self._go_over_to(Chain(heartbeat.log, heartbeat.head, heartbeat.hash), Knowledge())
        if not self._chain.satisfies(heartbeat):
            return False
        knowledge = self._knowledge
        knowledge.denylist.drop_below(heartbeat.floor)
        knowledge.fresh_until = max(knowledge.fresh_until, heard.origin + self._max_staleness)
        self._highest_head = max(self._highest_head, heartbeat.head)
        return True

    def _go_over_to(self, chain: Chain, knowledge: Knowledge) -> None:
        """Holds `chain` from now on; if it is another log, with `knowledge` of it, and never goes back."""
        before = self._knowledge
        if chain.log != self._chain.log:
            if self._chain.log:
                self._retired.add(self._chain.log)
                _log.warning("identity began a new log; everything is held anew")
            knowledge.log = chain.log
            knowledge.kids, knowledge.former_kids = before.kids, before.former_kids
            knowledge.fresh_until = before.fresh_until
            self._knowledge = knowledge
            self._pending.clear()
            self._highest_head = 0
        self._chain = chain
        self._pending = {pos: held for pos, held in self._pending.items() if pos > chain.position}
        self._knowledge.position = chain.position

    def _start_over(self) -> None:
        """What we hold contradicts what identity signed: keep refusing it, but have everything proven anew."""
        self._observer.unreadable("the chain of hashes does not fit")
        self._chain = Chain(self._chain.log)
        self._pending.clear()
        self._wanted.set()

    # Catching up

    async def catch_up(self) -> bool:
        """Gets what is missing: from the log, and what is not there, from identity. True when nothing is missing.

        Never raises for a source: what a source could not give, it did not give.
        """
        self._wanted.clear()
        if self._keys_wanted:
            self._keys_wanted = False
            await asyncio.gather(self._log_keys.refresh(), self._token_keys.refresh())
        if self._source is not None and self._unsatisfied is not None and not self._challenge:
            await self._from_log(self._source, self._unsatisfied)
        if self._replay is not None and (self._unsatisfied is not None or self._challenge or self._is_silent()):
            await self._from_identity(self._replay)
        return self._unsatisfied is None and not self._challenge and not self._is_silent()

    async def _from_log(self, source: LogSource, heard: _Heard) -> None:
        heartbeat = heard.heartbeat
        after, known = heartbeat.floor - 1, None
        if heartbeat.log == self._chain.log and self._chain.position > after:
            after = self._chain.position
            known = self._chain.hash_at(after)
        collected = Collected(heartbeat.log, after, known)
        try:
            while collected.chain.position < heartbeat.head:
                page = await source.read(heartbeat.log, collected.chain.position, PAGE)
                for raw in page[: heartbeat.head - collected.chain.position]:
                    collected.add(raw)
                if not page:
                    break
        except TokenRefused as refusal:
            self._observer.unreadable(f"in the log: {refusal}")
            return
        except Exception as failure:  # a log that is down is no reason to stop; identity is asked next
            _log.info("reading the log failed: %s", type(failure).__name__)
            return
        if collected.closes_in(heartbeat):
            self._observer.caught_up("log", len(collected.messages))
            await self._absorb(collected)
            self._renew(heard)
            self._settle()

    async def _from_identity(self, replay: ReplaySource) -> None:
        nonce = secrets.token_urlsafe(16)
        asked_at = self._clock.monotonic()
        chain = self._chain
        collected = Collected(chain.log, chain.position, chain.hash_at(chain.position))
        heartbeat: Heartbeat | None = None
        try:
            async for raw in replay.replay(chain.log, chain.position, nonce):
                if collected.add(raw) is not None:
                    heartbeat = await self._answer(raw, nonce)
                    break
                if len(collected.messages) % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
        except TokenRefused as refusal:
            self._observer.unreadable(f"in a replay: {refusal}")
            self._start_over()  # identity reads its database: where that does not follow on what we hold, we are wrong
            return
        except Exception as failure:  # identity that is down is no reason to stop
            _log.info("asking identity failed: %s", type(failure).__name__)
            return
        if heartbeat is None or heartbeat.log in self._retired:
            return
        if not collected.closes_in(heartbeat):
            self._start_over()
            return
        self._observer.caught_up("identity", len(collected.messages))
        await self._absorb(collected)
        self._hear_answer(heartbeat, asked_at)

    async def _absorb(self, collected: Collected) -> None:
        """Applies what a signed heartbeat vouches for. Pushes may come in between; nothing is applied twice."""
        same_log = collected.chain.log == self._chain.log
        knowledge = self._knowledge if same_log else Knowledge()
        for count, chained in enumerate(collected.messages, start=1):
            pos = chained.message.pos
            if not same_log or (pos > self._chain.position and pos not in self._pending):
                self._apply(knowledge, chained)
            if same_log and self._chain.follows(chained):
                self._chain.extend(chained)
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
        if not same_log or collected.chain.position > self._chain.position:
            self._go_over_to(collected.chain, knowledge)

    async def _answer(self, raw: bytes, nonce: str) -> Heartbeat:
        try:
            message = self._verified(raw)
        except UnknownKey:
            await self._log_keys.refresh()
            message = self._verified(raw)
        if not isinstance(message, Heartbeat) or message.nonce != nonce:
            raise UntrustedToken("no heartbeat with our nonce")
        return message

    def _verified(self, raw: bytes) -> RevocationMessage | Heartbeat:
        jws = parse(text_of(raw), types=MESSAGE_TYPES, max_bytes=MAX_MESSAGE_BYTES)
        key = self._log_keys.key(jws.kid)
        if key is None:
            self._keys_wanted = True
            raise UnknownKey("no log key of this kid")
        claims = jws.verified_claims(key)
        if claims.get("iss") != self._issuer:
            raise UntrustedToken("another issuer")
        return message_from(claims)

    # Running

    async def run(self) -> None:
        """Listens and catches up until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._source is not None:
                group.create_task(self._listen(self._source), name="rescind-listen")
            group.create_task(self._watch(), name="rescind-watch")

    async def _listen(self, source: LogSource) -> None:
        while True:
            received = 0
            try:
                async for raw in source.subscribe():
                    if raw is None:
                        self._wanted.set()
                    else:
                        self.receive(raw)
                    received += 1
                    if received % _YIELD_EVERY == 0:
                        await asyncio.sleep(0)  # a flood must not starve requests
            except Exception as failure:  # whatever it was: there is silence now, and we come back
                _log.info("the push connection broke: %s", type(failure).__name__)
            self._wanted.set()
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  (spreads reconnects; no secret)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._until_silent()):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            caught_up = await self.catch_up()
            # Spread, so that many processes which lost the same Redis do not ask identity in step; and slower while
            # something stays missing, so that garbage on the channel costs a few calls a second and no more.
            await asyncio.sleep(random.uniform(0.01, 0.03) if caught_up else random.uniform(0.2, 0.4))  # noqa: S311

    def _until_silent(self) -> float:
        """Seconds to wait for a push before identity is asked; while there is silence, most of a second."""
        quiet = self._clock.monotonic() - self._pushed_at
        return self._silence - quiet if quiet < self._silence else random.uniform(0.4, 0.6)  # noqa: S311

    def _is_silent(self) -> bool:
        return self._clock.monotonic() - self._pushed_at >= self._silence
