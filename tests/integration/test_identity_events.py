"""What identity tells of accounts: each thing once, in the transaction that makes it true."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from contracts.identity.v1.events_pb2 import (
    AccountDisabled,
    AccountEnabled,
    GrantGiven,
    GrantWithdrawn,
    PasswordChanged,
    RefreshTokenReused,
    SessionsEnded,
    SignedIn,
)
from eventlog import Pace
from eventlog.memory_stream import MemoryStream
from eventlog.metrics import RelayMetrics
from eventlog.outbox import Outbox
from eventlog.relay import Relay
from identity import storage
from identity.domain import Cause, Credentials, RefreshReused, UserId
from identity.events import STREAM
from identity.signin import open_session, sign_out
from servicekit.metrics import Metrics
from servicekit.visitor import Visitor
from support.identity_core import ADMIN, PASSWORD, Core, core
from support.identity_events import kinds, told
from support.identity_front import ALICE, Front, identity_front


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Core]:
    async with core(f"sqlite:///{tmp_path / 'identity.db'}") as started:
        yield started


@pytest.fixture
async def any_identity(database_url: str) -> AsyncIterator[Core]:
    """On SQLite, and on PostgreSQL."""
    async with core(database_url) as started:
        yield started


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}", trusted_proxies="127.0.0.0/8") as front:
        yield front


def proven(identity: Core, email: str = ALICE) -> Credentials:
    user = identity.user(email)
    return Credentials(UserId(user.id), user.password_hash, user.hard_gen, disabled=False)


def opened(identity: Core, email: str = ALICE, previous: str | None = None) -> tuple[str, str]:
    """A sign-in as the page does it; sid and cookie."""
    who, issuer = proven(identity, email), identity.parts.issuer
    session = identity.tx(lambda tx: open_session(tx, issuer, who, previous))
    return session.sid, session.cookie


def kept(identity: Core, refresh: str) -> None:
    """A refresh that is refused for reuse, committed as the route commits it."""

    def work(tx: object) -> None:
        with pytest.raises(RefreshReused):
            identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile")  # type: ignore[arg-type]

    identity.tx(work)


async def test_a_sign_in_is_told_with_what_the_request_came_with(front: Front) -> None:
    browser = front.browser()
    front.http.headers.update({"user-agent": "Browser/1 \t" + "x" * 300, "x-forwarded-for": "6.6.6.6, 203.0.113.9"})
    await browser.submit(await browser.open("/login"), "/login", email=ALICE, password=PASSWORD)
    (event,) = told(front.database)
    assert isinstance(event, SignedIn)
    assert event.subject == front.user(ALICE).id
    assert event.client_id == ""
    assert event.remote_address == "203.0.113.9"
    assert event.user_agent == ("Browser/1 " + "x" * 300)[:256]
    row = front.database.run_sync(lambda tx: tx.execute(storage.login_sessions.select()).one())
    assert (row.id, row.network, row.user_agent) == (event.session_id, "203.0.113.0/24", event.user_agent)


async def test_a_sign_in_for_a_client_names_it_and_a_second_one_in_the_session_tells_nothing(front: Front) -> None:
    browser = front.browser()
    await front.client("mobile").sign_in(browser, ALICE, PASSWORD, scope="orders:read", resource="urn:rescind:orders")
    await front.client("web").sign_in(browser, ALICE, PASSWORD, scope="openid")
    events = told(front.database)
    assert kinds(events) == ["SignedIn"]  # both clients are ours: nobody was asked, and no access was given away
    assert events[0].client_id == "mobile"


async def test_a_sign_in_as_somebody_else_tells_both(any_identity: Core) -> None:
    identity = any_identity
    sid, cookie = opened(identity)
    second, _ = opened(identity, ADMIN, cookie)
    alice, admin = identity.user().id, identity.user(ADMIN).id
    database = identity.parts.database
    assert told(database, alice)[1:] == [
        SessionsEnded(subject=alice, session_ids=[sid], cause=Cause.SIGNED_OUT, ended_by=alice)
    ]
    assert told(database, admin) == [SignedIn(subject=admin, session_id=second)]


async def test_signing_out_is_told_once(identity: Core) -> None:
    sid, cookie = opened(identity)
    for _ in range(2):
        identity.tx(lambda tx: sign_out(tx, identity.parts.issuer, cookie))
    assert kinds(told(identity.parts.database)) == ["SignedIn", "SessionsEnded"]
    assert told(identity.parts.database)[1].session_ids == [sid]


async def test_what_has_run_out_does_not_end_before_its_time(identity: Core) -> None:
    _, cookie = opened(identity)
    identity.clock.forward(13 * 3600)
    identity.tx(lambda tx: sign_out(tx, identity.parts.issuer, cookie))
    assert kinds(told(identity.parts.database)) == ["SignedIn"]


@pytest.mark.requirement(23)
async def test_a_changed_password_and_what_it_signs_out(identity: Core) -> None:
    alice = identity.user().id
    sid = identity.sign_in()
    await identity.parts.accounts.change_password(alice, PASSWORD, "another-good-passphrase", session_id=sid)
    changed = PasswordChanged(subject=alice, session_id=sid)
    ended = SessionsEnded(subject=alice, cause=Cause.PASSWORD_CHANGED, ended_by=alice)
    assert told(identity.parts.database) == [ended, changed]


async def test_a_changed_password_where_nobody_was_signed_in(identity: Core) -> None:
    alice = identity.user().id
    await identity.parts.accounts.change_password(alice, PASSWORD, "another-good-passphrase")
    assert told(identity.parts.database) == [PasswordChanged(subject=alice)]


async def test_a_reused_refresh_token_is_told_once_and_is_no_withdrawal(identity: Core) -> None:
    gid = identity.grant()
    refresh = identity.refresh(gid)
    identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile"))
    identity.clock.forward(60)
    kept(identity, refresh)
    alice = identity.user().id
    assert told(identity.parts.database) == [RefreshTokenReused(subject=alice, client_id="mobile", grant_id=gid)]


async def test_access_of_somebody_elses_app_is_told_when_given_and_withdrawn(any_identity: Core) -> None:
    identity = any_identity
    gid = identity.grant(client="other", scope="openid orders:read")
    alice, my_account = identity.user().id, identity.parts.my_account
    for _ in range(2):
        await my_account.withdraw(alice, gid)
    assert told(identity.parts.database) == [
        GrantGiven(subject=alice, client_id="other", grant_id=gid, scopes=["openid", "orders:read"]),
        GrantWithdrawn(subject=alice, client_id="other", grant_id=gid),
    ]


async def test_a_client_that_hands_its_tokens_back_is_no_news(identity: Core) -> None:
    gid = identity.grant()
    identity.tx(lambda tx: identity.parts.revocations.revoke_grant(tx, gid, Cause.TOKEN_REVOKED))
    assert told(identity.parts.database) == []


async def test_what_an_administrator_ends_says_so(identity: Core) -> None:
    administration, alice = identity.parts.administration, identity.user().id
    first, second, gid = identity.sign_in(), identity.sign_in(), identity.grant()
    await administration.revoke("session", first, cause="STOLEN_LAPTOP", by="usr_ada")
    await administration.revoke("grant", gid, cause="", by="svc_backoffice")
    await administration.revoke("subject", alice, cause="", by="usr_ada")
    await administration.revoke("subject", alice, cause="", by="usr_ada")
    await administration.revoke("subject", alice, cause="", by="usr_ada", soft=True)
    assert told(identity.parts.database) == [
        SessionsEnded(subject=alice, session_ids=[first], cause="STOLEN_LAPTOP", ended_by="usr_ada"),
        GrantWithdrawn(subject=alice, client_id="mobile", grant_id=gid),
        SessionsEnded(subject=alice, cause=Cause.ADMINISTRATOR, ended_by="usr_ada"),
    ]
    assert second


@pytest.mark.requirement(22)
async def test_an_account_disabled_and_enabled_each_told_once(any_identity: Core) -> None:
    identity = any_identity
    accounts, alice = identity.parts.accounts, identity.user().id
    for _ in range(2):
        await accounts.disable_account(alice, by="usr_ada")
    for _ in range(2):
        await accounts.enable_account(alice, by="usr_bea")
    assert told(identity.parts.database) == [
        AccountDisabled(subject=alice, disabled_by="usr_ada"),
        AccountEnabled(subject=alice, enabled_by="usr_bea"),
    ]


async def test_nothing_is_told_of_what_was_rolled_back(identity: Core) -> None:
    sid, cookie = opened(identity)

    def work(tx: object) -> None:
        sign_out(tx, identity.parts.issuer, cookie)  # type: ignore[arg-type]
        raise LookupError(sid)

    with pytest.raises(LookupError):
        identity.tx(work)
    assert kinds(told(identity.parts.database)) == ["SignedIn"]


async def test_a_relay_publishes_what_was_told(identity: Core) -> None:
    stream = MemoryStream(STREAM)
    database = identity.parts.database
    relay = Relay(
        database,
        Outbox(storage.outbox, STREAM, now=database.now),
        stream,
        metrics=RelayMetrics(Metrics().registry),
        pace=Pace(poll=0.01),
    )
    opened(identity)
    opened(identity, ADMIN)
    while await relay.publish():
        pass
    assert await stream.last() == 2


@pytest.mark.requirement(83)
async def test_everything_at_once_tells_each_once_and_never_waits_in_a_circle(any_identity: Core) -> None:
    """Sign-ins across accounts, sign-outs, reuse, withdrawals, password changes and revocations, 60 at a time."""
    identity = any_identity
    parts, database = identity.parts, identity.parts.database
    alice = identity.user().id
    issuer, chance = parts.issuer, random.Random(7)
    cookies = [opened(identity, chance.choice([ALICE, ADMIN]))[1] for _ in range(16)]
    spent = []
    for _ in range(8):
        refresh = identity.refresh(identity.grant(client="mobile"))
        identity.tx(lambda tx, refresh=refresh: issuer.rotate_refresh_token(tx, refresh, "mobile"))
        spent.append(refresh)
    gids = [identity.grant(client="other") for _ in range(8)]
    identity.clock.forward(60)
    before = len(told(database))

    def reuse(refresh: str) -> Callable[[], Awaitable[object]]:
        def work(tx: object) -> bool:
            try:
                issuer.rotate_refresh_token(tx, refresh, "mobile")  # type: ignore[arg-type]
            except RefreshReused:
                return True
            except Exception:
                return False
            raise AssertionError

        return lambda: database.run(work)

    def switch(cookie: str, email: str) -> Callable[[], Awaitable[object]]:
        who = proven(identity, email)
        visitor = Visitor("203.0.113.9", "Browser/1")
        return lambda: database.run(lambda tx: open_session(tx, issuer, who, cookie, visitor=visitor))

    things: list[Callable[[], Awaitable[object]]] = []
    for number, cookie in enumerate(cookies):
        things.append(switch(cookie, ADMIN if number % 2 else ALICE))
        things.append(switch(cookie, ALICE if number % 2 else ADMIN))
        things.append(lambda cookie=cookie: database.run(lambda tx: sign_out(tx, issuer, cookie)))
    things += [reuse(refresh) for refresh in spent]
    things += [lambda gid=gid: parts.my_account.withdraw(alice, gid) for gid in gids]
    kept_sid = opened(identity)[0]
    things += [lambda: parts.my_account.end_other_sessions(alice, kept_sid)]
    things += [lambda: parts.administration.revoke("subject", alice, cause="")]
    chance.shuffle(things)
    outcomes = await asyncio.gather(*(thing() for thing in things), return_exceptions=True)
    assert [o for o in outcomes if isinstance(o, Exception) and type(o).__name__ != "SignInOvertaken"] == []

    events = told(database)[before:]
    names = [(e.grant_id) for e in events if isinstance(e, RefreshTokenReused | GrantWithdrawn)]
    assert len(names) == len(set(names))
    ended = [sid for e in events if isinstance(e, SessionsEnded) for sid in e.session_ids]
    assert len(ended) == len(set(ended))
    if database.is_postgresql:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert database.run_sync(lambda tx: tx.execute(query).scalar_one()) == 0
