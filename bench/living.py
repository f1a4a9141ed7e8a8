"""A thousand live streams on one process of the session service, with an event a second each.

All are one person's, so one event of orders reaches each of them, and one revocation of that person ends them all. They
are on a second process of the service: its memory and its processor time are theirs alone. In the second half, readers
who do not read are there besides, each of them thousands of events behind.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx2

from bench.figures import Figure, Say, Scale, Target, counted, duration
from bench.listener import Hear, Listener, listen
from bench.measure import percentile
from bench.system import System
from bench.telling import Shop, shop_of
from bench.visiting import Visit, sign_in, subject_of
from contracts.identity.v1 import revocations_pb2
from devstack.flow import Browser
from devstack.process import Process
from devstack.seeds import BOB
from devstack.stack import free_port

_PER_SESSION = 100  # streams of one session
_AT_ONCE = 20  # streams that are being opened
_OPEN = 60.0  # seconds for all to open, or for the process to start
_ARRIVE = 120.0  # seconds for the last event to come after it was told
_END = 30.0  # seconds for all to end
_FULL = 3.0  # seconds in which the buffers between a reader who stalls and the inbox fill up
_PROMISED = 1.0  # seconds, acknowledged → the last stream ended
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process has taken so far: `resident` bytes now, `cpu` seconds since it began, `at` in seconds."""

    resident: int
    cpu: float
    at: float


class Delays:
    """How long after its commit each event came to each reader, in seconds, by the event's sequence."""

    def __init__(self) -> None:
        self._told: dict[int, int] = {}
        self._came: dict[int, list[int]] = defaultdict(list)

    def tell(self, sequence: int, at: int) -> None:
        """It was committed then (ns)."""
        self._told[sequence] = at

    def hear(self, sequence: int, at: int) -> None:
        """It came to one reader then (ns)."""
        self._came[sequence].append(at)

    def complete(self, readers: int) -> bool:
        """Whether each event that was told came to all, and to none of them twice."""
        return all(len(self._came[sequence]) == readers for sequence in self._told)

    def all(self) -> list[float]:
        """Of each event and reader."""
        return [(at - told) / 1e9 for sequence, told in self._told.items() for at in self._came[sequence]]


