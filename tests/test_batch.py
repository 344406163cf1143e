"""Many questions in one request: a line each, an answer each, whatever one of them is."""

import asyncio
import json
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from typing import Any

import httpx
import pytest
from web import NOW, TOKEN, Web

from serving.batch import MAX_LINE
from serving.client import ApiError, Client
from serving.headers import NDJSON
from serving.keys import SECRET
from serving.overlay import Overlay
from serving.schemas import RecommendRequest, RecommendResponse
from serving.store import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
BATCH = "/v1/recommend/next_best/batch"
LINES = {"Content-Type": NDJSON}


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    made = Web(tmp_path_factory.mktemp("web"))
    yield made
    made.close()


def asked(web: Web, body: Any, kind: str | None = SECRET) -> list[dict[str, Any]]:
    """What comes back, line by line."""
    sent = {"content": body, "headers": LINES} if isinstance(body, bytes) else {"json": body}
    response = web.ask("POST", BATCH, kind=kind, **sent)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == NDJSON
    return [json.loads(line) for line in response.text.splitlines()]


def one(web: Web, question: dict[str, Any]) -> RecommendResponse:
    response = web.ask("POST", "/v1/recommend/next_best", kind=SECRET, json=question)
    return RecommendResponse.model_validate_json(response.content)


QUESTIONS: list[dict[str, Any]] = [
    {"customer_id": "anna"},
    {"customer_id": "bert", "limit": 2, "exclude": ["milk"]},
    {"product_ids": ["bread"], "explain": True},
    {"customer_token": TOKEN, "rules": [{"rule": "exclude", "attribute": "category", "values": ["food"]}]},
    {"customer_id": "carl", "at": "2026-05-01T00:00:00Z"},
]


def test_the_lists_are_those_of_single_requests(web: Web) -> None:
    singles = [one(web, question) for question in QUESTIONS]
    body = b"\n".join(json.dumps(question).encode() for question in QUESTIONS)
    apart = b"\n\n" + body.replace(b"\n", b"\r\n \n")
    for sent, places in ((body, 1), (body + b"\n", 1), (QUESTIONS, 1), (apart, 2)):
        *answers, last = asked(web, sent)
        assert [RecommendResponse.model_validate(a["answer"]) for a in answers] == singles
        first = 3 if sent is apart else 1  # blank lines count, as they do for who looks into the file
        assert [a["line"] for a in answers] == list(range(first, first + 5 * places, places))
        assert last == {"lines": 5, "answered": 5, "failed": 0}


