"""The only place where the parts of orders meet."""

import asyncio

import grpc.aio

from contracts.orders.v1 import orders_pb2_grpc
from eventlog import Outbox, Relay, RelayMetrics, Stream
from eventlog.redis_stream import RedisStream
from orders import rest, rpc, storage
from orders.backoffice import BackOffice
from orders.domain import Order
from orders.events import READERS, STREAM
from orders.service import Orders
from orders.settings import Settings
from orders.wakeups import RedisWakeups, Wakeups
from orders.watching import Watches
from rescind.fastapi import bearer
from rescind.grpc import Rule
from servicekit.database import Database
from servicekit.http import create_app
from servicekit.lifecycle import Address, Service
from servicekit.metrics import Metrics
from servicekit.needs import answering_redis, migrated_database
from servicekit.verification import Verification, connect

NAME = "orders"
AUDIENCE = "urn:rescind:orders"


def build(
    settings: Settings,
    *,
    verification: Verification | None = None,
    database: Database | None = None,
    stream: Stream | None = None,
    wakeups: Wakeups | None = None,
) -> Service:
    """The service, not yet connected to anything. Call it inside the event loop that will run it.

    Tests hand in what they want to hold in their own hands; `verification` then brings its own feed, and Redis is not
    asked for.
    """
    metrics, stopping = Metrics(), asyncio.Event()
    url, redis_url = settings.database_url.get_secret_value(), settings.redis_url.get_secret_value()
    database = database or Database(url)
    redis_needed = verification is None and not settings.start_without_redis
    verification = verification or connect(
        settings, metrics, audience=AUDIENCE, client_id=NAME, client_secret=settings.client_secret
    )

    stream = stream or RedisStream(redis_url, STREAM)
    wakeups = wakeups or RedisWakeups(redis_url)
    outbox = Outbox(storage.outbox, STREAM, now=database.now)
    relay = Relay(database, outbox, stream, metrics=RelayMetrics(metrics.registry), required=READERS)
    watches = Watches(database, wakeups, stopping, metrics.registry)

    def changed(order: Order) -> None:
        relay.wake()
        watches.changed(order)

    orders = Orders(database, outbox, changed=changed)
    backoffice = BackOffice(database, orders)

    staleness = {
        rpc.READ: settings.read_staleness,
        rpc.WRITE: settings.write_staleness,
        rpc.ADMINISTRATE: settings.admin_staleness,
    }
    rules = {method: Rule(*scopes, staleness=staleness[scopes]) for method, scopes in rpc.SCOPES.items()}
    reader, writer, admin = (
        bearer(verification.guard, *scopes, staleness=allowed) for scopes, allowed in staleness.items()
    )
    http = create_app(NAME, metrics, development=settings.development)
    http.include_router(rest.router(orders, backoffice, rest.Entrances(reader, writer, admin)))

    async def needs() -> None:
        await migrated_database(database, url, NAME, variable="ORDERS_DATABASE_URL")
        if redis_needed:
            await answering_redis(redis_url)

    def register(server: grpc.aio.Server) -> list[str]:
        servicer = rpc.OrdersServicer(orders, backoffice, watches)
        orders_pb2_grpc.add_OrdersServiceServicer_to_server(servicer, server)
        return [rpc.SERVICE]

    return Service(
        name=NAME,
        http=http,
        metrics=metrics,
        http_address=Address(settings.http_host, settings.http_port, "ORDERS_HTTP_PORT"),
        grpc_address=Address(settings.grpc_host, settings.grpc_port, "ORDERS_GRPC_PORT"),
        metrics_address=Address(settings.metrics_host, settings.metrics_port, "ORDERS_METRICS_PORT"),
        register=register,
        interceptors=[verification.interceptor(rules, development=settings.development)],
        before_start=[needs],
        background=[verification.guard.run, relay.run, watches.run],
        readiness=verification.readiness,
        on_stopping=[verification.end_streams],
        on_stop=[database.dispose, stream.aclose, wakeups.aclose, verification.aclose],
        development=settings.development,
        stopping=stopping,
    )
