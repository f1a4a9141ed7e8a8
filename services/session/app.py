"""The only place where the parts of session meet."""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import httpx2
from prometheus_client import Gauge

from contracts.session.v1 import sessions_pb2_grpc
from rescind.redis_client import redis_client
from servicekit.http import create_app
from servicekit.lifecycle import Address, Service
from servicekit.metrics import Metrics
from servicekit.needs import answering_redis
from servicekit.settings import parse_secret_keys
from servicekit.throttle import Limit, Throttle
from servicekit.verification import Verification, connect
from servicekit.visitor import parse_networks
from session import rpc
from session.control import Faults, Thief
from session.domain import AUDIENCES, IDENTITY, SESSION, Entropy, Session
from session.inside import Inside
from session.live import LOOK_EVERY, Relay
from session.pending import EVERY as FINISH_EVERY
from session.pending import PendingSignOuts
from session.relying_party import Registration, RelyingParty
from session.rest import account, auth, control, inbox, lab, pages, shop
from session.rest.access import Access
from session.rest.door import Door
from session.rest.protection import SameOrigin, StrictHeaders
from session.sealing import Vault, limits_key
from session.service import Policies, Sessions
from session.settings import Settings
from session.sign_in import SignIns
from session.signed import SignedByIdentity
from session.storage import RedisSessions, SessionStore
from session.streams import End, Endings, Streams
from session.token_handler import Timing, TokenHandler
from session.upstream import Upstream

