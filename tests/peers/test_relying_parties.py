"""oauth4webapi, jose and openid-client against a really running identity: code, PAR, device, exchange, logout."""

import json
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import Connection, update

from devstack.flow import Browser, OAuthClient, Page
from devstack.seeds import NOTIFICATIONS
from identity.client_keys import ClientKeys
from identity.domain import secret_digest
from identity.service import NewClient
from identity.storage import clients
from support.identity_front import ALICE, IDENTITY, LOOPBACK, ORDERS, PASSWORD
from support.node_peers import signed_in_and_allowed, started
from support.running_identity import RunningIdentity

SCOPE = "openid profile offline_access orders:read"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
LEFT = "http://127.0.0.1:7777/left"
pytestmark = pytest.mark.node


async def through(identity: RunningIdentity, peer: Path, client_id: str, **told: Any) -> dict[str, Any]:
    """What oauth4webapi found, from discovery to revocation, with a person in a browser in between."""
    async with started(peer, "relying-party.js") as client, httpx2.AsyncClient() as http:
        begun = await client.ask(
            {
                "issuer": identity.issuer,
                "client_id": client_id,
                "redirect_uri": LOOPBACK,
                "scope": SCOPE,
                "resources": [IDENTITY, ORDERS],
                "identity": IDENTITY,
                "orders": ORDERS,
                **told,
            }
        )
        arrived = await signed_in_and_allowed(Browser(http, identity.issuer), begun["authorize"])
        return await client.ask({"arrived": arrived})


@pytest.mark.requirement(19)
@pytest.mark.requirement(43)
@pytest.mark.requirement(57)
@pytest.mark.requirement(73)
@pytest.mark.parametrize(
    ("client_id", "told"),
    [
        ("mobile", {}),
        ("mobile", {"algorithm": "oauth2"}),
        ("partner", {"client_secret": "partner-secret"}),
        ("partner", {"client_secret": "partner-secret", "post": True}),
    ],
)
async def test_every_way_to_authenticate_goes_all_the_way(
    identity: RunningIdentity, peer: Path, client_id: str, told: dict[str, Any]
) -> None:
    found = await through(identity, peer, client_id, **told)
    assert found["foreign_issuer"] == "OAUTH_INVALID_RESPONSE"
    assert found["at_hash_is_right"] is True
    assert found["claims"] == found["verified_id"]
    assert found["claims"]["acr"] == "urn:rescind:acr:password"
    assert found["claims"]["amr"] == ["pwd"]
    assert found["userinfo"] == {"sub": found["claims"]["sub"], "name": "Alice"}
    assert found["access"]["scope"] == "orders:read"
    assert found["access"]["client_id"] == client_id
    assert found["verified_header"]["alg"] == "RS256"
    assert found["elsewhere"] == "OAUTH_JWT_CLAIM_COMPARISON_FAILED"
    public = client_id == "mobile"
    assert found["introspected"] == ("OAUTH_WWW_AUTHENTICATE_CHALLENGE" if public else "accepted")
    assert found["refresh_after_revocation"] == "invalid_grant"


async def register(identity: RunningIdentity, algorithm: str) -> dict[str, Any]:
    """A third party that signs with a key of its own, and may be left; its private JWK."""
    key = ec.generate_private_key(ec.SECP256R1()) if algorithm == "ES256" else rsa.generate_private_key(65537, 2048)
    algorithms = jwt.algorithms.get_default_algorithms()
    private, public = [json.loads(algorithms[algorithm].to_jwk(half)) for half in (key, key.public_key())]
    named = {"kid": "own", "alg": algorithm}
    operations = {"key_ops"}
    public = {name: value for name, value in public.items() if name not in operations} | named | {"use": "sig"}
    client = NewClient(
        "signing",
        "Signing Party",
        redirect_uris=["http://127.0.0.1/callback"],
        grant_types=("authorization_code", "refresh_token"),
        scopes=("openid", "profile", "orders:read", "offline_access"),
        resources=[IDENTITY, ORDERS],
        jwks=ClientKeys.parse({"keys": [public]}),
        post_logout_redirect_uris=[LEFT],
    )
    await identity.parts.database.run(lambda tx: identity.parts.accounts.add_client(tx, client))
    return {name: value for name, value in private.items() if name not in operations} | named


