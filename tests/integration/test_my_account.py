"""What a person sees and ends of their own, over gRPC; where services learn of people. No Redis behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, update

from contracts.identity.v1 import accounts_pb2, accounts_pb2_grpc, my_account_pb2, my_account_pb2_grpc
from identity.domain import AccessToken, Cause, ClientId, Position
from identity.exchange import exchange
from identity.revocations import ENTRIES_PER_MESSAGE
from identity.service import NewClient
from identity.storage import clients
from servicekit.visitor import Visitor
from support.identity_core import ADMIN, ALICE, IDENTITY, Core, core
from support.identity_wire import bearer, channel_to, refusal

OFFLINE = "openid offline_access orders:read"


@dataclass
class Wire:
    """A running identity and stubs of it."""

    identity: Core
    mine: Any
    accounts: Any

    def person(self, sid: str | None = None, scope: str = "openid orders:read", client: str = "mobile") -> AccessToken:
        """A token of alice's for identity."""
        return self.identity.access(self.identity.grant(sid, scope=scope, client=client), IDENTITY)

    async def listed(self, token: AccessToken) -> my_account_pb2.ListMySessionsResponse:
        request = my_account_pb2.ListMySessionsRequest()
        answer: my_account_pb2.ListMySessionsResponse = await self.mine.ListMySessions(
            request, metadata=bearer(token.token)
        )
        return answer

    async def end(self, token: AccessToken, **which: Any) -> my_account_pb2.EndMySessionsResponse:
        request = my_account_pb2.EndMySessionsRequest(**which)
        answer: my_account_pb2.EndMySessionsResponse = await self.mine.EndMySessions(
            request, metadata=bearer(token.token)
        )
        return answer

    async def withdraw(self, token: AccessToken, gid: str) -> my_account_pb2.WithdrawMyGrantResponse:
        request = my_account_pb2.WithdrawMyGrantRequest(gid=gid)
        answer: my_account_pb2.WithdrawMyGrantResponse = await self.mine.WithdrawMyGrant(
            request, metadata=bearer(token.token)
        )
        return answer


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with served(f"sqlite:///{tmp_path / 'identity.db'}") as wire:
        yield wire


@pytest.fixture
async def any_wire(database_url: str) -> AsyncIterator[Wire]:
    """On SQLite, and on PostgreSQL."""
    async with served(database_url) as wire:
        yield wire


@asynccontextmanager
async def served(database_url: str) -> AsyncIterator[Wire]:
    """With a client that may ask for contacts."""
    async with core(database_url) as identity, channel_to(identity) as channel:
        identity.tx(
            lambda tx: identity.parts.accounts.add_client(
                tx,
                NewClient(
                    "notifications",
                    "Notifications",
                    grant_types=("client_credentials",),
                    resources=(IDENTITY,),
                    permissions=("contacts",),
                ),
            )
        )
        yield Wire(
            identity,
            my_account_pb2_grpc.MyAccountServiceStub(channel),
            accounts_pb2_grpc.AccountsServiceStub(channel),
        )


@pytest.mark.requirement(29)
@pytest.mark.requirement(56)
async def test_a_person_sees_where_they_are_signed_in_and_which_apps_hang_where(any_wire: Wire) -> None:
    wire = any_wire
    identity = wire.identity
    user, issuer = identity.user(), identity.parts.issuer
    here = Visitor("2001:db8:1:2::3", "Browser/1")
    first = identity.tx(lambda tx: issuer.open_session(tx, user.id, hard_gen_seen=user.hard_gen, visitor=here)).sid
    identity.clock.forward(5)
    second = identity.sign_in()
    tied, loose = identity.grant(second, client="other"), identity.grant(second, scope=OFFLINE, client="other")
    identity.grant(identity.sign_in(ADMIN))  # somebody else's is nobody's business
    token = wire.person(first)

    listed = await wire.listed(token)
    assert [session.sid for session in listed.sessions] == [second, first]
    assert [session.current for session in listed.sessions] == [False, True]
    assert (listed.sessions[1].user_agent, listed.sessions[1].address) == ("Browser/1", "2001:db8:1::/48")
    assert listed.sessions[1].expires_at - listed.sessions[1].created_at == 12 * 3600 * 1000
    (app,) = listed.sessions[0].grants
    assert (app.gid, app.client_name, app.first_party) == (tied, "Another client", False)
    assert list(app.scopes) == ["openid", "orders:read"]
    assert [grant.gid for grant in listed.offline_grants] == [loose]


