"""Issuing: what is issued, to whom, for how long, and what ends it. On SQLite and PostgreSQL."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, update

from identity.domain import (
    AccessToken,
    CodeReused,
    InvalidGrant,
    InvalidScope,
    InvalidTarget,
    NotSignedIn,
    RefreshReused,
    SignInOvertaken,
    UnauthorizedClient,
)
from identity.keyring import longest_life
from identity.storage import codes, log_state, login_sessions, refresh_tokens
from rescind.jws import parse
from support.identity_core import ADMIN, ALICE, IDENTITY, ISSUER, ORDERS, Core, core


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        yield started


@pytest.mark.requirement(19)
def test_an_access_token_of_a_person_says_what_rfc_9068_asks_and_no_more(identity: Core) -> None:
    sid = identity.sign_in()
    gid = identity.grant(sid)
    token = identity.access(gid)
    user = identity.user()

    jws = parse(token.token, types=frozenset({"at+jwt"}))
    key = identity.tx(lambda tx: identity.parts.keyring.public_key(tx, "access", jws.kid))
    assert key is not None
    assert jws.verified_claims(key) == token.claims
    now = identity.clock.ms // 1000
    expected: dict[str, Any] = {
        "iss": ISSUER,
        "sub": user.id,
        "aud": ORDERS,
        "client_id": "mobile",
        "iat": now,
        "exp": now + 900,
        "scope": "orders:read",
        "gid": gid,
        "sid": sid,
        "gen": user.gen,
        "cgen": 1,
        "auth_time": now,
    }
    assert {name: value for name, value in token.claims.items() if name != "jti"} == expected
    assert len(token.claims["jti"]) == 22


def test_a_token_of_a_client_carries_nothing_of_a_person(identity: Core) -> None:
    claims = identity.of_client("backoffice").claims
    assert claims["sub"] == "svc_backoffice"
    assert claims["scope"] == "identity:admin"
    assert not {"gid", "gen", "sid", "auth_time"} & claims.keys()


def test_an_offline_grant_has_no_session_and_outlives_the_sign_out(identity: Core) -> None:
    sid = identity.sign_in()
    offline = identity.grant(sid, scope="openid offline_access orders:read")
    tied = identity.grant(sid)
    assert "sid" not in identity.access(offline).claims
    identity.tx(lambda tx: identity.parts.revocations.revoke_session(tx, sid, "SIGNED_OUT"))
    assert identity.is_living(identity.access(offline))
    with pytest.raises(InvalidGrant):
        identity.access(tied)


@pytest.mark.requirement(7)
def test_an_audience_must_have_been_authorized(identity: Core) -> None:
    gid = identity.grant()
    with pytest.raises(InvalidTarget):
        identity.access(gid, "urn:rescind:notifications")
    with pytest.raises(InvalidTarget):
        identity.of_client("orders", ORDERS)


@pytest.mark.requirement(58)
def test_scope_is_narrowed_to_the_audience_and_never_widened(identity: Core) -> None:
    gid = identity.grant(scope="openid orders:read orders:write")
    assert identity.access(gid, ORDERS).scope == "orders:read orders:write"
    assert identity.access(gid, IDENTITY).scope == "openid"
    assert identity.access(gid, ORDERS, "orders:read").scope == "orders:read"
    with pytest.raises(InvalidScope):
        identity.access(gid, ORDERS, "orders:read orders:admin")


def test_admin_scopes_are_for_the_role_admin_as_it_is_now(identity: Core) -> None:
    wanted = "orders:read orders:admin"
    assert identity.access(identity.grant(scope=wanted)).scope == "orders:read"
    gid = identity.grant(identity.sign_in(ADMIN), scope=wanted)
    assert identity.access(gid).scope == "orders:admin orders:read"


async def test_a_role_taken_away_makes_tokens_stale_and_the_next_one_smaller(identity: Core) -> None:
    admin = identity.user(ADMIN)
    gid = identity.grant(identity.sign_in(ADMIN), scope="orders:read orders:admin")
    before = identity.access(gid)
    position = await identity.parts.accounts.change_roles(admin.id, [])
    assert position.pos == 1
    assert not identity.is_living(before)
    after = identity.access(gid)
    assert identity.is_living(after)
    assert after.scope == "orders:read"


@pytest.mark.requirement(50)
def test_a_code_lives_a_minute(identity: Core) -> None:
    sid = identity.sign_in()
    in_time, too_late = identity.code(sid), identity.code(sid)
    identity.clock.forward(59.9)
    identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, in_time, "mobile"))
    identity.clock.forward(0.1)
    with pytest.raises(InvalidGrant, match="expired"):
        identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, too_late, "mobile"))


def _commit_refusal(identity: Core, work: Any, refusal: type[InvalidGrant]) -> None:
    """As the route does it: the refusal goes out, and the transaction is committed."""

    def kept(tx: Any) -> None:
        with pytest.raises(refusal):
            work(tx)

    identity.tx(kept)


@pytest.mark.requirement(49)
def test_a_code_that_comes_twice_ends_what_was_made_from_it(identity: Core) -> None:
    code = identity.code(identity.sign_in())
    redeemed = identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, code, "mobile"))
    token = identity.access(redeemed.grant_id)
    refresh = identity.refresh(redeemed.grant_id)
    _commit_refusal(identity, lambda tx: identity.parts.issuer.redeem_code(tx, code, "mobile"), CodeReused)
    assert not identity.is_living(token)
    assert identity.denied(token)
    assert [row.cause for row in identity.log()] == ["CODE_REUSED"]
    with pytest.raises(InvalidGrant):
        identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile"))


def test_a_code_of_another_client_is_neither_redeemed_nor_spent(identity: Core) -> None:
    code = identity.code(identity.sign_in())
    with pytest.raises(InvalidGrant):
        identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, code, "other"))
    identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, code, "mobile"))


def test_a_redemption_that_is_rolled_back_does_not_spend_the_code(identity: Core) -> None:
    """A wrong PKCE verifier must not burn somebody else's code."""
    code = identity.code(identity.sign_in())

    def wrong_verifier(tx: Any) -> None:
        identity.parts.issuer.redeem_code(tx, code, "mobile")
        raise LookupError

    with pytest.raises(LookupError):
        identity.tx(wrong_verifier)
    identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, code, "mobile"))


