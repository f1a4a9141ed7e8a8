"""What a Redis that means harm can do to a verifier that has just started: delay it, and nothing else."""

import asyncio
import math

import pytest

from rescind import BOUNDED, STRICT, Feed, Freshness, NotFresh, RevokedToken, Verifier
from rescind.errors import ExpiredToken
from rescind.introspection import settle
from rescind.lease_index import SWEEP
from rescind.messages import Entry
from rescind.testing import ManualClock, MemoryLog, TokenMint, fresh_guard

AUDIENCE = "urn:rescind:orders"


class Slow(MemoryLog):
    """Answers one message at a time, and takes almost as long as may be."""

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        self.time.advance(1.9)
        return (await super().read(log, after, limit))[:1]

    time: ManualClock


async def test_old_messages_in_a_clever_order_hide_no_revocation() -> None:
    """A heartbeat with something alive, what follows it, and a heartbeat of a quiet moment between: all genuine."""
    time = ManualClock()
    mint = TokenMint(now=lambda: time.wall)
    log = MemoryLog(mint, now=lambda: time.wall)
    log.revoke(Entry("session", "sid_other"))
    alive = log.heartbeat()
    time.advance(1000)
    log.floor = 2
    quiet = log.heartbeat()
    time.advance(60)
    token = mint.access_token(AUDIENCE, sid="sid_stolen")
    hidden = [log.revoke(Entry("session", sid)) for sid in ("sid_stolen", "sid_more")]
    time.advance(120)
    feed = Feed(mint.issuer, mint.log_keys, log, log, clock=time.clock)
    for raw in (alive, *hidden, quiet):
        feed.receive(raw)
    assert await feed.catch_up()
    feed.receive(log.heartbeat())
    verifier = Verifier(mint.issuer, AUDIENCE, mint.keys, feed, clock=time.clock)
    assert (verifier.freshness(), feed.knowledge.position) == (Freshness.FRESH, 3)
    with pytest.raises(RevokedToken):
        verifier.verify(token)


async def test_a_log_that_trickles_is_left_and_identity_asked() -> None:
    time = ManualClock()
    mint = TokenMint(now=lambda: time.wall)
    log = Slow(mint, now=lambda: time.wall)
    log.time = time
    for number in range(50):
        log.revoke(Entry("session", f"sid_{number}"))
    feed = Feed(mint.issuer, mint.log_keys, log, log, clock=time.clock)
    feed.receive(log.heartbeat())
    before = time.monotonic
    await feed.catch_up()
    assert feed.freshness() is Freshness.FRESH
    assert len(feed.knowledge.denylist) == 50
    assert time.monotonic - before < 10


async def test_who_never_held_what_is_dead_goes_by_the_same_clock_as_who_did() -> None:
    """All clocks are set back by five minutes: no token that was revoked comes back to life."""
    time = ManualClock()
    mint = TokenMint(now=lambda: time.wall)
    log = MemoryLog(mint, now=lambda: time.wall)
    token = mint.access_token(AUDIENCE, sid="sid_x", life=900)
    held = Feed(mint.issuer, mint.log_keys, log, log, clock=time.clock)
    for sid in ("sid_x", "sid_y"):
        log.revoke(Entry("session", sid))
    await held.catch_up()
    time.advance(970)
    log.floor = 2
    await held.catch_up()
    later = Feed(mint.issuer, mint.log_keys, log, log, clock=time.clock)
    await later.catch_up()
    time.wall -= 300
    log._last_at = 0
    for feed in (held, later):
        time.advance(1.5)
        await feed.catch_up()
        with pytest.raises(ExpiredToken):
            Verifier(mint.issuer, AUDIENCE, mint.keys, feed, clock=time.clock).verify(token)


async def test_a_stream_that_shows_its_token_again_and_again_costs_nothing() -> None:
    mint = TokenMint()
    guard = await fresh_guard(mint, AUDIENCE)
    token, other = mint.access_token(AUDIENCE), mint.access_token(AUDIENCE)
    async with guard.lease(token) as lease:
        for _ in range(500):
            await lease.extend(token)
            assert len(guard.leases._live._expiries) == 1
        for _ in range(500):
            await lease.extend(other)
            await lease.extend(token)
            assert len(guard.leases._live._expiries) <= 2 + SWEEP + 1


@pytest.mark.parametrize("seconds", [math.inf, 1e9])
def test_who_never_knew_everything_takes_no_token_without_an_answer(seconds: float) -> None:
    with pytest.raises(NotFresh):
        settle(None, BOUNDED(seconds), Freshness.SYNCING, math.inf)
    settle(None, BOUNDED(seconds), Freshness.STALE, 100.0)
    with pytest.raises(NotFresh):
        settle(None, STRICT, Freshness.STALE, 100.0)


async def test_streams_of_a_guard_for_another_audience_end_with_its_parent() -> None:
    mint = TokenMint()
    guard = await fresh_guard(mint, AUDIENCE)
    other = guard.for_audience("urn:rescind:session")
    async with guard.running():
        await asyncio.sleep(0)
        assert not other.leases._stopping
    assert other.leases._stopping
