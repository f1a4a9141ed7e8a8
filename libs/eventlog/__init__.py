"""Append facts, read them back, lose none.

A producer tells an event in the transaction that makes it true; a reader's reaction commits together with the note that
the event was seen. What lies between may crash, repeat, or forget, and each event still has its effect exactly once:

    outbox    the events a service has told, in its own SQL: the truth
    relay     sees to it that the stream ends like SQL
    stream    a Redis Stream (`redis_stream`), or one in memory (`memory_stream`): can be lost, and is made again
    consumer  reads for a group; retries, gives up into dead letters, takes over from the dead
    inbox     the notes that tell a repeat; `reactions` writes them in the transaction of the effect

A producer calls `outbox.append(tx, OrderPlaced(...), aggregate=order.id)`, and `relay.wake()` after the commit. A
reader runs `Consumer(stream.group("notifications"), Reactions(database, inbox, {OrderPlaced: react}))`.
"""

from eventlog.consumer import Consumer, consumer_name
from eventlog.event import Event, EventId, EventTooLarge, UnreadableEvent
from eventlog.handling import Handler, Later, NeverRetry, Outcome, Patience
from eventlog.inbox import Inbox, InboxTables, declare_inbox
from eventlog.metrics import ConsumerMetrics, RelayMetrics
from eventlog.outbox import Outbox, OutboxTables, declare_outbox
from eventlog.reactions import Reaction, Reactions
from eventlog.relay import Pace, Relay
from eventlog.stream import Delays, Group, GroupLost, Stream, StreamUnavailable

__all__ = [
    "Consumer",
    "ConsumerMetrics",
    "Delays",
    "Event",
    "EventId",
    "EventTooLarge",
    "Group",
    "GroupLost",
    "Handler",
    "Inbox",
    "InboxTables",
    "Later",
    "NeverRetry",
    "Outbox",
    "OutboxTables",
    "Outcome",
    "Pace",
    "Patience",
    "Reaction",
    "Reactions",
    "Relay",
    "RelayMetrics",
    "Stream",
    "StreamUnavailable",
    "UnreadableEvent",
    "consumer_name",
    "declare_inbox",
    "declare_outbox",
]
