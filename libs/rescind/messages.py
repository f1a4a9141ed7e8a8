"""What identity signs about revocations: the messages of the log, and the heartbeat.

Both are Security Event Tokens (RFC 8417, `typ=secevent+jwt`, RS256) under the log's own keys. The `events` claim has
exactly one member, whose name tells which of the two it is. Identity encodes with `claims_of`, readers decode with
`message_from`; nothing here signs or verifies.

`prev` chains the messages: the SHA-256, in unpadded base64url, of the whole signed message before. The first message
of a log chains to `genesis(log)`.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rescind.errors import MalformedToken

MESSAGE_TYPE = "secevent+jwt"
REVOCATION_EVENT = "urn:rescind:event:revocation"
HEARTBEAT_EVENT = "urn:rescind:event:heartbeat"

# Where the log lives in Redis. The key of the stream holds the log's id, so two logs never share a stream.
REDIS_CHANNEL = "rescind:revocations"
REDIS_HEARTBEAT_KEY = "rescind:heartbeat"
REDIS_STREAM_PREFIX = "rescind:log:"
REDIS_FIELD = "m"

EntryKind = Literal["token", "session", "grant", "subject", "client"]
ENTRY_KINDS: tuple[EntryKind, ...] = ("token", "session", "grant", "subject", "client")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is refused from now on.

    `id` is a jti, sid, gid, sub or client_id. `gen`, for subject and client only, is the new generation: tokens stamped
    with a smaller one are refused. `soft` tells that only the generation was raised; sessions and grants live on.
    """

    kind: EntryKind
    id: str
    gen: int = 0
    soft: bool = False


@dataclass(frozen=True, slots=True)
class RevocationMessage:
    """One position of the log. `at` is milliseconds since the epoch by the database clock."""

    log: str
    pos: int
    prev: str
    entries: tuple[Entry, ...]
    cause: str
    at: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What identity knew of the log at `at` (milliseconds since the epoch, taken before `head` was read).

    `hash` is the hash of message `head` (`genesis(log)` when head is 0); `floor` the oldest position still alive,
    head + 1 when there is none; `kids` the access-token keys that are accepted, all others being refused.
    """

    log: str
    head: int
    hash: str
    floor: int
    kids: frozenset[str]
    at: int
    nonce: str = ""


def digest(message: bytes) -> str:
    """The hash that the next message carries as `prev`."""
    return base64.urlsafe_b64encode(hashlib.sha256(message).digest()).rstrip(b"=").decode()


def genesis(log: str) -> str:
    """What the first message of a log carries as `prev`."""
    return digest(log.encode())


def claims_of(message: RevocationMessage | Heartbeat, issuer: str, jti: str) -> dict[str, Any]:
    """The JWT claims (RFC 8417 section 2.2) that say `message`."""
    event: dict[str, Any]
    if isinstance(message, Heartbeat):
        name = HEARTBEAT_EVENT
        event = {
            "log": message.log,
            "head": message.head,
            "hash": message.hash,
            "floor": message.floor,
            "kids": sorted(message.kids),
            "at": message.at,
        }
        if message.nonce:
            event["nonce"] = message.nonce
    else:
        name = REVOCATION_EVENT
        event = {
            "log": message.log,
            "pos": message.pos,
            "prev": message.prev,
            "entries": [_entry_claims(entry) for entry in message.entries],
            "cause": message.cause,
            "at": message.at,
        }
    return {"iss": issuer, "iat": message.at // 1000, "jti": jti, "events": {name: event}}


def _entry_claims(entry: Entry) -> dict[str, Any]:
    claims: dict[str, Any] = {"kind": entry.kind, "id": entry.id}
    if entry.kind in ("subject", "client"):
        claims["gen"] = entry.gen
        if entry.soft:
            claims["soft"] = True
    return claims


def message_from(claims: Mapping[str, Any]) -> RevocationMessage | Heartbeat:
    """Reads the one event of a SET whose signature and issuer have been checked.

    Entries of a kind that is not known here are left out: a newer identity says the same in known kinds.

    Raises:
        MalformedToken: the event is missing, unknown, or has a member of the wrong type.
    """
    events = claims.get("events")
    if not isinstance(events, dict) or len(events) != 1:
        raise MalformedToken("a message has exactly one event")
    ((name, event),) = events.items()
    if not isinstance(event, dict):
        raise MalformedToken("the event is no object")
    if name == HEARTBEAT_EVENT:
        head, floor = _whole(event, "head"), _whole(event, "floor")
        if not 1 <= floor <= head + 1:
            raise MalformedToken("the floor is outside the log")
        kids = event.get("kids")
        if not isinstance(kids, list) or not all(isinstance(kid, str) for kid in kids):
            raise MalformedToken("kids is no list of strings")
        nonce = event.get("nonce", "")
        if not isinstance(nonce, str):
            raise MalformedToken("nonce is no string")
        return Heartbeat(
            log=_text(event, "log"),
            head=head,
            hash=_text(event, "hash"),
            floor=floor,
            kids=frozenset(kids),
            at=_whole(event, "at"),
            nonce=nonce,
        )
    if name == REVOCATION_EVENT:
        entries = event.get("entries")
        if not isinstance(entries, list):
            raise MalformedToken("entries is no list")
        pos = _whole(event, "pos")
        if pos < 1:
            raise MalformedToken("positions begin at 1")
        return RevocationMessage(
            log=_text(event, "log"),
            pos=pos,
            prev=_text(event, "prev"),
            entries=_entries(entries),
            cause=_text(event, "cause"),
            at=_whole(event, "at"),
        )
    raise MalformedToken("unknown event")


def _entries(raw: Sequence[Any]) -> tuple[Entry, ...]:
    known = []
    for item in raw:
        if not isinstance(item, dict):
            raise MalformedToken("an entry is no object")
        kind = item.get("kind")
        if kind not in ENTRY_KINDS:
            continue
        gen = _whole(item, "gen") if kind in ("subject", "client") else 0
        known.append(Entry(kind=kind, id=_text(item, "id"), gen=gen, soft=item.get("soft") is True))
    return tuple(known)


def _text(event: Mapping[str, Any], member: str) -> str:
    value = event.get(member)
    if not isinstance(value, str) or not value:
        raise MalformedToken(f"{member} is no text")
    return value


def _whole(event: Mapping[str, Any], member: str) -> int:
    value = event.get(member)
    if type(value) is not int or value < 0:
        raise MalformedToken(f"{member} is no whole number")
    return value
