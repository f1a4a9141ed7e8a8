"""The tokens of a session: one access token for each service, got when it is needed, kept until shortly before its end.

A refresh token is good once (identity ends the grant of one that comes back late), so whoever refreshes holds the
session's lock, which holds across replicas; within one process all who want the same token wait for one task. What was
refreshed is saved only over the version that was read (`SessionStore.renew`), so an owner whose lock ran out changes
nothing. A task is not cancelled with the request that began it: a refresh token that was spent must be replaced.

Every token is judged by this process's own guard before it is used, under the staleness policy of the route: a session
whose sid, subject, grant or client was revoked is over, whether or not anybody has deleted it yet. What only a refresh
can heal (a soft revocation, a revoked key) is healed by one refresh, unseen.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from rescind import Guard, Principal, RescindError, RevokedToken, Staleness, TokenRefused
from servicekit.errors import Kind, ServiceError
from session.domain import AUDIENCES, IDENTITY, Held, SealedToken, Session, SessionKey
from session.relying_party import TIMEOUT, GrantEnded, RelyingParty, TokenAnswer, unavailable
from session.sealing import SealBroken, Vault
from session.storage import Renewed, SessionStore

EARLY = 30_000  # ms before its end at which a token is replaced
LOCK_LIFE = 8_000  # ms: longer than identity may take to answer
RECONSIDERED = 15  # times, in a little more than a second; a stream that has to end waits half of that for the word
PATIENCE = 10.0  # seconds: longer than a lock that its owner died with
# Seconds over which the refreshes that one soft revocation causes are spread: a handful of a person, all of a client.
_SPREAD = {"subject": 0.05, "client": 1.0}
_ENDS_THE_SESSION = ("session", "grant", "subject", "client")
_log = structlog.get_logger("session.token_handler")

SessionOver = Callable[[Session, str], Awaitable[None]]  # is told of a session that is over, and why


@dataclass(frozen=True, slots=True)
class Granted:
    """An access token that is good here and now. Never to be shown to a browser."""

    token: str = field(repr=False)
    principal: Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Time and chance, passed in. `idle` is ms without use after which a session is over."""

    now: Callable[[], int]  # ms since the epoch
    idle: int
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    chance: Callable[[], float] = secrets.SystemRandom().random


