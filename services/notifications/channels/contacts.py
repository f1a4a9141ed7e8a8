"""Where a person can be reached: asked of identity when it is needed, remembered for moments, stored nowhere."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from contracts.identity.v1 import accounts_pb2 as pb
from contracts.identity.v1 import accounts_pb2_grpc
from notifications.domain import Person
from servicekit.clients import Calls

SERVICE = pb.DESCRIPTOR.services_by_name["AccountsService"].full_name
CALLS = Calls(SERVICE, repeatable={"GetContact"})
REMEMBERED = 30.0  # seconds: by so much later a changed address counts, and a disabled account is written to no more
_MOST = 10_000  # people


class NoSuchAccount(Exception):
    """Identity knows no such person (any more)."""


class ContactUnavailable(Exception):
    """Identity did not say. `reason` is UPPER_SNAKE."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, repr=False)
class Contact:
    """Where and how to address somebody. Who is `disabled` is not written to."""

    email: str
    name: str
    disabled: bool = False


class Contacts(Protocol):
    """Knows where people can be reached."""

    async def of(self, person: Person) -> Contact:
        """Where the person can be reached.

        Raises:
            NoSuchAccount: there is no such person.
            ContactUnavailable: nobody can tell now.
        """
        ...


class IdentityContacts:
    """Asks identity, on a channel that brings this service's own token (`servicekit.clients.channel`)."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        remembered: float = REMEMBERED,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # The generated stub is typed for the synchronous client only.
        self._stub: Any = accounts_pb2_grpc.AccountsServiceStub(channel)
        self._remembered = remembered
        self._monotonic = monotonic
        self._known: OrderedDict[Person, tuple[float, Contact]] = OrderedDict()

    async def of(self, person: Person) -> Contact:
        """See `Contacts`."""
        now = self._monotonic()
        known = self._known.get(person)
        if known is not None and now - known[0] < self._remembered:
            return known[1]
        try:
            # Its deadline is the channel's.
            found = await self._stub.GetContact(pb.GetContactRequest(subject=person))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NoSuchAccount from None
            raise ContactUnavailable(f"CONTACT_{error.code().name}") from None
        contact = Contact(found.email, found.name, found.disabled)
        self._known[person] = (now, contact)
        self._known.move_to_end(person)
        while len(self._known) > _MOST or now - next(iter(self._known.values()))[0] >= self._remembered:
            self._known.popitem(last=False)
        return contact
