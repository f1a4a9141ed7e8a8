"""What orders does when it may have missed a revocation: reads go on for a token's life, writes for a minute, and
whoever is sent away keeps their token: 503 and UNAVAILABLE, never 401.
"""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orders.app import AUDIENCE
from rescind import Answer, Clock, Feed, Freshness, Guard, NobodyAnswered, Verifier
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint
from support.orders_wires import OrdersUnderTest, Refused, Wire, orders_under_test

ITEMS = [("cup", 1)]


class Lever:
    """The monotonic clock, to be pushed forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Identity:
    """Somebody to ask: down, or with an answer."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.asked = 0

    async def introspect(self, unverified_token: str) -> Answer:
        self.asked += 1
        if self.answer is None:
            raise NobodyAnswered("down")
        return self.answer


class Cut:
    """Orders that was fresh once and hears nothing any more."""

    def __init__(self, world: OrdersUnderTest, lever: Lever, identity: Identity, wire: Wire) -> None:
        self.world = world
        self.lever = lever
        self.identity = identity
        self.wire = wire


@pytest.fixture(params=["http", "grpc"])
async def cut(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cut]:
    mint, lever, identity = TokenMint(), Lever(), Identity()
    log = MemoryLog(mint)
    feed = Feed(mint.issuer, mint.log_keys, log, log, max_staleness=3.0, clock=Clock(time.time, lever))
    verifier = Verifier(mint.issuer, AUDIENCE, mint.keys, feed, clock=Clock(time.time, lever))
    guard = Guard(verifier, feed, introspector=identity)
    url = f"sqlite:///{tmp_path / 'orders.db'}"
    async with orders_under_test(url, mint=mint, log=log, guard=guard) as world:
        yield Cut(world, lever, identity, world.wire(request.param))


async def _sent_away(call: Any) -> None:
    with pytest.raises(Refused) as refused:
        await call
    assert refused.value.reason == "VERIFIER_NOT_FRESH"
    if refused.value.http is None:
        assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    else:
        assert refused.value.http == 503
        assert int(refused.value.headers["retry-after"]) >= 1
        assert "www-authenticate" not in refused.value.headers


async def _fresh(cut: Cut) -> None:
    feed = cut.world.verification.guard.feed
    await feed.catch_up()
    assert feed.freshness() is Freshness.FRESH


async def test_a_service_that_never_heard_anything_lets_nobody_in(cut: Cut) -> None:
    token = cut.world.token()
    await _sent_away(cut.wire.list_own(token))
    await _sent_away(cut.wire.create(token, ITEMS))
    assert not cut.world.service.ready().ready


async def test_writes_end_after_a_minute_and_reads_after_a_tokens_life(cut: Cut) -> None:
    await _fresh(cut)
    token = cut.world.token(life=3600)
    order = await cut.wire.create(token, ITEMS)
    assert cut.identity.asked == 0
    for seconds, may_write in ((30, True), (59, True), (64, False), (899, False)):
        cut.lever.ahead = seconds
        assert await cut.wire.get(token, order["id"]) == order, seconds
        if may_write:
            await cut.wire.create(token, ITEMS)
        else:
            await _sent_away(cut.wire.create(token, ITEMS))
            await _sent_away(cut.wire.cancel(token, order["id"]))
    cut.lever.ahead = 910
    await _sent_away(cut.wire.get(token, order["id"]))
    await _sent_away(cut.wire.list_own(token))
    assert cut.identity.asked > 0


async def test_identitys_word_counts_however_stale_the_service_is(cut: Cut) -> None:
    await _fresh(cut)
    token = cut.world.token(life=3600)
    cut.lever.ahead = 2000
    cut.identity.answer = Answer(active=True)
    await cut.wire.create(token, ITEMS)
    cut.identity.answer = Answer(active=False, reason="TOKEN_REVOKED")
    with pytest.raises(Refused) as refused:
        await cut.wire.list_own(token)
    assert refused.value.reason == "TOKEN_REVOKED"
    assert (refused.value.http, refused.value.code) in ((401, None), (None, grpc.StatusCode.UNAUTHENTICATED))


async def test_what_is_known_to_be_revoked_is_refused_as_such_when_stale(cut: Cut) -> None:
    await _fresh(cut)
    token = cut.world.token(jti="gone")
    cut.world.revoke(Entry("token", "gone"))
    cut.lever.ahead = 30
    with pytest.raises(Refused) as refused:
        await cut.wire.list_own(token)
    assert refused.value.reason == "TOKEN_REVOKED"
    assert cut.identity.asked == 0, "nobody is asked about what is known"


async def test_a_forged_token_makes_nobody_ask(cut: Cut) -> None:
    await _fresh(cut)
    cut.lever.ahead = 30
    good = cut.world.token()
    with pytest.raises(Refused) as refused:
        await cut.wire.list_own(good[:-8] + "AAAAAAAA")
    assert refused.value.reason == "TOKEN_UNTRUSTED"
    assert cut.identity.asked == 0


async def test_stale_stays_in_rotation_and_says_so(cut: Cut) -> None:
    await _fresh(cut)
    cut.lever.ahead = 100
    response = await cut.world.http.client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["freshness"] == "STALE"
    assert 96 < response.json()["stale_for"] < 101
