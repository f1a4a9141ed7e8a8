"""Signing in with another provider that is somebody else's work: oidc-provider, over HTTP, with its own pages."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import pytest
from sqlalchemy import select

from devstack.flow import Browser, Page
from devstack.stack import free_port
from identity.people.storage import user_identities
from identity.storage import users
from identity.web import SESSION_COOKIE
from support.eventually import eventually
from support.node_peers import started
from support.running_identity import RunningIdentity, running_identity

CLIENT_ID, CLIENT_SECRET = "rescind-at-peer", "a-secret-of-the-peer-for-rescind"
_LONGEST_WALK = 12  # redirects and pages from the provider's first page back to identity
pytestmark = pytest.mark.node


@dataclass(frozen=True)
class Both:
    """Identity, and whom it sends people to."""

    identity: RunningIdentity
    mail: Path

    async def sign_in(self, browser: Browser, login: str) -> Page:
        """There and back: where the person is at identity afterwards."""
        form = (await browser.open("/login")).form("/sign-in-with/peer")
        response = await browser.post(form.action, dict(form.fields))
        assert response.status_code == 200, response.text
        back = await self.abroad(response.headers["refresh"].removeprefix("0;url="), login)
        page = await browser.walk(await browser.get(back))
        assert isinstance(page, Page)
        return page

    async def abroad(self, url: str, login: str) -> str:
        """Through the provider's pages, as a person goes; the address that it sends them back to."""
        async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=20) as http:
            response = await http.get(url)
            for _ in range(_LONGEST_WALK):
                if response.is_redirect:
                    url = urljoin(url, response.headers["location"])
                    if url.startswith(self.identity.issuer + "/"):
                        return url
                    response = await http.get(url)
                    continue
                assert response.status_code == 200, response.text
                action = re.search(r'action="([^"]+)"', response.text)
                prompt = re.search(r'name="prompt" value="([^"]+)"', response.text)
                assert action is not None, response.text
                assert prompt is not None, response.text
                url = urljoin(url, action[1])
                response = await http.post(url, data={"prompt": prompt[1], "login": login, "password": "any"})
        raise AssertionError("the provider does not send the person back")

    async def linked(self) -> list[tuple[str, str, str]]:
        """Provider, subject there, address here."""
        joined = user_identities.join(users, users.c.id == user_identities.c.user_id)
        query = select(user_identities.c.provider, user_identities.c.subject, users.c.email).select_from(joined)
        return await self.identity.parts.database.read(lambda tx: [tuple(row) for row in tx.execute(query)])


@asynccontextmanager
async def both(
    folder: Path, peer: Path, *, secret: str = CLIENT_SECRET, host: str = "localhost", **told: Any
) -> AsyncIterator[Both]:
    """Identity with the provider configured; `secret` and `host` are what identity believes of it."""
    port = free_port()  # the provider has to know identity's address before identity is there
    registered = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "redirect_uri": f"http://localhost:{port}/sign-in-with/peer/callback",
    }
    async with started(peer, "provider.js") as provider:
        issuer = str((await provider.ask({**registered, **told}))["issuer"]).replace("localhost", host)
        believed = {"id": "peer", "name": "Peer", "issuer": issuer, "client_id": CLIENT_ID, "client_secret": secret}
        async with running_identity(folder, port=port, providers=json.dumps([believed])) as identity:
            yield Both(identity, folder / "mail")


def in_outbox(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.eml"))


async def link_mailed(folder: Path) -> str:
    """The path of the link in the one mail."""

    async def arrived() -> list[Path]:
        return in_outbox(folder)

    (file,) = await eventually(arrived, within=20)
    mail = message_from_bytes(file.read_bytes(), policy=policy.default)
    found = re.search(r"https?://[^/\s]+(/\S+)", mail.get_body(("plain",)).get_content())  # type: ignore[union-attr]
    assert found is not None
    return found[1]


async def test_somebody_new_proves_their_address_once_and_is_known_afterwards(tmp_path: Path, peer: Path) -> None:
    async with both(tmp_path, peer) as there, httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http, there.identity.issuer)
        page = await there.sign_in(browser, "carol")
        assert "A mail with a link is on its way" in page.text
        assert SESSION_COOKIE not in browser.cookies
        assert await there.linked() == []
        proven = await browser.submit(await browser.open(await link_mailed(there.mail)), "/vouch")
        assert isinstance(proven, Page)
        assert "Carol" in proven.text
        assert await there.linked() == [("peer", "carol", "carol@example.com")]
        again = Browser(http, there.identity.issuer)
        page = await there.sign_in(again, "carol")
        assert page.url.endswith("/account")
        assert SESSION_COOKIE in again.cookies


async def test_an_address_that_it_does_not_vouch_for_links_nobody(tmp_path: Path, peer: Path) -> None:
    async with both(tmp_path, peer, email_verified=False) as there, httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http, there.identity.issuer)
        page = await there.sign_in(browser, "alice")
        assert (page.status, "EMAIL_NOT_VERIFIED" in page.text) == (403, True)
        assert SESSION_COOKIE not in browser.cookies
        assert await there.linked() == []


async def test_an_address_that_only_userinfo_says_is_proven_by_mail(tmp_path: Path, peer: Path) -> None:
    async with both(tmp_path, peer, userinfo_only=True) as there, httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http, there.identity.issuer)
        page = await there.sign_in(browser, "alice")
        assert "A mail with a link is on its way" in page.text
        assert SESSION_COOKIE not in browser.cookies
        await browser.submit(await browser.open(await link_mailed(there.mail)), "/vouch")
        assert await there.linked() == [("peer", "alice", "alice@example.com")]


async def test_a_client_that_shows_a_wrong_secret_gets_nothing(tmp_path: Path, peer: Path) -> None:
    async with both(tmp_path, peer, secret="another") as there, httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http, there.identity.issuer)
        page = await there.sign_in(browser, "alice")
        assert (page.status, "PROVIDER_NOT_BELIEVED" in page.text) == (403, True)
        assert SESSION_COOKIE not in browser.cookies
        assert await there.linked() == []


async def test_a_provider_that_calls_itself_something_else_is_not_asked(tmp_path: Path, peer: Path) -> None:
    async with both(tmp_path, peer, host="127.0.0.1") as there, httpx2.AsyncClient(trust_env=False) as http:
        browser = Browser(http, there.identity.issuer)
        form = (await browser.open("/login")).form("/sign-in-with/peer")
        response = await browser.post(form.action, dict(form.fields))
        assert (response.status_code, "refresh" in response.headers) == (403, False)
