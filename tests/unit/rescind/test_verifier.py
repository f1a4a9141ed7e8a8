"""What can change while a token lives is asked at every call; what cannot is remembered."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt
import pytest

from rescind import (
    ExpiredToken,
    Freshness,
    KeysUnavailable,
    Knowledge,
    MalformedToken,
    NotFresh,
    Principal,
    RevokedToken,
    StaticKeySet,
    UnknownKey,
    UntrustedToken,
    Verifier,
)
from rescind.messages import Entry
from rescind.testing import ManualClock, TokenMint, rsa_key

AUDIENCE = "urn:rescind:orders"


@dataclass
class Bench:
    """A verifier whose knowledge and time are in the test's hands."""

    time: ManualClock = field(default_factory=ManualClock)
    knowledge: Knowledge = field(default_factory=Knowledge)
    remembered: int = 100
    empty_keys: bool = False

    def __post_init__(self) -> None:
        self.mint = TokenMint(now=lambda: self.time.wall)
        self.knowledge.kids = frozenset({self.mint.kid})
        self.knowledge.fresh_until = float("inf")
        keys = StaticKeySet({}) if self.empty_keys else self.mint.keys
        self.verifier = Verifier(
            self.mint.issuer, AUDIENCE, keys, self, remembered=self.remembered, clock=self.time.clock
        )

    def token(self, **claims: object) -> str:
        return self.mint.access_token(AUDIENCE, **claims)  # type: ignore[arg-type]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_principal_says_what_the_token_says(bench: Bench) -> None:
    principal = bench.verifier.verify(
        bench.token(scope="orders:read orders:write", sub="usr_bob", sid="s", gid="g", gen=7)
    )
    assert (principal.subject, principal.client_id, principal.audience) == ("usr_bob", "mobile", AUDIENCE)
    assert principal.scopes == {"orders:read", "orders:write"}
    assert (principal.sid, principal.gid, principal.gen, principal.cgen) == ("s", "g", 7, 1)
    assert principal.is_user
    assert principal.expires_at - principal.issued_at == 900


def test_a_grant_that_outlives_sign_out_has_no_session(bench: Bench) -> None:
    assert bench.verifier.verify(bench.token(sid=None)).sid is None


@pytest.mark.requirement(65)
def test_a_service_speaks_for_itself(bench: Bench) -> None:
    principal = bench.verifier.verify(bench.mint.service_token(AUDIENCE, client_id="backoffice"))
    assert (principal.subject, principal.is_user, principal.gid, principal.gen) == ("svc_backoffice", False, None, None)


def test_nobody_else_builds_a_principal() -> None:
    with pytest.raises(TypeError, match="only the verifier"):
        Principal(
            subject="usr_me", client_id="c", audience="a", scopes=frozenset({"everything"}), jti="j", issued_at=0,
            expires_at=0, cgen=0, gid=None, gen=None, auth_time=None, sid=None, ojti=None, _proof=object(),
        )  # fmt: skip


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"])
@pytest.mark.requirement(5)
def test_every_spelling_of_the_type_that_rfc_9068_allows(bench: Bench, typ: str) -> None:
    token = bench.mint.sign(bench.mint.claims(AUDIENCE), headers={"typ": typ})
    assert bench.verifier.verify(token).subject == "usr_alice"


@pytest.mark.requirement(4)
def test_expiry_with_its_leeway_cold_and_warm(bench: Bench) -> None:
    token = bench.token(life=60)
    bench.time.advance(64.9)
    assert bench.verifier.verify(token)
    bench.time.advance(0.2)
    with pytest.raises(ExpiredToken):
        bench.verifier.verify(token)
    with pytest.raises(ExpiredToken):
        Bench(time=bench.time).verifier.verify(token)


@pytest.mark.requirement(4)
def test_a_little_too_early_is_within_the_leeway(bench: Bench) -> None:
    token = bench.token(nbf=int(bench.time.wall) + 4, iat=int(bench.time.wall) + 4)
    assert bench.verifier.verify(token)


