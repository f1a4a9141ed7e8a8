"""Sessions over gRPC: for gateways that hold people's cookies, and for people's other apps."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from contracts.session.v1 import sessions_pb2 as pb
from contracts.session.v1 import sessions_pb2_grpc
from rescind import Principal
from rescind.grpc import Rule, current_principal
from servicekit.errors import Kind, ServiceError
from session.domain import AUDIENCES, Session, is_name
from session.service import Policies, Sessions, not_found
from session.token_handler import TokenHandler

SERVICE = pb.DESCRIPTOR.services_by_name["SessionsService"].full_name
# Scopes mean nothing at this audience: Resolve is for the clients that the settings name, the others for people.
METHODS = (f"/{SERVICE}/Resolve", f"/{SERVICE}/List", f"/{SERVICE}/Revoke")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


def rules(policies: Policies) -> Mapping[str, Rule]:
    """What each method asks of its caller's token; the servicer asks who the caller is."""
    resolve, list_, revoke = METHODS
    return {
        resolve: Rule(staleness=policies.write),
        list_: Rule(staleness=policies.read),
        revoke: Rule(staleness=policies.write),
    }


class SessionsServicer(sessions_pb2_grpc.SessionsServiceServicer):
    """Runs behind the interceptor that has authenticated the call. `resolvers` are client ids."""

    def __init__(self, sessions: Sessions, tokens: TokenHandler, resolvers: frozenset[str]) -> None:
        self._sessions = sessions
        self._tokens = tokens
        self._resolvers = resolvers

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        """Who a cookie speaks for, and a token of theirs for one service."""
        caller = current_principal()
        if caller.is_user or caller.client_id not in self._resolvers:
            raise ServiceError(Kind.FORBIDDEN, "NOT_A_RESOLVER", "This client may not present people's cookies.")
        if request.audience and request.audience not in AUDIENCES:
            raise ServiceError(Kind.INVALID, "AUDIENCE_UNKNOWN", "There is no such service to have a token for.")
        policy = self._sessions.policies.read
        try:
            held = await self._sessions.current(request.cookie)
            if request.audience:
                granted = await self._tokens.token_for(held, request.audience, staleness=policy)
            else:
                granted = await self._tokens.judge(held, staleness=policy)
        except ServiceError as error:
            if error.kind is not Kind.UNAUTHENTICATED:
                raise
            # It is not the caller who is not signed in.
            raise ServiceError(Kind.NOT_FOUND, error.reason, error.detail, fields=error.fields) from error
        session = held.session
        response = pb.ResolveResponse(
            subject=session.subject,
            sid=session.sid,
            session_id=session.name,
            authenticated_at=_timestamp(session.authenticated_at),
        )
        if request.audience:
            response.access_token = granted.token
            response.access_token_expires_at.CopyFrom(_timestamp(granted.principal.expires_at * 1000))
        return response

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        """The caller's own sessions."""
        found = await self._sessions.of_person(_person().subject)
        return pb.ListResponse(sessions=[_shown(session) for session in found])

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:
        """Ends sessions of the caller's: each signs itself out at identity, with the token that it holds."""
        wanted = _which(request, await self._sessions.of_person(_person().subject))
        failed: ServiceError | None = None
        for session in wanted:
            held = await self._sessions.peek(session.key)
            if held is None:
                continue
            try:
                await self._sessions.sign_out(held)
            except ServiceError as error:  # that one is over here; so must the others be
                failed = error
        if failed is not None:
            raise failed
        return pb.RevokeResponse(ended=len(wanted))


def _person() -> Principal:
    caller = current_principal()
    if not caller.is_user:
        raise ServiceError(Kind.FORBIDDEN, "PERSON_REQUIRED", "Sessions belong to people; a client has none.")
    if caller.actor is not None:
        raise ServiceError(Kind.FORBIDDEN, "ACTED_FOR", "A service that acts for a person leaves their sessions be.")
    return caller


def _which(request: pb.RevokeRequest, mine: Sequence[Session]) -> list[Session]:
    which = request.WhichOneof("which")
    if which == "session_id":
        found = [session for session in mine if session.name == request.session_id]
        if not found:
            raise not_found()
        return found
    if which == "others_than":
        if not is_name(request.others_than):
            raise not_found()
        return [session for session in mine if session.name != request.others_than]
    if which == "all" and request.all:
        return list(mine)
    raise ServiceError(Kind.INVALID, "VALIDATION_FAILED", "Say which sessions shall end.")


def _shown(session: Session) -> pb.Session:
    return pb.Session(
        id=session.name,
        sid=session.sid,
        device=session.device,
        address=session.address,
        created_at=_timestamp(session.created_at),
        last_used_at=_timestamp(session.last_used_at),
        expires_at=_timestamp(session.expires_at),
    )


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp
