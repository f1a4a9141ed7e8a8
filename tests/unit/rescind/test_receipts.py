"""What a verifier reports, when, and that nothing else suffers for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from rescind import Feed, Freshness, Guard, Report, Reporter, Verifier
from rescind.messages import Entry, genesis
from rescind.receipts import BURST, KEPT, RATE
from rescind.testing import MemoryLog, TokenMint

AUDIENCE = "urn:rescind:orders"
PATIENCE = 20.0  # seconds that a test waits for something that takes milliseconds


class Sink:
    """The issuer's ear. `fails` makes it deaf, `hangs` slow."""

    def __init__(self) -> None:
        self.all: list[Report] = []
        self.heard: asyncio.Queue[Report] = asyncio.Queue()
        self.fails: Callable[[], Exception] | None = None
        self.hangs = False
        self.tried = asyncio.Semaphore(0)
        self.next_in = 3600.0

    async def report(self, report: Report) -> float:
        self.tried.release()
        if self.hangs and not report.leaving:
            await asyncio.Event().wait()
        if self.fails is not None:
            raise self.fails()
        self.all.append(report)
        self.heard.put_nowait(report)
        return self.next_in

    async def next(self) -> Report:
        async with asyncio.timeout(PATIENCE):
            return await self.heard.get()


@dataclass
class World:
    """A guard with receipts, and the log that it follows."""

    sink: Sink = field(default_factory=Sink)

    def __post_init__(self) -> None:
        self.mint = TokenMint()
        self.log = MemoryLog(self.mint)
        self.feed = Feed(self.mint.issuer, self.mint.log_keys, self.log, self.log)
        self.reporter = Reporter(self.feed, AUDIENCE, self.sink, instance="here:1")
        verifier = Verifier(self.mint.issuer, AUDIENCE, self.mint.keys, self.feed)
        self.guard = Guard(verifier, self.feed, reporter=self.reporter)

    @contextlib.asynccontextmanager
    async def fresh(self) -> AsyncIterator[Report]:
        """Runs the guard, from its first report on."""
        async with self.guard.running():
            yield await self.sink.next()


async def test_the_first_report_comes_with_the_first_knowledge() -> None:
    world = World()
    for number in range(3):
        world.log.revoke(Entry("token", f"jti-{number}"))
    async with world.fresh() as report:
        assert report.verifier.startswith("vrf_")
        assert (report.audience, report.instance, report.log) == (AUDIENCE, "here:1", "log_test")
        assert (report.position, report.freshness, report.leaving) == (3, Freshness.FRESH, False)
        assert report.applied == ()  # learned in one piece: how long ago each was pushed, nobody knows


async def test_what_is_applied_is_reported_at_once_with_its_delay() -> None:
    world = World()
    async with world.fresh():
        world.log.revoke(Entry("token", "jti"))
        began = asyncio.get_running_loop().time()
        report = await world.sink.next()
        assert asyncio.get_running_loop().time() - began < 1  # the aim is 50 ms; this machine may be busy
        assert [one.position for one in report.applied] == [1]
        assert report.position == 1
        assert -1000 < report.applied[0].delay_ms < 5000


async def test_many_go_in_one_and_a_few_a_second_at_most() -> None:
    world = World()
    async with world.fresh():
        for number in range(300):
            world.log.revoke(Entry("token", f"jti-{number}"))
            if number % 10 == 0:
                await asyncio.sleep(0)
        reported: list[int] = []
        while len(reported) < 300:
            reported += [one.position for one in (await world.sink.next()).applied]
        assert reported == list(range(1, 301))
        assert len(world.sink.all) <= BURST + 1 + RATE * 2


async def test_where_nothing_happens_it_reports_as_often_as_it_is_asked_to() -> None:
    world = World()
    world.sink.next_in = 0.05
    async with world.fresh() as first:
        second = await world.sink.next()
        assert (second.verifier, second.position, second.applied) == (first.verifier, 0, ())


async def test_it_says_goodbye() -> None:
    world = World()
    async with world.fresh():
        pass
    assert [report.leaving for report in world.sink.all] == [False, True]


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_an_issuer_that_does_not_listen_harms_nothing_and_hears_it_later(
    trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rescind.receipts.TIMEOUT", 0.05)
    monkeypatch.setattr("rescind.receipts.FIRST_RETRY", 0.05)
    world = World()
    world.log.revoke(Entry("token", "before"))
    world.sink.fails = (lambda: RuntimeError("down")) if trouble == "fails" else None
    world.sink.hangs = trouble == "hangs"
    async with world.guard.running():
        async with asyncio.timeout(PATIENCE):
            await world.sink.tried.acquire()
            assert world.feed.freshness() is Freshness.FRESH
            world.log.revoke(Entry("token", "jti"))
            await world.sink.tried.acquire()
        world.sink.fails, world.sink.hangs = None, False
        report = await world.sink.next()
        while not report.applied:
            report = await world.sink.next()
        assert [one.position for one in report.applied] == [2]
        assert world.feed.freshness() is Freshness.FRESH


async def test_what_waits_for_an_issuer_that_is_away_is_bounded() -> None:
    world = World()
    world.reporter.began("log_test")
    for position in range(1, 3 * KEPT):
        world.reporter.applied("log_test", position, 0.001)
    world.sink.fails = lambda: ConnectionError("gone")
    await world.feed.catch_up()
    assert await world.reporter._say(1.0) is None
    kept = [one.position for one in world.reporter._applied]
    assert (len(kept), kept[-1]) == (KEPT, 3 * KEPT - 1)


async def test_positions_of_a_log_that_is_over_are_told_no_more() -> None:
    world = World()
    async with world.fresh():
        world.log.revoke(Entry("token", "old"))
        await world.sink.next()
        world.log.log, world.log.head, world.log.messages = "log_two", 0, {}
        world.log.head_hash = genesis("log_two")
        world.log.revoke(Entry("token", "carried"))
        world.log.beat()
        report = await world.sink.next()
        while report.log != "log_two":
            report = await world.sink.next()
        assert (report.position, report.applied) == (1, ())


async def test_an_observer_that_raises_harms_neither_the_others_nor_knowledge() -> None:
    world = World()

    def broken(*_: object) -> None:
        raise RuntimeError("of an observer")

    for hook in ("applied", "revoked", "began", "accepts", "renewed", "caught_up"):
        setattr(world.reporter, hook, broken)
    told: list[int] = []
    observer = type(world.reporter).__mro__[1]()
    observer.revoked = lambda message: told.append(message.pos)  # type: ignore[attr-defined]
    world.feed.observe(observer)  # type: ignore[arg-type]
    world.log.revoke(Entry("token", "jti"))
    await world.feed.catch_up()
    assert world.feed.freshness() is Freshness.FRESH
    assert told == [1]
    assert world.feed.knowledge.denylist.matches("token", "jti")
