"""A live stream over a WebSocket (RFC 6455) that ends when its token does.

    @app.websocket("/orders/socket")
    async def socket(websocket: WebSocket) -> None:
        await serve_socket(websocket, guard, lambda lease: events_of(lease.principal), "orders:read",
                           origins=frozenset({"https://app.example"}))

**Where the token comes from.** The Authorization header of the handshake; a client that cannot set one (a browser)
sends `{"token": "..."}` as its first message, in FIRST_MESSAGE seconds. Never the URL, which ends up in logs and
histories (RFC 6750 section 2.3), and never a cookie: whoever makes a browser connect would bring that along.

**Origin.** A handshake with an Origin header that is not in `origins` is refused with 403 before it is accepted.
Programs send none, and have no cookie to be tricked out of.

**A routine refresh** is one more `{"token": "..."}`: it is answered `{"extended": true}`, or `{"refused": REASON}`, and
then the stream goes on under the token that it had. Any other message ends the connection.

**How it ends.** A close frame with the reason: 1000 the source ended, 4401 and 4403 the token does not do, 1012 this
server stops, 1013 come again later, 1008 a message that is not understood.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, Callable
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from rescind.errors import CannotTell, InsufficientScope, MalformedToken, MissingToken, RescindError, ServerStopping
from rescind.fastapi import LAST_WORDS, CurrentGuard, current_of, token_of
from rescind.guard import Guard
from rescind.leases import Lease
from rescind.policy import STRICT, Staleness

FIRST_MESSAGE = 5.0  # seconds that a client without a header has for its token
MAX_MESSAGE = 16 * 1024  # characters; a token has 8 KiB at most


class _NotUnderstood(Exception):
    """The client said something else than a token."""


async def serve_socket(
    websocket: WebSocket,
    guard: Guard | CurrentGuard,
    events: Callable[[Lease], AsyncIterable[Any]],
    *scopes: str,
    staleness: Staleness = STRICT,
    origins: frozenset[str] = frozenset(),
    first_message: float = FIRST_MESSAGE,
) -> None:
    """Accepts `websocket`, sends what `events` gives as JSON, and closes it: when they end, or when its lease does."""
    origin = websocket.headers.get("origin")
    if origin is not None and origin not in origins:
        await websocket.close()  # before it is accepted: 403
        return
    await websocket.accept()
    code, reason = 1000, ""
    try:
        token = await _token(websocket, first_message)
        leased = current_of(guard).lease(token, scopes=frozenset(scopes), staleness=staleness)
        async with leased as lease, lease.while_good():
            await _converse(websocket, lease, events(lease))
    except RescindError as error:
        code, reason = close_code(error), error.reason
    except _NotUnderstood:
        code, reason = 1008, "MESSAGE_NOT_UNDERSTOOD"
    except WebSocketDisconnect:
        return
    with contextlib.suppress(TimeoutError, WebSocketDisconnect):
        async with asyncio.timeout(LAST_WORDS):
            await websocket.close(code, reason)


def close_code(error: RescindError) -> int:
    """The close code (RFC 6455 section 7.4) that says `error`; those above 4000 are HTTP's."""
    if isinstance(error, ServerStopping):
        return 1012
    if isinstance(error, CannotTell):
        return 1013
    return 4403 if isinstance(error, InsufficientScope) else 4401


async def _token(websocket: WebSocket, patience: float) -> str:
    with contextlib.suppress(MissingToken):
        return token_of(websocket)
    try:
        async with asyncio.timeout(patience):
            return await _told(websocket)
    except TimeoutError:
        raise MissingToken("no token came") from None


async def _told(websocket: WebSocket) -> str:
    """The token of the next message."""
    try:
        text = await websocket.receive_text()
        if len(text) > MAX_MESSAGE:
            raise MalformedToken("longer than a token may be")
        message = json.loads(text)
    except (KeyError, ValueError, RecursionError):  # bytes instead of text, no JSON, or too deep
        raise _NotUnderstood from None
    if not isinstance(message, dict) or set(message) != {"token"} or not isinstance(message["token"], str):
        raise _NotUnderstood
    return message["token"]


async def _converse(websocket: WebSocket, lease: Lease, events: AsyncIterable[Any]) -> None:
    """Sends and listens until one of the two is over."""
    tasks = {asyncio.create_task(_send(websocket, events)), asyncio.create_task(_listen(websocket, lease))}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(websocket: WebSocket, events: AsyncIterable[Any]) -> None:
    iterator = aiter(events)
    try:
        async for event in iterator:
            await _say(websocket, event)
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _listen(websocket: WebSocket, lease: Lease) -> None:
    while True:
        token = await _told(websocket)
        try:
            await lease.extend(token)
        except RescindError as refused:
            lease.raise_if_ended()
            await _say(websocket, {"refused": refused.reason})
        else:
            await _say(websocket, {"extended": True})


async def _say(websocket: WebSocket, message: Any) -> None:
    await websocket.send_text(json.dumps(message, separators=(",", ":"), ensure_ascii=False))
