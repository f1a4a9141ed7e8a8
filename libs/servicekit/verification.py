"""What every service that verifies tokens repeats: a guard from settings, its metrics, its readiness, its interceptor.

verification = connect(settings, metrics, audience="urn:rescind:orders", client_id="orders", client_secret=...)
Service(..., background=[verification.guard.run], readiness=verification.readiness,
        on_stopping=[verification.end_streams], on_stop=[verification.aclose],
        interceptors=[verification.interceptor(rules)])
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NoReturn

import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from rescind import (
    BEST_EFFORT,
    BOUNDED,
    STRICT,
    Feed,
    FeedObserver,
    Freshness,
    Guard,
    GuardObserver,
    RemoteKeySet,
    Reporter,
    RescindError,
    Staleness,
    Verifier,
    http_fetch,
)
from rescind.client_credentials import ClientCredentials
from rescind.connect import IDENTITY_AUDIENCE
from rescind.grpc import PUBLIC, GuardInterceptor, Rule
from rescind.grpc_source import CHANNEL_OPTIONS, GrpcIdentity
from rescind.redis_source import RedisSource
from servicekit.lifecycle import Readiness
from servicekit.metrics import Metrics
from servicekit.rpc import Context
from servicekit.settings import CommonSettings, HttpUrl, RedisUrl

# Seconds from a revocation's commit to its being applied here. The aim is 3 ms in the middle, 20 ms at the 99th.
PROPAGATION = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
_HEALTH = ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List")
_REFLECTION = (
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
)


def staleness_from(value: object) -> object:
    """`strict`, `best_effort`, or seconds of BOUNDED, as a setting says it."""
    if not isinstance(value, str):
        return value
    if value == "strict":
        return STRICT
    if value == "best_effort":
        return BEST_EFFORT
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("must be strict, best_effort, or a number of seconds")
    return BOUNDED(seconds)


StalenessSetting = Annotated[Staleness, NoDecode, BeforeValidator(staleness_from)]  # a word, not JSON


class VerifierSettings(CommonSettings):
    """Where identity and Redis are."""

    redis_url: Annotated[RedisUrl, Field(validation_alias="RESCIND_REDIS_URL")]
    issuer: Annotated[HttpUrl, Field(validation_alias="RESCIND_ISSUER")] = "http://localhost:8001"
    identity_url: Annotated[HttpUrl, Field(validation_alias="RESCIND_IDENTITY_URL")] = "http://localhost:8001"
    identity_grpc: Annotated[str, Field(min_length=3, validation_alias="RESCIND_IDENTITY_GRPC")] = "localhost:9001"
    # A Redis that is missing at the start is most often a wrong address. In an outage one may want to start all the
    # same: revocations then come from identity by Replay, a second slower.
    start_without_redis: Annotated[bool, Field(validation_alias="RESCIND_START_WITHOUT_REDIS")] = False


@dataclass(frozen=True, slots=True)
class Verification:
    """A guard and what belongs to it. Nothing has connected; run `guard.run` to begin."""

    guard: Guard
    aclose: Callable[[], Awaitable[None]]

    def readiness(self) -> Readiness:
        """Not ready while SYNCING. STALE stays ready: identity's outage must not take every service out of rotation."""
        freshness = self.guard.verifier.freshness()
        knowledge = self.guard.feed.knowledge
        return Readiness(
            freshness is not Freshness.SYNCING,
            {
                "freshness": freshness.value,
                "stale_for": _seconds(self.guard.verifier.stale_for()),
                "log": knowledge.log,
                "position": knowledge.position,
            },
        )

    def end_streams(self) -> None:
        """Ends every live stream with SERVER_STOPPING, and lets none begin any more."""
        self.guard.leases.stop()

    def interceptor(self, rules: Mapping[str, Rule], *, development: bool = False) -> grpc.aio.ServerInterceptor:
        """Lets an RPC pass by its rule. One without a rule is refused; health is for everyone."""
        public = _HEALTH + (_REFLECTION if development else ())
        return GuardInterceptor(self.guard, {**dict.fromkeys(public, PUBLIC), **rules}, refuse=_refuse)


