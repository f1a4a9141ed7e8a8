"""Three ways to a token: code + PKCE, refresh, client credentials. Password and implicit do not exist here.

Authlib reads and checks the request; `Issuer` consumes, locks and signs. A code or refresh token is consumed *before*
the rest of the request is checked, and a refusal rolls the transaction back, so it is spent only by a request that
gets tokens. Scope and audience can only narrow on the way (RFC 6749 section 6, RFC 8707 section 2.2).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from authlib.oauth2.rfc6749 import InvalidRequestError, InvalidScopeError, grants
from authlib.oauth2.rfc7636 import CodeChallenge

from identity.domain import (
    AUDIENCE_SCOPES,
    IDENTITY_AUDIENCE,
    OFFLINE,
    AccessToken,
    CodeReused,
    Grant,
    Redeemed,
    RefreshReused,
    Rotated,
)
from identity.oauth.clients import Client
from identity.oauth.errors import InvalidTargetError, in_oauth_words
from identity.oauth.requests import OAuthRequest, Parameters

if TYPE_CHECKING:
    from identity.oauth.server import Server

# Scopes that ask for an ID token or a refresh token: they mean something whatever the audience is.
OF_THE_GRANT = frozenset({"openid", OFFLINE})


def audience_among(asked: Sequence[str], authorized: Sequence[str]) -> str:
    """The one audience of an access token.

    Raises:
        InvalidTargetError: more than one was asked for, one that was not authorized, or none where there are several.
    """
    candidates = asked or authorized
    if len(candidates) != 1 or candidates[0] not in authorized:
        raise InvalidTargetError("Name the one resource that the token is for, among those authorized.")
    return candidates[0]


def meaningful(scope: str, audiences: Sequence[str]) -> str:
    """What of `scope` means something: to the grant itself or at one of the audiences."""
    known = OF_THE_GRANT.union(*(AUDIENCE_SCOPES.get(audience, frozenset()) for audience in audiences))
    return " ".join(name for name in scope.split() if name in known)


class S256Only(CodeChallenge):  # type: ignore[misc]  # Authlib is untyped
    """PKCE for every client, and S256 for every challenge (RFC 9700 section 2.1.1); there is no default method."""

    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)

    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        asked = grant.request.payload.data
        if "code_challenge" not in asked or asked.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: code_challenge, with code_challenge_method=S256.")
        super().validate_code_challenge(grant, redirect_uri)

    def get_authorization_code_challenge_method(self, authorization_code: Any) -> str:  # noqa: ARG002
        return "S256"


class Code:
    """A redeemed code, as Authlib reads it."""

    def __init__(self, redeemed: Redeemed) -> None:
        self.redeemed = redeemed
        self.code_challenge = redeemed.code_challenge

    def get_redirect_uri(self) -> str:
        return self.redeemed.redirect_uri

    def get_scope(self) -> str:
        return self.redeemed.scope


class RefreshToken:
    """A rotated refresh token, as Authlib reads it."""

    def __init__(self, rotated: Rotated) -> None:
        self.rotated = rotated

    def check_client(self, client: Client) -> bool:
        return self.rotated.grant.client_id == client.id

    def get_scope(self) -> str:
        return self.rotated.grant.scope


class CodeGrant(grants.AuthorizationCodeGrant):  # type: ignore[misc]
    """RFC 6749 section 4.1."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")

    request: OAuthRequest
    server: "Server"
    # Who authorizes, and what exactly: set by `authorization` before the code is made.
    session_id: str
    scope: str

    @staticmethod
    def validate_authorization_redirect_uri(request: OAuthRequest, client: Client) -> str:
        """The registered redirect URI.

        Raises:
            InvalidRequestError: it is missing or another. There is no redirect then, and its text is not repeated.
        """
        redirect_uri = request.parameters.get("redirect_uri")
        if redirect_uri is None or not client.check_redirect_uri(redirect_uri):
            raise InvalidRequestError("The redirect_uri is missing or not registered for this client.")
        return redirect_uri

    def validate_requested_scope(self) -> None:
        super().validate_requested_scope()
        client: Client | None = self.server.query_client(self.request.payload.client_id)
        asked = self.request.parameters.resources
        if client is None or any(audience not in client.resources for audience in asked or (IDENTITY_AUDIENCE,)):
            raise InvalidTargetError

    def generate_authorization_code(self) -> str:
        asked = self.request.parameters
        with in_oauth_words():
            return self.server.issuer.issue_code(
                self.server.tx,
                session_id=self.session_id,
                client_id=self.request.client.id,
                redirect_uri=asked.data["redirect_uri"],
                scope=self.scope,
                resources=asked.resources or (IDENTITY_AUDIENCE,),
                nonce=asked.get("nonce"),
                code_challenge=asked.data["code_challenge"],
            )

    def save_authorization_code(self, code: str, request: OAuthRequest) -> None:
        """Nothing: making the code has stored its hash."""

    def query_authorization_code(self, code: str, client: Client) -> Code:
        """Spends the code: of any number of requests, one gets past here.

        Raises:
            InvalidGrantError: unknown, spent, expired or another client's.
        """
        with in_oauth_words():
            try:
                return Code(self.server.issuer.redeem_code(self.server.tx, code, client.id))
            except CodeReused:
                self.server.keep("code_reused", client.id)
                raise

    def authenticate_user(self, authorization_code: Code) -> str:
        return authorization_code.redeemed.user_id

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """Nothing: it is spent."""

    def generate_token(self, *_: object, **__: object) -> dict[str, Any]:
        redeemed = self.request.authorization_code.redeemed
        return first_tokens(self.server, self.request, redeemed, nonce=redeemed.nonce)


