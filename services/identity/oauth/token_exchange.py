"""RFC 8693: a service exchanges the token that it was called with. Reading and answering; the rules are in `exchange`.

The actor is the client that authenticates, so there is no `actor_token`. A subject token that is no good, or not this
client's to exchange, is `invalid_request`, without saying which (section 2.2.2).
"""

from typing import TYPE_CHECKING, Any

import structlog
from authlib.oauth2.rfc6749 import (
    BaseGrant,
    InvalidRequestError,
    TokenEndpointMixin,
    UnauthorizedClientError,
)

from identity.domain import ClientId, InvalidGrant, IssuingError
from identity.exchange import exchange, lock_chain
from identity.oauth.clients import CONFIDENTIAL
from identity.oauth.errors import InvalidTargetError, in_oauth_words
from identity.oauth.grants import bearer
from identity.oauth.requests import OAuthRequest, Parameters

if TYPE_CHECKING:
    from identity.oauth.server import Server

TOKEN_EXCHANGE_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  (a name)
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105

_log = structlog.get_logger("identity.oauth")


class TokenExchange(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib is untyped
    """For confidential clients that are registered for it."""

    GRANT_TYPE = TOKEN_EXCHANGE_GRANT_TYPE
    TOKEN_ENDPOINT_AUTH_METHODS = CONFIDENTIAL

    request: OAuthRequest
    server: "Server"
    audience: str

    def validate_token_request(self) -> None:
        """
        Raises:
            OAuth2Error: another client, another kind of token, or not exactly one target.
        """
        self.request.client = client = self.authenticate_token_endpoint_client()
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError("The client may not use this grant type.")
        asked = self.request.parameters
        if asked.get("subject_token") is None or asked.get("subject_token_type") != ACCESS_TOKEN_TYPE:
            raise InvalidRequestError(f"A subject_token of type {ACCESS_TOKEN_TYPE} is needed.")
        if asked.get("actor_token") is not None or asked.get("actor_token_type") is not None:
            raise InvalidRequestError("The actor is the client itself: there is no actor_token.")
        if asked.get("requested_token_type") not in (None, ACCESS_TOKEN_TYPE):
            raise InvalidRequestError("Only access tokens are issued.")
        self.audience = _target(asked)

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """The token (section 2.2.1).

        Raises:
            OAuth2Error: the subject token is no good here, or the target or scope may not be had.
        """
        asked, client, tx = self.request.parameters, self.request.client, self.server.tx
        acting = ClientId(client.id)
        subject_token = asked.data["subject_token"]
        refused = InvalidRequestError("The subject token is not acceptable.")
        claims = self.server.reader.issued(tx, subject_token)
        if claims is None:
            raise refused
        try:
            lock_chain(self.server.issuer, tx, claims, acting)
        except IssuingError:
            raise refused from None
        if self.server.reader.living(tx, subject_token) is None:
            raise refused
        with in_oauth_words():
            try:
                access = exchange(
                    self.server.issuer, tx, claims, acting=acting, audience=self.audience, scope=asked.get("scope")
                )
            except InvalidGrant:
                raise refused from None
        _log.info("token_exchanged", client_id=acting, jti=access.claims["jti"], ojti=claims["jti"], aud=self.audience)
        return 200, bearer(access) | {"issued_token_type": ACCESS_TOKEN_TYPE}, self.TOKEN_RESPONSE_HEADER


def _target(asked: Parameters) -> str:
    """The one service that the token is for, named by `resource`, `audience`, or both alike.

    Raises:
        InvalidTargetError: none, or more than one.
    """
    audience = asked.get("audience")
    named = {*asked.resources, *(() if audience is None else (audience,))}
    if len(named) != 1:
        raise InvalidTargetError("Name the one resource that the token is for.")
    return str(named.pop())
