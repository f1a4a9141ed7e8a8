"""The wiring: the one place that knows every part of identity."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import httpx2
from prometheus_client import Counter
from redis.asyncio import Redis

from eventlog.metrics import RelayMetrics
from eventlog.outbox import Outbox
from eventlog.redis_stream import RedisStream
from eventlog.relay import Relay
from identity import logout, pages, rest, rpc, storage
from identity.admin import pages as admin_pages
from identity.admin.proof import Gate
from identity.admin.registry import Registry
from identity.admin.rpc import AdministrationApi
from identity.administration import Administration
from identity.audit import AuditTrail
from identity.authority import Authority, AuthorityInterceptor
from identity.backchannel import LogoutQueue, LogoutSender
from identity.domain import Entropy
from identity.door import Devices, Door, Limits
from identity.events import READERS, STREAM, SecurityEvents
from identity.federation import pages as federation_pages
from identity.federation.providers import parse_providers
from identity.federation.service import Federation
from identity.federation.upstream import Upstream
from identity.forms import Forms
from identity.housekeeping import Housekeeping
from identity.introspection import Introspector
from identity.issuing import Issuer, Lives
from identity.keyring import KeyRing, NewKey, generate
from identity.my_account import MyAccount
from identity.my_account_rpc import MyAccountApi
from identity.passwords import Passwords
from identity.people import account
from identity.people import pages as people_pages
from identity.people.letters import Printer
from identity.people.links import Links
from identity.people.post import Post, Postman
from identity.people.service import People
from identity.publisher import Publisher
from identity.receipts import Receipts
from identity.redis_log import RedisLog
from identity.replay import Replay
from identity.revocations import RevocationLog
from identity.sealing import SecretKeys
from identity.service import Accounts
from identity.settings import Settings
from identity.views import Views
from identity.web import Web
from rescind.redis_client import redis_client
from servicekit.database import Database
from servicekit.http import create_app
from servicekit.lifecycle import Address, Readiness, Service
from servicekit.mail import mailer_at
from servicekit.metrics import Metrics
from servicekit.needs import answering_redis, migrated_database
from servicekit.settings import parse_secret_keys
from servicekit.throttle import Throttle
from servicekit.visitor import parse_networks

REDIS_TIMEOUT = 0.5  # seconds; a tick comes every second
RECEIPTS_POOL = 2  # connections


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that knows no wire. Commands and tests use it without a server."""

    settings: Settings
    database: Database
    receipts_database: Database
    redis: "Redis"
    keyring: KeyRing
    revocations: RevocationLog
    publisher: Publisher
    issuer: Issuer
    introspector: Introspector
    replay: Replay
    receipts: Receipts
    accounts: Accounts
    administration: Administration
    secret_keys: SecretKeys
    passwords: Passwords
    throttle: Throttle
    door: Door
    people: People
    metrics: Metrics
    my_account: MyAccount
    registry: Registry
    audit: AuditTrail
    events: SecurityEvents
    stream: RedisStream
    relay: Relay
    logouts: LogoutSender
    elsewhere: httpx2.AsyncBaseTransport | None = None  # how other providers are reached, in tests

    async def found(self) -> None:
        """Brings the schema up to date and sees to the log and its keys."""
        settings = self.settings
        url = settings.database_url.get_secret_value()
        await migrated_database(self.database, url, "identity", variable="IDENTITY_DATABASE_URL")
        life = settings.access_token_life * 1000
        await self.database.run(lambda tx: self.revocations.found(tx, longest_life=life))

    async def close(self) -> None:
        """Closes every connection."""
        await self.redis.aclose()
        await self.throttle.close()
        await self.stream.aclose()
        await self.receipts_database.dispose()
        await self.database.dispose()


