"""From a revocation to its refusal in every verifier process, over the real system."""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import jwt
from redis.asyncio import Redis

from bench.figures import Figure, Say, Scale, Target, duration
from bench.measure import percentile
from bench.system import System
from bench.watcher import BARE_CHANNEL, Watch
from devstack.process import Process

_MEDIAN, _P99 = 3e-3, 20e-3  # seconds, promised for acknowledged → refused
_PACE = 1e-3  # seconds between two calls of a verifier that does not spin
_PATIENCE = 30.0  # seconds for a process to start, or for a refusal


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, one of each a revocation: until the last process refused, and until a bare message was everywhere."""

    asked: Sequence[float]
    acknowledged: Sequence[float]
    bare: Sequence[float]


async def push(system: System, scale: Scale, say: Say) -> list[Figure]:
    """Acknowledged revocation → refused in every process, median and 99th percentile."""
    figures = []
    for verifiers in scale.verifiers:
        for pause, how in ((_PACE, "paced"), (0.0, "spinning")):
            many = "1 process" if verifiers == 1 else f"{verifiers} processes"
            say(f"{scale.revocations} revocations, {many}, {how}")
            times = await _times(system, verifiers, scale.revocations, pause)
            where = f"{many}, {how}"
            figures += [
                _figure("acknowledged", where, times.acknowledged, times.bare, promised=True),
                _figure("asked", where, times.asked, times.bare, promised=False),
            ]
    return figures


def _figure(what: str, where: str, measured: Sequence[float], bare: Sequence[float], *, promised: bool) -> Figure:
    middle, p99 = median(measured), percentile(measured, 99)
    target = Target("≤ 3 ms, p99 ≤ 20 ms", middle <= _MEDIAN and p99 <= _P99) if promised else None
    return Figure(
        f"{what} → refused, {where}",
        f"{duration(middle)}, p99 {duration(p99)}",
        f"bare PUBLISH → seen, {duration(median(bare))}, p99 {duration(percentile(bare, 99))}",
        middle / median(bare) if middle else None,
        target,
    )


async def _times(system: System, verifiers: int, revocations: int, pause: float) -> Times:
    tokens = await system.tokens(revocations)
    asked, acknowledged, bare = [], [], []
    async with _watching(system, tokens, verifiers, pause) as words, Redis.from_url(system.redis_url) as redis:
        for number, token in enumerate(tokens):
            jti = jwt.decode(token, options={"verify_signature": False})["jti"]
            sent = time.monotonic_ns()
            await redis.publish(BARE_CHANNEL, number)
            seen = await words.everywhere("bare", number)
            asked_at = time.monotonic_ns()
            await system.revoke(jti)
            acknowledged_at = time.monotonic_ns()
            refused = await words.everywhere("refused", number)
            if refused < asked_at:
                raise RuntimeError("a token was refused before anybody asked for it")
            bare.append((seen - sent) / 1e9)
            asked.append((refused - asked_at) / 1e9)
            acknowledged.append(max(0, refused - acknowledged_at) / 1e9)
    return Times(asked, acknowledged, bare)


class _Words:
    """What the processes say."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._said: dict[tuple[str, int], list[int]] = {}
        self._more = asyncio.Event()
        self._trouble: list[str] = []

    def hear(self, name: str, line: str) -> None:
        """Takes a line; anything but the agreed words is trouble."""
        with contextlib.suppress(ValueError):
            said: dict[str, Any] = json.loads(line)
            word = next(iter(said))
            self._said.setdefault((word, int(said[word])), []).append(said.get("at", 0))
            self._more.set()
            return
        self._trouble.append(f"{name}: {line}")

    async def everywhere(self, word: str, number: int) -> int:
        """When the last of the processes said it, by the monotonic clock in nanoseconds.

        Raises:
            RuntimeError: not all did in time; with what they said instead.
        """
        try:
            async with asyncio.timeout(_PATIENCE):
                while len(self._said.get((word, number), ())) < self._processes:
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            raise RuntimeError("\n".join([f"no {word} {number} from every process", *self._trouble[-30:]])) from None
        return max(self._said.pop((word, number)))


@contextlib.asynccontextmanager
async def _watching(system: System, tokens: Sequence[str], verifiers: int, pause: float) -> AsyncIterator[_Words]:
    words = _Words(verifiers)
    told = Watch(system.verifier, tokens, pause).said()
    command = [sys.executable, "-m", "bench.watcher"]
    processes = [Process(f"verifier-{number}", command, {}, words.hear) for number in range(verifiers)]
    try:
        for process in processes:
            await process.start(told)
        await words.everywhere("ready", 1)
        yield words
    finally:
        for process in processes:
            await process.kill()
