"""Sign-outs that identity did not hear of when they were asked for: kept, and finished as soon as it answers.

A browser is signed out here whatever identity says. What would end its login session there is kept in Redis until then:
the sealed refresh token and the `sid`, so many at most, and no longer than the session would have lived. Every replica
looks for what is due; one at a time is given it (`SessionStore.claim_pending`), also when the one that had it died.

Identity is told with the refresh token, which need not be fresh, and telling it spends nothing: an answer that is lost
is asked for again, whenever that is (decision record 33).
"""

import asyncio
import contextlib

import structlog

from servicekit.errors import ServiceError
from session.domain import Held, PendingSignOut
from session.relying_party import RelyingParty
from session.sealing import SealBroken, Vault
from session.storage import SessionStore
from session.token_handler import Timing

MOST = 10_000  # sign-outs that are kept; beyond that a person is told to sign out at identity themselves
EVERY = 5.0  # seconds between looks for what is due, and before the second attempt
SLOWEST = 60_000  # ms between attempts at one, in the end
_ATTEMPT = 15.0  # seconds
_LEASE = 30_000  # ms: longer than an attempt may take
_log = structlog.get_logger("session.pending")


class PendingSignOuts:
    """Keeps them, and finishes them. Run `run` in the background. `every` is seconds."""

    def __init__(
        self,
        store: SessionStore,
        vault: Vault,
        relying_party: RelyingParty,
        timing: Timing,
        *,
        every: float = EVERY,
        most: int = MOST,
    ) -> None:
        self._store = store
        self._vault = vault
        self._relying_party = relying_party
        self._timing = timing
        self._every = every
        self._most = most

    async def keep(self, held: Held) -> bool:
        """Has the sign-out of a session, which is removed already, finished later; False if it will not be."""
        session = held.session
        now = self._timing.now()
        pending = PendingSignOut(session.key, session.sid, held.refresh, now, session.expires_at)
        try:
            kept = await self._store.keep_pending(pending, now, self._most)
        except ServiceError:
            kept = False
        _log.warning("signed out here only", session_name=session.name, finished_later=kept)
        return kept

    async def run(self) -> None:
        """Finishes what is due until cancelled."""
        while True:
            with contextlib.suppress(ServiceError):  # the store does not answer: later
                while await self.finish_one():
                    pass
            await self._timing.pause(self._every)

    async def finish_one(self) -> bool:
        """Tells identity of one that is due. False when there is none, or when identity does not answer."""
        now = self._timing.now()
        pending = await self._store.claim_pending(now, _LEASE)
        if pending is None:
            return False
        if now < pending.expires_at:
            try:
                async with asyncio.timeout(_ATTEMPT):
                    await self._tell(pending)
            except SealBroken:
                _log.warning("a sign-out cannot be finished: its refresh token cannot be opened")
            except (ServiceError, TimeoutError):
                wait = max(round(self._every * 1000), min((now - pending.since) // 4, SLOWEST))
                await self._store.put_off_pending(pending, now + wait)
                return False
            else:
                _log.info("a sign-out was finished", after_ms=now - pending.since)
        await self._store.drop_pending(pending.key)
        return True

    async def _tell(self, pending: PendingSignOut) -> None:
        refresh_token = self._vault.open(pending.key, "refresh", pending.refresh)
        # Meanwhile the browser may have signed in again, by the same login session: that is wanted, the old grant not.
        again = await self._store.of("sid", pending.sid, self._timing.now(), self._timing.idle)
        await self._relying_party.revoke(refresh_token, end_session=not again)
