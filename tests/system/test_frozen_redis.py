"""Redis that accepts connections and never answers (SIGSTOP), alone and with identity: each policy as declared.

Three policies on four routes: the stack's orders reads BOUNDED for a token's life and writes BOUNDED for two seconds;
the other one reads STRICT and writes BEST_EFFORT.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from devstack.stack import Stack
from devstack.story.scene import Answer
from devstack.target import WRITE_STALENESS
from support.eventually import eventually
from support.system import CATCH_UP, MAX_STALENESS, Verifier, another_orders

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def other(stack: Stack, tmp_path: Path) -> AsyncIterator[Verifier]:
    """Orders that reads STRICT and writes BEST_EFFORT."""
    policies = {"ORDERS_READ_STALENESS": "strict", "ORDERS_WRITE_STALENESS": "best_effort"}
    async with another_orders(stack, tmp_path, **policies) as running:
        await eventually(running.fresh, within=CATCH_UP)
        yield running


def accepted(answers: tuple[Answer, Answer]) -> bool:
    """Whether both wires let it through; a refusal may be for want of knowledge, never 401."""
    for answer in answers:
        assert answer.accepted or answer.status in ("503", "UNAVAILABLE"), answer
    return all(answer.accepted for answer in answers)


def refused(answers: tuple[Answer, Answer]) -> bool:
    """Whether both wires refuse it, for want of knowledge."""
    accepted(answers)
    return not any(answer.accepted for answer in answers)


async def test_redis_alone_takes_nothing_away(stack: Stack, verifier: Verifier, other: Verifier) -> None:
    """Every process asks identity instead and stays FRESH; what is revoked meanwhile is refused a second later."""
    scene = verifier.scene
    browser = scene.browser()
    doomed = (await scene.signed_in(browser=browser)).access_token
    good = (await scene.signed_in()).access_token
    for each in (verifier, other):
        await each.scene.accepted(doomed)
    await stack.fault("freeze", "redis")

    for _ in range(int(2 * MAX_STALENESS / 0.5)):
        for each in (verifier, other):
            assert await each.fresh(), await each.says()
            for write in (False, True):
                assert accepted(await each.scene.both(good, write=write))
        await asyncio.sleep(0.5)

    await browser.sign_out()
    for each in (verifier, other):

        async def gone(each: Verifier = each) -> bool:
            return all(answer.unauthenticated for answer in await each.scene.both(doomed))

        await eventually(gone, within=MAX_STALENESS)
        await each.scene.refused(doomed, reasons=("TOKEN_REVOKED",))


async def test_with_identity_frozen_too_each_policy_answers_as_declared(
    stack: Stack, verifier: Verifier, other: Verifier
) -> None:
    scene = verifier.scene
    browser = scene.browser()
    revoked = (await scene.signed_in(browser=browser)).access_token
    good = (await scene.signed_in()).access_token
    await browser.sign_out()
    for each in (verifier, other):

        async def gone(each: Verifier = each) -> bool:
            return not any(answer.accepted for answer in await each.scene.both(revoked))

        await eventually(gone, within=CATCH_UP)
    await stack.fault("freeze", "redis")
    await stack.fault("freeze", "identity")

    async def stale() -> bool:
        states = [(await each.says())["freshness"] for each in (verifier, other)]
        assert "SYNCING" not in states
        return states == ["STALE", "STALE"]

    await eventually(stale, within=MAX_STALENESS + 2)
    assert refused(await other.scene.both(good)), "STRICT"
    assert accepted(await other.scene.both(good, write=True)), "BEST_EFFORT"
    assert accepted(await verifier.scene.both(good)), "BOUNDED, within its bound"

    async def past_its_bound() -> bool:
        return refused(await verifier.scene.both(good, write=True))

    await eventually(past_its_bound, within=WRITE_STALENESS + 3)
    assert accepted(await verifier.scene.both(good)), "BOUNDED, within its bound"
    # What it knew it goes on knowing, under every policy.
    for each in (verifier, other):
        for write in (False, True):
            for answer in await each.scene.both(revoked, write=write):
                assert (answer.unauthenticated, answer.reason) == (True, "TOKEN_REVOKED")

    await stack.fault("thaw", "identity")
    for each in (verifier, other):  # with Redis still frozen
        await eventually(each.fresh, within=CATCH_UP)
    await stack.fault("thaw", "redis")
    assert accepted(await other.scene.both(good)), "STRICT"
    assert accepted(await verifier.scene.both(good, write=True)), "BOUNDED"
