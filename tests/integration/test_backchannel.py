"""Back-channel logout: whoever ends a session, the clients that were signed in to by it hear of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, update

from identity.backchannel import (
    CLAIM_MS,
    KEPT_MS,
    LOGOUT_EVENT,
    TOKEN_LIFE,
    LogoutSender,
    may_be_sent_to,
)
from identity.domain import Cause, Credentials, UserId
from identity.oauth.end_session import judge
from identity.oauth.requests import Parameters
from identity.signin import open_session, sign_out
from identity.storage import clients, logout_deliveries
from support.identity_core import ADMIN, ISSUER, PASSWORD, Core, core
from support.logout_receiver import Receiver, receiver

OFFLINE = "openid offline_access orders:read"


@pytest.fixture
async def told() -> AsyncIterator[Receiver]:
    async with receiver() as listening:
        yield listening


@pytest.fixture
async def identity(tmp_path: Path, told: Receiver) -> AsyncIterator[Core]:
    async with core(f"sqlite:///{tmp_path / 'identity.db'}") as started:
        register(started, "mobile", told.uri)
        yield started


@pytest.fixture
async def any_identity(database_url: str, told: Receiver) -> AsyncIterator[Core]:
    """On SQLite, and on PostgreSQL."""
    async with core(database_url) as started:
        register(started, "mobile", told.uri)
        yield started


def register(identity: Core, client_id: str, uri: str | None) -> None:
    identity.tx(
        lambda tx: tx.execute(update(clients).where(clients.c.id == client_id).values(backchannel_logout_uri=uri))
    )


def end(identity: Core, sid: str) -> None:
    identity.tx(lambda tx: identity.parts.revocations.revoke_session(tx, sid, Cause.SIGNED_OUT))


def owed(identity: Core) -> list[Any]:
    return list(identity.tx(lambda tx: tx.execute(select(logout_deliveries)).all()))


@asynccontextmanager
async def sending(identity: Core, **options: Any) -> AsyncIterator[tuple[Callable[[], Any], list[str]]]:
    """A replica's sender, and the outcomes of what it has sent."""
    outcomes: list[str] = []
    options = {"http_hosts": (), "deadline": 5.0} | options
    sender = LogoutSender(identity.parts.database, identity.parts.logouts._queue, outcome=outcomes.append, **options)
    async with httpx2.AsyncClient(follow_redirects=False, trust_env=False) as http:
        yield (lambda: sender.send_due(http)), outcomes


@pytest.mark.requirement(47)
@pytest.mark.requirement(21)
async def test_a_client_hears_of_the_session_by_a_token_that_is_as_it_must_be(
    any_identity: Core, told: Receiver
) -> None:
    identity = any_identity
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    async with sending(identity) as (send, outcomes):
        assert await send() is False
    assert outcomes == ["taken"]
    assert owed(identity) == []
    (claims,) = identity.tx(lambda tx: told.claims(identity.parts.keyring, tx))
    now = identity.clock.ms // 1000
    assert {name: claims[name] for name in claims if name != "jti"} == {
        "iss": ISSUER,
        "sub": identity.user().id,
        "aud": "mobile",
        "iat": now,
        "exp": now + TOKEN_LIFE,
        "sid": sid,
        "events": {LOGOUT_EVENT: {}},
    }
    assert len(str(claims["jti"])) == 22
    assert "POST /backchannel-logout" in told.heads[0]
    assert "application/x-www-form-urlencoded" in told.heads[0].lower()


@pytest.mark.requirement(5)
@pytest.mark.requirement(14)
async def test_a_logout_token_is_neither_an_access_token_nor_an_id_token(identity: Core, told: Receiver) -> None:
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    async with sending(identity) as (send, _):
        await send()
    (token,) = told.tokens
    parts = identity.parts
    assert identity.tx(lambda tx: parts.introspector.issued(tx, token)) is None
    other = identity.sign_in()

    def hinted(tx: Any) -> bool:
        session = next(s for s in [parts.issuer.session_of(tx, "none")] if s is None)
        asked = Parameters([("id_token_hint", token)])
        return judge(tx, parts.keyring, ISSUER, asked, session).client is not None

    assert not identity.tx(hinted)
    assert other


