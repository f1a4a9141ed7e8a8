"""Through the pages of sign-up and reset, as a person goes."""

from urllib.parse import urlsplit

from devstack.flow import Browser, Page
from identity.web import SESSION_COOKIE
from support.identity_front import Front
from support.mailbox import Mailbox, link_in

NEW, GOOD = "carol@example.com", "a-lamp-of-purple-glass"


async def asked(front: Front, path: str, email: str, browser: Browser | None = None) -> Page:
    """The page that answers somebody who asks for mail."""
    browser = browser or front.browser()
    page = await browser.submit(await browser.open(path), urlsplit(path).path, email=email)
    assert not isinstance(page, str)
    return page


async def mailed(front: Front, path: str, email: str) -> str:
    """The link that came."""
    await asked(front, path, email)
    (mail,) = await Mailbox().empty(front.parts)
    assert mail.to == email
    return link_in(mail)


async def finished(front: Front, link: str, browser: Browser | None = None, **fields: str) -> Page:
    browser = browser or front.browser()
    page = await browser.submit(await browser.open(link), urlsplit(link).path, **fields)
    assert not isinstance(page, str)
    return page


async def signs_in(front: Front, email: str, password: str) -> bool:
    browser = front.browser()
    await browser.submit(await browser.open("/login"), "/login", email=email, password=password)
    return SESSION_COOKIE in browser.cookies
