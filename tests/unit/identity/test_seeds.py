"""The seeds of both demos: identity takes them, and the key that the session service holds is the one they name."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from devstack.client_key import FILE, client_key, public_jwks
from devstack.seeds import SEEDS, seeds_json
from identity.seeds import Seeds

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_a_folder_has_a_key_of_its_own_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    pem = client_key(first)
    assert client_key(first) == pem != client_key(second)
    assert (first / FILE).stat().st_mode & 0o777 == 0o600


def test_the_embedded_seeds_carry_the_public_half(tmp_path: Path) -> None:
    jwks = public_jwks(client_key(tmp_path))
    seeds = Seeds.model_validate_json(seeds_json(jwks))
    (web,) = [client for client in seeds.clients if client.id == "web"]
    assert web.jwks == jwks
    assert web.secret is not None  # either will do
    assert "PRIVATE" not in seeds_json(jwks)
    assert all("jwks" not in client for client in SEEDS["clients"])


def test_the_compose_seeds_name_the_key_that_lies_beside_them() -> None:
    seeds = Seeds.model_validate_json((DEPLOY / "seeds.json").read_bytes())
    (web,) = [client for client in seeds.clients if client.id == "web"]
    assert web.jwks == public_jwks((DEPLOY / FILE).read_text())


def test_both_demos_have_the_same_people_and_clients(tmp_path: Path) -> None:
    compose = Seeds.model_validate_json((DEPLOY / "seeds.json").read_bytes())
    embedded = Seeds.model_validate_json(seeds_json(public_jwks(client_key(tmp_path))))
    # Where it is reached differs, and so does the key.
    apart = {"jwks", "backchannel_logout_uri", "secret"}

    def alike(seeds: Seeds) -> list[dict[str, object]]:
        return [client.model_dump(exclude=apart) for client in seeds.clients]

    assert alike(compose) == alike(embedded)
    assert [user.email for user in compose.users] == [user.email for user in embedded.users]


def test_a_key_that_cannot_be_used_is_a_fault_in_the_file() -> None:
    client = {"id": "c", "name": "C", "jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}
    with pytest.raises(ValidationError, match="private members") as refused:
        Seeds.model_validate_json(json.dumps({"clients": [client]}))
    assert "c2VjcmV0" not in str(refused.value)