def first_tokens(server: "Server", request: OAuthRequest, of: Redeemed | Grant, *, nonce: str | None) -> dict[str, Any]:
    """What a new grant gives: an access token, a refresh token to whom one is due, an ID token if it was asked for.

    Raises:
        OAuth2Error: the audience is open, or the grant has ended.
    """
    client: Client = request.client
    issuer, tx = server.issuer, server.tx
    audience = audience_among(request.parameters.resources, of.resources)
    scopes = of.scope.split()
    with in_oauth_words():
        access = issuer.issue_access_token(tx, grant_id=of.grant_id, audience=audience)
        answer = bearer(access)
        entitled = OFFLINE in scopes or client.refresh_without_offline
        if entitled and client.check_grant_type("refresh_token"):
            answer["refresh_token"] = issuer.issue_refresh_token(tx, of.grant_id)
        if "openid" in scopes:
            answer["id_token"] = issuer.id_token(
                tx,
                grant_id=of.grant_id,
                access_token=access.token,
                nonce=nonce,
                session_id=of.session_id,
            )
    return answer


class RefreshGrant(grants.RefreshTokenGrant):  # type: ignore[misc]
    """RFC 6749 section 6, with rotation (RFC 9700 section 4.14.2)."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post", "none")

    request: OAuthRequest
    server: "Server"

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshToken:
        """Spends the token for its successor; a late second use ends the grant.

        Raises:
            InvalidGrantError: unknown, spent, or what it hangs on has ended.
        """
        client: Client = self.request.client
        with in_oauth_words():
            try:
                rotated = self.server.issuer.rotate_refresh_token(self.server.tx, refresh_token, client.id)
            except RefreshReused:
                self.server.keep("refresh_token_reused", client.id)
                raise
        return RefreshToken(rotated)

    def authenticate_user(self, refresh_token: RefreshToken) -> str:
        return refresh_token.rotated.grant.user_id

    def revoke_old_credential(self, refresh_token: RefreshToken) -> None:
        """Nothing: it is spent."""

    def issue_token(self, user: str, refresh_token: RefreshToken) -> dict[str, Any]:  # noqa: ARG002
        grant = refresh_token.rotated.grant
        issuer, tx = self.server.issuer, self.server.tx
        asked = self.request.parameters
        audience = audience_among(asked.resources, grant.resources)
        with in_oauth_words():
            access = issuer.issue_access_token(tx, grant_id=grant.grant_id, audience=audience, scope=asked.get("scope"))
            _refuse_nothing(access, asked)
            answer = bearer(access) | {"refresh_token": refresh_token.rotated.successor}
            if "openid" in grant.scope.split():
                # OpenID Connect Core section 12.2: the same auth_time, and no nonce.
                answer["id_token"] = issuer.id_token(
                    tx,
                    grant_id=grant.grant_id,
                    access_token=access.token,
                    nonce=None,
                    session_id=grant.session_id,
                )
        return answer


class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """RFC 6749 section 4.4: a token for the client itself, `sub` being `svc_...`; never a refresh token."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    request: OAuthRequest
    server: "Server"

    def generate_token(self, *_: object, **__: object) -> dict[str, Any]:
        asked = self.request.parameters
        client: Client = self.request.client
        audience = audience_among(asked.resources or (IDENTITY_AUDIENCE,), client.resources)
        scope = asked.get("scope")
        with in_oauth_words():
            access = self.server.issuer.issue_access_token(
                self.server.tx,
                client_id=client.id,
                audience=audience,
                scope=None if scope is None else client.get_allowed_scope(scope) or "",
            )
        _refuse_nothing(access, asked)
        return bearer(access)


def bearer(access: AccessToken) -> dict[str, Any]:
    """The token response (RFC 6749 section 5.1). `scope` is always there: it may be less than was asked for."""
    return {
        "access_token": access.token,
        "token_type": "Bearer",
        "expires_in": access.expires_in,
        "scope": access.scope,
    }


def _refuse_nothing(access: AccessToken, asked: Parameters) -> None:
    if asked.get("scope") is not None and not access.scope:
        raise InvalidScopeError("Nothing of this scope may be had for this resource.")
