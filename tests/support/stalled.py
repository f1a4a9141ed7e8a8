"""A client that asks, reads the head of the answer, and then reads nothing any more."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from support.eventually import eventually

SMALL = 4096  # bytes of the client's buffer, so that little is enough to fill the way


@dataclass(frozen=True)
class Stalled:
    """What can be told of it from the client's side."""

    sock: socket.socket

    async def cut(self) -> None:
        """Returns when the server has let go of the connection: its kernel answers whatever comes with a reset.

        A server that waits for somebody to read what it has buffered has not. Nothing is read here, so it waits on.

        Raises:
            AssertionError: it holds on to it.
        """

        async def refused() -> bool:
            try:
                await asyncio.get_running_loop().sock_sendall(self.sock, b"x")
            except (ConnectionResetError, BrokenPipeError):
                return True
            return False

        await eventually(refused, within=2)


@asynccontextmanager
async def stalled(port: int, head: str) -> AsyncIterator[Stalled]:
    """Sends a request's head, and waits for the first line of the answer, which must be one of success."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", port))
        await loop.sock_sendall(sock, head.replace("\n", "\r\n").encode())
        status = await loop.sock_recv(sock, 12)
        assert status in (b"HTTP/1.1 200", b"HTTP/1.1 101"), status
        yield Stalled(sock)
