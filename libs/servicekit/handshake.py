"""uvicorn's WebSocket protocol, which answers a handshake that it cannot read, lets go of a client that reads none, and
lets the app say why a stop ends its sockets.

uvicorn 0.54 says nothing to a handshake with a line of more than 8 KiB (`websockets.http11.MAX_LINE_LENGTH`), and keeps
the connection for ever; what goes for a client that does not read is told in `servicekit.connection`. Imported by
uvicorn, and only where a service has WebSockets: it needs the package of that name.
"""

import json

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from servicekit.connection import Impatient
from servicekit.errors import PROBLEM_TYPE, Kind, ServiceError, problem, problem_headers

LAST_WORDS = 0.25  # seconds that an app has, when the server stops, to close its sockets with a reason
_UNREADABLE = ServiceError(Kind.INVALID, "HANDSHAKE_UNREADABLE", "The handshake has a line that is too long, or none.")


class Handshakes(Impatient, WebSocketsSansIOProtocol):
    """One connection that asked to become a WebSocket."""

    async def run_asgi(self) -> None:
        """Runs the app; if it is at its end and its client has not read what was said before, nobody will wait."""
        await super().run_asgi()
        if not self.writable.is_set():
            self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: uvicorn would close with a bare 1012, in front of the app that is about to say more."""
        if self.handshake_complete and not self.close_sent:
            self.loop.call_later(LAST_WORDS, self._shut)
        else:
            super().shutdown()

    def _shut(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Takes what came in, and answers when no handshake will come of it any more."""
        super().data_received(data)
        if self.conn.handshake_exc is None or self.handshake_initiated or self.transport.is_closing():
            return
        self.handshake_complete = self.close_sent = True
        body = json.dumps(problem(_UNREADABLE, instance="urn:rescind:request:")).encode()
        headers = {
            "content-type": PROBLEM_TYPE,
            "content-length": str(len(body)),
            "connection": "close",
            **problem_headers(_UNREADABLE),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n".encode() + body)
        self.transport.close()
