"""Sessions as people use them: who is this, which are mine, end that one.

What is ended here is signed out at identity as well, on the same person's word, so its tokens are refused everywhere.
Identity is asked first: a sign-out that only this service knew of would leave the way back in open. The exception is a
browser's own sign-out: it is out whatever identity says, and what that did not hear of is finished later (`pending`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from contracts.identity.v1 import my_account_pb2 as my
from rescind import Staleness
from servicekit.errors import Kind, ServiceError
from session.domain import Held, Session, SessionKey, is_name, is_secret, key_of
from session.pending import PendingSignOuts
from session.sealing import SealBroken
from session.storage import SessionStore
from session.token_handler import Granted, SessionOver, Timing, TokenHandler, session_ended
from session.upstream import Upstream, reauthentication_required

_log = structlog.get_logger("session.service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """How stale the answer may be that a session is good: to read, to write, to administer."""

    read: Staleness
    write: Staleness
    admin: Staleness


@dataclass(frozen=True, slots=True)
class Overview:
    """A person's browser sessions here, last used first, and what identity says of their login sessions and apps."""

    sessions: Sequence[Session]
    account: my.ListMySessionsResponse


class Sessions:
    """The use cases. `reauthenticate_after` is ms after which a person must sign in again before what is dangerous."""

    def __init__(
        self,
        store: SessionStore,
        tokens: TokenHandler,
        upstream: Upstream,
        timing: Timing,
        policies: Policies,
        pending: PendingSignOuts,
        *,
        reauthenticate_after: int,
        over: SessionOver,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._upstream = upstream
        self._timing = timing
        self.policies = policies
        self._pending = pending
        self._reauthenticate_after = reauthenticate_after
        self._over = over

    @property
    def idle(self) -> int:
        """Milliseconds without use after which a session is over."""
        return self._timing.idle

    async def current(self, secret: str | None, *, use: bool = True) -> Held:
        """The session that a cookie presents.

        Raises:
            ServiceError: NOT_SIGNED_IN (there is no cookie, or not of this shape), SESSION_ENDED.
        """
        if not secret or not is_secret(secret):
            raise not_signed_in()
        held = await self._store.find(key_of(secret), self._timing.now(), self._timing.idle, use=use)
        if held is None:
            raise session_ended("SESSION_UNKNOWN")
        return held

    async def peek(self, key: SessionKey) -> Held | None:
        """A session, without counting as its use."""
        return await self._store.find(key, self._timing.now(), self._timing.idle, use=False)

    async def judged(self, held: Held, staleness: Staleness) -> Granted:
        """Returns if the session is good here and now.

        Raises:
            ServiceError: SESSION_ENDED, IDENTITY_UNAVAILABLE.
            CannotTell: this process may have missed a revocation, for longer than `staleness` allows.
        """
        return await self._tokens.judge(held, staleness=staleness)

    def require_recent_sign_in(self, held: Held) -> None:
        """Returns if the person signed in lately (ASVS 7.5.1).

        Raises:
            ServiceError: REAUTHENTICATION_REQUIRED.
        """
        if self._timing.now() - held.session.authenticated_at > self._reauthenticate_after:
            raise reauthentication_required()

    async def overview(self, held: Held) -> Overview:
        """Everything of the person's."""
        account = await self._upstream.my_sessions(held, self.policies.read)
        return Overview(await self.of_person(held.session.subject), account)

    async def of_person(self, subject: str) -> Sequence[Session]:
        """The person's living sessions, last used first."""
        return await self._store.of("subject", subject, self._timing.now(), self._timing.idle)

    async def end(self, held: Held, id_: str) -> bool:
        """Ends one of the person's sessions, by its name or by the `sid` of a login session; whether it was this one.

        Raises:
            ServiceError: SESSION_NOT_FOUND, also when it is somebody else's.
        """
        mine = await self.of_person(held.session.subject)
        if is_name(id_):
            wanted = next((session for session in mine if session.name == id_), None)
            if wanted is None:
                raise not_found()
            if wanted.key == held.session.key:
                await self.sign_out(held)
                return True
            await self._end_at_identity(held, wanted)
            await self._forget([wanted], "SIGNED_OUT")
            return False
        account = await self._upstream.my_sessions(held, self.policies.write)
        if id_ == held.session.sid or id_ not in {login.sid for login in account.sessions}:
            raise not_found()
        await self._upstream.end_my_sessions(held, my.EndMySessionsRequest(sid=id_), self.policies.write)
        await self._forget([session for session in mine if session.sid == id_], "SIGNED_OUT")
        return False

    async def end_others(self, held: Held) -> int:
        """Ends all of the person's sessions but this one; how many there were here."""
        session = held.session
        # Looked for first: the revocation may be here, and have removed them, before identity's answer is.
        others = [one for one in await self.of_person(session.subject) if one.key != session.key]
        request = my.EndMySessionsRequest(others_than=session.sid)
        await self._upstream.end_my_sessions(held, request, self.policies.write)
        for one in others:
            if one.sid == session.sid:  # the same login session, so identity has left it alone
                await self._upstream.withdraw_my_grant(held, one.gid, self.policies.write)
        await self._forget(others, "SIGNED_OUT_ELSEWHERE")
        return len(others)

    async def end_all(self, held: Held) -> int:
        """Signs the person out everywhere: every session, every app, every token.

        Raises:
            ServiceError: REAUTHENTICATION_REQUIRED.
        """
        self.require_recent_sign_in(held)
        mine = await self.of_person(held.session.subject)
        request = my.EndMySessionsRequest(everywhere=True)
        await self._upstream.end_my_sessions(held, request, self.policies.write)
        await self._forget(mine, "SIGNED_OUT_EVERYWHERE")
        return len(mine)

    async def sign_out(self, held: Held) -> None:
        """Ends this session, and its login session at identity.

        Raises:
            ServiceError: SIGNED_OUT_HERE_ONLY: identity could not be told; this browser is signed out all the same. The
                field `identity` is TOLD_LATER if the rest will be done as soon as it answers.
        """
        try:
            await self._tokens.end_login_session(held)
        except SealBroken as error:
            await self._forget([held.session], "SIGNED_OUT")
            raise _here_only(kept=False) from error
        except ServiceError as error:
            await self._forget([held.session], "SIGNED_OUT")
            raise _here_only(kept=await self._pending.keep(held)) from error
        await self._forget([held.session], "SIGNED_OUT")

    async def withdraw(self, held: Held, gid: str) -> None:
        """Takes an app's access to the person's account back."""
        await self._upstream.withdraw_my_grant(held, gid, self.policies.write)
        await self._forget(
            [one for one in await self.of_person(held.session.subject) if one.gid == gid], "GRANT_WITHDRAWN"
        )

    async def logged_out_at_identity(self, subject: str | None, sid: str | None) -> None:
        """Identity says that a login session, or all of a person's, has ended (back-channel logout)."""
        kind, id_ = ("sid", sid) if sid is not None else ("subject", subject)
        if id_ is None:
            return
        found = await self._store.of("sid" if kind == "sid" else "subject", id_, self._timing.now(), self._timing.idle)
        await self._forget(
            [session for session in found if subject is None or session.subject == subject], "SIGNED_OUT"
        )

    async def revoked(self, sessions: Sequence[Session], cause: str) -> None:
        """Sessions that a revocation means: gone from here."""
        await self._forget(sessions, cause)

    async def _end_at_identity(self, held: Held, wanted: Session) -> None:
        if wanted.sid == held.session.sid:  # ending the login session would end this browser's as well
            await self._upstream.withdraw_my_grant(held, wanted.gid, self.policies.write)
        else:
            request = my.EndMySessionsRequest(sid=wanted.sid)
            await self._upstream.end_my_sessions(held, request, self.policies.write)

    async def _forget(self, sessions: Sequence[Session], cause: str) -> None:
        for session in sessions:
            removed = await self._store.remove(session.key)
            if removed is not None:
                _log.info("session ended", session_name=session.name, subject=session.subject, cause=cause)
            await self._over(session, cause)


def _here_only(*, kept: bool) -> ServiceError:
    rest = (
        "identity did not answer. It is told as soon as it does."
        if kept
        else "identity could not be told. Sign out there as well."
    )
    return ServiceError(
        Kind.UNAVAILABLE,
        "SIGNED_OUT_HERE_ONLY",
        f"You are signed out here, but {rest}",
        fields={"identity": "TOLD_LATER"} if kept else {},
    )


def not_signed_in() -> ServiceError:
    """Nobody is signed in in this browser."""
    return ServiceError(Kind.UNAUTHENTICATED, "NOT_SIGNED_IN", "Sign in first, at /auth/login.")


def not_found() -> ServiceError:
    """No such session; whether somebody else has one of that name is nobody's business."""
    return ServiceError(Kind.NOT_FOUND, "SESSION_NOT_FOUND", "There is no such session of yours.")