def test_no_token_outlives_its_grant_nor_its_session(identity: Core) -> None:
    gid = identity.grant()
    identity.clock.forward(12 * 3600 - 100)
    assert identity.access(gid).expires_in == 100
    identity.clock.forward(100)
    with pytest.raises(InvalidGrant):
        identity.access(gid)


@pytest.mark.requirement(52)
def test_a_refresh_token_retried_inside_the_window_gets_the_same_successor(identity: Core) -> None:
    rotate = identity.parts.issuer.rotate_refresh_token
    first = identity.refresh(identity.grant())
    successors = set()
    for _ in range(3):
        successors.add(identity.tx(lambda tx: rotate(tx, first, "mobile")).successor)
        identity.clock.forward(5)
    assert len(successors) == 1
    assert identity.log() == []


@pytest.mark.requirement(52)
@pytest.mark.parametrize("why", ["the window is over", "the successor has been used"])
def test_a_refresh_token_replayed_ends_the_grant(identity: Core, why: str) -> None:
    rotate = identity.parts.issuer.rotate_refresh_token
    gid = identity.grant()
    first = identity.refresh(gid)
    token = identity.access(gid)
    successor = identity.tx(lambda tx: rotate(tx, first, "mobile")).successor
    if why == "the window is over":
        identity.clock.forward(10.001)
    else:
        identity.tx(lambda tx: rotate(tx, successor, "mobile"))
    _commit_refusal(identity, lambda tx: rotate(tx, first, "mobile"), RefreshReused)
    assert [row.cause for row in identity.log()] == ["REFRESH_REUSED"]
    assert not identity.is_living(token)
    for spent in (first, successor):
        with pytest.raises(InvalidGrant):
            identity.tx(lambda tx, spent=spent: rotate(tx, spent, "mobile"))
    assert len(identity.log()) == 1


@pytest.mark.requirement(55)
def test_rotation_never_moves_the_absolute_end(identity: Core) -> None:
    rotate = identity.parts.issuer.rotate_refresh_token
    token = identity.refresh(identity.grant(scope="openid offline_access"))
    ends = set()
    for _ in range(29):
        identity.clock.forward(86_400)
        rotated = identity.tx(lambda tx, token=token: rotate(tx, token, "mobile"))
        token = rotated.successor
        ends.add(rotated.grant.expires_at)
    assert len(ends) == 1
    identity.clock.forward(86_400)
    with pytest.raises(InvalidGrant):
        identity.tx(lambda tx: rotate(tx, token, "mobile"))


def test_a_refresh_token_of_another_client_is_refused_and_ends_nothing(identity: Core) -> None:
    token = identity.refresh(identity.grant())
    with pytest.raises(InvalidGrant):
        identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, token, "other"))
    identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, token, "mobile"))


