"""Revocation (RFC 7009) and introspection (RFC 7662).

Revoking an access token takes back that token; revoking a refresh token ends its grant, access tokens included
(RFC 7009 section 2.1). With `rescind_end_session=true`, a parameter of our own, it signs the person out: the login
session that the grant is tied to ends, also where the token is spent or the grant over (decision record 33).
Introspection answers from SQL and is for confidential clients: for tokens of the audience that the client serves, or of
any with the permission `introspect_any`. Refresh tokens are nobody's business but their client's, and are never active
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from authlib.oauth2.rfc6749 import InvalidRequestError, UnauthorizedClientError
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from sqlalchemy import Connection

from identity.domain import Cause
from identity.oauth.clients import ANYBODY, CONFIDENTIAL, Client
from identity.oauth.requests import OAuthRequest

if TYPE_CHECKING:
    from identity.oauth.server import Server

END_SESSION = "rescind_end_session"  # RFC 6749 section 8.2 wants a prefix
_SHOWN = ("iss", "sub", "aud", "client_id", "exp", "iat", "jti", "scope", "auth_time", "sid")


class TokenReader(Protocol):
    """What SQL says of access tokens of ours."""

    def issued(self, tx: Connection, unverified_token: str) -> Mapping[str, Any] | None:
        """The claims of an access token that we signed, dead or alive; None for anything else."""

    def living(self, tx: Connection, unverified_token: str) -> Mapping[str, Any] | None:
        """The claims of an access token that is good right now; None for anything else."""


@dataclass(frozen=True, slots=True)
class Presented:
    """A token that a client wants to have revoked."""

    client_id: str
    grant_id: str | None  # of a refresh token
    session_id: str | None  # that this grant is tied to
    claims: Mapping[str, Any]  # of an access token

    def check_client(self, client: Client) -> bool:
        return client.id == self.client_id


class Revocation(RevocationEndpoint):  # type: ignore[misc]  # Authlib is untyped
    """RFC 7009. A token that is unknown, or dead already, is answered like one that was revoked."""

    CLIENT_AUTH_METHODS = ANYBODY
    server: "Server"

    def __init__(self, server: "Server", reader: TokenReader) -> None:
        super().__init__(server)
        self._reader = reader

    def check_params(self, request: OAuthRequest, client: Client) -> None:
        """`token` is all that is needed; a hint only hints, and is not (RFC 7009 section 2.1).

        Raises:
            InvalidRequestError: there is none.
            UnauthorizedClientError: it is to sign a person out, and the client is not ours, or cannot prove who it is.
        """
        _require_token(request)
        if _signs_out(request) and not (client.first_party and client.is_confidential):
            raise UnauthorizedClientError("This client signs nobody out.")

    def query_token(self, token_string: str, token_type_hint: str | None) -> Presented | None:  # noqa: ARG002
        claims = self._reader.issued(self.server.tx, token_string)
        if claims is not None:
            return Presented(claims["client_id"], None, None, claims)
        found = self.server.issuer.grant_of_refresh_token(self.server.tx, token_string)
        return None if found is None else Presented(found[1], found[0], found[2], {})

    def revoke_token(self, token: Presented, request: OAuthRequest) -> None:
        revocations, tx = self.server.issuer.revocations, self.server.tx
        if _signs_out(request) and token.grant_id is None:
            # Access tokens are shown to other services; who signs out has what never leaves the client.
            raise InvalidRequestError("Only a refresh token signs a person out.")
        if _signs_out(request) and token.session_id is not None:
            revocations.revoke_session(tx, token.session_id, Cause.SIGNED_OUT)
        elif token.grant_id is not None:
            revocations.revoke_grant(tx, token.grant_id, Cause.TOKEN_REVOKED)
        else:
            claims = token.claims
            revocations.revoke_token(tx, claims["jti"], Cause.TOKEN_REVOKED, expires_at=claims["exp"] * 1000)


class Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    """RFC 7662. What is not active, or not the caller's business, is exactly `{"active": false}`."""

    CLIENT_AUTH_METHODS = CONFIDENTIAL
    server: "Server"

    def __init__(self, server: "Server", reader: TokenReader) -> None:
        super().__init__(server)
        self._reader = reader

    def check_params(self, request: OAuthRequest, client: Client) -> None:  # noqa: ARG002
        _require_token(request)

    def query_token(self, token_string: str, token_type_hint: str | None) -> Mapping[str, Any] | None:  # noqa: ARG002
        return self._reader.living(self.server.tx, token_string)

    def check_permission(self, token: Mapping[str, Any], client: Client, request: OAuthRequest) -> bool:  # noqa: ARG002
        own = "introspect" in client.permissions and token["aud"] == f"urn:rescind:{client.id}"
        return own or "introspect_any" in client.permissions

    def create_introspection_payload(self, token: Mapping[str, Any] | None) -> dict[str, Any]:
        if token is None:
            return {"active": False}
        shown = {"active": True, "token_type": "Bearer"} | {name: token[name] for name in _SHOWN if name in token}
        return shown | ({"act": _actor(token["act"])} if "act" in token else {})


def _actor(act: Mapping[str, Any]) -> dict[str, Any]:
    """Who acts, and who did before (RFC 8693 section 4.1), without what only verifiers need."""
    return {"sub": act["sub"]} | ({"act": _actor(act["act"])} if "act" in act else {})


def _signs_out(request: OAuthRequest) -> bool:
    return request.parameters.get(END_SESSION) == "true"


def _require_token(request: OAuthRequest) -> None:
    if request.parameters.get("token") is None:
        raise InvalidRequestError("Missing 'token' in request.")
