"""A process that starts in bad times knows everything within seconds, or says that it does not."""

from pathlib import Path
from typing import Literal

import pytest

from devstack.stack import Stack
from devstack.story.scene import header_of
from support.eventually import eventually
from support.system import CATCH_UP, Verifier, another_orders

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_started_while_redis_is_gone_it_is_fresh_through_replay(
    stack: Stack, verifier: Verifier, tmp_path: Path, fault: Literal["kill", "freeze"]
) -> None:
    scene = verifier.scene
    browser = scene.browser()
    revoked = (await scene.signed_in(browser=browser)).access_token
    good = (await scene.signed_in()).access_token
    await browser.sign_out()
    await stack.fault(fault, "redis")
    async with another_orders(stack, tmp_path) as new:
        said = await eventually(new.fresh, within=CATCH_UP)
        assert said["position"] == (await verifier.says())["position"] > 0
        await new.scene.accepted(good)
        await new.scene.refused(revoked, reasons=("TOKEN_REVOKED",))


async def test_started_after_a_key_was_revoked_it_goes_by_the_new_one(
    stack: Stack, verifier: Verifier, tmp_path: Path
) -> None:
    scene = verifier.scene
    old = (await scene.signed_in()).access_token
    await scene.revoke(key=header_of(old)["kid"])
    new_token = (await scene.signed_in()).access_token
    assert header_of(new_token)["kid"] != header_of(old)["kid"]
    async with another_orders(stack, tmp_path) as new:
        await eventually(new.fresh, within=CATCH_UP)
        await new.scene.accepted(new_token)
        for answer in await new.scene.both(old):
            assert answer.unauthenticated, answer


async def test_started_while_nobody_answers_it_refuses_as_unavailable_and_takes_no_traffic(
    stack: Stack, verifier: Verifier, tmp_path: Path
) -> None:
    good = (await verifier.scene.signed_in()).access_token
    await stack.fault("freeze", "redis")
    await stack.fault("freeze", "identity")
    policies = {"ORDERS_READ_STALENESS": "900", "ORDERS_WRITE_STALENESS": "best_effort"}
    async with another_orders(stack, tmp_path, **policies) as new:
        assert (await new.says())["freshness"] == "SYNCING"
        assert (await new.says())["ready"] is False
        for write in (False, True):
            for answer in await new.scene.both(good, write=write):
                assert answer.status in ("503", "UNAVAILABLE"), answer
        await stack.fault("thaw", "identity")
        await eventually(new.fresh, within=CATCH_UP)
        await new.scene.accepted(good)
