"""What Prometheus reads: counts and latencies. Labels are words of ours, never an id or a path."""

import os
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # BentoML sets it before a worker starts
LABELS = ("route", "placement", "status")
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
DAY = 86_400
REGISTRY = CollectorRegistry()
REQUESTS = Counter("osclms_requests", "Requests answered", LABELS, registry=REGISTRY)
SECONDS = Histogram(
    "osclms_request_seconds", "From request to answer", LABELS, buckets=BUCKETS, registry=REGISTRY
)
EMPTY = Counter("osclms_empty_fragments", "Fragments without an item", ("placement",), registry=REGISTRY)
CLICKS = Counter(
    "osclms_clicks", "Links of mails followed", ("placement", "outcome", "counted"), registry=REGISTRY
)
LOST = Counter("osclms_clicks_lost", "Clicks that could not be kept", registry=REGISTRY)

REFUSED = Counter("osclms_champion_refused", "Champions that did not load or answer", registry=REGISTRY)
UNREAD = Counter(
    "osclms_catalogue_unread", "Looks for changes of the catalogue that failed", registry=REGISTRY
)


def record(route: str, placement: str, status: int, seconds: float) -> None:
    """`route` and `placement` must come from our tables: a caller's text would be a new series each time."""
    labels = (route, placement, str(status))
    REQUESTS.labels(*labels).inc()
    SECONDS.labels(*labels).observe(seconds)


class Model(Collector):
    """Which model the answering worker serves: made at scrape time, so that no old version lingers."""

    def __init__(self, version: str, data_until: float) -> None:
        self.version, self.data_until = version, data_until

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("osclms_model_info", "The model version served", labels=["version"])
        info.add_metric([self.version], 1)
        yield info
        yield GaugeMetricFamily(
            "osclms_model_data_until_seconds", "End of its data, unix time", self.data_until
        )
        age = (time.time() - self.data_until) / DAY
        yield GaugeMetricFamily("osclms_champion_age_days", "Days since the end of its data", age)


def exposition(model: Model) -> tuple[bytes, str]:
    """The text of all workers together and its content type."""
    registry = REGISTRY
    if os.environ.get(MULTIPROCESS):
        registry = CollectorRegistry()
        collector: Any = MultiProcessCollector
        collector(registry)
    about = CollectorRegistry()
    about.register(model)
    return generate_latest(registry) + generate_latest(about), CONTENT_TYPE_LATEST
