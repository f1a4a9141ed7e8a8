"""`id_token_hint` (OpenID Connect Core section 3.1.2.1): whom the client expects to be signed in."""

from typing import TYPE_CHECKING

from authlib.oauth2.rfc6749 import InvalidRequestError

from identity.issuing import ID_TYPE
from rescind.errors import TokenRefused
from rescind.jws import parse

if TYPE_CHECKING:
    from identity.oauth.server import Server


def hinted_subject(server: "Server", unverified_hint: str | None, client_id: str) -> str | None:
    """Who an ID token of ours for this client speaks of, expired or not; None without a hint.

    Raises:
        InvalidRequestError: it is no ID token of ours for this client, or so old that its key is gone.
    """
    if unverified_hint is None:
        return None
    try:
        jws = parse(unverified_hint, types=frozenset({ID_TYPE.lower()}))
        key = server.issuer.keyring.public_key(server.tx, "access", jws.kid)
        claims = {} if key is None else jws.verified_claims(key)
    except TokenRefused:
        claims = {}
    if claims.get("iss") != server.issuer.issuer or claims.get("aud") != client_id:
        raise InvalidRequestError("Invalid 'id_token_hint' parameter.")
    return str(claims["sub"])
