"""What Prometheus reads: counts and latencies. Labels are words of ours, never an id or a path."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from hashlib import sha256
from math import log
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Summary,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.schemas import RecommendResponse

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # BentoML sets it before a worker starts
LABELS = ("route", "placement", "status")
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
DAY = 86_400
ROOM = 256 << 20  # bytes
MEMORY = Path("/dev/shm")  # noqa: S108 -- files that never wait for a disk, where there is such a place
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

LIVE_MISSED = Counter(
    "osclms_live_missed",
    "Looks at live events that came to nothing, as the database was away",
    registry=REGISTRY,
)
SENDS_LOST = Counter("osclms_sends_lost", "Lists sent that could not be put on record", registry=REGISTRY)
EVENT_LAG = Histogram(
    "osclms_event_lag_seconds",
    "How old the newest of the events was when a worker first saw them",
    buckets=(0.1, 0.5, 1, 5, 30, 60, 300, 3_600, DAY),
    registry=REGISTRY,
)
REFUSED = Counter("osclms_champion_refused", "Champions that did not load or answer", registry=REGISTRY)
CHALLENGER_REFUSED = Counter(
    "osclms_challenger_refused", "Challengers that did not load or answer", registry=REGISTRY
)
CHALLENGER_FAILED = Counter(
    "osclms_challenger_failed", "Answers that the champion gave, as the challenger failed", registry=REGISTRY
)
UNREAD = Counter(
    "osclms_catalogue_unread", "Looks for changes of the catalogue that failed", registry=REGISTRY
)
LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64, 100)
LENGTH = Histogram(
    "osclms_list_items", "Products of a list", ("placement", "version"), buckets=LENGTHS, registry=REGISTRY
)
FALLBACK = Summary(
    "osclms_fallback_share", "Share of a list that is fill", ("placement", "version"), registry=REGISTRY
)
REMOVED = Summary(
    "osclms_rule_removed_products", "Products that a rule took out, of one list in 20", ("placement", "rule"),
    registry=REGISTRY,
)  # fmt: skip
EVERY = 20  # lists of which one has its rules counted, which costs as much as a rule each
ASKED = "asked about or excluded"
BITS = 1 << 18  # of a set of products: right to a few per cent for a million


def record(route: str, placement: str, status: int, seconds: float) -> None:
    """`route` and `placement` must come from our tables: a caller's text would be a new series each time."""
    counted, timed = answered(route, placement, status)
    counted.inc()
    timed.observe(seconds)


@cache
def answered(route: str, placement: str, status: int) -> tuple[Counter, Histogram]:
    """What counts and times such answers, looked up once."""
    labels = (route, placement, str(status))
    return REQUESTS.labels(*labels), SECONDS.labels(*labels)


@cache
def lists(placement: str, version: str) -> tuple[Histogram, Summary]:
    return LENGTH.labels(placement, version), FALLBACK.labels(placement, version)


def listed(found: RecommendResponse) -> None:
    length, fallback = lists(found.placement, found.model_version)
    length.observe(len(found.items))
    fallback.observe(found.fallback_share)
    bits = memory(found.placement)
    for item in found.items:
        byte, bit = bit_of(item.product_id)
        bits[byte] |= bit


@lru_cache(maxsize=1 << 16)
def bit_of(product_id: str) -> tuple[int, int]:
    """(the byte of a set that knows a product, its bit there)."""
    bit = crc32(product_id.encode()) % BITS
    return bit >> 3, 1 << (bit & 7)


def removed(placement: str, rules: Mapping[str, int]) -> None:
    """`rules` are the labels of an answer's `removed`, whose first word is the rule's kind: the rest is a caller's."""
    for label, count in rules.items():
        kind = label if label == ASKED else label.split()[0]
        REMOVED.labels(placement, kind).observe(count)


def counts_folder(home: Path, port: int) -> Path:
    """Where the workers of a server keep their counts: its own folder, in memory where that can be had.

    Workers write them through mapped files, and such a write waits for as long as a busy disk is writing that page.
    """
    own = MEMORY / f"osclms-{os.getuid()}-{sha256(os.fsencode(home)).hexdigest()[:16]}-{port}"
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        if own.is_symlink() or own.stat().st_uid != os.getuid():
            raise PermissionError(f"{own} is somebody else's")
        if shutil.disk_usage(MEMORY).free < ROOM:  # as in a container: who writes to a full one is killed
            raise OSError(f"{MEMORY} is too small")
    except OSError:  # as where there is no such place
        own = home / "bentoml" / str(port)
        own.mkdir(parents=True, exist_ok=True)
    return own


@cache
def shown(placement: str) -> NDArray[np.uint8]:
    """This worker's set of the products that a placement has shown, a bit for each hash, where others may read it."""
    if not (folder := os.environ.get(MULTIPROCESS)):
        return np.zeros(BITS >> 3, np.uint8)
    path = Path(folder) / f"{SHOWN}{os.getpid()}-{placement.encode().hex()}"
    return np.memmap(path, np.uint8, "w+", shape=(BITS >> 3,))


@cache
def memory(placement: str) -> memoryview:
    """The same, as it takes a byte in a tenth of the time."""
    return shown(placement).data


SHOWN = "shown-"


def products_shown(placements: Iterable[str]) -> Iterator[tuple[str, float]]:
    """About how many different products all workers together have shown, by placement: linear counting."""
    folder = os.environ.get(MULTIPROCESS)
    for placement in placements:
        found = Path(folder).glob(f"{SHOWN}*-{placement.encode().hex()}") if folder else ()
        sets = [np.fromfile(path, np.uint8) for path in found] if folder else [shown(placement)]
        whole = np.bitwise_or.reduce(sets) if sets else np.zeros(1, np.uint8)
        empty = BITS - int(np.bitwise_count(whole).sum())
        yield placement, BITS * log(BITS / max(empty, 1))


class Model(Collector):
    """Which model the answering worker serves: made at scrape time, so that no old version lingers."""

    def __init__(
        self, version: str, data_until: float, placements: Iterable[str] = (), available: int = 0
    ) -> None:
        self.version, self.data_until = version, data_until
        self.placements, self.available = tuple(placements), available
        self.challenger: tuple[str, float] | None = None  # its version, and of how many customers

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("osclms_model_info", "The model version served", labels=["version"])
        info.add_metric([self.version], 1)
        yield info
        share = GaugeMetricFamily("osclms_challenger_share", "Customers it answers", labels=["version"])
        if self.challenger:
            share.add_metric([self.challenger[0]], self.challenger[1])
        yield share
        yield GaugeMetricFamily(
            "osclms_model_data_until_seconds", "End of its data, unix time", self.data_until
        )
        age = (time.time() - self.data_until) / DAY
        yield GaugeMetricFamily("osclms_champion_age_days", "Days since the end of its data", age)
        yield GaugeMetricFamily("osclms_products_available", "Products that may be shown", self.available)
        about = "Different products shown since the service started, estimated"
        seen = GaugeMetricFamily("osclms_products_shown", about, labels=["placement"])
        for placement, count in products_shown(self.placements):
            seen.add_metric([placement], round(count))
        yield seen


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
