"""Code + PKCE through identity's routes."""

import pytest

from devstack.flow import Refused
from support.identity_front import ALICE, ORDERS, PASSWORD, Front, identity_front


@pytest.fixture
async def front(tmp_path):
    async with identity_front(f"sqlite:///{tmp_path / 'identity.db'}") as front:
        yield front


async def test_a_person_signs_in_and_the_client_gets_tokens(front: Front) -> None:
    tokens = await front.client("mobile").sign_in(
        front.browser(), ALICE, PASSWORD, scope="openid offline_access orders:read", resource=ORDERS
    )
    assert tokens.scope == "orders:read"
