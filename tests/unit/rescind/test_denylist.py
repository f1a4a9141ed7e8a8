"""The denylist against a model so naive that it is obviously right, and its promises about size and speed."""

import gc
import sys
import tracemalloc
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rescind.denylist import Denylist, TokenKeys, keys_of
from rescind.messages import ENTRY_KINDS, Entry
from rescind.testing import TokenMint, principal_of

IDS = st.sampled_from(["a", "b", "c", "d"])
GENERATIONS = st.integers(0, 4)


@dataclass(frozen=True)
class Bearer:
    """What a token says, as far as revocations go."""

    jti: str
    sid: str | None
    gid: str | None
    sub: str
    gen: int | None
    client: str
    cgen: int
    ojti: str | None = None
    prior: tuple[tuple[str, int, str | None], ...] = ()  # client, cgen, ojti of each who passed the token on

    @property
    def keys(self) -> TokenKeys:
        claims: dict[str, Any] = {"jti": self.jti, "client_id": self.client, "cgen": self.cgen, "sub": self.sub}
        claims["ojti"] = self.ojti
        if self.prior and self.ojti is not None:
            claims["act"] = act_of(self.client, self.prior)
        if self.gen is None:
            claims |= {"sub": f"svc_{self.client}", "gid": None, "gen": None, "sid": None, "auth_time": None}
        else:
            claims |= {"gid": self.gid, "gen": self.gen, "sid": self.sid}
        return keys_of(principal_of(TokenMint(), claims))


def act_of(client: str, prior: tuple[tuple[str, int, str | None], ...]) -> dict[str, Any]:
    """The claim (RFC 8693 section 4.1) of a token that `client` got, passed on by `prior`, the latest first."""
    link: dict[str, Any] = {}
    for name, cgen, ojti in reversed(prior):
        inner = {"act": link} if link else {}
        link = {"sub": f"svc_{name}", "cgen": cgen, **({} if ojti is None else {"ojti": ojti}), **inner}
    return {"sub": f"svc_{client}", "act": link}


PRIOR = st.lists(st.tuples(IDS, GENERATIONS, st.none() | IDS), max_size=4).map(tuple)
PEOPLE = st.builds(
    Bearer,
    jti=IDS,
    ojti=st.none() | IDS,
    prior=PRIOR,
    sid=st.none() | IDS,
    gid=IDS,
    sub=IDS.map("usr_{}".format),
    gen=GENERATIONS,
    client=IDS,
    cgen=GENERATIONS,
)
SERVICES = st.builds(
    Bearer, jti=IDS, sid=st.none(), gid=st.none(), sub=st.just(""), gen=st.none(), client=IDS, cgen=GENERATIONS
)
ENTRIES = st.builds(
    Entry, kind=st.sampled_from(["token", "session", "grant"]), id=IDS
) | st.builds(Entry, kind=st.sampled_from(["subject", "client"]), id=IDS, gen=GENERATIONS, soft=st.booleans()).map(
    lambda entry: Entry("subject", f"usr_{entry.id}", entry.gen, entry.soft) if entry.kind == "subject" else entry
)  # fmt: skip


@dataclass
class Naive:
    """A list of everything that was ever added, looked through from end to end."""

    entries: list[tuple[int, Entry]] = field(default_factory=list)

    def refuses(self, bearer: Bearer, floor: int = 0) -> bool:
        return any(pos >= floor and self._matches(entry, bearer) for pos, entry in self.entries)

    def stale(self, bearer: Bearer) -> bool:
        """Whether nothing but soft entries matches."""
        return not any(not entry.soft and self._matches(entry, bearer) for _, entry in self.entries)

    @staticmethod
    def _matches(entry: Entry, bearer: Bearer) -> bool:
        prior = bearer.prior if bearer.ojti is not None else ()
        match entry.kind:
            case "token":
                return entry.id in (bearer.jti, bearer.ojti, *(ojti for _, _, ojti in prior))
            case "session":
                return entry.id == bearer.sid
            case "grant":
                return entry.id == bearer.gid
            case "subject":
                return bearer.gen is not None and entry.id == bearer.sub and bearer.gen < entry.gen
            case "client":
                acting = ((bearer.client, bearer.cgen, None), *prior)
                return any(entry.id == client and cgen < entry.gen for client, cgen, _ in acting)