async def live(system: System, scale: Scale, say: Say) -> list[Figure]:
    """Memory and processor of a process with its streams open; how late events come; how soon a revocation ends all."""
    say("signing in, and filling the inbox")
    browser = Browser(system.http, system.stack.addresses.issuer)
    visits = [await sign_in(system, browser, BOB) for _ in range(-(-scale.live // _PER_SESSION))]
    person = await subject_of(system, visits[0])
    half = max(1, scale.live_seconds // 2)
    async with contextlib.AsyncExitStack() as held:
        shop = await held.enter_async_context(shop_of(system))
        await shop.without_mails([person])
        last = await _filled(shop, person, scale.history)
        port, process = await held.enter_async_context(_second_session(system, _PER_SESSION + scale.stalled))
        before = _spent(process)
        say(f"opening {scale.live} streams")
        alone, beside = Delays(), Delays()
        ears = [alone]
        listeners = await _opened(port, visits, scale.live, lambda sequence, at: ears[0].hear(sequence, at))
        for listener in listeners:
            held.callback(listener.close)
        opened = _spent(process)
        say(f"an event a second each, {half} s")
        last = await _told(shop, person, last, half, alone, scale.live)
        after = _spent(process)
        say(f"the same with {scale.stalled} readers who stall, {half} s")
        stalled = [
            await listen(port, visits[0].asking("/api/live", last_event_id="0"), lambda *_: None, stalls=True)
            for _ in range(scale.stalled)
        ]
        for listener in stalled:
            held.callback(listener.close)
        await asyncio.sleep(_FULL)
        ears[0] = beside
        await _told(shop, person, last, half, beside, scale.live)
        if any(listener.ended.done() for listener in listeners):
            raise RuntimeError("a stream ended before its session did")
        most = _spent(process)
        say("revoking the person")
        ends = await _ends(system, person, listeners)
        for listener in stalled:
            listener.go_on()
        await asyncio.wait([listener.ended for listener in stalled], timeout=_END)
        held_back = sum(listener.ended.done() and listener.heard < scale.history for listener in stalled)
    streams = f"{counted(scale.live)} live streams"
    each = (opened.resident - before.resident) / scale.live
    cpu = (after.cpu - opened.cpu) / (after.at - opened.at)
    return [
        Figure(
            f"session's memory, {streams} open", f"{after.resident / _MEBIBYTE:.0f} MiB",
            f"none open, {before.resident / _MEBIBYTE:.0f} MiB", after.resident / before.resident,
        ),
        Figure(f"memory of a stream among {counted(scale.live)}, when opened", f"{each / 1024:.0f} KiB"),
        Figure(f"session's processor time, {streams}, an event a second each", f"{cpu * 100:.0f} % of a core"),
        Figure(f"committed → reader, {streams}", _spread(alone.all())),
        Figure(
            f"the same beside {scale.stalled} readers who stall ({held_back} held back)", _spread(beside.all()),
            f"without them, {_spread(alone.all())}", median(beside.all()) / median(alone.all()),
        ),
        Figure("session's memory beside them", f"{most.resident / _MEBIBYTE:.0f} MiB"),
        Figure(
            f"acknowledged → stream ended by a revoked person, {streams}",
            f"{_spread(ends)}, last {duration(max(ends))}",
            target=Target("last ≤ 1 s", max(ends) <= _PROMISED),
        ),
    ]  # fmt: skip


async def _filled(shop: Shop, person: str, number: int) -> int:
    """Adds so many to the inbox; the sequence of the last one."""
    before = await shop.told([person])
    await shop.tell([person] * number)
    await shop.arrived([person], before + number)
    return before + number


async def _opened(port: int, visits: Sequence[Visit], number: int, hear: Hear) -> list[Listener]:
    requests = [visits[turn // _PER_SESSION].asking("/api/live") for turn in range(number)]
    listeners: list[Listener] = []
    async with asyncio.timeout(_OPEN):
        for turn in range(0, number, _AT_ONCE):
            some = [await listen(port, request, hear) for request in requests[turn : turn + _AT_ONCE]]
            await asyncio.gather(*(listener.begun for listener in some))
            listeners += some
    return listeners


async def _told(shop: Shop, person: str, last: int, seconds: int, delays: Delays, readers: int) -> int:
    """Tells one event a second, and waits until all have come to everybody; the sequence of the last one."""
    began = time.monotonic()
    for turn in range(seconds):
        await asyncio.sleep(max(0.0, began + turn - time.monotonic()))
        last += 1
        delays.tell(last, await shop.tell([person]))
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    async with asyncio.timeout(_ARRIVE):
        while not delays.complete(readers):  # noqa: ASYNC110  (a thousand readers would each wake it)
            await asyncio.sleep(0.05)
    return last


async def _ends(system: System, person: str, listeners: Sequence[Listener]) -> list[float]:
    """Seconds from the acknowledged revocation until each stream was told its end."""
    await system.revocations.Revoke(
        revocations_pb2.RevokeRequest(subject=person, cause="BENCH", wait=revocations_pb2.WAIT_COMMITTED),
        metadata=[("authorization", f"Bearer {system.administrator}")],
        timeout=_END,
    )
    acknowledged = time.monotonic_ns()
    async with asyncio.timeout(_END):
        ended = await asyncio.gather(*(listener.ended for listener in listeners))
    return [max(0, at - acknowledged) / 1e9 for at in ended]


@contextlib.asynccontextmanager
async def _second_session(system: System, per_session: int) -> AsyncIterator[tuple[int, int]]:
    """Another process of the session service: its port, and its process id."""
    port = free_port()
    env = system.stack.environment("session") | {
        "SESSION_HTTP_PORT": str(port),
        "SESSION_GRPC_PORT": str(free_port()),
        "SESSION_METRICS_PORT": str(free_port()),
        "SESSION_STREAMS_PER_SESSION": str(per_session),
    }
    process = Process("session-2", [sys.executable, "-m", "session"], env, lambda _name, _line: None)
    await process.start()
    try:
        async with asyncio.timeout(_OPEN):
            while not await _ready(system, port):
                if not process.running:
                    raise RuntimeError("\n".join(["the second session process ended", *process.tail]))
                await asyncio.sleep(0.1)
        yield port, process.pid
    finally:
        await process.kill()


async def _ready(system: System, port: int) -> bool:
    try:
        return (await system.http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
    except httpx2.HTTPError:
        return False


def _spent(pid: int) -> Spent:
    folder = Path(f"/proc/{pid}")
    resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    times = (folder / "stat").read_text().rpartition(")")[2].split()  # proc(5): utime and stime are fields 14 and 15
    return Spent(resident, (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"), time.monotonic())


def _spread(values: Sequence[float]) -> str:
    return f"{duration(median(values))}, p99 {duration(percentile(values, 99))}"
