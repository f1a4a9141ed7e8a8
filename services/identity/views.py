"""Pages as HTML, and the headers that every answer of identity carries.

No script runs on these pages and nothing comes from elsewhere, so the policy allows nothing else: no frames around
them, no referrer from them, forms only to ourselves and, where a form's answer redirects to a client, to that client
(browsers apply `form-action` to the redirects that follow).
"""

import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action {form_action};"
    " base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
)
# What every answer carries unless it says otherwise itself.
_DEFAULTS = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=63072000; includeSubDomains",
    "cache-control": "no-store",
}
_STATIC = {"identity.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}


class SafeHeaders:
    """Middleware: the headers above on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _DEFAULTS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


@cache  # a template is compiled once in a process, however many apps are built in it
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("identity"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(iso=_iso, moment=_moment)
    return templates


class Views:
    """Renders the templates; serves the files they need."""

    def __init__(self) -> None:
        self._files = {name: (resources.files("identity") / "static" / name).read_bytes() for name in _STATIC}
        # The address names the content, so it may be kept for ever and still change with a new release.
        self._globals = {"stylesheet": self._address("identity.css"), "icon": self._address("icon.svg")}

    def page(self, template: str, *, status: int = 200, goes_on_to: str | None = None, **shown: Any) -> HTMLResponse:
        """A page. `goes_on_to` is the client's redirect URI, if answering the form may lead there."""
        html = _templates().get_template(template, globals=self._globals).render(**shown)
        form_action = "'self'" if goes_on_to is None else f"'self' {_source(goes_on_to)}"
        policy = _PAGE_POLICY.format(form_action=form_action)
        return HTMLResponse(html, status, headers={"content-security-policy": policy})

    def message(
        self,
        heading: str,
        text: str,
        *,
        status: int = 200,
        code: str = "",
        link: str = "",
        link_text: str = "",
    ) -> HTMLResponse:
        """A page that only says something."""
        return self.page(
            "message.html",
            status=status,
            heading=heading,
            text=text,
            code=code,
            link=link,
            link_text=link_text,
            bad=status >= 400,
        )

    def file(self, name: str) -> Response | None:
        """A file that the pages need; None if there is none of this name."""
        if name not in _STATIC:
            return None
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(self._files[name], media_type=_STATIC[name], headers=headers)

    def _address(self, name: str) -> str:
        return f"/static/{name}?v={hashlib.sha256(self._files[name]).hexdigest()[:12]}"


def _source(redirect_uri: str) -> str:
    """A registered redirect URI as a source of Content-Security-Policy: its origin, or the scheme of an app's own."""
    parts = urlsplit(redirect_uri)
    if parts.scheme not in ("http", "https") or "[" in parts.netloc:  # the policy's grammar has no IPv6 literals
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{parts.netloc}"


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds")


def _moment(ms: int) -> str:
    """A time for people. In UTC and saying so: without a script nobody knows where they are."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{at.day} {at:%b %Y, %H:%M} UTC"