async def other_person(identity: Core, _sid: str, cookie: str) -> None:
    admin = identity.user(ADMIN)
    proven = Credentials(UserId(admin.id), admin.password_hash, admin.hard_gen, disabled=False)
    identity.tx(lambda tx: open_session(tx, identity.parts.issuer, proven, cookie))


async def signed_out(identity: Core, _sid: str, cookie: str) -> None:
    identity.tx(lambda tx: sign_out(tx, identity.parts.issuer, cookie))


async def others(identity: Core, _sid: str, _cookie: str) -> None:
    await identity.parts.my_account.end_other_sessions(identity.user().id, identity.sign_in())


async def everywhere(identity: Core, _sid: str, _cookie: str) -> None:
    await identity.parts.my_account.end_everything(identity.user().id)


async def password(identity: Core, _sid: str, _cookie: str) -> None:
    await identity.parts.accounts.change_password(identity.user().id, PASSWORD, "another-good-passphrase")


async def disabled(identity: Core, _sid: str, _cookie: str) -> None:
    await identity.parts.accounts.disable_account(identity.user().id)


async def administrator(identity: Core, sid: str, _cookie: str) -> None:
    await identity.parts.administration.revoke("session", sid, cause="")


@pytest.mark.requirement(22)
@pytest.mark.requirement(23)
@pytest.mark.parametrize("way", [other_person, signed_out, others, everywhere, password, disabled, administrator])
async def test_whatever_ends_the_session_is_told_once_to_each_client(
    any_identity: Core, told: Receiver, way: Callable[[Core, str, str], Any]
) -> None:
    identity = any_identity
    register(identity, "other", told.uri + "/other")
    alice = identity.user()
    opened = identity.tx(lambda tx: identity.parts.issuer.open_session(tx, alice.id, hard_gen_seen=alice.hard_gen))
    for client in ("mobile", "mobile", "other"):
        identity.grant(opened.sid, client=client)
    identity.grant(opened.sid, client="other", scope=OFFLINE)
    await way(identity, opened.sid, opened.cookie)
    await way(identity, opened.sid, opened.cookie) if way in (signed_out, administrator) else None
    async with sending(identity) as (send, _):
        await send()
    claims = identity.tx(lambda tx: told.claims(identity.parts.keyring, tx))
    assert sorted((c["aud"], c["sub"], c["sid"]) for c in claims) == [
        ("mobile", alice.id, opened.sid),
        ("other", alice.id, opened.sid),
    ]


async def test_a_client_that_keeps_its_access_hears_of_the_sign_out_all_the_same(
    identity: Core, told: Receiver
) -> None:
    sid = identity.sign_in()
    lasting = identity.access(identity.grant(sid, scope=OFFLINE))
    end(identity, sid)
    async with sending(identity) as (send, outcomes):
        await send()
    assert outcomes == ["taken"]
    assert identity.is_living(lasting)
    assert told.tokens


async def test_who_is_owed_nothing(identity: Core) -> None:
    sid = identity.sign_in()
    identity.grant(sid, client="other")  # has no endpoint
    gone = identity.grant(sid)
    await identity.parts.my_account.withdraw(identity.user().id, gone)  # no session ended
    assert owed(identity) == []
    end(identity, sid)  # and what ended before it has nothing to hear of
    assert owed(identity) == []


async def test_what_is_rolled_back_is_owed_to_nobody(identity: Core) -> None:
    sid = identity.sign_in()
    identity.grant(sid)

    def work(tx: Any) -> None:
        identity.parts.revocations.revoke_session(tx, sid, Cause.SIGNED_OUT)
        raise LookupError

    with pytest.raises(LookupError):
        identity.tx(work)
    assert owed(identity) == []


async def test_it_is_sent_again_until_it_is_taken_each_time_as_a_new_token(identity: Core, told: Receiver) -> None:
    told.answers = [500, 400, 302, 204]
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    async with sending(identity) as (send, outcomes):
        for pause in (1, 2, 4):
            await send()
            identity.clock.forward(pause - 0.5)
            await send()  # not due yet
            identity.clock.forward(0.5)
        await send()
        await send()
    assert outcomes == ["refused", "refused", "refused", "taken"]
    claims = identity.tx(lambda tx: told.claims(identity.parts.keyring, tx))
    assert len({claim["jti"] for claim in claims}) == 4
    assert claims[-1]["iat"] == identity.clock.ms // 1000
    assert not any("/elsewhere" in head for head in told.heads)  # no redirect is followed


