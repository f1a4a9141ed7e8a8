"""Listens to identity, and asks for what is missing: push and catch-up in, knowledge out.

Whatever is irregular (a gap, a reconnect, a hash that does not fit, silence, clocks too far apart, another log) leads
to one call, `catch_up`: first from the log in Redis, then, for what is not there, from identity itself. What the
messages do to knowledge is in `ledger`; here is who listens, who is asked, and how often.

The channel is not trusted, so nothing that comes over it may cost more than it is worth: a message that cannot be read
is counted, and the log is looked at once a second at most. It is never skipped in silence: its position stays missing,
and the next heartbeat, or the next message, tells.
"""

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import AsyncGenerator
from typing import Protocol

from rescind.chain import MESSAGE_TYPES, Chained, Collected, text_of
from rescind.clock import Clock
from rescind.errors import TokenRefused, UnknownKey, UntrustedToken
from rescind.jws import MAX_MESSAGE_BYTES, parse
from rescind.keys import KeySet
from rescind.ledger import TURN, FeedObserver, Ledger, Observers
from rescind.messages import Heartbeat, RevocationMessage, digest, message_from
from rescind.state import Freshness, Knowledge

PAGE = 200  # messages per read of the log
READ_TIMEOUT = 2.0  # seconds for a catch-up from the log; one page more, a fortieth of it more
LARGE = 4 * 1024  # bytes: what messages may have on average
ROOM = 4 * 1024 * 1024  # bytes that they may have besides
STALL_TIMEOUT = 2.0  # seconds for the next message of a replay
LOOK_EVERY = 1.0  # seconds: how often an unreadable push is worth a look at the log
DISTRUST = 10.0  # seconds for which a log that did not fit what identity signed is left alone

_log = logging.getLogger("rescind.feed")


class LogSource(Protocol):
    """Push and log: Redis, or the memory of a test. What it gives is not trusted."""

    def subscribe(self) -> AsyncGenerator[bytes | None, None]:
        """Pushed messages as they come; None whenever the connection is new, so that something may have been missed."""
        ...

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        """Up to `limit` messages of `log` after position `after`, in order. Empty when there are none."""
        ...


