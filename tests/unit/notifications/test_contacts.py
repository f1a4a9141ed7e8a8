"""Addresses are asked of identity, with a token of one's own, and forgotten soon."""

import grpc
import pytest

from notifications.channels.contacts import CALLS, Contact, ContactUnavailable, IdentityContacts, NoSuchAccount
from notifications.domain import Person
from rescind.testing import ManualClock
from servicekit import clients
from servicekit.clients import Calls
from support.accounts_server import Accounts, OwnToken, accounts_server

ALICE = Person("usr_alice")


@pytest.fixture
async def world():
    accounts, clock = Accounts(), ManualClock()
    async with accounts_server(accounts) as address:
        channel = clients.channel(address, CALLS, access_tokens=OwnToken())
        yield accounts, IdentityContacts(channel, monotonic=lambda: clock.monotonic), clock
        await channel.close()


async def test_an_address_is_remembered_for_a_moment_only(world) -> None:
    accounts, contacts, clock = world
    for advance, asked in ((0, 1), (29, 1), (1.5, 2)):
        clock.advance(advance)
        assert await contacts.of(ALICE) == Contact("alice@example.com", "alice")
        assert len(accounts.asked) == asked
    assert "alice" not in repr(await contacts.of(ALICE))


async def test_who_was_disabled_is_known_as_such(world) -> None:
    accounts, contacts, _ = world
    accounts.disabled.add(ALICE)
    assert (await contacts.of(ALICE)).disabled


async def test_what_is_old_is_not_kept(world) -> None:
    _, contacts, clock = world
    for n in range(5):
        await contacts.of(Person(f"usr_{n}"))
    clock.advance(31)
    await contacts.of(ALICE)
    assert list(contacts._known) == [ALICE]


async def test_nobody_and_not_now_are_told_apart(world) -> None:
    accounts, contacts, _ = world
    accounts.unknown.add(ALICE)
    with pytest.raises(NoSuchAccount):
        await contacts.of(ALICE)
    accounts.unknown.clear()
    for code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INTERNAL):
        accounts.fails = code
        with pytest.raises(ContactUnavailable, match=f"CONTACT_{code.name}"):
            await contacts.of(ALICE)
    accounts.fails = None
    assert (await contacts.of(ALICE)).email == "alice@example.com"


async def test_an_identity_that_hangs_is_not_waited_for() -> None:
    accounts = Accounts()
    accounts.hangs = True
    async with accounts_server(accounts) as address:
        channel = clients.channel(address, Calls(CALLS.service, deadline=0.3), access_tokens=OwnToken())
        with pytest.raises(ContactUnavailable, match="CONTACT_DEADLINE_EXCEEDED"):
            await IdentityContacts(channel).of(ALICE)
        await channel.close()
