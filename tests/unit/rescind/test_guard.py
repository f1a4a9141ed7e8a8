"""What a route does when something may have been missed: each policy, each state, each way identity can answer."""

import asyncio
import json
from collections.abc import Callable

import pytest

from rescind import (
    BEST_EFFORT,
    BOUNDED,
    STRICT,
    Answer,
    Feed,
    FeedObserver,
    Freshness,
    Guard,
    InsufficientScope,
    KeysUnavailable,
    NotFresh,
    RemoteKeySet,
    RevokedToken,
    Staleness,
    TokenRefused,
    UnknownKey,
    Verifier,
)
from rescind.messages import Entry
from rescind.testing import ManualClock, MemoryLog, TokenMint, fresh_guard, jwk_of, rsa_key
from support.gate import AUDIENCE, Gate, broken, no, nobody, yes

REFUSED = NotFresh.reason


@pytest.mark.parametrize("staleness", [STRICT, BOUNDED(60), BEST_EFFORT])
async def test_fresh_asks_nobody(staleness: Staleness) -> None:
    gate = await Gate().fresh()
    assert await gate.knock(staleness) == "ACCEPTED"
    assert gate.identity.asked == 0


@pytest.mark.parametrize(
    ("staleness", "stale_for", "answer", "outcome", "asked"),
    [
        (STRICT, 0.1, yes, REFUSED, 0),
        (STRICT, 0.1, nobody, REFUSED, 0),
        (BOUNDED(60), 0.1, yes, "ACCEPTED_BY_ISSUER", 1),
        (BOUNDED(60), 500, yes, "ACCEPTED_BY_ISSUER", 1),
        (BOUNDED(60), 0.1, no, "TOKEN_REVOKED", 1),
        (BOUNDED(60), 0.1, nobody, "ACCEPTED_STALE", 1),
        (BOUNDED(60), 59.9, nobody, "ACCEPTED_STALE", 1),
        (BOUNDED(60), 60.1, nobody, REFUSED, 1),
        (BOUNDED(0), 0.1, nobody, REFUSED, 1),
        (BOUNDED(60), 0.1, broken, REFUSED, 1),
        (BEST_EFFORT, 0.1, yes, "ACCEPTED_STALE", 0),
        (BEST_EFFORT, 3000, no, "ACCEPTED_STALE", 0),
    ],
)
async def test_stale(
    staleness: Staleness, stale_for: float, answer: Callable[[], Answer], outcome: str, asked: int
) -> None:
    gate = await Gate().stale_for(stale_for)
    gate.identity.answer = answer
    assert await gate.knock(staleness) == outcome
    assert gate.identity.asked == asked


@pytest.mark.parametrize(
    ("staleness", "answer", "outcome"),
    [
        (STRICT, yes, REFUSED),
        (BOUNDED(1e9), yes, "ACCEPTED_BY_ISSUER"),
        (BOUNDED(1e9), no, "TOKEN_REVOKED"),
        (BOUNDED(1e9), nobody, REFUSED),
        (BOUNDED(1e9), broken, REFUSED),
        (BEST_EFFORT, yes, "ACCEPTED_BY_ISSUER"),
        (BEST_EFFORT, nobody, REFUSED),
    ],
)
async def test_syncing_without_an_answer_always_refuses(
    staleness: Staleness, answer: Callable[[], Answer], outcome: str
) -> None:
    gate = Gate()
    gate.identity.answer = answer
    assert await gate.knock(staleness) == outcome


async def test_the_signature_is_checked_before_anybody_is_asked() -> None:
    gate = await Gate().stale_for(1)
    forged = gate.mint.sign(gate.mint.claims(AUDIENCE), key="mallory")
    assert await gate.knock(BOUNDED(60), forged) == "TOKEN_UNTRUSTED"
    assert gate.identity.asked == 0


async def test_an_answer_is_good_for_one_request() -> None:
    gate = await Gate().stale_for(1)
    for _ in range(3):
        await gate.knock(BOUNDED(60))
    assert gate.identity.asked == 3
    gate.identity.answer = no
    assert await gate.knock(BOUNDED(60)) == "TOKEN_REVOKED"


async def test_a_refusal_without_a_reason_is_a_refusal() -> None:
    gate = await Gate().stale_for(1)
    gate.identity.answer = lambda: Answer(active=False)
    with pytest.raises(TokenRefused) as refused:
        await gate.guard.authenticate(gate.token, staleness=BOUNDED(60))
    assert refused.value.reason == "TOKEN_REFUSED"


async def test_what_is_learned_while_asking_counts() -> None:
    gate = await Gate().stale_for(1)
    gate.identity.gate = asyncio.Event()
    asking = asyncio.create_task(gate.guard.authenticate(gate.token, staleness=BOUNDED(60)))
    await asyncio.sleep(0)
    gate.feed.receive(gate.log.revoke(Entry("token", "jti"), cause="SIGNED_OUT"))
    gate.identity.gate.set()
    with pytest.raises(RevokedToken):
        await asking


async def test_an_identity_that_hangs_is_nobody_after_a_deadline_however_many_wait() -> None:
    gate = await Gate().stale_for(1)
    gate.identity.gate = asyncio.Event()
    async with asyncio.timeout(5):
        outcomes = await asyncio.gather(*(gate.knock(BOUNDED(60)) for _ in range(200)))
    assert set(outcomes) == {"ACCEPTED_STALE"}
    assert gate.identity.most_under_way == 64  # the rest waited in line, for as long as the others


