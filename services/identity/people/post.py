"""The post: mail waits in SQL, written in the transaction that makes it true, and is sent by one of several replicas.

What a mail says is sealed while it waits, because it holds a link that opens an account. A mail that was taken is
forgotten; one that nobody takes is tried again, later each time, until nobody wants it any more, and then kept for a
day where an operator can see why.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from identity.domain import Entropy, new_id
from identity.people.letters import LETTERS, Printer
from identity.people.storage import mails
from identity.sealing import SealBroken, SecretKeys
from servicekit.database import Database
from servicekit.errors import ServiceError
from servicekit.mail import DEADLINE, Mailer, MailRefused, MailUnavailable

CLAIM_MS = 60_000  # longer than a mailer's deadline: so long a mail is one replica's
LONGEST_PAUSE_MS = 15 * 60_000
STOPPING = DEADLINE + 2.0  # seconds that a stop waits for a delivery
POLL = 2.0  # seconds; a mail of this process is sent at once
_log = structlog.get_logger("identity.post")


@dataclass(frozen=True, slots=True)
class Post:
    """Where mail is handed in."""

    secret_keys: SecretKeys
    now: Callable[[Connection], int]
    entropy: Entropy
    handed_in: asyncio.Event = field(default_factory=asyncio.Event)

    def hand_in(self, tx: Connection, letter: str, recipient: str, *, life: int, **about: str) -> str:
        """Queues a mail in this transaction; its id. `life` in seconds: later nobody wants it."""
        if letter not in LETTERS:
            raise KeyError(letter)
        mail_id, now = new_id("mail", self.entropy), self.now(tx)
        tx.execute(
            insert(mails).values(
                id=mail_id,
                recipient=recipient,
                letter=letter,
                sealed=self.secret_keys.seal(mail_id, json.dumps(about).encode()),
                created_at=now,
                due_at=now,
                expires_at=now + life * 1000,
                attempts=0,
            )
        )
        return mail_id


class Postman:
    """Sends what waits, one mail at a time, until it is cancelled."""

    def __init__(
        self,
        database: Database,
        post: Post,
        printer: Printer,
        mailer: Mailer,
        *,
        patience: Callable[[asyncio.Event], Any] | None = None,
    ) -> None:
        self._database = database
        self._post = post
        self._printer = printer
        self._mailer = mailer
        self._patience = patience or _patience

    async def run(self) -> None:
        """Sends for ever; a database that does not answer is asked again later."""
        while True:
            try:
                while await self._deliver_whole():
                    pass
            except ServiceError as error:
                _log.warning("post_waits", reason=error.reason)
            await self._patience(self._post.handed_in)

    async def _deliver_whole(self) -> bool:
        """As `deliver_one`. A stop waits for its end: a mail whose taking nobody wrote down comes again."""
        delivery = asyncio.create_task(self.deliver_one())
        try:
            return await asyncio.shield(delivery)
        except asyncio.CancelledError:
            await asyncio.wait({delivery}, timeout=STOPPING)
            raise
        finally:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)

    async def deliver_one(self) -> bool:
        """Takes the mail that is due longest and sends it; False when none is due."""
        row = await self._database.run(self._claim)
        if row is None:
            return False
        try:
            about: Mapping[str, str] = json.loads(self._post.secret_keys.open(row.id, bytes(row.sealed)))
            await self._mailer.send(self._printer.mail(row.letter, row.recipient, about, row.id))
        except MailUnavailable as error:
            failure = str(error)
            await self._database.run(lambda tx: self._put_off(tx, row, failure))
        except (MailRefused, SealBroken) as error:
            # Of a broken seal the text names keys, and of neither an address.
            failure = str(error) if isinstance(error, MailRefused) else "SEAL_BROKEN"
            await self._database.run(lambda tx: self._give_up(tx, row, failure))
        else:
            await self._database.run(lambda tx: tx.execute(delete(mails).where(mails.c.id == row.id)))
            _log.info("mail_sent", mail=row.id, letter=row.letter, attempts=row.attempts)
        return True

    def _claim(self, tx: Connection) -> Row[Any] | None:
        """The mail, ours for CLAIM_MS. Whoever dies with it leaves it to another, under the same Message-ID."""
        now = self._post.now(tx)
        due = select(mails.c.id).where(mails.c.due_at <= now, mails.c.given_up_at.is_(None))
        first = due.order_by(mails.c.due_at, mails.c.id).limit(1).with_for_update(skip_locked=True)
        mail_id = tx.execute(first).scalar_one_or_none()
        if mail_id is None:
            return None
        taken = update(mails).where(mails.c.id == mail_id)
        taken = taken.values(due_at=now + CLAIM_MS, attempts=mails.c.attempts + 1)
        return tx.execute(taken.returning(*mails.c)).one()

    def _put_off(self, tx: Connection, row: Row[Any], failure: str) -> None:
        now = self._post.now(tx)
        due = now + min(1000 * 2**row.attempts, LONGEST_PAUSE_MS)
        if due >= row.expires_at:
            self._give_up(tx, row, failure)
            return
        tx.execute(update(mails).where(mails.c.id == row.id).values(due_at=due, failure=failure))
        _log.warning("mail_put_off", mail=row.id, failure=failure, attempts=row.attempts)

    def _give_up(self, tx: Connection, row: Row[Any], failure: str) -> None:
        given_up = {"given_up_at": self._post.now(tx), "failure": failure}
        tx.execute(update(mails).where(mails.c.id == row.id).values(given_up))
        _log.error("mail_given_up", mail=row.id, failure=failure, attempts=row.attempts)


async def _patience(handed_in: asyncio.Event) -> None:
    """Until something was handed in here, or another replica may have died with some."""
    try:
        async with asyncio.timeout(POLL):
            await handed_in.wait()
    except TimeoutError:
        return
    handed_in.clear()


def stale(now: int, kept_ms: int) -> Any:
    """What housekeeping may delete: given up, and seen by nobody for `kept_ms`."""
    return or_(mails.c.given_up_at < now - kept_ms, mails.c.expires_at < now - 2 * kept_ms)
