"""One connection that stays open, and the same request on it again and again: nearly no client to be measured."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_PATIENCE = 10.0  # seconds for one answer


class Kept:
    """HTTP/1.1 on one connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer.

        Raises:
            RuntimeError: it is not a 200 with a length.
        """
        self._writer.write(request)
        async with asyncio.timeout(_PATIENCE):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if not head.startswith(b"HTTP/1.1 200") or length is None:
                raise RuntimeError(f"answered {head[:40]!r}")
            return await self._reader.readexactly(int(length[1]))


@contextlib.asynccontextmanager
async def kept(port: int) -> AsyncIterator[Kept]:
    """A connection to a port of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Kept(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
