"""Readers of live streams (Server-Sent Events), many in one process: they only count and stamp what comes."""

import asyncio
import re
import socket
import time
from collections.abc import Callable
from typing import Any

Hear = Callable[[int, int], None]  # sequence, ns
_EVENT = re.compile(rb"id: (\d+)\nevent: notification\n")
_ALIVE = b"event: keepalive\n"
_END = b"event: end\n"
_TAIL = 128  # bytes kept of what was looked at: longer than what is looked for
_SMALL = 4096  # bytes that the kernel takes in for a reader who stalls


class Listener(asyncio.Protocol):
    """One stream. `hear` is told of each notification: its sequence, and when it came (ns, monotonic clock)."""

    def __init__(self, request: bytes, hear: Hear, *, stalls: bool = False) -> None:
        self._request = request
        self._hear = hear
        self._stalls = stalls
        self._text = b""
        self._transport: Any = None
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()  # when
        self.heard = 0

    def connection_made(self, transport: Any) -> None:  # uvloop's are no subclass of asyncio.Transport
        """Asks, and reads on unless it stalls."""
        self._transport = transport
        transport.write(self._request)
        if self._stalls:
            transport.pause_reading()
            self.begun.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Looks for events, which may come in pieces."""
        now = time.monotonic_ns()
        self._text += data
        # Not with the head: only the first sign of life says that nothing is missed from here on.
        if not self.begun.done() and _ALIVE in self._text:
            self.begun.set_result(None)
        behind = 0
        for found in _EVENT.finditer(self._text):
            self.heard += 1
            self._hear(int(found[1]), now)
            behind = found.end()
        if _END in self._text:
            self._over(now)
        self._text = self._text[behind:][-_TAIL:]

    def connection_lost(self, _error: Exception | None) -> None:
        """A connection that closes is an end too."""
        self._over(time.monotonic_ns())

    def go_on(self) -> None:
        """Reads what it left."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Leaves."""
        if self._transport is not None:
            self._transport.abort()

    def _over(self, now: int) -> None:
        if not self.begun.done():
            self.begun.set_exception(RuntimeError("closed before it began"))
        if not self.ended.done():
            self.ended.set_result(now)


async def listen(port: int, request: bytes, hear: Hear, *, stalls: bool = False) -> Listener:
    """A stream that has been asked for at a port of this machine."""
    sock = socket.socket()
    sock.setblocking(False)
    if stalls:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    _, listener = await loop.create_connection(lambda: Listener(request, hear, stalls=stalls), sock=sock)
    return listener
