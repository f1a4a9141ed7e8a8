"""What identity signs about revocations: written and read back, and nothing else is read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind import MalformedToken
from rescind.messages import (
    ENTRY_KINDS,
    HEARTBEAT_EVENT,
    REVOCATION_EVENT,
    Entry,
    Heartbeat,
    RevocationMessage,
    claims_of,
    digest,
    genesis,
    message_from,
)

IDS = st.text(min_size=1, max_size=20)
COUNTS = st.integers(0, 2**53)
ENTRIES = st.one_of(
    st.builds(Entry, kind=st.sampled_from(ENTRY_KINDS[:3]), id=IDS),
    st.builds(Entry, kind=st.sampled_from(ENTRY_KINDS[3:]), id=IDS, gen=COUNTS, soft=st.booleans()),
)
REVOCATIONS = st.builds(
    RevocationMessage,
    log=IDS,
    pos=st.integers(1, 2**53),
    prev=IDS,
    entries=st.lists(ENTRIES, max_size=4).map(tuple),
    cause=IDS,
    at=COUNTS,
)
HEARTBEATS = st.builds(
    lambda head, below, **members: Heartbeat(head=head, floor=max(1, head + 1 - below), **members),
    head=COUNTS,
    below=st.integers(0, 100),
    log=IDS,
    hash=IDS,
    kids=st.frozensets(IDS, max_size=4),
    at=COUNTS,
    nonce=st.text(max_size=20),
)


@given(REVOCATIONS | HEARTBEATS)
def test_what_is_written_is_read(message: RevocationMessage | Heartbeat) -> None:
    claims = claims_of(message, "https://issuer.test", "jti")
    assert message_from(claims) == message
    assert (claims["iss"], claims["jti"], claims["iat"]) == ("https://issuer.test", "jti", message.at // 1000)


REVOCATION = RevocationMessage("log", 1, "prev", (Entry("subject", "usr_a", 2),), "CAUSE", 1000)
HEARTBEAT = Heartbeat("log", 1, "hash", 1, frozenset({"kid"}), 1000)


def _spoiled(message: RevocationMessage | Heartbeat, member: str, value: Any) -> dict[str, Any]:
    claims = claims_of(message, "iss", "jti")
    (event,) = claims["events"].values()
    if value is None:
        del event[member]
    else:
        event[member] = value
    return claims


@pytest.mark.parametrize("member", ["log", "pos", "prev", "entries", "cause", "at"])
@pytest.mark.parametrize(
    "value", [None, "", -1, 1.5, True, {}, [1], [{"kind": "token"}], [{"kind": "subject", "id": "a"}]]
)
def test_a_revocation_with_a_member_of_the_wrong_type_is_refused(member: str, value: Any) -> None:
    with pytest.raises(MalformedToken):
        message_from(_spoiled(REVOCATION, member, value))


@pytest.mark.parametrize("member", ["log", "head", "hash", "floor", "kids", "at"])
@pytest.mark.parametrize("value", [None, "", -1, 1.5, True, {}, [1]])
def test_a_heartbeat_with_a_member_of_the_wrong_type_is_refused(member: str, value: Any) -> None:
    with pytest.raises(MalformedToken):
        message_from(_spoiled(HEARTBEAT, member, value))


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"events": []},
        {"events": {}},
        {"events": {"urn:rescind:event:other": {}}},
        {"events": {REVOCATION_EVENT: []}},
        {"events": {**claims_of(REVOCATION, "i", "j")["events"], **claims_of(HEARTBEAT, "i", "j")["events"]}},
        _spoiled(HEARTBEAT, "floor", 3),
        _spoiled(HEARTBEAT, "floor", 0),
        _spoiled(HEARTBEAT, "nonce", 7),
        _spoiled(REVOCATION, "pos", 0),
    ],
)
def test_what_is_no_message_is_refused(claims: dict[str, Any]) -> None:
    with pytest.raises(MalformedToken):
        message_from(claims)


def test_an_unknown_kind_is_left_out_and_the_rest_is_read() -> None:
    entries = [{"kind": "tenant", "id": 7}, {"kind": "token", "id": "jti", "more": True}]
    message = message_from(_spoiled(REVOCATION, "entries", entries))
    assert isinstance(message, RevocationMessage)
    assert message.entries == (Entry("token", "jti"),)


def test_the_names_are_the_protocols() -> None:
    assert set(claims_of(REVOCATION, "i", "j")["events"]) == {REVOCATION_EVENT}
    assert set(claims_of(HEARTBEAT, "i", "j")["events"]) == {HEARTBEAT_EVENT}
    assert genesis("log") == digest(b"log") == "g2_xhOe0Gx4Ty1_Yn6HemNu6uZ6dKRiRP_Q7hqXHwhM"
