"""Who is calling identity itself, and what they may do: from SQL, so it works when Redis does not.

Every RPC has a rule; a method without one is refused. A rule is met by a scope of the token or, for clients that speak
for themselves, by a permission that the client was registered with. A person's token never carries the permissions of
the client that got it.

What changes something for others asks, besides, for a person who signed in lately (RFC 9470). A client that speaks for
itself has no sign-in that could be old: it proved its secret or key for this very token, which cannot be refreshed. It
may do what it was registered for; who does not want that does not register a client with `identity:admin` or `revoke`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from sqlalchemy import Connection, select

from identity.domain import IDENTITY_AUDIENCE
from identity.introspection import Introspector
from identity.storage import clients
from rescind.errors import InsufficientScope, MalformedToken, StepUpRequired, UntrustedToken
from servicekit.database import Database
from servicekit.errors import Kind, ServiceError

ADMIN = "identity:admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token came with the call."""

    subject: str
    client_id: str
    scopes: frozenset[str]
    permissions: frozenset[str]
    session_id: str = ""  # the login session that the token hangs on
    first_party: bool = False  # whether the client is one of ours
    acted_for: bool = False  # whether a service acts for the person (RFC 8693)
    signed_in_for: int | None = None  # ms since the person signed in; None for a client that speaks for itself


@dataclass(frozen=True, slots=True)
class Rule:
    """What permits a call: any of these scopes and permissions.

    `own_account`: the token must speak for a person, and come through a client of ours. What an app of somebody else
    may know of a person is who they are; it neither sees where they are signed in nor signs them out. Nor does a
    service that acts for the person: their account is theirs alone.

    `recent`: a person must have signed in lately.
    """

    scopes: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    own_account: bool = False
    recent: bool = False

    def check(self, caller: Caller, max_auth_age: int) -> None:
        """Returns if the caller may. `max_auth_age`: the seconds that `recent` means.

        Raises:
            InsufficientScope: not, and a scope would help.
            StepUpRequired: they may, once they have signed in again.
            ServiceError: NOT_PERMITTED, ACTED_FOR.
        """
        self._permit(caller)
        if self.recent and caller.signed_in_for is not None and caller.signed_in_for >= max_auth_age * 1000:
            raise StepUpRequired(max_auth_age)

    def _permit(self, caller: Caller) -> None:
        if self.own_account and caller.acted_for:
            raise ServiceError(Kind.FORBIDDEN, "ACTED_FOR", "A service that acts for a person leaves their account be.")
        if self.own_account and not (caller.subject.startswith("usr_") and caller.first_party):
            raise ServiceError(Kind.FORBIDDEN, "NOT_PERMITTED", "This is for people, through an app of ours.")
        if self.scopes & caller.scopes or self.permissions & caller.permissions:
            return
        if self.scopes:
            raise InsufficientScope(self.scopes)
        raise ServiceError(Kind.FORBIDDEN, "NOT_PERMITTED", "This client may not do this.")


_READING = Rule(scopes=frozenset({ADMIN}))
_CHANGING = Rule(scopes=frozenset({ADMIN}), recent=True)
_OWN_ACCOUNT = Rule(scopes=frozenset({"openid"}), own_account=True)
_PACKAGE = "/contracts.identity.v1"
RULES: Mapping[str, Rule] = {
    f"{_PACKAGE}.TokensService/Introspect": Rule(permissions=frozenset({"introspect", "introspect_any"})),
    f"{_PACKAGE}.RevocationsService/Revoke": Rule(
        scopes=frozenset({ADMIN}), permissions=frozenset({"revoke"}), recent=True
    ),
    f"{_PACKAGE}.RevocationsService/Replay": Rule(scopes=frozenset({ADMIN}), permissions=frozenset({"replay"})),
    f"{_PACKAGE}.RevocationsService/Report": Rule(permissions=frozenset({"replay"})),
    f"{_PACKAGE}.RevocationsService/GetStatus": Rule(
        scopes=frozenset({ADMIN}), permissions=frozenset({"replay", "revoke", "introspect_any"})
    ),
    f"{_PACKAGE}.AccountsService/GetContact": Rule(permissions=frozenset({"contacts"})),
    f"{_PACKAGE}.AccountsService/SetRoles": _CHANGING,
    f"{_PACKAGE}.AccountsService/DisableAccount": _CHANGING,
    f"{_PACKAGE}.AccountsService/EnableAccount": _CHANGING,
    f"{_PACKAGE}.AccountsService/DisableClient": _CHANGING,
    f"{_PACKAGE}.AccountsService/EnableClient": _CHANGING,
    f"{_PACKAGE}.KeysService/ListKeys": _READING,
    f"{_PACKAGE}.KeysService/RotateKeys": _CHANGING,
    **{
        f"{_PACKAGE}.AdministrationService/{method}": _READING
        for method in ("ListUsers", "GetUser", "ListUserSessions", "ListClients", "ListAuditRecords")
    },
    **{
        f"{_PACKAGE}.AdministrationService/{method}": _CHANGING
        for method in ("EndUserSessions", "EndAllSessions", "WithdrawUserGrant", "CreateClient", "RotateClientSecret")
    },
    f"{_PACKAGE}.MyAccountService/ListMySessions": _OWN_ACCOUNT,
    f"{_PACKAGE}.MyAccountService/EndMySessions": _OWN_ACCOUNT,
    f"{_PACKAGE}.MyAccountService/WithdrawMyGrant": _OWN_ACCOUNT,
}
PUBLIC = ("/grpc.health.v1.Health/", "/grpc.reflection.")  # prefixes