def assemble(
    settings: Settings,
    *,
    now: Callable[[], int] | None = None,
    entropy: Entropy = secrets.token_bytes,
    make_key: Callable[[], NewKey] = generate,
    passwords: Passwords | None = None,
    limits: Limits | None = None,
) -> Parts:
    """The parts. `now` replaces the database clock (ms) in tests. Nothing connects yet."""
    metrics = Metrics()
    published = Counter("revocations_published", "Messages appended to the log in Redis.", registry=metrics.registry)
    database = Database(settings.database_url.get_secret_value(), now=now)
    # Of its own, so that reports of verifiers take no connection from those who sign in or revoke.
    receipts_database = Database(
        settings.database_url.get_secret_value(), now=now, durable=False, pool_size=RECEIPTS_POOL
    )
    redis = redis_client(settings.redis_url.get_secret_value(), timeout=REDIS_TIMEOUT, connect_timeout=REDIS_TIMEOUT)
    secret_keys = SecretKeys(parse_secret_keys(settings.secret_keys.get_secret_value()), entropy=entropy)
    keyring = KeyRing(
        secret_keys, now=database.now, leeway=settings.leeway, spare_age=settings.spare_age, make_key=make_key
    )
    outbox = Outbox(storage.outbox, STREAM, now=database.now)
    stream = RedisStream(settings.redis_url.get_secret_value(), STREAM)
    relay = Relay(database, outbox, stream, metrics=RelayMetrics(metrics.registry), required=READERS)
    events = SecurityEvents(outbox)
    owed = LogoutQueue(keyring, issuer=settings.issuer, now=database.now, entropy=entropy)
    sent = Counter("logout_tokens", "Attempts to tell a client of a logout.", ("outcome",), registry=metrics.registry)
    logouts = LogoutSender(
        database,
        owed,
        http_hosts=[host.strip() for host in settings.backchannel_http_hosts.split(",")],
        outcome=lambda outcome: sent.labels(outcome).inc(),
    )
    revocations = RevocationLog(
        keyring,
        issuer=settings.issuer,
        leeway=settings.leeway,
        now=database.now,
        entropy=entropy,
        # The events last: they take a lock that has its place behind everything else (see storage).
        witnesses=[owed.witness, events.witness],
    )

    def wake() -> None:
        relay.wake()
        logouts.wake()

    async def begin_new_log(ended: str) -> None:
        await administration.begin_new_log(ended)

    publisher = Publisher(
        database,
        revocations,
        RedisLog(redis),
        read=revocations.read,
        begin_new_log=begin_new_log,
        wait=settings.publish_wait_ms / 1000,
        published=published.inc,
        committed=wake,
    )
    audit = AuditTrail(database.now)
    hashing = passwords or Passwords(entropy=entropy)
    administration = Administration(database, keyring, revocations, publisher, entropy, audit)
    issuer = Issuer(
        issuer=settings.issuer,
        lives=Lives(
            access_token=settings.access_token_life,
            code=settings.code_life,
            session=settings.session_life,
            offline=settings.offline_life,
            refresh_retry=settings.refresh_retry_window,
            device_code=settings.device_code_life,
        ),
        keyring=keyring,
        revocations=revocations,
        secret_keys=secret_keys,
        now=database.now,
        entropy=entropy,
        events=events,
    )
    accounts = Accounts(database, revocations, publisher, hashing, entropy, events, audit)
    throttle = Throttle(settings.redis_url.get_secret_value(), secret_keys.limits_key)
    return Parts(
        settings=settings,
        database=database,
        receipts_database=receipts_database,
        redis=redis,
        keyring=keyring,
        revocations=revocations,
        publisher=publisher,
        issuer=issuer,
        introspector=Introspector(keyring, issuer=settings.issuer, leeway=settings.leeway, now=database.now),
        replay=Replay(database, revocations),
        receipts=Receipts(receipts_database),
        accounts=accounts,
        administration=administration,
        secret_keys=secret_keys,
        passwords=hashing,
        throttle=throttle,
        door=Door(throttle, Devices(secret_keys.device_keys, entropy), limits or Limits()),
        people=People(
            database=database,
            accounts=accounts,
            issuer=issuer,
            revocations=revocations,
            publisher=publisher,
            passwords=hashing,
            links=Links(database.now, entropy),
            post=Post(secret_keys, database.now, entropy),
            mails=settings.mail_url is not None,
        ),
        metrics=metrics,
        my_account=MyAccount(database, revocations, publisher),
        registry=Registry(database, accounts, audit, entropy),
        audit=audit,
        events=events,
        stream=stream,
        relay=relay,
        logouts=logouts,
    )


