"""/revoke with rescind_end_session: who signs a person out with a refresh token, and who does not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from devstack.flow import Browser, Refused, Tokens
from devstack.story.scene import claims_of
from support.identity_front import ALICE, IDENTITY, PASSWORD, Front, identity_front

SCOPE = "openid orders:read"
SIGN_OUT = {"rescind_end_session": "true"}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def signed_in(
    front: Front, client_id: str = "web", *, scope: str = SCOPE, browser: Browser | None = None
) -> Tokens:
    browser = browser or front.browser()
    return await front.client(client_id).sign_in(browser, ALICE, PASSWORD, scope=scope, resource=IDENTITY)


async def revoke(front: Front, token: str | None, client_id: str = "web", **more: str) -> tuple[int, Any]:
    answer = await front.client(client_id).post("/revoke", token=token or "", **(more or SIGN_OUT))
    return answer.status_code, answer.json()


def ended(tokens: Tokens) -> list[tuple[str, list[dict[str, Any]]]]:
    """The log, when all that happened is that the session of these tokens ended."""
    sid = claims_of(tokens.access_token)["sid"]
    return [("SIGNED_OUT", [{"kind": "session", "id": sid, "gen": 0, "soft": False}])]


async def test_the_login_session_ends_and_with_it_what_other_apps_hold(front: Front) -> None:
    browser = front.browser()
    mine = await signed_in(front, browser=browser)
    other = await signed_in(front, "calendar", scope="openid", browser=browser)
    assert await revoke(front, mine.refresh_token) == (200, {})
    assert front.log() == ended(mine)
    assert front.pushed
    assert await front.client("backoffice").introspect(other.access_token) == {"active": False}
    assert (await browser.open("/login")).form("/login")
    assert await revoke(front, mine.refresh_token) == (200, {})
    assert front.log() == ended(mine)


async def test_a_spent_token_of_a_grant_that_is_over_will_do(front: Front) -> None:
    tokens = await signed_in(front)
    await front.client("web").refresh(tokens, resource=IDENTITY)
    front.clock.forward(11)
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("web").refresh(tokens, resource=IDENTITY)
    reuse = front.log()
    assert [cause for cause, _ in reuse] == ["REFRESH_REUSED"]
    assert await revoke(front, tokens.refresh_token) == (200, {})
    assert front.log() == reuse + ended(tokens)


async def test_a_plain_revocation_leaves_the_login_session_alone(front: Front) -> None:
    for more in ({"token_type_hint": "refresh_token"}, {"rescind_end_session": "false"}, {"rescind_end_session": ""}):
        tokens = await signed_in(front)
        assert await revoke(front, tokens.refresh_token, **more) == (200, {})
    assert [cause for cause, _ in front.log()] == ["TOKEN_REVOKED"] * 3


async def test_a_grant_that_outlives_its_session_ends_alone(front: Front) -> None:
    tokens = await signed_in(front, scope="openid offline_access")
    assert await revoke(front, tokens.refresh_token) == (200, {})
    assert [cause for cause, _ in front.log()] == ["TOKEN_REVOKED"]


@pytest.mark.requirement(71)
@pytest.mark.parametrize("client_id", ["mobile", "partner"])
async def test_neither_a_public_client_nor_somebody_elses_signs_anybody_out(front: Front, client_id: str) -> None:
    tokens = await signed_in(front, client_id, scope="openid offline_access")
    status, answer = await revoke(front, tokens.refresh_token, client_id)
    assert (status, answer["error"]) == (400, "unauthorized_client")
    status, answer = await revoke(front, "nonsense", client_id)
    assert (status, answer["error"]) == (400, "unauthorized_client")
    assert front.log() == []


@pytest.mark.requirement(71)
async def test_what_others_may_have_seen_signs_nobody_out(front: Front) -> None:
    tokens = await signed_in(front)
    status, answer = await revoke(front, tokens.access_token)
    assert (status, answer["error"]) == (400, "invalid_request")
    status, answer = await revoke(front, tokens.refresh_token, "backoffice")
    assert (status, answer["error"]) == (400, "invalid_grant")
    assert await revoke(front, "nonsense") == (200, {})
    assert front.log() == []
