"""The lives of keys: prepared, active, retired, revoked; sealed at rest. On SQLite and PostgreSQL."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, update

from identity.keyring import MARGIN_MS, Purpose
from identity.sealing import SealBroken, SecretKeys
from identity.storage import signing_keys
from servicekit.errors import ServiceError
from support.identity_core import Core, core


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        yield started


def _statuses(identity: Core, purpose: Purpose = "access") -> list[str]:
    return [key.status for key in identity.tx(lambda tx: identity.parts.keyring.keys(tx, purpose))]


def _published(identity: Core, purpose: Purpose = "access") -> set[str]:
    return {jwk["kid"] for jwk in identity.tx(lambda tx: identity.parts.keyring.jwks(tx, purpose))["keys"]}


@pytest.mark.requirement(8)
@pytest.mark.requirement(10)
def test_the_published_set_has_rsa_keys_for_one_use_and_nothing_private(identity: Core) -> None:
    for purpose in ("access", "log"):
        jwks = identity.tx(lambda tx, purpose=purpose: identity.parts.keyring.jwks(tx, purpose))
        assert len(jwks["keys"]) == 2
        for jwk in jwks["keys"]:
            assert jwk.keys() == {"kty", "n", "e", "kid", "use", "alg"}
            assert (jwk["kty"], jwk["use"], jwk["alg"]) == ("RSA", "sig", "RS256")
            assert len(jwk["n"]) == 342  # 2048 bits
    assert not _published(identity) & _published(identity, "log")


async def test_a_planned_rotation_refuses_nobody_and_the_next_one_waits_for_the_spare(identity: Core) -> None:
    before = identity.access(identity.grant())
    published = _published(identity)
    identity.clock.forward(1)
    kid = await identity.parts.administration.rotate_keys()
    assert kid in published  # every cache of the set knew the key before it signed
    after = identity.access(identity.grant())
    assert identity.is_living(before)
    assert identity.is_living(after)
    assert sorted(_statuses(identity)) == ["active", "prepared", "retired"]
    with pytest.raises(ServiceError) as early:
        await identity.parts.administration.rotate_keys()
    assert early.value.reason == "SPARE_TOO_YOUNG"
    assert early.value.retry_after == 30
    identity.clock.forward(30)
    await identity.parts.administration.rotate_keys()


async def test_a_retired_key_is_published_until_its_last_token_is_dead(identity: Core) -> None:
    retired = next(key.kid for key in await identity.parts.administration.keys() if key.status == "active")
    await identity.parts.administration.rotate_keys()
    token_life, leeway = 900, 5
    identity.clock.forward(token_life + leeway + MARGIN_MS / 1000 - 0.001)
    assert retired in _published(identity)
    identity.clock.forward(0.001)
    assert retired not in _published(identity)
    assert retired not in identity.tx(identity.parts.keyring.accepted_kids)


@pytest.mark.parametrize("which", ["active", "prepared", "retired"])
async def test_a_revoked_key_is_out_at_once_and_a_spare_is_ready_again(identity: Core, which: str) -> None:
    first = identity.access(identity.grant())
    if which == "retired":
        await identity.parts.administration.rotate_keys()
    kid = next(key.kid for key in await identity.parts.administration.keys() if key.status == which)
    position = await identity.parts.administration.revoke("key", kid, cause="STOLEN")
    assert position.pos == 0
    assert kid not in _published(identity)
    assert identity.is_living(first) == (which == "prepared")
    statuses = _statuses(identity)
    assert (statuses.count("active"), statuses.count("prepared"), statuses.count("revoked")) == (1, 1, 1)
    assert identity.is_living(identity.access(identity.grant()))
    await identity.parts.administration.revoke("key", kid, cause="AGAIN")
    assert _statuses(identity) == statuses


async def test_a_revoked_key_of_the_log_takes_its_log_with_it(identity: Core) -> None:
    before = identity.tx(identity.parts.revocations.snapshot)
    kid = identity.tx(lambda tx: identity.parts.keyring.signing_key(tx, "log")).kid
    await identity.parts.administration.revoke("key", kid, cause="STOLEN")
    after = identity.tx(identity.parts.revocations.snapshot)
    assert after.log != before.log
    assert kid not in _published(identity, "log")
    raw = identity.tx(lambda tx: identity.parts.revocations.heartbeat(tx, after))
    assert identity.tx(lambda tx: identity.parts.revocations.read(tx, raw)) is not None


async def test_an_unknown_key_revokes_nothing(identity: Core) -> None:
    before = _statuses(identity)
    assert (await identity.parts.administration.revoke("key", "unknown", cause="TEST")).pos == 0
    assert _statuses(identity) == before


async def test_keys_of_the_log_rotate_too_and_what_the_old_one_signed_stays_readable(identity: Core) -> None:
    identity.tx(lambda tx: identity.parts.revocations.revoke_token(tx, "a-jti", "TEST"))
    await identity.parts.administration.rotate_keys("log")
    identity.tx(lambda tx: identity.parts.revocations.revoke_token(tx, "b-jti", "TEST"))
    for row in identity.log():
        assert identity.tx(lambda tx, row=row: identity.parts.revocations.read(tx, row.message)) is not None


def test_a_private_key_is_sealed_under_its_own_name(identity: Core) -> None:
    """Swapping two sealed keys in SQL makes neither usable."""

    def swap(tx: Any) -> tuple[str, bytes]:
        rows = tx.execute(select(signing_keys.c.kid, signing_keys.c.private_encrypted)).all()
        for kid, sealed in zip([row.kid for row in rows], [row.private_encrypted for row in rows][::-1], strict=True):
            tx.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(private_encrypted=sealed))
        return rows[0].kid, rows[-1].private_encrypted

    kid, sealed = identity.tx(swap)
    assert b"PRIVATE" not in sealed
    with pytest.raises(SealBroken):
        identity.parts.secret_keys.open(kid, sealed)
    with pytest.raises(SealBroken):
        identity.tx(lambda tx: identity.parts.keyring.signing_key(tx, "access"))


def test_secret_keys_rotate_by_a_new_one_in_front(identity: Core) -> None:
    keyring, first, second = identity.parts.keyring, ("k1", b"A" * 32), ("k2", b"B" * 32)

    def reseal(*keys: tuple[str, bytes]) -> int:
        keyring._secret_keys = SecretKeys(keys, entropy=secrets.token_bytes)
        return identity.tx(keyring.seal_anew)

    assert reseal(first) == 0
    assert reseal(second, first) == 4
    assert reseal(second) == 0
    with pytest.raises(SealBroken, match="not in IDENTITY_SECRET_KEYS"):
        reseal(first)


async def test_a_key_of_the_log_that_is_revoked_again_ends_nothing_more(identity: Core) -> None:
    kid = identity.tx(lambda tx: identity.parts.keyring.signing_key(tx, "log")).kid
    await identity.parts.administration.revoke("key", kid, cause="STOLEN")
    token = identity.access(identity.grant())
    log = identity.tx(identity.parts.revocations.snapshot).log
    await identity.parts.administration.revoke("key", kid, cause="AGAIN")
    assert identity.tx(identity.parts.revocations.snapshot).log == log
    assert identity.is_living(token)
