"""Whatever an attacker does with the channel, in whatever order: nothing is widened, and FRESH is never a lie.

Hypothesis plays the channel (it loses, repeats, reorders, holds back, alters and invents messages, and hides parts of
the log), identity (it revokes, beats, drops what is dead, changes keys and begins new logs) and time.
"""

import asyncio
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rescind import Feed, Freshness
from rescind.messages import Entry, Heartbeat, RevocationMessage, genesis
from rescind.testing import ManualClock, MemoryLog, TokenMint

MAX_STALENESS = 3.0
# Each heartbeat is dated a millisecond after the one before, at least: of many in one moment some are ahead of it.
DATED_AHEAD = 0.05
TAMPER = st.sampled_from(["none", "flip", "cut", "foreign key"])


@dataclass
class Committed:
    """A revocation as identity's database has it."""

    log: str
    pos: int
    name: str
    at: float
    message: bytes = field(repr=False)


class Channel(RuleBasedStateMachine):
    """Everything that can happen between identity and a verifier."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.time = ManualClock()
        self.mint = TokenMint(now=lambda: self.time.wall)
        self.logs = 0
        self.identity = self._new_log()
        self.committed: list[Committed] = []
        self.sent: list[bytes] = []
        self.revoked_kids: list[tuple[str, float]] = []
        self.feed = Feed(
            self.mint.issuer, self.mint.log_keys, Switch(self), Switch(self),
            max_staleness=MAX_STALENESS, clock=self.time.clock,
        )  # fmt: skip

    def _new_log(self) -> MemoryLog:
        self.logs += 1
        log = MemoryLog(self.mint, log=f"log_{self.logs}", now=lambda: self.time.wall)
        log.kids = frozenset({"a", "b"})
        return log

    # Identity

    @rule()
    def revoke(self) -> None:
        name = f"token-{len(self.committed)}"
        message = self.identity.revoke(Entry("token", name))
        self.committed.append(Committed(self.identity.log, self.identity.head, name, self.time.monotonic, message))
        self.sent.append(message)

    @rule()
    def beat(self) -> None:
        self.sent.append(self.identity.heartbeat())

    @precondition(lambda self: self.identity.floor <= self.identity.head)
    @rule()
    def something_died(self) -> None:
        self.identity.floor += 1

    @precondition(lambda self: len(self.identity.kids) > 1)
    @rule()
    def revoke_key(self) -> None:
        kid = max(self.identity.kids)
        self.identity.kids -= {kid}
        self.revoked_kids.append((kid, self.time.monotonic))

    @precondition(lambda self: self.logs < 3)
    @rule()
    def begin_a_new_log(self) -> None:
        kids, carried = self.identity.kids, self._alive()
        self.time.advance(0.01)
        self.identity = self._new_log()
        self.identity.kids = kids
        for name in carried:
            message = self.identity.revoke(Entry("token", name))
            self.committed.append(Committed(self.identity.log, self.identity.head, name, self.time.monotonic, message))

    # The channel

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), tamper=TAMPER)
    def deliver(self, data: st.DataObject, tamper: str) -> None:
        raw = data.draw(st.sampled_from(self.sent))
        self.feed.receive(self._tampered(raw, tamper))

    @precondition(lambda self: self.sent)
    @rule(last=st.integers(1, 6))
    def deliver_the_newest_in_order(self, last: int) -> None:
        for raw in self.sent[-last:]:
            self.feed.receive(raw)

    @rule(positions=st.sets(st.integers(1, 12)))
    def hide(self, positions: set[int]) -> None:
        self.identity.hidden = positions

    @rule(answering=st.booleans())
    def identity_answers(self, answering: bool) -> None:
        self.identity.replaying = answering

    @precondition(lambda self: self.identity.messages)
    @rule(data=st.data(), tamper=TAMPER)
    def tamper_with_the_log(self, data: st.DataObject, tamper: str) -> None:
        # Redis alone: what identity answers comes from its database.
        pos = data.draw(st.sampled_from(sorted(self.identity.messages)))
        self.altered = (self.identity.log, pos, self._tampered(self.identity.messages[pos], tamper))

    altered: tuple[str, int, bytes] = ("", 0, b"")

    def _tampered(self, raw: bytes, tamper: str) -> bytes:
        if tamper == "flip":
            middle = len(raw) // 2
            return raw[:middle] + (b"A" if raw[middle : middle + 1] != b"A" else b"B") + raw[middle + 1 :]
        if tamper == "cut":
            return raw[: len(raw) // 2]
        if tamper == "foreign key":
            log, wall = self.identity, int(self.time.wall * 1000)
            forged: RevocationMessage | Heartbeat = RevocationMessage(
                log.log, log.head + 1, log.head_hash, (Entry("token", "forged"),), "FORGED", wall
            )
            if b"heartbeat" in raw or len(raw) % 2:
                forged = Heartbeat(log.log, 0, genesis(log.log), 1, frozenset({"mallory"}), wall + 500)
            return self.mint.message(forged, key="mallory")
        return raw

    # The verifier, and time

    @rule()
    def catch_up(self) -> None:
        self.loop.run_until_complete(self.feed.catch_up())

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.0, 2.5, 4.0]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    # What must hold

    def _alive(self) -> list[str]:
        return [one.name for one in self.committed if one.log == self.identity.log and one.pos >= self.identity.floor]

    @invariant()
    def fresh_is_never_a_lie(self) -> None:
        if self.feed.freshness() is not Freshness.FRESH:
            return
        since = self.time.monotonic - MAX_STALENESS - DATED_AHEAD
        held = self.feed.knowledge
        # While a new log is being caught up with, the old one may be held: for `max_staleness` at the most.
        for one in self.committed:
            if one.log == held.log and one.at <= since and one.name in self._alive():
                assert held.denylist.matches("token", one.name), one
            if one.log == self.identity.log != held.log:
                assert one.at > since, "an old log counts as fresh"
        for kid, at in self.revoked_kids:
            if at <= since:
                assert kid not in (held.kids or ())

    @invariant()
    def nothing_is_refused_that_was_not_revoked(self) -> None:
        held = self.feed.knowledge
        assert not held.denylist.matches("token", "forged")
        assert held.denylist.counts()["token"] <= len(self.committed)
        assert not held.kids or held.kids <= {"a", "b"}

    @invariant()
    def nothing_is_forgotten_while_it_lives(self) -> None:
        held = self.feed.knowledge
        for one in self.committed:
            if one.log == held.log == self.identity.log and one.pos <= held.position and one.name in self._alive():
                assert held.denylist.matches("token", one.name), one

    def teardown(self) -> None:
        """After healing, it converges."""
        self.identity.hidden, self.identity.replaying, self.altered = set(), True, ("", 0, b"")
        self.time.advance(20)
        self.feed.receive(self.identity.heartbeat())
        for _ in range(2):
            self.loop.run_until_complete(self.feed.catch_up())
        held = self.feed.knowledge
        assert self.feed.freshness() is Freshness.FRESH
        assert (held.log, held.position, held.kids) == (self.identity.log, self.identity.head, self.identity.kids)
        assert all(held.denylist.matches("token", name) for name in self._alive())
        self.loop.close()


class Switch:
    """Identity and Redis as the machine has them at the moment."""

    def __init__(self, machine: Channel) -> None:
        self._machine = machine

    def subscribe(self):  # type: ignore[no-untyped-def]
        raise NotImplementedError("the machine pushes")

    async def read(self, log: str, after: int, limit: int) -> list[bytes]:
        identity = self._machine.identity
        page = await identity.read(log, after, limit)
        altered_log, pos, raw = self._machine.altered
        if log == altered_log:
            return [raw if message == identity.messages[pos] else message for message in page]
        return page

    def replay(self, log: str, after: int, nonce: str):  # type: ignore[no-untyped-def]
        return self._machine.identity.replay(log, after, nonce)


TestChannel = Channel.TestCase
TestChannel.settings = settings(max_examples=80, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