async def test_what_has_ended_or_run_out_is_not_shown(wire: Wire) -> None:
    identity = wire.identity
    ended = identity.sign_in()
    identity.tx(lambda tx: identity.parts.revocations.revoke_session(tx, ended, "TEST"))
    identity.sign_in()
    of_disabled = identity.grant(scope=OFFLINE, client="other")
    identity.clock.forward(13 * 3600)
    await identity.parts.accounts.disable_client("other")
    listed = await wire.listed(wire.person())
    assert len(listed.sessions) == 1
    assert of_disabled not in [grant.gid for grant in listed.offline_grants]


@pytest.mark.requirement(29)
async def test_one_session_is_ended_with_what_hangs_on_it(wire: Wire) -> None:
    identity = wire.identity
    other = identity.sign_in()
    victim = identity.access(identity.grant(other))
    lasting = identity.access(identity.grant(other, scope=OFFLINE))
    token = wire.person()
    answer = await wire.end(token, sid=other)
    assert (answer.ended, answer.position) == (1, 1)
    assert not identity.is_living(victim)
    assert identity.denied(victim)
    assert identity.is_living(lasting)
    assert identity.is_living(token)
    again = await wire.end(token, sid=other)
    assert (again.ended, again.position) == (0, 0)


@pytest.mark.requirement(24)
async def test_all_others_are_ended_in_one_message(any_wire: Wire) -> None:
    wire = any_wire
    identity = wire.identity
    token = wire.person()
    others = [identity.access(identity.grant()) for _ in range(3)]
    admins = identity.access(identity.grant(identity.sign_in(ADMIN)))
    answer = await wire.end(token, others_than=token.claims["sid"])
    assert (answer.ended, answer.position) == (3, 1)
    (row,) = identity.log()
    assert sorted(entry["id"] for entry in row.entries) == sorted(other.claims["sid"] for other in others)
    for other in others:
        assert not identity.is_living(other)
        assert identity.denied(other)
    assert identity.is_living(token)
    assert identity.is_living(admins)


async def test_more_sessions_than_one_message_holds(wire: Wire) -> None:
    identity = wire.identity
    token = wire.person()
    for _ in range(ENTRIES_PER_MESSAGE + 3):
        identity.sign_in()
    answer = await wire.end(token, others_than=token.claims["sid"])
    assert (answer.ended, answer.position) == (ENTRIES_PER_MESSAGE + 3, 2)
    assert [len(row.entries) for row in identity.log()] == [ENTRIES_PER_MESSAGE, 3]


@pytest.mark.requirement(24)
async def test_everywhere_is_hard(any_wire: Wire) -> None:
    wire = any_wire
    identity = wire.identity
    token, lasting = wire.person(), identity.access(identity.grant(scope=OFFLINE))
    refresh = identity.refresh(lasting.claims["gid"])
    assert (await wire.end(token, everywhere=True)).ended == 2
    (row,) = identity.log()
    assert (row.cause, row.entries[0]["kind"], row.entries[0]["soft"]) == (
        Cause.SIGNED_OUT_EVERYWHERE,
        "subject",
        False,
    )
    for gone in (token, lasting):
        assert not identity.is_living(gone)
        assert identity.denied(gone)
    assert await refusal(wire.end(token, everywhere=True)) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_REVOKED")
    assert refresh


@pytest.mark.requirement(56)
async def test_an_apps_access_is_withdrawn_and_refused_at_once(wire: Wire) -> None:
    identity = wire.identity
    app = identity.access(identity.grant(scope=OFFLINE, client="other"))
    token = wire.person()
    assert (await wire.withdraw(token, app.claims["gid"])).position == 1
    assert not identity.is_living(app)
    assert identity.denied(app)
    assert (await wire.withdraw(token, app.claims["gid"])).position == 0


async def test_nobody_reaches_what_is_not_theirs(wire: Wire) -> None:
    identity = wire.identity
    token = wire.person()
    sid = identity.sign_in(ADMIN)
    gid = identity.grant(sid)
    unknown = (grpc.StatusCode.NOT_FOUND, "NO_SUCH_SESSION")
    assert await refusal(wire.end(token, sid=sid)) == unknown
    assert await refusal(wire.end(token, sid="sid_unknown")) == unknown
    assert await refusal(wire.end(token, others_than=sid)) == unknown
    assert await refusal(wire.withdraw(token, gid)) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_GRANT")
    bad = (grpc.StatusCode.INVALID_ARGUMENT, "BAD_TARGET")
    assert await refusal(wire.end(token)) == bad
    assert await refusal(wire.end(token, everywhere=False)) == bad
    assert identity.log() == []


