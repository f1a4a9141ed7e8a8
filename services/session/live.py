"""Notifications as they come, relayed to a browser for as long as its session lives.

The browser's stream outlives the access token behind it: shortly before the token ends, or when a soft revocation made
it stale, the relay subscribes anew with a fresh one, from the sequence that it has passed on last, so nothing is missed
and nobody notices. It registers first and looks at the session afterwards, so no revocation slips between, and every
few seconds it looks again, so a session that ran out of time is noticed. It holds one notification at a time: a reader
that stalls stalls its own subscription and nothing else, and is cut off (`rest.inbox`, `servicekit.connection`).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc.aio

from contracts.notifications.v1 import notifications_pb2 as nt
from rescind import CannotTell, Staleness
from servicekit.clients import told
from servicekit.errors import Kind, ServiceError
from session.domain import NOTIFICATIONS, Held, SessionKey
from session.streams import End, Stream, Streams
from session.token_handler import EARLY, Granted, TokenHandler
from session.upstream import Upstream

LOOK_EVERY = 15.0  # seconds between looks at the session, and between signs of life
MOMENT = 1.0  # seconds: where a session is gone, why it ended is known a little later
MAX_REFUSALS = 3  # subscriptions in a row that end before they have brought anything
Peek = Callable[[SessionKey], Awaitable[Held | None]]
Item = nt.Notification | nt.KeepAlive | End


class Relay:
    """Opens subscriptions for sessions. `look_every` is seconds; `now` milliseconds."""

    def __init__(
        self,
        streams: Streams,
        tokens: TokenHandler,
        upstream: Upstream,
        peek: Peek,
        now: Callable[[], int],
        *,
        staleness: Staleness,
        look_every: float = LOOK_EVERY,
    ) -> None:
        self.streams = streams
        self._tokens = tokens
        self._upstream = upstream
        self._peek = peek
        self._now = now
        self._staleness = staleness
        self._look_every = look_every

    async def items(self, stream: Stream, after: int | None) -> AsyncGenerator[Item, None]:
        """Notifications behind `after`, signs of life, and last of all why it ended."""
        place = _Place(after)
        refused, refusals = "", 0
        while True:
            try:
                granted = await self._granted(stream, refused)
            except (ServiceError, CannotTell) as error:
                yield await _said(stream, _end_of(error))
                return
            brought = False
            async with aclosing(self._leg(stream, granted, place)) as leg:
                async for item in leg:
                    if isinstance(item, ServiceError):
                        refused = granted.token if item.kind is Kind.UNAUTHENTICATED else ""
                        refusals = 0 if brought else refusals + 1
                        if item.kind is not Kind.UNAUTHENTICATED or refusals >= MAX_REFUSALS:
                            yield End(item.reason, reconnect=item.kind in (Kind.UNAVAILABLE, Kind.UNAUTHENTICATED))
                            return
                        break
                    brought = True
                    yield item
                    if isinstance(item, End):
                        return

    async def _granted(self, stream: Stream, refused: str) -> Granted:
        held = await self._peek(stream.session.key)
        if held is None:
            raise ServiceError(
                Kind.UNAUTHENTICATED, "SESSION_ENDED", "It is over.", fields={"cause": "SESSION_EXPIRED"}
            )
        return await self._tokens.token_for(held, NOTIFICATIONS, staleness=self._staleness, refused=refused)

    async def _leg(
        self, stream: Stream, granted: Granted, place: "_Place"
    ) -> AsyncGenerator[Item | ServiceError, None]:
        """One subscription: ends with an End, with what the service said, or silently when it is time for a new one."""
        call = self._upstream.subscribe(granted.token, place.after)
        # In an outage of identity an old token has to do to its end; a new subscription each second would not help.
        until = max(granted.principal.expires_at * 1000 - EARLY, self._now() + 1000)
        reading: asyncio.Task[Any] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(call.read())
                patience = min(self._look_every, max(0.0, (until - self._now()) / 1000))
                await asyncio.wait({reading, stream.ended}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                if stream.ended.done():
                    yield stream.ended.result()
                    return
                if reading.done():
                    response, reading = _read(reading), None
                    if not isinstance(response, nt.SubscribeResponse):
                        yield response
                        return
                    yield place.passed(response)
                elif self._now() >= until:
                    return
                elif await self._peek(stream.session.key) is None:
                    yield await _said(stream, End("SESSION_EXPIRED", reconnect=False))
                    return
                else:
                    yield nt.KeepAlive(sequence=place.after or 0)
        finally:
            if reading is not None:
                reading.cancel()
            call.cancel()


class _Place:
    """How far the browser has come."""

    def __init__(self, after: int | None) -> None:
        self.after = after

    def passed(self, response: nt.SubscribeResponse) -> nt.Notification | nt.KeepAlive:
        """What to pass on; a new subscription goes on behind it."""
        if response.HasField("notification"):
            self.after = max(self.after or 0, response.notification.sequence)
            return response.notification
        # What a browser that has seen nothing yet goes on from; one that has is never moved past what it has not seen.
        if self.after is None:
            self.after = response.keep_alive.sequence
        return response.keep_alive


def _read(reading: "asyncio.Task[Any]") -> nt.SubscribeResponse | ServiceError:
    try:
        response = reading.result()
    except grpc.aio.AioRpcError as failure:
        return told(failure)
    except asyncio.CancelledError:  # the call was cancelled under us
        response = grpc.aio.EOF
    if response is grpc.aio.EOF:
        return ServiceError(Kind.UNAVAILABLE, "STREAM_ENDED", "The service ended the stream.")
    assert isinstance(response, nt.SubscribeResponse)  # noqa: S101  (the stub deserialises nothing else)
    return response


async def _said(stream: Stream, end: End) -> End:
    """What whoever ended the session says of it, if that comes: they remove it first, and then say so."""
    if not end.reconnect:
        await asyncio.wait({stream.ended}, timeout=MOMENT)
    return stream.ended.result() if stream.ended.done() else end


def _end_of(error: ServiceError | CannotTell) -> End:
    if isinstance(error, ServiceError) and error.kind is Kind.UNAUTHENTICATED:
        return End(error.fields.get("cause", error.reason), reconnect=False)
    return End(error.reason, reconnect=True)