@pytest.mark.requirement(59)
@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
async def test_a_client_that_signs_pushes_its_request(identity: RunningIdentity, peer: Path, algorithm: str) -> None:
    private = await register(identity, algorithm)
    found = await through(identity, peer, "signing", private_jwk=private, par=True)
    assert found["access"]["client_id"] == "signing"
    assert found["introspected"] == "accepted"
    assert found["refresh_after_revocation"] == "invalid_grant"


@pytest.mark.parametrize(("client_id", "told"), [("mobile", {}), ("partner", {"client_secret": "partner-secret"})])
async def test_others_push_too(identity: RunningIdentity, peer: Path, client_id: str, told: dict[str, str]) -> None:
    found = await through(identity, peer, client_id, par=True, **told)
    assert found["access"]["client_id"] == client_id


@pytest.mark.requirement(60)
async def test_a_certified_client_signs_the_person_out(identity: RunningIdentity, peer: Path) -> None:
    await register(identity, "RS256")
    await identity.parts.database.run(lambda tx: with_secret(tx, "signing"))
    async with started(peer, "client.js") as client, httpx2.AsyncClient() as http:
        browser = Browser(http, identity.issuer)
        told = {"issuer": identity.issuer, "client_id": "signing", "client_secret": "signing-secret"}
        wants = {"scope": SCOPE, "resources": [IDENTITY, ORDERS], "identity": IDENTITY, "orders": ORDERS}
        leaves = {"redirect_uri": LOOPBACK, "narrow": "orders:read", "post_logout_redirect_uri": LEFT}
        begun = await client.ask({**told, **wants, **leaves})
        found = await client.ask({"arrived": await signed_in_and_allowed(browser, begun["authorize"])})
        left = await browser.walk(await browser.get(found["end_session"]))
        assert left == f"{LEFT}?state=left"
        page = await browser.open(f"{identity.issuer}/account")
        assert page.form("/login")


def with_secret(tx: Connection, client_id: str) -> None:
    """Registers a secret beside the keys."""
    stored = secret_digest(f"{client_id}-secret")
    tx.execute(update(clients).where(clients.c.id == client_id).values(secret_hash=stored))


async def decided(identity: RunningIdentity, device: dict[str, Any], decision: str) -> None:
    async with httpx2.AsyncClient() as http:
        browser = Browser(http, identity.issuer)
        page = await browser.open(device["verification_uri_complete"])
        for path, values in (
            ("/login", {"email": ALICE, "password": PASSWORD}),
            ("/device", {}),
            ("/device", {"decision": decision}),
        ):
            arrived = await browser.submit(page, path, **values)
            assert isinstance(arrived, Page)
            page = arrived


@pytest.mark.parametrize("decision", ["allow", "deny"])
async def test_a_certified_client_waits_as_a_device(identity: RunningIdentity, peer: Path, decision: str) -> None:
    async with started(peer, "device.js") as client:
        told = {"issuer": identity.issuer, "client_id": "cli", "scope": SCOPE, "resource": IDENTITY}
        begun = await client.ask(told)
        assert begun["pending"] == "authorization_pending"
        assert begun["device"]["interval"] == 5
        await decided(identity, begun["device"], decision)
        found = await client.ask({"decided": True})
    if decision == "deny":
        assert found == {"error": "access_denied"}
        return
    assert found["tokens"]["scope"] == "offline_access openid profile"
    assert found["tokens"]["refresh_token"]
    assert (found["claims"]["aud"], found["claims"]["iss"]) == ("cli", identity.issuer)
    assert found["spent"] == "invalid_grant"


async def test_a_certified_client_exchanges_a_token(identity: RunningIdentity, peer: Path) -> None:
    async with httpx2.AsyncClient() as http:
        app = OAuthClient(http, identity.issuer, "mobile", redirect_uri=LOOPBACK)
        asked = app.start(scope="openid orders:read notifications:read", resource=[ORDERS, NOTIFICATIONS])
        code = await app.authorize(Browser(http, identity.issuer), asked, ALICE, PASSWORD)
        tokens = await app.redeem(asked, code, resource=NOTIFICATIONS)
    told = {"subject_token": tokens.access_token, "subject_token_type": ACCESS, "resource": ORDERS}
    async with started(peer, "device.js") as client:
        found = await client.ask(
            {
                "issuer": identity.issuer,
                "client_id": "notifications",
                "client_secret": "notifications-secret",
                "exchange": told,
            }
        )
    assert found["exchanged"]["issued_token_type"] == ACCESS
    assert (found["exchanged"]["scope"], found["exchanged"]["token_type"]) == ("orders:read", "bearer")
    assert found["wider"] == "invalid_scope"
