"""Who is listening live, and how they are told to stop.

A stream belongs to a session and is found by whatever of the session can be revoked: one look per entry, however many
streams are open. `Endings` hears every revocation as this process applies it: streams end in the same turn of the event
loop, on every replica, also on one that never saw the session; the session itself is removed a moment later. A request
that comes between is refused by the token it would use (`token_handler`).
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from rescind.ledger import FeedObserver
from rescind.messages import Entry, RevocationMessage
from servicekit.errors import Kind, ServiceError
from session.domain import Session, SessionKey
from session.storage import IndexKind, SessionStore

MAX_WAITING = 10_000  # messages whose sessions are not removed yet; with more, requests find out by themselves
_KINDS: dict[str, IndexKind] = {"session": "sid", "grant": "gid", "subject": "subject", "client": "client"}
_log = structlog.get_logger("session.streams")


@dataclass(frozen=True, slots=True)
class End:
    """Why a stream ends, UPPER_SNAKE, and whether another may be opened at once."""

    reason: str
    reconnect: bool


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One open stream. `ended` has a result as soon as it must end."""

    session: Session
    ended: "asyncio.Future[End]" = field(repr=False)

    def end(self, end: End) -> None:
        """Has it end, once."""
        if not self.ended.done():
            self.ended.set_result(end)


class Streams:
    """The open streams of this process: at most `per_session` of one session, and `most` of all."""

    def __init__(self, *, per_session: int, most: int) -> None:
        self._per_session = per_session
        self._most = most
        self._open: set[Stream] = set()
        self._by: dict[tuple[str, str], set[Stream]] = defaultdict(set)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    @contextlib.contextmanager
    def opened(self, session: Session) -> Iterator[Stream]:
        """A stream for the length of the block.

        Raises:
            ServiceError: TOO_MANY_STREAMS.
        """
        if len(self._by.get(("key", session.key), ())) >= self._per_session:
            raise _too_many("This session has too many live streams open.")
        if len(self._open) >= self._most:
            raise _too_many("Too many live streams are open here.")
        stream = Stream(session, asyncio.get_running_loop().create_future())
        places = _places(session)
        self._open.add(stream)
        for place in places:
            self._by[place].add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)
            for place in places:
                self._by[place].discard(stream)
                if not self._by[place]:
                    del self._by[place]

    def end_of(self, session: SessionKey, end: End) -> None:
        """Ends the streams of a session."""
        for stream in self._by.get(("key", session), ()):
            stream.end(end)

    def end_matching(self, entry: Entry, end: End) -> None:
        """Ends the streams whose session an entry means."""
        kind = _KINDS.get(entry.kind)
        if kind is not None:
            for stream in self._by.get((kind, entry.id), ()):
                if is_meant(stream.session, entry):
                    stream.end(end)

    def end_all(self, end: End) -> None:
        """Ends every stream: the server stops."""
        for stream in self._open:
            stream.end(end)


class Endings(FeedObserver):
    """Hears revocations, and ends what they mean here. Run `run` in the background.

    `revoked` is what the feed calls; it returns at once. `forget` removes sessions that were found.
    """

    def __init__(
        self,
        store: SessionStore,
        streams: Streams,
        forget: Callable[[Sequence[Session], str], Awaitable[None]],
        now: Callable[[], int],
        idle: int,
    ) -> None:
        self._store = store
        self._streams = streams
        self._forget = forget
        self._now = now
        self._idle = idle
        self._waiting: asyncio.Queue[RevocationMessage] = asyncio.Queue(MAX_WAITING)

    def revoked(self, message: RevocationMessage) -> None:
        """Ends streams at once, and has sessions removed soon."""
        for entry in message.entries:
            if not entry.soft:  # a soft one is healed by a refresh: the session goes on
                self._streams.end_matching(entry, End(message.cause, reconnect=False))
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(message)

    async def run(self) -> None:
        """Removes sessions until cancelled."""
        while True:
            message = await self._waiting.get()
            for entry in message.entries:
                try:
                    await self._remove(entry, message.cause)
                except ServiceError as error:  # whoever presents such a session is refused all the same
                    _log.warning("a revoked session could not be removed yet", reason=error.reason)

    async def _remove(self, entry: Entry, cause: str) -> None:
        kind = _KINDS.get(entry.kind)
        if kind is None or entry.soft:
            return
        found = await self._store.of(kind, entry.id, self._now(), self._idle)
        await self._forget([session for session in found if is_meant(session, entry)], cause)


def is_meant(session: Session, entry: Entry) -> bool:
    """Whether a hard entry means this session: one that was begun after the revocation has a later generation."""
    if entry.soft:
        return False
    if entry.kind == "subject":
        return session.subject == entry.id and session.gen < entry.gen
    if entry.kind == "client":
        return session.client_id == entry.id and session.cgen < entry.gen
    return (entry.kind == "session" and session.sid == entry.id) or (entry.kind == "grant" and session.gid == entry.id)


def _places(session: Session) -> tuple[tuple[str, str], ...]:
    return (
        ("key", session.key),
        ("sid", session.sid),
        ("gid", session.gid),
        ("subject", session.subject),
        ("client", session.client_id),
    )


def _too_many(detail: str) -> ServiceError:
    return ServiceError(Kind.RATE_LIMITED, "TOO_MANY_STREAMS", detail, retry_after=5.0)
