"""/authorize: what becomes of an authorization request, with this person, now.

One function decides, each time from the request as it came: at its arrival, after sign-in, and with the person's
decision. So a client, redirect URI or scope that was taken away meanwhile is seen.
"""

from dataclasses import dataclass
from typing import Literal

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import AccessDeniedError, InvalidRequestError, InvalidScopeError
from sqlalchemy import Connection

from identity.domain import IDENTITY_AUDIENCE, LoginSession, scope_for
from identity.oauth.clients import Client
from identity.oauth.consent import is_granted
from identity.oauth.errors import ConsentRequiredError, LoginRequiredError, NotSupportedError
from identity.oauth.grants import OF_THE_GRANT, CodeGrant, meaningful
from identity.oauth.hints import hinted_subject
from identity.oauth.requests import OAuthRequest, Parameters
from identity.oauth.server import Server
from identity.standing import user_row

Decision = Literal["allow", "deny"]

_PROMPTS = frozenset({"none", "login", "consent", "select_account"})
_NOT_SUPPORTED = {
    "request": "request_not_supported",
    "request_uri": "request_uri_not_supported",
    "registration": "registration_not_supported",
}
_LONGEST_PASSED_ON = 2048  # characters of a state or nonce


@dataclass(frozen=True, slots=True)
class ToClient:
    """Back to the client, with a code or an error."""

    location: str


@dataclass(frozen=True, slots=True)
class SignIn:
    """Somebody has to sign in first, or again."""

    client: Client
    redirect_uri: str
    login_hint: str


@dataclass(frozen=True, slots=True)
class Consent:
    """The signed-in person has to decide."""

    client: Client
    redirect_uri: str
    session: LoginSession
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unanswerable:
    """An error for the person's eyes: client or redirect URI are not to be trusted, so nobody is redirected."""

    error: str
    description: str


Outcome = ToClient | SignIn | Consent | Unanswerable


@dataclass(frozen=True, slots=True)
class Arrival:
    """An authorization request and the person it came with. `begun_at` in ms: when it first came to /authorize."""

    parameters: Parameters
    session: LoginSession | None
    begun_at: int
    decision: Decision | None = None


def authorize(server: Server, arrival: Arrival) -> Outcome:
    """Decides. A ToClient that carries a code has to be committed."""
    request = OAuthRequest("GET", f"{server.issuer.issuer}/authorize", arrival.parameters)
    try:
        grant = server.get_consent_grant(request, arrival.session)
    except OAuth2Error as error:
        return _refusal(server, error)
    try:
        return _decide(server, grant, arrival)
    except OAuth2Error as error:
        error.redirect_uri = grant.redirect_uri
        error.state = arrival.parameters.get("state")
        return _refusal(server, error)


def check(server: Server, asked: Parameters) -> None:
    """Returns if `authorize` could make something of this request, whoever comes with it.

    Raises:
        OAuth2Error: it could not.
    """
    server.get_consent_grant(OAuthRequest("GET", f"{server.issuer.issuer}/authorize", asked), None)
    _checked(asked)


def _decide(server: Server, grant: CodeGrant, arrival: Arrival) -> Outcome:
    asked, session = arrival.parameters, arrival.session
    prompts = _checked(asked)
    client: Client = grant.request.client
    expected = hinted_subject(server, asked.get("id_token_hint"), client.id)
    somebody_else = session is not None and expected not in (None, session.user_id)
    if session is None or somebody_else or session.auth_time < _signed_in_since(prompts, asked, arrival.begun_at):
        # Who has just signed in as somebody else than the client expects will do so again.
        if "none" in prompts or (somebody_else and session is not None and session.auth_time >= arrival.begun_at):
            raise LoginRequiredError
        return SignIn(client, grant.redirect_uri, (asked.get("login_hint") or "")[:254])
    audiences = asked.resources or (IDENTITY_AUDIENCE,)
    grant.scope = grantable(server.tx, grant.request.scope, audiences, session)
    if arrival.decision == "deny":
        raise AccessDeniedError
    if arrival.decision is None and ("consent" in prompts or _has_to_ask(server, client, session, grant, audiences)):
        if "none" in prompts:
            raise ConsentRequiredError
        return Consent(client, grant.redirect_uri, session, tuple(grant.scope.split()), audiences)
    grant.session_id = session.sid
    _, _, headers = grant.create_authorization_response(grant.redirect_uri, session.user_id)
    return ToClient(with_issuer(dict(headers)["Location"], server.issuer.issuer))


def _checked(asked: Parameters) -> frozenset[str]:
    for name, error in _NOT_SUPPORTED.items():
        if asked.get(name) is not None:
            raise NotSupportedError(error=error)
    if asked.get("response_mode") not in (None, "query"):
        raise InvalidRequestError("Only response_mode=query is supported.")
    if any(len(asked.get(name) or "") > _LONGEST_PASSED_ON for name in ("state", "nonce")):
        raise InvalidRequestError("state and nonce may have 2048 characters.")
    max_age = asked.get("max_age") or "0"
    if not (max_age.isascii() and max_age.isdigit() and len(max_age) < 10):
        raise InvalidRequestError("Invalid 'max_age' parameter.")
    prompts = frozenset((asked.get("prompt") or "").split())
    if prompts - _PROMPTS or ("none" in prompts and len(prompts) > 1):
        raise InvalidRequestError("Invalid 'prompt' parameter.")
    return prompts


def wants_new_sign_in(asked: Parameters) -> bool:
    """Whether a sign-in of before will not do, or perhaps not."""
    return (
        bool({"login", "select_account"} & set((asked.get("prompt") or "").split())) or asked.get("max_age") is not None
    )


def _signed_in_since(prompts: frozenset[str], asked: Parameters, begun_at: int) -> int:
    """The earliest sign-in (ms) that will do. What asks for a new one is content with one made since it began."""
    if prompts & {"login", "select_account"}:
        return begun_at
    max_age = asked.get("max_age")
    return 0 if max_age is None else begun_at - int(max_age) * 1000


def _has_to_ask(
    server: Server, client: Client, session: LoginSession, grant: CodeGrant, audiences: tuple[str, ...]
) -> bool:
    """Whether the person decides. Our own applications are not asked about; others once for each grant."""
    if client.first_party:
        return False
    now = server.issuer.now(server.tx)
    remembered = client.remembers_consent and is_granted(
        server.tx, session, client.id, grant.scope.split(), audiences, now
    )
    return not remembered


def grantable(tx: Connection, scope: str, audiences: tuple[str, ...], session: LoginSession) -> str:
    """What of the scope this person may give away, and means something there (RFC 6749 section 3.3).

    Raises:
        InvalidScopeError: nothing.
    """
    user = user_row(tx, session.user_id)
    roles = () if user is None else user.roles
    asked = meaningful(scope, audiences).split()
    open_to_person = {
        name for audience in audiences for name in scope_for(asked, audience=audience, roles=roles).split()
    }
    kept = [name for name in asked if name in open_to_person or name in OF_THE_GRANT]
    if not kept:
        raise InvalidScopeError
    return " ".join(kept)


def _refusal(server: Server, error: OAuth2Error) -> ToClient | Unanswerable:
    if not error.redirect_uri:
        return Unanswerable(error.error, error.get_error_description())
    _, _, headers = error()
    return ToClient(with_issuer(dict(headers)["Location"], server.issuer.issuer))


def with_issuer(location: str, issuer: str) -> str:
    """`location` saying who answers (RFC 9207): success and error alike."""
    return str(add_params_to_uri(location, [("iss", issuer)]))
