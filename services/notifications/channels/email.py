"""Sends what is in the mail queue, each mail by one replica at a time.

Between the mail server's word that it has a mail and our commit that it was sent lies a moment in which a process can
die. Then the claim runs out, and the mail is sent again with the same Message-ID: at least once, and a repeat can be
told. Nothing else repeats a mail: a stop waits for what is under way, and a word to the database that fails is said
again for as long as the claim holds.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from sqlalchemy import Connection

from notifications import mail_queue
from notifications.channels.contacts import Contact, Contacts, ContactUnavailable, NoSuchAccount
from notifications.domain import MailState, Notification, delay
from notifications.mail_queue import Claimed
from servicekit.database import Database
from servicekit.errors import ServiceError
from servicekit.mail import DEADLINE, Mail, Mailer, MailRefused, MailUnavailable

_log = structlog.get_logger("notifications.email")


class MailMetrics:
    """What is counted about mails, without a word about anybody."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "notifications_mail_attempts",
            "Attempts to send a mail, by what became of it: sent, refused, expired, dropped, later.",
            ("outcome",),
            registry=registry,
        )
        self.mails = Gauge("notifications_mails", "Mails that are not sent, by state.", ("state",), registry=registry)


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, but for `in_hand`: how many mails one process sends at the same time.

    A claim holds for `lease`, of which `sending` must be left when a mail is handed over. `poll` is how late a mail is
    found that another process queued or left behind. `stopping` is how long a stop waits for what is under way.
    """

    in_hand: int = 8
    lease: float = 60.0
    sending: float = DEADLINE + 1.0
    poll: float = 2.0
    stopping: float = DEADLINE + 2.0
    tally: float = 15.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    state: MailState
    reason: str = ""


class MailSender:
    """Runs beside the service. `write` makes the mail about a notification."""

    def __init__(
        self,
        database: Database,
        contacts: Contacts,
        mailer: Mailer,
        write: Callable[[Notification, Contact], Mail],
        *,
        metrics: MailMetrics,
        pace: Pace = Pace(),  # frozen
        chance: Callable[[], float] = random.random,
        new_claim: Callable[[], str] = lambda: secrets.token_hex(8),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._contacts = contacts
        self._mailer = mailer
        self._write = write
        self._metrics = metrics
        self._pace = pace
        self._chance = chance
        self._new_claim = new_claim
        self._monotonic = monotonic
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # a hand is free, or something was queued
        self._in_hand: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """Something was queued: look now."""
        self._changed.set()

    async def run(self) -> None:
        """Sends until it is cancelled; then what has begun may end."""
        work = asyncio.create_task(self._work())
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._stopping.set()
            self._changed.set()
            await asyncio.wait({work}, timeout=self._pace.stopping)
            raise
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(self._count())
            while not self._stopping.is_set():
                self._changed.clear()
                pause = self._pace.poll
                try:
                    pause = await self._take(tasks)
                except Exception as error:
                    _log.warning("the mail queue waits", reason=_reason(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause * (0.5 + self._chance() / 2)):
                        await self._changed.wait()
            counting.cancel()

    async def _take(self, tasks: asyncio.TaskGroup) -> float:
        """Begins what is due, as far as there are hands; seconds until there may be more."""
        room = self._pace.in_hand - len(self._in_hand)
        if room == 0:
            return self._pace.poll
        began = self._monotonic()
        # A look first: on SQLite it keeps no writer waiting, and most often there is nothing.
        due, now = await self._database.read(lambda tx: (mail_queue.next_due(tx), self._database.now(tx)))
        if due is None or due > now:
            return self._pace.poll if due is None else min(self._pace.poll, (due - now) / 1000 + 0.01)
        claimed = await self._database.run(lambda tx: self._claim(tx, room))
        for mail in claimed:
            task = tasks.create_task(self._handle(mail, began))
            self._in_hand.add(task)
            task.add_done_callback(self._free)
        return 0.0 if claimed and len(claimed) < room else self._pace.poll

    def _claim(self, tx: Connection, room: int) -> list[Claimed]:
        at = self._database.now(tx)
        return mail_queue.claim(tx, room, self._new_claim(), at=at, lease=round(self._pace.lease * 1000))

    def _free(self, task: asyncio.Task[None]) -> None:
        self._in_hand.discard(task)
        self._changed.set()

    async def _handle(self, mail: Claimed, began: float) -> None:
        deadline = began + self._pace.lease
        try:
            outcome = await self._attempt(mail, deadline)
        except Exception as error:
            # Of ours: a template, say. It is tried again like the rest, and shows in the log each time.
            _log.error("a mail failed", notification=mail.notification.id, exc_info=error)
            outcome = _Outcome(MailState.QUEUED, "UNFORESEEN")
        if outcome is not None:
            await self._conclude(mail, outcome, deadline)

    async def _attempt(self, mail: Claimed, deadline: float) -> _Outcome | None:
        """What became of it; QUEUED means later, None that it is no longer ours."""
        try:
            contact = await self._contacts.of(mail.notification.person)
        except NoSuchAccount:
            return _Outcome(MailState.DROPPED, "NO_SUCH_ACCOUNT")
        except ContactUnavailable as error:
            return _Outcome(MailState.QUEUED, error.reason)
        if contact.disabled:
            return _Outcome(MailState.DROPPED, "ACCOUNT_DISABLED")
        if self._monotonic() > deadline - self._pace.sending:
            return None  # this process stood still: by the time the server answers, another may have it
        try:
            await self._mailer.send(self._write(mail.notification, contact))
        except MailRefused as error:
            return _Outcome(MailState.REFUSED, error.reason)
        except MailUnavailable as error:
            return _Outcome(MailState.QUEUED, error.reason)
        return _Outcome(MailState.SENT)

    async def _conclude(self, mail: Claimed, outcome: _Outcome, deadline: float) -> None:
        failures = 0
        while True:
            try:
                state = await self._database.run(lambda tx: self._write_down(tx, mail, outcome))
                break
            except Exception as error:
                failures += 1
                pause = min(5.0, 0.1 * 2.0 ** min(failures, 6)) * (0.5 + self._chance() / 2)
                if self._monotonic() + pause > deadline:
                    _log.error("a mail may come twice", notification=mail.notification.id, reason=_reason(error))
                    return
                await asyncio.sleep(pause)
        outcome_name = "later" if state is MailState.QUEUED else state.value
        self._metrics.attempts.labels(outcome_name).inc()
        tell = _log.info if state in (MailState.SENT, MailState.QUEUED) else _log.warning
        tell("mail", outcome=outcome_name, notification=mail.notification.id, attempt=mail.attempt, why=outcome.reason)

    def _write_down(self, tx: Connection, mail: Claimed, outcome: _Outcome) -> MailState:
        now = self._database.now(tx)
        if outcome.state is not MailState.QUEUED:
            mail_queue.settle(tx, mail, outcome.state, outcome.reason, at=now)
            return outcome.state
        due_at = now + delay(mail.attempt, self._chance())
        if due_at > mail.expires_at:
            mail_queue.settle(tx, mail, MailState.EXPIRED, outcome.reason, at=now)
            return MailState.EXPIRED
        mail_queue.put_back(tx, mail, outcome.reason, due_at=due_at)
        return MailState.QUEUED

    async def _count(self) -> None:
        while True:
            try:
                found = await self._database.read(mail_queue.tally)
            except Exception as error:
                _log.info("mails were not counted", reason=_reason(error))
            else:
                for state in MailState:
                    if state is not MailState.SENT:
                        self._metrics.mails.labels(state.value).set(found.get(state, 0))
            await asyncio.sleep(self._pace.tally * (0.5 + self._chance()))


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ServiceError) else type(error).__name__
