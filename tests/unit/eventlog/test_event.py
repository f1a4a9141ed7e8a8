"""What is an event and what is not, to a reader that bears with the future."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events.v1.envelope_pb2 import Envelope
from contracts.orders.v1.events_pb2 import OrderPlaced
from eventlog.event import LARGEST, Event, EventId, EventTooLarge, UnreadableEvent, decoded, new_event_id, read_as

text = st.text(min_size=1, max_size=40)
events = st.builds(
    Event,
    id=text.map(EventId),
    type=text,
    version=st.integers(0, 2**31 - 1),
    aggregate=text,
    sequence=st.integers(1, 2**63 - 1),
    occurred_at=st.integers(0, 4_000_000_000_000),
    traceparent=st.text(max_size=60),
    data=st.binary(max_size=200),
)


@given(events)
def test_what_is_written_is_read(event: Event) -> None:
    assert decoded(event.encoded()) == event


@given(st.binary(max_size=200))
def test_any_bytes_are_an_event_or_unreadable(payload: bytes) -> None:
    try:
        event = decoded(payload)
    except UnreadableEvent:
        return
    assert event.id


@given(events)
def test_fields_of_the_future_are_skipped(event: Event) -> None:
    unknown = b"\xfa\x3f\x03new"  # field 1023
    assert decoded(event.encoded() + unknown) == event


@pytest.mark.parametrize("lacks", ["id", "type", "aggregate", "sequence"])
def test_an_envelope_that_lacks_what_every_event_has_is_unreadable(lacks: str) -> None:
    envelope = Envelope(id="evt_1", type="t", version=1, aggregate="a", sequence=1)
    assert decoded(envelope.SerializeToString()).id == "evt_1"
    envelope.ClearField(lacks)
    with pytest.raises(UnreadableEvent):
        decoded(envelope.SerializeToString())


def test_an_event_has_a_largest_size() -> None:
    def sized(size: int) -> Event:
        return Event(EventId("evt_1"), "t", 1, "a", 1, 0, "", b"x" * size)

    assert len(sized(LARGEST - 100).encoded()) <= LARGEST
    with pytest.raises(EventTooLarge):
        sized(LARGEST).encoded()


def test_content_that_is_no_message_is_unreadable() -> None:
    event = Event(EventId("evt_1"), OrderPlaced.DESCRIPTOR.full_name, 1, "a", 1, 0, "", b"\xff")
    with pytest.raises(UnreadableEvent):
        read_as(event, OrderPlaced)


def test_ids_differ() -> None:
    ids = {new_event_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(one) == 26 for one in ids)
