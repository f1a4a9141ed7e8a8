"""Sealing at rest, and what is derived from the secret keys."""

import secrets

import pytest

from identity.sealing import SealBroken, SecretKeys

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)


def keys(*which: tuple[str, bytes]) -> SecretKeys:
    return SecretKeys(which, entropy=secrets.token_bytes)


@pytest.mark.requirement(79)
def test_what_is_sealed_is_opened_under_its_name_only() -> None:
    sealed = keys(NEW).seal("kid-1", b"secret")
    assert b"secret" not in sealed
    assert keys(NEW).open("kid-1", sealed) == b"secret"
    with pytest.raises(SealBroken, match="another name"):
        keys(NEW).open("kid-2", sealed)


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    assert keys(NEW).seal("kid", b"secret") != keys(NEW).seal("kid", b"secret")


def test_the_newest_key_seals_and_every_key_opens() -> None:
    sealed = keys(OLD).seal("kid", b"secret")
    both = keys(NEW, OLD)
    assert both.open("kid", sealed) == b"secret"
    assert both.key_of(both.seal("kid", b"secret")) == "new"
    with pytest.raises(SealBroken, match="IDENTITY_SECRET_KEYS"):
        keys(NEW).open("kid", sealed)


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 20])
def test_what_is_cut_or_altered_does_not_open(cut: int) -> None:
    sealed = keys(NEW).seal("kid", b"secret")
    with pytest.raises(SealBroken):
        keys(NEW).open("kid", sealed[:cut])
    with pytest.raises(SealBroken):
        keys(NEW).open("kid", sealed[:-1] + bytes([sealed[-1] ^ 1]))


def test_a_successor_is_the_same_each_time_and_tells_nothing_without_the_key() -> None:
    (one,) = keys(NEW).successors("token")
    assert [one] == list(keys(NEW).successors("token"))
    assert one not in keys(OLD).successors("token")
    assert one not in keys(NEW).successors("another")
    assert list(keys(OLD, NEW).successors("token"))[1] == one


def test_keys_for_different_purposes_are_different() -> None:
    (form,) = keys(NEW).form_keys
    (successor,) = keys(NEW).successors("")
    assert form not in (NEW[1], successor.encode())
    assert len(form) == 32