async def test_without_anybody_to_ask_nobody_answers() -> None:
    gate = await Gate().stale_for(1)
    gate.guard = Guard(gate.guard.verifier, gate.feed, observer=gate.outcomes)
    assert await gate.knock(BOUNDED(60)) == "ACCEPTED_STALE"
    assert await gate.knock(BOUNDED(0)) == REFUSED


async def test_a_scope_that_lacks_is_said_before_anybody_is_asked() -> None:
    for gate in (await Gate().fresh(), await Gate().stale_for(1)):
        with pytest.raises(InsufficientScope) as refused:
            await gate.guard.authenticate(gate.token, scopes=frozenset({"read", "write"}), staleness=BOUNDED(60))
        assert refused.value.required == {"read", "write"}
        assert gate.outcomes.all == ["INSUFFICIENT_SCOPE"]
        assert gate.identity.asked == 0


async def test_refusing_for_staleness_is_never_a_refusal_of_the_token() -> None:
    gate = await Gate().stale_for(1)
    with pytest.raises(NotFresh) as refused:
        await gate.guard.authenticate(gate.token)
    assert not isinstance(refused.value, TokenRefused)
    assert refused.value.retry_after > 0


# Keys that are not there yet


async def test_an_unknown_kid_is_worth_one_fetch_and_a_second_look() -> None:
    mint, published, fetches = TokenMint(), ["access-0"], 0

    async def fetch() -> bytes:
        nonlocal fetches
        fetches += 1
        return json.dumps({"keys": [jwk_of(rsa_key(kid), kid) for kid in published]}).encode()

    time = ManualClock()
    keys = RemoteKeySet(fetch, monotonic=lambda: time.monotonic)
    feed = Feed(mint.issuer, mint.log_keys, MemoryLog(mint))
    feed.knowledge.fresh_until = float("inf")
    guard = Guard(Verifier(mint.issuer, AUDIENCE, keys, feed), feed, keys=[keys])
    token = mint.access_token(AUDIENCE)
    with pytest.raises(UnknownKey):
        await guard.authenticate(token)
    published.append(mint.kid)
    with pytest.raises(UnknownKey):
        await guard.authenticate(token)  # within the cooldown
    time.advance(1)
    assert (await guard.authenticate(token)).subject == "usr_alice"
    assert fetches == 2


async def test_without_keys_nothing_can_be_told() -> None:
    async def fetch() -> bytes:
        raise ConnectionError("nobody there")

    mint = TokenMint()
    keys = RemoteKeySet(fetch)
    feed = Feed(mint.issuer, mint.log_keys, MemoryLog(mint))
    guard = Guard(Verifier(mint.issuer, AUDIENCE, keys, feed), feed, keys=[keys])
    with pytest.raises(KeysUnavailable):
        await guard.authenticate(mint.access_token(AUDIENCE), staleness=BEST_EFFORT)


# Running


class Signal(FeedObserver):
    """Lets a test wait for what a running guard does."""

    def __init__(self) -> None:
        self.applied_once = asyncio.Event()
        self.renewals: asyncio.Queue[int] = asyncio.Queue()

    def applied(self, log: str, position: int, delay: float) -> None:
        self.applied_once.set()

    def renewed(self, log: str, position: int) -> None:
        self.renewals.put_nowait(position)


def _running(source: MemoryLog | None, replay: MemoryLog | None, signal: Signal) -> Guard:
    mint = (source or replay).mint  # type: ignore[union-attr]
    feed = Feed(mint.issuer, mint.log_keys, source, replay, observer=signal, silence=0.2)
    return Guard(Verifier(mint.issuer, AUDIENCE, mint.keys, feed), feed)


async def test_a_running_guard_hears_of_a_revocation_and_stops_when_told() -> None:
    log, signal = MemoryLog(TokenMint()), Signal()
    guard = _running(log, log, signal)
    token = log.mint.access_token(AUDIENCE, sid="sid")
    async with asyncio.timeout(10), guard.running():
        await signal.renewals.get()
        assert await guard.authenticate(token)
        log.revoke(Entry("session", "sid"))
        await signal.applied_once.wait()
        with pytest.raises(RevokedToken):
            await guard.authenticate(token)
    assert {task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("rescind")} == set()


async def test_silence_on_the_channel_is_asked_away_again_and_again() -> None:
    log, signal = MemoryLog(TokenMint()), Signal()
    guard = _running(None, log, signal)
    async with asyncio.timeout(10), guard.running():
        await signal.renewals.get()
        log.revoke(Entry("session", "sid"))
        assert [await signal.renewals.get() for _ in range(2)] == [1, 1]
    assert guard.feed.freshness() is Freshness.FRESH


async def test_a_channel_that_breaks_is_listened_to_again() -> None:
    class Breaking(MemoryLog):
        connections = 0

        async def subscribe(self):  # type: ignore[no-untyped-def,override]
            self.connections += 1
            yield None
            yield self.heartbeat()
            if self.connections < 3:
                raise ConnectionResetError("broken")
            await asyncio.Event().wait()

    log, signal = Breaking(TokenMint()), Signal()
    guard = _running(log, None, signal)
    async with asyncio.timeout(10), guard.running():
        for _ in range(3):
            await signal.renewals.get()
    assert log.connections == 3


async def test_a_guard_for_tests_knows_everything_at_once() -> None:
    mint = TokenMint()
    log = MemoryLog(mint)
    guard = await fresh_guard(mint, AUDIENCE, log)
    assert await guard.authenticate(mint.access_token(AUDIENCE))
    log.revoke(Entry("client", "mobile", gen=2))
    await guard.feed.catch_up()
    assert guard.feed.freshness() is Freshness.FRESH


def test_a_bound_is_not_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        BOUNDED(-1)
