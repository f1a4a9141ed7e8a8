"""Who has applied what: reports over gRPC, on SQLite and PostgreSQL, to one identity and to two."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sqlalchemy import Connection, func, select

from contracts.identity.v1 import revocations_pb2, revocations_pb2_grpc
from identity.app import build
from identity.receipts import KEPT_MS, MEMBER_FOR_MS, Member, Receipts, Report
from identity.storage import receipts, verifiers
from servicekit.errors import Kind, ServiceError
from support.identity_core import ORDERS, Core, core

pb = revocations_pb2


@dataclass
class Replica:
    """One identity, and a channel to it."""

    identity: Core
    stub: Any

    def of(self, client: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.identity.of_client(client).token}"),)

    async def report(self, number: int, position: int = 0, *, client: str = "orders", **more: Any) -> Any:
        """What verifier `number` says; `delays` maps positions to milliseconds."""
        delays = more.pop("delays", {})
        verifier = pb.Verifier(
            id=f"vrf_{number:016}", audience=ORDERS, instance=f"host:{number}", log=await self.log(),
            position=position, freshness=pb.FRESHNESS_FRESH,
        )  # fmt: skip
        applied = [pb.Applied(position=pos, delay_ms=delay) for pos, delay in delays.items()]
        request = pb.ReportRequest(verifier=verifier, applied=applied, **more)
        return await self.stub.Report(request, metadata=self.of(client), timeout=20)

    async def log(self) -> str:
        return (await self.identity.parts.replay.snapshot()).log

    async def revoke(self, jti: str, **wait: Any) -> Any:
        return await self.stub.Revoke(pb.RevokeRequest(token=jti, **wait), metadata=self.of("backoffice"), timeout=40)

    async def status(self, position: int = 0) -> Any:
        request = pb.GetStatusRequest(position=position)
        return await self.stub.GetStatus(request, metadata=self.of("orders"), timeout=20)

    def count(self, table: Any) -> int:
        return self.identity.tx(lambda tx: tx.execute(select(func.count()).select_from(table)).scalar_one())


@contextlib.asynccontextmanager
async def replica(database_url: str, *, seeded: bool = True, **changes: Any) -> AsyncIterator[Replica]:
    async with core(database_url, seeded=seeded, **changes) as identity:
        server, _ = build(identity.parts.settings, parts=identity.parts).grpc_server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Replica(identity, revocations_pb2_grpc.RevocationsServiceStub(channel))
        finally:
            await server.stop(None)


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Replica]:
    async with replica(database_url) as started:
        yield started


def coverage(message: Any) -> tuple[list[tuple[str, float | None]], list[str]]:
    applied = [(r.verifier.instance, r.delay_ms if r.HasField("delay_ms") else None) for r in message.applied]
    return applied, [verifier.instance for verifier in message.outstanding]


async def test_it_tells_who_has_applied_a_position_after_how_long_and_who_has_not(one: Replica) -> None:
    revoked = await one.revoke("a-jti")
    assert (revoked.position, revoked.HasField("receipts")) == (1, False)
    answer = await one.report(1, 1, delays={1: 2.5})
    assert 0 < answer.next_in_ms < MEMBER_FOR_MS / 2
    await one.report(2, 0)
    await one.report(3, 7)  # it knows of more, and not how long this one took
    await one.report(4, 0, delays={1: 4.0, 9: 1.0})  # applied ahead of its predecessors
    status = await one.status(1)
    assert coverage(status.receipts) == ([("host:1", 2.5), ("host:3", None), ("host:4", 4.0)], ["host:2"])
    assert [(v.instance, v.position, v.audience) for v in status.verifiers] == [
        ("host:1", 1, ORDERS), ("host:2", 0, ORDERS), ("host:3", 7, ORDERS), ("host:4", 0, ORDERS),
    ]  # fmt: skip
    assert status.verifiers[0].freshness == pb.FRESHNESS_FRESH
    assert status.verifiers[0].reported_at == one.identity.clock.ms
    words = str(await one.identity.parts.receipts.coverage(status.log, 1))
    assert words == f"applied by 3 of 4 verifiers, the slowest after 4 ms; not by {ORDERS} at host:2"
    assert not (await one.status()).HasField("receipts")


async def test_membership_ends_with_silence_or_a_goodbye_and_by_the_database_clock(one: Replica) -> None:
    await one.report(1)
    await one.report(2)
    one.identity.clock.ms += MEMBER_FOR_MS - 1
    await one.report(3)
    assert len((await one.status()).verifiers) == 3
    one.identity.clock.ms += 1
    assert [v.instance for v in (await one.status()).verifiers] == ["host:3"]
    await one.report(3, leaving=True)
    assert list((await one.status()).verifiers) == []


async def test_a_revocation_waits_until_everyone_has_applied_it(one: Replica) -> None:
    for number in range(6):
        await one.report(number)
    waiting = asyncio.create_task(one.revoke("a-jti", wait=pb.WAIT_APPLIED, wait_ms=20_000))
    head = 0
    while not head:
        head = (await one.status()).head
    for number in range(6):
        assert not waiting.done()
        await one.report(number, head, delays={head: number + 0.5})
    answer = await waiting
    assert coverage(answer.receipts) == ([(f"host:{number}", number + 0.5) for number in range(6)], [])
    assert answer.receipts.position == answer.position == head


async def test_it_waits_no_longer_than_asked_and_names_who_is_missing(one: Replica) -> None:
    await one.report(1)
    answer = await one.revoke("a-jti", wait=pb.WAIT_APPLIED, wait_ms=60)
    assert coverage(answer.receipts) == ([], ["host:1"])
    assert answer.position == 1  # it holds all the same
    nothing = await one.revoke("a-jti", wait=pb.WAIT_APPLIED)
    assert (nothing.position, nothing.HasField("receipts")) == (0, False)
    committed = await one.revoke("another", wait=pb.WAIT_COMMITTED)
    assert not committed.HasField("receipts")


async def test_a_report_that_came_to_another_replica_is_as_good(database_url: str) -> None:
    async with replica(database_url) as one, replica(database_url, seeded=False, clock=one.identity.clock) as two:
        await two.report(1)
        waiting = asyncio.create_task(one.revoke("a-jti", wait=pb.WAIT_APPLIED, wait_ms=20_000))
        head = 0
        while not head:
            head = (await two.status()).head
        await two.report(1, head, delays={head: 3.0})
        assert coverage((await waiting).receipts) == ([("host:1", 3.0)], [])


async def test_a_report_that_comes_while_one_looks_is_seen_whole_or_not_at_all(one: Replica) -> None:
    log, database = await one.log(), one.identity.parts.database
    report = Report(Member("vrf_1", ORDERS, "host:1", log, 1, "FRESH"), "orders", {1: 3.0}, leaving=False)
    arriving = [report]

    def now(_tx: Connection) -> int:  # asked for between the delays and the members
        if arriving:
            come, arriving[:] = tuple(arriving), ()
            database.run_sync(lambda tx: reader._write(tx, come))
        return one.identity.clock.ms

    reader = Receipts(database, now=now)
    during, after = await reader.coverage(log, 1), await reader.coverage(log, 1)
    assert [[receipt.delay_ms for receipt in seen.applied] for seen in (during, after)] == [[], [3.0]]


async def test_reports_at_once_are_written_together_and_none_is_lost(one: Replica) -> None:
    parts = one.identity.parts
    written = list[int]()
    write = parts.receipts._write
    parts.receipts._write = lambda tx, reports: (written.append(len(reports)), write(tx, reports))[1]  # type: ignore[method-assign,func-returns-value]
    log = await one.log()
    reports = [
        Report(Member(f"vrf_{n:016}", ORDERS, f"host:{n}", log, n, "FRESH"), "orders", {n + 1: 1.0}, leaving=False)
        for n in range(50)
    ]
    await asyncio.gather(*map(parts.receipts.report, reports))
    assert (one.count(verifiers), one.count(receipts)) == (50, 50)
    assert sum(written) == 50
    assert len(written) <= 3


async def test_revocations_and_reports_in_parallel_all_get_through(one: Replica) -> None:
    async def reporting(number: int) -> None:
        for position in range(1, 11):
            await one.report(number, position, delays={position: 1.0})

    async def revoking(number: int) -> None:
        for each in range(5):
            await one.revoke(f"jti-{number}-{each}")

    await asyncio.gather(*map(reporting, range(4)), *map(revoking, range(4)))
    assert (await one.status()).head == 20
    assert one.count(receipts) == 40


async def test_one_client_does_not_report_for_another_s_verifier(one: Replica) -> None:
    receipts_of = one.identity.parts.receipts
    await one.report(1, 5)
    member = Member("vrf_" + f"{1:016}", ORDERS, "elsewhere", await one.log(), 9, "STALE")
    with pytest.raises(ServiceError) as refused:
        await receipts_of.report(Report(member, "mallory", {9: 1.0}, leaving=False))
    assert refused.value.reason == "VERIFIER_OF_ANOTHER"
    await receipts_of.report(Report(member, "mallory", {}, leaving=True))
    assert [(v.instance, v.position) for v in (await one.status(9)).verifiers] == [("host:1", 5)]
    assert one.count(receipts) == 0


async def test_what_is_old_is_forgotten(one: Replica) -> None:
    database, keeper = one.identity.parts.receipts_database, one.identity.parts.receipts
    for number in range(3):
        await one.report(number, delays=dict.fromkeys(range(1, 601), 1.0))
    one.identity.clock.ms += KEPT_MS
    await one.report(9, delays={1: 1.0})
    one.identity.clock.ms += 1
    forgotten = await database.run(keeper.forget)
    assert forgotten >= 1000
    while forgotten := await database.run(keeper.forget):
        pass
    assert (one.count(verifiers), one.count(receipts)) == (1, 1)


BAD: list[tuple[str, Any]] = [
    ("no id", {"id": ""}),
    ("a short id", {"id": "vrf_1"}),
    ("no id of a verifier", {"id": "usr_0123456789abcdef"}),
    ("another alphabet", {"id": "vrf_0123456789abcde\n"}),
    ("no audience", {"audience": ""}),
    ("a long instance", {"instance": "x" * 201}),
    ("control characters", {"instance": "a\x1b[2J"}),
    ("no freshness", {"freshness": 0}),
    ("an unknown freshness", {"freshness": 99}),
    ("a position below 0", {"position": -1}),
]


@pytest.mark.parametrize(("what", "changes"), BAD, ids=[what for what, _ in BAD])
async def test_a_bad_report_is_refused(tmp_path: object, what: str, changes: dict[str, Any]) -> None:
    async with replica(f"sqlite:///{tmp_path}/identity.db") as one:
        said = {"id": "vrf_0123456789abcdef", "audience": ORDERS, "instance": "h:1", "freshness": 2} | changes
        request = pb.ReportRequest(verifier=pb.Verifier(**said))
        assert await _reason(one.stub.Report(request, metadata=one.of("orders"), timeout=20)) == "BAD_REPORT"
        assert one.count(verifiers) == 0


async def test_positions_delays_and_waits_that_cannot_be_are_refused(tmp_path: object) -> None:
    async with replica(f"sqlite:///{tmp_path}/identity.db") as one:
        for delays in ({0: 1.0}, {-1: 1.0}, {1: float("nan")}, {1: float("inf")}, dict.fromkeys(range(1, 1002), 1.0)):
            assert await _reason(one.report(1, delays=delays)) == "BAD_REPORT"
        assert await _reason(one.status(-1)) == "BAD_POSITION"
        for wait in ({"wait_ms": -1}, {"wait_ms": 30_001, "wait": pb.WAIT_APPLIED}, {"wait": 77}):
            assert await _reason(one.revoke("jti", **wait)) == "BAD_WAIT"
        assert (await one.status()).head == 0  # a bad wait is found before anything is done
        await one.report(1, delays={1: -3.0})  # clocks differ; that is no fault
        await one.revoke("jti")
        assert coverage((await one.status(1)).receipts) == ([("host:1", 0.0)], [])


async def test_a_database_that_does_not_answer_takes_nothing_back(tmp_path: object) -> None:
    async with replica(f"sqlite:///{tmp_path}/identity.db") as one:
        await one.report(1)
        parts = one.identity.parts

        async def unavailable(*_: Any, **__: Any) -> Any:
            raise ServiceError(Kind.UNAVAILABLE, "DATABASE_UNAVAILABLE", "gone")

        assert isinstance(parts.receipts, Receipts)
        parts.receipts.coverage = unavailable  # type: ignore[method-assign]
        answer = await one.revoke("jti", wait=pb.WAIT_APPLIED)
        assert (answer.position, answer.HasField("receipts")) == (1, False)


async def _reason(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.reason
