"""What every verifying service tells about its verifier: readiness and metrics, from a real guard."""

import contextlib

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rescind import BEST_EFFORT, BOUNDED, STRICT, Feed, Guard, InsufficientScope, RevokedToken, Verifier
from rescind.errors import MalformedToken
from rescind.messages import Entry
from rescind.testing import MemoryLog, TokenMint
from servicekit.verification import Verification, VerificationMetrics, staleness_from

AUDIENCE = "urn:rescind:test"


class Watched:
    """A guard whose observer writes to a registry of its own."""

    def __init__(self, *, max_staleness: float = 3600) -> None:
        self.mint = TokenMint()
        self.log = MemoryLog(self.mint)
        self.registry = CollectorRegistry()
        metrics = VerificationMetrics(self.registry)
        self.feed = Feed(
            self.mint.issuer, self.mint.log_keys, self.log, self.log, max_staleness=max_staleness, observer=metrics.feed
        )
        verifier = Verifier(self.mint.issuer, AUDIENCE, self.mint.keys, self.feed)
        self.guard = Guard(verifier, self.feed, observer=metrics.guard)
        metrics.watch(self.guard)

        async def aclose() -> None:
            """There is no connection to close."""

        self.verification = Verification(self.guard, aclose)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def test_syncing_is_not_ready_and_fresh_is() -> None:
    watched = Watched()
    syncing = watched.verification.readiness()
    assert not syncing.ready
    assert syncing.body["freshness"] == "SYNCING"
    assert syncing.body["stale_for"] is None
    assert watched.value("rescind_freshness", state="SYNCING") == 1
    await watched.feed.catch_up()
    fresh = watched.verification.readiness()
    assert fresh.ready
    assert fresh.body == {"freshness": "FRESH", "stale_for": 0.0, "log": "log_test", "position": 0}
    assert watched.value("rescind_freshness", state="FRESH") == 1
    assert watched.value("rescind_freshness", state="SYNCING") == 0


async def test_stale_stays_ready_and_says_so() -> None:
    watched = Watched(max_staleness=0.0)
    await watched.feed.catch_up()
    readiness = watched.verification.readiness()
    assert readiness.ready
    assert readiness.body["freshness"] == "STALE"
    assert watched.value("rescind_freshness", state="STALE") == 1


async def test_verifications_are_counted_by_outcome() -> None:
    watched = Watched()
    await watched.feed.catch_up()
    good = watched.mint.access_token(AUDIENCE, scope="a", jti="one")
    for _ in range(3):
        await watched.guard.authenticate(good)
    with pytest.raises(InsufficientScope):
        await watched.guard.authenticate(good, scopes=frozenset({"b"}))
    with pytest.raises(MalformedToken):
        await watched.guard.authenticate("nonsense")
    watched.feed.receive(watched.log.revoke(Entry("token", "one")))
    with pytest.raises(RevokedToken):
        await watched.guard.authenticate(good)
    counted = {
        outcome: watched.value("rescind_verifications_total", outcome=outcome)
        for outcome in ("ACCEPTED", "INSUFFICIENT_SCOPE", "TOKEN_MALFORMED", "TOKEN_REVOKED")
    }
    assert counted == {"ACCEPTED": 3, "INSUFFICIENT_SCOPE": 1, "TOKEN_MALFORMED": 1, "TOKEN_REVOKED": 1}


async def test_the_denylist_and_propagation_are_measured() -> None:
    watched = Watched()
    await watched.feed.catch_up()
    watched.feed.receive(watched.log.revoke(Entry("token", "one"), Entry("session", "two")))
    watched.feed.receive(watched.log.revoke(Entry("token", "three")))
    assert watched.value("rescind_denylist_entries", kind="token") == 2
    assert watched.value("rescind_denylist_entries", kind="session") == 1
    assert watched.value("rescind_position") == 2
    assert watched.value("rescind_propagation_seconds_count") == 2
    assert watched.value("rescind_propagation_seconds_bucket", le="1.0") == 2
    watched.log.withhold = True
    watched.log.revoke(Entry("token", "not pushed"))
    watched.feed.receive(watched.log.heartbeat())
    assert await watched.feed.catch_up()
    assert watched.value("rescind_catch_ups_total", source="log") == 1
    assert watched.value("rescind_catch_up_messages_total", source="log") == 1
    assert watched.value("rescind_denylist_entries", kind="token") == 3
    watched.feed.receive(b"not a message")
    assert watched.value("rescind_unreadable_messages_total") == 1


async def test_a_scrape_names_no_token_and_no_person() -> None:
    watched = Watched()
    await watched.feed.catch_up()
    await watched.guard.authenticate(watched.mint.access_token(AUDIENCE))
    scraped = generate_latest(watched.registry).decode()
    assert "rescind_stale_seconds 0.0" in scraped
    assert not any(hidden in scraped for hidden in ("usr_", "eyJ", "jti-", "sid_"))


def test_staleness_is_said_in_a_word_or_in_seconds() -> None:
    assert staleness_from("strict") == STRICT
    assert staleness_from("best_effort") == BEST_EFFORT
    assert staleness_from("2.5") == BOUNDED(2.5)
    assert staleness_from(STRICT) is STRICT
    for nonsense in ("", "soon", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match="must be strict, best_effort, or a number"):
            staleness_from(nonsense)


async def test_live_streams_are_counted_and_end_with_the_service() -> None:
    watched = Watched()
    await watched.feed.catch_up()
    async with contextlib.AsyncExitStack() as streams:
        for jti in ("one", "two", "three"):
            await streams.enter_async_context(watched.guard.lease(watched.mint.access_token(AUDIENCE, jti=jti)))
        assert watched.value("rescind_leases") == 3
        watched.feed.receive(watched.log.revoke(Entry("token", "one")))
        assert watched.value("rescind_leases") == 2
        watched.verification.end_streams()
        assert watched.value("rescind_leases") == 0
    reasons = ("TOKEN_REVOKED", "SERVER_STOPPING", "CLOSED")
    ends = [watched.value("rescind_lease_ends_total", reason=reason) for reason in reasons]
    assert ends == [1, 2, None]
