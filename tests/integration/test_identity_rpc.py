"""identity over gRPC: who may call what, and that the answers are SQL's. A real server, real tokens, no Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from contracts.identity.v1 import (
    accounts_pb2,
    accounts_pb2_grpc,
    administration_pb2,
    administration_pb2_grpc,
    keys_pb2,
    keys_pb2_grpc,
    my_account_pb2,
    my_account_pb2_grpc,
    revocations_pb2,
    revocations_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from identity.app import build
from identity.authority import ADMIN as ADMINISTER
from identity.authority import PUBLIC, RULES
from rescind.messages import Heartbeat
from servicekit import clients
from servicekit.errors import Kind
from servicekit.rpc import DETAILS_KEY
from support.identity_core import ADMIN, IDENTITY, ORDERS, Core, core


@dataclass
class Wire:
    """A running identity and a channel to it."""

    identity: Core
    channel: grpc.aio.Channel

    def bearer(self, token: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {token}"),)

    def of(self, client: str) -> tuple[tuple[str, str], ...]:
        return self.bearer(self.identity.of_client(client).token)

    @property
    def tokens(self) -> Any:
        return tokens_pb2_grpc.TokensServiceStub(self.channel)

    @property
    def revocations(self) -> Any:
        return revocations_pb2_grpc.RevocationsServiceStub(self.channel)

    @property
    def accounts(self) -> Any:
        return accounts_pb2_grpc.AccountsServiceStub(self.channel)

    @property
    def keys(self) -> Any:
        return keys_pb2_grpc.KeysServiceStub(self.channel)

    @property
    def my_account(self) -> Any:
        return my_account_pb2_grpc.MyAccountServiceStub(self.channel)

    @property
    def administration(self) -> Any:
        return administration_pb2_grpc.AdministrationServiceStub(self.channel)


@pytest.fixture
async def wire(tmp_path: object) -> AsyncIterator[Wire]:
    async with core(f"sqlite:///{tmp_path}/identity.db") as identity:
        server, _ = build(identity.parts.settings, parts=identity.parts).grpc_server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Wire(identity, channel)
        finally:
            await server.stop(None)


async def _refusal(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status and the reason of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    metadata = dict(refused.value.trailing_metadata() or ())
    assert DETAILS_KEY in metadata
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return refused.value.code(), info.reason


async def _replayed(wire: Wire, metadata: Any) -> list[bytes]:
    return [
        answer.message async for answer in wire.revocations.Replay(revocations_pb2.ReplayRequest(), metadata=metadata)
    ]


VERIFIER = revocations_pb2.Verifier(
    id="vrf_0123456789abcdef", audience=ORDERS, instance="here:1", freshness=revocations_pb2.FRESHNESS_FRESH
)


def _administer(method: Any, wire: Wire, metadata: Any) -> Awaitable[Any]:
    request = getattr(administration_pb2, method.input_type.name)()
    return getattr(wire.administration, method.name)(request, metadata=metadata)  # type: ignore[no-any-return]


CALLS: dict[str, Callable[[Wire, Any], Awaitable[Any]]] = {
    "TokensService/Introspect": lambda wire, md: wire.tokens.Introspect(tokens_pb2.IntrospectRequest(), metadata=md),
    "RevocationsService/Revoke": lambda wire, md: wire.revocations.Revoke(
        revocations_pb2.RevokeRequest(token="a-jti"), metadata=md
    ),
    "RevocationsService/Replay": _replayed,
    "RevocationsService/GetStatus": lambda wire, md: wire.revocations.GetStatus(
        revocations_pb2.GetStatusRequest(), metadata=md
    ),
    "RevocationsService/Report": lambda wire, md: wire.revocations.Report(
        revocations_pb2.ReportRequest(verifier=VERIFIER), metadata=md
    ),
    "AccountsService/DisableAccount": lambda wire, md: wire.accounts.DisableAccount(
        accounts_pb2.DisableAccountRequest(subject="usr_unknown"), metadata=md
    ),
    "AccountsService/EnableAccount": lambda wire, md: wire.accounts.EnableAccount(
        accounts_pb2.EnableAccountRequest(subject="usr_unknown"), metadata=md
    ),
    "AccountsService/DisableClient": lambda wire, md: wire.accounts.DisableClient(
        accounts_pb2.DisableClientRequest(client_id="unknown"), metadata=md
    ),
    "AccountsService/EnableClient": lambda wire, md: wire.accounts.EnableClient(
        accounts_pb2.EnableClientRequest(client_id="unknown"), metadata=md
    ),
    "AccountsService/GetContact": lambda wire, md: wire.accounts.GetContact(
        accounts_pb2.GetContactRequest(subject="usr_unknown"), metadata=md
    ),
    "AccountsService/SetRoles": lambda wire, md: wire.accounts.SetRoles(
        accounts_pb2.SetRolesRequest(subject="usr_unknown"), metadata=md
    ),
    "MyAccountService/ListMySessions": lambda wire, md: wire.my_account.ListMySessions(
        my_account_pb2.ListMySessionsRequest(), metadata=md
    ),
    "MyAccountService/EndMySessions": lambda wire, md: wire.my_account.EndMySessions(
        my_account_pb2.EndMySessionsRequest(everywhere=True), metadata=md
    ),
    "MyAccountService/WithdrawMyGrant": lambda wire, md: wire.my_account.WithdrawMyGrant(
        my_account_pb2.WithdrawMyGrantRequest(gid="gid_unknown"), metadata=md
    ),
    **{
        f"AdministrationService/{method.name}": partial(_administer, method)
        for method in administration_pb2.DESCRIPTOR.services_by_name["AdministrationService"].methods
    },
    "KeysService/ListKeys": lambda wire, md: wire.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=md),
    "KeysService/RotateKeys": lambda wire, md: wire.keys.RotateKeys(keys_pb2.RotateKeysRequest(), metadata=md),
}


def test_every_rpc_has_a_rule_and_every_rule_a_call_here() -> None:
    modules = (tokens_pb2, revocations_pb2, accounts_pb2, keys_pb2, my_account_pb2, administration_pb2)
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == set(RULES)
    assert {name.rpartition(".")[2] for name in methods} == set(CALLS)
    assert not any(name.startswith(PUBLIC) for name in methods)


@pytest.mark.parametrize("name", CALLS)
async def test_every_rpc_refuses_who_has_no_token_a_bad_one_or_one_for_another_service(wire: Wire, name: str) -> None:
    call = CALLS[name]
    assert await _refusal(call(wire, ())) == (grpc.StatusCode.UNAUTHENTICATED, "NO_TOKEN")
    assert await _refusal(call(wire, wire.bearer("no.such.token"))) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_MALFORMED",
    )
    for_orders = wire.identity.of_client("backoffice", ORDERS)
    assert await _refusal(call(wire, wire.bearer(for_orders.token))) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_UNTRUSTED",
    )


@pytest.mark.parametrize("name", [name for name in CALLS if not name.startswith("MyAccountService/")])
async def test_every_rpc_refuses_a_person_without_the_role_whatever_their_client_may(wire: Wire, name: str) -> None:
    token = wire.identity.access(wire.identity.grant(scope="openid identity:admin"), IDENTITY)
    code, reason = await _refusal(CALLS[name](wire, wire.bearer(token.token)))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert reason in ("INSUFFICIENT_SCOPE", "NOT_PERMITTED")


@pytest.mark.parametrize(
    ("name", "client", "may"),
    [
        ("TokensService/Introspect", "orders", True),
        ("RevocationsService/Replay", "orders", True),
        ("RevocationsService/GetStatus", "orders", True),
        ("RevocationsService/Report", "orders", True),
        ("RevocationsService/Report", "backoffice", False),
        ("RevocationsService/Revoke", "orders", False),
        ("KeysService/RotateKeys", "orders", False),
        ("AccountsService/DisableClient", "orders", False),
        ("RevocationsService/Revoke", "backoffice", True),
        ("RevocationsService/Replay", "backoffice", True),
        ("KeysService/ListKeys", "backoffice", True),
    ],
)
async def test_a_client_may_what_it_was_registered_for(wire: Wire, name: str, client: str, may: bool) -> None:
    call = CALLS[name](wire, wire.of(client))
    if may:
        await call
    else:
        assert (await _refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_an_administrator_revokes_and_their_own_token_may_be_next(wire: Wire) -> None:
    admin = wire.identity.access(
        wire.identity.grant(wire.identity.sign_in(ADMIN), scope="openid identity:admin"), IDENTITY
    )
    metadata = wire.bearer(admin.token)
    victim = wire.identity.access(wire.identity.grant())
    request = revocations_pb2.RevokeRequest(token=victim.claims["jti"], cause="LOST_PHONE")
    answer = await wire.revocations.Revoke(request, metadata=metadata)
    assert (answer.position, answer.at) == (1, wire.identity.clock.ms)
    assert not wire.identity.is_living(victim)
    (row,) = wire.identity.log()
    assert row.cause == "LOST_PHONE"
    again = await wire.revocations.Revoke(request, metadata=metadata)
    assert (again.log, again.position) == (answer.log, 0)
    await wire.revocations.Revoke(revocations_pb2.RevokeRequest(subject=admin.claims["sub"]), metadata=metadata)
    assert await _refusal(wire.revocations.Revoke(request, metadata=metadata)) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "TOKEN_REVOKED",
    )


CHANGES = [name for name in CALLS if RULES[f"/contracts.identity.v1.{name}"].recent]


def test_every_change_by_an_administrator_wants_a_recent_sign_in_and_no_reading_does() -> None:
    administered = {name.rpartition(".")[2] for name, rule in RULES.items() if ADMINISTER in rule.scopes}
    reading = {name for name in administered if name.rpartition("/")[2].startswith(("List", "Get"))}
    assert set(CHANGES) == administered - reading - {"RevocationsService/Replay"}


@pytest.mark.requirement(29)
@pytest.mark.parametrize("name", CHANGES)
async def test_who_signed_in_too_long_ago_changes_nothing(wire: Wire, name: str) -> None:
    token = wire.identity.access(
        wire.identity.grant(wire.identity.sign_in(ADMIN), scope="openid identity:admin"), IDENTITY
    )
    wire.identity.clock.forward(600)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await CALLS[name](wire, wire.bearer(token.token))
    told = clients.told(refused.value)
    assert (told.kind, told.reason) == (Kind.UNAUTHENTICATED, "INSUFFICIENT_USER_AUTHENTICATION")
    assert told.metadata == {"max_age": "600"}  # RFC 9470 section 3
    assert wire.identity.log() == []
    await wire.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=wire.bearer(token.token))  # looking is let be


async def test_a_sign_in_is_recent_to_the_last_second_and_a_client_has_none_that_could_be_old(wire: Wire) -> None:
    request = revocations_pb2.RevokeRequest(token="a-jti")
    office = wire.of("backoffice")
    token = wire.identity.access(
        wire.identity.grant(wire.identity.sign_in(ADMIN), scope="openid identity:admin"), IDENTITY
    )
    wire.identity.clock.forward(599)
    await wire.revocations.Revoke(request, metadata=wire.bearer(token.token))
    wire.identity.clock.forward(300)
    await wire.revocations.Revoke(request, metadata=office)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (revocations_pb2.RevokeRequest(), "BAD_TARGET"),
        (revocations_pb2.RevokeRequest(token=""), "BAD_TARGET"),
        (revocations_pb2.RevokeRequest(token="x" * 200), "BAD_TARGET"),
        (revocations_pb2.RevokeRequest(session="'; DROP TABLE users"), "BAD_TARGET"),
        (revocations_pb2.RevokeRequest(subject="svc_orders"), "BAD_TARGET"),
        (revocations_pb2.RevokeRequest(token="a", cause="lower case"), "BAD_CAUSE"),
        (revocations_pb2.RevokeRequest(token="a", cause="X" * 65), "BAD_CAUSE"),
        (revocations_pb2.RevokeRequest(session="sid_x", soft=True), "SOFT_NOT_POSSIBLE"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_with_its_reason(
    wire: Wire, request_: revocations_pb2.RevokeRequest, reason: str
) -> None:
    call = wire.revocations.Revoke(request_, metadata=wire.of("backoffice"))
    assert await _refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert wire.identity.log() == []


@pytest.mark.requirement(72)
async def test_introspect_answers_about_the_callers_own_audience_and_tells_the_reason(wire: Wire) -> None:
    async def asked(client: str, token: str) -> tuple[bool, str]:
        answer = await wire.tokens.Introspect(tokens_pb2.IntrospectRequest(token=token), metadata=wire.of(client))
        return answer.active, answer.reason

    gid = wire.identity.grant()
    token, other = wire.identity.access(gid), wire.identity.access(gid, IDENTITY)
    assert await asked("orders", token.token) == (True, "")
    assert await asked("orders", other.token) == (False, "")
    assert await asked("backoffice", other.token) == (True, "")
    assert await asked("orders", "no.such.token") == (False, "")
    wire.identity.tx(
        lambda tx: wire.identity.parts.revocations.revoke_subject(tx, token.claims["sub"], "TEST", soft=True)
    )
    assert await asked("orders", token.token) == (False, "TOKEN_STALE")
    assert await asked("orders", other.token) == (False, "")
    wire.identity.tx(lambda tx: wire.identity.parts.revocations.revoke_grant(tx, gid, "TEST"))
    assert await asked("orders", token.token) == (False, "TOKEN_REVOKED")
    wire.identity.clock.forward(905)
    assert await asked("orders", token.token) == (False, "TOKEN_EXPIRED")


async def test_replay_over_the_wire_closes_with_a_heartbeat_of_our_nonce(wire: Wire) -> None:
    for number in range(3):
        wire.identity.tx(
            lambda tx, number=number: wire.identity.parts.revocations.revoke_token(tx, f"jti-{number}", "TEST")
        )
    request = revocations_pb2.ReplayRequest(nonce="once")
    answers = [a.message async for a in wire.revocations.Replay(request, metadata=wire.of("orders"))]
    assert answers[:-1] == [row.message for row in wire.identity.log()]
    closing = wire.identity.tx(lambda tx: wire.identity.parts.revocations.read(tx, answers[-1]))
    assert isinstance(closing, Heartbeat)
    assert (closing.head, closing.nonce) == (3, "once")
    too_long = wire.revocations.Replay(revocations_pb2.ReplayRequest(nonce="x" * 65), metadata=wire.of("orders"))
    assert await _refusal(too_long.read()) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REPLAY")


async def test_accounts_and_clients_are_switched_off_and_on_over_the_wire(wire: Wire) -> None:
    metadata = wire.of("backoffice")
    user = wire.identity.user()
    wire.identity.grant()
    off = accounts_pb2.DisableAccountRequest(subject=user.id)
    assert (await wire.accounts.DisableAccount(off, metadata=metadata)).position == 1
    assert (await wire.accounts.DisableAccount(off, metadata=metadata)).position == 0
    await wire.accounts.EnableAccount(accounts_pb2.EnableAccountRequest(subject=user.id), metadata=metadata)
    wire.identity.grant()
    unknown = accounts_pb2.DisableAccountRequest(subject="usr_unknown")
    assert await _refusal(wire.accounts.DisableAccount(unknown, metadata=metadata)) == (
        grpc.StatusCode.NOT_FOUND,
        "NO_SUCH_ACCOUNT",
    )


async def test_keys_are_listed_and_rotated_over_the_wire(wire: Wire) -> None:
    wire.identity.clock.forward(1)
    metadata = wire.of("backoffice")
    spare = next(
        key.kid
        for key in (await wire.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=metadata)).keys
        if key.status == keys_pb2.KEY_STATUS_PREPARED
    )
    rotated = await wire.keys.RotateKeys(keys_pb2.RotateKeysRequest(), metadata=metadata)
    assert rotated.active_kid == spare
    assert await _refusal(wire.keys.RotateKeys(keys_pb2.RotateKeysRequest(), metadata=metadata)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "SPARE_TOO_YOUNG",
    )
    # The caller's own token was signed by the key that is retired now.
    active = await wire.keys.ListKeys(keys_pb2.ListKeysRequest(), metadata=metadata)
    assert [key.status for key in active.keys].count(keys_pb2.KEY_STATUS_RETIRED) == 1
