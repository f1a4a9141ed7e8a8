"""Who comes to sign in, and how often they may: counted by address, before identity or the store is asked anything.

Each sign-in that is begun costs a pushed request at identity and a place in Redis, and needs no session: one machine
must not use up what all browsers share. Counting is `servicekit.throttle`'s, with or without Redis.
"""

from dataclasses import dataclass

from fastapi import Request

from servicekit.throttle import Limit, Throttle
from servicekit.visitor import Network, counted_as, visitor
from session.domain import coarse_address, device_of
from session.sign_in import Visitor


@dataclass(frozen=True, slots=True)
class Door:
    """Counts sign-ins that are begun, and answers to them. `trusted` are the networks of our own proxies."""

    throttle: Throttle
    begun: Limit
    answered: Limit
    trusted: tuple[Network, ...]

    async def begin(self, request: Request) -> None:
        """A dependency of what sends a browser to identity.

        Raises:
            TooMany: this address has begun too many lately.
        """
        await self.throttle.take(self.begun, counted_as(visitor(*_claimed(request), self.trusted)))

    async def answer(self, request: Request) -> None:
        """A dependency of what takes identity's answer.

        Raises:
            TooMany: this address has brought too many lately.
        """
        await self.throttle.take(self.answered, counted_as(visitor(*_claimed(request), self.trusted)))

    def visitor(self, request: Request) -> Visitor:
        """The browser, as its person will recognise it in a list."""
        guest = visitor(*_claimed(request), self.trusted)
        return Visitor(device_of(guest.user_agent), coarse_address(guest.address))


def _claimed(request: Request) -> tuple[str, list[str], str]:
    peer = request.client.host if request.client else ""
    return peer, request.headers.getlist("x-forwarded-for"), request.headers.get("user-agent", "")
