"""uvicorn's HTTP/1.1 protocol, which lets go of a client that does not read.

uvicorn stops an app that sends more than the client takes: `send` waits until the transport's buffer is nearly empty,
with no deadline, and what it closes then stays open until the rest was read. Two things are added:

* a client that takes nothing at all for `STALLED` seconds, while more than 64 KiB wait for it, is cut off;
* an app that returns in the middle of its answer, because it has no more patience with such a client, has the
  connection cut at once: nobody would read the rest. So a live stream whose right has ended is over in any case.
"""

import asyncio
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

STALLED = 30.0  # seconds; who reads slowly is not meant


class Stall:
    """Cuts `transport` when what waits in it has not become less for `patience` seconds."""

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._transport = transport
        self._patience = patience
        self._waiting = 0  # bytes
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """More waits than should: the app is stopped from sending."""
        self.over()
        self._waiting = self._transport.get_write_buffer_size()
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._look)

    def over(self) -> None:
        """The client has caught up, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._waiting:
            self.begin()
        else:
            self._transport.abort()


class Impatient(asyncio.Protocol):
    """For one of uvicorn's protocols to begin with: cuts off a client that takes nothing for `stalled` seconds."""

    stalled = STALLED

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        super().connection_made(transport)
        self._stall = Stall(cast("asyncio.Transport", transport), self.stalled)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        self._stall.over()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport has more than it should hold."""
        super().pause_writing()
        self._stall.begin()

    def resume_writing(self) -> None:
        """It is nearly empty again."""
        self._stall.over()
        super().resume_writing()


class Connection(Impatient, H11Protocol):
    """One connection, of requests one after another."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._app: ASGIApp = self.app
        self.app = self._serve

    def timeout_keep_alive_handler(self) -> None:
        """Nothing was asked for a while: closed, whether or not the last answer was read."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle
        try:
            await self._app(scope, receive, send)
        finally:
            if self.flow.write_paused and not cycle.response_complete:
                cycle.disconnected = True  # as it is from now on: uvicorn has nothing to complain of
                self.transport.abort()