class AgainstTheModel(RuleBasedStateMachine):
    """Entries come in order, out of order and again; the floor rises; any token may be asked about, and again."""

    def __init__(self) -> None:
        super().__init__()
        self.few = patch("rescind.denylist._NEWEST", 3)  # are new, so that many are not
        self.few.start()
        self.denylist = Denylist()
        self.clean_at: dict[Bearer, int] = {}
        self.model = Naive()
        self.floor = 1
        self.head = 0

    @rule(entries=st.lists(ENTRIES, max_size=3))
    def add(self, entries: list[Entry]) -> None:
        self.head += 1
        for entry in entries:
            self.denylist.add(self.head, entry, "TEST")
            self.model.entries.append((self.head, entry))

    @rule(entry=ENTRIES, ahead=st.integers(1, 5))
    def add_ahead(self, entry: Entry, ahead: int) -> None:
        self.denylist.add(self.head + ahead, entry, "TEST")
        self.model.entries.append((self.head + ahead, entry))

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def add_again(self, data: st.DataObject) -> None:
        pos, entry = data.draw(st.sampled_from(self.model.entries))
        if pos >= self.floor:
            self.denylist.add(pos, entry, "TEST")

    @rule(by=st.integers(0, 4))
    def drop(self, by: int) -> None:
        self.floor = min(self.floor + by, self.head + 1)
        held = len(self.denylist)
        assert self.denylist.drop_below(self.floor) is (len(self.denylist) < held)

    @rule(bearer=PEOPLE | SERVICES)
    def ask(self, bearer: Bearer) -> None:
        refusal = self.denylist.match(bearer.keys, self.clean_at.get(bearer, 0))
        if refusal is None:
            self.clean_at[bearer] = self.denylist.version
        if self.model.refuses(bearer, self.floor):
            assert refusal is not None
            if self.floor == 1:
                assert (refusal.reason == "TOKEN_STALE") is self.model.stale(bearer)
        elif refusal is not None:
            assert self.model.refuses(bearer)  # what is below the floor may outlive it a little, and nothing else

    @precondition(lambda self: self.clean_at)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        self.ask(data.draw(st.sampled_from(list(self.clean_at))))

    @invariant()
    def all_that_lives_is_held(self) -> None:
        for pos, entry in self.model.entries:
            if pos >= self.floor:
                assert self.denylist.matches(entry.kind, entry.id)

    @invariant()
    def counts_are_true(self) -> None:
        counts = self.denylist.counts()
        assert sum(counts.values()) == len(self.denylist)
        assert all(count >= 0 for count in counts.values())

    def teardown(self) -> None:
        self.few.stop()
        self.denylist.drop_below(self.head + 100)
        assert len(self.denylist) == 0
        assert self.denylist.counts() == dict.fromkeys(ENTRY_KINDS, 0)
        kept = (self.denylist._order, self.denylist._again, self.denylist._generation_order)
        assert not any((*self.denylist._marks.values(), *kept))


TestAgainstTheModel = AgainstTheModel.TestCase
TestAgainstTheModel.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.permutations([Entry("subject", "usr_a", gen, soft) for gen, soft in ((2, False), (3, True), (5, True))]))
def test_generations_only_rise_in_whatever_order_they_come(entries: list[Entry]) -> None:
    denylist = Denylist()
    for pos, entry in enumerate(entries, start=1):
        denylist.add(pos, entry, "TEST")

    def reason(gen: int) -> str | None:
        refusal = denylist.match(Bearer("j", None, "g", "usr_a", gen, "c", 0).keys)
        return refusal and refusal.reason

    assert [reason(gen) for gen in range(6)] == [*2 * ["TOKEN_REVOKED"], *3 * ["TOKEN_STALE"], None]


def test_what_came_again_stays_until_its_latest_position_is_dead() -> None:
    for entry in (Entry("token", "a"), Entry("subject", "usr_a", gen=2)):
        denylist = Denylist()
        denylist.add(1, entry, "FIRST")
        denylist.add(3, entry, "AGAIN")
        assert denylist.drop_below(2) is False
        assert denylist.matches(entry.kind, entry.id)
        assert denylist.drop_below(4) is True
        assert not denylist.matches(entry.kind, entry.id)


def test_a_position_that_comes_late_and_twice_takes_no_later_entry_with_it() -> None:
    denylist, entry = Denylist(), Entry("grant", "gid")
    for pos in (1, 2):
        denylist.add(pos, entry, "TEST")
    denylist.add(3, Entry("session", "sid"), "TEST")
    denylist.add(2, entry, "TEST")
    denylist.drop_below(3)
    denylist.add(4, entry, "TEST")
    denylist.drop_below(4)
    assert denylist.matches("grant", "gid")
    denylist.drop_below(5)
    assert not denylist.matches("grant", "gid")


def test_a_hard_refusal_is_told_before_a_soft_one() -> None:
    denylist = Denylist()
    denylist.add(1, Entry("subject", "usr_a", gen=1, soft=True), "ROLES_CHANGED")
    denylist.add(2, Entry("client", "c", gen=1), "DISABLED")
    refusal = denylist.match(Bearer("j", None, "g", "usr_a", 0, "c", 0).keys)
    assert refusal is not None
    assert (refusal.kind, refusal.cause, refusal.reason) == ("client", "DISABLED", "TOKEN_REVOKED")


