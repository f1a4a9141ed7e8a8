"""Tells the issuer what this process has applied, and when: receipts. They inform; nothing here rests on them.

Many positions go in one report. The first after a quiet while goes at once, so that whoever waits for a revocation to
be applied everywhere waits for milliseconds; under load a few go each second; and where nothing happens one goes as
often as the issuer asks for, which says that this process is there.

**It gets in nobody's way.** The observer's part writes two numbers into a bounded buffer. The rest is one task that
waits for the issuer with a deadline, and takes every failure in silence: it tries again later, with what it still has.
It begins when the feed knows everything for the first time, so that it takes no token and no answer from before that.
"""

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rescind.clock import since_boot
from rescind.ledger import FeedObserver
from rescind.state import Freshness, Knowledge

KEPT = 1000  # positions whose delay is remembered until it is reported; older ones are left out
BURST = 5.0  # reports that may go one right after the other
RATE = 5.0  # reports a second, in the long run
TIMEOUT = 3.0  # seconds for one report; more than the token that it needs may take, which others may be waiting for
GOODBYE_TIMEOUT = 0.3  # seconds for the last one: a stop does not wait for it
FIRST_RETRY, LAST_RETRY = 0.5, 5.0  # seconds; doubled from one to the other while reports fail
FIRST = 5.0  # seconds until the first report where the feed comes to know nothing
SLOWEST = 60.0  # seconds between reports, whatever the issuer asks for

_log = logging.getLogger("rescind.receipts")


@dataclass(frozen=True, slots=True)
class Applied:
    """One position, and how long after its `at` it was applied here: milliseconds, by two clocks."""

    position: int
    delay_ms: float


@dataclass(frozen=True, slots=True)
class Report:
    """Who has applied what. `instance` is for people; `leaving` says that there will be no other report."""

    verifier: str
    audience: str
    instance: str
    log: str
    position: int
    freshness: Freshness
    applied: tuple[Applied, ...]
    leaving: bool = False


class ReportSink(Protocol):
    """The issuer, told."""

    async def report(self, report: Report) -> float:
        """Takes a report. Seconds that the sender may wait with the next when there is nothing new."""
        ...


class KnowsPosition(Protocol):
    """Whoever holds the current knowledge: the feed."""

    @property
    def knowledge(self) -> Knowledge:
        """The knowledge of this moment."""
        ...

    def freshness(self) -> Freshness:
        """Whether something may have been missed, at this moment."""
        ...

    def observe(self, observer: FeedObserver) -> None:
        """Tells `observer` what happens."""
        ...


class Reporter(FeedObserver):
    """Reports what `feed` applies, for `audience`, to `sink`. Run it beside the feed; give it to a `Guard`."""

    def __init__(
        self,
        feed: KnowsPosition,
        audience: str,
        sink: ReportSink,
        *,
        instance: str | None = None,
        monotonic: Callable[[], float] = since_boot,
    ) -> None:
        self._feed = feed
        self._audience = audience
        self._sink = sink
        self._instance = instance or f"{socket.gethostname()}:{os.getpid()}"
        self._monotonic = monotonic
        self.verifier = "vrf_" + secrets.token_urlsafe(16)
        self._log_id = ""
        self._applied: deque[Applied] = deque(maxlen=KEPT)
        self._news = asyncio.Event()
        self._begun = False
        self._allowed, self._allowed_at = BURST, monotonic()
        feed.observe(self)

    def applied(self, log: str, position: int, delay: float) -> None:
        """Remembers it for the next report."""
        if log != self._log_id:
            self._applied.clear()
            self._log_id = log
        self._applied.append(Applied(position, delay * 1000))
        self._tell()

    def began(self, log: str) -> None:
        """Tells that another log is held now."""
        if log != self._log_id:
            self._applied.clear()
            self._log_id = log
        self._tell()

    def renewed(self, log: str, position: int) -> None:  # noqa: ARG002
        """Begins, when everything is known for the first time."""
        if not self._begun:
            self._begun = True
            self._news.set()

    def _tell(self) -> None:
        if self._begun:
            self._news.set()

    async def run(self) -> None:
        """Reports until cancelled, and then says goodbye."""
        wait, retry = FIRST, FIRST_RETRY
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()
                await asyncio.sleep(self._until_allowed())
                said = await self._say(TIMEOUT)
                if said is None:
                    # What is new meanwhile does not hurry a retry: whoever does not answer is left alone.
                    await asyncio.sleep(retry * random.uniform(0.8, 1.2))  # noqa: S311  (spreads; no secret)
                    wait, retry = 0.0, min(2 * retry, LAST_RETRY)
                else:
                    wait, retry = min(said, SLOWEST), FIRST_RETRY
        finally:
            await self._say(GOODBYE_TIMEOUT, leaving=True)

    async def _say(self, timeout: float, *, leaving: bool = False) -> float | None:
        """Sends a report; the issuer's answer, None where it gave none."""
        self._news.clear()
        sent = tuple(self._applied)
        self._applied.clear()
        knowledge = self._feed.knowledge
        report = Report(
            verifier=self.verifier,
            audience=self._audience,
            instance=self._instance,
            log=knowledge.log,
            position=knowledge.position,
            freshness=self._feed.freshness(),
            applied=sent,
            leaving=leaving,
        )
        try:
            async with asyncio.timeout(timeout):
                return await self._sink.report(report)
        except Exception as failure:  # whatever it was: nothing here rests on it
            _log.info("a report did not get through: %s", type(failure).__name__)
            if knowledge.log == self._log_id:
                self._applied.extendleft(reversed(sent[: KEPT - len(self._applied)]))
            return None

    def _until_allowed(self) -> float:
        """Seconds until one more report is within RATE, after BURST; takes that one."""
        now = self._monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._allowed_at) * RATE) - 1.0
        self._allowed_at = now
        return max(0.0, -self._allowed / RATE)
