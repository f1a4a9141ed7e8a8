"""oauth4webapi, jose and openid-client against a really running identity: code, device, exchange."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from devstack.flow import Browser, OAuthClient, Page
from devstack.seeds import NOTIFICATIONS
from support.identity_front import ALICE, IDENTITY, LOOPBACK, ORDERS, PASSWORD
from support.node_peers import signed_in_and_allowed, started
from support.running_identity import RunningIdentity

SCOPE = "openid profile offline_access orders:read"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
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
