"""A live stream goes on as long as its token would be let in, and not a moment longer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rescind import (
    STRICT,
    ExpiredToken,
    InsufficientScope,
    MalformedToken,
    NotFresh,
    RevokedToken,
    ServerStopping,
)
from rescind.lease_index import SWEEP
from rescind.messages import Entry, genesis
from support.gate import AUDIENCE, Gate, turns
from support.streams import RevokesMeanwhile, Source, follow

ENTRIES = [
    Entry("token", "jti"),
    Entry("token", "original"),
    Entry("session", "sid_1"),
    Entry("grant", "gid_1"),
    Entry("subject", "usr_alice", gen=2),
    Entry("client", "web", gen=2),
]


@pytest.mark.requirement(21)
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.kind}-{entry.id}")
async def test_every_kind_of_revocation_ends_it_while_it_waits(entry: Entry) -> None:
    gate = await Gate().fresh()
    token = gate.mint.access_token(AUDIENCE, jti="jti", ojti="original", client_id="web")
    source, got = Source(), list[int]()
    async with gate.guard.lease(token) as lease:
        following = asyncio.create_task(follow(lease, source.numbers(), got))
        source.go.release()
        await turns()
        assert got == [0]
        assert source.waiting
        gate.revoke(entry, cause="SIGNED_OUT")
        ended = await following
        assert isinstance(ended, RevokedToken)
        assert (ended.kind, ended.cause, ended.reason) == (entry.kind, "SIGNED_OUT", "TOKEN_REVOKED")
        assert source.cancelled
        assert source.closed
        assert await lease.ended() is ended
        assert len(gate.guard.leases) == 0
        with pytest.raises(RevokedToken):
            await gate.guard.authenticate(token)
    assert gate.outcomes.ends == ["TOKEN_REVOKED"]


@pytest.mark.parametrize("kind", ["subject", "client"])
async def test_a_soft_revocation_ends_it_so_that_its_holder_refreshes(kind: Any) -> None:
    gate = await Gate().fresh()
    token = gate.mint.access_token(AUDIENCE, client_id="web")
    async with gate.guard.lease(token) as lease:
        gate.revoke(Entry(kind, "usr_alice" if kind == "subject" else "web", gen=2, soft=True))
        assert (await lease.ended()).reason == "TOKEN_STALE"


async def test_a_key_that_is_accepted_no_more_ends_it() -> None:
    gate = await Gate().fresh()
    async with gate.guard.lease(gate.token) as lease:
        gate.time.advance(1)
        gate.log.kids = frozenset({"another"})
        gate.feed.receive(gate.log.beat())
        ended = lease.error
        assert isinstance(ended, RevokedToken)
        assert (ended.kind, ended.cause) == ("key", "KEY_REVOKED")


@pytest.mark.parametrize(
    "entry",
    [
        Entry("token", "another"),
        Entry("session", "jti"),
        Entry("subject", "usr_bob", gen=9),
        Entry("subject", "usr_alice", gen=1),
        Entry("client", "usr_alice", gen=9),
    ],
    ids=str,
)
async def test_what_does_not_match_ends_nothing(entry: Entry) -> None:
    gate = await Gate().fresh()
    async with gate.guard.lease(gate.token) as lease:
        gate.revoke(entry)
        assert lease.error is None
    assert gate.outcomes.ends == ["CLOSED"]


async def test_one_subject_of_many_ends_alone_and_no_other_is_looked_at() -> None:
    gate = await Gate().fresh()
    looked = list[str]()
    check = gate.guard.verifier.check
    gate.guard.verifier.check = lambda verified: (looked.append(verified.principal.subject), check(verified))[1]  # type: ignore[method-assign,func-returns-value]
    async with contextlib.AsyncExitStack() as stack:
        for number in range(300):
            token = gate.mint.access_token(
                AUDIENCE, sub=f"usr_{number % 100}", sid=f"sid_{number}", gid=f"gid_{number}"
            )
            await stack.enter_async_context(gate.guard.lease(token))
        looked.clear()
        gate.revoke(Entry("subject", "usr_7", gen=2))
        assert looked == ["usr_7"] * 3
        assert len(gate.guard.leases) == 297
    assert len(gate.guard.leases) == 0


async def test_a_revocation_between_verify_and_register_is_caught() -> None:
    gate = Gate()
    observer = RevokesMeanwhile()
    gate.guard._observer = observer
    await gate.fresh()
    observer.meanwhile = lambda: gate.revoke(Entry("token", "jti"))
    with pytest.raises(RevokedToken):
        async with gate.guard.lease(gate.token):
            pytest.fail("it has begun")
    assert len(gate.guard.leases) == 0


async def test_it_begins_as_a_request_would() -> None:
    gate = await Gate().fresh()
    with pytest.raises(MalformedToken):
        async with gate.guard.lease("no token"):
            pass
    with pytest.raises(InsufficientScope):
        async with gate.guard.lease(gate.token, scopes=frozenset({"write"})):
            pass
    gate.time.advance(3.1)
    with pytest.raises(NotFresh):
        async with gate.guard.lease(gate.token, staleness=STRICT):
            pass
    assert len(gate.guard.leases) == 0


# Time


async def test_it_ends_when_its_token_does_and_no_other() -> None:
    gate = await Gate().fresh()
    short = gate.mint.access_token(AUDIENCE, life=60)
    long = gate.mint.access_token(AUDIENCE, life=600)
    async with gate.guard.lease(long) as other, gate.guard.lease(short) as lease:
        gate.time.advance(64.9)  # 60, and the leeway of 5 that a request has too
        gate.guard.leases.expire()
        assert lease.error is None
        gate.time.advance(0.1)
        gate.guard.leases.expire()
        assert isinstance(lease.error, ExpiredToken)
        assert other.error is None


async def test_it_ends_by_itself_at_that_moment() -> None:
    gate = await Gate().fresh()
    token = gate.mint.access_token(AUDIENCE, life=60)
    loop = asyncio.get_running_loop()
    async with gate.guard.lease(token) as lease:
        gate.time.advance(64.98)
        gate.guard.leases.expire()  # the timer is set anew
        gate.time.advance(0.03)
        began = loop.time()
        async with asyncio.timeout(5):
            assert isinstance(await lease.ended(), ExpiredToken)
        assert loop.time() - began < 1


async def test_identity_s_clock_counts_where_it_is_ahead() -> None:
    gate = await Gate().fresh()
    token = gate.mint.access_token(AUDIENCE, life=60)
    async with gate.guard.lease(token) as lease:
        gate.time.advance(64)
        gate.feed.receive(gate.log.beat())
        gate.time.wall -= 60  # somebody sets our clock back
        gate.guard.leases.expire()
        assert lease.error is None
        gate.time.wall += 61
        gate.feed.receive(gate.log.beat())
        gate.time.wall -= 60
        gate.guard.leases.expire()
        assert isinstance(lease.error, ExpiredToken)


# A new log


async def test_a_new_log_is_looked_at_as_a_whole() -> None:
    gate = await Gate().fresh()
    again = gate.mint.access_token(AUDIENCE, sub="usr_bob", gen=1 << 32, cgen=1 << 32, sid="s", gid="g")
    async with gate.guard.lease(gate.token) as old, gate.guard.lease(again) as new:
        gate.log.log, gate.log.head, gate.log.messages = "log_two", 0, {}
        gate.log.head_hash = genesis("log_two")
        gate.log.revoke(Entry("token", "another"), cause="CARRIED_OVER")
        gate.log.revoke(Entry("subject", "usr_alice", gen=1 << 32), cause="RESTORED")
        gate.time.advance(1)
        gate.feed.receive(gate.log.beat())
        assert old.error is None  # nothing is known of it yet
        await gate.feed.catch_up()
        assert isinstance(old.error, RevokedToken)
        assert old.error.cause == "RESTORED"
        assert new.error is None


# How it ends otherwise


async def test_a_stop_ends_all_with_a_hint_to_come_again_and_none_begins() -> None:
    gate = await Gate().fresh()
    source, got = Source(), list[int]()
    async with gate.guard.lease(gate.token) as lease:
        following = asyncio.create_task(follow(lease, source.numbers(), got))
        await turns()
        gate.guard.leases.stop()
        ended = await following
        assert isinstance(ended, ServerStopping)
        assert ended.retry_after > 0
    with pytest.raises(ServerStopping):
        async with gate.guard.lease(gate.token):
            pass


async def test_a_source_that_ends_closes_it_and_an_error_of_its_own_passes() -> None:
    gate = await Gate().fresh()

    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    async def fails() -> AsyncIterator[int]:
        yield 0
        raise TimeoutError("of the source itself")

    got = list[int]()
    async with gate.guard.lease(gate.token) as lease:
        assert await follow(lease, three(), got) is None
        assert got == [0, 1, 2]
        with pytest.raises(TimeoutError, match="of the source itself"):
            await follow(lease, fails(), got)
    assert gate.outcomes.ends == ["CLOSED"]


async def test_a_source_that_will_not_be_cancelled_gives_nothing_more() -> None:
    gate = await Gate().fresh()

    async def stubborn() -> AsyncIterator[int]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        yield 1

    got = list[int]()
    async with gate.guard.lease(gate.token) as lease:
        following = asyncio.create_task(follow(lease, stubborn(), got))
        await turns()
        gate.revoke(Entry("token", "jti"))
        assert isinstance(await following, RevokedToken)
        assert got == []


async def test_an_item_that_is_being_handled_is_the_last() -> None:
    gate = await Gate().fresh()
    got = list[int]()
    source = Source()
    source.go = asyncio.Semaphore(5)
    async with gate.guard.lease(gate.token) as lease:
        stream = lease.stream(source.numbers())
        got.extend([await anext(stream), await anext(stream)])
        gate.revoke(Entry("token", "jti"))
        with pytest.raises(RevokedToken):
            await anext(stream)
        assert got == [0, 1]


async def test_a_caller_that_goes_away_leaves_nothing_behind() -> None:
    gate = await Gate().fresh()
    source, got = Source(), list[int]()

    async def call() -> None:
        async with gate.guard.lease(gate.token) as lease:
            await follow(lease, source.numbers(), got)

    calls = [asyncio.create_task(call()) for _ in range(3)]
    await turns()
    assert len(gate.guard.leases) == 3
    for each in calls:
        each.cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in done)
    assert source.closed
    assert gate.outcomes.ends == ["CLOSED"] * 3
    leases = gate.guard.leases
    assert (len(leases), leases._live._places, leases._live._kids, leases._timer) == (0, {}, {}, None)


async def test_a_cancellation_from_outside_stays_one_though_the_lease_ends_too() -> None:
    gate = await Gate().fresh()

    async def call() -> None:
        async with gate.guard.lease(gate.token) as lease, lease.while_good():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await turns()
    gate.revoke(Entry("token", "jti"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_ended_leases_leave_behind_is_bounded() -> None:
    gate = await Gate().fresh()
    async with gate.guard.lease(gate.token):
        for number in range(1000):
            token = gate.mint.sign(gate.mint.claims(AUDIENCE, jti=f"j{number % 10}"))
            async with gate.guard.lease(token):
                pass
        held = gate.guard.leases._live
        assert len(held._expiries) <= 2 + SWEEP
        assert sum(map(len, held._places.values())) == 5
