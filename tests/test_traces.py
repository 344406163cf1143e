"""Sampled traces: what a span says of a request, and that it says nothing else."""

import json
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from web import Web

from serving.keys import SECRET
from serving.settings import Settings, SettingsError
from serving.traces import Traces, to_log

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
ASKED = {"customer_id": "anna", "product_ids": ["milk"], "limit": 2}


@pytest.fixture
def web(tmp_path: Path) -> Web:
    return Web(tmp_path)


def test_a_span_says_what_the_metrics_say_and_names_nobody(web: Web) -> None:
    web.edge.traces = Traces(1.0, exporter := InMemorySpanExporter())
    answer = web.ask("POST", "/v1/recommend/trending", kind=SECRET, json=ASKED)
    refused = web.ask("POST", "/v1/recommend/anna", kind=SECRET, json=ASKED)
    web.edge.traces.close()
    web.close()
    assert (answer.status_code, refused.status_code) == (200, 404)
    one, other = exporter.get_finished_spans()
    assert one.name == other.name == "recommend"
    assert dict(one.attributes or {}) == {
        "osclms.placement": "trending", "http.response.status_code": 200, "osclms.model_version": "1",
        "osclms.items": len(answer.json()["items"]), "osclms.fallback_share": answer.json()["fallback_share"],
    }  # fmt: skip
    assert dict(other.attributes or {}) == {"osclms.placement": "none", "http.response.status_code": 404}
    assert one.start_time is not None and one.end_time is not None and one.start_time < one.end_time
    said = one.to_json() + other.to_json()
    assert not any(word in said for word in ("anna", "milk", "192.0.2.1", answer.json()["recommendation_id"]))


def test_of_no_share_nothing_is_traced(web: Web) -> None:
    web.edge.traces = Traces(0.0, exporter := InMemorySpanExporter())
    web.ask("POST", "/v1/recommend/trending", kind=SECRET, json=ASKED)
    web.edge.traces.close()
    web.close()
    assert exporter.get_finished_spans() == ()
    assert Settings().traces() is None


def test_the_log_gets_a_line_for_each_span(capsys: pytest.CaptureFixture[str]) -> None:
    traces = Traces(1.0, to_log())
    for status in (200, 503):
        traces.record("recommend", "trending", status, 0.25, None)
    traces.close()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["attributes"]["http.response.status_code"] for line in lines] == [200, 503]


def test_a_collector_that_is_away_holds_up_nobody() -> None:
    called, let_go = Event(), Event()

    class Away(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            called.set()
            let_go.wait(60)
            return super().export(spans)

    traces = Traces(1.0, away := Away())
    traces.record("recommend", "trending", 200, 0.25, None)
    started = time.monotonic()
    traces.close(patience=0.05)
    assert called.wait(30) and time.monotonic() - started < 20
    let_go.set()
    assert away.get_finished_spans() == () or len(away.get_finished_spans()) == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("SHARE", "1.5", "less than or equal to 1"), ("TO", "elsewhere", "known: log")],
)
def test_what_cannot_be_traced_is_refused(name: str, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"OSCLMS_TRACE_{name}: .*{says}"):
        Settings.read({f"OSCLMS_TRACE_{name}": text})


def test_an_installed_exporter_is_known_by_its_name() -> None:
    assert Settings.read({"OSCLMS_TRACE_TO": "console"}).trace_to == "console"
