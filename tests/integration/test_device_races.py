"""Devices and people at once, with real transactions in real threads, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, select

from identity.device_codes import DeviceCodes
from identity.domain import (
    DeviceError,
    Grant,
    InvalidGrant,
    IssuingError,
    LoginSession,
    TooManyUserCodes,
    UnknownUserCode,
    WaitingDevice,
)
from identity.storage import grants, login_sessions
from support.identity_core import ORDERS, Core, core

PARALLEL = 20


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        yield started


def codes(identity: Core) -> DeviceCodes:
    return DeviceCodes(identity.parts.issuer)


def waiting(identity: Core, scope: str = "openid orders:read offline_access") -> WaitingDevice:
    begin = partial(codes(identity).begin, client_id="mobile", scope=scope, resources=[ORDERS])
    return identity.tx(lambda tx: begin(tx))


def session(identity: Core) -> LoginSession:
    sid = identity.sign_in()
    row = identity.tx(lambda tx: tx.execute(select(login_sessions).where(login_sessions.c.id == sid)).one())
    return LoginSession(row.id, row.user_id, row.auth_time, row.expires_at)


async def kept(identity: Core, work: Any) -> Any:
    """Runs `work` as the routes do: what a waiting device polled, and a wrong try, are committed with the refusal."""

    def commits(tx: Connection) -> Any:
        try:
            return work(tx)
        except (DeviceError, UnknownUserCode) as noted:
            return noted

    try:
        return await identity.parts.database.run(commits)
    except IssuingError as refusal:
        return refusal


@pytest.mark.requirement(83)
async def test_of_twenty_polls_one_gets_the_grant(identity: Core) -> None:
    for _ in range(3):
        device, person = waiting(identity), session(identity)
        identity.tx(
            lambda tx, device=device, person=person: codes(identity).decide(
                tx, device.user_code, person, scope="openid orders:read"
            )
        )
        redeem = partial(codes(identity).redeem, device_code=device.device_code, client_id="mobile")
        outcomes = await asyncio.gather(*(kept(identity, redeem) for _ in range(PARALLEL)))
        (grant,) = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
        assert sum(isinstance(outcome, InvalidGrant) for outcome in outcomes) == PARALLEL - 1
        assert identity.is_living(identity.access(grant.grant_id))  # and the others have not ended it
    assert len(identity.tx(lambda tx: tx.execute(select(grants)).all())) == 3


@pytest.mark.requirement(83)
async def test_of_twenty_polls_too_soon_one_waits_and_the_rest_slow_down(identity: Core) -> None:
    device = waiting(identity)
    redeem = partial(codes(identity).redeem, device_code=device.device_code, client_id="mobile")
    outcomes = await asyncio.gather(*(kept(identity, redeem) for _ in range(PARALLEL)))
    words = sorted(outcome.error for outcome in outcomes)
    assert words == ["authorization_pending"] + ["slow_down"] * (PARALLEL - 1)


@pytest.mark.requirement(83)
async def test_of_twenty_decisions_the_first_stands(identity: Core) -> None:
    device = waiting(identity)
    people = [session(identity) for _ in range(4)]

    def decide(number: int) -> Any:
        scope = "openid" if number % 2 else None
        return partial(codes(identity).decide, user_code=device.user_code, session=people[number % 4], scope=scope)

    outcomes = await asyncio.gather(*(kept(identity, decide(number)) for number in range(PARALLEL)))
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, UnknownUserCode) for outcome in outcomes) == PARALLEL - 1
    redeem = partial(codes(identity).redeem, device_code=device.device_code, client_id="mobile")
    outcome = await kept(identity, redeem)
    if outcomes.index(None) % 2:
        assert isinstance(outcome, Grant)
    else:
        assert outcome.error == "access_denied"


@pytest.mark.requirement(76)
@pytest.mark.requirement(83)
async def test_twenty_guesses_at_once_are_twenty_guesses(identity: Core) -> None:
    waiting(identity)
    person = session(identity)
    guess = partial(codes(identity).find, user_code="BBBB-BBBB", session=person)
    outcomes = await asyncio.gather(*(kept(identity, guess) for _ in range(PARALLEL)))
    assert sum(isinstance(outcome, UnknownUserCode) for outcome in outcomes) == 5
    assert sum(isinstance(outcome, TooManyUserCodes) for outcome in outcomes) == PARALLEL - 5


@pytest.mark.requirement(83)
async def test_a_sign_out_everywhere_leaves_a_device_nothing_that_lives(identity: Core) -> None:
    for _ in range(10):
        device, person = waiting(identity), session(identity)
        decide = partial(codes(identity).decide, user_code=device.user_code, session=person, scope="offline_access")
        identity.tx(lambda tx, decide=decide: decide(tx))
        redeem = partial(codes(identity).redeem, device_code=device.device_code, client_id="mobile")

        def token(tx: Connection, redeem: Any = redeem) -> Any:
            granted = redeem(tx)
            return identity.parts.issuer.issue_access_token(tx, grant_id=granted.grant_id, audience=ORDERS)

        everywhere = partial(identity.parts.revocations.revoke_subject, sub=person.user_id, cause="PASSWORD_CHANGED")
        outcome, _ = await asyncio.gather(kept(identity, token), identity.parts.database.run(everywhere))
        if not isinstance(outcome, InvalidGrant):
            assert not identity.is_living(outcome)
            assert identity.denied(outcome)
