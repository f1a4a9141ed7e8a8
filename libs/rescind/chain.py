"""The log as a reader holds it: positions without a gap, each message naming the hash of the one before.

`Chain` is what is held. `Collected` is what a catch-up has read but nobody has vouched for yet: it counts only once its
last hash is one that a signature vouches for. Then every message in it is what identity signed, without a signature
being checked for each: another message with the same hash would be a second pre-image of SHA-256.
"""

from dataclasses import dataclass

from rescind.errors import MalformedToken
from rescind.jws import MAX_MESSAGE_BYTES, parse
from rescind.messages import MESSAGE_TYPE, Heartbeat, RevocationMessage, digest, message_from

MESSAGE_TYPES = frozenset({MESSAGE_TYPE})
RECENT_HASHES = 1024  # positions behind the last that a heartbeat on its way may still name as its head


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

    def contradicts(self, chained: Chained) -> bool:
        """Whether, at that message's position, another is held; or, if it comes next, another hash than it names."""
        message = chained.message
        if message.log != self.log:
            return False
        if message.pos == self.position + 1:
            return not self.follows(chained)
        return self._hashes.get(message.pos, chained.hash) != chained.hash

    def extend(self, chained: Chained) -> None:
        """Takes the message that follows."""
        self.position = chained.message.pos
        self._hashes[self.position] = chained.hash
        self._hashes.pop(self.position - RECENT_HASHES, None)


@dataclass(frozen=True, slots=True)
class Missing:
    """Messages to be had: all behind position `after`, up to `upto`, whose hash a signature vouches for."""

    log: str
    after: int
    upto: int
    hash: str


class Collected:
    """Messages read in bulk, each following on the one before; the first may be any."""

    def __init__(self) -> None:
        self.messages: list[Chained] = []
        self._chain = Chain("")

    @property
    def log(self) -> str:
        """The log they are of; "" while there are none."""
        return self._chain.log

    @property
    def position(self) -> int:
        """The last position collected; 0 while there is none."""
        return self._chain.position

    def add(self, raw: bytes) -> Heartbeat | None:
        """Takes the next message; or returns the heartbeat that ends a replay, *its signature not yet checked*.

        Raises:
            MalformedToken: it cannot be read, or does not follow on the one before.
            UntrustedToken: it is no message of a log.
        """
        jws = parse(text_of(raw), types=MESSAGE_TYPES, max_bytes=MAX_MESSAGE_BYTES)
        message = message_from(jws.claims_authenticated_otherwise())
        if isinstance(message, Heartbeat):
            return message
        if not self.messages:
            self._chain = Chain(message.log, message.pos - 1)
        chained = Chained(message, digest(raw))
        if not self._chain.follows(chained):
            raise MalformedToken("does not follow on the message before")
        self._chain.extend(chained)
        self.messages.append(chained)
        return None

    def fills(self, missing: Missing) -> bool:
        """Whether this is all of what was missing, and what the signature vouches for. Only then may it be applied.

        It may begin earlier than asked for, never later: what lies before its first message would be hidden.
        """
        return (
            bool(self.messages)
            and self._chain.log == missing.log
            and self.messages[0].message.pos <= missing.after + 1
            and self._chain.hash_at(missing.upto) == missing.hash
            and self._chain.position == missing.upto
        )


def text_of(raw: bytes) -> str:
    """The message as text.

    Raises:
        MalformedToken: it is not ASCII, as a JWS is.
    """
    try:
        return raw.decode("ascii")
    except UnicodeDecodeError:
        raise MalformedToken("not ASCII") from None