ENTRIES = {
    "token": Entry("token", "jti"),
    "session": Entry("session", "sid"),
    "grant": Entry("grant", "gid"),
    "subject": Entry("subject", "usr_alice", gen=4),
    "client": Entry("client", "mobile", gen=2),
}


@pytest.mark.parametrize("kind", list(ENTRIES))
@pytest.mark.requirement(21)
def test_a_remembered_token_is_refused_as_soon_as_an_entry_matches(bench: Bench, kind: str) -> None:
    token = bench.token(jti="jti", sid="sid", gid="gid", gen=3)
    assert bench.verifier.verify(token)
    bench.knowledge.denylist.add(1, ENTRIES[kind], "WHY")
    for _ in range(2):
        with pytest.raises(RevokedToken) as refused:
            bench.verifier.verify(token)
        assert (refused.value.kind, refused.value.cause, refused.value.reason) == (kind, "WHY", "TOKEN_REVOKED")


@pytest.mark.parametrize("entry", [Entry("subject", "usr_alice", gen=4), Entry("client", "mobile", gen=5)])
@pytest.mark.requirement(21)
def test_a_new_generation_is_let_in_in_the_same_second(bench: Bench, entry: Entry) -> None:
    bench.knowledge.denylist.add(1, entry, "PASSWORD_CHANGED")
    assert bench.verifier.verify(bench.token(gen=4, cgen=5))


@pytest.mark.requirement(75)
def test_a_soft_revocation_says_that_a_refresh_will_do(bench: Bench) -> None:
    token = bench.token(gen=3)
    bench.knowledge.denylist.add(1, Entry("subject", "usr_alice", gen=4, soft=True), "ROLES_CHANGED")
    with pytest.raises(RevokedToken) as refused:
        bench.verifier.verify(token)
    assert refused.value.reason == "TOKEN_STALE"


def test_what_was_exchanged_dies_with_what_it_was_exchanged_for(bench: Bench) -> None:
    token = bench.token(ojti="original")
    bench.knowledge.denylist.add(1, Entry("token", "original"), "TEST")
    with pytest.raises(RevokedToken):
        bench.verifier.verify(token)


def test_a_key_that_is_no_longer_accepted_refuses_remembered_and_new_tokens(bench: Bench) -> None:
    token, other = bench.token(), bench.token()
    assert bench.verifier.verify(token)
    bench.knowledge.kids, bench.knowledge.former_kids = frozenset({"next"}), frozenset({bench.mint.kid})
    for one in (token, other):
        with pytest.raises(RevokedToken) as refused:
            bench.verifier.verify(one)
        assert refused.value.kind == "key"


def test_a_key_that_no_heartbeat_has_named_yet_is_not_the_tokens_fault(bench: Bench) -> None:
    bench.knowledge.kids = frozenset({"the one before"})
    with pytest.raises(KeysUnavailable):
        bench.verifier.verify(bench.token())


def test_an_accepted_key_that_we_could_not_fetch_is_not_the_tokens_fault() -> None:
    bench = Bench(empty_keys=True)
    with pytest.raises(KeysUnavailable):
        bench.verifier.verify(bench.token())


def test_without_any_key_nothing_can_be_told_and_with_some_an_unknown_one_is_refused(bench: Bench) -> None:
    bench.knowledge.kids = None  # before the first heartbeat
    assert bench.verifier.verify(bench.token())
    with pytest.raises(UnknownKey):
        bench.verifier.verify(bench.mint.sign(bench.mint.claims(AUDIENCE), headers={"kid": "other"}))
    empty = Bench(empty_keys=True)
    empty.knowledge.kids = None
    with pytest.raises(KeysUnavailable):
        empty.verifier.verify(empty.token())


@pytest.mark.parametrize(("fresh_until", "state"), [(float("-inf"), Freshness.SYNCING), (999.0, Freshness.STALE)])
def test_a_good_token_is_not_accepted_when_something_may_have_been_missed(
    bench: Bench, fresh_until: float, state: Freshness
) -> None:
    token = bench.token()
    bench.knowledge.fresh_until = fresh_until
    assert bench.verifier.freshness() is state
    with pytest.raises(NotFresh):
        bench.verifier.verify(token)
    assert bench.verifier.verify_unless_revoked_later(token).subject == "usr_alice"
    assert bench.verifier.stale_for() == (float("inf") if state is Freshness.SYNCING else 1.0)