NAME = "session"
WEB = Path(__file__).parent / "web"
_REDIS_TIMEOUT = 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What tests hold in their own hands: time, chance, and how identity is reached. `now` is ms since the epoch."""

    now: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    entropy: Entropy = secrets.token_bytes
    identity: httpx2.AsyncBaseTransport | None = None
    orders: httpx2.AsyncBaseTransport | None = None
    look_every: float = LOOK_EVERY
    finish_every: float = FINISH_EVERY
    web: Path = WEB


def build(
    settings: Settings,
    *,
    verification: Verification | None = None,
    store: SessionStore | None = None,
    hands: Hands | None = None,
) -> Service:
    """The service, not yet connected to anything. Call it inside the event loop that will run it.

    Tests hand in what they want to hold in their own hands; `verification` then brings its own feed, and the Redis of
    the revocations is not asked for.
    """
    hands = hands or Hands()
    metrics = Metrics()
    redis_needed = verification is None and not settings.start_without_redis
    verification = verification or connect(
        settings, metrics, audience=SESSION, client_id=NAME, client_secret=settings.client_secret
    )
    guard = verification.guard
    guards = {audience: guard.for_audience(audience) for audience in AUDIENCES}
    redis_url = (settings.sessions_redis_url or settings.redis_url).get_secret_value()
    # A script that was carried out and not answered must not run again unseen: the client has no retries.
    redis = redis_client(redis_url, timeout=_REDIS_TIMEOUT, connect_timeout=_REDIS_TIMEOUT, decode_responses=True)
    store = store or RedisSessions(redis)
    secret_keys = parse_secret_keys(settings.secret_keys.get_secret_value())
    vault = Vault(secret_keys, entropy=hands.entropy)
    throttle = Throttle(redis_url, limits_key(secret_keys))
    door = Door(
        throttle,
        begun=Limit("session-sign-in-begun", settings.sign_ins, 60),
        answered=Limit("session-sign-in-answered", settings.sign_ins, 60),
        trusted=parse_networks(settings.trusted_proxies),
    )
    timing = Timing(now=hands.now, idle=settings.idle_life * 1000)
    policies = Policies(read=settings.read_staleness, write=settings.write_staleness, admin=settings.admin_staleness)
    streams = Streams(per_session=settings.streams_per_session, most=settings.streams)
    open_streams = Gauge("session_live_streams", "Live streams that are open here.", registry=metrics.registry)
    open_streams.set_function(lambda: len(streams))

    async def over(session: Session, cause: str) -> None:
        again = cause == "SIGNED_IN_AGAIN"  # the browser has another session by now
        streams.end_of(session.key, End(cause, reconnect=again))

    relying_party = RelyingParty(_registration(settings), transport=hands.identity)
    tokens = TokenHandler(store, vault, relying_party, guards, timing, over=over)
    upstream = Upstream(
        tokens,
        orders=settings.orders_grpc,
        notifications=settings.notifications_grpc,
        identity=settings.identity_grpc,
    )
    pending = PendingSignOuts(store, vault, relying_party, timing, every=hands.finish_every)
    sessions = Sessions(
        store,
        tokens,
        upstream,
        timing,
        policies,
        pending,
        reauthenticate_after=settings.reauthenticate_after * 1000,
        over=over,
    )
    signed = SignedByIdentity(guard, settings.issuer, settings.web_client_id, lambda: hands.now() / 1000)
    sign_ins = SignIns(
        store,
        vault,
        relying_party,
        signed,
        tokens,
        guards[IDENTITY],
        timing,
        issuer=settings.issuer,
        life=settings.life * 1000,
        entropy=hands.entropy,
        over=over,
    )
    endings = Endings(store, streams, sessions.revoked, hands.now, timing.idle)
    guard.feed.observe(endings)
    relay = Relay(
        streams, tokens, upstream, sessions.peek, hands.now, staleness=policies.read, look_every=hands.look_every
    )
    thief = Thief(
        tokens,
        hands.now,
        orders_url=settings.orders_url,
        orders_grpc=settings.orders_grpc,
        entropy=hands.entropy,
        transport=hands.orders,
    )
    same_origin = SameOrigin(settings.public_url)
    access = Access(sessions, tokens, same_origin)

    http = create_app(NAME, metrics, development=settings.development)
    http.add_middleware(StrictHeaders)
    for router in (
        pages.router(hands.web, settings.public_url, same_origin),
        auth.router(sign_ins, sessions, signed, store, access, door),
        account.router(sessions, access),
        shop.router(upstream, policies, access),
        shop.back_office(upstream, policies, access),
        inbox.router(upstream, relay, policies, access),
        lab.router(Inside(vault), timing.idle, access),
        control.router(upstream, Faults(settings.fault_socket), thief, policies, access),
    ):
        http.include_router(router)
    if hands.web.is_dir():
        http.mount("/static", pages.Files(directory=hands.web))
    stopping = asyncio.Event()

    async def needs() -> None:
        if redis_needed:
            await answering_redis(settings.redis_url.get_secret_value())
        if not settings.start_without_redis:
            await answering_redis(redis_url, variable="SESSION_REDIS_URL")

    async def end_streams_when_stopping() -> None:
        await stopping.wait()
        streams.end_all(End("SERVER_STOPPING", reconnect=True))

    def register(server: grpc.aio.Server) -> list[str]:
        servicer = rpc.SessionsServicer(sessions, tokens, settings.resolvers)
        sessions_pb2_grpc.add_SessionsServiceServicer_to_server(servicer, server)
        return [rpc.SERVICE]

    return Service(
        name=NAME,
        http=http,
        metrics=metrics,
        http_address=Address(settings.http_host, settings.http_port, "SESSION_HTTP_PORT"),
        grpc_address=Address(settings.grpc_host, settings.grpc_port, "SESSION_GRPC_PORT"),
        metrics_address=Address(settings.metrics_host, settings.metrics_port, "SESSION_METRICS_PORT"),
        register=register,
        interceptors=[verification.interceptor(rpc.rules(policies), development=settings.development)],
        before_start=[needs],
        background=[guard.run, endings.run, pending.run, end_streams_when_stopping],
        readiness=verification.readiness,
        on_stop=[
            tokens.aclose,
            upstream.aclose,
            thief.aclose,
            relying_party.aclose,
            throttle.close,
            redis.aclose,
            verification.aclose,
        ],
        development=settings.development,
        stopping=stopping,
    )


def _registration(settings: Settings) -> Registration:
    return Registration(
        issuer=settings.issuer,
        identity_url=settings.identity_url,
        client_id=settings.web_client_id,
        client_secret=settings.web_client_secret.get_secret_value(),
        client_key=settings.client_key.get_secret_value(),
        redirect_uri=f"{settings.public_url}/auth/callback",
    )