def connect(
    settings: VerifierSettings, metrics: Metrics, *, audience: str, client_id: str, client_secret: SecretStr
) -> Verification:
    """A guard on Redis and gRPC that counts what it does in `metrics`. Call it inside the event loop."""
    token_keys = RemoteKeySet(http_fetch(f"{settings.identity_url}/jwks.json"))
    log_keys = RemoteKeySet(http_fetch(f"{settings.identity_url}/revocations/jwks.json"))
    credentials = ClientCredentials(
        f"{settings.identity_url}/token", client_id, client_secret.get_secret_value(), resource=IDENTITY_AUDIENCE
    )
    redis = RedisSource(settings.redis_url.get_secret_value())
    channel = grpc.aio.insecure_channel(settings.identity_grpc, options=CHANNEL_OPTIONS)
    identity = GrpcIdentity(channel, credentials)
    observer = VerificationMetrics(metrics.registry)
    feed = Feed(settings.issuer, log_keys, redis, identity, token_keys=token_keys, observer=observer.feed)
    guard = Guard(
        Verifier(settings.issuer, audience, token_keys, feed),
        feed,
        keys=(token_keys, log_keys),
        introspector=identity,
        observer=observer.guard,
        reporter=Reporter(feed, audience, identity),
    )
    observer.watch(guard)

    async def aclose() -> None:
        await redis.aclose()
        await channel.close()

    return Verification(guard, aclose)


async def _refuse(error: RescindError, _context: Context) -> NoReturn:
    """Leaves the words to `servicekit.rpc.Edge`, which has one vocabulary for all errors."""
    raise error


class VerificationMetrics:
    """Verifications by outcome, propagation, and at each scrape the size of the denylist and how fresh it is."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.guard = _CountDecisions(registry)
        self.feed = _CountRevocations(registry)

    def watch(self, guard: Guard) -> None:
        """Also reports what `guard` knows."""
        self._registry.register(_Knowledge(guard))


class _CountDecisions(GuardObserver):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "rescind_verifications", "Access tokens judged, by outcome.", ("outcome",), registry=registry
        )
        self._ends = Counter(
            "rescind_lease_ends", "Live streams that ended, by what ended them.", ("reason",), registry=registry
        )

    def decided(self, outcome: str) -> None:
        """`outcome` is one of the verifier's own words; no caller writes it."""
        self._decisions.labels(outcome).inc()

    def ended(self, reason: str) -> None:
        """`reason` is one of the verifier's own words, or what the issuer answered."""
        self._ends.labels(reason).inc()


class _CountRevocations(FeedObserver):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._propagation = Histogram(
            "rescind_propagation_seconds",
            "From a revocation's commit to its being applied here, both clocks' error included.",
            buckets=PROPAGATION,
            registry=registry,
        )
        self._unreadable = Counter(
            "rescind_unreadable_messages", "Messages that could not be read or trusted.", registry=registry
        )
        self._caught_up = Counter("rescind_catch_ups", "Catch-ups by source.", ("source",), registry=registry)
        self._caught_up_messages = Counter(
            "rescind_catch_up_messages", "Messages that catch-ups brought, by source.", ("source",), registry=registry
        )

    def applied(self, log: str, position: int, delay: float) -> None:  # noqa: ARG002
        """Counts how long it took; clocks that differ may make that less than nothing."""
        self._propagation.observe(max(0.0, delay))

    def unreadable(self, why: str) -> None:  # noqa: ARG002
        """Counts it."""
        self._unreadable.inc()

    def caught_up(self, source: str, messages: int) -> None:
        """Counts both."""
        self._caught_up.labels(source).inc()
        self._caught_up_messages.labels(source).inc(messages)


class _Knowledge(Collector):
    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def collect(self) -> Iterable[Metric]:
        """Reads the guard at the moment of the scrape."""
        knowledge = self._guard.feed.knowledge
        held = GaugeMetricFamily("rescind_denylist_entries", "Entries held, by kind.", labels=["kind"])
        for kind, count in knowledge.denylist.counts().items():
            held.add_metric([kind], count)
        state = GaugeMetricFamily("rescind_freshness", "1 for the state this process is in.", labels=["state"])
        now = self._guard.verifier.freshness()
        for each in Freshness:
            state.add_metric([each.value], float(each is now))
        stale_for = GaugeMetricFamily(
            "rescind_stale_seconds", "Since this process was last fresh; 0 while it is.",
            value=self._guard.verifier.stale_for(),
        )  # fmt: skip
        position = GaugeMetricFamily("rescind_position", "The last position applied.", value=knowledge.position)
        leases = GaugeMetricFamily("rescind_leases", "Live streams now.", value=len(self._guard.leases))
        return [held, state, stale_for, position, leases]

    def describe(self) -> Sequence[Metric]:
        """Nothing: so registering does not collect."""
        return ()


def _seconds(value: float) -> float | None:
    return None if value == float("inf") else round(value, 3)
