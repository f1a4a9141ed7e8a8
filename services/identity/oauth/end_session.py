"""/end_session: a client asks that a person be signed out (OpenID Connect RP-Initiated Logout 1.0).

Without being asked, only the session is ended that the client proves to know: the one in this browser, named by the
`sid` of an ID token of ours. In every other case the person is asked, so that no page can sign anybody out. And a
browser is sent on only to an address that is registered, character by character, for a client that is known.
"""

from dataclasses import dataclass
from urllib.parse import urlencode

from sqlalchemy import Connection

from identity.domain import LoginSession
from identity.issuing import ID_TYPE
from identity.keyring import KeyRing
from identity.oauth.clients import Client
from identity.oauth.requests import Parameters
from rescind.errors import TokenRefused
from rescind.jws import parse

_LONGEST_STATE = 2048  # characters


class EndSessionRefused(Exception):
    """The request cannot be answered, and nobody is redirected. The text is for the person's eyes."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """What a logout request comes to. `sure`: the person need not be asked."""

    client: Client | None
    goes_to: str | None
    sure: bool


@dataclass(frozen=True, slots=True)
class _Hint:
    client_id: str
    sid: str | None


def judge(tx: Connection, keyring: KeyRing, issuer: str, asked: Parameters, session: LoginSession | None) -> Leaving:
    """Decides; each time from the request as it came.

    Raises:
        EndSessionRefused: another client than the ID token's, or an address that is not registered.
    """
    hint = _hint(tx, keyring, issuer, asked.get("id_token_hint"))
    named = asked.get("client_id")
    if hint is not None and named not in (None, hint.client_id):
        raise EndSessionRefused("The ID token is of another application.")
    client_id = named if hint is None else hint.client_id
    client = None if client_id is None else Client.find(tx, client_id)
    knows = hint is not None and session is not None and hint.sid == session.sid
    return Leaving(client, _destination(asked, client), sure=session is None or knows)


def _destination(asked: Parameters, client: Client | None) -> str | None:
    uri, state = asked.get("post_logout_redirect_uri"), asked.get("state")
    if uri is None:
        return None
    if client is None or uri not in client.post_logout_redirect_uris:
        raise EndSessionRefused("The address to go on to is not registered for the application.")
    if state is None:
        return uri
    if len(state) > _LONGEST_STATE:
        raise EndSessionRefused(f"state may have {_LONGEST_STATE} characters.")
    return f"{uri}{'&' if '?' in uri else '?'}{urlencode({'state': state})}"


def _hint(tx: Connection, keyring: KeyRing, issuer: str, unverified: str | None) -> _Hint | None:
    """What an ID token of ours says; an expired one too (section 2). None for anything else."""
    if unverified is None:
        return None
    try:
        jws = parse(unverified, types=frozenset({ID_TYPE.lower()}))
        key = keyring.public_key(tx, "access", jws.kid)
        claims = {} if key is None else jws.verified_claims(key)
    except TokenRefused:
        return None
    if claims.get("iss") != issuer:
        return None
    return _Hint(claims["aud"], claims.get("sid"))
