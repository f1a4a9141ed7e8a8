"""A person with a browser on the web app, as its session service sees one: cookies, headers, identity's pages."""

from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import httpx2

from bench.system import System
from devstack.flow import Browser, FlowFailed
from devstack.seeds import PASSWORD
from session.rest.protection import REQUEST_HEADER, SESSION_COOKIE


@dataclass(frozen=True, slots=True)
class Visit:
    """A session of the web app: what a request for `origin` carries with it."""

    origin: str
    cookie: str = field(repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Of a request that reads, whichever process of the session service it goes to."""
        return {"host": urlsplit(self.origin).netloc, "sec-fetch-site": "same-origin", "cookie": self.cookie}

    @property
    def writing(self) -> dict[str, str]:
        """Of a request that changes something."""
        return {**self.headers, "origin": self.origin, REQUEST_HEADER: "1"}

    def asking(self, path: str, **more: str) -> bytes:
        """A GET as it goes over the wire."""
        return request(path, self.headers | {name.replace("_", "-"): value for name, value in more.items()})


async def sign_in(system: System, browser: Browser, email: str) -> Visit:
    """A new session; a browser that identity knows already is not asked for the password again.

    Raises:
        FlowFailed: a step was not as expected.
    """
    origin = system.stack.addresses.session
    host = urlsplit(origin).netloc
    begun = await system.http.get(f"{origin}/auth/login", headers={"host": host, "sec-fetch-site": "same-origin"})
    arrived = await browser.walk(await browser.get(begun.headers["location"]))
    if not isinstance(arrived, str):
        arrived = await browser.submit(arrived, "/login", email=email, password=PASSWORD)
    if not isinstance(arrived, str):
        raise FlowFailed(f"identity answered {arrived.status}")
    cookies = "; ".join(f"{name}={value}" for name, value in _set(begun).items())
    headers = {"host": host, "sec-fetch-site": "cross-site", "cookie": cookies}
    given = _set(await system.http.get(arrived, headers=headers))
    if SESSION_COOKIE not in given:
        raise FlowFailed("no session came of it")
    return Visit(origin, f"{SESSION_COOKIE}={given[SESSION_COOKIE]}")


async def subject_of(system: System, visit: Visit) -> str:
    """The `sub` of whoever is signed in there."""
    answer = await system.http.get(f"{visit.origin}/api/me", headers=visit.headers)
    return str(answer.raise_for_status().json()["subject"])


def request(path: str, headers: dict[str, str]) -> bytes:
    """A GET as it goes over the wire (HTTP/1.1)."""
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _set(response: httpx2.Response) -> dict[str, str]:
    """By hand: Python's cookie jars keep `Secure` cookies from http://localhost."""
    return {
        name: morsel.value
        for line in response.headers.get_list("set-cookie")
        for name, morsel in SimpleCookie(line).items()
        if morsel.value
    }
