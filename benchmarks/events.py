"""How fast events come in, and how fast a customer's are found: `python -m benchmarks.events [URL]`.

With the address of a running service it is sent views by clients on connections of their own, once one event
a request and once a hundred. Its database keeps them: ask a service over a home of its own.
"""

import http.client
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlsplit

from serving.store import Store, address

CLIENTS, SECONDS, BATCHES = 8, 10.0, (1, 100)
EVENTS, CUSTOMERS, LOOKS = 100_000, 2_000, 5_000
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def view(number: int) -> dict[str, object]:
    return {
        "event_id": uuid.uuid4().hex, "event_type": "view", "customer_id": str(number % CUSTOMERS),
        "product_id": str(number % 997), "occurred_at": FIRST + timedelta(seconds=number),
    }  # fmt: skip


def send(host: str, batch: int, until: float) -> list[float]:
    """Seconds of each request of one client."""
    connection, took, number = http.client.HTTPConnection(host, timeout=60), [], 0
    while time.perf_counter() < until:
        body = json.dumps({"events": [view(number + n) for n in range(batch)]}, default=datetime.isoformat)
        began = time.perf_counter()
        connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        took.append(time.perf_counter() - began)
        assert answer["accepted"] == batch, answer
        number += batch
    return took


def measure_service(host: str, batch: int) -> None:
    until = time.perf_counter() + SECONDS
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(send, host, batch, until) for _ in range(CLIENTS)]
    took = [seconds for client in clients for seconds in client.result()]
    rate, p99 = len(took) * batch / SECONDS, quantiles(took, n=100)[-1]
    print(
        f"{CLIENTS} clients, {batch} a request: {rate:,.0f} events a second, "
        f"median {1e3 * median(took):.1f} ms, p99 {1e3 * p99:.1f} ms"
    )


def measure_store() -> None:
    with tempfile.TemporaryDirectory() as folder, Store(address(Path(folder), None)) as store:
        for first in range(0, EVENTS, 5_000):
            store.add([{**view(n), "received_at": FIRST} for n in range(first, first + 5_000)])
        half = FIRST + timedelta(seconds=EVENTS / 2)
        found = len(store.since("7", half)["event_id"])
        looks = {
            f"since, {found} events found": lambda n: store.since(str(n % CUSTOMERS), half),
            "since, nobody": lambda n: store.since("nobody", half),
            "changes, nothing new": lambda _: store.changes(),
        }
        for name, look in looks.items():
            took = timed(look)
            print(
                f"{name}: median {1e6 * median(took):.0f} µs, p99 {1e6 * quantiles(took, n=100)[-1]:.0f} µs"
            )


def timed(look: Callable[[int], object]) -> list[float]:
    took = []
    for number in range(LOOKS):
        began = time.perf_counter()
        look(number)
        took.append(time.perf_counter() - began)
    return took


if __name__ == "__main__":
    measure_store()
    for url in sys.argv[1:]:
        for size in BATCHES:
            measure_service(urlsplit(url).netloc, size)
