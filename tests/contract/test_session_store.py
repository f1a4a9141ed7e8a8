"""What every store of sessions must do: the embedded Valkey, and Redis in a container."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from servicekit.errors import ServiceError
from session.domain import Attempt, Held, PendingSignOut, SealedToken, Session, SessionKey, SessionName, key_of
from session.storage import RedisSessions, Renewed

NOW, IDLE, LIFE = 1_800_000_000_000, 60_000, 600_000


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisSessions]:
    client: Redis = Redis.from_url(redis_url, decode_responses=True)
    yield RedisSessions(client)
    await client.aclose()


def held(secret: str = "a", **changes: object) -> Held:
    session = Session(
        key=key_of(secret), name=SessionName(f"ses_{secret}"), subject="usr_alice", sid=f"sid_{secret}",
        gid=f"gid_{secret}", client_id="web", gen=3, cgen=1, display_name="Alice", email="alice@example.com",
        device="Firefox", address="", authenticated_at=NOW, created_at=NOW, last_used_at=NOW, expires_at=NOW + LIFE,
    )  # fmt: skip
    token = SealedToken("sealed", NOW + 900_000, "openid")
    return Held(replace(session, **changes), "refresh", 0, NOW, {"urn:rescind:identity": token})  # type: ignore[arg-type]


async def test_what_is_created_is_found_as_it_was(store: RedisSessions) -> None:
    await store.create(held(), NOW, IDLE)
    assert await store.find(key_of("a"), NOW, IDLE, use=False) == held()
    assert await store.find(key_of("b"), NOW, IDLE, use=False) is None


async def test_only_use_keeps_it_alive(store: RedisSessions) -> None:
    await store.create(held(), NOW, IDLE)
    assert await store.find(key_of("a"), NOW + IDLE - 1, IDLE, use=False) is not None
    assert await store.find(key_of("a"), NOW + IDLE - 1, IDLE, use=True) is not None
    assert await store.find(key_of("a"), NOW + 2 * IDLE - 2, IDLE, use=False) is not None
    assert await store.find(key_of("a"), NOW + 2 * IDLE - 1, IDLE, use=True) is None
    assert await store.find(key_of("a"), NOW, IDLE, use=True) is None


async def test_no_use_moves_the_absolute_end(store: RedisSessions) -> None:
    await store.create(held(), NOW, LIFE * 2)
    assert await store.find(key_of("a"), NOW + LIFE - 1, LIFE * 2, use=True) is not None
    assert await store.find(key_of("a"), NOW + LIFE, LIFE * 2, use=True) is None


async def test_a_new_session_takes_the_place_of_the_old_in_one_step(store: RedisSessions) -> None:
    await store.create(held("a"), NOW, IDLE)
    await store.create(held("b"), NOW, IDLE, replaces=key_of("a"))
    assert await store.find(key_of("a"), NOW, IDLE, use=True) is None
    assert [session.name for session in await store.of("subject", "usr_alice", NOW, IDLE)] == ["ses_b"]


async def test_a_sign_in_is_taken_once_however_many_ask(store: RedisSessions) -> None:
    attempt = Attempt("s", "n", verifier="v", return_to="/", replaces=None, subject=None, begun_at=NOW)
    await store.begin(key_of("x"), attempt, 60_000)
    taken = await asyncio.gather(*(store.take(key_of("x")) for _ in range(20)))
    assert [one for one in taken if one] == [attempt]


async def test_of_many_refreshes_over_one_version_one_is_saved(store: RedisSessions) -> None:
    await store.create(held(), NOW, IDLE)
    token = SealedToken("new", NOW + 1, "orders:read")
    renewed = [Renewed(f"r{number}", "urn:rescind:orders", token, 4, 2, NOW + 5) for number in range(20)]
    saved = await asyncio.gather(*(store.renew(key_of("a"), 0, one) for one in renewed))
    assert sum(saved) == 1
    now = await store.find(key_of("a"), NOW, IDLE, use=False)
    assert now is not None
    assert (now.refresh, now.version, now.rotated_at) == (renewed[saved.index(True)].refresh, 1, NOW + 5)
    assert (now.session.gen, now.session.cgen, now.tokens["urn:rescind:orders"]) == (4, 2, token)


async def test_a_refresh_does_not_bring_back_what_was_removed(store: RedisSessions) -> None:
    await store.create(held(), NOW, IDLE)
    await store.remove(key_of("a"))
    token = SealedToken("new", NOW + 1, "")
    assert not await store.renew(key_of("a"), 0, Renewed("r", "urn:rescind:orders", token, 4, 2, NOW))
    assert not await store.add_token(key_of("a"), "urn:rescind:orders", token)
    assert await store.find(key_of("a"), NOW, IDLE, use=True) is None


async def test_of_many_who_remove_it_one_is_told_what_was_there(store: RedisSessions) -> None:
    await store.create(held(), NOW, IDLE)
    removed = await asyncio.gather(*(store.remove(key_of("a")) for _ in range(20)))
    assert [one for one in removed if one] == [held()]


async def test_sessions_are_found_by_what_can_be_revoked(store: RedisSessions) -> None:
    await store.create(held("a"), NOW, IDLE)
    await store.create(held("b", last_used_at=NOW + 5), NOW, IDLE)
    await store.create(held("c", subject="usr_bob", client_id="other"), NOW, IDLE)

    async def names(kind: str, id_: str) -> list[str]:
        return [session.name for session in await store.of(kind, id_, NOW + 5, IDLE)]  # type: ignore[arg-type]

    assert await names("subject", "usr_alice") == ["ses_b", "ses_a"]
    assert await names("sid", "sid_c") == ["ses_c"]
    assert await names("gid", "gid_a") == ["ses_a"]
    assert await names("client", "web") == ["ses_b", "ses_a"]
    await store.remove(key_of("b"))
    assert await names("subject", "usr_alice") == ["ses_a"]
    assert await store.of("subject", "usr_alice", NOW + LIFE, IDLE) == []


def pending(key: str = "a", **changes: object) -> PendingSignOut:
    return replace(PendingSignOut(key_of(key), f"sid_{key}", "sealed", NOW, NOW + LIFE), **changes)  # type: ignore[arg-type]


async def test_a_pending_sign_out_is_given_to_one_of_many_and_again_when_they_died(store: RedisSessions) -> None:
    assert await store.keep_pending(pending(), NOW, 2)
    claimed = await asyncio.gather(*(store.claim_pending(NOW, 30_000) for _ in range(20)))
    assert [one for one in claimed if one] == [pending()]
    assert await store.claim_pending(NOW + 29_999, 30_000) is None
    assert await store.claim_pending(NOW + 30_000, 30_000) == pending()
    newer = pending(refresh="newer")
    await store.put_off_pending(newer, NOW + 5)
    assert await store.claim_pending(NOW + 4, 1) is None
    assert await store.claim_pending(NOW + 5, 1) == newer
    await store.drop_pending(key_of("a"))
    await store.put_off_pending(newer, NOW)  # of who comes too late: nothing is kept again
    assert await store.claim_pending(NOW + LIFE, 1) is None


async def test_pending_sign_outs_are_bounded_and_found_longest_due_first(store: RedisSessions) -> None:
    assert await store.keep_pending(pending("b"), NOW + 1, 2)
    assert await store.keep_pending(pending("a"), NOW, 2)
    assert not await store.keep_pending(pending("c"), NOW, 2)
    assert [await store.claim_pending(NOW + 1, 100) for _ in range(3)] == [pending("a"), pending("b"), None]


async def test_one_owner_has_the_lock_and_lets_go_of_its_own_alone(store: RedisSessions) -> None:
    key = SessionKey("k")
    async with store.lock(key, "one", 60_000) as first, store.lock(key, "two", 60_000) as second:
        assert (first, second) == (True, False)
    async with store.lock(key, "three", 60_000) as third:
        assert third
        async with store.lock(key, "four", 60_000):
            pass
        async with store.lock(key, "five", 60_000) as fifth:
            assert not fifth


async def test_what_may_be_seen_once_is_new_to_one(store: RedisSessions) -> None:
    assert sum(await asyncio.gather(*(store.first_time("jti", 60_000) for _ in range(20)))) == 1


async def test_a_store_that_does_not_answer_says_nothing_about_anybody() -> None:
    client: Redis = Redis.from_url("redis://127.0.0.1:1", retry=Retry(NoBackoff(), 0))
    store = RedisSessions(client)
    with pytest.raises(ServiceError) as refused:
        await store.find(key_of("a"), NOW, IDLE, use=True)
    assert refused.value.reason == "SESSIONS_UNAVAILABLE"
    await client.aclose()
