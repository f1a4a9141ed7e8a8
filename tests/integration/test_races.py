"""Races: two things at once, many times, with real transactions in real threads, on SQLite and PostgreSQL.

What takes something back always wins: whatever the order of commits, when both are through, no living token has come
out of the other side. "Living" is asked twice: of SQL, and of a verifier that holds the log.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, select

from identity.domain import (
    AccessToken,
    CodeReused,
    InvalidGrant,
    IssuingError,
    RefreshReused,
)
from identity.storage import refresh_tokens
from servicekit.errors import ServiceError
from support.identity_core import ORDERS, PASSWORD, Core, core

ROUNDS = 25


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        yield started


async def _kept(identity: Core, work: Callable[[Connection], Any]) -> Any:
    """Runs `work` as the routes do: a reuse is committed with its refusal, everything else rolls back."""

    def commits(tx: Connection) -> Any:
        try:
            return work(tx)
        except (CodeReused, RefreshReused) as reuse:
            return reuse

    try:
        return await identity.parts.database.run(commits)
    except IssuingError as refusal:
        return refusal


async def _race(*sides: Any) -> list[Any]:
    """All at once, begun in an order that is different each time; the outcomes in the order of `sides`."""
    order = list(range(len(sides)))
    random.shuffle(order)
    outcomes = await asyncio.gather(*(sides[side] for side in order))
    return [outcomes[order.index(side)] for side in range(len(sides))]


def _grant_with_token(identity: Core, redeemed_from: str) -> Callable[[Connection], AccessToken]:
    issuer = identity.parts.issuer

    def work(tx: Connection) -> AccessToken:
        redeemed = issuer.redeem_code(tx, redeemed_from, "mobile")
        return issuer.issue_access_token(tx, grant_id=redeemed.grant_id, audience=ORDERS)

    return work


def _assert_dead(identity: Core, outcomes: list[Any]) -> int:
    """No outcome is a token that anybody accepts; how many tokens there were, so a test sees both orders happen."""
    tokens = [outcome for outcome in outcomes if isinstance(outcome, AccessToken)]
    for token in tokens:
        assert not identity.is_living(token)
        assert identity.denied(token)
    return len(tokens)


@pytest.mark.requirement(83)
async def test_password_change_against_sign_in(identity: Core) -> None:
    """A sign-in that read the old password never ends with a session, whenever it commits."""
    accounts, issuer, passwords = identity.parts.accounts, identity.parts.issuer, identity.parts.passwords
    password = PASSWORD
    for number in range(ROUNDS):
        user = identity.user()

        async def sign_in(password: str = password) -> Any:
            seen = await identity.parts.database.read(partial(accounts.credentials, email="alice@example.com"))
            assert seen is not None
            if not await passwords.verify(seen.password_hash, password):
                return None

            def work(tx: Connection) -> AccessToken:
                opened = issuer.open_session(tx, seen.user_id, hard_gen_seen=seen.hard_gen)
                code = issuer.issue_code(
                    tx,
                    session_id=opened.sid,
                    client_id="mobile",
                    redirect_uri="http://127.0.0.1/callback",
                    scope="offline_access orders:read",
                    resources=[ORDERS],
                    nonce=None,
                    code_challenge="x",
                )
                return _grant_with_token(identity, code)(tx)

            return await _kept(identity, work)

        changed = f"another-good-passphrase-{number}"
        change = accounts.change_password(user.id, password, changed)
        outcomes = await _race(change, *(sign_in() for _ in range(4)))
        password = changed
        _assert_dead(identity, outcomes)


@pytest.mark.requirement(83)
async def test_password_change_against_code_redemption(identity: Core) -> None:
    issuer, log = identity.parts.issuer, identity.parts.revocations
    won = 0
    for _ in range(ROUNDS):
        user, code = identity.user(), identity.code(identity.sign_in(), scope="offline_access orders:read")
        change = identity.parts.database.run(lambda tx, user=user: log.revoke_subject(tx, user.id, "PASSWORD_CHANGED"))
        redeem = _kept(identity, _grant_with_token(identity, code))
        won += _assert_dead(identity, await _race(change, redeem))
        with pytest.raises(InvalidGrant):
            identity.tx(lambda tx, code=code: issuer.redeem_code(tx, code, "mobile"))
    assert won < ROUNDS


def _refresh(identity: Core, presented: str) -> Callable[[Connection], AccessToken]:
    issuer = identity.parts.issuer

    def work(tx: Connection) -> AccessToken:
        rotated = issuer.rotate_refresh_token(tx, presented, "mobile")
        return issuer.issue_access_token(tx, grant_id=rotated.grant.grant_id, audience=ORDERS)

    return work


@pytest.mark.requirement(83)
@pytest.mark.parametrize("what", ["password change", "sign-out", "grant withdrawn", "client disabled"])
async def test_taking_back_against_refresh(identity: Core, what: str) -> None:
    log, accounts = identity.parts.revocations, identity.parts.accounts
    for _ in range(ROUNDS):
        user, sid = identity.user(), identity.sign_in()
        gid = identity.grant(sid)
        first = identity.refresh(gid)
        take_back: Any
        if what == "password change":
            take_back = identity.parts.database.run(partial(log.revoke_subject, sub=user.id, cause="PASSWORD_CHANGED"))
        elif what == "sign-out":
            take_back = identity.parts.database.run(partial(log.revoke_session, sid=sid, cause="SIGNED_OUT"))
        elif what == "grant withdrawn":
            take_back = identity.parts.database.run(partial(log.revoke_grant, gid=gid, cause="WITHDRAWN"))
        else:
            take_back = accounts.disable_client("mobile")
        outcomes = await _race(take_back, *(_kept(identity, _refresh(identity, first)) for _ in range(3)))
        _assert_dead(identity, outcomes)
        if what == "client disabled":
            await accounts.enable_client("mobile")
        for presented in (first, next(identity.parts.secret_keys.successors(first))):
            with pytest.raises(InvalidGrant):
                identity.tx(_refresh(identity, presented))


@pytest.mark.requirement(49)
@pytest.mark.requirement(83)
async def test_twenty_redemptions_of_one_code(identity: Core) -> None:
    """Exactly one gets a token; the others are reuse, so what the one got is ended too (RFC 6749 section 4.1.2)."""
    for _ in range(5):
        code = identity.code(identity.sign_in())
        before = len(identity.log())
        outcomes = await _race(*(_kept(identity, _grant_with_token(identity, code)) for _ in range(20)))
        assert _assert_dead(identity, outcomes) == 1
        assert sum(isinstance(outcome, CodeReused) for outcome in outcomes) == 19
        assert len(identity.log()) == before + 1


@pytest.mark.requirement(52)
@pytest.mark.requirement(83)
async def test_twenty_refreshes_of_one_token(identity: Core) -> None:
    """One successor however often handed out; after the window none, and the grant is ended."""
    issuer = identity.parts.issuer
    for _ in range(5):
        gid = identity.grant()
        first = identity.refresh(gid)

        def rotate(tx: Connection, first: str = first) -> str:
            return issuer.rotate_refresh_token(tx, first, "mobile").successor

        successors = await _race(*(_kept(identity, rotate) for _ in range(20)))
        assert len(set(successors)) == 1
        assert isinstance(successors[0], str)
        family = identity.tx(
            lambda tx, gid=gid: tx.execute(select(refresh_tokens).where(refresh_tokens.c.grant_id == gid)).all()
        )
        assert len(family) == 2
        token = identity.access(gid)
        before = len(identity.log())
        identity.clock.forward(10.001)
        replays = await _race(*(_kept(identity, rotate) for _ in range(20)))
        assert all(isinstance(outcome, InvalidGrant) for outcome in replays)
        assert sum(isinstance(outcome, RefreshReused) for outcome in replays) == 1
        assert len(identity.log()) == before + 1
        assert not identity.is_living(token)
        assert identity.denied(token)


@pytest.mark.requirement(83)
async def test_key_rotation_and_revocation_against_issuing(identity: Core) -> None:
    """No token is signed by a key after it was revoked, and issuing never fails for a rotation."""
    administration, issuer = identity.parts.administration, identity.parts.issuer
    gid = identity.grant()

    async def issue() -> Any:
        return await identity.parts.database.run(
            partial(issuer.issue_access_token, grant_id=gid, audience=ORDERS, scope=None)
        )

    for _ in range(ROUNDS // 5):
        before = await issue()
        active = next(key.kid for key in await administration.keys() if key.status == "active")
        rotated, *issued = await _race(administration.rotate_keys(), *(issue() for _ in range(6)))
        assert rotated != active
        assert all(identity.is_living(token) for token in [before, *issued])
        await _race(administration.revoke_key(rotated), *(issue() for _ in range(6)))
        kids = identity.tx(identity.parts.keyring.accepted_kids)
        assert rotated not in kids
        identity.clock.forward(30)  # the new spare has been in the JWKS for long enough


@pytest.mark.requirement(83)
async def test_two_password_changes_at_once(identity: Core) -> None:
    """One of them wins; the other hears of it, and the password is the winner's."""
    accounts, password = identity.parts.accounts, PASSWORD
    for number in range(ROUNDS // 5):
        user = identity.user()
        wanted = [f"another-good-passphrase-{number}-{side}" for side in "abc"]

        async def change(new: str, user_id: str = user.id, current: str = password) -> bool:
            try:
                await accounts.change_password(user_id, current, new)
            except ServiceError as error:
                if error.reason not in ("SIGN_IN_OVERTAKEN", "WRONG_PASSWORD"):
                    raise
                return False
            return True

        outcomes = await _race(*(change(new) for new in wanted))
        assert outcomes.count(True) == 1
        password = wanted[outcomes.index(True)]
        assert await identity.parts.passwords.verify(identity.user().password_hash, password)