_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Who made the RPC that is being handled."""
    return _caller.get()


class Authority:
    """Tells who a bearer token speaks for."""

    def __init__(self, database: Database, introspector: Introspector) -> None:
        self._database = database
        self._introspector = introspector

    async def caller(self, unverified_token: str) -> Caller:
        """The caller, if the token is good right now and meant for identity.

        Raises:
            TokenRefused: it is not.
            ServiceError: DATABASE_UNAVAILABLE.
        """
        return await self._database.read(partial(self._read, unverified_token=unverified_token))

    def _read(self, tx: Connection, unverified_token: str) -> Caller:
        claims = self._introspector.judge(tx, unverified_token)
        if claims["aud"] != IDENTITY_AUDIENCE:
            raise UntrustedToken("another audience")
        query = select(clients.c.permissions, clients.c.first_party).where(clients.c.id == claims["client_id"])
        client = tx.execute(query).one()
        return Caller(
            subject=claims["sub"],
            client_id=claims["client_id"],
            scopes=frozenset(claims["scope"].split()),
            permissions=frozenset(client.permissions if claims["sub"].startswith("svc_") else ()),
            session_id=claims.get("sid", ""),
            first_party=client.first_party,
            acted_for="act" in claims,
            signed_in_for=self._database.now(tx) - claims["auth_time"] * 1000 if "auth_time" in claims else None,
        )


def bearer(authorization: str | None) -> str:
    """The token of an Authorization value (RFC 6750 section 2.1), unverified.

    Raises:
        ServiceError: NO_TOKEN.
        MalformedToken: there is something else in it.
    """
    if not authorization:
        raise ServiceError(
            Kind.UNAUTHENTICATED, "NO_TOKEN", "This needs an access token.", headers={"www-authenticate": "Bearer"}
        )
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise MalformedToken("not a bearer token")
    return token


def require_text(request: Message) -> None:
    """Returns if no text in the request holds a NUL, which is no text to PostgreSQL.

    Raises:
        ServiceError: BAD_TEXT.
    """
    for named, value in request.ListFields():
        for one in value if named.is_repeated else (value,):
            if isinstance(one, Message):
                require_text(one)
            elif isinstance(one, str) and "\0" in one:
                raise ServiceError(Kind.INVALID, "BAD_TEXT", f"There is a NUL in {named.name}.")


@dataclass(frozen=True, slots=True)
class AuthorityInterceptor(grpc.aio.ServerInterceptor):
    """Lets an RPC through when its rule is met; handlers read `current_caller()`."""

    authority: Authority
    max_auth_age: int  # seconds
    rules: Mapping[str, Rule] = field(default_factory=lambda: RULES)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wraps the handler in its rule."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(PUBLIC):
            return handler
        rule = self.rules.get(method)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(rule, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(rule, handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(self, rule: Rule | None, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            await self._admit(rule, context)
            require_text(request)
            return await behaviour(request, context)

        return call

    def _stream(
        self, rule: Rule | None, behaviour: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            await self._admit(rule, context)
            require_text(request)
            async for response in behaviour(request, context):
                yield response

        return call

    async def _admit(self, rule: Rule | None, context: Any) -> None:
        if rule is None:
            raise ServiceError(Kind.FORBIDDEN, "NO_RULE", "Nobody may call this.")
        metadata = {name.lower(): value for name, value in context.invocation_metadata() or ()}
        caller = await self.authority.caller(bearer(metadata.get("authorization")))
        rule.check(caller, self.max_auth_age)
        _caller.set(caller)