class TokenHandler:
    """Gets tokens for sessions. `guards` judge them, by audience; `over` is told when it finds a session at its end."""

    def __init__(
        self,
        store: SessionStore,
        vault: Vault,
        relying_party: RelyingParty,
        guards: Mapping[str, Guard],
        timing: Timing,
        *,
        over: SessionOver,
    ) -> None:
        self._store = store
        self._vault = vault
        self._relying_party = relying_party
        self._guards = guards
        self._timing = timing
        self._over = over
        self._flights: dict[tuple[SessionKey, str], asyncio.Task[str]] = {}

    async def aclose(self) -> None:
        """Waits for the refreshes that have begun."""
        await asyncio.gather(*self._flights.values(), return_exceptions=True)

    async def token_for(self, held: Held, audience: str, *, staleness: Staleness, refused: str = "") -> Granted:
        """A token for `audience`, and not the one that was `refused` there.

        Raises:
            ServiceError: SESSION_ENDED (401), IDENTITY_UNAVAILABLE.
            CannotTell: this process may have missed a revocation, for longer than `staleness` allows.
        """
        kept = self._kept(held, audience)
        if kept:
            try:
                granted = await self._judged(kept, audience, staleness)
                if kept != refused:
                    return granted
                await self._reconsidered(kept, audience, staleness)
            except RevokedToken as error:
                if _is_final(error):
                    await self.end(held.session, error.cause)
                await self._timing.pause(_SPREAD.get(error.kind, 0.0) * self._timing.chance())
            except TokenRefused as error:  # another clock, another key: a refresh will tell
                _log.info("a kept token is no good any more", reason=error.reason)
            refused = kept
        fresh = await self._refreshed(held, audience, refused)
        try:
            return await self._judged(fresh, audience, staleness)
        except RevokedToken as error:
            if _is_final(error):
                await self.end(held.session, error.cause)
            raise _unsettled() from error
        except TokenRefused as error:
            raise _unsettled() from error

    async def judge(self, held: Held, *, staleness: Staleness) -> Granted:
        """Whether the session is good here and now, by a token that it holds; identity's first.

        Raises:
            ServiceError, CannotTell: as `token_for`.
        """
        audience = next((one for one in AUDIENCES if self._kept(held, one)), IDENTITY)
        return await self.token_for(held, audience, staleness=staleness)

    async def end(self, session: Session, cause: str) -> NoReturn:
        """Removes a session that was found at its end.

        Raises:
            ServiceError: SESSION_ENDED, always.
        """
        await self._store.remove(session.key)
        await self._over(session, cause)
        raise session_ended(cause)

    def sealed(self, key: SessionKey, audience: str, answer: TokenAnswer) -> SealedToken:
        """An access token as it is kept."""
        return SealedToken(
            self._vault.seal(key, access_purpose(audience), answer.access_token),
            self._timing.now() + answer.expires_in * 1000,
            answer.scope,
        )

    async def end_login_session(self, held: Held) -> None:
        """Signs the person of a session out at identity. Good for any session, however old what is held of it.

        Raises:
            ServiceError: identity does not answer.
            SealBroken: the refresh token cannot be opened.
        """
        await self._relying_party.revoke(self.refresh_token(held), end_session=True)

    def refresh_token(self, held: Held) -> str:
        """The session's refresh token, opened: to end its grant with.

        Raises:
            SealBroken: it cannot be.
        """
        return self._vault.open(held.session.key, "refresh", held.refresh)

    async def _judged(self, token: str, audience: str, staleness: Staleness) -> Granted:
        return Granted(token, await self._guards[audience].authenticate(token, staleness=staleness))

    async def _reconsidered(self, token: str, audience: str, staleness: Staleness) -> None:
        """Judges a token that a service has refused and this process has not: the service may have heard of a
        revocation a moment before us, and that tells why a session is over, where a refresh tells only that it is.

        Raises:
            RevokedToken: so it was.
        """
        for attempt in range(RECONSIDERED):
            await self._timing.pause(min(0.1, 0.01 * 2**attempt))
            await self._judged(token, audience, staleness)

    def _kept(self, held: Held, audience: str, *, early: int = EARLY) -> str:
        """The token that the session holds for `audience`; empty if there is none, or it ends within `early` ms."""
        token = held.tokens.get(audience)
        if token is None or token.expires_at - self._timing.now() <= early:
            return ""
        try:
            return self._vault.open(held.session.key, access_purpose(audience), token.sealed)
        except SealBroken:
            return ""  # its key is gone; the refresh token decides whether the session goes on

    async def _refreshed(self, held: Held, audience: str, refused: str) -> str:
        key = held.session.key
        for last_try in (False, True):
            flight = self._flights.get((key, audience))
            if flight is None:
                flight = asyncio.create_task(self._refresh(key, audience, refused), name="session-refresh")
                self._flights[key, audience] = flight
                flight.add_done_callback(lambda _: self._flights.pop((key, audience), None))
            try:
                token = await asyncio.shield(flight)
            except ServiceError as error:
                spare = self._kept(held, audience, early=0)
                if error.kind is Kind.UNAVAILABLE and spare and spare != refused:
                    return spare  # replaced early; the old one is good for a moment yet
                raise
            if token != refused or last_try:
                return token
        raise AssertionError("unreachable")

    async def _refresh(self, key: SessionKey, audience: str, refused: str) -> str:
        """The token, from whoever refreshed it: this process, another, or one that was there before us."""
        owner = secrets.token_hex(8)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while True:
            async with self._store.lock(key, owner, LOCK_LIFE) as ours:
                held = await self._store.find(key, self._timing.now(), self._timing.idle, use=False)
                if held is None:
                    raise session_ended("SESSION_EXPIRED")
                kept = self._kept(held, audience)
                if kept and kept != refused:
                    return kept
                if ours:
                    return await self._exchange(held, audience)
            if loop.time() > deadline:
                raise unavailable()
            await self._timing.pause(0.02 + 0.04 * self._timing.chance())

    async def _exchange(self, held: Held, audience: str) -> str:
        session = held.session
        try:
            refresh_token = self.refresh_token(held)
        except SealBroken:
            _log.warning("a session's refresh token cannot be opened", session_name=session.name)
            await self.end(session, "SEAL_BROKEN")
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._relying_party.refresh(refresh_token, audience)
        except TimeoutError:
            raise unavailable() from None
        except GrantEnded:
            _log.info("identity has ended a session's grant", session_name=session.name)
            await self.end(session, "GRANT_ENDED")
        gen, cgen = self._generations(session, audience, answer.access_token)
        renewed = Renewed(
            refresh=self._vault.seal(session.key, "refresh", answer.refresh_token),
            audience=audience,
            token=self.sealed(session.key, audience, answer),
            gen=gen,
            cgen=cgen,
            rotated_at=self._timing.now(),
        )
        saved = await self._store.renew(session.key, held.version, renewed)
        # If not: meanwhile it was removed; or our lock ran out, and another replica saved the same successor.
        if not saved and await self._store.find(session.key, self._timing.now(), self._timing.idle, use=False) is None:
            raise session_ended("SIGNED_OUT")
        return answer.access_token

    def _generations(self, session: Session, audience: str, access_token: str) -> tuple[int, int]:
        """Those of the new token. Saving it must not fail, so where it cannot be read yet, the old ones stay."""
        try:
            principal = self._guards[audience].verifier.verify_unless_revoked_later(access_token)
        except RescindError:
            return session.gen, session.cgen
        return principal.gen or session.gen, principal.cgen


def session_ended(cause: str) -> ServiceError:
    """The session is over: the browser shows the way to sign in again. `cause` is UPPER_SNAKE."""
    return ServiceError(
        Kind.UNAUTHENTICATED, "SESSION_ENDED", "You are signed out. Sign in again.", fields={"cause": cause}
    )


def _unsettled() -> ServiceError:
    """A brand-new token that is no good yet, or no more: whoever asks again gets another."""
    return ServiceError(Kind.UNAVAILABLE, "TOKEN_NOT_SETTLED", "Access just changed. Try again.", retry_after=1.0)


def _is_final(error: RevokedToken) -> bool:
    return error.reason == "TOKEN_REVOKED" and error.kind in _ENDS_THE_SESSION


def access_purpose(audience: str) -> str:
    """What an access token is sealed for."""
    return f"access|{audience}"
