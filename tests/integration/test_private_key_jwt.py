"""private_key_jwt: an assertion proves its client once, here, now; the secret of a client that has both goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import RSAKey
from sqlalchemy import select, update

from devstack.flow import Refused
from identity.client_keys import ClientKeys
from identity.housekeeping import sweep
from identity.service import NewClient
from identity.storage import client_assertions, clients
from support.client_keys import SigningClient, private_key, public_jwk
from support.identity_front import ALICE, IDENTITY, ISSUER, ORDERS, PASSWORD, Front, identity_front

ENDPOINTS = ("/token", "/revoke", "/introspect", "/par")
GRANT = {"grant_type": "client_credentials", "resource": ORDERS}


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with prepared(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


@pytest.fixture
async def any_front(database_url: str) -> AsyncIterator[Front]:
    """On SQLite, and on PostgreSQL."""
    async with prepared(database_url) as front:
        yield front


@asynccontextmanager
async def prepared(database_url: str) -> AsyncIterator[Front]:
    """With a client that has keys and no secret, and `web`, which has both."""
    async with identity_front(database_url) as front:
        jwks = ClientKeys.parse({"keys": [public_jwk("web-1"), public_jwk("web-2", "ES256")]})
        machine = NewClient(
            "machine",
            "A machine",
            first_party=True,
            grant_types=("client_credentials",),
            scopes=("orders:read",),
            resources=(IDENTITY, ORDERS),
            permissions=("introspect_any",),
            jwks=jwks,
        )

        def register(tx: Any) -> None:
            front.accounts.add_client(tx, machine)
            tx.execute(update(clients).where(clients.c.id == "web").values(jwks=jwks.document()))

        front.database.run_sync(register)
        yield front


def signing(front: Front, client_id: str = "machine", key: str = "web-1", algorithm: str = "RS256") -> SigningClient:
    return SigningClient(front.http, ISSUER, client_id, front.clock, key, algorithm)


def body(endpoint: str) -> dict[str, str]:
    return GRANT if endpoint == "/token" else {"token": "none-of-ours"}


@pytest.mark.requirement(59)
@pytest.mark.parametrize(("key", "algorithm"), [("web-1", "RS256"), ("web-1", "PS256"), ("web-2", "ES256")])
async def test_a_client_gets_a_token_by_its_signature(front: Front, key: str, algorithm: str) -> None:
    client = signing(front, key=key)
    kind = "ES256" if algorithm == "ES256" else "RS256"
    assertion = jwt.encode(client.claims(), private_key(key, kind), algorithm, headers={"kid": key})
    answer = await client.post("/token", assertion=assertion, **GRANT)
    assert answer.status_code == 200
    assert answer.json()["scope"] == "orders:read"


@pytest.mark.requirement(57)
@pytest.mark.parametrize("endpoint", ["/token", "/revoke", "/introspect"])
async def test_every_endpoint_takes_it_and_refuses_a_client_that_only_says_who_it_is(
    front: Front, endpoint: str
) -> None:
    assert (await signing(front).post(endpoint, **body(endpoint))).status_code == 200
    nobody = await front.http.post(ISSUER + endpoint, data={"client_id": "machine"} | body(endpoint))
    assert (nobody.status_code, nobody.json()["error"]) == (401, "invalid_client")
    secret = {"client_id": "machine", "client_secret": "machine-secret"}
    guessed = await front.http.post(ISSUER + endpoint, data=secret | body(endpoint))
    assert (guessed.status_code, guessed.json()["error"]) == (401, "invalid_client")


async def test_a_client_with_both_may_use_either_but_not_both_at_once(front: Front) -> None:
    started = front.client("web").start(scope="openid")
    code = await front.client("web").authorize(front.browser(), started, ALICE, PASSWORD)
    exchange = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": "http://localhost:8000/auth/callback",
        "code_verifier": started.verifier,
    }
    web = signing(front, "web")
    two = await web.post("/token", client_secret="web-secret", client_id="web", **exchange)
    assert (two.status_code, two.json()["error"]) == (400, "invalid_request")
    answer = await web.post("/token", **exchange)
    assert answer.status_code == 200
    refreshed = await front.client("web").token(
        grant_type="refresh_token", refresh_token=answer.json()["refresh_token"]
    )
    assert refreshed.access_token


@pytest.mark.requirement(59)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_assertion_counts_once_wherever_it_is_used(front: Front, endpoint: str) -> None:
    client = signing(front)
    assertion = client.assertion()
    assert (await client.post("/token", assertion=assertion, **GRANT)).status_code == 200
    again = await client.post(endpoint, assertion=assertion, **body(endpoint))
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")


@pytest.mark.requirement(59)
async def test_a_refused_request_has_spent_its_assertion(any_front: Front) -> None:
    front = any_front
    client = signing(front)
    assertion = client.assertion()
    refused = await client.post("/token", assertion=assertion, grant_type="client_credentials", resource="urn:x")
    assert refused.json()["error"] == "invalid_target"
    again = await client.post("/token", assertion=assertion, **GRANT)
    assert again.json()["error"] == "invalid_client"


@pytest.mark.requirement(59)
@pytest.mark.requirement(83)
async def test_of_twenty_at_once_with_one_assertion_one_gets_a_token(any_front: Front) -> None:
    front = any_front
    client = signing(front)
    assertion = client.assertion()
    answers = await asyncio.gather(*(client.post("/token", assertion=assertion, **GRANT) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 19


async def test_the_same_jti_of_two_clients_is_two(front: Front) -> None:
    front.database.run_sync(
        lambda tx: front.accounts.add_client(
            tx,
            NewClient(
                "machine-2",
                "Another",
                grant_types=("client_credentials",),
                scopes=("orders:read",),
                resources=(ORDERS,),
                jwks=ClientKeys.parse({"keys": [public_jwk("web-1")]}),
            ),
        )
    )
    for name in ("machine", "machine-2"):
        client = signing(front, name)
        assert (await client.post("/token", assertion=client.assertion(jti="same"), **GRANT)).status_code == 200


NOW = 1_800_000_000
WRONG: dict[str, dict[str, Any]] = {
    "the token endpoint as audience": {"aud": f"{ISSUER}/token"},
    "a list as audience": {"aud": [ISSUER]},
    "an audience with a slash": {"aud": ISSUER + "/"},
    "no audience": {"aud": None},
    "another issuer": {"iss": "mobile"},
    "no issuer": {"iss": None},
    "another subject": {"sub": "orders"},
    "a subject that is nobody": {"sub": "nobody", "iss": "nobody"},
    "a subject with a NUL": {"sub": "a\0", "iss": "a\0"},
    "a subject that is no text": {"sub": 7, "iss": 7},
    "no expiry": {"exp": None},
    "an expiry as text": {"exp": str(NOW + 60)},
    "an expiry as a fraction": {"exp": NOW + 60.5},
    "an expiry that is true": {"exp": True},
    "expired": {"exp": NOW - 6},
    "a long life": {"exp": NOW + 306, "iat": None},
    "a long life, begun long ago": {"exp": NOW + 3600, "iat": NOW - 306},
    "an age that is no number": {"iat": "now"},
    "from the future": {"iat": NOW + 60},
    "not yet": {"nbf": NOW + 60},
    "no jti": {"jti": None},
    "an empty jti": {"jti": ""},
    "a jti that is no text": {"jti": 7},
    "a jti that is half a character": {"jti": "\ud800"},
    "a long jti": {"jti": "x" * 257},
}


@pytest.mark.requirement(59)
@pytest.mark.parametrize("wrong", WRONG)
async def test_claims_that_are_not_right(front: Front, wrong: str) -> None:
    client = signing(front)
    answer = await client.post("/token", assertion=client.assertion(**WRONG[wrong]), **GRANT)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("wrong", ["a subject with a NUL", "a jti that is half a character"])
async def test_what_is_no_text_to_a_database_is_a_refusal_and_no_error(any_front: Front, wrong: str) -> None:
    client = signing(any_front)
    answer = await client.post("/token", assertion=client.assertion(**WRONG[wrong]), **GRANT)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.requirement(59)
@pytest.mark.parametrize(
    "tampered",
    [
        pytest.param(lambda c: c.assertion() + "A", id="signature"),
        pytest.param(lambda c: c.assertion().rpartition(".")[0] + ".", id="no signature"),
        pytest.param(lambda c: jwt.encode(c.claims(), "", "none"), id="none"),
        pytest.param(lambda c: jwt.encode(c.claims(), "s" * 64, "HS256"), id="HMAC"),
        pytest.param(lambda c: jwt.encode(c.claims(), private_key("web-1"), "RS512"), id="RS512"),
        pytest.param(lambda c: jwt.encode(c.claims(), private_key("foreign"), "RS256"), id="foreign key"),
        pytest.param(lambda c: c.assertion({"kid": "web-2"}), id="kid of another key"),
        pytest.param(lambda c: c.assertion({"kid": "web-1", "jku": "http://127.0.0.1:1/"}), id="jku"),
        pytest.param(lambda c: c.assertion({"kid": "web-1", "jwk": public_jwk("foreign")}), id="jwk"),
        pytest.param(lambda c: c.assertion({"kid": "web-1", "typ": "at+jwt"}), id="typ"),
        pytest.param(lambda c: "x" * 9000, id="huge"),
        pytest.param(lambda c: "a.b.c", id="no JSON"),
        pytest.param(lambda c: "W10.W10.W10", id="arrays"),
        pytest.param(lambda c: "eyJhbGciOlsxXX0.eyJzdWIiOiJhIn0.AA", id="alg is a list"),
        pytest.param(lambda c: "not a token", id="not a token"),
    ],
)
async def test_what_is_no_assertion_of_this_client(front: Front, tampered: Any) -> None:
    client = signing(front)
    answer = await client.post("/token", assertion=tampered(client), **GRANT)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.requirement(18)
async def test_a_claim_that_comes_twice_is_refused(front: Front) -> None:
    client = signing(front)
    text = jwt.api_jws.json.dumps(client.claims())
    twice = text[:-1] + f', "aud": "{ISSUER}"' + "}"
    assertion = jwt.api_jws.encode(twice.encode(), private_key("web-1"), "RS256", {"kid": "web-1"})
    assert (await client.post("/token", assertion=assertion, **GRANT)).status_code == 401


async def test_the_type_must_be_named_and_the_client_must_be_the_same(front: Front) -> None:
    client = signing(front)
    for more in ({"client_assertion_type": "x"}, {"client_id": "web"}):
        assert (await client.post("/token", **GRANT, **more)).status_code == 401
    without = await front.http.post(ISSUER + "/token", data={"client_assertion": client.assertion(), **GRANT})
    assert without.status_code == 401


async def test_a_disabled_client_is_nobody(front: Front) -> None:
    await front.accounts.disable_client("machine")
    assert (await signing(front).post("/token", **GRANT)).status_code == 401


async def test_a_client_without_keys_cannot_sign(front: Front) -> None:
    assert (await signing(front, "backoffice").post("/token", **GRANT)).status_code == 401
    with pytest.raises(Refused):
        await front.client("machine").client_credentials(resource=ORDERS)


async def test_what_has_run_out_is_forgotten(front: Front) -> None:
    client = signing(front)
    await client.post("/token", **GRANT)
    query = select(client_assertions.c.jti_hash)
    assert len(front.database.run_sync(lambda tx: tx.execute(query).all())) == 1
    front.clock.forward(70)
    front.database.run_sync(lambda tx: sweep(tx, front.clock()))
    assert front.database.run_sync(lambda tx: tx.execute(query).all()) == []


async def test_authlibs_own_client_is_understood(front: Front) -> None:
    """As the session service signs: its clock is the real one, so the test's is put there."""
    import time

    front.clock.ms = time.time_ns() // 1_000_000
    pem = private_key("web-1").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    async with AsyncOAuth2Client(
        "machine",
        RSAKey.import_key(pem),
        token_endpoint_auth_method=PrivateKeyJWT(ISSUER),
        transport=front.http._transport,
    ) as http:
        token = await http.fetch_token(ISSUER + "/token", grant_type="client_credentials", resource=ORDERS)
    assert token["scope"] == "orders:read"
