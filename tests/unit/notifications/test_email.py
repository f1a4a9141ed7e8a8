"""The mail sender against a real SMTP server and a real database, at every point where it can be cut off."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from notifications import mail_queue, storage
from notifications.channels.contacts import Contact, Contacts, ContactUnavailable, NoSuchAccount
from notifications.channels.email import MailMetrics, MailSender, Pace
from notifications.channels.letters import Letters
from notifications.domain import TRIED_FOR, Kind, MailState, NotificationId, Person, Told, message_id, notification_id
from servicekit.database import Database
from servicekit.errors import Kind as ErrorKind
from servicekit.errors import ServiceError
from servicekit.mail import Mail, Mailer, SmtpMailer
from servicekit.migrations import migrate
from support.smtp_server import Postbox, smtp_server

ALICE = Person("usr_alice")
LEASE = 60_000  # ms


class Book:
    """`Contacts` in the test's hands."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.disabled = False

    async def of(self, person: Person) -> Contact:
        if self.fails is not None:
            raise self.fails
        return Contact(f"{person}@example.com", "", self.disabled)


@dataclass
class World:
    database: Database
    postbox: Postbox
    mailer: Mailer
    contacts: Book = field(default_factory=Book)
    now: int = 1_000_000
    monotonic: float = 0.0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def sender(self, mailer: Mailer | None = None, contacts: Contacts | None = None, **pace: float) -> MailSender:
        return MailSender(
            self.database, contacts or self.contacts, mailer or self.mailer, Letters("http://localhost:8000").write,
            metrics=MailMetrics(CollectorRegistry()), pace=Pace(**({"poll": 0.02} | pace)), chance=lambda: 1.0,
            monotonic=lambda: self.monotonic,
        )  # fmt: skip

    def queue(self, *events: str) -> list[NotificationId]:
        told = Told(ALICE, Kind.ORDER_PLACED, "We have your order", "1 × tea", "ord_1", Kind.ORDER_PLACED.mailing)

        def work(tx) -> None:
            for event in events:
                storage.tell(tx, notification_id(event), told, at=self.now)
                mail_queue.queue(tx, notification_id(event), ALICE, at=self.now)

        self.database.run_sync(work)
        return [notification_id(event) for event in events]

    async def until(self, sender: MailSender, state: MailState, count: int = 1) -> None:
        """Runs the sender until so many mails are in a state (for QUEUED: have been put back)."""
        running = asyncio.create_task(sender.run())
        async with asyncio.timeout(20):
            while self.count(state) < count:
                await asyncio.sleep(0)
                await self.database.read(lambda tx: None)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    def count(self, state: MailState) -> int:
        with self.database.engine.connect() as tx:
            rows = tx.execute(mail_queue.mails.select()).all()
        if state is MailState.QUEUED:
            return sum(row.state == "queued" and bool(row.reason) for row in rows)
        return sum(row.state == state.value for row in rows)

    def row(self, notification: NotificationId):
        with self.database.engine.connect() as tx:
            return tx.execute(mail_queue.mails.select().where(mail_queue.mails.c.notification == notification)).one()

    def message_ids(self) -> Counter[str]:
        return Counter(mail["Message-ID"] for mail in self.postbox.mails)


@pytest.fixture
async def world(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'test.db'}"
    migrate(url, "notifications")
    postbox = Postbox()
    async with smtp_server(postbox) as port:
        made = World(Database(url), postbox, SmtpMailer(f"smtp://127.0.0.1:{port}", "no-reply@example.com", deadline=2))
        made.database._now = lambda: made.now
        yield made
        await made.database.dispose()


async def test_what_is_queued_is_sent_once(world: World) -> None:
    queued = world.queue(*(f"e{n}" for n in range(20)))
    await world.until(world.sender(), MailState.SENT, 20)
    assert world.message_ids() == Counter({f"<{message_id(each)}>": 1 for each in queued})
    assert set(world.postbox.recipients) == {"usr_alice@example.com"}
    assert world.database.run_sync(mail_queue.next_due) is None


async def test_several_senders_send_each_once(world: World) -> None:
    queued = world.queue(*(f"e{n}" for n in range(30)))
    others = [asyncio.create_task(world.sender().run()) for _ in range(2)]
    await world.until(world.sender(), MailState.SENT, 30)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert world.message_ids() == Counter({f"<{message_id(each)}>": 1 for each in queued})


async def test_who_is_waked_does_not_wait_for_the_next_look(world: World) -> None:
    sender = world.sender(poll=60)
    running = asyncio.create_task(sender.run())
    while not world.postbox.mails:
        if not world.database.run_sync(lambda tx: mail_queue.unsent(tx, 1)):
            world.queue("e1")
        sender.wake()
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class _Cut:
    """A mailer that dies at a point: `before` it sends, or `after` the server's answer."""

    def __init__(self, mailer: Mailer, point: str) -> None:
        self._mailer = mailer
        self._point = point
        self.reached = asyncio.Event()

    async def send(self, mail: Mail) -> None:
        if self._point == "after":
            await self._mailer.send(mail)
        self.reached.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize(("point", "copies"), [("before", 1), ("after", 2)])
async def test_a_sender_that_dies_is_followed_and_a_repeat_has_the_same_message_id(
    world: World, point: str, copies: int
) -> None:
    [queued] = world.queue("e1")
    cut = _Cut(world.mailer, point)
    dying = asyncio.create_task(world.sender(cut, stopping=0.01).run())
    await cut.reached.wait()
    dying.cancel()  # there is no answer to its commit: as if it had been killed
    await asyncio.gather(dying, return_exceptions=True)
    assert world.row(queued).state == "queued"
    assert world.database.run_sync(mail_queue.next_due) == world.now + LEASE  # nobody takes it before
    world.now += LEASE
    await world.until(world.sender(), MailState.SENT)
    assert world.message_ids() == Counter({f"<{message_id(queued)}>": copies})


