"""The only place where the parts of notifications meet."""

from collections.abc import Callable, Mapping, Sequence

import grpc.aio

from contracts.notifications.v1 import notifications_pb2_grpc
from eventlog import Consumer, ConsumerMetrics, Patience, Stream, consumer_name
from eventlog.redis_stream import RedisStream
from notifications import rest, rpc, storage, streams, words
from notifications.channels.contacts import CALLS, Contacts, IdentityContacts
from notifications.channels.email import MailMetrics, MailSender, Pace
from notifications.channels.letters import Letters
from notifications.channels.live import SWEEP, Live, LiveMetrics, WakeUps
from notifications.channels.pubsub import RedisWakeUps
from notifications.domain import Person
from notifications.reactions import READER, Arrived, reactions_to
from notifications.service import KEEP_ALIVE, Notifications
from notifications.settings import Settings
from rescind.client_credentials import ClientCredentials
from rescind.connect import IDENTITY_AUDIENCE
from rescind.fastapi import bearer
from rescind.grpc import Rule
from servicekit import clients
from servicekit.database import Database
from servicekit.http import create_app
from servicekit.lifecycle import Address, Service
from servicekit.mail import Mailer, mailer_at
from servicekit.metrics import Metrics
from servicekit.needs import answering_redis, migrated_database
from servicekit.verification import Verification, connect

NAME = "notifications"
AUDIENCE = "urn:rescind:notifications"
STREAMS = {"orders.events": words.ORDERS, "identity.events": words.SECURITY}


def build(
    settings: Settings,
    *,
    verification: Verification | None = None,
    database: Database | None = None,
    contacts: Contacts | None = None,
    mailer: Mailer | None = None,
    stream: Callable[[str], Stream] | None = None,
    wake_ups: WakeUps | None = None,
    patience: Patience | None = None,
    pace: Pace | None = None,
    sweep: float = SWEEP,
    keep_alive: float = KEEP_ALIVE,
) -> Service:
    """The service, not yet connected to anything. Call it inside the event loop that will run it.

    Tests hand in what they want to hold in their own hands; `verification` then brings its own feed, and Redis is not
    asked for at the start. `sweep` and `keep_alive` are in seconds.
    """
    metrics = Metrics()
    url = settings.database_url.get_secret_value()
    redis_url = settings.redis_url.get_secret_value()
    database = database or Database(url)
    redis_needed = verification is None and not settings.start_without_redis
    verification = verification or connect(
        settings, metrics, audience=AUDIENCE, client_id=NAME, client_secret=settings.client_secret
    )
    on_stop = [database.dispose, verification.aclose]

    async def last_sequences(persons: Sequence[Person]) -> Mapping[Person, int]:
        return await database.read(lambda tx: storage.last_sequences(tx, persons))

    if wake_ups is None:
        wake_ups = redis_wake_ups = RedisWakeUps(redis_url)
        on_stop.append(redis_wake_ups.aclose)
    live = Live(last_sequences, wake_ups, metrics=LiveMetrics(metrics.registry), sweep=sweep)
    notifications = Notifications(database, live, keep_alive=keep_alive)

    if contacts is None:
        credentials = ClientCredentials(
            f"{settings.identity_url}/token", NAME, settings.client_secret.get_secret_value(),
            resource=IDENTITY_AUDIENCE,
        )  # fmt: skip
        channel = clients.channel(settings.identity_grpc, CALLS, access_tokens=credentials)
        contacts = IdentityContacts(channel)
        on_stop.append(channel.close)
    sender = MailSender(
        database,
        contacts,
        mailer or mailer_at(settings.mail_url.get_secret_value(), settings.mail_from),
        Letters(settings.app_url).write,
        metrics=MailMetrics(metrics.registry),
        pace=pace or Pace(),
    )

    def arrived(arrivals: Sequence[Arrived]) -> None:
        live.grown([arrival.hint for arrival in arrivals])
        if any(arrival.mailed for arrival in arrivals):
            sender.wake()

    consumer_metrics = ConsumerMetrics(metrics.registry)
    consumers = []
    for name, said in STREAMS.items():
        source = stream(name) if stream is not None else RedisStream(redis_url, name)
        handler = reactions_to(name, said, database, metrics=consumer_metrics, arrived=arrived)
        consumers.append(
            Consumer(
                source.group(READER), handler, name=consumer_name(), metrics=consumer_metrics,
                patience=patience or Patience(),
            )
        )  # fmt: skip
        on_stop.append(source.aclose)

    http = create_app(NAME, metrics, development=settings.development)
    reader = bearer(verification.guard, *rpc.READ, staleness=settings.read_staleness)
    writer = bearer(verification.guard, *rpc.READ, staleness=settings.write_staleness)
    http.include_router(
        streams.router(
            notifications, verification.guard, scopes=rpc.READ, staleness=settings.read_staleness,
            origins=settings.allowed_origins,
        )
    )  # fmt: skip
    http.include_router(rest.router(notifications, reader=reader, writer=writer))
    rules = {
        method: Rule(*scopes, staleness=settings.write_staleness if method in rpc.WRITING else settings.read_staleness)
        for method, scopes in rpc.SCOPES.items()
    }

    async def needs() -> None:
        await migrated_database(database, url, NAME, variable="NOTIFICATIONS_DATABASE_URL")
        if redis_needed:
            await answering_redis(redis_url)

    def register(server: grpc.aio.Server) -> list[str]:
        servicer = rpc.NotificationsServicer(notifications)
        notifications_pb2_grpc.add_NotificationsServiceServicer_to_server(servicer, server)
        return [rpc.SERVICE]

    return Service(
        name=NAME,
        http=http,
        metrics=metrics,
        http_address=Address(settings.http_host, settings.http_port, "NOTIFICATIONS_HTTP_PORT"),
        grpc_address=Address(settings.grpc_host, settings.grpc_port, "NOTIFICATIONS_GRPC_PORT"),
        metrics_address=Address(settings.metrics_host, settings.metrics_port, "NOTIFICATIONS_METRICS_PORT"),
        register=register,
        interceptors=[verification.interceptor(rules, development=settings.development)],
        before_start=[needs],
        background=[
            verification.guard.run,
            live.run,
            sender.run,
            *(consumer.run for consumer in consumers),
        ],
        readiness=verification.readiness,
        on_stopping=[verification.end_streams],
        on_stop=on_stop,
        development=settings.development,
        websockets=True,
    )
