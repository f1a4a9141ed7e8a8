"""Events in, inbox and mail out: once each, whoever handles them, whatever goes wrong on the way."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from contracts.identity.v1 import events_pb2 as security
from contracts.orders.v1 import events_pb2 as orders
from eventlog.redis_stream import RedisStream
from notifications import commands, mail_queue, storage
from notifications.domain import Preferences, notification_id
from notifications.reactions import READER
from servicekit.database import Database
from support.eventually import eventually
from support.notifications_system import WITHIN, NotificationsSystem, Outgoing


@pytest.fixture
async def system(database_url: str, embedded_redis_url: str) -> NotificationsSystem:
    return NotificationsSystem(database_url, embedded_redis_url)


@pytest.fixture
async def on_sqlite(tmp_path: Path, embedded_redis_url: str) -> NotificationsSystem:
    return NotificationsSystem(f"sqlite:///{tmp_path / 'test.db'}", embedded_redis_url)


def _rows(system: NotificationsSystem):
    database = Database(system.database_url, pool_size=1)
    try:
        table = storage.notifications
        return database.run_sync(lambda tx: tx.execute(select(table).order_by(table.c.person, table.c.sequence)).all())
    finally:
        database._threads.shutdown()
        database.engine.dispose()


async def _arrived(system: NotificationsSystem, count: int) -> None:
    async def enough() -> bool:
        return len(await asyncio.to_thread(_rows, system)) >= count

    await eventually(enough, within=2 * WITHIN)


async def _mailed(outgoing: Outgoing, count: int) -> None:
    async def enough() -> bool:
        return len(outgoing.sent) >= count

    await eventually(enough, within=2 * WITHIN)


async def test_two_replicas_handle_and_mail_each_event_once(system: NotificationsSystem) -> None:
    people = [f"usr_{n}" for n in range(5)]
    async with system.replica() as one, system.replica() as two, system.producer() as placed:
        async with system.producer("identity.events") as signed_in:
            for n in range(40):
                await placed.tell(
                    *(orders.OrderPlaced(order_id=f"ord_{n}-{person}", owner=person) for person in people),
                    aggregate=f"ord_{n}",
                )
                await signed_in.tell(security.SignedIn(subject=people[n % 5]), aggregate=people[n % 5])
        await _arrived(system, 240)
        await _mailed(system.outgoing, 240)
        handled = [each.metric("eventlog_handled_total", stream="orders.events", group=READER, outcome="handled")
                   for each in (one, two)]  # fmt: skip
    assert sum(handled) == 200
    assert all(handled), "one of the two did nothing: then this proves little"
    rows = _rows(system)
    assert [row.sequence for row in rows if row.person == "usr_3"] == list(range(1, 49))
    assert Counter(mail.message_id.partition("@")[0] for mail in system.outgoing.sent) == Counter(
        row.id for row in rows
    )


async def test_an_event_that_comes_again_changes_nothing(on_sqlite: NotificationsSystem) -> None:
    """The stream was lost, and appended again."""
    system = on_sqlite
    stream = RedisStream(system.redis_url, "orders.events")
    async with system.replica() as replica:
        async with system.producer() as placed:
            told = await placed.tell(*(orders.OrderPlaced(order_id=f"ord_{n}", owner="usr_a") for n in range(5)))
            payloads = [event.encoded() for event in told]
        await _arrived(system, 5)
        await stream._now.flushall()
        async with system.producer() as again:
            await again.append(*payloads, again.event(orders.OrderPlaced(order_id="new", owner="usr_a")).encoded())
        await _arrived(system, 6)
        repeated = replica.metric("eventlog_handled_total", stream="orders.events", group=READER, outcome="repeated")
        assert repeated == 5
        await _mailed(system.outgoing, 6)
    await stream.aclose()
    assert len(_rows(system)) == len(system.outgoing.sent) == 6


async def test_an_inbox_entry_and_its_mail_are_one_transaction(on_sqlite: NotificationsSystem, monkeypatch) -> None:
    """Queueing the mail fails at first: then there is no entry, no note, and all three come later."""
    queue, failures = mail_queue.queue, 0

    def flaky(tx, notification, person, *, at) -> None:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise RuntimeError("the disk is full")
        queue(tx, notification, person, at=at)

    monkeypatch.setattr(mail_queue, "queue", flaky)
    async with on_sqlite.replica(), on_sqlite.producer() as placed:
        await placed.tell(orders.OrderPlaced(order_id="ord_1", owner="usr_a"))
        await _mailed(on_sqlite.outgoing, 1)
    assert failures >= 3
    assert [row.sequence for row in _rows(on_sqlite)] == [1]


async def test_preferences_decide_what_is_mailed_and_not_what_is_told(on_sqlite: NotificationsSystem) -> None:
    system = on_sqlite
    database = Database(system.database_url)
    await database.run(lambda tx: storage.wish(tx, "usr_a", Preferences(False, False), at=1))  # type: ignore[arg-type]
    await database.dispose()
    async with system.replica(), system.producer("identity.events") as told, system.producer() as placed:
        await placed.tell(orders.OrderPlaced(order_id="ord_1", owner="usr_a"))
        await told.tell(
            security.SignedIn(subject="usr_a"),
            security.PasswordChanged(subject="usr_a"),
            security.RefreshTokenReused(subject="usr_a", client_id="mobile"),
            security.AccountDisabled(subject="usr_a"),
            aggregate="usr_a",
        )
        await _arrived(system, 5)
        await _mailed(system.outgoing, 2)
    assert {mail.subject for mail in system.outgoing.sent} == {
        "Your password was changed", "We ended an access to your account",
    }  # fmt: skip


async def test_a_poison_event_blocks_nothing_and_is_driven_again_by_one_command(
    on_sqlite: NotificationsSystem, monkeypatch
) -> None:
    system = on_sqlite
    monkeypatch.setenv("RESCIND_REDIS_URL", system.redis_url)
    async with system.replica() as replica, system.producer() as placed:
        broken = placed.event(orders.OrderPlaced(order_id="ord_0", owner="svc_nobody"))
        await placed.append(broken.encoded(), b"\xff\xff no envelope")
        await placed.tell(orders.OrderPlaced(order_id="ord_1", owner="usr_a"))
        await _arrived(system, 1)

        async def buried() -> bool:
            return replica.metric("eventlog_dead_letters", stream="orders.events", group=READER) == 2

        await eventually(buried, within=WITHIN)
        listed = await asyncio.to_thread(CliRunner().invoke, commands.app, ["dead-letters", "list"])
        assert listed.exit_code == 0
        reasons = [line.split("  ")[2] for line in listed.stdout.splitlines() if line[0].isdigit()]
        assert sorted(reasons) == ["NOT_A_PERSON", "UNREADABLE"]

        # Mended: it turns out whom the order was for.
        monkeypatch.setattr("notifications.reactions.whose", lambda _: "usr_a")
        monkeypatch.setattr("notifications.words.whose", lambda _: "usr_a")
        driven = await asyncio.to_thread(CliRunner().invoke, commands.app, ["dead-letters", "redrive", "--all"])
        assert "2 delivered again" in driven.stdout
        await _arrived(system, 2)
    assert [row.id for row in _rows(system)][-1] == notification_id(broken.id)


async def test_a_newer_revision_and_an_unknown_type_are_read_as_far_as_they_are_known(
    on_sqlite: NotificationsSystem,
) -> None:
    async with on_sqlite.replica() as replica, on_sqlite.producer() as placed:
        await placed.tell(security.GrantGiven(subject="usr_a"))  # on another stream than its own: nobody reacts to it
        await placed.tell(orders.OrderPlaced(order_id="ord_1", owner="usr_a"), version=7)
        await _arrived(on_sqlite, 1)
        labels = {"stream": "orders.events", "group": READER}
        assert replica.metric("eventlog_newer_revisions_total", **labels) == 1
        assert replica.metric("eventlog_handled_total", **labels, outcome="unknown") == 1


async def test_mails_that_were_given_up_are_seen_and_tried_again_by_command(
    on_sqlite: NotificationsSystem, monkeypatch
) -> None:
    from servicekit.mail import MailRefused

    class Refusing(Outgoing):
        async def send(self, mail) -> None:
            if not self.sent:
                self.sent.append(mail)
                raise MailRefused("RECIPIENT_REFUSED", 550)
            await super().send(mail)

    outgoing, system = Refusing(), on_sqlite
    for name, value in {
        "NOTIFICATIONS_DATABASE_URL": system.database_url, "NOTIFICATIONS_CLIENT_SECRET": "s",
        "RESCIND_REDIS_URL": system.redis_url, "RESCIND_MAIL_URL": "smtp://127.0.0.1:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    async with system.replica(mailer=outgoing), system.producer() as placed:
        [event] = await placed.tell(orders.OrderPlaced(order_id="ord_1", owner="usr_a"))
        await _mailed(outgoing, 1)

        async def run(*arguments: str):
            return await asyncio.to_thread(CliRunner().invoke, commands.app, ["mails", *arguments])

        async def shows() -> bool:
            return "refused" in (await run("list")).stdout

        await eventually(shows, within=WITHIN)
        [line] = [line for line in (await run("list")).stdout.splitlines() if line.startswith("ntf_")]
        assert line.startswith(notification_id(event.id))
        assert line.endswith("refused  RECIPIENT_REFUSED  after 1  to usr_a")
        assert (await run("again", notification_id(event.id))).exit_code == 0
        assert (await run("again", "ntf_unknown")).exit_code == 1
        await _mailed(outgoing, 2)
    assert len({mail.message_id for mail in outgoing.sent}) == 1
