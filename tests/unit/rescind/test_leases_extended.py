"""A routine refresh goes on with the stream; anything else leaves it as it was."""

import asyncio
from typing import Any

import pytest

from rescind import InsufficientScope, OtherHolder, RescindError, RevokedToken
from rescind.messages import Entry
from support.gate import AUDIENCE, Gate, turns
from support.streams import RevokesMeanwhile, Source, follow


@pytest.mark.requirement(75)
async def test_a_routine_refresh_extends_it_without_a_cut() -> None:
    gate = await Gate().fresh()
    old = gate.mint.access_token(AUDIENCE, scope="read", jti="old", life=60)
    source, got = Source(), list[int]()
    async with gate.guard.lease(old, scopes=frozenset({"read"})) as lease:
        following = asyncio.create_task(follow(lease, source.numbers(), got))
        await turns()
        gate.time.advance(50)
        gate.feed.receive(gate.log.beat())
        await lease.extend(gate.mint.access_token(AUDIENCE, scope="read more", jti="new", life=900))
        gate.time.advance(60)
        gate.guard.leases.expire()
        gate.revoke(Entry("token", "old"))
        source.go.release()
        await turns()
        assert (lease.error, got, lease.principal.jti) == (None, [0], "new")
        gate.revoke(Entry("token", "new"))
        assert isinstance(await following, RevokedToken)


CHANGES: list[dict[str, Any]] = [
    {"sub": "usr_bob"},
    {"client_id": "other"},
    {"sid": "sid_2"},
    {"sid": None},
    {"gid": "x"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
async def test_another_holder_s_token_extends_nothing_and_the_old_one_stays(changes: dict[str, Any]) -> None:
    gate = await Gate().fresh()
    async with gate.guard.lease(gate.token, scopes=frozenset({"read"})) as lease:
        with pytest.raises(OtherHolder):
            await lease.extend(gate.mint.access_token(AUDIENCE, scope="read", **changes))
        with pytest.raises(InsufficientScope):
            await lease.extend(gate.mint.access_token(AUDIENCE, scope="write"))
        with pytest.raises(RescindError, match="another audience"):
            await lease.extend(gate.mint.access_token("urn:rescind:other", scope="read"))
        assert lease.error is None
        assert lease.principal.jti == "jti"
        gate.revoke(Entry("token", "jti"))
        assert isinstance(lease.error, RevokedToken)
        with pytest.raises(RevokedToken):
            await lease.extend(gate.mint.access_token(AUDIENCE, scope="read"))


async def test_a_revocation_while_a_new_token_is_judged_is_caught() -> None:
    gate = await Gate().fresh()
    observer = RevokesMeanwhile()
    gate.guard._observer = observer
    async with gate.guard.lease(gate.token) as lease:
        new = gate.mint.access_token(AUDIENCE, jti="new")
        observer.meanwhile = lambda: gate.revoke(Entry("token", "new"))
        with pytest.raises(RevokedToken):
            await lease.extend(new)
        assert lease.error is None
        observer.meanwhile = lambda: gate.revoke(Entry("token", "jti"))
        with pytest.raises(RevokedToken):
            await lease.extend(gate.mint.access_token(AUDIENCE, jti="newer"))
        assert isinstance(lease.error, RevokedToken)
