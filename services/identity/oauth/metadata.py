"""What this server says of itself: RFC 8414 and OpenID Connect Discovery. Only what is there is named."""

from typing import Any

from authlib.oauth2.rfc8628 import DEVICE_CODE_GRANT_TYPE

from identity.issuing import ACR_PASSWORD
from identity.oauth.clients import CONFIDENTIAL
from identity.oauth.server import SCOPES
from identity.oauth.token_exchange import TOKEN_EXCHANGE_GRANT_TYPE


def metadata(issuer: str) -> dict[str, Any]:
    """The one document behind both well-known paths (RFC 8414 section 2, OpenID Connect Discovery 1.0 section 3)."""
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "jwks_uri": f"{issuer}/jwks.json",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": [
            "authorization_code",
            "refresh_token",
            "client_credentials",
            DEVICE_CODE_GRANT_TYPE,
            TOKEN_EXCHANGE_GRANT_TYPE,
        ],
        "device_authorization_endpoint": f"{issuer}/device_authorization",
        "token_endpoint_auth_methods_supported": [*CONFIDENTIAL, "none"],
        "revocation_endpoint_auth_methods_supported": [*CONFIDENTIAL, "none"],
        "introspection_endpoint_auth_methods_supported": [*CONFIDENTIAL],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "userinfo_endpoint": f"{issuer}/userinfo",
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "acr_values_supported": [ACR_PASSWORD],
        "claims_supported": [
            "sub",
            "iss",
            "aud",
            "exp",
            "iat",
            "auth_time",
            "nonce",
            "sid",
            "at_hash",
            "acr",
            "amr",
            "name",
            "email",
        ],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
