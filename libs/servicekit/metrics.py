"""What a service counts about its own traffic, in a registry of its own (none is global, so tests share nothing).

Labels are bounded: routes and RPCs by their templates, never by what a caller wrote.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

# Seconds. From a warm verification (tenths of a millisecond) to a deadline.
DURATIONS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Traffic by route and outcome, and how the process does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.http_seconds = Histogram(
            "http_server_seconds",
            "HTTP requests by route and status.",
            ("method", "route", "status"),
            buckets=DURATIONS,
            registry=self.registry,
        )
        self.websocket_seconds = Histogram(
            "websocket_seconds",
            "WebSockets by route and close code, from handshake to end.",
            ("route", "code"),
            buckets=(0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0),
            registry=self.registry,
        )
        self.rpc_seconds = Histogram(
            "grpc_server_seconds",
            "RPCs by method and status.",
            ("method", "code"),
            buckets=DURATIONS,
            registry=self.registry,
        )
        self.unforeseen = Counter(
            "unforeseen_errors", "Requests that ended in an INTERNAL error.", registry=self.registry
        )
        self.loop_lag = Gauge(
            "event_loop_lag_seconds",
            "How much later than asked for the event loop woke up, the longest of the last second.",
            registry=self.registry,
        )

    @contextlib.contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Answers Prometheus at that address, from a thread of its own; the port, where 0 was asked for.

        Raises:
            OSError: nobody can listen there.
        """
        server, thread = start_http_server(port, host, self.registry)
        try:
            yield int(server.server_port)
        finally:
            # The server looks up when somebody comes, or every half second: so somebody comes.
            ending = threading.Thread(target=server.shutdown)
            ending.start()
            with contextlib.suppress(OSError), socket.create_connection((host, server.server_port), timeout=1):
                pass
            ending.join()
            server.server_close()
            thread.join()
