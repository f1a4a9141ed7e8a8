"""Pushed authorization requests: a name for one client, for a minute, for once; judged when pushed and when used."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from sqlalchemy import select, update

from devstack.flow import OAuthClient, Started
from identity.client_keys import ClientKeys
from identity.housekeeping import sweep
from identity.oauth.pushed import PREFIX
from identity.storage import clients, codes, pushed_requests
from support.client_keys import SigningClient, public_jwk
from support.identity_front import ALICE, ISSUER, ORDERS, PASSWORD, Front, identity_front


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with identity_front(database_url) as front:
        yield front


def parameters(started: Started) -> dict[str, Any]:
    """What the request at /authorize would carry."""
    return {name: values[0] for name, values in parse_qs(urlsplit(started.url).query).items()}


async def pushed(client: OAuthClient, started: Started, **changes: str) -> httpx2.Response:
    return await client.post("/par", **(parameters(started) | changes))


def named(request_uri: str, client_id: str = "web", **more: str) -> str:
    return f"{ISSUER}/authorize?" + urlencode({"client_id": client_id, "request_uri": request_uri} | more)


def rows(front: Front) -> int:
    return len(front.database.run_sync(lambda tx: tx.execute(select(pushed_requests.c.hash)).all()))


@pytest.mark.requirement(57)
async def test_a_pushed_request_leads_to_tokens(any_front: Front) -> None:
    front = any_front
    client = front.client("web")
    started = client.start(scope="openid orders:read", resource=ORDERS)
    answer = await pushed(client, started)
    assert answer.status_code == 201
    assert answer.json()["expires_in"] == 60
    assert answer.headers["cache-control"] == "no-store"
    request_uri = answer.json()["request_uri"]
    assert request_uri.startswith(PREFIX)
    through = Started(named(request_uri), started.state, started.nonce, started.verifier)
    code = await client.authorize(front.browser(), through, ALICE, PASSWORD)
    tokens = await client.redeem(started, code)
    assert tokens.scope == "orders:read"
    assert tokens.id_token
    assert rows(front) == 0


async def test_what_stands_beside_its_name_is_not_looked_at(front: Front) -> None:
    client = front.client("web")
    started = client.start(scope="openid")
    request_uri = (await pushed(client, started)).json()["request_uri"]
    url = named(request_uri, scope="orders:admin", redirect_uri="http://evil.example/", state="other")
    await client.authorize(
        front.browser(), Started(url, started.state, started.nonce, started.verifier), ALICE, PASSWORD
    )
    row = front.database.run_sync(lambda tx: tx.execute(select(codes)).one())
    assert (row.scope, row.redirect_uri) == ("openid", "http://localhost:8000/auth/callback")


@pytest.mark.requirement(83)
async def test_of_twenty_browsers_at_once_one_gets_on(any_front: Front) -> None:
    front = any_front
    client = front.client("web")
    request_uri = (await pushed(client, client.start(scope="openid"))).json()["request_uri"]
    answers = await asyncio.gather(*(front.browser().get(named(request_uri)) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [303] + [400] * 19
    refused = next(answer for answer in answers if answer.status_code == 400)
    assert "invalid_request_uri" in refused.text
    assert "location" not in refused.headers


async def test_a_name_is_for_its_client_and_for_a_minute(front: Front) -> None:
    client = front.client("web")
    request_uri = (await pushed(client, client.start(scope="openid"))).json()["request_uri"]
    for url in (
        named(request_uri, "mobile"),
        f"{ISSUER}/authorize?" + urlencode({"request_uri": request_uri}),
        named(request_uri + "x"),
        named(PREFIX),
    ):
        assert (await front.browser().get(url)).status_code == 400
    front.clock.forward(59)
    assert (await front.browser().get(named(request_uri))).status_code == 303
    late = (await pushed(client, client.start(scope="openid"))).json()["request_uri"]
    front.clock.forward(61)
    assert (await front.browser().get(named(late))).status_code == 400
    front.database.run_sync(lambda tx: sweep(tx, front.clock()))
    assert rows(front) == 0


async def test_another_kind_of_request_uri_is_not_fetched(front: Front) -> None:
    url = front.client("mobile").start(scope="openid", request_uri="http://127.0.0.1:1/request").url
    answer = await front.browser().get(url)
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["request_uri_not_supported"]


@pytest.mark.requirement(57)
async def test_the_client_must_be_who_it_says(front: Front) -> None:
    started = front.client("web").start(scope="openid")
    nobody = await front.http.post(f"{ISSUER}/par", data=parameters(started))
    assert (nobody.status_code, nobody.json()["error"]) == (401, "invalid_client")
    guessed = OAuthClient(front.http, ISSUER, "web", secret="guessed", redirect_uri="")
    assert (await pushed(guessed, started)).status_code == 401
    other = await pushed(front.client("partner"), started)
    assert (other.status_code, other.json()["error"]) == (400, "invalid_request")
    assert rows(front) == 0


@pytest.mark.requirement(59)
async def test_by_signature_too_and_a_public_client_by_its_name(front: Front) -> None:
    jwks = ClientKeys.parse({"keys": [public_jwk("web-1")]}).document()
    front.database.run_sync(lambda tx: tx.execute(update(clients).where(clients.c.id == "web").values(jwks=jwks)))
    signing = SigningClient(front.http, ISSUER, "web", front.clock)
    answer = await signing.post("/par", **parameters(front.client("web").start(scope="openid")))
    assert answer.status_code == 201
    stored = front.database.run_sync(lambda tx: tx.execute(select(pushed_requests.c.query)).scalar_one())
    assert "client_assertion" not in stored
    mobile = front.client("mobile")
    assert (await pushed(mobile, mobile.start(scope="openid"))).status_code == 201


@pytest.mark.requirement(48)
@pytest.mark.requirement(53)
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"redirect_uri": "http://localhost:8000/auth/callback/"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"scope": "nonsense"}, "invalid_scope"),
        ({"resource": "urn:rescind:nowhere"}, "invalid_target"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"request_uri": "urn:ietf:params:oauth:request_uri:x"}, "invalid_request"),
        ({"request": "e30.e30."}, "request_not_supported"),
        ({"state": "x" * 3000}, "invalid_request"),
        ({"login_hint": "x" * 9000}, "invalid_request"),
    ],
)
async def test_what_authorize_would_refuse_is_refused_at_once(
    front: Front, changes: dict[str, str], error: str
) -> None:
    client = front.client("web")
    answer = await pushed(client, client.start(scope="openid"), **changes)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert "location" not in answer.headers
    assert rows(front) == 0


async def test_what_was_taken_away_meanwhile_is_seen_when_the_person_comes(front: Front) -> None:
    client = front.client("web")
    request_uri = (await pushed(client, client.start(scope="openid"))).json()["request_uri"]
    front.database.run_sync(
        lambda tx: tx.execute(update(clients).where(clients.c.id == "web").values(redirect_uris=[]))
    )
    answer = await front.browser().get(named(request_uri))
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.requirement(68)
async def test_a_parameter_that_comes_twice_or_in_the_url_is_refused(front: Front) -> None:
    client = front.client("mobile")
    body = urlsplit(client.start(scope="openid").url).query
    headers = {"content-type": "application/x-www-form-urlencoded"}
    twice = await front.http.post(f"{ISSUER}/par", content=body + "&scope=profile", headers=headers)
    assert (twice.status_code, twice.json()["error"]) == (400, "invalid_request")
    in_url = await front.http.post(f"{ISSUER}/par?scope=openid", content=body, headers=headers)
    assert (in_url.status_code, in_url.json()["error"]) == (400, "invalid_request")
