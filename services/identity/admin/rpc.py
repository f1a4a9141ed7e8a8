"""AdministrationService over gRPC: translation only. The interceptor has let in who may administer."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from contracts.identity.v1 import administration_pb2, administration_pb2_grpc, my_account_pb2
from identity.admin import directory
from identity.admin.registry import Registry
from identity.administration import Administration
from identity.audit import AuditRecord, AuditTrail
from identity.authority import current_caller
from identity.my_account import MyAccount
from identity.my_account_rpc import listed
from identity.service import NewClient
from servicekit.database import Database


@dataclass(frozen=True, slots=True)
class AdministrationApi(administration_pb2_grpc.AdministrationServiceServicer):
    """AdministrationService."""

    database: Database
    administration: Administration
    registry: Registry
    holdings: MyAccount
    audit: AuditTrail

    async def ListUsers(
        self, request: administration_pb2.ListUsersRequest, _context: Any
    ) -> administration_pb2.ListUsersResponse:
        """People, by e-mail address."""
        find = partial(
            directory.find_users,
            search=request.search,
            size=directory.page_size(request.page_size),
            token=request.page_token,
        )
        users, token = await self.database.read(find)
        return administration_pb2.ListUsersResponse(users=map(_user, users), next_page_token=token)

    async def GetUser(self, request: administration_pb2.GetUserRequest, _context: Any) -> administration_pb2.User:
        """One person."""
        return _user(await self.database.read(partial(directory.get_user, user_id=request.subject)))

    async def ListUserSessions(
        self, request: administration_pb2.ListUserSessionsRequest, _context: Any
    ) -> my_account_pb2.ListMySessionsResponse:
        """Where a person is signed in, and which apps have access."""
        user = await self.database.read(partial(directory.get_user, user_id=request.subject))
        return listed(await self.holdings.held(user.id), current="")

    async def EndUserSessions(
        self, request: administration_pb2.EndUserSessionsRequest, _context: Any
    ) -> administration_pb2.EndUserSessionsResponse:
        """Signs a person out everywhere."""
        user = await self.database.read(partial(directory.get_user, user_id=request.subject))
        position = await self.administration.revoke("subject", user.id, cause="", by=current_caller().subject)
        return administration_pb2.EndUserSessionsResponse(log=position.log, position=position.pos)

    async def EndAllSessions(
        self, _request: administration_pb2.EndAllSessionsRequest, _context: Any
    ) -> administration_pb2.EndAllSessionsResponse:
        """Signs everybody out everywhere."""
        return administration_pb2.EndAllSessionsResponse(
            log=await self.administration.end_everything(by=current_caller().subject)
        )

    async def WithdrawUserGrant(
        self, request: administration_pb2.WithdrawUserGrantRequest, _context: Any
    ) -> administration_pb2.WithdrawUserGrantResponse:
        """Takes an app's access to a person's account back."""
        await self.holdings.require_grant(request.subject, request.gid)
        position = await self.administration.revoke("grant", request.gid, cause="", by=current_caller().subject)
        return administration_pb2.WithdrawUserGrantResponse(log=position.log, position=position.pos)

    async def ListClients(
        self, _request: administration_pb2.ListClientsRequest, _context: Any
    ) -> administration_pb2.ListClientsResponse:
        """Every client there is."""
        clients = await self.database.read(directory.list_clients)
        return administration_pb2.ListClientsResponse(clients=map(_client, clients))

    async def CreateClient(
        self, request: administration_pb2.CreateClientRequest, _context: Any
    ) -> administration_pb2.CreateClientResponse:
        """Registers a client."""
        asked = request.client
        made = await self.registry.create(
            NewClient(
                id=asked.client_id,
                name=asked.name,
                first_party=asked.first_party,
                redirect_uris=tuple(asked.redirect_uris),
                grant_types=tuple(asked.grant_types),
                scopes=tuple(asked.scopes),
                resources=tuple(asked.resources),
                permissions=tuple(asked.permissions),
            ),
            confidential=asked.confidential,
            by=current_caller().subject,
        )
        return administration_pb2.CreateClientResponse(client=_client(made.client), client_secret=made.secret)

    async def RotateClientSecret(
        self, request: administration_pb2.RotateClientSecretRequest, _context: Any
    ) -> administration_pb2.RotateClientSecretResponse:
        """Gives a client a new secret."""
        secret = await self.registry.rotate_secret(request.client_id, by=current_caller().subject)
        return administration_pb2.RotateClientSecretResponse(client_secret=secret)

    async def ListAuditRecords(
        self, request: administration_pb2.ListAuditRecordsRequest, _context: Any
    ) -> administration_pb2.ListAuditRecordsResponse:
        """What administrators did, last first."""
        read = partial(
            self.audit.read,
            about=request.about,
            size=directory.page_size(request.page_size),
            token=request.page_token,
        )
        records, token = await self.database.read(read)
        return administration_pb2.ListAuditRecordsResponse(records=map(_record, records), next_page_token=token)


def _user(user: directory.UserRecord) -> administration_pb2.User:
    return administration_pb2.User(
        subject=user.id,
        email=user.email,
        name=user.name,
        roles=user.roles,
        created_at=user.created_at,
        email_verified_at=user.email_verified_at or 0,
        disabled_at=user.disabled_at or 0,
    )


def _client(client: directory.ClientRecord) -> administration_pb2.Client:
    return administration_pb2.Client(
        client_id=client.id,
        name=client.name,
        confidential=client.confidential,
        first_party=client.first_party,
        redirect_uris=client.redirect_uris,
        grant_types=client.grant_types,
        scopes=client.scopes,
        resources=client.resources,
        permissions=client.permissions,
        created_at=client.created_at,
        disabled_at=client.disabled_at or 0,
    )


def _record(record: AuditRecord) -> administration_pb2.AuditRecord:
    return administration_pb2.AuditRecord(
        id=str(record.id),
        at=record.at,
        by=record.by,
        action=record.action,
        target_kind=record.target_kind,
        target=record.target,
        details=dict(record.details),
        request_id=record.request_id,
    )
