"""Whatever happens to streams, tokens, revocations and time, in whatever order: no stream outlives its token.

Hypothesis opens, extends and closes leases, revokes, changes keys and lets time pass. After each step, what lives is
compared with what a request with the same token would be told; and what has ended, had to.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rescind import Lease, OtherHolder, RescindError
from rescind.lease_index import SWEEP
from rescind.messages import Entry
from support.gate import AUDIENCE, Gate

PEOPLE = st.integers(0, 2)
LIVES = st.sampled_from([10, 60, 900])
KIDS = ("access-1", "b")  # that of TokenMint, and another


@dataclass
class Stream:
    """One lease, and the block that holds it open."""

    person: int
    token: str
    lease: Lease
    block: contextlib.AsyncExitStack
    had_to_end: bool = False


class Streams(RuleBasedStateMachine):
    """A guard that is always fresh, and everything that can end a stream."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = Gate()
        self.gate.log.kids = frozenset(KIDS)
        self.streams: list[Stream] = []
        self.tokens = 0
        self.gens: dict[str, int] = {}
        self._run(self.gate.fresh())

    def _run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def _token(self, person: int, life: int) -> str:
        self.tokens += 1
        mint = self.gate.mint
        claims = mint.claims(
            AUDIENCE, life=life, jti=f"jti-{self.tokens}",
            sub=f"usr_{person}", sid=f"sid_{person}", gid=f"gid_{person}", client_id="web",
            gen=self.gens.get(f"usr_{person}", 0), cgen=self.gens.get("web", 0),
        )  # fmt: skip
        return mint.sign(claims)

    @rule(person=PEOPLE, life=LIVES)
    def open(self, person: int, life: int) -> None:
        async def opened() -> None:
            token, block = self._token(person, life), contextlib.AsyncExitStack()
            try:
                lease = await block.enter_async_context(self.gate.guard.lease(token))
            except RescindError:
                # What is revoked by its id stays so; of a generation the next token has the newest.
                assert self._refused(token)
            else:
                self.streams.append(Stream(person, token, lease, block))

        self._run(opened())

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), person=PEOPLE, life=LIVES)
    def extend(self, data: Any, person: int, life: int) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        token = self._token(person, life)

        async def extended() -> None:
            ended_before, refused = stream.lease.error, False
            try:
                await stream.lease.extend(token)
            except OtherHolder:
                assert person != stream.person
            except RescindError as error:
                refused = error is ended_before or self._refused(token)
                if not refused:
                    raise
            else:
                assert person == stream.person
                stream.token = token

        self._run(extended())

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close(self, data: Any) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.streams.remove(stream)
        self._run(stream.block.aclose())

    @rule(person=PEOPLE, kind=st.sampled_from(["session", "grant", "subject", "client"]), soft=st.booleans())
    def revoke(self, person: int, kind: Any, soft: bool) -> None:
        name = {"session": f"sid_{person}", "grant": f"gid_{person}", "subject": f"usr_{person}", "client": "web"}[kind]
        if kind in ("subject", "client"):
            self.gens[name] = self.gens.get(name, 0) + 1
        self._run(self._arrives(Entry(kind, name, gen=self.gens.get(name, 0), soft=soft)))

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def revoke_token(self, data: Any) -> None:
        number = data.draw(st.integers(1, self.tokens))
        self._run(self._arrives(Entry("token", f"jti-{number}")))

    async def _arrives(self, entry: Entry) -> None:
        self.gate.revoke(entry)

    @rule(seconds=st.sampled_from([0.5, 5.0, 55.0]), back=st.booleans())
    def time_passes(self, seconds: float, back: bool) -> None:
        async def passes() -> None:
            self.gate.time.advance(seconds)
            self.gate.feed.receive(self.gate.log.beat())
            if back:
                self.gate.time.wall -= 1  # a clock that is set: identity's word of the time stands
            self.gate.guard.leases.expire()

        self._run(passes())

    @rule(both=st.booleans())
    def accept_keys(self, both: bool) -> None:
        async def goes() -> None:
            self.gate.time.advance(0.01)
            self.gate.log.kids = frozenset(KIDS) if both else frozenset(KIDS[1:])
            self.gate.feed.receive(self.gate.log.beat())
            self.gate.guard.leases.expire()

        self._run(goes())

    def _refused(self, token: str) -> bool:
        try:
            self.gate.guard.verifier.verify_unless_revoked_later(token)
        except RescindError:
            return True
        return False

    @invariant()
    def no_stream_outlives_its_token_and_none_ends_before(self) -> None:
        for stream in getattr(self, "streams", ()):
            refused = self._refused(stream.token)
            stream.had_to_end = stream.had_to_end or refused
            assert (stream.lease.error is not None) == stream.had_to_end, stream

    @invariant()
    def nothing_is_left_behind(self) -> None:
        if hasattr(self, "streams"):
            leases = self.gate.guard.leases
            live = [stream.lease for stream in self.streams if stream.lease.error is None]
            assert set(leases._live.all()) == set(live)
            assert set().union(*leases._live._places.values(), *leases._live._kids.values()) == set(live)
            assert len(leases._live._expiries) <= 2 * len(live) + SWEEP

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for stream in self.streams:
                self._run(stream.block.aclose())
            self.loop.close()


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=60, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
