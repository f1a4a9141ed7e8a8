"""Builds a whole guard from a handful of addresses: what most services need."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc.aio

from rescind.client_credentials import ClientCredentials
from rescind.feed import Feed
from rescind.grpc_source import CHANNEL_OPTIONS, GrpcIdentity
from rescind.guard import Guard, GuardObserver
from rescind.keys import RemoteKeySet, http_fetch
from rescind.ledger import FeedObserver
from rescind.receipts import Reporter
from rescind.redis_source import RedisSource
from rescind.verifier import Verifier

IDENTITY_AUDIENCE = "urn:rescind:identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where things are. `issuer` is what tokens say, `identity_url` where identity's HTTP is reached from here."""

    issuer: str
    audience: str
    identity_url: str
    identity_grpc: str
    redis_url: str
    client_id: str
    client_secret: str = field(repr=False)


@contextlib.asynccontextmanager
async def connected(
    addresses: Addresses,
    *,
    max_staleness: float = 3.0,
    feed_observer: FeedObserver | None = None,
    guard_observer: GuardObserver | None = None,
    receipts: bool = True,
) -> AsyncIterator[Guard]:
    """A running guard on Redis and gRPC; everything is closed at the end of the block.

    It starts at once, also when nothing can be reached: until it has synced, it refuses with CannotTell. With
    `receipts` it tells identity what it has applied, and when.
    """
    token_keys = RemoteKeySet(http_fetch(f"{addresses.identity_url}/jwks.json"))
    log_keys = RemoteKeySet(http_fetch(f"{addresses.identity_url}/revocations/jwks.json"))
    credentials = ClientCredentials(
        f"{addresses.identity_url}/token",
        addresses.client_id,
        addresses.client_secret,
        resource=IDENTITY_AUDIENCE,
    )
    redis = RedisSource(addresses.redis_url)
    async with grpc.aio.insecure_channel(addresses.identity_grpc, options=CHANNEL_OPTIONS) as channel:
        identity = GrpcIdentity(channel, credentials)
        feed = Feed(
            addresses.issuer,
            log_keys,
            redis,
            identity,
            token_keys=token_keys,
            max_staleness=max_staleness,
            observer=feed_observer,
        )
        guard = Guard(
            Verifier(addresses.issuer, addresses.audience, token_keys, feed),
            feed,
            keys=(token_keys, log_keys),
            introspector=identity,
            observer=guard_observer,
            reporter=Reporter(feed, addresses.audience, identity) if receipts else None,
        )
        try:
            async with guard.running():
                yield guard
        finally:
            await redis.aclose()
