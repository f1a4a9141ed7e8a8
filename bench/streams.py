"""From a revocation to the end of a live stream that holds its token, with hundreds of streams open."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from statistics import median
from typing import Any

import grpc.aio
import jwt

from bench.beside import listening
from bench.figures import Figure, Say, Scale, Target, duration
from bench.measure import percentile
from bench.streamer import SERVICE
from bench.system import VERIFYING, System
from contracts.identity.v1 import revocations_pb2
from rescind.connect import Addresses
from rescind.receipts import RATE

_MEDIAN, _P99 = 5e-3, 30e-3  # seconds, promised for acknowledged → ended
_PATIENCE = 30.0  # seconds for a stream to begin or end
_PINGS = 50


async def streams(system: System, scale: Scale, say: Say) -> list[Figure]:
    """Acknowledged revocation → end of the stream, as its client sees it; and how soon all verifiers are known to."""
    say(f"opening {scale.streams} streams")
    tokens = await system.tokens(scale.streams)
    acknowledged, asked, applied = list[float](), list[float](), list[float]()
    async with streaming(system.verifier) as address, grpc.aio.insecure_channel(address) as channel:
        held = [Stream(channel, token) for token in tokens]
        await asyncio.gather(*(stream.begun() for stream in held))
        ping = await _pings(channel, tokens[-1])
        say(f"{scale.revocations} revocations, {scale.streams} streams")
        revoked = held[: min(scale.revocations, scale.streams - 1)]
        for stream in revoked:
            asked_at = time.monotonic_ns()
            await system.revoke(stream.jti)
            acknowledged_at = time.monotonic_ns()
            ended_at = await stream.ended()
            asked.append((ended_at - asked_at) / 1e9)
            acknowledged.append(max(0, ended_at - acknowledged_at) / 1e9)
        if any(stream.is_over for stream in held[len(revoked) :]):
            raise RuntimeError("a stream ended whose token was not revoked")
        say("waiting for receipts")
        await _no_others(system, VERIFYING + 1)
        for stream in held[len(revoked) :][: scale.receipts]:
            await asyncio.sleep(1 / RATE)  # or it would be measured how many reports a verifier may send
            asked_at = time.monotonic_ns()
            answer = await system.revoke(stream.jti, wait=revocations_pb2.WAIT_APPLIED)
            applied.append((time.monotonic_ns() - asked_at) / 1e9)
            if len(answer.receipts.applied) != VERIFYING + 1 or answer.receipts.outstanding:
                raise RuntimeError(f"not applied everywhere: {answer.receipts}")
        for stream in held:
            stream.cancel()
    target = Target("≤ 5 ms, p99 ≤ 30 ms", median(acknowledged) <= _MEDIAN and percentile(acknowledged, 99) <= _P99)
    peer = f"a unary RPC to the same process, {duration(ping)}"
    return [
        Figure(f"acknowledged → stream ended, {scale.streams} streams", _spread(acknowledged), peer, None, target),
        Figure(f"asked → stream ended, {scale.streams} streams", _spread(asked), peer),
        Figure(f"asked → all {VERIFYING + 1} verifiers' receipts (WAIT_APPLIED)", _spread(applied), peer),
    ]


def _spread(values: list[float]) -> str:
    return f"{duration(median(values))}, p99 {duration(percentile(values, 99))}"


class Stream:
    """A live stream, and when it ended."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self.jti: str = jwt.decode(token, options={"verify_signature": False})["jti"]
        self.is_over = False
        self._call: Any = channel.unary_stream(f"/{SERVICE}/Watch")(b"", metadata=_bearer(token))
        self._ended_at: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def begun(self) -> None:
        """Returns when its first message is here."""
        async with asyncio.timeout(_PATIENCE):
            await self._call.read()
        self._call.add_done_callback(self._over)

    def _over(self, _call: Any) -> None:
        self.is_over = True
        if not self._ended_at.done():
            self._ended_at.set_result(time.monotonic_ns())

    async def ended(self) -> int:
        """When it ended, by the monotonic clock in nanoseconds."""
        async with asyncio.timeout(_PATIENCE):
            return await self._ended_at

    async def code(self) -> grpc.StatusCode:
        """The status that it ended with."""
        code: grpc.StatusCode = await self._call.code()
        return code

    def cancel(self) -> None:
        """Leaves it."""
        self._call.cancel()


@contextlib.asynccontextmanager
async def streaming(verifier: Addresses) -> AsyncIterator[str]:
    """A process that streams, as long as the block; where it listens."""
    async with listening("bench.streamer", json.dumps(asdict(verifier)).encode()) as port:
        yield f"127.0.0.1:{port}"


async def _pings(channel: grpc.aio.Channel, token: str) -> float:
    """Seconds that a unary call takes, the median of a few."""
    call, times = channel.unary_unary(f"/{SERVICE}/Ping"), []
    for _ in range(_PINGS):
        began = time.monotonic_ns()
        await call(b"", metadata=_bearer(token), timeout=_PATIENCE)
        times.append((time.monotonic_ns() - began) / 1e9)
    return median(times)


async def _no_others(system: System, number: int) -> None:
    """Waits until the verifiers that earlier sections killed are no members any more."""
    async with asyncio.timeout(_PATIENCE):
        while len((await system.status()).verifiers) != number:  # noqa: ASYNC110  (identity tells nobody)
            await asyncio.sleep(0.25)


def _bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]
