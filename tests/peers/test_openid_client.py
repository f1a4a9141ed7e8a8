"""Somebody else's certified client against a really running identity: discovery to revocation."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from devstack.flow import Browser, OAuthClient
from support.identity_front import ALICE, IDENTITY, LOOPBACK, ORDERS, PASSWORD
from support.node_peers import signed_in_and_allowed, started
from support.running_identity import RunningIdentity

SCOPE = "openid profile email offline_access orders:read"
pytestmark = pytest.mark.node


async def through(
    identity: RunningIdentity, peer: Path, client_id: str, secret: str | None, **told: Any
) -> dict[str, Any]:
    """What the peer found, from discovery to revocation, with a person in a browser in between."""
    async with started(peer, "client.js") as client:
        begun = await client.ask(
            {
                "issuer": identity.issuer,
                "client_id": client_id,
                "client_secret": secret,
                "redirect_uri": LOOPBACK,
                "scope": SCOPE,
                "resources": [IDENTITY, ORDERS],
                "identity": IDENTITY,
                "orders": ORDERS,
                "narrow": "orders:read",
                **told,
            }
        )
        async with httpx2.AsyncClient() as http:
            arrived = await signed_in_and_allowed(Browser(http, identity.issuer), begun["authorize"])
        return await client.ask({"arrived": arrived})


@pytest.mark.requirement(73)
@pytest.mark.parametrize("algorithm", ["oidc", "oauth2"])
async def test_a_public_client_goes_all_the_way(identity: RunningIdentity, peer: Path, algorithm: str) -> None:
    found = await through(identity, peer, "mobile", None, algorithm=algorithm)
    assert found["wrong_verifier"] == "invalid_grant"
    assert found["first"]["token_type"] == "bearer"
    assert found["first"]["scope"] == "email offline_access openid profile"
    assert found["claims"]["iss"] == identity.issuer
    assert found["claims"]["aud"] == "mobile"
    assert found["userinfo"] == {"sub": found["claims"]["sub"], "name": "Alice", "email": ALICE}
    assert found["second"]["scope"] == "orders:read"
    assert found["second"]["refresh_token"] != found["first"]["refresh_token"]
    assert found["refreshed_claims"]["auth_time"] == found["claims"]["auth_time"]
    assert found["introspected"] == "OAUTH_WWW_AUTHENTICATE_CHALLENGE"  # 401: show a secret
    assert found["refresh_after_revocation"] == "invalid_grant"
    assert found["userinfo_after_revocation"] == "OAUTH_WWW_AUTHENTICATE_CHALLENGE"


@pytest.mark.parametrize("post", [False, True])
async def test_a_confidential_third_party_goes_all_the_way(identity: RunningIdentity, peer: Path, post: bool) -> None:
    found = await through(
        identity, peer, "partner", "partner-secret", post=post, scope="openid profile offline_access orders:read"
    )
    assert found["wrong_verifier"] == "invalid_grant"
    assert found["userinfo"] == {"sub": found["claims"]["sub"], "name": "Alice"}
    assert found["introspected"] == {"active": False}  # confidential, but the tokens are not for it to read
    assert found["refresh_after_revocation"] == "invalid_grant"


@pytest.mark.requirement(49)
async def test_of_twenty_redemptions_over_real_sockets_one_succeeds(identity: RunningIdentity) -> None:
    limits = httpx2.Limits(max_connections=20)
    async with httpx2.AsyncClient(limits=limits) as http:
        client = OAuthClient(http, identity.issuer, "mobile", redirect_uri=LOOPBACK)
        started = client.start(scope="openid")
        code = await client.authorize(Browser(http, identity.issuer), started, ALICE, PASSWORD)
        results = await asyncio.gather(*(client.redeem(started, code) for _ in range(20)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