@pytest.mark.requirement(67)
async def test_it_takes_a_persons_own_token_through_an_app_of_ours(wire: Wire) -> None:
    refused = grpc.StatusCode.PERMISSION_DENIED
    foreign_app = wire.person(client="other")
    assert await refusal(wire.listed(foreign_app)) == (refused, "NOT_PERMITTED")
    assert await refusal(wire.listed(wire.identity.of_client("backoffice"))) == (refused, "NOT_PERMITTED")
    without_openid = wire.person(scope="profile orders:read")
    assert await refusal(wire.listed(without_openid)) == (refused, "INSUFFICIENT_SCOPE")


@pytest.mark.requirement(67)
async def test_a_service_that_acts_for_a_person_leaves_their_account_be(wire: Wire) -> None:
    """Whatever the client that acts is registered for: the token says that it is not the person who asks."""
    identity = wire.identity
    parent = identity.access(identity.grant())

    def acted(tx: Connection) -> AccessToken:
        may = {"exchange_scopes": ["openid"], "first_party": True}
        tx.execute(update(clients).where(clients.c.id == "orders").values(may))
        return exchange(
            identity.parts.issuer, tx, parent.claims, acting=ClientId("orders"), audience=IDENTITY, scope=None
        )

    token = identity.tx(acted)
    assert (token.scope, token.claims["sub"]) == ("openid", parent.claims["sub"])
    for call in (
        wire.listed(token),
        wire.end(token, everywhere=True),
        wire.withdraw(token, parent.claims["gid"]),
    ):
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "ACTED_FOR")
    assert identity.log() == []


async def test_twenty_at_once_end_the_others_once(any_wire: Wire) -> None:
    wire = any_wire
    identity = wire.identity
    token = wire.person()
    for _ in range(4):
        identity.sign_in()
    answers = await asyncio.gather(*(wire.end(token, others_than=token.claims["sid"]) for _ in range(20)))
    assert sorted(answer.ended for answer in answers) == [0] * 19 + [4]
    assert len(identity.log()) == 1


async def test_a_service_asks_where_a_person_can_be_reached(wire: Wire) -> None:
    identity = wire.identity
    user = identity.user()
    metadata = bearer(identity.of_client("notifications").token)
    request = accounts_pb2.GetContactRequest(subject=user.id)
    contact = await wire.accounts.GetContact(request, metadata=metadata)
    assert (contact.subject, contact.email, contact.name, contact.disabled) == (user.id, ALICE, "Alice", False)
    await identity.parts.accounts.disable_account(user.id)
    assert (await wire.accounts.GetContact(request, metadata=metadata)).disabled
    unknown = accounts_pb2.GetContactRequest(subject="usr_unknown")
    assert await refusal(wire.accounts.GetContact(unknown, metadata=metadata)) == (
        grpc.StatusCode.NOT_FOUND,
        "NO_SUCH_ACCOUNT",
    )
    for client in ("orders", "backoffice"):
        call = wire.accounts.GetContact(request, metadata=bearer(identity.of_client(client).token))
        assert await refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_PERMITTED")


@pytest.mark.requirement(75)
async def test_roles_are_replaced_and_tokens_of_before_are_stale(wire: Wire) -> None:
    identity = wire.identity
    user = identity.user()
    metadata = bearer(identity.of_client("backoffice").token)
    before = wire.person(scope="openid identity:admin")
    assert before.scope == "openid"
    request = accounts_pb2.SetRolesRequest(subject=user.id, roles=["admin", "admin"])
    assert (await wire.accounts.SetRoles(request, metadata=metadata)).position == 1
    assert not identity.is_living(before)
    after = identity.access(before.claims["gid"], IDENTITY)
    assert after.scope == "identity:admin openid"
    assert identity.user().roles == ["admin"]
    (row,) = identity.log()
    assert row.entries[0]["soft"] is True
    wrong = accounts_pb2.SetRolesRequest(subject=user.id, roles=["root"])
    assert await refusal(wire.accounts.SetRoles(wrong, metadata=metadata)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "BAD_ROLES",
    )


async def test_without_redis_the_answer_is_the_same(wire: Wire) -> None:
    """`core` has no Redis behind it: what was committed is what is answered, and nothing waits long."""
    token = wire.person()
    async with asyncio.timeout(10):
        ended, position = await wire.identity.parts.my_account.end_everything(token.claims["sub"])
    assert (ended, position.pos) == (1, 1)
    assert isinstance(position, Position)
