"""The log, live and verified: what was revoked, from identity itself, each message checked before it is shown.

Identity is asked (`Replay`) for what follows the last position; each answer ends with a signed heartbeat that repeats
a nonce, so it is younger than the question. A message must be signed by a key of the log and chain to the one before.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import grpc.aio

from console.signin import ConsoleError
from console.wire import DEADLINE, Identity, refused
from contracts.identity.v1.revocations_pb2 import ReplayRequest
from rescind.errors import RescindError
from rescind.jws import MAX_MESSAGE_BYTES, parse
from rescind.keys import KeySet
from rescind.messages import MESSAGE_TYPE, Heartbeat, RevocationMessage, digest, genesis, message_from
from servicekit.clients import bearer

PAUSE = 0.5  # seconds between two questions


class NotBelievable(ConsoleError):
    """What came is not what identity signed, or something is missing. Nothing of it was shown."""


@dataclass
class Follower:
    """Reads the log from its floor on. `issuer` must be the one that signs."""

    identity: Identity
    keys: KeySet
    issuer: str
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    log: str = ""
    position: int = 0
    _hash: str = ""

    async def follow(self, *, once: bool = False) -> AsyncIterator[RevocationMessage | Heartbeat]:
        """Every revocation, in order, and each heartbeat; for ever, or (`once`) to the present end of the log.

        Raises:
            NotBelievable: a signature, a hash or a position is wrong.
            ConsoleError: identity refused, or does not answer.
        """
        while True:
            async for message in self._ask():
                yield message
            if once:
                return
            await self.pause(PAUSE)

    async def _ask(self) -> AsyncIterator[RevocationMessage | Heartbeat]:
        nonce = secrets.token_urlsafe(16)
        request = ReplayRequest(log=self.log, after=self.position, nonce=nonce)
        metadata = bearer(await self.identity.sign_in())
        last: RevocationMessage | Heartbeat | None = None
        try:
            async for answer in self.identity.revocations.Replay(request, metadata=metadata, timeout=DEADLINE):
                last = await self._checked(bytes(answer.message), nonce)
                yield last
        except grpc.aio.AioRpcError as failure:
            raise refused(failure) from None
        if not isinstance(last, Heartbeat):
            raise NotBelievable("The answer ended before its heartbeat.")

    async def _checked(self, unverified: bytes, nonce: str) -> RevocationMessage | Heartbeat:
        try:
            jws = parse(unverified.decode("ascii"), types=frozenset({MESSAGE_TYPE}), max_bytes=MAX_MESSAGE_BYTES)
            if self.keys.key(jws.kid) is None:
                await self.keys.refresh()
            key = self.keys.key(jws.kid)
            if key is None:
                raise NotBelievable("A message is signed by a key that is none of the log's.")
            claims = jws.verified_claims(key)
            if claims.get("iss") != self.issuer:
                raise NotBelievable("A message is of another issuer.")
            message = message_from(claims)
        except (RescindError, UnicodeDecodeError):
            raise NotBelievable("A message is not what identity signs.") from None
        if isinstance(message, Heartbeat):
            return self._at_the_end(message, nonce)
        return self._next(message, digest(unverified))

    def _next(self, message: RevocationMessage, hashed: str) -> RevocationMessage:
        begins = message.log != self.log or not self._hash
        if not begins and (message.pos != self.position + 1 or message.prev != self._hash):
            raise NotBelievable(f"Position {message.pos} does not follow {self.position}: something is missing.")
        if begins and message.pos == 1 and message.prev != genesis(message.log):
            raise NotBelievable("The first message does not begin this log.")
        self.log, self.position, self._hash = message.log, message.pos, hashed
        return message

    def _at_the_end(self, heartbeat: Heartbeat, nonce: str) -> Heartbeat:
        if heartbeat.nonce != nonce:
            raise NotBelievable("The heartbeat answers another question.")
        if heartbeat.log != self.log or not self._hash:
            self.log, self.position, self._hash = heartbeat.log, heartbeat.head, heartbeat.hash
        elif (heartbeat.head, heartbeat.hash) != (self.position, self._hash):
            raise NotBelievable(f"The log ends at {heartbeat.head}, and what came ends at {self.position}.")
        return heartbeat
