"""Dead letters, for people: read what is inside, and put it back or drop it.

Who reads a dead letter knows the event's type by name only; `described` finds its contract by the convention of this
repository, that the events of a package are in `events.proto`.
"""

import importlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message

from eventlog.event import Event, UnreadableEvent, decoded
from eventlog.stream import DeadLetter, Group

_PAGE = 100
# The name comes out of a stream: nothing but generated contracts is ever imported by it.
_CONTRACT = re.compile(r"(contracts\.[a-z]+\.v[0-9]+)\.([A-Z][A-Za-z0-9]*)")


@dataclass(frozen=True, slots=True)
class Described:
    """A dead letter and what could be read of it: no event if it is no envelope, no content if its type is unknown."""

    letter: DeadLetter
    event: Event | None
    content: dict[str, Any] | None


async def all_letters(group: Group) -> AsyncIterator[DeadLetter]:
    """Every dead letter of a group, oldest first."""
    after = ""
    while page := await group.dead_letters(_PAGE, after):
        for letter in page:
            yield letter
        after = page[-1].id


async def redrive_all(group: Group) -> int:
    """Delivers again what is dead now; returns how many. What dies again meanwhile stays."""
    ids = [letter.id async for letter in all_letters(group)]
    moved = 0
    for start in range(0, len(ids), _PAGE):
        moved += await group.redrive(ids[start : start + _PAGE])
    return moved


def described(letter: DeadLetter) -> Described:
    """What a dead letter says, as far as it can be read; never raises for what is in it."""
    try:
        event = decoded(letter.payload)
    except UnreadableEvent:
        return Described(letter, None, None)
    return Described(letter, event, _content(event))


def _content(event: Event) -> dict[str, Any] | None:
    named = _CONTRACT.fullmatch(event.type)
    if named is None:
        return None
    try:
        module = importlib.import_module(f"{named[1]}.events_pb2")
        kind: type[Message] = getattr(module, named[2])
        message = kind.FromString(event.data)
    except (ImportError, AttributeError, DecodeError):
        return None
    return MessageToDict(message, preserving_proto_field_name=True)