@pytest.mark.parametrize("same", [True, False])
def test_a_batch_is_of_one_version_and_of_the_catalogue_as_it_is(
    web: Web, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """What can be had changes while the first of its lists is made."""
    site, engine = web.site, web.site.engine
    now = copy(site)
    overlay = Overlay(engine.bundle)
    overlay.say([{"product_id": "bread", "in_stock": False}])
    bundle = overlay.bundle(engine.bundle)
    version = "1" if same else "2"
    now.engine = engine.over(
        replace(bundle, manifest=bundle.manifest.model_copy(update={"version": version}))
    )
    assert engine.version == "1"
    recommend = engine.recommend

    def first(*args: Any, **about: Any) -> RecommendResponse:
        web.edge.open(now)
        return recommend(*args, **about)

    monkeypatch.setattr(engine, "recommend", first)
    told = [a["answer"] for a in asked(web, [{"customer_id": "anna", "limit": 8}] * 3)[:3]]
    web.edge.open(site)
    assert {answer["model_version"] for answer in told} == {"1"}
    held = ["bread" in [item["product_id"] for item in answer["items"]] for answer in told]
    assert held == [True, not same, not same]


def test_a_customers_id_stands_for_a_question(web: Web) -> None:
    first, second, _ = asked(web, ["anna", {"customer_id": "bert"}])
    assert RecommendResponse.model_validate(first["answer"]) == one(web, {"customer_id": "anna"})
    assert RecommendResponse.model_validate(second["answer"]) == one(web, {"customer_id": "bert"})


BROKEN = (
    b"{",
    b"\xff\xfe",
    b"7",
    b'{"limit": 0}',
    b'{"query_id": "q", "customer_id": ""}',
    b'{"customer": "anna"}',
    b'{"at": "1990-01-01"}',
    b'{"customer_token": "x"}',
    b'{"query_id": [1]}',
    b'{"customer_id": "' + b"x" * 3 * MAX_LINE + b'"}',
)


def test_a_broken_line_costs_no_other(web: Web) -> None:
    fine = b'{"query_id": 7, "customer_id": "anna", "limit": 2}'
    *answers, last = asked(web, b"\n".join(line for broken in BROKEN for line in (broken, fine)))
    assert last == {"lines": 20, "answered": 10, "failed": 10}
    assert [a["line"] for a in answers] == list(range(1, 21))
    for broken, good in zip(answers[::2], answers[1::2], strict=True):
        assert broken["error"] and broken["fields"] and broken["answer"] is None
        assert (good["query_id"], len(good["answer"]["items"])) == (7, 2)
    assert "longer than 100,000 bytes" in answers[18]["error"]
    assert [a["query_id"] for a in answers[::2]] == [None] * 4 + ["q"] + [None] * 5


@pytest.mark.parametrize("body", [b"", b"\n \n", []])
def test_nothing_asked_is_nothing_answered(web: Web, body: Any) -> None:
    assert asked(web, body) == [{"lines": 0, "answered": 0, "failed": 0}]


@pytest.mark.parametrize(
    ("path", "about", "status"),
    [
        ("/v1/recommend/nowhere/batch", {"json": []}, 404),
        (BATCH, {"content": b"a=1", "headers": {"Content-Type": "text/plain"}}, 415),
        (BATCH, {"content": b"", "headers": {**LINES, "Content-Length": "9999999999"}}, 413),
        (BATCH, {"json": {"questions": []}}, 400),
        (BATCH, {"content": b"[", "headers": {"Content-Type": "application/json"}}, 400),
        (BATCH, {"json": [" " * 1_000_001]}, 413),
    ],
)
def test_what_cannot_be_begun_is_refused(web: Web, path: str, about: dict[str, Any], status: int) -> None:
    assert web.ask("POST", path, kind=SECRET, **about).status_code == status


def test_what_is_sent_is_on_record_before_it_is_told(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    customers = ["anna", "bert"] * 15
    before = web.store.ends("sends")["sends"]
    channels = ["sms", "push", None] * 10
    lines = [
        {"customer_id": customer, "limit": 2, "record": True, **({"channel": channel} if channel else {})}
        for customer, channel in zip(customers, channels, strict=True)
    ]
    pigeon = {"customer_id": "anna", "record": True, "channel": "pigeon"}
    *answers, last = asked(web, [*lines, {"customer_id": "anna"}, {"limit": 2, "record": True}, pigeon])
    assert last == {"lines": 33, "answered": 31, "failed": 2}
    assert answers[31]["error"].startswith("record: of whom?") and "channel" in answers[32]["error"]
    assert len({a["answer"]["recommendation_id"] for a in answers[:30]}) == 2
    rows = [row for page in web.store.read("sends", before, 1 << 40) for row in page]
    kept = [(who, channel or "email") for who, channel in zip(customers, channels, strict=True)]
    assert [(row["customer_id"], row["channel"]) for row in rows] == kept
    told = [a["answer"] for a in answers[:30]]
    lists = [(a["recommendation_id"], [i["product_id"] for i in a["items"]]) for a in told]
    assert [(row["recommendation_id"], row["product_ids"]) for row in rows] == lists
    unrecorded, _ = asked(web, [{"customer_id": "anna", "limit": 2}])
    assert unrecorded["answer"] == told[0]
    said, edge = list[str](), web.edge

    async def heard(scope: Any, receive: Any, send: Any) -> None:
        async def noted(message: Any) -> None:
            said.extend(f"told {message['body'].count(b'answer')}" for _ in [0] if message.get("body"))
            await send(message)

        await edge(scope, receive, noted)

    monkeypatch.setattr(web, "edge", heard)
    monkeypatch.setattr(web.site, "sent", lambda rows: said.append(f"kept {len(rows)}"))
    asked(web, lines)
    assert said == ["kept 20", "told 20", "kept 10", "told 11"]  # the last with the count
    monkeypatch.undo()

    def full(*_: Any) -> None:
        raise StoreError("no room for anna")

    monkeypatch.setattr(web.site, "sent", full)
    assert asked(web, lines[:1])[-1] == {"lines": 1, "answered": 1, "failed": 0}
    monkeypatch.setattr(web.site, "sent", None)
    assert "no database" in asked(web, lines[:1])[0]["error"]


def test_questions_that_go_on_for_ever_are_cut(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.batch.MAX_BATCH", 1_000)

    async def endless() -> Any:
        while True:
            yield b"{}\n" * 100

    [line] = asked_in_parts(web, endless())
    assert "larger than 1,000 bytes" in line["error"]


def asked_in_parts(web: Web, parts: Any) -> list[dict[str, Any]]:
    async def ask() -> str:
        bearer = {"Authorization": f"Bearer {web.keys[SECRET]}"}
        async with web.client() as http:
            return (await http.post(BATCH, content=parts, headers={**LINES, **bearer})).text

    return [json.loads(line) for line in asyncio.run(ask()).splitlines()]


def test_others_are_answered_in_between(web: Web) -> None:
    """Each other request waits for one list of the batch, not for all of it."""
    done: list[str] = []

    async def one_batch(http: httpx.AsyncClient) -> None:
        await http.post(BATCH, content=b"{}\n" * 100, headers={**LINES, **bearer})
        done.append("batch")

    async def singles(http: httpx.AsyncClient) -> None:
        for _ in range(20):
            assert (await http.post("/v1/recommend/trending", headers=bearer)).status_code == 200
            done.append("single")

    async def both() -> None:
        async with web.client() as http:
            await asyncio.gather(one_batch(http), singles(http))

    bearer = {"Authorization": f"Bearer {web.keys[SECRET]}"}
    asyncio.run(both())
    assert done == ["single"] * 20 + ["batch"]


def test_who_hangs_up_is_answered_no_more(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app is told by its server that nobody listens, after the first answers."""
    made, sent = list[str](), list[bytes]()
    recommend = web.site.engine.recommend

    def counted(*args: Any, **about: Any) -> RecommendResponse:
        made.append("one")
        return recommend(*args, **about)

    monkeypatch.setattr(web.site.engine, "recommend", counted)
    body = [{"type": "http.request", "body": b"{}\n" * 5_000, "more_body": False}]

    async def receive() -> Any:
        return body.pop() if body else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    scope = {
        "type": "http", "method": "POST", "path": BATCH, "raw_path": BATCH.encode(), "query_string": b"",
        "root_path": "", "client": ("192.0.2.1", 1), "server": ("192.0.2.9", 443), "scheme": "https",
        "headers": [(b"content-type", NDJSON.encode()), (b"authorization", f"Bearer {web.keys[SECRET]}".encode())],
    }  # fmt: skip
    asyncio.run(web.edge(scope, receive, send))
    assert 0 < len(made) <= 20
    assert b'"lines"' not in b"".join(sent)


# --- the client ------------------------------------------------------------------------------------------------


class Wired(httpx.BaseTransport):
    """Carries a client's requests to an app in this process; `cut` loses the end of the answer."""

    def __init__(self, web: Web, cut: int = 0) -> None:
        self.web, self.cut = web, cut

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        about: dict[str, Any] = {"content": request.read(), "headers": dict(request.headers)}
        found = self.web.ask(request.method, request.url.path, **about)
        return httpx.Response(found.status_code, content=found.content[: len(found.content) - self.cut])


def client(web: Web, cut: int = 0) -> Client:
    return Client("http://service", key=web.keys[SECRET], transport=Wired(web, cut), retries=0)


def test_a_client_gets_a_list_or_an_error_for_each_question(web: Web) -> None:
    given = [RecommendRequest(customer_id="anna", limit=2), RecommendRequest(at=NOW.replace(year=1990))]
    with client(web) as osclms:
        first, second = osclms.batch("next_best", given)
        assert first == osclms.recommend("next_best", given[0])
        assert isinstance(second, ApiError) and second.field == "at"


def test_a_client_tells_an_answer_that_was_cut_off(web: Web) -> None:
    with client(web, cut=20) as osclms, pytest.raises(ApiError, match="cut off"):
        list(osclms.batch("next_best", [RecommendRequest()] * 3))
    with client(web) as osclms, pytest.raises(ApiError) as failed:
        list(osclms.batch("nowhere", []))
    assert failed.value.status == 404


@pytest.mark.long
@pytest.mark.parametrize(("thousands", "stubbed"), [(1_000, True), (200, False)])
def test_memory_stays_flat_over_a_million_lines(
    web: Web, monkeypatch: pytest.MonkeyPatch, thousands: int, stubbed: bool
) -> None:
    """Of the wire alone, and of fewer lists that are made."""
    import psutil  # type: ignore[import-untyped]

    fixed = one(web, {})
    if stubbed:
        monkeypatch.setattr(web.site.engine, "recommend", lambda *_, **__: fixed)
    process, most, count = psutil.Process(), [0], [0]

    async def questions() -> Any:
        for _ in range(thousands):
            yield b'{"customer_id": "anna"}\n' * 1_000

    async def ask() -> None:
        stream, started = questions(), time.monotonic()
        before = process.memory_info().rss

        async def receive() -> Any:
            part = await anext(stream, None)
            return {"type": "http.request", "body": part or b"", "more_body": part is not None}

        async def send(message: Any) -> None:
            count[0] += message.get("body", b"").count(b"\n")
            most[0] = max(most[0], process.memory_info().rss - before)

        async def listening() -> bool:
            return False

        monkeypatch.setattr("starlette.requests.Request.is_disconnected", lambda _: listening())
        bearer = f"Bearer {web.keys[SECRET]}".encode()
        scope = {
            "type": "http", "method": "POST", "path": BATCH, "raw_path": BATCH.encode(), "query_string": b"",
            "root_path": "", "client": ("192.0.2.1", 1), "server": ("192.0.2.9", 443), "scheme": "https",
            "headers": [(b"content-type", NDJSON.encode()), (b"authorization", bearer)],
        }  # fmt: skip
        await web.edge(scope, receive, send)
        print(f"{count[0]:,} lines in {time.monotonic() - started:.0f} s, {most[0] / 1e6:.0f} MB more")

    asyncio.run(ask())
    assert count[0] == thousands * 1_000 + 1
    assert most[0] < 50_000_000
