"""identity over gRPC: translates between contracts and use cases, and decides nothing."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc.aio

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
from identity.administration import Administration
from identity.authority import current_caller
from identity.introspection import Introspector
from identity.my_account_rpc import MyAccountApi
from identity.receipts import NEXT_IN_MS, Receipts
from identity.replay import Replay
from identity.rpc_receipts import member_message, receipts_message, report_from, wait_of
from identity.service import Accounts
from rescind.errors import MalformedToken, TokenRefused, UntrustedToken
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

MAX_NONCE = 64

_STATUS = {
    "prepared": keys_pb2.KEY_STATUS_PREPARED,
    "active": keys_pb2.KEY_STATUS_ACTIVE,
    "retired": keys_pb2.KEY_STATUS_RETIRED,
    "revoked": keys_pb2.KEY_STATUS_REVOKED,
}


@dataclass(frozen=True, slots=True)
class Tokens(tokens_pb2_grpc.TokensServiceServicer):
    """TokensService."""

    database: Database
    introspector: Introspector

    async def Introspect(self, request: tokens_pb2.IntrospectRequest, _context: Any) -> tokens_pb2.IntrospectResponse:
        """Whether a token for the caller's own audience (or any, with introspect_any) is good right now."""
        return await self.database.read(partial(self._introspect, token=request.token))

    def _introspect(self, tx: Any, token: str) -> tokens_pb2.IntrospectResponse:
        caller = current_caller()
        any_audience = "introspect_any" in caller.permissions
        claims = self.introspector.issued(tx, token)
        own = claims is not None and claims["aud"] == f"urn:rescind:{caller.client_id}"
        try:
            self.introspector.judge(tx, token)
        except TokenRefused as error:
            # Of what is not ours, or not for the caller, the caller learns only that it is not active.
            tell = not isinstance(error, MalformedToken | UntrustedToken) and (own or any_audience or claims is None)
            return tokens_pb2.IntrospectResponse(active=False, reason=error.reason if tell else "")
        return tokens_pb2.IntrospectResponse(active=own or any_audience)


@dataclass(frozen=True, slots=True)
class Revocations(revocations_pb2_grpc.RevocationsServiceServicer):
    """RevocationsService."""

    administration: Administration
    replay: Replay
    receipts: Receipts

    async def Revoke(self, request: revocations_pb2.RevokeRequest, _context: Any) -> revocations_pb2.RevokeResponse:
        """Takes back; answers after the commit and the attempt to push it, or once everyone has applied it."""
        kind = request.WhichOneof("target")
        if kind is None:
            raise ServiceError(Kind.INVALID, "BAD_TARGET", "Say what is to be taken back.")
        wait_for = wait_of(request)
        position = await self.administration.revoke(
            kind, getattr(request, kind), cause=request.cause, soft=request.soft, by=current_caller().subject
        )
        response = revocations_pb2.RevokeResponse(log=position.log, position=position.pos, at=position.at)
        if wait_for and position.pos:
            with contextlib.suppress(ServiceError):  # it is revoked, whoever cannot be asked who knows
                covered = await self.receipts.applied_everywhere(position.log, position.pos, within=wait_for)
                response.receipts.CopyFrom(receipts_message(covered))
        return response

    async def Replay(
        self, request: revocations_pb2.ReplayRequest, _context: Any
    ) -> AsyncIterator[revocations_pb2.ReplayResponse]:
        """The signed messages behind a position, then a signed heartbeat."""
        if len(request.nonce.encode()) > MAX_NONCE or request.after < 0:
            raise ServiceError(Kind.INVALID, "BAD_REPLAY", f"The nonce is longer than {MAX_NONCE} bytes, or after < 0.")
        async for message in self.replay.messages(request.log, request.after, nonce=request.nonce):
            yield revocations_pb2.ReplayResponse(message=message)

    async def GetStatus(
        self, request: revocations_pb2.GetStatusRequest, _context: Any
    ) -> revocations_pb2.GetStatusResponse:
        """Where the log stands in SQL, and how far everyone who verifies is."""
        if request.position < 0:
            raise ServiceError(Kind.INVALID, "BAD_POSITION", "Positions begin at 1.")
        snapshot = await self.replay.snapshot()
        response = revocations_pb2.GetStatusResponse(
            log=snapshot.log,
            head=snapshot.head,
            floor=snapshot.floor,
            kids=sorted(snapshot.kids),
            verifiers=[member_message(member) for member in await self.receipts.members()],
        )
        if request.position:
            covered = await self.receipts.coverage(snapshot.log, request.position)
            response.receipts.CopyFrom(receipts_message(covered))
        return response

    async def Report(self, request: revocations_pb2.ReportRequest, _context: Any) -> revocations_pb2.ReportResponse:
        """Takes a verifier's word on what it has applied."""
        await self.receipts.report(report_from(request, current_caller().client_id))
        return revocations_pb2.ReportResponse(next_in_ms=NEXT_IN_MS)


