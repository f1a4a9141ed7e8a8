"""RFC 8628: the device authorization endpoint, and the grant that a device polls for.

The pages on which a person decides are `identity.device_pages`; what is stored and when it is spent, `device_codes`.
"""

from typing import TYPE_CHECKING, Any

from authlib.oauth2.rfc6749 import (
    AccessDeniedError,
    BaseGrant,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
    TokenEndpointMixin,
    UnauthorizedClientError,
)
from authlib.oauth2.rfc8628 import (
    DEVICE_CODE_GRANT_TYPE,
    AuthorizationPendingError,
    ExpiredTokenError,
    SlowDownError,
)

from identity.device_codes import DeviceCodes
from identity.domain import IDENTITY_AUDIENCE, DeviceError, Grant
from identity.oauth.clients import ANYBODY, Client
from identity.oauth.errors import InvalidTargetError, in_oauth_words
from identity.oauth.grants import first_tokens, meaningful
from identity.oauth.requests import OAuthRequest

if TYPE_CHECKING:
    from identity.oauth.server import Server

_ERRORS: dict[str, type[OAuth2Error]] = {
    "authorization_pending": AuthorizationPendingError,
    "slow_down": SlowDownError,
    "access_denied": AccessDeniedError,
    "expired_token": ExpiredTokenError,
}


class DeviceAuthorization:
    """Section 3.1: a device begins to wait, and learns what to show."""

    ENDPOINT_NAME = "device_authorization"

    def __init__(self, server: "Server") -> None:
        self.server = server

    def create_endpoint_request(self, request: OAuthRequest) -> OAuthRequest:
        return request

    def __call__(self, request: OAuthRequest) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """
        Raises:
            OAuth2Error: not a client of ours, not its grant type, a scope or audience that is not its to ask for, or a
                `max_age` that is no number.
        """
        client: Client = self.server.authenticate_client(request, ANYBODY, self.ENDPOINT_NAME)
        if not client.check_grant_type(DEVICE_CODE_GRANT_TYPE):
            raise UnauthorizedClientError("The client may not use this grant type.")
        asked = request.parameters
        resources = asked.resources or (IDENTITY_AUDIENCE,)
        if any(audience not in client.resources for audience in resources):
            raise InvalidTargetError
        self.server.validate_requested_scope(asked.get("scope"))
        scope = meaningful(client.get_allowed_scope(asked.get("scope")) or "", resources)
        if not scope:
            raise InvalidScopeError
        max_age = asked.get("max_age")
        if max_age is not None and not (max_age.isascii() and max_age.isdigit() and len(max_age) < 10):
            raise InvalidRequestError("Invalid 'max_age' parameter.")
        with in_oauth_words():
            begun = DeviceCodes(self.server.issuer).begin(
                self.server.tx,
                client_id=client.id,
                scope=scope,
                resources=resources,
                max_auth_age=None if max_age is None else int(max_age),
            )
        page = f"{self.server.issuer.issuer}/device"
        answer = {
            "device_code": begun.device_code,
            "user_code": begun.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={begun.user_code}",
            "expires_in": begun.expires_in,
            "interval": begun.interval,
        }
        return 200, answer, [("Cache-Control", "no-store"), ("Pragma", "no-cache")]


class DeviceGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # Authlib is untyped
    """Section 3.4."""

    GRANT_TYPE = DEVICE_CODE_GRANT_TYPE
    TOKEN_ENDPOINT_AUTH_METHODS = ANYBODY

    request: OAuthRequest
    server: "Server"
    granted: Grant

    def validate_token_request(self) -> None:
        """Spends the device code, if the person has allowed it; of any number of polls one gets past here.

        Raises:
            OAuth2Error: not yet, not any more, or never.
        """
        self.request.client = client = self.authenticate_token_endpoint_client()
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError("The client may not use this grant type.")
        device_code = self.request.parameters.get("device_code")
        if device_code is None:
            raise InvalidRequestError("Missing 'device_code' in request.")
        with in_oauth_words():
            try:
                self.granted = DeviceCodes(self.server.issuer).redeem(self.server.tx, device_code, client.id)
            except DeviceError as wait:
                self.server.note()
                raise _ERRORS[wait.error] from None

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """The tokens (section 3.5)."""
        answer = first_tokens(self.server, self.request, self.granted, nonce=None)
        return 200, answer, self.TOKEN_RESPONSE_HEADER