def test_what_a_stranger_could_present_is_nowhere_in_sql(identity: Core) -> None:
    user = identity.user()
    opened = identity.tx(lambda tx: identity.parts.issuer.open_session(tx, user.id, hard_gen_seen=user.hard_gen))
    code = identity.code(opened.sid)
    redeemed = identity.tx(lambda tx: identity.parts.issuer.redeem_code(tx, code, "mobile"))
    first = identity.refresh(redeemed.grant_id)
    second = identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, first, "mobile")).successor

    def stored(tx: Any) -> str:
        return "".join(str(tx.execute(select(table)).all()) for table in (login_sessions, codes, refresh_tokens))

    everything = identity.tx(stored)
    for secret in (opened.cookie, code, first, second):
        assert secret not in everything


def test_a_sign_in_that_was_overtaken_opens_no_session(identity: Core) -> None:
    user = identity.user()
    identity.tx(lambda tx: identity.parts.revocations.revoke_subject(tx, user.id, "PASSWORD_CHANGED"))
    with pytest.raises(SignInOvertaken):
        identity.tx(lambda tx: identity.parts.issuer.open_session(tx, user.id, hard_gen_seen=user.hard_gen))


@pytest.mark.requirement(22)
async def test_a_disabled_account_holds_nothing_and_gets_nothing_until_it_is_enabled(identity: Core) -> None:
    user, sid = identity.user(), identity.sign_in()
    gid = identity.grant(sid, scope="openid offline_access orders:read")
    code, refresh, token = identity.code(sid), identity.refresh(gid), identity.access(gid)
    assert (await identity.parts.accounts.disable_account(user.id)).pos == 1
    assert (await identity.parts.accounts.disable_account(user.id)).pos == 0
    issuer = identity.parts.issuer
    assert not identity.is_living(token)
    assert identity.denied(token)
    now = identity.user()
    for attempt in (
        lambda tx: issuer.redeem_code(tx, code, "mobile"),
        lambda tx: issuer.rotate_refresh_token(tx, refresh, "mobile"),
        lambda tx: issuer.issue_access_token(tx, grant_id=gid, audience=ORDERS),
        lambda tx: issuer.open_session(tx, user.id, hard_gen_seen=now.hard_gen),
    ):
        with pytest.raises((InvalidGrant, SignInOvertaken)):
            identity.tx(attempt)
    await identity.parts.accounts.enable_account(user.id)
    assert not identity.is_living(token)
    assert identity.is_living(identity.access(identity.grant()))


async def test_a_disabled_client_holds_nothing_and_gets_nothing_until_it_is_enabled(identity: Core) -> None:
    gid = identity.grant()
    refresh, token = identity.refresh(gid), identity.access(gid)
    assert (await identity.parts.accounts.disable_client("mobile")).pos == 1
    assert (await identity.parts.accounts.disable_client("mobile")).pos == 0
    assert not identity.is_living(token)
    assert identity.denied(token)
    with pytest.raises(UnauthorizedClient):
        identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile"))
    await identity.parts.accounts.enable_client("mobile")
    with pytest.raises(InvalidGrant):
        identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile"))
    assert identity.is_living(identity.access(identity.grant()))


def test_the_longest_life_is_raised_by_whoever_issues_longer_tokens(identity: Core) -> None:
    identity.tx(lambda tx: tx.execute(update(log_state).values(longest_life=1000)))
    token: AccessToken = identity.access(identity.grant())
    assert token.expires_in == 900
    assert identity.tx(longest_life) == 900_000


def test_nothing_is_issued_for_a_session_that_has_ended(identity: Core) -> None:
    sid = identity.sign_in()
    identity.tx(lambda tx: identity.parts.revocations.revoke_session(tx, sid, "SIGNED_OUT"))
    with pytest.raises(NotSignedIn):
        identity.code(sid)


async def test_a_changed_password_is_the_new_one_and_signs_out_everywhere(identity: Core) -> None:
    gid = identity.grant(scope="openid offline_access orders:read")
    token = identity.access(gid)
    accounts, user = identity.parts.accounts, identity.user()
    hard_gen = await accounts.change_password(user.id, "correct-horse-battery-staple", "another-good-passphrase")
    seen = identity.tx(lambda tx: accounts.credentials(tx, ALICE.upper()))
    assert seen is not None
    assert seen.hard_gen == hard_gen
    assert await identity.parts.passwords.verify(seen.password_hash, "another-good-passphrase")
    assert not identity.is_living(token)
    assert identity.denied(token)
    assert [row.cause for row in identity.log()] == ["PASSWORD_CHANGED"]
