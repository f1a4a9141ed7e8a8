"""A client's back-channel endpoint: a real HTTP server on a free port that does what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from identity.backchannel import LOGOUT_TYPE
from identity.keyring import KeyRing
from rescind.jws import parse


@dataclass
class Receiver:
    """What came, and what is answered: a status for each request in turn, the last one for all that follow.

    0 answers nothing and keeps the connection open.
    """

    uri: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    tokens: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(int(line.split(":")[1]) for line in head.lower().splitlines() if "content-length" in line)
            body = parse_qs((await reader.readexactly(length)).decode())
            self.heads.append(head)
            self.tokens.append(body["logout_token"][0])
            self.came.set()
            status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if status == 0:
                await reader.read()  # until the other side gives up
                return
            more = f"location: {self.uri}/elsewhere\r\n" if status == 302 else ""
            writer.write(f"HTTP/1.1 {status} x\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
        finally:
            writer.close()

    def claims(self, keyring: KeyRing, tx: object) -> list[dict[str, object]]:
        """What the tokens say, once each signature holds."""
        said = []
        for token in self.tokens:
            jws = parse(token, types=frozenset({LOGOUT_TYPE}))
            key = keyring.public_key(tx, "access", jws.kid)  # type: ignore[arg-type]
            assert key is not None
            said.append(jws.verified_claims(key))
        return said


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Listens until the block is left."""
    started = Receiver()
    server = await asyncio.start_server(started.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    started.uri = f"http://127.0.0.1:{port}/backchannel-logout"
    try:
        yield started
    finally:
        server.close()
