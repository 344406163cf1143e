"""The wire, over a real socket: `bentoml serve` with two workers over the test shop's champion."""

import asyncio
import html
import json
import logging
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import running
import yaml
from conftest import ALIAS, CUSTOMER
from pydantic import SecretStr
from running import AS_OF, PUBLIC_URL, ROOT, SHOP_URL, Server, environment, shop, start, stop

from lifecycle.programs import programs
from serving.links import Click
from serving.placements import PLACEMENTS
from serving.schemas import ErrorBody, RecommendResponse
from serving.settings import Settings, SettingsError
from serving.tokens import CustomerToken, Tokens

SECRET = "household-4711-secret"
KEY = running.SECRET
JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/x-ndjson"}
EVENTS = "/v1/events"
LIST = "/v1/recommend/next_best"
MESSAGE = "/v1/messages/thank_you"
SEEN = {"event_type": "view", "occurred_at": "2018-01-02T09:30:00Z"}


@pytest.fixture(scope="session")
def server(shop_home: Path) -> Server:
    return shop(shop_home)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
def writable(shop_home: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    """The same over a database of its own: what is put there is in nobody else's answers."""
    server = shop(shop_home, database_url=f"sqlite:///{tmp_path}/store.db")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
    stop(server)


@pytest.fixture(scope="session")
def sample(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(server.url + "/v1/sample").json()
    return found


def ask(http: httpx.Client, placement: str, **question: Any) -> RecommendResponse:
    response = http.post(f"/v1/recommend/{placement}", json=question)
    assert response.status_code == 200, response.text
    return RecommendResponse.model_validate_json(response.content)


# --- lists --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("who", ["known", "unknown", "nobody"])
@pytest.mark.parametrize("what", ["known", "unknown", "nothing"])
def test_everyone_gets_a_full_list(
    http: httpx.Client, sample: dict[str, Any], placement: str, who: str, what: str
) -> None:
    customer = {"known": sample["customers"][0], "unknown": SECRET, "nobody": None}[who]
    basket = {"known": [sample["products"][0]["product_id"]], "unknown": [SECRET], "nothing": []}[what]
    found = ask(http, placement, customer_id=customer, product_ids=basket, limit=5)
    ids = [item.product_id for item in found.items]
    assert len(set(ids)) == 5
    assert not set(ids) & set(basket)


def test_what_is_excluded_is_not_in_the_list(http: httpx.Client, sample: dict[str, Any]) -> None:
    exclude = [product["product_id"] for product in sample["products"]]
    found = ask(http, "trending", exclude=exclude)
    assert not {item.product_id for item in found.items} & set(exclude)


def test_an_empty_body_is_a_stranger_with_an_empty_basket(http: httpx.Client) -> None:
    bare = http.post(LIST).json()
    assert bare["items"] == http.post(LIST, json={}).json()["items"]


def test_explain_adds_what_each_source_scored(http: httpx.Client, sample: dict[str, Any]) -> None:
    customer = sample["customers"][0]
    assert all(item.parts is None for item in ask(http, "next_best", customer_id=customer).items)
    assert all(item.parts for item in ask(http, "next_best", customer_id=customer, explain=True).items)


def test_without_a_moment_the_answer_is_as_of_the_servers(http: httpx.Client) -> None:
    ids = {http.post(LIST, json={}).json()["recommendation_id"] for _ in range(4)}
    assert len(ids) == 1


def test_placements_are_described(http: httpx.Client) -> None:
    rows = http.get("/v1/placements").json()["placements"]
    assert [row["name"] for row in rows] == list(PLACEMENTS)


def test_products_are_found_by_words_of_their_title(http: httpx.Client, sample: dict[str, Any]) -> None:
    title = sample["products"][0]["title"]
    found = http.get("/v1/products", params={"q": " ".join(reversed(title.upper().split()))}).json()[
        "products"
    ]
    assert title in [product["title"] for product in found]
    assert http.get("/v1/products", params={"q": SECRET}).json() == {"products": []}


def test_an_alias_is_its_customer(http: httpx.Client) -> None:
    found, stranger = (ask(http, "next_best", customer_id=name) for name in (CUSTOMER, "a stranger"))
    assert ask(http, "next_best", customer_id=ALIAS) == found
    assert found.items != stranger.items


def test_a_token_of_the_shops_stands_for_a_customer(http: httpx.Client) -> None:
    sealed = Tokens([KEY]).seal(CustomerToken(customer_id=ALIAS), at=datetime.now(UTC))
    assert ask(http, "next_best", customer_token=sealed) == ask(http, "next_best", customer_id=CUSTOMER)


@pytest.mark.parametrize(
    "asked",
    [
        {"customer_token": "x" * 300},
        {"customer_token": "gAAAAA"},
        {"customer_token": "{link}"},
        {"customer_token": "{old}"},
        {"customer_token": "{good}", "customer_id": "1"},
    ],
)
def test_a_token_that_names_nobody_is_refused_by_its_field(http: httpx.Client, asked: dict[str, str]) -> None:
    customer = CustomerToken(customer_id=CUSTOMER)
    now = datetime.now(UTC)
    tokens = {
        "link": token(),
        "old": Tokens([KEY]).seal(customer, at=now - timedelta(days=2)),
        "good": Tokens([KEY]).seal(customer, at=now),
    }
    response = http.post(LIST, json={name: text.format(**tokens) for name, text in asked.items()})
    assert response.status_code == 400
    assert response.json()["fields"][0]["field"] == "customer_token"


# --- errors -------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    # name: method, path, arguments, status, what the error names
    "malformed": ("POST", LIST, {"content": '{"limit":', "headers": JSON}, 400, "not JSON"),
    "no utf-8": ("POST", LIST, {"content": b'{"customer_id": "\xff"}', "headers": JSON}, 400, "not JSON"),
    "too deep": ("POST", LIST, {"content": "[" * 100_000, "headers": JSON}, 400, "not JSON"),
    "no object": ("POST", LIST, {"json": [1]}, 400, "body"),
    "wrong type": ("POST", LIST, {"json": {"limit": "many"}}, 400, "limit"),
    "too many": ("POST", LIST, {"json": {"limit": 101}}, 400, "limit"),
    "none": ("POST", LIST, {"json": {"limit": 0}}, 400, "limit"),
    "number as id": ("POST", LIST, {"json": {"customer_id": 7}}, 400, "customer_id"),
    "empty id": ("POST", LIST, {"json": {"product_ids": ["1", ""]}}, 400, "product_ids.1"),
    "long id": ("POST", LIST, {"json": {"customer_id": "x" * 201}}, 400, "customer_id"),
    "long basket": ("POST", LIST, {"json": {"product_ids": ["1"] * 501}}, 400, "product_ids"),
    "unknown field": ("POST", LIST, {"json": {"customer": "1"}}, 400, "customer"),
    "no moment": ("POST", LIST, {"json": {"at": "soon"}}, 400, "at"),
    "a yes for a number": ("POST", LIST, {"json": {"limit": True}}, 400, "limit"),
    "text for a number": ("POST", LIST, {"json": {"limit": "5"}}, 400, "limit"),
    "a number for a yes": ("POST", LIST, {"json": {"explain": 1}}, 400, "explain"),
    "text for a yes": ("POST", LIST, {"json": {"complements_only": "yes"}}, 400, "complements_only"),
    "seconds": (
        "POST",
        LIST,
        {"json": {"at": 1893456000}},
        400,
        "at: give an ISO 8601 date and time with its zone",
    ),
    "seconds as text": ("POST", LIST, {"json": {"at": "1893456000"}}, 400, "at: give an ISO 8601"),
    "seconds in a query": ("GET", MESSAGE + "?at=1893456000.5", {}, 400, "at: give an ISO 8601"),
    "no such day": ("POST", LIST, {"json": {"at": "2030-02-30T00:00:00Z"}}, 400, "at"),
    "the past": ("POST", LIST, {"json": {"at": "1990-01-01T00:00:00Z"}}, 400, "at"),
    "a form": ("POST", LIST, {"data": {"limit": "3"}}, 415, "content-type"),
    "large": ("POST", LIST, {"content": b" " * 1_000_001, "headers": JSON}, 413, "body"),
    "half an event": ("POST", EVENTS, {"content": '{"events": [{', "headers": JSON}, 400, "not JSON"),
    "an event without a list": ("POST", EVENTS, {"json": {"event_type": "view"}}, 400, "event_type"),
    "too many events": ("POST", EVENTS, {"json": {"events": [{}] * 1001}}, 400, "events"),
    "too many lines": ("POST", EVENTS, {"content": b"{}\n" * 1001, "headers": LINES}, 413, "1,000"),
    "large events": ("POST", EVENTS, {"content": b" " * 1_000_001, "headers": LINES}, 413, "body"),
    "events as text": (
        "POST",
        EVENTS,
        {"content": "{}", "headers": {"Content-Type": "text/plain"}},
        415,
        "ndjson",
    ),
    "GET events": ("GET", EVENTS, {}, 405, "use POST"),
    "unknown placement": ("POST", "/v1/recommend/nowhere", {}, 404, "next_best"),
    "GET a list": ("GET", LIST, {}, 405, "use POST"),
    "POST a message": ("POST", MESSAGE, {}, 405, "use GET or HEAD"),
    "DELETE a probe": ("DELETE", "/readyz", {}, 405, "use GET or HEAD"),
    "unknown path": ("GET", "/v2/nothing", {}, 404, "/openapi.json"),
    "unknown message": ("GET", "/v1/messages/nothing", {}, 404, "known: "),
    "slash": ("GET", "/v1/placements/", {}, 404, "/openapi.json"),
    "unknown part": ("GET", MESSAGE + "?part=pdf", {}, 400, "part"),
    "unknown parameter": ("GET", MESSAGE + "?customer=1", {}, 400, "customer"),
    "twice": ("GET", MESSAGE + "?order_id=1&order_id=2", {}, 400, "order_id"),
    "the past again": ("GET", MESSAGE + "?at=1990-01-01", {}, 400, "at"),
    "nothing acceptable": ("GET", MESSAGE, {"headers": {"Accept": "image/png, */*;q=0"}}, 406, "text/html"),
    "a fragment of nothing": ("GET", "/v1/fragments/nowhere.html", {}, 404, "next_best"),
    "a fragment as a picture": ("GET", "/v1/fragments/next_best.png", {}, 404, "/openapi.json"),
    "a long fragment": ("GET", "/v1/fragments/next_best.html?limit=101", {}, 400, "limit"),
    "an empty id in a fragment": (
        "GET",
        "/v1/fragments/next_best.txt?product_ids=" + "x" * 201,
        {},
        400,
        "product_ids",
    ),
    "POST a fragment": ("POST", "/v1/fragments/next_best.html", {}, 405, "use GET or HEAD"),
    "a link of nobody's": (
        "GET",
        "/r/gAAAAABmdGVzdA",
        {"headers": {"Accept": "application/json"}},
        404,
        "token",
    ),
    "a link of somebody's": ("GET", "/r/https:%2F%2Fevil.example", {}, 404, "/openapi.json"),
    "too many products": ("GET", "/v1/products?limit=1000", {}, 400, "limit"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_one_shape_and_names_the_thing(http: httpx.Client, name: str) -> None:
    method, path, arguments, status, names = ERRORS[name]
    response = http.request(method, path, **arguments)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = ErrorBody.model_validate_json(response.content)
    assert names in body.error
    assert "Traceback" not in response.text
    if status == 405:
        assert response.headers["allow"]


def test_a_large_body_is_refused_while_it_arrives(http: httpx.Client) -> None:
    endless = (b" " * 10_000 for _ in range(200))  # chunked: no length is announced
    assert http.post(LIST, content=endless, headers=JSON).status_code == 413


def test_each_fault_is_a_field(http: httpx.Client) -> None:
    body = http.post(LIST, json={"limit": "x", "nope": 1, "product_ids": [""]}).json()
    assert {fault["field"] for fault in body["fields"]} == {"limit", "nope", "product_ids.0"}


def test_a_list_whose_items_are_wrong_is_not_called_short_too(http: httpx.Client) -> None:
    rule = {"rule": "include", "attribute": "brand", "values": [{}]}
    body = http.post(LIST, json={"rules": [rule]}).json()
    assert [fault["field"] for fault in body["fields"]] == ["rules.0.include.values.0"]
    body = http.post(LIST, json={"rules": [rule | {"values": []}]}).json()
    assert [fault["field"] for fault in body["fields"]] == ["rules.0.include.values"]


def test_faults_are_counted_out(http: httpx.Client) -> None:
    assert len(http.post(LIST, json={str(n): n for n in range(999)}).json()["fields"]) == 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
def test_our_own_fault_keeps_what_was_sent_out_of_answer_and_log(caplog: pytest.LogCaptureFixture) -> None:
    from serving.service import explained

    with caplog.at_level(logging.ERROR):
        response = explained(KeyError(SECRET), {})
    assert response.status_code == 500
    assert ErrorBody.model_validate_json(bytes(response.body))
    assert "KeyError" in caplog.text
    assert SECRET not in caplog.text + bytes(response.body).decode()


def test_no_id_reaches_the_log(http: httpx.Client, server: Server) -> None:
    http.post(LIST, json={"customer_id": SECRET, "product_ids": [SECRET]})
    http.post(LIST, json={"customer_id": SECRET, SECRET: SECRET})
    http.get(MESSAGE, params={"customer_id": SECRET, "order_id": SECRET})
    http.get(f"/{SECRET}")
    http.post(
        EVENTS, json={"events": [{"event_id": SECRET, "event_type": SECRET, "occurred_at": SECRET}, SECRET]}
    )
    http.post(EVENTS, json={"events": [{**SEEN, "event_id": SECRET, "customer_id": SECRET}]})
    http.post(EVENTS, json={"events": [{**SEEN, "event_id": SECRET, "customer_id": "another"}]})
    assert SECRET not in server.log.read_text()


# --- events -------------------------------------------------------------------------------------------------


def test_events_are_stored_once_by_any_worker(http: httpx.Client, server: Server) -> None:
    name = uuid.uuid4().hex
    body = {"events": [{**SEEN, "event_id": name}, {**SEEN, "event_id": name, "product_id": "1"}]}
    first = http.post(EVENTS, json=body)
    assert (first.status_code, [e["status"] for e in first.json()["events"]]) == (
        207,
        ["accepted", "rejected"],
    )
    with ThreadPoolExecutor(8) as pool:  # a connection each, so that both workers get some
        again = list(pool.map(lambda _: httpx.post(server.url + EVENTS, json=body).json(), range(16)))
    assert {(a["accepted"], a["duplicate"], a["rejected"]) for a in again} == {(0, 1, 1)}


def asked(app: Any, path: str, body: Any) -> httpx.Response:
    """What an app in this process answers."""

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
        ) as client:
            return await client.post(path, json=body)

    return asyncio.run(post())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
def test_without_a_database_events_are_refused_and_the_rest_works(shop_home: Path) -> None:
    from serving.service import Edge, load

    edge = Edge()
    folder = Settings(home=shop_home).folder()
    edge.open(load(Settings(bundle=folder), None, folder))
    assert asked(edge, LIST, {}).status_code == 200
    refused = asked(edge, EVENTS, {"events": [{**SEEN, "event_id": "e1"}]})
    assert refused.status_code == 503
    assert "OSCLMS_DATABASE_URL" in ErrorBody.model_validate_json(refused.content).error


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_database_that_fails_is_told_without_what_was_sent(
    shop_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from serving.service import Edge, intake, load

    folder = Settings(home=shop_home).folder()
    settings = Settings(bundle=folder, database_url=SecretStr(f"sqlite:///{tmp_path}/store.db"))
    site = load(settings, intake(settings), folder)
    (edge := Edge()).open(site)
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("DROP TABLE events")
    failed = asked(edge, EVENTS, {"events": [{**SEEN, "event_id": SECRET}]})
    site.close()
    assert (failed.status_code, "send the same" in failed.text) == (503, True)
    assert "store.db cannot be used (OperationalError)" in caplog.text
    assert SECRET not in caplog.text + failed.text


# --- messages -----------------------------------------------------------------------------------------


def test_a_message_has_all_parts_and_its_lists(http: httpx.Client, sample: dict[str, Any]) -> None:
    message = http.get(MESSAGE, params={"customer_id": sample["customers"][0], "agreed": True}).json()
    assert message["subject"].startswith("Thank you for your order")
    assert message["recommendation_ids"] == [found["recommendation_id"] for found in message["lists"]]
    assert [found["placement"] for found in message["lists"]] == ["cross_sell", "next_best"]
    for found in message["lists"]:
        assert len(found["items"]) == 4
        assert all(" ".join(item["title"].split())[:100] in message["text"] for item in found["items"])


@pytest.mark.parametrize(
    ("accept", "query", "media_type"),
    [
        ("*/*", "", "application/json"),
        ("application/json", "", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "", "text/html; charset=utf-8"),
        ("text/plain", "", "text/plain; charset=utf-8"),
        ("", "", "application/json"),
        ("text/plain, text/html", "", "text/plain; charset=utf-8"),
        ("Text/HTML ; Q=0.3, text/plain;charset=utf-8;q=0.7", "", "text/plain; charset=utf-8"),
        ("text/html;q=0.9, application/json", "", "application/json"),
        ("text/html;q=0, */*", "", "application/json"),
        ("text/html;q=0", "", "application/json"),
        ("application/json;q=0, */*;q=0.1", "", "text/html; charset=utf-8"),
        ("text/*", "", "text/html; charset=utf-8"),
        ("text/html;q=much", "", "text/html; charset=utf-8"),
        ("*/*;q=0", "?part=html", "text/html; charset=utf-8"),
        ("application/json", "?part=html", "text/html; charset=utf-8"),
        ("text/html", "?part=text", "text/plain; charset=utf-8"),
    ],
)
def test_a_part_is_asked_for_by_name_or_by_type(
    http: httpx.Client, accept: str, query: str, media_type: str
) -> None:
    response = http.get(MESSAGE + query, headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert ("<!doctype html>" in response.text[:20]) == media_type.startswith("text/html")


@pytest.mark.parametrize("name", [CUSTOMER, ALIAS])
def test_a_customer_with_a_name_is_greeted_by_it(http: httpx.Client, name: str) -> None:
    message = http.get(MESSAGE, params={"customer_id": name, "agreed": "true"}).json()
    assert message["subject"] == "Thank you for your order, Zoë"
    assert "Thank you, Zoë!" in message["text"] and "Thank you, Zoë!" in message["html"]
    asked = {"customer_id": CUSTOMER, "agreed": "true"}
    assert message["lists"] == http.get(MESSAGE, params=asked).json()["lists"] != []
    assert re.search(r"your order from \d+ [A-Z][a-z]+ \d{4}", message["text"]), "as it is written in en-GB"


@pytest.mark.parametrize("query", [{}, {"customer_id": SECRET}, {"order_id": SECRET}])
def test_whoever_is_unknown_is_thanked_too(http: httpx.Client, query: dict[str, str]) -> None:
    message = http.get(MESSAGE, params=query).json()
    assert message["subject"] == "Thank you"
    assert [len(found["items"]) for found in message["lists"]] == ([] if "customer_id" in query else [4, 4])


def test_every_program_has_a_message_or_says_what_is_lacking(http: httpx.Client) -> None:
    for name in programs(None):
        answer = http.get(f"/v1/messages/{name}", params={"customer_id": CUSTOMER})
        assert answer.status_code in (200, 409), answer.text
        assert answer.json()["subject"] if answer.status_code == 200 else ": " in answer.json()["error"]


def test_a_message_tells_what_a_list_of_mails_shows(http: httpx.Client) -> None:
    message = http.get(MESSAGE, params={"customer_id": CUSTOMER}).json()
    assert message["preheader"] in html.unescape(message["html"])
    assert (message["language"], message["sms"]) == ("en", "")


# --- fragments, links, the widget ------------------------------------------------------------------------


FRAGMENT = "/v1/fragments/next_best"


@pytest.mark.parametrize(("part", "media"), [("html", "text/html"), ("txt", "text/plain")])
def test_a_fragment_is_the_list_of_the_page(http: httpx.Client, part: str, media: str) -> None:
    response = http.get(f"{FRAGMENT}.{part}", params={"customer_id": ALIAS, "limit": "3"})
    found = ask(http, "next_best", customer_id=CUSTOMER, limit=3)
    assert response.headers["content-type"] == f"{media}; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["osclms-recommendation-id"] == found.recommendation_id
    assert (response.headers["osclms-items"], response.headers["osclms-filled"]) == ("3", "0")
    places = [response.text.index(html.escape(" ".join(item.title.split()))) for item in found.items]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("locale", "price"), [("en-US", "${:.2f}"), ("en-CA", "US${:.2f}"), ("??", "${:.2f}")]
)
def test_a_fragment_is_asked_with_products_and_a_locale(
    http: httpx.Client, sample: dict[str, Any], locale: str, price: str
) -> None:
    ids = [product["product_id"] for product in sample["products"][:2]]
    response = http.get(
        "/v1/fragments/cross_sell.txt", params={"product_ids": ",".join(ids), "limit": "2", "locale": locale}
    )
    found = ask(http, "cross_sell", product_ids=ids, limit=2)
    assert response.headers["osclms-recommendation-id"] == found.recommendation_id
    assert f" - {price.format(found.items[0].price)}" in response.text


def test_a_link_that_leads_to_no_product_ends_in_the_shop(http: httpx.Client) -> None:
    response = http.get(f"/r/{token()}")
    assert (response.status_code, response.headers["location"]) == (302, SHOP_URL)
    assert (response.headers["cache-control"], response.content) == ("no-store", b"")


def test_a_link_follows_the_stock_in_every_worker(writable: httpx.Client) -> None:
    """What sells out after the mail was sent gives way to the next of its list, until it is back."""
    http = writable
    shown = [item.product_id for item in ask(http, "next_best", customer_id=CUSTOMER, limit=3).items]
    http.put("/v1/products", json={"products": [{"product_id": of, "url": f"/p/{of}"} for of in shown]})
    first, links, begun = shown[0], list[str](), time.monotonic()
    while not links and time.monotonic() < begun + 30:
        mail = http.get(f"{FRAGMENT}.html", params={"customer_id": CUSTOMER, "limit": "3"}).text
        links = re.findall(rf"{PUBLIC_URL}(/r/[^\"]+)", mail)
    link = links[0]

    def leads() -> set[str]:
        """Where it leads, asked over as many connections as meet every worker."""
        return {httpx.get(f"{http.base_url}{link}").headers["location"] for _ in range(12)}

    while len(there := leads()) > 1 or there == {SHOP_URL}:  # until every worker knows where the product is
        assert time.monotonic() < begun + 60
        time.sleep(0.2)
    for in_stock, moved in ((False, True), (True, False)):
        http.put("/v1/products", json={"products": [{"product_id": first, "in_stock": in_stock}]})
        deadline = time.monotonic() + 30
        while ((found := leads()) == there) == moved or len(found) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("origin", [None, "https://shop.example"])
def test_the_widget_may_be_loaded_by_any_page(http: httpx.Client, origin: str | None) -> None:
    """Without cookies, too, which browsers leave at home where the script is asked for by CORS."""
    response = http.get("/v1/widget.js", headers={"Origin": origin} if origin else {})
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert response.headers["cross-origin-resource-policy"] == "cross-origin"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in response.headers["cache-control"]


# --- what is around it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes(http: httpx.Client, path: str) -> None:
    assert http.get(path).status_code == 200


def counted(http: httpx.Client, labels: str) -> float:
    sample = re.search(rf"^osclms_requests_total{{{labels}}} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return float(sample[1]) if sample else 0.0


def test_requests_are_counted_over_all_workers(server: Server, http: httpx.Client) -> None:
    labels = 'placement="buy_again",route="recommend",status="405"'
    before, rounds = counted(http, labels), 40
    with ThreadPoolExecutor(8) as pool:  # a connection each, so that both workers get some
        list(pool.map(lambda _: httpx.get(server.url + "/v1/recommend/buy_again"), range(rounds)))
    assert {counted(http, labels) for _ in range(5)} == {before + rounds}


def test_labels_are_words_of_ours(http: httpx.Client) -> None:
    http.post(f"/v1/recommend/{SECRET}")
    http.get(f"/{SECRET}?customer_id={SECRET}")
    text = http.get("/metrics").text
    assert SECRET not in text
    assert {"none", *PLACEMENTS} >= set(re.findall(r'placement="([^"]*)"', text))
    assert "osclms_request_seconds_bucket{" in text
    assert 'osclms_model_info{version="' in text


def test_the_document_describes_the_wire(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    wanted = {
        ref.rsplit("/", 1)[1] for ref in re.findall(r'"#/components/schemas/[^"]+(?=")', json.dumps(document))
    }
    assert wanted <= set(schemas)
    assert {"RecommendRequest", "RecommendResponse", "MessageAnswer", "ErrorBody"} <= set(schemas)
    for path, methods in document["paths"].items():
        asked = path.format(placement="next_best", program="thank_you", token=token(), customer_id="nobody")
        for method, about in methods.items():
            status = str(http.request(method, asked).status_code)
            expected = set(about["responses"]) if path in OF_MESSAGES else {min(about["responses"])}
            assert status in expected, (path, method)


OF_MESSAGES = ("/u/{token}", "/rate/{token}", "/v1/vouchers/redeem")  # of which there are none here


def token() -> str:
    """Of a link to a product that nobody knows."""
    click = Click(recommendation_id="r", placement="next_best", product_id="no such", position=1)
    return Tokens([KEY]).seal(click, at=datetime.now(UTC))


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js"])
def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    response = http.get(path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"(src|href|url\(|@import|fetch\()[=\s\"'(]*(https?:)?//", response.text)
    assert "innerHTML" not in response.text


# --- settings and starting ---------------------------------------------------------------------------------


def test_settings_are_read_strictly() -> None:
    found = Settings.read(
        {"OSCLMS_HOME": "/shop", "OSCLMS_AS_OF": "2018-01-01", "PATH": "/bin", "OSCLMS_BUNDLE": ""}
    )
    assert found == Settings(home=Path("/shop"), as_of=datetime(2018, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "wrong",
    [
        {"AS_OF": "1514764800"},
        {"AS_OF": "tomorrow"},
        {"WORKERS": "0"},
        {"ASOF": "2018-01-01"},
        {"SECRET": SECRET},
        {"SHOP_URL": "javascript:x"},
        {"PUBLIC_URL": "https://go.example"},
    ],
)
def test_a_setting_that_is_not_understood_is_named(wrong: dict[str, str]) -> None:
    (name, text), *_ = wrong.items()
    with pytest.raises(SettingsError, match=f"OSCLMS_{name}.*known: OSCLMS_HOME") as refused:
        Settings.read({f"OSCLMS_{name}": text})
    assert SECRET not in str(refused.value)


def test_a_home_comes_before_a_bundle(shop_home: Path, tmp_path: Path) -> None:
    assert Settings(home=shop_home, bundle=tmp_path).folder().parent == shop_home / "bundles"
    assert Settings(bundle=tmp_path).folder() == tmp_path


def test_folders_mean_the_same_from_anywhere() -> None:
    assert Settings(home=Path("shop")).absolute() == {"OSCLMS_HOME": str(Path.cwd() / "shop")}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"home": "{empty}"}, "no champion yet"),
        ({"bundle": "{empty}/none"}, "OSCLMS_BUNDLE"),
        ({"bundle": "{empty}"}, "manifest.json"),
        ({"as_of": "yesterday"}, "OSCLMS_AS_OF"),
        ({"home": "{shop}", "database_url": "mysql://host/shop"}, "OSCLMS_DATABASE_URL names mysql"),
        ({"home": "{shop}", "as_of": "1990-01-01"}, "OSCLMS_AS_OF: 1990-01-01.* is before"),
    ],
)
def test_a_server_that_cannot_serve_says_why_and_ends(
    shop_home: Path, tmp_path: Path, settings: dict[str, str], says: str
) -> None:
    (empty := tmp_path / "empty").mkdir()
    given = {name: text.format(empty=empty, shop=shop_home) for name, text in settings.items()}
    with pytest.raises(RuntimeError, match=says) as ended:
        start("serving.service:Service", tmp_path, given)
    assert "Traceback" not in str(ended.value)


# --- the bento ---------------------------------------------------------------------------------------------


def test_a_bento_asks_for_what_the_project_serves_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    packages = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["python"]["packages"]
    assert sorted(packages) == sorted(project)


FRESH = """
import importlib.util, sys
trained = [name for name in ("implicit", "lightfm", "mlflow") if importlib.util.find_spec(name)]
sys.exit(f"a serving environment has {trained}" if trained else 0)
"""


@pytest.mark.long
def test_a_bento_serves_in_an_environment_of_its_own(shop_home: Path, tmp_path: Path) -> None:
    """Built with its bundle, installed from its own requirements, served with nothing of ours about."""
    environ = environment(tmp_path, {"home": str(shop_home)})
    tag = printed([sys.executable, "-m", "serving.build"], ROOT, environ)
    bento = tmp_path / "bentos" / tag.replace(":", "/")
    python = str(tmp_path / "venv" / "bin" / "python")
    printed(["uv", "venv", "--python", sys.executable, str(tmp_path / "venv")], tmp_path, environ)
    requirements = [
        "-r",
        str(bento / "env" / "python" / "requirements.txt"),
        "-c",
        str(ROOT / "constraints.txt"),
    ]
    printed(["uv", "pip", "install", "--python", python, *requirements], tmp_path, environ)
    printed([python, "-c", FRESH], tmp_path, environ)
    (tmp_path / "home").symlink_to(shop_home)
    for settings in ({}, {"home": "home"}):  # what it carries; another home, relative to where we stand
        server = start(str(bento), tmp_path, {"as_of": AS_OF, **settings}, cwd=tmp_path, python=python)
        try:
            with httpx.Client(base_url=server.url) as http:
                assert len(ask(http, "next_best", limit=5).items) == 5
                assert http.get(MESSAGE).status_code == 200
                assert http.get("/").status_code == 200
        finally:
            stop(server)


def printed(command: list[str], folder: Path, environ: dict[str, str]) -> str:
    """What a command prints; its complaint where it fails."""
    path = f"{Path(sys.executable).parent}:{environ['PATH']}"
    done = subprocess.run(command, cwd=folder, env={**environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
