"""A really running identity: what it tells arrives in the stream, and a client hears of a sign-out over sockets."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import redis.asyncio
from sqlalchemy import update

from contracts.identity.v1.events_pb2 import SessionsEnded, SignedIn
from devstack.flow import Browser, OAuthClient
from eventlog.event import decoded, read_as
from identity.events import STREAM
from identity.storage import clients
from support.identity_front import ALICE, PASSWORD
from support.logout_receiver import receiver
from support.running_identity import RunningIdentity, running_identity


async def _arrived(identity: RunningIdentity, count: int) -> list[Any]:
    """The first entries of the stream, once they are there."""
    url = identity.parts.settings.redis_url.get_secret_value()
    events: list[Any] = []
    async with redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=20) as client:
        last: Any = "0"
        while len(events) < count:
            for _, entries in await client.xread({STREAM: last}, block=15_000):
                last = entries[-1][0]
                events += [decoded(entry[b"e"]) for _, entry in entries]
    return events


async def test_what_happens_arrives_where_it_should(tmp_path: Path) -> None:
    async with receiver() as told, running_identity(tmp_path) as identity, httpx2.AsyncClient() as http:
        registered = update(clients).where(clients.c.id == "web").values(backchannel_logout_uri=told.uri)
        await identity.parts.database.run(lambda tx: tx.execute(registered))
        web = OAuthClient(
            http, identity.issuer, "web", secret="web-secret", redirect_uri="http://localhost:8000/auth/callback"
        )
        browser = Browser(http, identity.issuer)
        tokens = await web.sign_in(browser, ALICE, PASSWORD, scope="openid")
        await browser.get(f"{identity.issuer}/end_session?id_token_hint={tokens.id_token}")
        async with asyncio.timeout(30):
            events = await _arrived(identity, 2)
            await told.came.wait()
        signed_in, ended = read_as(events[0], SignedIn), read_as(events[1], SessionsEnded)
        assert signed_in.client_id == "web"
        assert signed_in.remote_address in ("127.0.0.1", "::1")
        assert list(ended.session_ids) == [signed_in.session_id]
        assert [event.sequence for event in events] == [1, 2]
        claims = await identity.parts.database.read(lambda tx: told.claims(identity.parts.keyring, tx))
        assert claims[0]["sid"] == signed_in.session_id
