"""Back-channel logout: a session ends because identity says so, and only then."""

import time
from typing import Any

import jwt
import pytest

from rescind.testing import rsa_key
from support.session_window import BOB, Window
from support.session_world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")
EVENT = "http://schemas.openid.net/event/backchannel-logout"


async def _signed_in(world: World) -> tuple[Window, str]:
    window = world.window()
    await window.sign_in(BOB)
    return window, (await window.get("/api/me")).json()["sid"]


def _claims(world: World, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": world.issuer,
        "aud": "web",
        "iat": now,
        "exp": now + 120,
        "jti": f"jti-{time.time_ns()}",
        "events": {EVENT: {}},
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def _signed(world: World, claims: dict[str, Any], typ: str = "logout+jwt") -> str:
    """With identity's own key."""
    parts = world.parts
    return parts.database.run_sync(lambda tx: parts.keyring.signing_key(tx, "access").sign(typ, claims))


async def _told(world: World, token: str) -> Any:
    return await world.http.post(f"{world.origin}/auth/backchannel-logout", data={"logout_token": token})


@pytest.mark.requirement(47)
async def test_a_logout_token_ends_its_session(world: World) -> None:
    window, sid = await _signed_in(world)
    other, _ = await _signed_in(world)
    answer = await _told(world, _signed(world, _claims(world, sid=sid, sub=world.subject(BOB))))
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert (await window.get("/api/me")).status_code == 401
    assert (await other.get("/api/me")).status_code == 200


@pytest.mark.requirement(47)
async def test_without_a_sid_it_ends_all_of_a_person(world: World) -> None:
    windows = [(await _signed_in(world))[0] for _ in range(2)]
    assert (await _told(world, _signed(world, _claims(world, sub=world.subject(BOB))))).status_code == 200
    assert [(await window.get("/api/me")).status_code for window in windows] == [401, 401]


@pytest.mark.requirement(47)
@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"aud": "mobile"},
        {"aud": None},
        {"iat": None},
        {"exp": None},
        {"exp": 1},
        {"jti": None},
        {"events": None},
        {"events": {}},
        {"events": {"http://schemas.openid.net/event/other": {}}},
        {"events": [EVENT]},
        {"nonce": "n"},
        {"sid": None},
        {"exp in": 100_000},
        {"iat in": 1_000, "exp in": 1_100},
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": "secevent+jwt"},
        {"key": "a stranger's"},
    ],
    ids=str,
)
async def test_anything_else_ends_nothing(world: World, changes: dict[str, Any]) -> None:
    window, sid = await _signed_in(world)
    typ, key = changes.get("typ", "logout+jwt"), changes.get("key")
    now = int(time.time())
    changed = {k.removesuffix(" in"): now + v if k.endswith(" in") else v for k, v in changes.items()}
    claims = _claims(world, **{"sid": sid, **{k: v for k, v in changed.items() if k not in ("typ", "key")}})
    token = _signed(world, claims, typ)
    if key:
        kid = jwt.get_unverified_header(token)["kid"]
        token = jwt.encode(claims, rsa_key(key), algorithm="RS256", headers={"typ": typ, "kid": kid})
    answer = await _told(world, token)
    assert (answer.status_code, answer.json()["reason"]) == (400, "LOGOUT_TOKEN_REFUSED")
    assert (await window.get("/api/me")).status_code == 200


@pytest.mark.requirement(47)
async def test_a_logout_token_is_good_once(world: World) -> None:
    _, sid = await _signed_in(world)
    token = _signed(world, _claims(world, sid=sid))
    assert (await _told(world, token)).status_code == 200
    again = await _told(world, token)
    assert (again.status_code, again.json()["reason"]) == (400, "LOGOUT_TOKEN_REUSED")


@pytest.mark.parametrize("body", [b"", b"logout_token=a&logout_token=b", b"token=x", b"\xff\xfe"])
async def test_a_request_without_one_logout_token_is_refused(world: World, body: bytes) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = await world.http.post(f"{world.origin}/auth/backchannel-logout", content=body, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (400, "LOGOUT_TOKEN_MISSING")