class ReplaySource(Protocol):
    """Identity itself, asked."""

    def replay(self, log: str, after: int, nonce: str) -> AsyncGenerator[bytes, None]:
        """The messages after `after`, or from the floor if `log` is not current; then a heartbeat with `nonce`."""
        ...


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
        self._token_keys = token_keys
        self._source = source
        self._replay = replay
        self._silence = silence
        self._observer = Observers() if observer is None else Observers(observer)
        self._clock = clock or Clock()
        self._ledger = Ledger(max_staleness=max_staleness, observer=self._observer, clock=self._clock)

        self._wanted = asyncio.Event()
        self._keys_wanted = False
        self._look_wanted = False
        self._pushed_at = float("-inf")  # all monotonic seconds: the last heartbeat that a push brought
        self._looked_at = float("-inf")
        self._distrusted_until = float("-inf")

    def observe(self, observer: FeedObserver) -> None:
        """Tells `observer` too what happens, from now on and as long as this feed lives."""
        self._observer.add(observer)

    @property
    def knowledge(self) -> Knowledge:
        """What verifiers judge by, at this moment."""
        return self._ledger.knowledge

    def freshness(self) -> Freshness:
        """Whether something may have been missed, at this moment."""
        return self.knowledge.freshness(self._clock.monotonic())

    @property
    def irregular(self) -> bool:
        """True when something calls for `catch_up`."""
        return self._wanted.is_set()

    def receive(self, raw: bytes) -> None:
        """Takes one pushed message: applies it, or notes that there is something to catch up with. Never raises."""
        try:
            message = self._verified(raw)
        except TokenRefused as refusal:
            self._observer.unreadable(str(refusal))
            self._look()
            return
        if not isinstance(message, Heartbeat):
            self._ledger.take(Chained(message, digest(raw)))
        elif self._ledger.hear(message):
            self._pushed_at = self._clock.monotonic()
            self._mind_kids(message.kids)
        if self._ledger.missing is not None or self._ledger.in_doubt:
            self._wanted.set()

    def _look(self) -> None:
        if self._clock.monotonic() - self._looked_at >= LOOK_EVERY:
            self._look_wanted = True
            self._wanted.set()

    def _mind_kids(self, kids: frozenset[str]) -> None:
        if self._token_keys is not None and any(self._token_keys.key(kid) is None for kid in kids):
            self._keys_wanted = True
            self._wanted.set()

    # Catching up

    async def catch_up(self) -> bool:
        """Gets what is missing: from the log, and what is not there, from identity. True when nothing is missing.

        Never raises for a source: what a source could not give, it did not give.
        """
        self._wanted.clear()
        if self._keys_wanted:
            self._keys_wanted = False
            await asyncio.gather(*(keys.refresh() for keys in (self._log_keys, self._token_keys) if keys is not None))
        if self._source is not None and self._clock.monotonic() >= self._distrusted_until:
            if self._look_wanted:
                await self._look_behind(self._source)
            if self._ledger.missing is not None:
                await self._from_log(self._source)
        if self._replay is not None and self._behind():
            await self._from_identity(self._replay)
        return not self._behind()

    def _behind(self) -> bool:
        return self._ledger.missing is not None or self._ledger.in_doubt or self._is_silent()

    def _is_silent(self) -> bool:
        return self._clock.monotonic() - self._pushed_at >= self._silence

    async def _look_behind(self, source: LogSource) -> None:
        """Takes what the log has behind our position, each message by its own signature."""
        self._look_wanted = False
        self._looked_at = self._clock.monotonic()
        log, position = self._ledger.held
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                page = await source.read(log, position, PAGE)
        except Exception as failure:  # it was worth a try; the next heartbeat will tell what is missing
            _log.info("reading the log failed: %s", type(failure).__name__)
            return
        for raw in page[:PAGE]:
            self.receive(raw)

    async def _from_log(self, source: LogSource) -> None:
        missing = self._ledger.missing
        if missing is None:
            return
        collected, position = Collected(), missing.after
        due, room = self._clock.monotonic() + READ_TIMEOUT, ROOM
        try:
            while position < missing.upto:
                limit = min(PAGE, missing.upto - position)
                async with asyncio.timeout(max(0.0, due - self._clock.monotonic())):
                    page = (await source.read(missing.log, position, limit))[:limit]
                for raw in page:
                    room -= len(raw)
                    if room < 0:
                        raise UntrustedToken("larger than a log is")
                    if collected.add(raw) is not None:
                        raise UntrustedToken("a heartbeat in the log")
                    if len(raw) > LARGE:  # reading it takes a while
                        await asyncio.sleep(0)
                if len(page) < limit or collected.position <= position:
                    break  # it has no more
                position = collected.position
                due, room = due + READ_TIMEOUT / 40, room + PAGE * LARGE
                await asyncio.sleep(0)
        except TokenRefused as refusal:
            self._distrust(str(refusal))
            return
        except Exception as failure:  # a log that is down is no reason to stop; identity is asked next
            _log.info("reading the log failed: %s", type(failure).__name__)
            return
        if collected.fills(missing):
            self._observer.caught_up("log", len(collected.messages))
            for _ in self._ledger.absorb(collected):
                await asyncio.sleep(0)
        elif collected.position >= missing.upto:
            self._distrust("it does not end in what identity signed, or has a hole")

    def _distrust(self, why: str) -> None:
        self._distrusted_until = self._clock.monotonic() + DISTRUST
        self._observer.unreadable(f"in the log: {why}")
        _log.warning("the log is not what identity signed: %s", why)

    async def _from_identity(self, replay: ReplaySource) -> None:
        log, position = self._ledger.held
        nonce = secrets.token_urlsafe(16)
        asked_at = self._clock.monotonic()
        collected = Collected()
        try:
            async with contextlib.aclosing(replay.replay(log, position, nonce)) as answer:
                heartbeat = await self._read_answer(answer, collected, nonce)
        except TokenRefused as refusal:
            self._observer.unreadable(f"in a replay: {refusal}")
            return
        except Exception as failure:  # identity that is down is no reason to stop
            _log.info("asking identity failed: %s", type(failure).__name__)
            return
        if collected.messages and not collected.fills(self._ledger.missing_for(heartbeat)):
            self._observer.unreadable("in a replay: it does not end in its heartbeat, or has a hole")
            return
        self._observer.caught_up("replay", len(collected.messages))
        heard = self._ledger.hear_answer(heartbeat, asked_at)
        self._mind_kids(heartbeat.kids)
        for _ in self._ledger.absorb(collected):
            await asyncio.sleep(0)
        self._ledger.confirm(heard)

    async def _read_answer(self, answer: AsyncGenerator[bytes, None], collected: Collected, nonce: str) -> Heartbeat:
        while True:
            async with asyncio.timeout(STALL_TIMEOUT):
                raw = await anext(answer, None)
            if raw is None:
                raise UntrustedToken("it has no heartbeat at its end")
            if collected.add(raw) is None:
                if len(collected.messages) % TURN == 0:
                    await asyncio.sleep(0)
                continue
            try:
                message = self._verified(raw)
            except UnknownKey:
                await self._log_keys.refresh()
                message = self._verified(raw)
            if isinstance(message, Heartbeat) and message.nonce == nonce:
                return message
            raise UntrustedToken("the heartbeat does not repeat our nonce")

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
        await self._log_keys.refresh()  # or the first messages could not be read
        async with asyncio.TaskGroup() as group:
            if self._source is not None:
                group.create_task(self._listen(self._source), name="rescind-listen")
            group.create_task(self._watch(), name="rescind-watch")

    async def _listen(self, source: LogSource) -> None:
        while True:
            received = 0
            try:
                async with contextlib.aclosing(source.subscribe()) as pushes:
                    async for raw in pushes:
                        if raw is None:
                            self._look()
                        else:
                            self.receive(raw)
                        received += 1
                        if received % TURN == 0:
                            await asyncio.sleep(0)  # a flood must not starve requests
            except Exception as failure:  # whatever it was: there is silence now, and we come back
                _log.info("the push connection broke: %s", type(failure).__name__)
            await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  (spreads reconnects; no secret)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_silent()):
                    await self._wanted.wait()
            caught_up = await self.catch_up()
            # Spread, so that many processes which lost the same Redis do not ask identity in step; and slower while
            # something stays missing, so that an identity in trouble is asked a few times a second and no more.
            await asyncio.sleep(random.uniform(0.01, 0.03) if caught_up else random.uniform(0.2, 0.4))  # noqa: S311

    def _until_silent(self) -> float:
        """Seconds to wait for a push before identity is asked; while there is silence, most of a second."""
        quiet = self._clock.monotonic() - self._pushed_at
        return self._silence - quiet if quiet < self._silence else random.uniform(0.4, 0.6)  # noqa: S311
