"""Dependencies of routes: the session that the cookie presents, found good, and allowed to do this."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request

from rescind import InsufficientScope, Staleness
from session.domain import ADMIN, IDENTITY, Held
from session.rest.protection import SameOrigin, session_cookie
from session.service import Sessions
from session.token_handler import TokenHandler

Required = Callable[[Request], Awaitable[Held]]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may come in, by what a route does. The origin is looked at before the cookie is."""

    sessions: Sessions
    tokens: TokenHandler
    same_origin: SameOrigin

    async def read(self, request: Request) -> Held:
        """Somebody who reads here, without a call to another service that would judge the session's token."""
        return await self._judged(request, self.sessions.policies.read)

    async def write(self, request: Request) -> Held:
        """Somebody who changes something here."""
        return await self._judged(request, self.sessions.policies.write)

    async def presented(self, request: Request) -> Held:
        """A session whose token the route is about to use: it is judged then (`TokenHandler.token_for`)."""
        self.same_origin.check(request)
        return await self.sessions.current(session_cookie(request))

    async def administer(self, request: Request) -> Held:
        """Somebody with scope identity:admin.

        Raises:
            InsufficientScope: they have not.
        """
        held = await self.presented(request)
        granted = await self.tokens.token_for(held, IDENTITY, staleness=self.sessions.policies.admin)
        if ADMIN not in granted.principal.scopes:
            raise InsufficientScope(frozenset({ADMIN}))
        return held

    async def administer_dangerously(self, request: Request) -> Held:
        """The same, and signed in lately."""
        held = await self.administer(request)
        self.sessions.require_recent_sign_in(held)
        return held

    async def operate(self, request: Request) -> Held:
        """Somebody with scope identity:admin, as far as their session knows: for what must work while identity is down.

        Raises:
            InsufficientScope: they have not.
        """
        held = await self.read(request)
        if ADMIN not in held.scopes:
            raise InsufficientScope(frozenset({ADMIN}))
        return held

    async def recently(self, request: Request) -> Held:
        """Somebody who does what a stolen session must not be enough for."""
        held = await self.presented(request)
        self.sessions.require_recent_sign_in(held)
        return held

    async def _judged(self, request: Request, staleness: Staleness) -> Held:
        held = await self.presented(request)
        await self.sessions.judged(held, staleness)
        # A refresh may have changed what the person may do.
        return await self.sessions.peek(held.session.key) or held