async def test_a_stop_waits_for_what_is_under_way(world: World) -> None:
    world.queue("e1")
    sender = world.sender()
    running = asyncio.create_task(sender.run())
    world.postbox.taken = lambda _: running.cancel()  # the stop comes before the server's answer
    await asyncio.gather(running, return_exceptions=True)
    assert world.count(MailState.SENT) == 1
    assert len(world.postbox.mails) == 1


async def test_a_word_to_the_database_that_fails_is_said_again(world: World, monkeypatch) -> None:
    world.queue("e1")
    run, failures = world.database.run, 0

    async def flaky(work):
        nonlocal failures
        if world.postbox.mails and failures < 2:
            failures += 1
            raise ServiceError(ErrorKind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "away")
        return await run(work)

    monkeypatch.setattr(world.database, "run", flaky)
    await world.until(world.sender(), MailState.SENT)
    assert (failures, len(world.postbox.mails)) == (2, 1)


@pytest.mark.parametrize(
    ("say", "state", "reason"),
    [({"RCPT": "550 5.1.1 nobody"}, MailState.REFUSED, "RECIPIENT_REFUSED"),
     ({"DATA": "554 spam"}, MailState.REFUSED, "CONTENT_REFUSED"),
     ({"RCPT": "450 later"}, MailState.QUEUED, "RECIPIENT_REFUSED"),
     ({"MAIL": "drop"}, MailState.QUEUED, "NOT_CONNECTED")],
)  # fmt: skip
async def test_what_the_server_says_decides(world: World, say: dict[str, str], state: MailState, reason: str) -> None:
    [queued] = world.queue("e1")
    world.postbox.say.update(say)
    await world.until(world.sender(), state)
    row = world.row(queued)
    assert (row.state, row.reason) == (state.value, reason)
    if state is MailState.QUEUED:
        assert row.due_at == world.now + 2000  # chance is at its largest
        world.postbox.say.clear()
        world.now += 2000
        await world.until(world.sender(), MailState.SENT)
        assert len(world.postbox.mails) == 1


async def test_after_a_day_it_is_given_up_and_shows(world: World) -> None:
    [queued] = world.queue("e1")
    world.postbox.say["RCPT"] = "450 later"
    world.now += TRIED_FOR - 100
    await world.until(world.sender(), MailState.EXPIRED)
    assert (world.row(queued).state, world.row(queued).reason) == ("expired", "RECIPIENT_REFUSED")
    assert world.database.run_sync(mail_queue.tally) == {MailState.EXPIRED: 1}


@pytest.mark.parametrize(
    ("failure", "disabled", "state", "reason"),
    [(NoSuchAccount(), False, MailState.DROPPED, "NO_SUCH_ACCOUNT"),
     (None, True, MailState.DROPPED, "ACCOUNT_DISABLED"),
     (ContactUnavailable("CONTACT_UNAVAILABLE"), False, MailState.QUEUED, "CONTACT_UNAVAILABLE"),
     (ZeroDivisionError(), False, MailState.QUEUED, "UNFORESEEN")],
)  # fmt: skip
async def test_without_an_address_nothing_is_sent(
    world: World, failure: Exception | None, disabled: bool, state: MailState, reason: str
) -> None:
    [queued] = world.queue("e1")
    world.contacts.fails, world.contacts.disabled = failure, disabled
    await world.until(world.sender(), state)
    assert (world.row(queued).state, world.row(queued).reason) == (state.value, reason)
    assert world.postbox.mails == []


async def test_a_process_that_stood_still_leaves_its_mail_to_others(world: World) -> None:
    """The machine slept between the claim and the sending: by now somebody else may have the mail."""
    [queued] = world.queue("e1")
    asked = asyncio.Event()

    class Slow(Book):
        async def of(self, person: Person) -> Contact:
            world.monotonic += 50
            asked.set()
            return await super().of(person)

    running = asyncio.create_task(world.sender(contacts=Slow()).run())
    await asked.wait()
    for _ in range(20):
        await world.database.read(lambda tx: None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.postbox.mails == []
    assert (world.row(queued).state, world.row(queued).attempts) == ("queued", 1)


async def test_a_mail_that_hangs_does_not_keep_the_others(world: World) -> None:
    world.queue("e1")
    world.postbox.say["DATA"] = "hang"
    sender = world.sender()
    running = asyncio.create_task(sender.run())
    await world.postbox.hanging.wait()
    world.postbox.say.clear()
    world.queue("e2", "e3")
    async with asyncio.timeout(20):
        while world.count(MailState.SENT) < 2:
            await world.database.read(lambda tx: None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nothing_that_is_logged_names_anybody(world: World, capsys) -> None:
    from servicekit.telemetry import set_up_logging

    set_up_logging("test")
    world.queue("e1", "e2")
    world.postbox.say["RCPT"] = "550 5.1.1 <usr_alice@example.com> unknown"
    await world.until(world.sender(), MailState.REFUSED, 2)
    lines = capsys.readouterr().out.splitlines()
    logged = "\n".join(line for line in lines if '"mail.log"' not in line)  # the server in this test tells its own tale
    assert "RECIPIENT_REFUSED" in logged
    assert "usr_alice" not in logged
    assert "example.com" not in logged
