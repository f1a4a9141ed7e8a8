"""The edge of a WebSocket: its id, how it ended, and no text of exceptions in its close frame (RFC 6455).

A refusal before the handshake is accepted is an HTTP response, problem details like any other. After that it is a close
frame with the same reason; its code is 4000 and HTTP's, or, where RFC 6455 section 7.4.1 has one, that.
"""

import json

from starlette.types import Message, Send

NO_CLOSE = 1005  # the client went away without a word, or with its own
INTERNAL = 1011
_CODES = {500: INTERNAL, 503: 1013}


class Socket:
    """Sends on, with the request's id in the handshake, and remembers how it ended."""

    def __init__(self, send: Send, id_: str) -> None:
        self._send = send
        self._id = id_
        self._accepted = self._over = False
        self._refusal: tuple[int, bytearray] | None = None  # a response for which it is too late
        self.code = NO_CLOSE
        self.reason = ""

    async def __call__(self, message: Message) -> None:
        """Sends one message, or what can still be said of it."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._accepted = True
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self._id.encode())]}
        elif kind == "websocket.close":
            self._over = True
            self.code, self.reason = message.get("code", 1000), message.get("reason") or ""
        elif kind == "websocket.http.response.start":
            if self._accepted:
                self._refusal = message["status"], bytearray()
                return
            self._over = True
            self.code = message["status"]
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            status, body = self._refusal
            body += message.get("body", b"")
            if not message.get("more_body"):
                await self._close(_CODES.get(status, 4000 + status), _reason(body))
            return
        await self._send(message)

    async def give_up(self) -> None:
        """Closes it for what nobody foresaw, unless it is closed."""
        await self._close(INTERNAL, "INTERNAL")

    async def _close(self, code: int, reason: str) -> None:
        if not self._over:
            await self({"type": "websocket.close", "code": code, "reason": reason})


def _reason(problem: bytes | bytearray) -> str:
    try:
        return str(json.loads(problem)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""
