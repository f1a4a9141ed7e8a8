"""MyAccountService over gRPC: translation only. The caller is whom it is about; nobody can name another person."""

from dataclasses import dataclass
from typing import Any

from contracts.identity.v1 import my_account_pb2, my_account_pb2_grpc
from identity.authority import current_caller
from identity.domain import Position
from identity.my_account import AppGrant, Held, MyAccount, SignedInSession
from servicekit.errors import Kind, ServiceError


@dataclass(frozen=True, slots=True)
class MyAccountApi(my_account_pb2_grpc.MyAccountServiceServicer):
    """MyAccountService."""

    my_account: MyAccount

    async def ListMySessions(
        self, _request: my_account_pb2.ListMySessionsRequest, _context: Any
    ) -> my_account_pb2.ListMySessionsResponse:
        """Where the caller is signed in, and which apps hold access."""
        caller = current_caller()
        return listed(await self.my_account.held(caller.subject), current=caller.session_id)

    async def EndMySessions(
        self, request: my_account_pb2.EndMySessionsRequest, _context: Any
    ) -> my_account_pb2.EndMySessionsResponse:
        """Signs the caller out: of one session, of all others, or everywhere."""
        ended, position = await self._end(request, current_caller().subject)
        return my_account_pb2.EndMySessionsResponse(ended=ended, log=position.log, position=position.pos)

    async def _end(self, request: my_account_pb2.EndMySessionsRequest, subject: str) -> tuple[int, Position]:
        match request.WhichOneof("which"):
            case "sid":
                return await self.my_account.end_session(subject, request.sid)
            case "others_than":
                return await self.my_account.end_other_sessions(subject, request.others_than)
            case "everywhere" if request.everywhere:
                return await self.my_account.end_everything(subject)
        raise ServiceError(Kind.INVALID, "BAD_TARGET", "Say which sessions are to end.")

    async def WithdrawMyGrant(
        self, request: my_account_pb2.WithdrawMyGrantRequest, _context: Any
    ) -> my_account_pb2.WithdrawMyGrantResponse:
        """Takes an app's access back."""
        position = await self.my_account.withdraw(current_caller().subject, request.gid)
        return my_account_pb2.WithdrawMyGrantResponse(log=position.log, position=position.pos)


def listed(held: Held, *, current: str) -> my_account_pb2.ListMySessionsResponse:
    """What a person holds; `current` is the session that the caller's token hangs on."""
    return my_account_pb2.ListMySessionsResponse(
        sessions=[_session(session, current) for session in held.sessions],
        offline_grants=[_app(grant) for grant in held.offline],
    )


def _session(session: SignedInSession, current: str) -> my_account_pb2.LoginSession:
    return my_account_pb2.LoginSession(
        sid=session.sid,
        created_at=session.created_at,
        auth_time=session.auth_time,
        expires_at=session.expires_at,
        current=session.sid == current,
        user_agent=session.user_agent,
        address=session.network,
        grants=[_app(grant) for grant in session.grants],
    )


def _app(grant: AppGrant) -> my_account_pb2.AppGrant:
    return my_account_pb2.AppGrant(
        gid=grant.gid,
        client_id=grant.client_id,
        client_name=grant.client_name,
        scopes=grant.scopes,
        created_at=grant.created_at,
        expires_at=grant.expires_at,
        first_party=grant.first_party,
    )
