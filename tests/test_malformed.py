"""Whatever is sent, nothing breaks: no answer of 500 and above, none that shows our insides, errors of one shape.

Requests come from the OpenAPI document, by Schemathesis, and from nowhere at all, by Hypothesis.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from web import SHOP, Web

from serving.headers import NDJSON
from serving.keys import PUBLISHABLE, SECRET
from serving.schemas import ErrorBody

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
KINDS = (SECRET, PUBLISHABLE, None)
RATES = {SECRET: "1000000/second", PUBLISHABLE: "1000000/second"}
STAGES = (Phase.explicit, Phase.generate, Phase.shrink)
CALM = settings(
    deadline=None, database=None, derandomize=True, phases=STAGES, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    made = Web(tmp_path_factory.mktemp("web"), rates=RATES)
    yield made
    made.close()


def sound(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    assert "Traceback" not in response.text and '.py"' not in response.text
    if response.status_code >= 400 and response.request.method != "HEAD":
        if response.headers["content-type"].startswith("text/html"):  # to who followed a link of a message
            assert response.request.url.path.startswith(("/r/", "/u/", "/rate/")) and "<h1>" in response.text
            return
        assert response.headers["content-type"] == "application/json"
        assert ErrorBody.model_validate_json(response.content).error


def document(web: Web) -> dict[str, Any]:
    found: dict[str, Any] = web.ask("GET", "/openapi.json").json()
    return found


def from_the_document(web: Web, examples: int) -> int:
    """Requests for each call of the document, right ones and wrong ones; how many."""
    schema = schemathesis.openapi.from_dict(document(web))
    asked = [0]
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            @settings(CALM, max_examples=examples)
            @given(case=operation.as_strategy(generation_mode=mode), kind=st.sampled_from(KINDS))
            def each(case: Any, kind: str | None) -> None:
                asked[0] += 1
                response = send(web, case, kind)
                sound(response)
                known = {*operation.definition.raw["responses"], "404", "405"}  # noqa: B023
                assert str(response.status_code) in known, (case.method, case.path, response.status_code)

            with suppress(Unsatisfiable):  # what takes anything, or nothing, cannot be asked wrongly
                each()
    return asked[0]


def send(web: Web, case: Any, kind: str | None) -> httpx.Response:
    about = case.as_transport_kwargs(base_url="http://here")
    url = httpx.URL(about["url"], params=about.get("params") or None)
    sent = {name: about[name] for name in ("json", "data", "files") if about.get(name) is not None}
    if isinstance(sent.get("data"), bytes | str):
        sent["content"] = sent.pop("data")
    headers = {name: value for name, value in about["headers"].items() if name.lower() != "authorization"}
    path = url.raw_path.decode()
    return web.ask(about["method"], path, kind=kind, origin=SHOP, headers=headers, **sent)


texts = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
NAMES = (
    "customer_id", "customer_token", "product_ids", "exclude", "limit", "at", "rules", "explain", "query_id",
    "events", "event_id", "event_type", "occurred_at", "order_id", "part", "locale", "q", "rule", "attribute",
    "values", "by", "count", "share", "least", "most", "after", "products", "product_id", "price", "attributes",
    "identities", "consents", "channel", "purpose", "granted",
)  # fmt: skip
names = st.sampled_from(NAMES)
rules = st.dictionaries(names, values, max_size=5)
bodies = st.dictionaries(names, values | st.lists(rules, max_size=3), max_size=6)
PATHS = (
    "/v1/recommend/next_best", "/v1/recommend/{}", "/v1/recommend/upsell/batch", "/v1/needs", "/v1/events",
    "/v1/messages/thank_you", "/v1/fragments/{}.html", "/v1/fragments/next_best.txt", "/v1/products", "/r/{}",
    "/v1/customers/{}", "/v1/{}", "/{}", "/openapi.json", "/metrics", "/v1/widget.js",
)  # fmt: skip
contents = (
    bodies.map(lambda body: json.dumps(body).encode())
    | st.lists(bodies, max_size=3).map(lambda lines: b"\n".join(json.dumps(line).encode() for line in lines))
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
)
kinds_of_body = st.sampled_from(("application/json", NDJSON, "text/plain", "multipart/form-data", ";", ""))


def from_nowhere(web: Web, examples: int) -> None:
    @settings(CALM, max_examples=examples)
    @given(
        method=st.sampled_from(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")),
        path=st.sampled_from(PATHS),
        part=texts,
        query=st.dictionaries(names, texts, max_size=3),
        body=contents,
        media=kinds_of_body,
        kind=st.sampled_from(KINDS),
        header=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    )
    def each(
        method: str,
        path: str,
        part: str,
        query: dict[str, str],
        body: bytes,
        media: str,
        kind: str | None,
        header: str,
    ) -> None:
        headers = {"Content-Type": media, "Accept": header, "Access-Control-Request-Method": header}
        where = path.format(quote(part, safe=""))
        sound(web.ask(method, where, kind=kind, origin=SHOP, params=query, content=body, headers=headers))

    each()


def test_what_the_document_allows_and_forbids(web: Web) -> None:
    assert from_the_document(web, 4) > 80


def test_what_nobody_would_send(web: Web) -> None:
    from_nowhere(web, 200)


@pytest.mark.long
def test_ten_thousand_requests(web: Web) -> None:
    asked = from_the_document(web, 200)
    from_nowhere(web, max(10_000 - asked, 5_000))
