"""Sampled traces: of a share of the requests, when they came, how long they took, and how long their list.

A span says what metrics say, of one request: route, placement, status, model version, length of the list. No id, no
address, nothing that a caller sent. Without a share nothing of OpenTelemetry is imported and nothing is measured.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from threading import Thread
from typing import TYPE_CHECKING, Any

from serving.schemas import RecommendResponse

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

LOG = "log"  # a JSON line for each span, where logs go
GROUP = "opentelemetry_traces_exporter"  # under which exporters are installed
PATIENCE = 2.0  # seconds that the last spans may take to be exported


def known() -> dict[str, Callable[[], Any]]:
    """What makes an exporter, by its name: that of the log, and those that are installed, such as `otlp`."""
    return {LOG: to_log, **{found.name: partial(loaded, found) for found in entry_points(group=GROUP)}}


def loaded(exporter: EntryPoint) -> Any:
    return exporter.load()()


def to_log() -> "SpanExporter":
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr, formatter=lambda span: span.to_json(indent=None) + "\n")


class Traces:
    """Spans of a share of the requests, exported in the background."""

    def __init__(self, share: float, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

        about = Resource.create({"service.name": "osclms"})
        self.provider = TracerProvider(TraceIdRatioBased(share), about, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("osclms")

    def record(
        self, route: str, placement: str, status: int, seconds: float, found: RecommendResponse | None
    ) -> None:
        """A request that has just been answered, in words and numbers of ours; `found`: the list in the answer."""
        ended = time.time_ns()
        about: dict[str, str | int | float] = {
            "osclms.placement": placement,
            "http.response.status_code": status,
        }
        if found is not None:
            about |= {"osclms.model_version": found.model_version, "osclms.items": len(found.items)}
            about |= {"osclms.fallback_share": found.fallback_share}
        began = ended - round(seconds * 1e9)
        self.tracer.start_span(route, attributes=about, start_time=began).end(ended)

    def close(self, patience: float = PATIENCE) -> None:
        """What was recorded is exported, as far as that is done in `patience` seconds: a collector may be away."""
        ending = Thread(target=self.provider.shutdown, daemon=True)
        ending.start()
        ending.join(patience)
