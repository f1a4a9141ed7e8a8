"""What waits while a person signs in or makes an account: a client's authorization request, or a device's code.

It travels signed (see forms), and began at /authorize or /device of ours. Afterwards it is judged there again from the
start, so that the most anybody can do with one is go on with a request that this issuer has seen.

What has to wait in a cookie may be too long for one. Then the request is kept as a client's pushed request is (RFC
9126), and its name waits instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlencode

from fastapi import Request
from sqlalchemy import Connection

from identity.domain import secret_digest
from identity.forms import Flow
from identity.oauth.authorization import wants_new_sign_in
from identity.oauth.clients import Client
from identity.oauth.pushed import InvalidRequestUriError, keep, pulled
from identity.oauth.requests import Parameters
from identity.web import BROWSER_COOKIE, Web
from servicekit.errors import Kind, ServiceError
from servicekit.visitor import counted_as

# Characters. A browser drops a cookie of more than 4,096 bytes (RFC 6265bis section 5.6); sealed beside other things
# this comes to some 3,200. What is not an authorization request, a user code, is always shorter.
_FITS_A_COOKIE = 2000


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a page says of it. `goes_on_to` is the redirect URI, if it is one of the client's."""

    packed: str
    location: str  # the page of ours that goes on with it
    client: Client | None
    goes_on_to: str | None
    login_hint: str
    anew: bool  # the person has to sign in, even if they are

    @classmethod
    def find(cls, web: Web, tx: Connection, packed: str) -> Self | None:
        """None if it is none of ours, or has waited too long."""
        flow = web.forms.unpack(packed, web.issuer.now(tx))
        if flow is None:
            return None
        asked = Parameters.parse(flow.query.encode())
        client = Client.find(tx, asked.get("client_id") or "")
        redirect_uri = asked.get("redirect_uri") or ""
        return cls(
            packed=packed,
            location=f"{flow.to}?{urlencode({'flow': packed})}",
            client=client,
            goes_on_to=redirect_uri if client is not None and client.check_redirect_uri(redirect_uri) else None,
            login_hint=(asked.get("login_hint") or "")[:254],
            anew=wants_new_sign_in(asked),
        )

    @property
    def client_id(self) -> str:
        """The client that a sign-in is for; empty if it is for none."""
        return "" if self.client is None else self.client.id


def unpacked(web: Web, tx: Connection, packed: str) -> Flow:
    """The request itself.

    Raises:
        ServiceError: FLOW_EXPIRED, also for what is none of ours.
    """
    flow = web.forms.unpack(packed, web.issuer.now(tx))
    if flow is None:
        raise _expired()
    return flow


async def waiting(web: Web, packed: str | None) -> Waiting | None:
    """What waits; None if nothing was `packed`.

    Raises:
        ServiceError: FLOW_EXPIRED, also for what is none of ours.
    """
    if not packed:
        return None
    found = await web.database.read(lambda tx: Waiting.find(web, tx, packed))
    if found is None:
        raise _expired()
    return found


async def set_aside(web: Web, request: Request, found: Waiting | None, *, life: int) -> str:
    """What waits, short enough for a cookie: itself, or the name under which it is kept for `life` seconds. Empty if
    nothing waits.

    Raises:
        TooMany: this network has had too much kept.
    """
    packed = "" if found is None else found.packed
    if len(packed) <= _FITS_A_COOKIE:
        return packed
    await web.door.keeps(counted_as(web.visitor(request)))

    def work(tx: Connection) -> str:
        flow = unpacked(web, tx, packed)
        client_id = Parameters.parse(flow.query.encode()).get("client_id") or ""
        named = {"client_id": client_id, "request_uri": keep(tx, web.issuer, client_id, flow.query, life=life)}
        return web.forms.pack(replace(flow, query=urlencode(named)))

    return await web.database.run(work)


async def taken_up(web: Web, short: str) -> str:
    """What `set_aside` was given, packed anew; once, where it was kept. What has waited too long comes back as it is,
    for `waiting` to refuse.

    Raises:
        ServiceError: FLOW_EXPIRED: it is kept no more.
    """
    if not short:
        return short

    def work(tx: Connection) -> str:
        flow = web.forms.unpack(short, web.issuer.now(tx))
        if flow is None:
            return short
        asked = Parameters.parse(flow.query.encode())
        return web.forms.pack(replace(flow, query=pulled(tx, flow.query, asked, now=web.issuer.now)))

    try:
        return await web.database.run(work)
    except InvalidRequestUriError:
        raise _expired() from None


def noted(found: Waiting | None, browser: str) -> dict[str, str]:
    """What a mailed link says about it, so that following the link goes on with it in this browser, and in no other:
    whoever began it elsewhere would have a stranger who follows the link go on for them.
    """
    return {} if found is None else {"flow": found.packed, "browser": secret_digest(browser)}


async def resumed(web: Web, request: Request, about: Mapping[str, Any]) -> Waiting | None:
    """What was `noted`, if this is the browser and it is still time."""
    packed, browser = about.get("flow"), request.cookies.get(BROWSER_COOKIE)
    if not packed or not browser or secret_digest(browser) != about.get("browser"):
        return None
    return await web.database.read(lambda tx: Waiting.find(web, tx, packed))


def _expired() -> ServiceError:
    detail = "This took too long. Please go back to the application and begin again."
    return ServiceError(Kind.INVALID, "FLOW_EXPIRED", detail)
