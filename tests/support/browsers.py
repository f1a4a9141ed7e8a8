"""Browsers that people use the web app with, and a witness who sees all that reaches them.

`Witness` is how requirement 37 is proved: it keeps every response (headers and body), every frame of the live stream,
every cookie and all storage, and looks for tokens in them. Access and ID tokens are known by their form. Refresh tokens
have none; but identity has stored the hash of every one that it ever issued, so whatever could be one is hashed and
looked up there. Nothing can hide behind a pattern that was chosen badly.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import (
    Browser,
    BrowserContext,
    Error,
    Locator,
    Page,
    Request,
    Response,
    async_playwright,
    expect,
)
from redis.asyncio import Redis

from devstack.seeds import PASSWORD
from devstack.stack import Stack
from session.domain import key_of
from session.rest.protection import SESSION_COOKIE
from support.requirements import chromium_path

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 15_000  # milliseconds, on a machine with much else to do
expect.set_options(timeout=PATIENCE)
# {" in base64url is how every JWT and JWE begins; without its dots, what is random has it by chance now and then.
JWS = re.compile(r"eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*\.")
_OPAQUE = re.compile(r"[A-Za-z0-9_-]{20,}")
_STORAGE = """async () => JSON.stringify({
  local: {...localStorage}, session: {...sessionStorage}, cookie: document.cookie,
  databases: await indexedDB.databases(), caches: await caches.keys(), workers:
  (await navigator.serviceWorker.getRegistrations()).length, name: window.name, page: document.documentElement.outerHTML
})"""


@dataclass  # without slots: Playwright keeps something of its own on whoever listens
class Witness:
    """What one browser got to see: where, and what."""

    context: BrowserContext
    identity_database: Path
    seen: list[tuple[str, str]] = field(default_factory=list)
    frames: list[dict[str, Any]] = field(default_factory=list)  # of the live stream
    _reading: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.context.on("response", self._read)

    async def watch(self, page: Page) -> None:
        """Sees the frames of this page's live streams, which are no responses to the context."""
        tools = await self.context.new_cdp_session(page)
        tools.on("Network.eventSourceMessageReceived", self._keep_frame)
        await tools.send("Network.enable")

    async def tokens(self) -> list[str]:
        """Where a token was seen; best empty. The token itself is not in the answer."""
        async with asyncio.timeout(PATIENCE / 1000):
            await asyncio.gather(*self._reading)
        seen = [*self.seen, *((f"frame {frame['eventName']}", str(frame)) for frame in self.frames)]
        seen += [(f"cookie {cookie['name']}", str(cookie)) for cookie in await self.context.cookies()]
        for page in self.context.pages:
            seen.append((f"storage and page of {page.url}", await page.evaluate(_STORAGE)))
        issued = self._refresh_hashes()
        assert issued, "identity has issued no refresh token: this scan would find nothing"
        return [where for where, text in seen if JWS.search(text) or not issued.isdisjoint(hashes_in(text))]

    async def leave(self) -> None:
        """Closes the browser; what it was still told is nobody's business."""
        self.context.remove_listener("response", self._read)
        await self.context.close()
        await asyncio.gather(*self._reading, return_exceptions=True)

    def _read(self, response: Response) -> None:
        self._reading.append(asyncio.create_task(self._keep(response)))

    async def _keep(self, response: Response) -> None:
        where = f"{response.request.method} {response.url.partition('?')[0]}"
        self.seen.append((f"headers of {where}", str(await response.all_headers())))
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            return  # it has no end; its frames are seen by `watch`
        with contextlib.suppress(Error):  # a redirect has no body
            self.seen.append((where, await response.text()))

    def _keep_frame(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)

    def _refresh_hashes(self) -> set[str]:
        with contextlib.closing(sqlite3.connect(f"file:{self.identity_database}?mode=ro", uri=True)) as database:
            return {hash_ for (hash_,) in database.execute("SELECT hash FROM refresh_tokens")}


def hashes_in(text: str) -> set[str]:
    """The hashes, as identity stores them, of all that could be an opaque token."""
    return {hashlib.sha256(found.encode()).hexdigest() for found in _OPAQUE.findall(text)}


