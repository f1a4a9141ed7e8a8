"""The log as a reader holds it: positions without a gap, each message naming the hash of the one before.

`Chain` is what is held. `Collected` is what a catch-up has read but nobody has vouched for yet: it counts only once its
last hash is the one that a signed heartbeat names. Then every message in it is what identity signed, without a
signature being checked for each: another message with the same hash would be a second pre-image of SHA-256.
"""

from dataclasses import dataclass

from rescind.errors import MalformedToken
from rescind.jws import MAX_MESSAGE_BYTES, UnverifiedJws, parse
from rescind.messages import MESSAGE_TYPE, Heartbeat, RevocationMessage, digest, message_from

RECENT_HASHES = 1024  # positions behind the last that a heartbeat on its way may still name as its head
_MESSAGE_TYPES = frozenset({MESSAGE_TYPE})


@dataclass(frozen=True, slots=True)
class Chained:
    """A message and its own hash."""

    message: RevocationMessage
    hash: str


class Chain:
    """The end of one log: the last position held without a gap, and the hashes just behind it.

    `hash_` is None where the message at `position` is not known, as below the floor.
    """

    def __init__(self, log: str, position: int = 0, hash_: str | None = None) -> None:
        self.log = log
        self.position = position
        self._hashes: dict[int, str] = {} if hash_ is None else {position: hash_}

    def hash_at(self, position: int) -> str | None:
        """The hash of that message, if it is remembered."""
        return self._hashes.get(position)

    def follows(self, chained: Chained) -> bool:
        """Whether that message comes next and names the right hash (any, where ours is not known)."""
        message = chained.message
        known = self._hashes.get(self.position)
        return message.log == self.log and message.pos == self.position + 1 and known in (None, message.prev)

    def extend(self, chained: Chained) -> None:
        """Takes the message that follows."""
        self.position = chained.message.pos
        self._hashes[self.position] = chained.hash
        self._hashes.pop(self.position - RECENT_HASHES, None)

    def satisfies(self, heartbeat: Heartbeat) -> bool:
        """Whether everything up to the heartbeat's head is held, with its hash."""
        return self.log == heartbeat.log and self.hash_at(heartbeat.head) == heartbeat.hash

    def contradicts(self, heartbeat: Heartbeat) -> bool:
        """Whether we hold another message at the heartbeat's head than identity does."""
        known = self.hash_at(heartbeat.head)
        return self.log == heartbeat.log and known is not None and known != heartbeat.hash


class Collected:
    """Messages read in bulk, to follow on `position` of `log`, or to begin at the floor."""

    def __init__(self, log: str, position: int, hash_: str | None) -> None:
        self.chain = Chain(log, position, hash_)
        self.messages: list[Chained] = []
        self._begins_after: int | None = None  # where it begins if it does not follow on what we hold

    def add(self, raw: bytes) -> UnverifiedJws | None:
        """Takes the next message; or returns the heartbeat, its signature not yet checked, that ends a replay.

        Raises:
            MalformedToken: it cannot be read, or does not follow on the one before.
            UntrustedToken: it is no message of a log.
        """
        jws = parse(text_of(raw), types=_MESSAGE_TYPES, max_bytes=MAX_MESSAGE_BYTES)
        message = message_from(jws.claims_authenticated_otherwise())
        if isinstance(message, Heartbeat):
            return jws
        if not self.messages and (message.log != self.chain.log or message.pos != self.chain.position + 1):
            self._begins_after = message.pos - 1
            self.chain = Chain(message.log, self._begins_after)
        chained = Chained(message, digest(raw))
        if not self.chain.follows(chained):
            raise MalformedToken("does not follow on the message before")
        self.chain.extend(chained)
        self.messages.append(chained)
        return None

    def closes_in(self, heartbeat: Heartbeat) -> bool:
        """Whether this is all that the signed heartbeat speaks of. Only then may it be applied."""
        if heartbeat.floor > heartbeat.head and not self.messages:
            # Nothing alive: whatever we lack is dead.
            self.chain = Chain(heartbeat.log, heartbeat.head, heartbeat.hash)
            return True
        from_the_floor = self._begins_after is None or self._begins_after < heartbeat.floor
        return from_the_floor and self.chain.position == heartbeat.head and self.chain.satisfies(heartbeat)


def text_of(raw: bytes) -> str:
    """The message as text.

    Raises:
        MalformedToken: it is not ASCII, as a JWS is.
    """
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedToken("not ASCII") from None
