"""What a live stream does while revocations may be missed: what its policy says, with few questions to identity."""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from rescind import BEST_EFFORT, BOUNDED, STRICT, Answer, Lease, NobodyAnswered, Staleness
from rescind.leases import ASK_AGAIN, ASKING, TRY_AGAIN
from support.gate import AUDIENCE, Gate, broken, no, nobody, turns, yes


async def streaming(gate: Gate, stack: contextlib.AsyncExitStack, staleness: Staleness, token: str = "") -> Lease:
    return await stack.enter_async_context(gate.guard.lease(token or gate.token, staleness=staleness))


@pytest.mark.parametrize(
    ("staleness", "stale_for", "answer", "reason", "asked"),
    [
        (STRICT, -0.1, yes, None, 0),
        (STRICT, 0.1, yes, "VERIFIER_NOT_FRESH", 0),
        (BOUNDED(60), 0.1, yes, None, 1),
        (BOUNDED(60), 500, yes, None, 1),
        (BOUNDED(60), 0.1, no, "TOKEN_REVOKED", 1),
        (BOUNDED(60), 0.1, nobody, None, 1),
        (BOUNDED(60), 59.9, nobody, None, 1),
        (BOUNDED(60), 60.1, nobody, "VERIFIER_NOT_FRESH", 1),
        (BOUNDED(0), 0.1, nobody, "VERIFIER_NOT_FRESH", 1),
        (BOUNDED(60), 0.1, broken, "VERIFIER_NOT_FRESH", 1),
        (BEST_EFFORT, 3000, no, None, 0),
    ],
)
async def test_it_goes_on_as_a_request_would_pass(
    staleness: Staleness, stale_for: float, answer: Callable[[], Answer], reason: str | None, asked: int
) -> None:
    gate = await Gate().fresh()
    gate.identity.answer = answer
    async with contextlib.AsyncExitStack() as stack:
        lease = await streaming(gate, stack, staleness)
        gate.time.advance(3 + stale_for)
        await gate.guard.leases.hold_to_policies()
        assert (lease.error and lease.error.reason, gate.identity.asked) == (reason, asked)


async def test_begun_before_anything_was_known_it_ends_when_nobody_can_tell() -> None:
    gate = Gate()
    async with contextlib.AsyncExitStack() as stack:
        lease = await streaming(gate, stack, BOUNDED(900))
        lax = await streaming(gate, stack, BEST_EFFORT)
        gate.identity.answer = nobody
        await gate.guard.leases.hold_to_policies()
        assert lease.error is not None
        assert lax.error is not None
        assert lease.error.reason == lax.error.reason == "VERIFIER_NOT_FRESH"


async def test_many_streams_of_one_token_are_one_question_and_many_tokens_come_in_turn() -> None:
    gate = await Gate().fresh()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(100):
            token = gate.mint.access_token(AUDIENCE, jti=f"jti-{number % 50}")
            for _ in range(2):
                await streaming(gate, stack, BOUNDED(60), token)
        await streaming(gate, stack, BOUNDED(60), token)
        gate.time.advance(4)
        gate.identity.gate = asyncio.Event()
        asking = asyncio.create_task(gate.guard.leases.hold_to_policies())
        await turns(3 * ASKING)
        gate.identity.gate.set()
        assert ASK_AGAIN * 0.8 <= await asking <= ASK_AGAIN * 1.2
        assert gate.identity.asked == 50
        assert gate.identity.most_under_way == ASKING
        assert len(gate.guard.leases) == 201


async def test_an_identity_that_does_not_answer_is_asked_once_a_round_by_each_that_asks() -> None:
    gate = await Gate().fresh()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            await streaming(gate, stack, BOUNDED(60), gate.mint.access_token(AUDIENCE))
        gate.time.advance(4)
        gate.identity.answer = nobody
        assert await gate.guard.leases.hold_to_policies() == TRY_AGAIN
        assert gate.identity.asked <= ASKING
        gate.time.advance(58.7)
        # The bound is near, and kept.
        assert await gate.guard.leases.hold_to_policies() == pytest.approx(0.3)
        gate.time.advance(0.4)
        await gate.guard.leases.hold_to_policies()
        assert len(gate.guard.leases) == 0


async def test_what_is_known_again_meanwhile_needs_no_answer() -> None:
    gate = await Gate().fresh()

    def fresh_by_now() -> Answer:
        gate.feed.receive(gate.log.beat())
        raise NobodyAnswered("gone")

    async with contextlib.AsyncExitStack() as stack:
        lease = await streaming(gate, stack, BOUNDED(0))
        gate.time.advance(4)
        gate.identity.answer = fresh_by_now
        await gate.guard.leases.hold_to_policies()
        assert lease.error is None


async def test_a_token_that_replaced_the_one_in_question_is_not_judged_by_its_answer() -> None:
    gate = await Gate().fresh()
    async with contextlib.AsyncExitStack() as stack:
        lease = await streaming(gate, stack, BOUNDED(60))
        gate.time.advance(4)
        gate.identity.gate, gate.identity.answer = asyncio.Event(), no
        asking = asyncio.create_task(gate.guard.leases.hold_to_policies())
        await turns()
        assert gate.identity.under_way == 1
        gate.identity.answer, gate.identity.gate, held = yes, None, gate.identity.gate
        await lease.extend(gate.mint.access_token(AUDIENCE, jti="newer"))
        gate.identity.answer = no
        held.set()
        await asking
        assert lease.error is None


async def test_a_running_guard_sees_to_it_by_itself() -> None:
    gate = Gate()
    async with gate.guard.running(), contextlib.AsyncExitStack() as stack:
        await gate.fresh()
        lease = await streaming(gate, stack, STRICT)
        gate.log.replaying, gate.log.withhold = False, True
        gate.time.advance(4)
        async with asyncio.timeout(10):
            assert (await lease.ended()).reason == "VERIFIER_NOT_FRESH"
    assert gate.outcomes.ends == ["VERIFIER_NOT_FRESH"]
