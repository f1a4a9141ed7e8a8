"""Out to another provider and back, as a person goes; and what is linked afterwards."""

from urllib.parse import urlencode

from sqlalchemy import select

from devstack.flow import Browser, Page
from identity.people.storage import user_identities
from support.foreign_provider import CLIENT_ID, CLIENT_SECRET, ISSUER, ForeignProvider
from support.identity_front import Front
from support.mailbox import Mailbox, link_in

ACME = {"id": "acme", "name": "Acme", "issuer": ISSUER, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
HUB = {
    "id": "github",
    "preset": "github",
    "client_id": CLIENT_ID,
    "client_secret": CLIENT_SECRET,
    "github": "https://github.acme.example",
    "github_api": "https://api.github.acme.example",
}
CAROL = {"sub": "acme-carol", "email": "carol@example.com", "email_verified": True, "name": "Carol"}


async def gone_out(browser: Browser, at: str = "acme") -> str:
    """Where the browser is sent."""
    form = (await browser.open("/login")).form(f"/sign-in-with/{at}")
    response = await browser.post(form.action, dict(form.fields))
    assert response.status_code == 200
    return response.headers["refresh"].removeprefix("0;url=")


async def come_back(browser: Browser, answer: dict[str, str], at: str = "acme") -> Page:
    page = await browser.walk(await browser.get(f"/sign-in-with/{at}/callback?{urlencode(answer)}"))
    assert not isinstance(page, str)
    return page


async def comes(front: Front, provider: ForeignProvider, browser: Browser | None = None, at: str = "acme") -> Page:
    browser = browser or front.browser()
    return await come_back(browser, provider.visit(await gone_out(browser, at)), at)


async def proven(front: Front, browser: Browser) -> Page:
    (mail,) = [mail for mail in await Mailbox().empty(front.parts) if mail.subject.startswith("Connect")]
    page = await browser.submit(await browser.open(link_in(mail)), "/vouch")
    assert not isinstance(page, str)
    return page


def linked(front: Front) -> list[tuple[str, str, str]]:
    columns = (user_identities.c.provider, user_identities.c.subject, user_identities.c.user_id)
    return [tuple(row) for row in front.database.run_sync(lambda tx: tx.execute(select(*columns)).all())]
