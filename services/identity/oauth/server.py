"""Authlib's server inside one transaction: it answers, and tells whether the transaction may be kept.

Everything but a granted request rolls back, so a refused request leaves no trace: no code spent, no token rotated.
The exceptions are the answer to a code or refresh token that came twice, which refuses, and the end of the grant is
kept; and the answer to a device that polls, which has to wait, and when it polled is kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AuthorizationServer, InvalidRequestError
from sqlalchemy import Connection

from identity.domain import AUDIENCE_SCOPES
from identity.issuing import Issuer
from identity.oauth.clients import Client
from identity.oauth.device import DeviceAuthorization, DeviceGrant
from identity.oauth.endpoints import Introspection, Revocation, TokenReader
from identity.oauth.grants import ClientCredentials, CodeGrant, RefreshGrant, S256Only
from identity.oauth.requests import OAuthRequest
from identity.oauth.token_exchange import TokenExchange

SCOPES = tuple(sorted(frozenset().union(*AUDIENCE_SCOPES.values())))

_log = structlog.get_logger("identity.oauth")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes over HTTP: a JSON object, or a redirect when there is a Location."""

    status: int
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = field(default=())

    @property
    def location(self) -> str | None:
        """Where a redirect leads."""
        return dict(self.headers).get("Location")


class RolledBack(Exception):
    """Raised out of a transaction to undo it; `answer` is for the client."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Server(AuthorizationServer):  # type: ignore[misc]  # Authlib is untyped
    """One conversation with a client."""

    def __init__(self, tx: Connection, issuer: Issuer, reader: TokenReader) -> None:
        super().__init__(scopes_supported=SCOPES)
        self.tx = tx
        self.issuer = issuer
        self.reader = reader
        self._kept: list[tuple[str, str]] = []
        self._noted = False
        self.register_grant(CodeGrant, [S256Only()])
        self.register_grant(RefreshGrant)
        self.register_grant(ClientCredentials)
        self.register_grant(DeviceGrant)
        self.register_grant(TokenExchange)
        self.register_endpoint(DeviceAuthorization(self))
        self.register_endpoint(Revocation(self, reader))
        self.register_endpoint(Introspection(self, reader))

    def answer(self, respond: Callable[["Server"], Answer]) -> Answer:
        """What `respond` answers, if the transaction may be committed with it.

        Raises:
            RolledBack: it may not.
        """
        try:
            answer = respond(self)
        except OAuth2Error as error:
            answer = self.handle_error_response(None, error)
        if answer.status >= 400 and not (self._kept or self._noted):
            raise RolledBack(answer)
        for event, client_id in self._kept:
            _log.warning(event, client_id=client_id)
        return answer

    def keep(self, event: str, client_id: str) -> None:
        """Has this transaction committed although the answer refuses: it has ended a grant because of `event`."""
        self._kept.append((event, client_id))

    def note(self) -> None:
        """Has this transaction committed although the answer refuses: it remembers a poll that came to wait."""
        self._noted = True

    # What Authlib asks of whoever embeds it.

    def query_client(self, client_id: str) -> Client | None:
        return Client.find(self.tx, client_id)

    def get_authorization_grant(self, request: OAuthRequest) -> CodeGrant:
        """The code grant; there is no other here.

        Raises:
            OAuth2Error: another response type. Only a registered redirect URI gets to hear of it.
        """
        asked = request.parameters
        if asked.response_type == "code":
            grant: CodeGrant = super().get_authorization_grant(request)
            return grant
        client = None if asked.client_id is None else self.query_client(asked.client_id)
        known = client is not None and client.check_redirect_uri(asked.redirect_uri or "")
        raise OAuth2Error(
            "Only response_type=code is supported.",
            error="invalid_request" if asked.response_type is None else "unsupported_response_type",
            redirect_uri=asked.redirect_uri if known else None,
        )

    def get_token_grant(self, request: OAuthRequest) -> Any:
        """
        Raises:
            OAuth2Error: another grant type than those registered here, or none.
        """
        if request.parameters.grant_type is None:
            raise InvalidRequestError("Missing 'grant_type' in request.")
        return super().get_token_grant(request)

    def create_oauth2_request(self, request: OAuthRequest) -> OAuthRequest:
        return request

    def save_token(self, token: object, request: object) -> None:
        """Nothing: access tokens are not stored, and refresh tokens are when they are made."""

    def send_signal(self, name: str, *args: object, **kwargs: object) -> None:
        """Nothing listens."""

    def handle_response(self, status: int, body: dict[str, Any] | str, headers: Sequence[tuple[str, str]]) -> Answer:
        return Answer(status, body if isinstance(body, dict) else {}, tuple(headers))