@dataclass(frozen=True, slots=True)
class AccountsApi(accounts_pb2_grpc.AccountsServiceServicer):
    """AccountsService."""

    accounts: Accounts

    async def GetContact(self, request: accounts_pb2.GetContactRequest, _context: Any) -> accounts_pb2.Contact:
        """Where a person can be reached."""
        contact = await self.accounts.contact(request.subject)
        return accounts_pb2.Contact(
            subject=contact.user_id, email=contact.email, name=contact.name, disabled=contact.disabled
        )

    async def SetRoles(self, request: accounts_pb2.SetRolesRequest, _context: Any) -> accounts_pb2.SetRolesResponse:
        """Replaces the roles; what was stamped before is stale."""
        position = await self.accounts.change_roles(
            request.subject, sorted(set(request.roles)), by=current_caller().subject
        )
        return accounts_pb2.SetRolesResponse(log=position.log, position=position.pos)

    async def DisableAccount(
        self, request: accounts_pb2.DisableAccountRequest, _context: Any
    ) -> accounts_pb2.DisableAccountResponse:
        """Ends everything the person holds."""
        position = await self.accounts.disable_account(request.subject, by=current_caller().subject)
        return accounts_pb2.DisableAccountResponse(log=position.log, position=position.pos)

    async def EnableAccount(
        self, request: accounts_pb2.EnableAccountRequest, _context: Any
    ) -> accounts_pb2.EnableAccountResponse:
        """Lets the person sign in again."""
        await self.accounts.enable_account(request.subject, by=current_caller().subject)
        return accounts_pb2.EnableAccountResponse()

    async def DisableClient(
        self, request: accounts_pb2.DisableClientRequest, _context: Any
    ) -> accounts_pb2.DisableClientResponse:
        """Ends everything the client holds."""
        position = await self.accounts.disable_client(request.client_id, by=current_caller().subject)
        return accounts_pb2.DisableClientResponse(log=position.log, position=position.pos)

    async def EnableClient(
        self, request: accounts_pb2.EnableClientRequest, _context: Any
    ) -> accounts_pb2.EnableClientResponse:
        """Lets the client get tokens again."""
        await self.accounts.enable_client(request.client_id, by=current_caller().subject)
        return accounts_pb2.EnableClientResponse()


@dataclass(frozen=True, slots=True)
class Keys(keys_pb2_grpc.KeysServiceServicer):
    """KeysService."""

    administration: Administration

    async def ListKeys(self, _request: keys_pb2.ListKeysRequest, _context: Any) -> keys_pb2.ListKeysResponse:
        """Every key there ever was, oldest first."""
        keys = await self.administration.keys()
        return keys_pb2.ListKeysResponse(
            keys=[keys_pb2.Key(kid=key.kid, status=_STATUS[key.status], created_at=key.created_at) for key in keys]
        )

    async def RotateKeys(self, _request: keys_pb2.RotateKeysRequest, _context: Any) -> keys_pb2.RotateKeysResponse:
        """Activates the spare."""
        return keys_pb2.RotateKeysResponse(
            active_kid=await self.administration.rotate_keys(by=current_caller().subject)
        )


def register(
    server: grpc.aio.Server,
    tokens: Tokens,
    revocations: Revocations,
    accounts: AccountsApi,
    keys: Keys,
    my_account: MyAccountApi,
    administration: administration_pb2_grpc.AdministrationServiceServicer,
) -> Sequence[str]:
    """Adds the six services; their full names."""
    tokens_pb2_grpc.add_TokensServiceServicer_to_server(tokens, server)
    revocations_pb2_grpc.add_RevocationsServiceServicer_to_server(revocations, server)
    accounts_pb2_grpc.add_AccountsServiceServicer_to_server(accounts, server)
    keys_pb2_grpc.add_KeysServiceServicer_to_server(keys, server)
    my_account_pb2_grpc.add_MyAccountServiceServicer_to_server(my_account, server)
    administration_pb2_grpc.add_AdministrationServiceServicer_to_server(administration, server)
    modules = (administration_pb2, tokens_pb2, revocations_pb2, accounts_pb2, keys_pb2, my_account_pb2)
    return [service.full_name for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
