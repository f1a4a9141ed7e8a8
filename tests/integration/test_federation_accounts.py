"""Disconnecting another provider, and addresses that only its userinfo says."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import insert

from devstack.flow import Browser, Page
from identity.federation.service import Federation
from identity.people.storage import user_identities
from servicekit.errors import ServiceError
from support.foreign_provider import ForeignProvider
from support.identity_front import ALICE, BOB, PASSWORD, Front, identity_front
from support.mailbox import Mailbox
from support.signing_in_elsewhere import ACME, CAROL, comes, linked, proven


@pytest.fixture
def provider() -> ForeignProvider:
    return ForeignProvider(person=dict(CAROL))


@pytest.fixture
async def front(tmp_path: Path, provider: ForeignProvider) -> AsyncIterator[Front]:
    async with identity_front(
        f"sqlite:///{tmp_path / 'identity.db'}",
        elsewhere=httpx2.ASGITransport(provider.app),
        providers=json.dumps([ACME]),
        mail_url=f"file://{tmp_path}/mail",
    ) as front:
        yield front


async def test_a_way_in_is_taken_away_with_the_password_and_written_down(
    front: Front, provider: ForeignProvider
) -> None:
    provider.person |= {"email": ALICE, "sub": "acme-alice"}
    browser = front.browser()
    await comes(front, provider, browser)
    page = await proven(front, browser)
    form = page.form("/account/disconnect").fields
    wrongs = [
        ({"csrf_token": page.form("/account/connect/acme").fields["csrf_token"], "password": PASSWORD}, 403),
        ({"password": "wrong"}, 403),
        ({"subject": "acme-bob", "password": PASSWORD}, 404),
    ]
    for wrong, status in wrongs:
        assert (await browser.post("/account/disconnect", {**form, **wrong})).status_code == status
    # Bob knows his own password, and what Alice's is called.
    bob = front.browser()
    await bob.submit(await bob.open("/login"), "/login", email=BOB, password=PASSWORD)
    row = {"provider": "acme", "subject": "acme-bob", "user_id": front.user(BOB).id, "shown_as": "bob", "linked_at": 1}
    front.database.run_sync(lambda tx: tx.execute(insert(user_identities).values(row)))
    page = await bob.open("/account")
    assert (await submitted(bob, page, subject="acme-alice")).status == 404
    assert len(linked(front)) == 2
    page = await submitted(browser, await browser.open("/account"))
    assert "You cannot sign in that way any more." in page.text
    assert [provider for provider, subject, _ in linked(front) if subject == "acme-alice"] == []
    assert "A mail with a link" in (await comes(front, provider)).text  # as if it had never been
    alice = front.user(ALICE).id
    records, _ = front.database.run_sync(lambda tx: front.parts.audit.read(tx, about=alice))
    (record,) = records
    assert (record.by, record.action, record.target) == (alice, "IDENTITY_UNLINKED", alice)
    assert record.details == {"provider": "acme"}


async def submitted(browser: Browser, page: Page, **fields: str) -> Page:
    answer = await browser.submit(page, "/account/disconnect", password=PASSWORD, **fields)
    assert not isinstance(answer, str)
    return answer


async def test_the_only_way_in_stays(front: Front, provider: ForeignProvider) -> None:
    browser = front.browser()
    await comes(front, provider, browser)
    page = await proven(front, browser)
    assert "it is your only way in" in page.text
    assert not [form for form in page.forms if form.action.endswith("/account/disconnect")]
    carol = front.user("carol@example.com").id
    federation = Federation(front.parts.people, {"acme": "Acme"}, front.parts.audit)
    with pytest.raises(ServiceError, match="no password"):
        await federation.unlink(carol, "acme", "acme-carol")
    assert linked(front) == [("acme", "acme-carol", carol)]


async def test_an_address_that_is_not_in_the_id_token_is_read_from_userinfo(
    front: Front, provider: ForeignProvider
) -> None:
    # What the ID token says of verification is not about the address that userinfo says.
    provider.person = {"sub": "acme-carol", "email_verified": True}
    address = {"email": "carol@example.com", "email_verified": True}
    for said, believed in (
        ({**address, "sub": "another"}, "PROVIDER_NOT_BELIEVED"),
        ({**address, "sub": None}, "PROVIDER_NOT_BELIEVED"),
        ({**address, "email_verified": False}, "EMAIL_NOT_VERIFIED"),
        ({**address, "email_verified": "true"}, "EMAIL_NOT_VERIFIED"),
        ({"email": "carol@example.com"}, "EMAIL_NOT_VERIFIED"),
        ({}, "EMAIL_NOT_VERIFIED"),
    ):
        provider.userinfo = {"sub": "acme-carol", **said}
        assert believed in (await comes(front, provider)).text, said
    provider.userinfo = {"sub": "acme-carol", "name": "Carol of Acme", **address}
    browser = front.browser()
    await comes(front, provider, browser)
    assert "Carol of Acme" in (await proven(front, browser)).text


async def test_an_address_in_the_id_token_is_not_asked_for_again(front: Front, provider: ForeignProvider) -> None:
    provider.userinfo = {"sub": "another", "email": ALICE, "email_verified": True}
    await comes(front, provider)
    (mail,) = await Mailbox().empty(front.parts)
    assert mail.to == "carol@example.com"