def test_a_refusal_tells_what_was_revoked_and_why() -> None:
    denylist = Denylist()
    denylist.add(1, Entry("session", "sid"), "SIGNED_OUT")
    refusal = denylist.match(Bearer("j", "sid", "g", "usr_a", 1, "c", 0).keys)
    assert refusal is not None
    assert (refusal.kind, refusal.cause) == ("session", "SIGNED_OUT")


def test_ids_of_one_kind_are_not_ids_of_another() -> None:
    denylist = Denylist()
    denylist.add(1, Entry("token", "same"), "TEST")
    assert denylist.match(Bearer("j", "same", "same", "usr_same", 1, "same", 1).keys) is None


@pytest.mark.parametrize(
    "entry", [Entry("session", "s"), Entry("subject", "usr_a", gen=2), Entry("client", "c", gen=2)]
)
@pytest.mark.parametrize("before", [0, 1, 1023, 1024, 1025, 5000])
def test_who_was_clean_is_refused_for_what_came_since_however_much_came_before_and_behind(
    entry: Entry, before: int
) -> None:
    denylist, keys = Denylist(), Bearer("j", "s", "g", "usr_a", 1, "c", 1).keys
    for pos in range(1, before + 1):
        denylist.add(pos, Entry("token", str(pos)), "TEST")
        assert denylist.match(keys, denylist.version - 1) is None
    clean_at = denylist.version
    denylist.add(before + 1, entry, "TEST")
    for pos in range(before + 2, before + 3000):
        assert denylist.match(keys, clean_at) is not None
        denylist.add(pos, Entry("token", str(pos)), "TEST")


def test_who_was_clean_is_not_looked_up_among_what_was_held_then() -> None:
    denylist, keys = _filled(5000), Bearer("j", "s", "g", "usr_a", 1, "c", 1).keys
    clean_at = denylist.version
    denylist.add(5001, Entry("token", "new"), "TEST")
    denylist._marks.clear()  # nothing can be looked up any more
    assert denylist.match(keys, clean_at) is None
    with pytest.raises(ValueError, match="unpack"):
        denylist.match(keys, clean_at - 2000)


def test_what_was_clean_in_one_denylist_is_not_so_in_another() -> None:
    one, other = Denylist(), Denylist()
    keys = Bearer("j", "s", "g", "usr_a", 1, "c", 1).keys
    for pos in range(1, 100):
        clean = one.version, other.version
        entries = Entry("session", "s"), Entry("token", str(pos))
        for denylist, entry in zip((one, other) if pos % 2 else (other, one), entries, strict=True):
            denylist.add(pos, entry, "TEST")
        for denylist, clean_at in zip((one, other), reversed(clean), strict=True):
            if pos > 1:
                assert denylist.match(keys, clean_at) is not None


def _filled(entries: int) -> Denylist:
    denylist = Denylist()
    for pos in range(1, entries + 1):
        denylist.add(pos, Entry("token", f"{pos:022d}"), "REFRESH_REUSED")
    return denylist


def _bytes_of(denylist: Denylist) -> int:
    """What its containers and keys take; CPython hands out memory in steps of 16."""
    size = sum(sys.getsizeof(marks) for marks in denylist._marks.values())
    for segment in denylist._order:
        size += sys.getsizeof(segment) + sys.getsizeof(segment.positions) + sys.getsizeof(segment.keys)
        size += sum(-(-sys.getsizeof(key) // 16) * 16 for key in segment.keys)
    return size


def test_a_million_entries_cost_at_most_120_bytes_each() -> None:
    assert _bytes_of(_filled(1_000_000)) / 1_000_000 <= 120


def test_that_way_of_counting_bytes_agrees_with_the_allocator() -> None:
    gc.collect()
    tracemalloc.start()
    denylist = _filled(30_000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert abs(held / _bytes_of(denylist) - 1) < 0.05


def test_memory_is_given_back_after_a_storm() -> None:
    denylist = _filled(100_000)
    held = _bytes_of(denylist)
    denylist.drop_below(99_991)
    assert len(denylist) == 10
    assert _bytes_of(denylist) < held / 50


def test_dropping_looks_at_what_it_drops_and_at_nothing_else() -> None:
    denylist = Denylist()
    for pos in range(1, 5001):
        denylist.add(pos, Entry("token", str(pos)), "TEST")
    for floor in range(1, 5001):
        denylist.drop_below(floor)
    assert len(denylist) == 1
    assert len(denylist._order) == 1
