"""What people are told when something happens: an event of orders or identity in, one entry of an inbox out.

Each reaction runs in the transaction that notes its event, so an event is told once, and its mail is queued with it.
An event that can be told to nobody is given up with its reason; a type that nobody reacts to is passed by.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from sqlalchemy import Connection

from eventlog import ConsumerMetrics, Event, Inbox, NeverRetry, Reaction, Reactions
from notifications import mail_queue, storage
from notifications.channels.live import Hint
from notifications.domain import NotAPerson, Person, notification_id
from notifications.words import Words, whose
from servicekit.database import Database

READER = "notifications"  # the group, and the name in the notes


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a reaction has done: whose inbox goes up to where, and whether a mail was queued."""

    hint: Hint
    mailed: bool


def reactions_to(
    stream: str,
    words: Mapping[type[Message], Words],
    database: Database,
    *,
    metrics: ConsumerMetrics,
    arrived: Callable[[Sequence[Arrived]], None],
) -> Reactions:
    """The handler for one stream, whose `words` are in the module of that name. `arrived` is told after each commit."""

    def committed(results: Sequence[object]) -> None:
        arrived([result for result in results if isinstance(result, Arrived)])

    return Reactions(
        database,
        Inbox(storage.events, stream=stream, reader=READER),
        {kind: _reaction(database, say) for kind, say in words.items()},
        metrics=metrics,
        prepare=_prepare,
        committed=committed,
    )


def _reaction(database: Database, say: Words) -> Reaction:
    def react(tx: Connection, event: Event, message: Any) -> Arrived:
        try:
            told = say(message)
        except NotAPerson:
            raise NeverRetry("NOT_A_PERSON", f"{event.type} is about nobody who has an inbox") from None
        notification = notification_id(event.id)
        sequence = storage.tell(tx, notification, told, at=event.occurred_at)
        mailed = storage.wishes(tx, told.person).want(told)
        if mailed:
            mail_queue.queue(tx, notification, told.person, at=database.now(tx))
        return Arrived((told.person, sequence), mailed)

    return react


def _prepare(tx: Connection, events: Sequence[tuple[Event, Any]]) -> None:
    persons: set[Person] = set()
    for _, message in events:
        with contextlib.suppress(NotAPerson):  # its reaction says so
            persons.add(whose(message))
    storage.lock(tx, persons)
