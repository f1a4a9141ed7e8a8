"""Sign-ins that fail: a person who followed a link comes back into the app, a program gets problem details."""

import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

import session
from session.rest.navigation import OTHERWISE, TOLD
from support.session_window import BOB
from support.session_world import WEB_KEY, World

pytestmark = pytest.mark.asyncio(loop_scope="session")
REASONS = Path(session.__file__).parent / "web/js/reasons.js"


@pytest.mark.parametrize("path", ["/auth/login", "/auth/reauthenticate"])
async def test_that_identity_is_silent_is_told_by_the_app(world: World, path: str) -> None:
    _, replica = await world.another(client_key=WEB_KEY)
    window = world.window(replica)
    world.wire.cut = True
    person = await window.get(path, sec_fetch_mode="navigate")
    assert (person.status_code, person.headers["location"]) == (303, "/?sign_in=IDENTITY_UNAVAILABLE")
    assert person.headers["cache-control"] == "no-store"
    for mode in ("cors", "no-cors", ""):
        program = await window.get(path, **({"sec_fetch_mode": mode} if mode else {}))
        assert (program.status_code, program.json()["reason"]) == (503, "IDENTITY_UNAVAILABLE")
        assert program.headers["content-type"] == "application/problem+json"


async def test_a_callback_that_is_refused_is_told_by_the_app(world: World) -> None:
    window = world.window()
    unbegun = urlencode({"state": "x", "iss": world.issuer, "code": "c"})
    answer = await window.get(f"/auth/callback?{unbegun}", sec_fetch_mode="navigate")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?sign_in=SIGN_IN_NOT_BEGUN")
    own = parse_qs(urlsplit(await window.away(email=BOB)).query)["state"][0]
    forged = urlencode({"state": own, "iss": "https://evil.example", "code": "c"})
    answer = await window.get(f"/auth/callback?{forged}", sec_fetch_mode="navigate")
    assert answer.headers["location"] == "/?sign_in=ISSUER_MISMATCH"


@pytest.mark.requirement(63)
async def test_nothing_of_what_was_asked_is_in_the_address(world: World) -> None:
    window = world.window()
    for path in (
        "/auth/callback?error=https://evil.example&error=x",
        "/auth/login?return_to=//evil.example&next=https://evil.example",
    ):
        answer = await window.get(path, sec_fetch_mode="navigate")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/?sign_in={OTHERWISE}")
        assert (await window.get(path)).status_code == 400


async def test_a_sign_out_is_answered_with_its_own_status_whoever_asks(world: World) -> None:
    refused = await world.window().post("/auth/logout", sec_fetch_mode="navigate", sec_fetch_site="cross-site")
    assert (refused.status_code, refused.json()["reason"]) == (403, "CROSS_ORIGIN")


async def test_the_app_has_a_sentence_for_each() -> None:
    known = re.search(r"NOT_COMPLETED = \{(.*?)\n\};", REASONS.read_text(), re.DOTALL)
    assert known is not None
    assert set(re.findall(r"^  (\w+): ", known[1], re.MULTILINE)) == TOLD | {OTHERWISE}