@dataclass(frozen=True, slots=True)
class Window:
    """One browser of a person: its page, and its witness."""

    page: Page
    witness: Witness


@dataclass(frozen=True, slots=True)
class Web:
    """The system behind the web app, and where the app is."""

    stack: Stack
    folder: Path

    @property
    def url(self) -> str:
        """Where people open it."""
        return self.stack.addresses.session

    @property
    def identity_database(self) -> Path:
        """Identity's SQLite file: the witness looks up there what was issued."""
        return self.folder / "identity.db"

    async def signed_in_ago(self, window: Window, *, minutes: int) -> None:
        """Has the session of a browser begin that much earlier, in the store: the service's own rules do the rest."""
        cookies = await window.page.context.cookies(self.url)
        secret = next(cookie["value"] for cookie in cookies if cookie["name"] == SESSION_COOKIE)
        at = f"session:s:{key_of(secret)}"
        url = self.stack.environment("session")["SESSION_REDIS_URL"]
        async with Redis.from_url(url, decode_responses=True) as redis:
            record = json.loads(await redis.hget(at, "record"))
            record["authenticated_at"] -= minutes * 60_000
            await redis.hset(at, "record", json.dumps(record))


@dataclass
class Application:
    """A client's pages: a server that says the same thing to whoever comes, and where they came."""

    url: str = ""
    arrived: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        if path != "/favicon.ico":
            self.arrived.append(self.url + path.removeprefix("/"))
        body = b"<!doctype html><h1>The application</h1>"
        kind = b"content-type: text/html\r\nconnection: close\r\n"
        writer.write(b"HTTP/1.1 200 OK\r\n" + kind + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


NewWindow = Callable[..., Awaitable[Window]]  # with Playwright's options of a context


class NetworkChanged(Exception):
    """The machine's network changed while the test ran, and Chromium gave up what it was about to load."""


given_up: list[str] = []  # by Chromium, since the test began: what it was about to load as the network changed


@contextlib.contextmanager
def network_unchanged() -> Iterator[None]:
    """Calls what fails inside NetworkChanged where it may have failed of that alone, so that the test can run again.

    Containers and networks of theirs change the machine's addresses, and whenever these change, Chromium gives up every
    request that has no connection yet (net::ERR_NETWORK_CHANGED): one of a page's scripts, or the page.
    """
    try:
        yield
    except Exception as error:
        if given_up:
            raise NetworkChanged(f"given up: {', '.join(given_up)}") from error
        raise


def notice(request: Request) -> None:
    """Keeps in mind that Chromium gave up a request because the network changed."""
    if request.failure == "net::ERR_NETWORK_CHANGED":
        given_up.append(f"{request.method} {request.url.partition('?')[0]}")


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        browser.on("context", lambda context: context.on("requestfailed", notice))
        try:
            yield browser
        finally:
            await browser.close()


async def window(browser: Browser, url: str, identity_database: Path, **options: Any) -> Window:
    """A browser with no past, on the app at `url`."""
    context = await browser.new_context(base_url=url, **options)
    context.set_default_timeout(PATIENCE)
    witness = Witness(context, identity_database)
    page = await context.new_page()
    await witness.watch(page)
    return Window(page, witness)


async def opened(page: Page, path: str, shows: Locator | None = None) -> None:
    """Opens a page of the app anew, and waits until it stands: until it shows that, or has a heading."""
    await page.goto("about:blank")
    await page.goto(path)
    await expect(shows or page.get_by_role("heading", level=1)).to_be_visible()


async def sign_in(page: Page, email: str) -> None:
    """From the landing page through identity's sign-in, and back."""
    await opened(page, "/")
    await page.get_by_role("main").get_by_role("button", name="Sign in").click()
    await enter_password(page, email)
    await expect(page.get_by_role("heading", name="Shop", level=1)).to_be_visible()


async def enter_password(page: Page, email: str) -> None:
    """On identity's page."""
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in").click()


async def go(page: Page, name: str) -> None:
    """To another page of the app, by the bar on top."""
    await page.get_by_role("banner").get_by_role("link", name=name, exact=True).click()
    await expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