def test_a_bad_token_is_refused_as_bad_also_when_not_fresh(bench: Bench) -> None:
    bench.knowledge.fresh_until = float("-inf")
    bench.knowledge.denylist.add(1, Entry("token", "jti"), "TEST")
    with pytest.raises(RevokedToken):
        bench.verifier.verify(bench.token(jti="jti"))


@pytest.mark.parametrize("behind", [0.0, 300.0])
def test_a_clock_that_is_behind_brings_no_forgotten_token_back(bench: Bench, behind: float) -> None:
    token = bench.token(jti="jti", life=60)
    bench.knowledge.denylist.add(1, Entry("token", "jti"), "TEST")
    died = bench.time.wall + 60 + 5 + 60
    bench.time.advance(125 - behind)
    bench.knowledge.at_least = died  # by identity's clock: the heartbeat that let us forget
    bench.knowledge.denylist.drop_below(2)
    for verifier in (bench.verifier, Bench(time=bench.time, knowledge=bench.knowledge).verifier):
        with pytest.raises(ExpiredToken):
            verifier.verify(token)


def test_a_clock_that_is_behind_refuses_no_new_token(bench: Bench) -> None:
    token = bench.token()
    bench.knowledge.at_least = bench.time.wall
    bench.time.advance(-300)
    assert bench.verifier.verify(token)


# Remembering


def test_what_was_remembered_is_bounded_and_what_is_used_is_kept() -> None:
    bench = Bench(remembered=10)
    often = bench.token()
    for _ in range(100):
        bench.verifier.verify(often)
        bench.verifier.verify(bench.token())
    held = bench.verifier._young | bench.verifier._old
    assert len(held) <= 10
    bench.verifier._keys = StaticKeySet({})  # so that only memory can answer
    assert bench.verifier.verify(often)


def test_only_verified_tokens_are_remembered(bench: Bench) -> None:
    forged = bench.mint.sign(bench.mint.claims(AUDIENCE), key="mallory")
    for _ in range(3):
        with pytest.raises(UntrustedToken):
            bench.verifier.verify(forged)
        with pytest.raises(MalformedToken):
            bench.verifier.verify(bench.token() + "=")
    assert not bench.verifier._young


def test_no_token_is_held_in_memory(bench: Bench) -> None:
    token = bench.token()
    bench.verifier.verify(token)
    assert token not in repr(vars(bench.verifier))
    assert all(len(digest) == 32 for digest in bench.verifier._young)


def _processor_seconds(call: Callable[[], object], times: int) -> float:
    """What a call costs at its best, in this thread's own processor time: others on the machine do not count."""
    measured = []
    for _ in range(15):
        began = time.thread_time()
        for _ in range(times):
            call()
        measured.append((time.thread_time() - began) / times)
    return min(measured)


def test_a_warm_verification_costs_a_fraction_of_a_decode_and_does_not_grow_with_the_denylist(bench: Bench) -> None:
    # The figures are in docs/benchmarks.md; this only keeps a change from losing an order of magnitude unseen.
    token, key = bench.token(), rsa_key(bench.mint.kid).public_key()
    options = {"verify_exp": False, "verify_iat": False, "verify_nbf": False}
    decode = _processor_seconds(
        lambda: jwt.decode(token, key, algorithms=["RS256"], audience=AUDIENCE, options=options), 40
    )
    empty = _processor_seconds(lambda: bench.verifier.verify(token), 1000)
    for pos in range(1, 50_001):
        bench.knowledge.denylist.add(pos, Entry("token", f"other-{pos}"), "TEST")
    full = _processor_seconds(lambda: bench.verifier.verify(token), 1000)
    assert empty < decode / 10
    assert full < empty * 3
