"""An exchange against what takes its parent back, at once, on SQLite and PostgreSQL.

Whatever the order of commits, no exchanged token lives on: neither by SQL nor by a verifier that holds the log.
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, update

from identity.domain import AccessToken, ClientId, InvalidGrant, IssuingError
from identity.exchange import exchange, lock_chain
from identity.storage import clients
from support.identity_core import IDENTITY, ORDERS, Core, core

ROUNDS = 5


@pytest.fixture
async def identity(database_url: str) -> AsyncIterator[Core]:
    async with core(database_url) as started:
        acting = update(clients).where(clients.c.id == "orders").values(exchange_scopes=["openid"])
        started.tx(lambda tx: tx.execute(acting))
        yield started


def exchanging(identity: Core, parent: AccessToken) -> Any:
    """The steps of the token endpoint, in their order."""
    parts, acting = identity.parts, ClientId("orders")

    def work(tx: Connection) -> AccessToken:
        claims = parts.introspector.issued(tx, parent.token)
        assert claims is not None
        lock_chain(parts.issuer, tx, claims, acting)
        if parts.introspector.living(tx, parent.token) is None:
            raise InvalidGrant("taken back")
        return exchange(parts.issuer, tx, claims, acting=acting, audience=IDENTITY, scope=None)

    async def run() -> AccessToken | IssuingError:
        try:
            return await parts.database.run(work)
        except IssuingError as refusal:
            return refusal

    return run


@pytest.mark.requirement(83)
@pytest.mark.parametrize("what", ["token", "session", "grant", "subject", "its client", "the acting client"])
async def test_taking_back_against_exchanging(identity: Core, what: str) -> None:
    log, accounts = identity.parts.revocations, identity.parts.accounts
    for round_ in range(ROUNDS):
        sid = identity.sign_in()
        gid = identity.grant(sid)
        parent, user = identity.access(gid), identity.user()
        take_back: Any
        if what == "token":
            take_back = identity.parts.database.run(partial(log.revoke_token, jti=parent.claims["jti"], cause="T"))
        elif what == "session":
            take_back = identity.parts.database.run(partial(log.revoke_session, sid=sid, cause="T"))
        elif what == "grant":
            take_back = identity.parts.database.run(partial(log.revoke_grant, gid=gid, cause="T"))
        elif what == "subject":
            take_back = identity.parts.database.run(partial(log.revoke_subject, sub=user.id, cause="T"))
        else:
            take_back = accounts.disable_client("mobile" if what == "its client" else "orders")
        exchange_once = exchanging(identity, parent)
        sides = [take_back, *(exchange_once() for _ in range(4))]
        if round_ % 2:
            sides.reverse()
        outcomes = await asyncio.gather(*sides)
        for child in (outcome for outcome in outcomes if isinstance(outcome, AccessToken)):
            assert not identity.is_living(child)
            assert identity.denied(child)
        for client_id in ("mobile", "orders"):
            await accounts.enable_client(client_id)
        if what != "the acting client":
            assert isinstance(await exchange_once(), InvalidGrant)


async def test_nothing_else_in_the_log_touches_it(identity: Core) -> None:
    """A verifier and SQL agree on a living exchanged token too."""
    child = await exchanging(identity, identity.access(identity.grant()))()
    another = identity.grant()
    identity.tx(lambda tx: identity.parts.revocations.revoke_grant(tx, another, "T"))
    identity.tx(lambda tx: identity.parts.revocations.revoke_client(tx, "other", "T"))
    assert identity.is_living(child)
    assert not identity.denied(child)
    identity.tx(lambda tx: identity.parts.revocations.revoke_client(tx, "mobile", "T", soft=True))
    assert not identity.is_living(child)
    assert identity.denied(child)
    assert child.claims["aud"] == IDENTITY
    assert child.claims["ojti"]
    assert ORDERS not in child.claims.values()
