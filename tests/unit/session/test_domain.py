"""What a session is made of: names, places to return to, devices, and the seal around its tokens."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session.domain import SessionKey, coarse_address, device_of, is_secret, key_of, new_secret, return_path
from session.sealing import SealBroken, Vault

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)
ALICE, BOB = SessionKey("a" * 64), SessionKey("b" * 64)


@given(st.text())
def test_a_place_to_return_to_is_always_a_path_of_this_site(asked: str) -> None:
    path = return_path(asked)
    assert path.startswith("/")
    assert not path.startswith(("//", "/\\", "/auth/", "/api/"))
    assert not any(character in path for character in "\\\r\n\t ")


def test_ordinary_paths_are_kept() -> None:
    assert [return_path(path) for path in ("/", "/#/devices", "/a?b=c", None, "")] == [
        "/",
        "/#/devices",
        "/a?b=c",
        "/",
        "/",
    ]


@pytest.mark.requirement(26)
def test_a_secret_has_256_bits_from_the_source_it_is_given() -> None:
    asked: list[int] = []
    secret = new_secret(lambda size: asked.append(size) or secrets.token_bytes(size))
    assert asked == [32]
    assert is_secret(secret)
    assert key_of(secret) != secret


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("::ffff:203.0.113.9", "203.0.113.0/24"),
        ("x", ""),
    ],
)
def test_an_address_is_kept_coarsely(address: str, network: str) -> None:
    assert coarse_address(address) == network


@given(st.text())
def test_a_device_is_said_in_our_own_words(user_agent: str) -> None:
    assert len(device_of(user_agent)) < 40


@pytest.mark.requirement(79)
@given(st.text(), st.text())
def test_what_is_sealed_opens_in_its_place_alone(secret: str, other: str) -> None:
    vault = Vault((NEW,), entropy=secrets.token_bytes)
    sealed = vault.seal(ALICE, "refresh", secret)
    assert vault.open(ALICE, "refresh", sealed) == secret
    assert sealed != vault.seal(ALICE, "refresh", secret)  # a nonce of its own each time
    for session, purpose in ((BOB, "refresh"), (ALICE, "access|x")):
        with pytest.raises(SealBroken):
            vault.open(session, purpose, sealed)
    with pytest.raises(SealBroken):
        vault.open(ALICE, "refresh", other)


@pytest.mark.requirement(79)
def test_keys_rotate() -> None:
    old, both, new = (Vault(keys, entropy=secrets.token_bytes) for keys in ((OLD,), (NEW, OLD), (NEW,)))
    sealed = old.seal(ALICE, "refresh", "secret")
    assert both.open(ALICE, "refresh", sealed) == "secret"
    assert Vault.key_id_of(both.seal(ALICE, "refresh", "secret")) == "new"
    with pytest.raises(SealBroken):
        new.open(ALICE, "refresh", sealed)
