"""A browser window on the web app: cookies as browsers keep them, the headers that they send, identity's pages behind.

It does by hand what a browser does and Python's cookie jars do not: `Secure` cookies go to http://localhost, and
`__Host-` cookies must be Secure, with Path=/ and no Domain, or they are not kept.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import httpx2

from devstack.flow import Browser
from session.rest.protection import SESSION_COOKIE

ALICE, BOB, ADMIN = "alice@example.com", "bob@example.com", "admin@example.com"
PASSWORD = "correct-horse-battery-staple"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
PLAIN_TOKEN = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")  # a JWT; what is sealed may hold "eyJ" by chance


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    event: str
    data: Any
    id: str = ""


class Window:
    """One browser. `replica` is where its requests go: a load balancer would choose one for each."""

    def __init__(self, http: httpx2.AsyncClient, origin: str, issuer: str, replica: str = "") -> None:
        self._http = http
        self.origin = origin
        self.replica = replica or origin
        self.identity = Browser(http, issuer)
        self.cookies: dict[str, str] = {}
        self.set_cookies: list[str] = []
        self.seen: list[httpx2.Response] = []

    @property
    def secret(self) -> str:
        """What the session cookie holds."""
        return self.cookies[SESSION_COOKIE]

    async def get(self, path: str, **headers: str) -> httpx2.Response:
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx2.Response:
        return await self.request("POST", path, body=body, headers=headers)

    async def request(
        self, method: str, path: str, *, body: Any = None, headers: dict[str, str] | None = None, own: bool = True
    ) -> httpx2.Response:
        """What the page's script sends; with `own=False` only what is given, as another program might."""
        sent = self._sent(method) if own else {"host": urlsplit(self.origin).netloc, "cookie": self._cookie()}
        sent |= {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        content = None if body is None else json.dumps(body).encode()
        if content is not None:
            sent.setdefault("content-type", "application/json")
        response = await self._http.request(method, self.replica + path, content=content, headers=sent)
        self._keep(response)
        return response

    async def navigate(self, path: str) -> httpx2.Response:
        """A top-level navigation within the site."""
        headers = {"host": urlsplit(self.origin).netloc, "cookie": self._cookie(), "sec-fetch-site": "same-origin"}
        headers |= {"user-agent": FIREFOX, "accept": "text/html"}
        response = await self._http.get(self.replica + path, headers=headers)
        self._keep(response)
        return response

    async def sign_in(
        self, email: str = ALICE, *, path: str = "/auth/login", password: str = PASSWORD
    ) -> httpx2.Response:
        """All the way to the answer of the callback."""
        return await self.arrive(await self.away(path, email, password))

    async def away(self, path: str = "/auth/login", email: str = ALICE, password: str = PASSWORD) -> str:
        """To identity and through its pages: the address that it sends the browser back to."""
        started = await self.navigate(path)
        assert started.status_code == 302, started.text
        arrived = await self.identity.walk(await self.identity.get(started.headers["location"]))
        if not isinstance(arrived, str):
            arrived = await self.identity.submit(arrived, "/login", email=email, password=password)
        assert isinstance(arrived, str), arrived.text
        return arrived

    async def arrive(self, address: str) -> httpx2.Response:
        """Follows identity's redirect: it comes from another site, so Strict cookies stay at home."""
        parts = urlsplit(address)
        assert f"{parts.scheme}://{parts.netloc}" == self.origin
        lax = "; ".join(f"{name}={value}" for name, value in self.cookies.items() if name != SESSION_COOKIE)
        headers = {"host": parts.netloc, "cookie": lax, "sec-fetch-site": "cross-site", "user-agent": FIREFOX}
        response = await self._http.get(f"{self.replica}{parts.path}?{parts.query}", headers=headers)
        self._keep(response)
        return response

    @asynccontextmanager
    async def live(self, last_event_id: str = "") -> AsyncIterator[AsyncIterator[Event]]:
        """The live stream's events, as they come."""
        headers = self._sent("GET") | ({"last-event-id": last_event_id} if last_event_id else {})
        async with self._http.stream("GET", f"{self.replica}/api/live", headers=headers, timeout=30) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _events(response)

    def _sent(self, method: str) -> dict[str, str]:
        sent = {
            "host": urlsplit(self.origin).netloc,
            "user-agent": FIREFOX,
            "sec-fetch-site": "same-origin",
            "cookie": self._cookie(),
        }
        if method not in ("GET", "HEAD"):
            sent |= {"origin": self.origin, "x-rescind-request": "1"}
        return sent

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def _keep(self, response: httpx2.Response) -> None:
        self.seen.append(response)
        for line in response.headers.get_list("set-cookie"):
            self.set_cookies.append(line)
            for name, morsel in SimpleCookie(line).items():
                assert name.startswith("__Host-")
                assert (morsel["path"], morsel["domain"], bool(morsel["secure"])) == ("/", "", True)
                if morsel["max-age"] == "0" or not morsel.value:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value


async def _events(response: httpx2.Response) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields.get("event", ""), json.loads(fields["data"]), fields.get("id", ""))
            fields = {}
