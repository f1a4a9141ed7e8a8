"""What the event log counts, in the registry of the service that runs it. Labels are names of streams and groups, and
outcomes: nothing that an event says."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class RelayMetrics:
    """Producer's side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.published = Counter(
            "eventlog_published", "Events appended to the stream by this process.", ("stream",), registry=registry
        )
        self.delay = Histogram(
            "eventlog_publish_delay_seconds",
            "From an event's occurrence to its place in the stream.",
            ("stream",),
            buckets=SECONDS,
            registry=registry,
        )
        self.restored = Counter(
            "eventlog_restored", "Times that the stream had lost what it held.", ("stream",), registry=registry
        )
        self.behind = Gauge(
            "eventlog_behind", "Events that have a position and are not in the stream.", ("stream",), registry=registry
        )
        self.unsettled = Gauge(
            "eventlog_unsettled", "Events that some group still needs.", ("stream",), registry=registry
        )
        self.failures = Counter(
            "eventlog_relay_failures", "Rounds of the relay that failed.", ("stream",), registry=registry
        )


class ConsumerMetrics:
    """Reader's side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("stream", "group")
        self.handled = Counter(
            "eventlog_handled",
            "Deliveries by outcome: handled, repeated, unknown, later, unforeseen, held, buried.",
            (*labels, "outcome"),
            registry=registry,
        )
        self.seconds = Histogram(
            "eventlog_handling_seconds", "Handling one delivery.", labels, buckets=SECONDS, registry=registry
        )
        self.newer = Counter(
            "eventlog_newer_revisions", "Events of a newer revision than this reader knows.", labels, registry=registry
        )
        self.undelivered = Gauge("eventlog_undelivered", "Events not delivered yet.", labels, registry=registry)
        self.pending = Gauge("eventlog_pending", "Events delivered and not acknowledged.", labels, registry=registry)
        self.parked = Gauge("eventlog_parked", "Events that wait for another attempt.", labels, registry=registry)
        self.dead = Gauge("eventlog_dead_letters", "Events that were given up.", labels, registry=registry)
