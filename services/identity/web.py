"""What identity's HTTP routes stand on: the parts they use, the cookies, and reading a form strictly."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from authlib.oauth2.rfc6749 import InvalidRequestError
from fastapi import Request
from sqlalchemy import Connection
from starlette.responses import Response

from identity.domain import NewSession
from identity.door import Door
from identity.forms import Forms
from identity.introspection import Introspector
from identity.issuing import Issuer
from identity.oauth.requests import FORM_TYPE, Parameters
from identity.oauth.server import Server
from identity.passwords import Passwords
from identity.service import Accounts
from identity.views import Views
from servicekit.database import Database
from servicekit.visitor import Network, Visitor, visitor

# The prefix has browsers insist on Secure, Path=/ and no Domain. Lax: a client's redirect to /authorize comes from
# another site and must bring the session along; POSTs from there bring nothing.
SESSION_COOKIE = "__Host-rescind_sso"
BROWSER_COOKIE = "__Host-rescind_browser"


@dataclass(frozen=True, slots=True)
class Web:
    """The parts behind the routes. `publish` has what was committed pushed, within a bound, and never fails; `told`
    wakes whoever sends on the events that were written.
    """

    database: Database
    issuer: Issuer
    accounts: Accounts
    passwords: Passwords
    introspector: Introspector
    forms: Forms
    views: Views
    door: Door
    publish: Callable[[], Awaitable[None]]
    told: Callable[[], None]
    trusted_proxies: tuple[Network, ...]

    def server(self, tx: Connection) -> Server:
        """An OAuth server for one transaction."""
        return Server(tx, self.issuer, self.introspector)

    def visitor(self, request: Request) -> Visitor:
        """Where the request comes from, as far as that can be believed."""
        peer = "" if request.client is None else request.client.host
        headers = request.headers
        return visitor(peer, headers.getlist("x-forwarded-for"), headers.get("user-agent", ""), self.trusted_proxies)


async def read_form(request: Request) -> Parameters:
    """The parameters of a POST: from its body alone (RFC 6749 section 3.2).

    Raises:
        InvalidRequestError: another content type, parameters in the URL, or a malformed body.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise InvalidRequestError(f"The body must be {FORM_TYPE}.")
    if request.url.query:
        raise InvalidRequestError("Parameters belong into the body, not into the URL.")
    return Parameters.parse(await request.body())


def is_from_our_page(request: Request) -> bool:
    """False when the browser says that another site's page sent this. (Origin is null here: our pages send none.)"""
    return request.headers.get("sec-fetch-site", "same-origin") == "same-origin"


def set_cookie(response: Response, name: str, value: str) -> None:
    """Until the browser closes; the server ends sessions by its own clock."""
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite="lax")


def start_session(response: Response, opened: NewSession) -> None:
    """Hands the session's cookie over, and takes the one back that was for signing in."""
    set_cookie(response, SESSION_COOKIE, opened.cookie)
    response.delete_cookie(BROWSER_COOKIE, path="/", secure=True, httponly=True, samesite="lax")


def end_session(response: Response) -> None:
    """Takes the session's cookie back."""
    response.delete_cookie(SESSION_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
