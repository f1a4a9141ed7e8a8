"""A person in a browser: the session service holds the tokens, the browser one cookie, and a sign-out ends it all."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from devstack.flow import Browser
from devstack.seeds import ALICE, PASSWORD
from devstack.story.acts import AT_ONCE
from devstack.story.events import since
from devstack.story.live import Item, Stream, by_sse, listening
from devstack.story.scene import OK, ORDER, Answer, Scene, Unexpected

_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]{8,}\.")  # a JWT, wherever it is


class Window:
    """A browser window on the web app. Whatever comes into it is searched for tokens."""

    def __init__(self, http: httpx2.AsyncClient, origin: str, issuer: str) -> None:
        self._http = http
        self._origin = origin
        self._browser = Browser(http, origin)
        self._identity = Browser(http, issuer)
        self.searched = 0  # answers and events without a token in them

    @property
    def cookies(self) -> dict[str, str]:
        """What the browser holds of the web app's."""
        return dict(self._browser.cookies)

    async def sign_in(self, email: str) -> None:
        """As the button does: to identity, through its page, and back.

        Raises:
            Unexpected: the person is not signed in after it.
        """
        started = await self._browser.get("/auth/login")
        self._search(started)
        arrived = await self._identity.walk(await self._identity.get(started.headers["location"]))
        if not isinstance(arrived, str):
            arrived = await self._identity.submit(arrived, "/login", email=email, password=PASSWORD)
        if not isinstance(arrived, str):
            raise Unexpected(f"the sign-in ended at identity: {arrived.status}")
        self._search(await self._browser.get(arrived))
        if (await self.call("GET", "/api/me")).status_code != 200:
            raise Unexpected("signed in, and yet nobody")

    async def call(
        self, method: str, path: str, body: Any = None, *, cookies: dict[str, str] | None = None
    ) -> httpx2.Response:
        """What a script of the page sends; with `cookies`, from whoever has copied them."""
        headers = self._headers(self.cookies if cookies is None else cookies)
        if path == "/api/orders" and method == "POST":
            headers["idempotency-key"] = f"demo-{time.monotonic_ns()}"
        response = await self._http.request(method, self._origin + path, json=body, headers=headers)
        self._search(response)
        return response

    async def live(self) -> AsyncGenerator[Item, None]:
        """The live stream of the page."""
        async for item in by_sse(
            self._http, f"{self._origin}/api/live", self._headers(self.cookies), self._search_text
        ):
            yield item

    def _headers(self, cookies: dict[str, str]) -> dict[str, str]:
        return {
            "cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "host": urlsplit(self._origin).netloc,
            "origin": self._origin,
            "sec-fetch-site": "same-origin",
            "x-rescind-request": "1",
        }

    def _search(self, response: httpx2.Response) -> None:
        self._search_text(response.text + str(response.headers.multi_items()))

    def _search_text(self, text: str) -> None:
        if _TOKEN.search(text):
            raise Unexpected("a token came into the browser")
        self.searched += 1


async def in_a_browser(scene: Scene) -> None:
    """Alice signs in with a browser, orders, and signs out everywhere: page, live stream and her phone end at once."""
    at = scene.target.addresses
    window = Window(scene.web, at.session, at.issuer)
    await window.sign_in(ALICE)
    names = ", ".join(window.cookies)
    scene.step("browser", "alice signs in: one cookie, no token", http=Answer("200", OK), note=names)
    app = (await scene.signed_in()).access_token
    await scene.accepted(app)
    async with listening("the page's live stream", window.live()) as stream:
        sent = time.perf_counter()
        placed = await window.call("POST", "/api/orders", ORDER)
        if placed.status_code != 201:
            raise Unexpected(f"an order through the web app was refused: {placed.status_code}")
        ms = (await stream.told(placed.json()["id"]) - sent) * 1000
        scene.step("browser", "an order, told on the page", http=Answer("201", OK), ms=ms, note="from sending it")
        await _everywhere(scene, window, stream, app)


async def _everywhere(scene: Scene, window: Window, stream: Stream, app: str) -> None:
    copied = window.cookies
    acknowledged = 0.0
    cookie: asyncio.Task[tuple[Answer, float]] | None = None

    async def until_refused() -> tuple[Answer, float]:
        while True:
            response = await window.call("GET", "/api/orders", cookies=copied)
            elapsed = time.perf_counter() - acknowledged
            if response.status_code == 401:
                return Answer("401", str(response.json()["reason"])), elapsed
            if not response.is_success or elapsed > AT_ONCE:
                raise Unexpected(f"the cookie is answered {response.status_code} after {elapsed:.1f} s")

    async def sign_out() -> None:
        nonlocal acknowledged, cookie
        ended = await window.call("POST", "/api/sessions/end-all")
        if ended.status_code != 200:
            raise Unexpected(f"signing out everywhere was answered {ended.status_code}")
        acknowledged = time.perf_counter()
        cookie = asyncio.create_task(until_refused())

    try:
        await scene.taken_back(
            "browser",
            "sign out everywhere: the phone's token",
            app,
            sign_out,
            within=AT_ONCE,
            note="an app's, no cookie",
        )
        assert cookie is not None  # noqa: S101  (`taken_back` has called `sign_out`)
        answer, elapsed = await cookie
    finally:
        if cookie is not None:
            cookie.cancel()
    scene.step("browser", "sign out everywhere: the cookie, copied", http=answer, ms=elapsed * 1000)
    end, ended_at = await stream.ended()
    if ended_at - acknowledged > AT_ONCE:
        raise Unexpected(f"the page's live stream went on for {ended_at - acknowledged:.1f} s")
    scene.step("browser", "sign out everywhere: the live stream", http=end, **since(acknowledged, ended_at))
    scene.step("browser", "what came into the browser", note=f"{window.searched} answers: no token")
