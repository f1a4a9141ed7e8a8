"""Pushed authorization requests (RFC 9126): a client says at /par what it will ask, and gets a name for it.

The name is for that client, for a minute, and for once: /authorize takes the request out in one statement, so of any
number of browsers that come with it one gets on. What was pushed is judged here as /authorize would judge it, and there
again, when the person comes. Identity keeps a request of its own accord in the same way, while its person is at another
provider (see `waiting`).
"""

from collections.abc import Callable
from urllib.parse import urlencode

from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import InvalidRequestError
from sqlalchemy import Connection, delete, insert

from identity.domain import new_secret, secret_digest
from identity.issuing import Issuer
from identity.oauth.authorization import check
from identity.oauth.clients import ANYBODY, Client
from identity.oauth.requests import LONGEST_QUERY, OAuthRequest, Parameters
from identity.oauth.server import Answer, Server
from identity.storage import pushed_requests

PREFIX = "urn:ietf:params:oauth:request_uri:"
LIFE = 60  # seconds
# How a client authenticates is no part of what it asks.
_OF_THE_CLIENT = frozenset({"client_id", "client_secret", "client_assertion", "client_assertion_type"})


class InvalidRequestUriError(OAuth2Error):  # type: ignore[misc]  # Authlib is untyped
    """RFC 9101 section 6.4: no such request, of this client, that is still good."""

    error = "invalid_request_uri"
    description = "The request is unknown, has expired, or was used before. Begin again at the application."


def push(server: Server, request: OAuthRequest) -> Answer:
    """Keeps an authorization request and names it (RFC 9126 section 2).

    Raises:
        OAuth2Error: the client is not who it says, or /authorize would refuse the request.
    """
    client: Client = server.authenticate_client(request, ANYBODY, "par")
    asked = request.parameters
    if asked.get("client_id") not in (None, client.id):
        raise InvalidRequestError("The request is of another client.")
    if asked.get("request_uri") is not None:
        raise InvalidRequestError("A pushed request names no request_uri.")
    kept = [(name, value) for name, values in asked.datalist.items() for value in values if name not in _OF_THE_CLIENT]
    query = urlencode([("client_id", client.id), *kept])
    if len(query) > LONGEST_QUERY:
        raise InvalidRequestError("The authorization request is too long.")
    try:
        check(server, Parameters([("client_id", client.id), *kept]))
    except OAuth2Error as error:
        error.redirect_uri = error.state = None  # the answer goes to the client itself
        raise
    request_uri = keep(server.tx, server.issuer, client.id, query, life=LIFE)
    return Answer(201, {"request_uri": request_uri, "expires_in": LIFE})


def keep(tx: Connection, issuer: Issuer, client_id: str, query: str, *, life: int) -> str:
    """The `request_uri` under which an authorization request of this client waits, for `life` seconds and for once."""
    secret = new_secret(issuer.entropy)
    expires_at = issuer.now(tx) + life * 1000
    row = {"hash": secret_digest(secret), "client_id": client_id, "query": query, "expires_at": expires_at}
    tx.execute(insert(pushed_requests).values(row))
    return PREFIX + secret


def pulled(tx: Connection, query: str, asked: Parameters, *, now: Callable[[Connection], int]) -> str:
    """The query of the authorization request that came: `query` itself, or what was pushed before.

    Whatever else came beside a pushed request's name is not looked at (RFC 9126 section 4).

    Raises:
        InvalidRequestUriError: there is no such request of this client, or no longer.
    """
    request_uri = asked.get("request_uri") or ""
    if not request_uri.startswith(PREFIX):
        return query
    taken = (
        delete(pushed_requests)
        .where(
            pushed_requests.c.hash == secret_digest(request_uri.removeprefix(PREFIX)),
            pushed_requests.c.client_id == (asked.get("client_id") or ""),
            pushed_requests.c.expires_at > now(tx),
        )
        .returning(pushed_requests.c.query)
    )
    pushed: str | None = tx.execute(taken).scalar_one_or_none()
    if pushed is None:
        raise InvalidRequestUriError
    return pushed
