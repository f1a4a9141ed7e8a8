"""The inbox and the mail queue on SQLite and PostgreSQL: sequences without gaps, claims that exclude each other."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from notifications import mail_queue, storage
from notifications.domain import (
    Category,
    Kind,
    MailState,
    NotificationId,
    Person,
    Preferences,
    Told,
    notification_id,
)
from servicekit.database import Database
from servicekit.migrations import migrate

ALICE, BOB = Person("usr_alice"), Person("usr_bob")
DAY = 24 * 3600 * 1000


@pytest.fixture
def database(database_url: str):
    migrate(database_url, "notifications")
    database = Database(database_url)
    yield database
    database._threads.shutdown()
    database.engine.dispose()


def _told(person: Person = ALICE, kind: Kind = Kind.ORDER_PLACED) -> Told:
    return Told(person, kind, "Title", "Body\nof two lines", "ord_1", kind.mailing)


def _tell(database: Database, event: str, person: Person = ALICE, *, mail: bool = False, at: int = 1000) -> int:
    def work(tx) -> int:
        sequence = storage.tell(tx, notification_id(event), _told(person), at=at)
        if mail:
            mail_queue.queue(tx, notification_id(event), person, at=at)
        return sequence

    return database.run_sync(work)


def test_the_migrations_lead_to_the_tables_that_the_code_declares(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), storage.metadata) == []


def test_each_inbox_counts_for_itself(database: Database) -> None:
    assert [_tell(database, f"a{n}") for n in range(3)] == [1, 2, 3]
    assert _tell(database, "b", BOB) == 1
    with database.engine.connect() as tx:
        assert storage.counts(tx, ALICE) == (3, 3)
        assert storage.counts(tx, Person("usr_nobody")) == (0, 0)
        assert storage.last_sequences(tx, [ALICE, BOB, Person("usr_nobody")]) == {ALICE: 3, BOB: 1}


def test_an_inbox_is_read_in_both_directions(database: Database) -> None:
    for n in range(5):
        _tell(database, f"a{n}", at=1000 + n)
    _tell(database, "b", BOB)
    with database.engine.connect() as tx:
        assert [one.sequence for one in storage.newest(tx, ALICE, 2, None)] == [5, 4]
        assert [one.sequence for one in storage.newest(tx, ALICE, 9, 4)] == [3, 2, 1]
        assert [one.sequence for one in storage.since(tx, ALICE, 1, 2)] == [2, 3]
        assert storage.since(tx, ALICE, 5, 9) == []
        found = storage.find(tx, notification_id("a0"))
    assert found is not None
    assert (found.person, found.kind, found.category, found.body) == (
        ALICE, "ORDER_PLACED", Category.ORDERS, "Body\nof two lines",
    )  # fmt: skip
    assert (found.created_at, found.read_at) == (1000, None)


def test_marking_as_read_counts_once_and_only_for_its_owner(database: Database) -> None:
    _tell(database, "a")
    _tell(database, "a2")
    read = [
        database.run_sync(lambda tx, who=who, at=at: storage.mark_read(tx, who, notification_id("a"), at=at))
        for who, at in ((BOB, 5), (ALICE, 6), (ALICE, 7))
    ]
    assert [one and one.read_at for one in read] == [None, 6, 6]
    with database.engine.connect() as tx:
        assert storage.counts(tx, ALICE) == (2, 1)
        assert storage.counts(tx, BOB) == (0, 0)


def test_marking_as_read_by_many_at_once_counts_once(database: Database) -> None:
    _tell(database, "a")
    barrier = Barrier(6)

    def mark(n: int):
        barrier.wait()
        return database.run_sync(lambda tx: storage.mark_read(tx, ALICE, notification_id("a"), at=n))

    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(mark, range(6)))
    assert len({one.read_at for one in read if one is not None}) == 1
    with database.engine.connect() as tx:
        assert storage.counts(tx, ALICE) == (1, 0)


def test_the_same_notification_is_not_stored_twice(database: Database) -> None:
    _tell(database, "a")
    with pytest.raises(IntegrityError):
        _tell(database, "a")
    with database.engine.connect() as tx:
        assert storage.counts(tx, ALICE) == (1, 1)


def test_who_has_read_up_to_n_has_missed_nothing_however_late_a_transaction_commits(database: Database) -> None:
    """Two writers at once: the second gets its sequence only after the first has committed."""
    _tell(database, "a0")
    told, may_commit = Event(), Event()

    def slow(tx) -> int:
        sequence = storage.tell(tx, notification_id("slow"), _told(), at=1)
        told.set()
        assert may_commit.wait(20)
        return sequence

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(database.run_sync, slow)
        assert told.wait(20)
        second = pool.submit(_tell, database, "fast")
        with database.engine.connect().execution_options(servicekit_read_only=True) as tx:
            assert [one.sequence for one in storage.since(tx, ALICE, 0, 9)] == [1]
        assert not second.done()
        may_commit.set()
        assert (first.result(), second.result()) == (2, 3)


def test_a_transaction_that_fails_leaves_no_gap(database: Database) -> None:
    _tell(database, "a")

    def fail(tx) -> None:
        storage.tell(tx, notification_id("b"), _told(), at=1)
        raise KeyError

    with pytest.raises(KeyError):
        database.run_sync(fail)
    assert _tell(database, "c") == 2


def test_sequences_have_no_gap_under_many_writers_that_tell_several_people_each(database: Database) -> None:
    people = [Person(f"usr_{n}") for n in range(4)]
    barrier = Barrier(6)

    def write(writer: int) -> None:
        barrier.wait()
        for round_ in range(6):
            turn = people[writer % 4 :] + people[: writer % 4]  # each in another order: they would wait in a circle

            def work(tx, round_: int = round_, turn: list[Person] = turn) -> None:
                storage.lock(tx, set(turn))
                for person in turn:
                    storage.tell(tx, notification_id(f"{writer}-{round_}-{person}"), _told(person), at=1)

            database.run_sync(work)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    with database.engine.connect() as tx:
        for person in people:
            assert [one.sequence for one in storage.since(tx, person, 0, 100)] == list(range(1, 37))
            assert storage.counts(tx, person) == (36, 36)


def test_locks_taken_in_one_order_lose_nobody_to_a_deadlock(database: Database, monkeypatch) -> None:
    """Without `lock` two such transactions wait for each other, and PostgreSQL ends one after a second."""
    monkeypatch.setattr("servicekit.database.ATTEMPTS", 1)
    barrier = Barrier(2)

    def write(turn: list[Person]) -> None:
        barrier.wait()
        for n in range(10):

            def work(tx, n: int = n) -> None:
                storage.lock(tx, set(turn))
                for person in turn:
                    storage.tell(tx, notification_id(f"{turn[0]}-{n}-{person}"), _told(person), at=1)

            database.run_sync(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [[ALICE, BOB], [BOB, ALICE]]))


def test_everything_is_mailed_until_somebody_says_otherwise(database: Database) -> None:
    assert database.run_sync(lambda tx: storage.wishes(tx, ALICE)) == Preferences(True, True)
    for wanted in (Preferences(False, True), Preferences(True, False)):
        database.run_sync(lambda tx, wanted=wanted: storage.wish(tx, ALICE, wanted, at=1))
        assert database.run_sync(lambda tx: storage.wishes(tx, ALICE)) == wanted
    assert database.run_sync(lambda tx: storage.wishes(tx, BOB)) == Preferences()


def _claim(database: Database, count: int, name: str, at: int, lease: int = 60_000) -> list[mail_queue.Claimed]:
    return database.run_sync(lambda tx: mail_queue.claim(tx, count, name, at=at, lease=lease))


def test_a_mail_is_claimed_by_one_until_its_lease_is_over(database: Database) -> None:
    _tell(database, "a", mail=True, at=1000)
    assert _claim(database, 9, "too early", 999) == []
    [mail] = _claim(database, 9, "one", 1000)
    assert (mail.notification.id, mail.attempt, mail.queued_at) == (notification_id("a"), 1, 1000)
    assert _claim(database, 9, "two", 60_999) == []
    [again] = _claim(database, 9, "two", 61_000)
    assert again.attempt == 2


def test_who_comes_too_late_changes_nothing(database: Database) -> None:
    _tell(database, "a", mail=True, at=0)
    [late] = _claim(database, 1, "late", 0)
    [mail] = _claim(database, 1, "in time", 60_000)
    assert not database.run_sync(lambda tx: mail_queue.settle(tx, late, MailState.REFUSED, "X", at=1))
    assert not database.run_sync(lambda tx: mail_queue.put_back(tx, late, "X", due_at=1))
    assert database.run_sync(lambda tx: mail_queue.settle(tx, mail, MailState.SENT, at=1))
    assert not database.run_sync(lambda tx: mail_queue.settle(tx, mail, MailState.REFUSED, "X", at=1))
    assert database.run_sync(mail_queue.next_due) is None
    assert database.run_sync(mail_queue.tally) == {}


def test_what_is_put_back_comes_when_it_is_due_with_its_reason(database: Database) -> None:
    _tell(database, "a", mail=True, at=0)
    [mail] = _claim(database, 1, "one", 0)
    assert database.run_sync(lambda tx: mail_queue.put_back(tx, mail, "GREYLISTED", due_at=5000))
    assert database.run_sync(mail_queue.next_due) == 5000
    assert _claim(database, 1, "two", 4999) == []
    [mail] = _claim(database, 1, "three", 5000)
    assert (mail.attempt, mail.reason) == (2, "GREYLISTED")


def test_the_oldest_come_first_and_no_more_than_asked_for(database: Database) -> None:
    for n in range(5):
        _tell(database, f"a{n}", mail=True, at=n)
    assert [mail.queued_at for mail in _claim(database, 3, "one", 10)] == [0, 1, 2]
    assert [mail.queued_at for mail in _claim(database, 3, "two", 10)] == [3, 4]


def test_many_that_claim_at_once_get_different_ones(database: Database) -> None:
    for n in range(40):
        _tell(database, f"a{n}", mail=True, at=n)
    barrier = Barrier(5)

    def take(sender: int) -> list[NotificationId]:
        barrier.wait()
        got: list[NotificationId] = []
        for turn in range(20):
            got += [mail.notification.id for mail in _claim(database, 3, f"{sender}-{turn}", 100)]
        return got

    with ThreadPoolExecutor(5) as pool:
        taken = Counter(each for got in pool.map(take, range(5)) for each in got)
    assert taken == Counter({notification_id(f"a{n}"): 1 for n in range(40)})


def test_what_was_given_up_is_seen_and_can_be_tried_again(database: Database) -> None:
    for name, state in (("a", MailState.REFUSED), ("b", MailState.EXPIRED), ("c", MailState.SENT)):
        _tell(database, name, mail=True, at=0)
        [mail] = _claim(database, 1, name, 0)
        database.run_sync(lambda tx, mail=mail, state=state: mail_queue.settle(tx, mail, state, "WHY", at=9))
    _tell(database, "d", mail=True, at=0)
    assert database.run_sync(mail_queue.tally) == {MailState.REFUSED: 1, MailState.EXPIRED: 1, MailState.QUEUED: 1}
    seen = database.run_sync(lambda tx: mail_queue.unsent(tx, 9))
    assert {(mail.notification, mail.state, mail.reason, mail.person) for mail in seen} == {
        (notification_id("a"), MailState.REFUSED, "WHY", ALICE),
        (notification_id("b"), MailState.EXPIRED, "WHY", ALICE),
        (notification_id("d"), MailState.QUEUED, "", ALICE),
    }
    again = [
        database.run_sync(lambda tx, n=n: mail_queue.queue_again(tx, notification_id(n), at=2 * DAY)) for n in "abcd"
    ]
    assert again == [True, True, False, False]
    tried = _claim(database, 9, "again", 2 * DAY)
    assert {(mail.attempt, mail.expires_at) for mail in tried if mail.notification.id != notification_id("d")} == {
        (1, 3 * DAY)
    }


def test_no_table_has_a_place_for_an_address(database: Database) -> None:
    named = {column.name for table in storage.metadata.tables.values() for column in table.columns}
    assert not {name for name in named if "address" in name or name == "email" or name == "recipient"}
    with database.engine.connect() as tx:
        assert tx.execute(select(mail_queue.mails)).all() == []
