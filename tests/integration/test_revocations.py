"""The log in SQL: positions, the chain, what takes one and what does not. On SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select

from identity.domain import Position
from identity.housekeeping import sweep
from identity.keyring import MARGIN_MS
from identity.storage import codes, grants, login_sessions, refresh_tokens, revocations, revoked_tokens
from rescind.messages import REDIS_STREAM_PREFIX, Entry, Heartbeat, RevocationMessage, digest, genesis
from support.identity_core import ADMIN, Core, KeyDrawer, core


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        yield started


def _message(identity: Core, raw: bytes) -> RevocationMessage:
    message = identity.tx(lambda tx: identity.parts.revocations.read(tx, raw))
    assert isinstance(message, RevocationMessage)
    return message


def _assert_whole(identity: Core) -> int:
    """No gap, every message signed, each with the hash of the one before; how many there are."""
    snapshot = identity.tx(identity.parts.revocations.snapshot)
    rows, previous = identity.log(), genesis(snapshot.log)
    assert [row.pos for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        message = _message(identity, row.message)
        assert (message.log, message.pos, message.prev) == (snapshot.log, row.pos, previous)
        assert [Entry(**entry) for entry in row.entries] == list(message.entries)
        previous = digest(row.message)
    assert (snapshot.head, snapshot.hash) == (len(rows), previous)
    return len(rows)


def _revoke(identity: Core, kind: str, target: str, **more: Any) -> Position:
    revoke = getattr(identity.parts.revocations, f"revoke_{kind}")
    return identity.tx(lambda tx: revoke(tx, target, "TEST", **more))


def test_each_kind_takes_a_position_and_refuses_what_it_matches_and_nothing_else(identity: Core) -> None:
    sid, other_sid = identity.sign_in(), identity.sign_in()
    gid, other_gid = identity.grant(sid), identity.grant(other_sid)
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("token", identity.access(gid).claims["jti"], {}),
        ("grant", gid, {}),
        ("session", sid, {}),
    ]
    third = identity.access(identity.grant(sid))
    bystander = identity.access(other_gid)
    for kind, target, more in cases:
        assert _revoke(identity, kind, target, **more).pos > 0
        assert identity.is_living(bystander)
        assert not identity.denied(bystander)
    assert not identity.is_living(third)
    assert identity.denied(third)
    admins = identity.access(identity.grant(identity.sign_in(ADMIN), client="other"))
    assert _revoke(identity, "subject", identity.user().id).pos == 4
    assert not identity.is_living(bystander)
    assert identity.denied(bystander)
    assert identity.is_living(admins)
    assert _revoke(identity, "client", "other").pos == 5
    assert not identity.is_living(admins)
    assert identity.denied(admins)
    assert _assert_whole(identity) == 5


@pytest.mark.parametrize("kind", ["subject", "client"])
def test_a_soft_revocation_ends_tokens_and_nothing_else(identity: Core, kind: str) -> None:
    gid = identity.grant()
    before, refresh = identity.access(gid), identity.refresh(gid)
    assert _revoke(identity, kind, identity.user().id if kind == "subject" else "mobile", soft=True).pos == 1
    assert not identity.is_living(before)
    assert identity.denied(before)
    identity.tx(lambda tx: identity.parts.issuer.rotate_refresh_token(tx, refresh, "mobile"))
    after = identity.access(gid)
    assert identity.is_living(after)
    assert not identity.denied(after)


def test_revoking_what_is_dead_or_unknown_takes_no_position(identity: Core) -> None:
    sid = identity.sign_in()
    gid = identity.grant(sid)
    token = identity.access(gid)
    user = identity.user()
    for kind, target in (("token", token.claims["jti"]), ("grant", gid), ("session", sid), ("subject", user.id)):
        _revoke(identity, kind, target)
        position = _revoke(identity, kind, target)
        assert position.pos == 0
        assert position.log.startswith("log_")
    for kind in ("session", "grant", "subject", "client"):
        assert _revoke(identity, kind, "unknown").pos == 0
    expired = identity.clock.ms - 3_600_000
    assert _revoke(identity, "token", "long-dead", expires_at=expired).pos == 0
    assert _assert_whole(identity) == 3


def test_ending_an_expired_session_takes_no_position_because_no_token_outlived_it(identity: Core) -> None:
    sid = identity.sign_in()
    gid = identity.grant(sid)
    identity.access(gid)
    identity.clock.forward(12 * 3600 + 5 + 61)
    assert _revoke(identity, "session", sid).pos == 0


def test_everything_signed_out_keeps_a_flow_under_way_from_ending_even_when_nothing_was_alive(identity: Core) -> None:
    user = identity.user()
    assert _revoke(identity, "subject", user.id).pos == 0
    assert identity.user().hard_gen == user.hard_gen + 1


def test_an_entry_lives_until_the_last_token_it_can_match_is_dead(identity: Core) -> None:
    _revoke(identity, "token", "a-jti")
    (row,) = identity.log()
    assert row.dead_at == row.at + 900_000 + 5_000 + MARGIN_MS
    read = partial(identity.tx, identity.parts.revocations.snapshot)
    identity.clock.ms = row.dead_at - 1
    assert read().floor == 1
    identity.clock.ms = row.dead_at
    assert read().floor == 2
    _revoke(identity, "token", "another")
    assert read().floor == 2


def test_a_heartbeat_says_what_sql_says_and_repeats_the_nonce(identity: Core) -> None:
    _revoke(identity, "token", "a-jti")

    def signed(tx: Any) -> tuple[Any, bytes]:
        snapshot = identity.parts.revocations.snapshot(tx)
        return snapshot, identity.parts.revocations.heartbeat(tx, snapshot, nonce="once")

    snapshot, raw = identity.tx(signed)
    heartbeat = identity.tx(lambda tx: identity.parts.revocations.read(tx, raw))
    assert heartbeat == Heartbeat(
        snapshot.log, 1, snapshot.hash, 1, identity.tx(identity.parts.keyring.accepted_kids), snapshot.at, "once"
    )


def test_a_transaction_that_rolls_back_leaves_no_gap(identity: Core) -> None:
    def fails(tx: Any) -> None:
        identity.parts.revocations.revoke_token(tx, "never", "TEST")
        raise LookupError

    for number in range(3):
        with pytest.raises(LookupError):
            identity.tx(fails)
        assert _revoke(identity, "token", f"jti-{number}").pos == number + 1
    assert _assert_whole(identity) == 3


@pytest.mark.requirement(83)
async def test_two_identities_and_two_hundred_revocations_at_once(database_url: str, embedded_redis_url: str) -> None:
    """Positions without a gap in SQL, and the same bytes in Redis, though both publish."""
    async with (
        core(database_url, embedded_redis_url) as one,
        core(database_url, embedded_redis_url, clock=one.clock, keys=KeyDrawer(8), seeded=False) as two,
    ):
        running = [asyncio.create_task(each.parts.publisher.run()) for each in (one, two)]
        try:
            taken = await asyncio.gather(
                *(
                    (one, two)[number % 2].parts.administration.revoke("token", f"jti-{number}", cause="TEST")
                    for number in range(200)
                )
            )
            await one.parts.publisher.beat_now()
        finally:
            for task in running:
                task.cancel()
        assert sorted(position.pos for position in taken) == list(range(1, 201))
        assert _assert_whole(one) == 200
        await two.parts.publisher.tick()
        with Redis.from_url(embedded_redis_url) as redis:
            held = redis.xrange(REDIS_STREAM_PREFIX + taken[0].log)
        assert [fields[b"m"] for _, fields in held] == [row.message for row in one.log()]


@pytest.mark.requirement(83)
async def test_replicas_that_start_at_once_on_an_empty_database_make_one_log_and_one_set_of_keys(
    database_url: str,
) -> None:
    async with (
        core(database_url) as one,
        core(database_url, keys=KeyDrawer(8), seeded=False) as two,
        core(database_url, keys=KeyDrawer(16), seeded=False) as three,
    ):
        for _ in range(3):
            await asyncio.gather(*(each.parts.found() for each in (one, two, three)))
        assert len({each.tx(each.parts.revocations.snapshot).log for each in (one, two, three)}) == 1
        for purpose in ("access", "log"):
            keys = one.tx(lambda tx, purpose=purpose: one.parts.keyring.keys(tx, purpose))
            assert sorted(key.status for key in keys) == ["active", "prepared"]


async def test_replay_gives_every_living_message_and_closes_with_a_heartbeat(identity: Core) -> None:
    for number in range(12):
        _revoke(identity, "token", f"jti-{number}")
    log = identity.tx(identity.parts.revocations.snapshot).log
    rows = [row.message for row in identity.log()]

    async def replay(name: str, after: int) -> list[bytes]:
        return [message async for message in identity.parts.replay.messages(name, after, nonce="n")]

    for name, after, begins in ((log, 0, 0), (log, 5, 5), (log, 12, 12), ("log_of_before", 5, 0), ("", 0, 0)):
        *messages, last = await replay(name, after)
        assert messages == rows[begins:]
        closing = identity.tx(lambda tx, last=last: identity.parts.revocations.read(tx, last))
        assert isinstance(closing, Heartbeat)
        assert (closing.log, closing.head, closing.nonce) == (log, 12, "n")
    *messages, last = await replay(log, 4711)  # more than there is: the heartbeat tells
    assert messages == []
    identity.clock.forward(10_000)
    assert len(await replay(log, 0)) == 1


async def test_replay_in_pages_goes_on_to_what_was_committed_meanwhile(
    identity: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity.replay.PAGE", 3)
    for number in range(7):
        _revoke(identity, "token", f"jti-{number}")
    got: list[bytes] = []
    async for message in identity.parts.replay.messages("", 0):
        got.append(message)
        if len(got) == 5:
            _revoke(identity, "token", "meanwhile")
    assert got[:-1] == [row.message for row in identity.log()]
    closing = identity.tx(lambda tx: identity.parts.revocations.read(tx, got[-1]))
    assert isinstance(closing, Heartbeat)
    assert closing.head == 8


def test_housekeeping_takes_what_is_dead_in_batches_and_leaves_what_lives(
    identity: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("identity.housekeeping.BATCH", 2)

    def old(number: int) -> None:
        sid = identity.sign_in()
        identity.refresh(identity.grant(sid))
        _revoke(identity, "token", f"old-{number}")

    for number in range(5):
        old(number)
    identity.clock.forward(30 * 86_400)
    sid = identity.sign_in()
    gid = identity.grant(sid)
    identity.refresh(gid)
    living = identity.access(gid)
    _revoke(identity, "token", "young")
    rounds = 0
    while identity.tx(lambda tx: sweep(tx, identity.clock.ms)):
        rounds += 1
    assert rounds >= 3
    for table in (login_sessions, grants, refresh_tokens, codes, revocations, revoked_tokens):
        assert len(identity.tx(lambda tx, table=table: tx.execute(select(table)).all())) == 1, table.name
    assert identity.is_living(living)
    snapshot = identity.tx(identity.parts.revocations.snapshot)
    assert (snapshot.head, snapshot.floor) == (6, 6)
