"""Which keys a client may register, and which signatures they then vouch for."""

from typing import Any

import pytest
from jwt.algorithms import RSAAlgorithm, get_default_algorithms

from identity.client_keys import ALGORITHMS, ClientKeys
from support.client_keys import private_key, public_jwk

MESSAGE = b"header.payload"


def keys(*jwks: dict[str, Any]) -> ClientKeys:
    return ClientKeys.parse({"keys": list(jwks)})


def signed(name: str, algorithm: str) -> bytes:
    made: bytes = get_default_algorithms()[algorithm].sign(MESSAGE, private_key(name, _kind(algorithm)))
    return made


def _kind(algorithm: str) -> str:
    return "ES256" if algorithm == "ES256" else "RS256"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_takes_its_key_and_no_other(algorithm: str) -> None:
    held = keys(public_jwk("web-1", _kind(algorithm)))
    assert held.verify(algorithm, "web-1", MESSAGE, signed("web-1", algorithm))
    assert held.verify(algorithm, None, MESSAGE, signed("web-1", algorithm))
    assert not held.verify(algorithm, "web-2", MESSAGE, signed("web-1", algorithm))
    assert not held.verify(algorithm, "web-1", MESSAGE, signed("web-2", algorithm))
    assert not held.verify(algorithm, "web-1", MESSAGE + b"x", signed("web-1", algorithm))
    assert not held.verify(algorithm, "web-1", MESSAGE, b"")
    for other in {"HS256", "none", "RS512", *ALGORITHMS} - {algorithm}:
        assert not held.verify(other, "web-1", MESSAGE, signed("web-1", algorithm))


def test_a_key_for_one_algorithm_takes_no_other() -> None:
    held = keys(public_jwk("web-1", alg="PS256"))
    assert held.verify("PS256", "web-1", MESSAGE, signed("web-1", "PS256"))
    assert not held.verify("RS256", "web-1", MESSAGE, signed("web-1", "RS256"))


def test_several_keys_so_that_a_client_can_rotate() -> None:
    held = keys(public_jwk("web-1"), public_jwk("web-2", "ES256"))
    assert held.verify("RS256", "web-1", MESSAGE, signed("web-1", "RS256"))
    assert held.verify("ES256", "web-2", MESSAGE, signed("web-2", "ES256"))
    assert ClientKeys.parse(held.document()) == held


@pytest.mark.requirement(10)
def test_a_small_key_is_refused() -> None:
    small = RSAAlgorithm.to_jwk(private_key("small", bits=1024).public_key(), as_dict=True) | {"key_ops": ["verify"]}
    with pytest.raises(ValueError, match="2048 bits"):
        keys(small)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "has `keys`"),
        ({"keys": []}, "has `keys`"),
        ({"keys": "x"}, "has `keys`"),
        ({"keys": [public_jwk("web-1")] * 9}, "has `keys`"),
        ({"keys": ["x"]}, "key 1 is no JSON object"),
        ({"keys": [public_jwk("web-1"), public_jwk("web-1")]}, "a `kid` of its own"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}, "private members"),
        ({"keys": [public_jwk("web-1", d="AQAB")]}, "private members"),
        ({"keys": [public_jwk("web-1", use="enc")]}, "not for signatures"),
        ({"keys": [public_jwk("web-1", key_ops=["encrypt"])]}, "not for signatures"),
        ({"keys": [public_jwk("web-1", alg="RS512")]}, "fits none of"),
        ({"keys": [public_jwk("web-1", "ES256", crv="P-384")]}, "fits none of"),
        ({"keys": [public_jwk("web-1", kid=7)]}, "no short text"),
        ({"keys": [{"kty": "RSA", "n": "AQAB"}]}, "cannot be read"),
        ({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}, "cannot be read"),
    ],
)
def test_what_cannot_be_registered_says_why(document: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ClientKeys.parse(document)
