"""The OAuth endpoints as the OpenAPI document describes them: forms in, JSON out, OAuth's own errors."""

from typing import Any

from identity.oauth.requests import FORM_TYPE
from identity.oauth.token_exchange import TOKEN_EXCHANGE_GRANT_TYPE
from servicekit.openapi import refusal

_TEXT = {"type": "string"}
_GRANT_TYPES = [
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:device_code",
    TOKEN_EXCHANGE_GRANT_TYPE,
]
_ERROR = {
    "title": "OAuthError",
    "type": "object",
    "required": ["error"],
    "properties": {"error": _TEXT, "error_description": _TEXT, "error_uri": _TEXT},
}
REFUSED = refusal("Refused, in the words of RFC 6749 section 5.2", **{"application/json": {"schema": _ERROR}})


def form(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """The body of a request: what must be in it, and what else may be."""
    client = dict.fromkeys(("client_id", "client_secret", "client_assertion", "client_assertion_type"), _TEXT)
    everything = {**dict.fromkeys(required, _TEXT), **properties, **client}
    schema = {"type": "object", "required": list(required), "properties": everything}
    return {"requestBody": {"required": True, "content": {FORM_TYPE: {"schema": schema}}}}


def answers(description: str, *required: str, **properties: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint: 200 with an object of these members, or OAuth's refusal."""
    members = {**dict.fromkeys(required, _TEXT), **properties}
    schema = {"type": "object", "required": list(required), "properties": members}
    return {200: {"description": description, "content": {"application/json": {"schema": schema}}}, "4XX": REFUSED}


_NUMBER = {"type": "integer"}
_ANSWER_OF_TOKEN = answers(
    "Tokens (RFC 6749 section 5.1)",
    "access_token",
    "token_type",
    "scope",
    expires_in=_NUMBER,
    refresh_token=_TEXT,
    id_token=_TEXT,
    issued_token_type=_TEXT,
)
TOKEN: dict[str, Any] = {
    "responses": _ANSWER_OF_TOKEN,
    "openapi_extra": form(
        "grant_type",
        grant_type={"type": "string", "enum": _GRANT_TYPES},
        code=_TEXT,
        redirect_uri=_TEXT,
        code_verifier=_TEXT,
        refresh_token=_TEXT,
        device_code=_TEXT,
        subject_token=_TEXT,
        subject_token_type=_TEXT,
        scope=_TEXT,
        resource=_TEXT,
    ),
}
_PUSHED = {
    201: {
        "description": "Pushed (RFC 9126 section 2.2)",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["request_uri", "expires_in"],
                    "properties": {"request_uri": _TEXT, "expires_in": _NUMBER},
                }
            }
        },
    },
    "4XX": REFUSED,
}
PAR: dict[str, Any] = {
    "status_code": 201,
    "responses": _PUSHED,
    "openapi_extra": form(
        "response_type",
        "redirect_uri",
        "scope",
        "code_challenge",
        "code_challenge_method",
        state=_TEXT,
        nonce=_TEXT,
        resource=_TEXT,
    ),
}
REVOKE: dict[str, Any] = {
    "responses": answers("Revoked, or there was nothing to revoke (RFC 7009 section 2.2)"),
    "openapi_extra": form("token", token_type_hint=_TEXT, rescind_end_session={"type": "string", "enum": ["true"]}),
}
INTROSPECT: dict[str, Any] = {
    "responses": answers("What SQL says of the token (RFC 7662 section 2.2)", active={"type": "boolean"}),
    "openapi_extra": form("token", token_type_hint=_TEXT),
}
DEVICE_AUTHORIZATION: dict[str, Any] = {
    "responses": answers(
        "A device waits (RFC 8628 section 3.2)",
        "device_code",
        "user_code",
        "verification_uri",
        "verification_uri_complete",
        expires_in=_NUMBER,
        interval=_NUMBER,
    ),
    "openapi_extra": form("scope", resource=_TEXT),
}
USERINFO: dict[str, Any] = {
    "responses": {
        200: {
            "description": "Claims by scope (OpenID Connect Core section 5.3.2)",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["sub"],
                        "properties": {"sub": _TEXT, "name": _TEXT, "email": _TEXT},
                    }
                }
            },
        }
    },
    "openapi_extra": {"security": [{"bearer": []}]},
}
KEYS: dict[str, Any] = {
    "responses": {
        200: {
            "description": "A JWK Set (RFC 7517)",
            "content": {"application/jwk-set+json": {"schema": {"type": "object", "required": ["keys"]}}},
        }
    }
}
