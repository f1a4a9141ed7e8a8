"""An event: a fact about one aggregate, told once and delivered at least once.

On the wire it is a `contracts.events.v1.Envelope` around a message that is named by its full protobuf name. Whoever
reads is tolerant: unknown fields are skipped by protobuf itself, unknown types and newer revisions are the business of
`eventlog.inbox`.
"""

import base64
import secrets
from dataclasses import dataclass
from typing import NewType, TypeVar

from google.protobuf.message import DecodeError, Message

from contracts.events.v1.envelope_pb2 import Envelope

EventId = NewType("EventId", str)
LARGEST = 64 * 1024  # bytes of one encoded event; an event tells what happened and carries no documents
M = TypeVar("M", bound=Message)


class UnreadableEvent(Exception):
    """The bytes are no event, or not of the type that they say: no retry will change that."""


class EventTooLarge(ValueError):
    """An event of more than LARGEST bytes was appended."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fact.

    `type` is the full name of the protobuf message in `data`, `version` its revision at the producer. `sequence` counts
    1, 2, 3 ... within `aggregate`. `occurred_at` is milliseconds since the epoch by the producer's database clock.
    """

    id: EventId
    type: str
    version: int
    aggregate: str
    sequence: int
    occurred_at: int
    traceparent: str
    data: bytes

    def encoded(self) -> bytes:
        """The event as the stream carries it.

        Raises:
            EventTooLarge: above LARGEST bytes.
        """
        envelope = Envelope(
            id=self.id,
            type=self.type,
            version=self.version,
            aggregate=self.aggregate,
            sequence=self.sequence,
            traceparent=self.traceparent,
            data=self.data,
        )
        envelope.occurred_at.FromMilliseconds(self.occurred_at)
        payload = envelope.SerializeToString()
        if len(payload) > LARGEST:
            raise EventTooLarge(f"{self.type} has {len(payload)} bytes, {LARGEST} at most")
        return payload


def decoded(payload: bytes) -> Event:
    """The event in one entry of the stream.

    Raises:
        UnreadableEvent: it is no envelope, or lacks what every event has.
    """
    try:
        envelope = Envelope.FromString(payload)
    except DecodeError as error:
        raise UnreadableEvent("not an envelope") from error
    if not (envelope.id and envelope.type and envelope.aggregate and envelope.sequence > 0):
        raise UnreadableEvent("an envelope without id, type, aggregate or sequence")
    return Event(
        id=EventId(envelope.id),
        type=envelope.type,
        version=envelope.version,
        aggregate=envelope.aggregate,
        sequence=envelope.sequence,
        occurred_at=envelope.occurred_at.ToMilliseconds(),
        traceparent=envelope.traceparent,
        data=envelope.data,
    )


def read_as(event: Event, kind: type[M]) -> M:
    """The message inside.

    Raises:
        UnreadableEvent: `event.data` is no `kind`.
    """
    try:
        return kind.FromString(event.data)
    except DecodeError as error:
        raise UnreadableEvent(f"data is no {kind.DESCRIPTOR.full_name}") from error


def new_event_id() -> EventId:
    """evt_ and 128 random bits: no two producers ever choose the same."""
    return EventId("evt_" + base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode())
