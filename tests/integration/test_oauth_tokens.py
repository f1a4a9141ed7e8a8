"""The token endpoint, revocation and introspection: who may have what, once, and never more than was granted."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from devstack.flow import Refused, Tokens
from support.identity_front import ALICE, BOB, IDENTITY, ORDERS, PASSWORD, Front, identity_front

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url) as front:
        yield front


def claims_of(token: str) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return decoded


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


async def offline_tokens(front: Front, email: str = ALICE, client_id: str = "mobile") -> Tokens:
    scope = "openid offline_access orders:read orders:write"
    return await front.client(client_id).sign_in(front.browser(), email, PASSWORD, scope=scope, resource=ORDERS)


@pytest.mark.requirement(52)
async def test_a_refresh_gives_new_tokens_of_the_same_grant(front: Front) -> None:
    client = front.client("mobile")
    first = await offline_tokens(front)
    front.clock.forward(60)
    second = await client.refresh(first)
    assert second.refresh_token != first.refresh_token
    before, after = claims_of(first.access_token), claims_of(second.access_token)
    assert after["jti"] != before["jti"]
    assert after["iat"] == before["iat"] + 60
    assert {name: after[name] for name in ("gid", "sub", "auth_time", "scope", "aud")} == {
        name: before[name] for name in ("gid", "sub", "auth_time", "scope", "aud")
    }


@pytest.mark.requirement(52, 83)
async def test_twenty_parallel_refreshes_give_one_successor_and_late_replays_end_the_grant(any_front: Front) -> None:
    client = any_front.client("mobile")
    first = await offline_tokens(any_front)
    answers = await asyncio.gather(*(client.refresh(first) for _ in range(20)))
    (successor,) = {answer.refresh_token for answer in answers}
    assert successor not in (None, first.refresh_token)
    assert any_front.log() == []
    any_front.clock.forward(11)
    replays = await asyncio.gather(*(client.refresh(first) for _ in range(20)), return_exceptions=True)
    assert [isinstance(replay, Refused) and replay.error for replay in replays] == ["invalid_grant"] * 20
    gid = claims_of(first.access_token)["gid"]
    assert any_front.log() == [("REFRESH_REUSED", [{"kind": "grant", "id": gid, "gen": 0, "soft": False}])]
    assert any_front.pushed
    with pytest.raises(Refused, match="invalid_grant"):
        await client.refresh(answers[0])


@pytest.mark.requirement(52)
async def test_a_replay_after_the_successor_was_used_ends_the_grant_inside_the_window_too(front: Front) -> None:
    client = front.client("mobile")
    first = await offline_tokens(front)
    second = await client.refresh(first)
    third = await client.refresh(second)
    with pytest.raises(Refused, match="invalid_grant"):
        await client.refresh(first)
    with pytest.raises(Refused, match="invalid_grant"):
        await client.refresh(third)


@pytest.mark.requirement(55)
async def test_rotation_does_not_move_the_absolute_end(tmp_path: Path) -> None:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}", offline_life=3600) as front:
        client = front.client("mobile")
        tokens = await offline_tokens(front)
        for _ in range(3):
            front.clock.forward(1190)
            tokens = await client.refresh(tokens)
        assert tokens.expires_in <= 30  # no token outlives its grant
        front.clock.forward(31)
        with pytest.raises(Refused, match="invalid_grant"):
            await client.refresh(tokens)


@pytest.mark.requirement(58)
async def test_a_refresh_narrows_and_never_widens(front: Front) -> None:
    client = front.client("mobile")
    tokens = await offline_tokens(front)
    tokens = await client.refresh(tokens, scope="orders:read")
    assert tokens.scope == "orders:read"
    for scope in ("orders:read orders:admin", "email", "everything"):
        with pytest.raises(Refused, match="invalid_scope"):
            await client.refresh(tokens, scope=scope)
    # Narrowing was for one token: the grant is as wide as it was.
    assert (await client.refresh(tokens)).scope == "orders:read orders:write"


@pytest.mark.requirement(7)
async def test_a_refresh_is_for_authorized_audiences_only(front: Front) -> None:
    client = front.client("mobile")
    tokens = await offline_tokens(front)
    for resource in (IDENTITY, "urn:rescind:notifications"):
        with pytest.raises(Refused, match="invalid_target"):
            await client.refresh(tokens, resource=resource)
    assert claims_of((await client.refresh(tokens, resource=ORDERS)).access_token)["aud"] == ORDERS


async def test_a_refresh_token_is_its_clients_alone(front: Front) -> None:
    tokens = await offline_tokens(front)
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("web").refresh(tokens)
    assert (await front.client("mobile").refresh(tokens)).access_token


@pytest.mark.requirement(65)
async def test_a_client_speaks_for_itself_and_can_be_taken_for_nobody(front: Front) -> None:
    tokens = await front.client("backoffice").client_credentials(scope="orders:read orders:admin", resource=ORDERS)
    claims = claims_of(tokens.access_token)
    assert claims["sub"] == "svc_backoffice"
    assert not {"gid", "gen", "sid", "auth_time"} & set(claims)
    assert (tokens.scope, tokens.refresh_token, tokens.id_token) == ("orders:admin orders:read", None, None)


@pytest.mark.requirement(58)
async def test_a_client_gets_what_it_is_registered_for(front: Front) -> None:
    backoffice = front.client("backoffice")
    assert (await backoffice.client_credentials()).scope == "identity:admin"
    assert (
        await backoffice.client_credentials(scope="orders:read orders:write", resource=ORDERS)
    ).scope == "orders:read"
    with pytest.raises(Refused, match="invalid_scope"):
        await backoffice.client_credentials(scope="orders:write", resource=ORDERS)
    with pytest.raises(Refused, match="invalid_scope"):
        await backoffice.client_credentials(scope="identity:admin", resource=ORDERS)
    with pytest.raises(Refused, match="invalid_target"):
        await backoffice.client_credentials(resource="urn:rescind:notifications")
    with pytest.raises(Refused, match="invalid_target"):
        await front.client("orders").client_credentials(resource=ORDERS)


@pytest.mark.requirement(51)
@pytest.mark.parametrize(
    ("client_id", "parameters", "error"),
    [
        ("mobile", {"grant_type": "password", "username": ALICE, "password": PASSWORD}, "unsupported_grant_type"),
        ("mobile", {"grant_type": "urn:ietf:params:oauth:grant-type:device_code"}, "unauthorized_client"),
        ("mobile", {}, "invalid_request"),
        ("mobile", {"grant_type": "client_credentials"}, "invalid_client"),
        ("web", {"grant_type": "client_credentials"}, "unauthorized_client"),
        ("backoffice", {"grant_type": "authorization_code", "code": "x"}, "unauthorized_client"),
        ("backoffice", {"grant_type": "refresh_token", "refresh_token": "x"}, "unauthorized_client"),
        ("mobile", {"grant_type": "authorization_code"}, "invalid_request"),
        ("mobile", {"grant_type": "authorization_code", "code": "unknown"}, "invalid_grant"),
        ("mobile", {"grant_type": "refresh_token"}, "invalid_request"),
        ("mobile", {"grant_type": "refresh_token", "refresh_token": "unknown"}, "invalid_grant"),
    ],
)
async def test_grants_that_a_client_does_not_have(
    front: Front, client_id: str, parameters: dict[str, str], error: str
) -> None:
    with pytest.raises(Refused) as refused:
        await front.client(client_id).token(**parameters)
    assert refused.value.error == error
    assert refused.value.status in (400, 401)


@pytest.mark.requirement(57)
@pytest.mark.parametrize("endpoint", ["/token", "/revoke", "/introspect"])
@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({}, {}),
        ({}, {"client_id": "backoffice"}),
        ({}, {"client_id": "backoffice", "client_secret": "wrong"}),
        ({}, {"client_id": "nobody", "client_secret": "backoffice-secret"}),
        (basic("backoffice", "wrong"), {}),
        (basic("backoffice", ""), {}),
        (basic("nobody", "backoffice-secret"), {}),
        ({"authorization": "Basic !!!"}, {}),
        ({"authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()}, {}),
        ({"authorization": "Bearer x"}, {"client_id": "backoffice"}),
        (basic("back%00office", "x"), {}),
    ],
)
async def test_a_confidential_client_has_to_show_its_secret(
    front: Front, endpoint: str, headers: dict[str, str], fields: dict[str, str]
) -> None:
    sent = {"grant_type": "client_credentials", "token": "x"} | fields
    response = await front.http.post(endpoint, data=sent, headers=headers)
    assert response.status_code in (400, 401)
    assert response.json()["error"] == "invalid_client"
    if headers and response.status_code == 401:
        assert response.headers["www-authenticate"].startswith("Basic")


@pytest.mark.requirement(57)
async def test_both_ways_to_show_a_secret_work_and_not_both_at_once(front: Front) -> None:
    sent = {"grant_type": "client_credentials"}
    in_body = {"client_id": "backoffice", "client_secret": "backoffice-secret"}
    header = basic("backoffice", "backoffice-secret")
    assert (await front.http.post("/token", data=sent, headers=header)).status_code == 200
    assert (await front.http.post("/token", data=sent | in_body)).status_code == 200
    both = await front.http.post("/token", data=sent | in_body, headers=header)
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")
    other = await front.http.post("/token", data=sent | {"client_id": "orders"}, headers=header)
    assert (other.status_code, other.json()["error"]) == (400, "invalid_request")


@pytest.mark.requirement(57)
async def test_a_public_client_never_introspects(front: Front) -> None:
    tokens = await offline_tokens(front)
    response = await front.http.post("/introspect", data={"token": tokens.access_token, "client_id": "mobile"})
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")


@pytest.mark.requirement(68)
@pytest.mark.parametrize(
    "body",
    [
        "grant_type=client_credentials&grant_type=client_credentials",
        "grant_type=client_credentials&scope=orders:read&scope=orders:admin",
        "grant_type=client_credentials&client_id=backoffice&client_id=orders",
        "grant_type=client_credentials&scope=%FF",
        "grant_type=client_credentials&scope=a%00b",
    ],
)
async def test_repeated_or_unreadable_parameters_are_refused(front: Front, body: str) -> None:
    headers = basic("backoffice", "backoffice-secret") | {"content-type": FORM}
    response = await front.http.post("/token", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


@pytest.mark.requirement(68)
async def test_parameters_come_from_the_body_alone(front: Front) -> None:
    header = basic("backoffice", "backoffice-secret")
    in_url = await front.http.post("/token?grant_type=client_credentials", data={"scope": "x"}, headers=header)
    assert in_url.json()["error"] == "invalid_request"
    as_json = await front.http.post("/token", json={"grant_type": "client_credentials"}, headers=header)
    assert as_json.json()["error"] == "invalid_request"
    assert (await front.http.get("/token?grant_type=client_credentials", headers=header)).status_code == 405


async def test_a_body_of_megabytes_is_turned_away(front: Front) -> None:
    response = await front.http.post("/token", content="a=" + "x" * 200_000, headers={"content-type": FORM})
    assert (response.status_code, response.json()["reason"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.requirement(69)
async def test_what_the_token_endpoint_says_is_never_stored(front: Front) -> None:
    header = basic("backoffice", "backoffice-secret")
    good = await front.http.post("/token", data={"grant_type": "client_credentials"}, headers=header)
    bad = await front.http.post("/token", data={"grant_type": "nonsense"}, headers=header)
    assert [good.status_code, bad.status_code] == [200, 400]
    assert {good.headers["cache-control"], bad.headers["cache-control"]} == {"no-store"}
    assert good.json()["token_type"] == "Bearer"


@pytest.mark.requirement(71)
async def test_revoking_a_refresh_token_ends_its_grant_and_access_tokens(front: Front) -> None:
    client = front.client("mobile")
    tokens = await offline_tokens(front)
    assert tokens.refresh_token is not None
    await client.revoke(tokens.refresh_token)
    gid = claims_of(tokens.access_token)["gid"]
    assert front.log() == [("TOKEN_REVOKED", [{"kind": "grant", "id": gid, "gen": 0, "soft": False}])]
    assert front.pushed
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}
    with pytest.raises(Refused, match="invalid_grant"):
        await client.refresh(tokens)
    await client.revoke(tokens.refresh_token)
    assert len(front.log()) == 1  # what is dead takes no position


@pytest.mark.requirement(71)
async def test_revoking_an_access_token_takes_back_that_one_alone(front: Front) -> None:
    client = front.client("mobile")
    first = await offline_tokens(front)
    second = await client.refresh(first)
    await client.revoke(first.access_token)
    jti = claims_of(first.access_token)["jti"]
    assert front.log() == [("TOKEN_REVOKED", [{"kind": "token", "id": jti, "gen": 0, "soft": False}])]
    asks = front.client("backoffice")
    assert await asks.introspect(first.access_token) == {"active": False}
    assert (await asks.introspect(second.access_token))["active"] is True


@pytest.mark.requirement(71)
async def test_an_unknown_token_is_answered_200_and_anothers_is_not_revoked(front: Front) -> None:
    tokens = await offline_tokens(front)
    assert tokens.refresh_token is not None
    forged = tokens.access_token[:-8] + "AAAAAAAA"
    for unknown in ("nonsense", "a.b.c", forged, "x" * 9000):
        await front.client("mobile").revoke(unknown)
    for token in (tokens.access_token, tokens.refresh_token):
        with pytest.raises(Refused):
            await front.client("partner").revoke(token)
    assert front.log() == []
    assert (await front.client("backoffice").introspect(tokens.access_token))["active"] is True
    response = await front.client("mobile").post("/revoke")
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


async def test_an_unknown_hint_does_not_hinder(front: Front) -> None:
    tokens = await offline_tokens(front)
    response = await front.client("mobile").post("/revoke", token=tokens.access_token, token_type_hint="pizza")
    assert response.status_code == 200
    assert len(front.log()) == 1


@pytest.mark.requirement(72)
async def test_introspection_tells_those_whom_it_concerns(front: Front) -> None:
    tokens = await offline_tokens(front)
    claims = claims_of(tokens.access_token)
    told = await front.client("orders").introspect(tokens.access_token)
    shown = {
        name: claims[name] for name in ("iss", "sub", "aud", "client_id", "exp", "iat", "jti", "scope", "auth_time")
    }
    assert told == {"active": True, "token_type": "Bearer", **shown}
    assert await front.client("backoffice").introspect(tokens.access_token) == told
    # Confidential, but neither is it for the partner nor may the partner ask.
    assert await front.client("partner").introspect(tokens.access_token) == {"active": False}
    at_identity = await front.client("mobile").sign_in(front.browser(), BOB, PASSWORD, scope="openid")
    assert await front.client("orders").introspect(at_identity.access_token) == {"active": False}


@pytest.mark.requirement(72)
async def test_what_is_not_active_is_exactly_that(front: Front) -> None:
    tokens = await offline_tokens(front)
    assert tokens.refresh_token is not None
    asks = front.client("backoffice")
    for token in ("nonsense", tokens.access_token[:-8] + "AAAAAAAA", tokens.id_token or "", tokens.refresh_token):
        assert await asks.introspect(token) == {"active": False}
    front.clock.forward(900 + 6)
    assert await asks.introspect(tokens.access_token) == {"active": False}


async def test_a_disabled_account_refreshes_no_more(front: Front) -> None:
    tokens = await offline_tokens(front)
    await front.accounts.disable_account(front.user(ALICE).id)
    with pytest.raises(Refused, match="invalid_grant"):
        await front.client("mobile").refresh(tokens)
    assert await front.client("backoffice").introspect(tokens.access_token) == {"active": False}


async def test_a_database_that_does_not_answer_is_503_and_spends_nothing(front: Front, tmp_path: Path) -> None:
    client = front.client("mobile")
    tokens = await offline_tokens(front)
    (tmp_path / "identity.db").rename(tmp_path / "away.db")
    front.database.engine.dispose()
    (tmp_path / "identity.db").mkdir()
    with pytest.raises(Refused) as refused:
        await client.refresh(tokens)
    assert (refused.value.status, refused.value.error) == (503, "DATABASE_UNAVAILABLE")
    front.database.engine.dispose()
    (tmp_path / "identity.db").rmdir()
    (tmp_path / "away.db").rename(tmp_path / "identity.db")
    assert (await client.refresh(tokens)).access_token