def build(settings: Settings, *, parts: Parts | None = None) -> Service:
    """The service; production and tests come through here."""
    parts = parts or assemble(settings)
    http = create_app("identity", parts.metrics, development=settings.development)
    web = Web(
        database=parts.database,
        issuer=parts.issuer,
        accounts=parts.accounts,
        passwords=parts.passwords,
        introspector=parts.introspector,
        forms=Forms(parts.secret_keys.form_keys),
        views=Views(),
        door=parts.door,
        publish=parts.publisher.publish_pending,
        told=parts.relay.wake,
        trusted_proxies=parse_networks(settings.trusted_proxies),
    )
    providers = parse_providers(settings.providers.get_secret_value())
    upstreams = {
        one.id: Upstream(one, f"{settings.issuer}/sign-in-with/{one.id}/callback", transport=parts.elsewhere)
        for one in providers
    }
    names = {one.id: one.name for one in providers}
    rest.install(
        http,
        web,
        [
            pages.router(web, parts.people, names),
            federation_pages.router(web, Federation(parts.people, names, parts.audit), upstreams, parts.secret_keys),
            people_pages.router(web, parts.people),
            account.router(web, parts.people, parts.my_account, names),
            logout.router(web),
            admin_pages.router(
                web,
                Gate(web, settings.admin_auth_age),
                parts.administration,
                parts.registry,
                parts.my_account,
                parts.audit,
            ),
        ],
    )
    background = [
        parts.publisher.run,
        parts.relay.run,
        parts.logouts.run,
        parts.receipts.run,
        Housekeeping(parts.database).run,
    ]
    if settings.mail_url is not None:
        mailer = mailer_at(settings.mail_url.get_secret_value(), settings.mail_from)
        background.append(Postman(parts.database, parts.people.post, Printer(settings.issuer), mailer).run)

    async def redis_answers() -> None:
        await answering_redis(settings.redis_url.get_secret_value())

    def readiness() -> Readiness:
        # Without Redis identity still answers Replay and Introspect, so it stays in rotation.
        return Readiness(True, {"publishing": "interrupted" if parts.publisher.in_trouble else "ok"})

    return Service(
        name="identity",
        http=http,
        metrics=parts.metrics,
        http_address=Address(settings.http_host, settings.http_port, "IDENTITY_HTTP_PORT"),
        grpc_address=Address(settings.grpc_host, settings.grpc_port, "IDENTITY_GRPC_PORT"),
        metrics_address=Address(settings.metrics_host, settings.metrics_port, "IDENTITY_METRICS_PORT"),
        register=lambda server: rpc.register(
            server,
            rpc.Tokens(parts.database, parts.introspector),
            rpc.Revocations(parts.administration, parts.replay, parts.receipts),
            rpc.AccountsApi(parts.accounts),
            rpc.Keys(parts.administration),
            MyAccountApi(parts.my_account),
            AdministrationApi(parts.database, parts.administration, parts.registry, parts.my_account, parts.audit),
        ),
        interceptors=[AuthorityInterceptor(Authority(parts.database, parts.introspector), settings.admin_auth_age)],
        before_start=[parts.found, redis_answers],
        background=background,
        readiness=readiness,
        on_stop=[parts.close],
        development=settings.development,
    )