async def test_a_client_that_does_not_answer_holds_nobody_up_for_long(identity: Core, told: Receiver) -> None:
    told.answers = [0]
    register(identity, "other", "http://127.0.0.1:1/closed")
    sid = identity.sign_in()
    identity.grant(sid)
    identity.grant(sid, client="other")
    end(identity, sid)
    async with sending(identity, deadline=0.2) as (send, outcomes), asyncio.timeout(20):
        await send()
    assert outcomes == ["unanswered", "unanswered"]
    assert [row.attempts for row in owed(identity)] == [1, 1]


async def test_a_day_is_enough_and_a_disabled_client_hears_nothing(identity: Core, told: Receiver) -> None:
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    identity.clock.forward(KEPT_MS / 1000 + 1)
    async with sending(identity) as (send, outcomes):
        await send()
        second = identity.sign_in()
        identity.grant(second)
        end(identity, second)
        await identity.parts.accounts.disable_client("mobile")
        await send()
    assert outcomes == ["dropped", "dropped"]
    assert owed(identity) == []
    assert told.tokens == []


@pytest.mark.requirement(63)
@pytest.mark.parametrize(
    ("uri", "allowed"),
    [
        ("https://client.example/logout", True),
        ("http://localhost:8000/auth/backchannel-logout", True),
        ("http://127.0.0.1/x", True),
        ("http://[::1]:8000/x", True),
        ("http://session:8000/x", True),
        ("http://client.example/logout", False),
        ("http://localhost.evil.example/", False),
        ("http://127.0.0.1@evil.example/", False),
        ("https://user:secret@client.example/", False),
        ("https://client.example/#fragment", False),
        ("ftp://localhost/", False),
        ("file:///etc/passwd", False),
        ("https:///nothing", False),
        ("http://[::1/", False),
        ("", False),
    ],
)
def test_where_logout_tokens_may_go(uri: str, allowed: bool) -> None:
    assert may_be_sent_to(uri, {"session"}) is allowed


async def test_a_registered_address_that_is_not_safe_gets_nothing(identity: Core) -> None:
    register(identity, "mobile", "http://client.example/logout")
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    async with sending(identity) as (send, outcomes):
        await send()
    assert outcomes == ["dropped"]


async def test_what_a_dead_replica_had_claimed_is_sent_by_another(any_identity: Core, told: Receiver) -> None:
    identity = any_identity
    sid = identity.sign_in()
    identity.grant(sid)
    end(identity, sid)
    assert len(identity.tx(identity.parts.logouts._queue.claim)) == 1  # and it is never heard of again
    async with sending(identity) as (send, outcomes):
        await send()
        assert outcomes == []
        identity.clock.forward(CLAIM_MS / 1000)
        await send()
    assert outcomes == ["taken"]
    assert told.tokens


async def test_several_replicas_send_each_token_once(any_identity: Core, told: Receiver) -> None:
    identity = any_identity
    for _ in range(40):
        sid = identity.sign_in()
        identity.grant(sid)
    await identity.parts.my_account.end_everything(identity.user().id)

    async def replica() -> list[str]:
        async with sending(identity) as (send, outcomes):
            while await send():
                pass
            return outcomes

    sent = await asyncio.gather(*(replica() for _ in range(4)))
    assert sum(map(len, sent)) >= 40 - 15  # a replica that finds others at it goes home; the next poll takes the rest
    async with sending(identity) as (send, _):
        while owed(identity):
            await send()
    claims = identity.tx(lambda tx: told.claims(identity.parts.keyring, tx))
    assert len(claims) == len({claim["sid"] for claim in claims}) == 40


async def test_it_runs_by_itself_and_is_woken(identity: Core, told: Receiver) -> None:
    task = asyncio.create_task(identity.parts.logouts.run())
    try:
        sid = identity.sign_in()
        identity.grant(sid)
        await identity.parts.my_account.end_session(identity.user().id, sid)
        async with asyncio.timeout(20):
            await told.came.wait()
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(told.tokens) == 1
