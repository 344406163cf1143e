"""What is told of products and customers, over the wire and over both databases."""

import asyncio
import gc
import json
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from live import spelled
from pydantic import SecretStr
from running import Server, start, stop
from test_compact import put
from tiny import GROCER, GROCERIES, bundle

from features.history import History
from serving import metrics
from serving.challenge import Challenge
from serving.compact import compact
from serving.consents import consents_now
from serving.engine import Engine
from serving.live import Live
from serving.placements import PlacementsError
from serving.schemas import RecommendRequest
from serving.settings import Settings
from serving.store import Store, address
from serving.turns import Turns

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
ANNA = "/v1/customers/anna"
AGREED = {"channel": "email", "purpose": "marketing", "granted": True, "at": "2026-03-01T00:00:00Z"}


class Shop:
    """The service's routes in this process, over a bundle and a database."""

    def __init__(self, home: Path, url: sa.URL) -> None:
        from serving.service import Edge, intake, load

        settings = Settings(home=home, database_url=SecretStr(spelled(url)))
        self.edge, self.home = Edge(), home
        self.site = load(settings, intake(settings), home / "bundles" / "1")
        self.edge.open(self.site)

    def __call__(self, method: str, path: str, **about: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.edge)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.request(method, path, **about)

        return asyncio.run(asked())

    def catch_up(self) -> bool:
        assert self.edge.site
        site = self.edge.site.caught_up()
        self.edge.open(site or self.edge.site)
        return site is not None

    @property
    def store(self) -> Store:
        return self.site.store


@pytest.fixture(scope="session")
def grocer(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(home: Path) -> None:
        bundle(home / "bundles" / "1", GROCERIES, GROCER)

    return shared("grocer home", make)


@pytest.fixture
def shop(grocer: Path, tmp_path: Path, url: sa.URL) -> Iterator[Shop]:
    home = tmp_path / "shop"
    home.mkdir()
    (home / "bundles").symlink_to(grocer / "bundles")
    day = "2026-01-01T12:00:00Z"
    order = {"event_type": "order", "order_id": "o1", "quantity": 1, "unit_price": 2}
    for name, who in (("h1", "anna"), ("h2", "card"), ("h3", "bert")):
        put(
            History(home / "history"), "events",
            {"event_id": name, "customer_id": who, "product_id": "bread", "occurred_at": day, **order},
        )  # fmt: skip
    put(History(home / "history"), "identities", {"alias": "card", "customer_id": "anna"})
    put(
        History(home / "history"),
        "customers",
        {"customer_id": "anna", "first_name": "Anna", "region": "North"},
    )
    opened = Shop(home, url)
    yield opened
    opened.site.close()


def test_before_it_is_ready_every_placement_has_answered_customers_as_there_are(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.service import load

    asked, recommend = set[tuple[str, str | None]](), Engine.recommend

    def noted(engine: Engine, placement: str, request: RecommendRequest, **about: Any) -> Any:
        asked.add((placement, request.customer_id))
        return recommend(engine, placement, request, **about)

    monkeypatch.setattr(Engine, "recommend", noted)
    site = load(Settings(home=shop.home), shop.site.intake, shop.home / "bundles" / "1")
    customers = site.engine.sample().customers
    site.drop()
    assert len(customers) > 1
    assert asked >= {(placement, who) for placement in site.engine.placements for who in customers}


def test_who_answers_next_knows_what_lists_take(shop: Shop) -> None:
    shop.site.turns.took(0.001)
    site = copy(shop.site)
    site.turns = Turns()
    shop.edge.open(site)
    assert site.turns is shop.site.turns


# --- products ---------------------------------------------------------------------------------------------


def test_a_challenger_that_cannot_follow_the_catalogue_stops_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from serving.service import load

    rival = load(Settings(home=shop.home), shop.site.intake, shop.home / "bundles" / "1")
    request.addfinalizer(rival.drop)
    drawn = Challenge(version="2", champion="1", share=0.5, seed=1, since=datetime(2026, 1, 1, tzinfo=UTC))
    shop.edge.open(shop.site.beside(drawn, rival))
    names = [f"c{n}" for n in range(20)]
    assert 0 < sum(map(drawn.draws, names)) < len(names)

    def prices() -> set[tuple[bool, float]]:
        lists = [shop("POST", "/v1/recommend/trending", json={"customer_id": name}).json() for name in names]
        return {
            (drawn.draws(name), item["price"])
            for name, found in zip(names, lists, strict=True)
            for item in found["items"]
            if item["product_id"] == "milk"
        }

    def said(price: float) -> None:
        milk = {"product_id": "milk", "price": price}
        assert shop("PUT", "/v1/products", json={"products": [milk]}).status_code == 200 and shop.catch_up()

    said(3.5)
    assert prices() == {(False, 3.5), (True, 3.5)}
    assert shop.edge.site and shop.edge.site.rival

    def away(engine: Engine) -> None:
        raise RuntimeError("household-4711")

    monkeypatch.setattr(shop.edge.site.rival[1].follower, "look", away)
    said(4.5)
    assert prices() == {(False, 4.5), (True, 3.5)}
    monkeypatch.undo()
    said(5.5)
    assert prices() == {(False, 5.5), (True, 5.5)}


def test_a_product_is_answered_by_what_became_of_it_and_is_in_the_next_lists(shop: Shop) -> None:
    rye = {"product_id": " rye ", "title": "Rye bread", "category": ["food", "bread"], "price": 4.0}
    wrong = [{"product_id": "x", "price": -1.0}, {"title": "no id"}, {"product_id": "y", "colour": "red"}, 7]
    answer = shop(
        "PUT", "/v1/products", json={"products": [rye, *wrong, {"product_id": "milk", "in_stock": False}]}
    )
    told = answer.json()
    assert (answer.status_code, told["accepted"], told["rejected"]) == (207, 2, 4)
    assert [line["status"] for line in told["products"]] == ["accepted", *["rejected"] * 4, "accepted"]
    said = ("price is below 0", "product_id", "colour", "product")
    assert all(word in line["error"] for word, line in zip(said, told["products"][1:], strict=False))
    assert shop.catch_up() and not shop.catch_up()
    found = shop("POST", "/v1/recommend/trending", json={"limit": 20}).json()["items"]
    assert {"rye"} == {i["product_id"] for i in found} - GROCER.keys()
    assert "milk" not in {i["product_id"] for i in found}
    assert shop("GET", "/v1/products?q=rye").json()["products"][0]["price"] == 4.0


def test_a_level_of_a_category_is_not_blank(shop: Shop) -> None:
    told = shop("PUT", "/v1/products", json={"products": [{"product_id": "x", "category": ["food", " "]}]})
    assert told.json()["products"][0]["error"] == "category.1: is blank" and not shop.catch_up()


def test_one_product_or_customer_may_come_alone(shop: Shop) -> None:
    assert shop("PUT", "/v1/products", json={"product_id": "milk", "price": 9.5}).json()["accepted"] == 1
    assert shop("PUT", "/v1/customers", json={"customer_id": "anna", "region": "x"}).json()["accepted"] == 1
    assert shop("PUT", "/v1/products", json={"price": 9.5}).status_code == 400


def test_products_as_lines_and_twice(shop: Shop) -> None:
    lines = "\n".join(
        map(json.dumps, ({"product_id": "milk", "price": 9.5, "attributes": {"stores": ["17"]}}, 7))
    )
    for expected in (True, False):
        answer = shop("PUT", "/v1/products", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert (answer.status_code, answer.json()["accepted"]) == (207, 1)
        assert shop.catch_up() is expected
    only = {"rule": "include", "attribute": "attributes.stores", "values": ["17"]}
    found = shop("POST", "/v1/recommend/trending", json={"rules": [only]}).json()["items"]
    assert [(i["product_id"], i["price"]) for i in found] == [("milk", 9.5)]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_catalogue_that_was_replaced_is_freed_without_the_collector(shop: Shop) -> None:
    """A worker's collector rests, so that what held itself would stay for ever."""
    only = {"rule": "include", "attribute": "category", "values": ["food"]}
    former = []
    for price in (2.0, 3.0, 4.0):
        shop("PUT", "/v1/products", json={"products": [{"product_id": "milk", "price": price}]})
        assert shop.catch_up() and shop.edge.site
        assert shop("POST", "/v1/recommend/similar", json={"rules": [only]}).status_code == 200
        former.append(weakref.ref(shop.edge.site.engine))
        gc.disable()
    try:
        assert [engine() is None for engine in former] == [True, True, False]
    finally:
        gc.enable()


def test_nothing_is_stored_where_the_database_fails(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with shop.store._engine.connect() as db:
        for table in ("products", "customers", "identities"):
            db.exec_driver_sql(f"DROP TABLE {table}")
    body = {"products": [{"product_id": "household-4711-secret"}]}
    asked = (
        ("PUT", "/v1/products", body),
        ("PUT", ANNA, {"region": "x"}),
        ("GET", ANNA, None),
        ("DELETE", ANNA, None),
    )
    for method, path, given in asked:
        failed = shop(method, path, json=given)
        assert failed.status_code == 503 and "again" in failed.text, (method, path)
    assert shop.catch_up() is False and len(shop("POST", "/v1/recommend/trending").json()["items"]) == 8
    assert "4711" not in caplog.text and "anna" not in caplog.text


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_policy_may_name_what_products_have_by_now(shop: Shop, url: sa.URL) -> None:
    policy = 'rule = "include"\nattribute = "attributes.stores"\nvalues = ["17"]\n'
    (shop.home / "placements.toml").write_text(f"[next_best]\n[[next_best.policy]]\n{policy}")
    with pytest.raises(PlacementsError, match=r"line 4: next_best\.policy\.attribute.*'attributes\.stores'"):
        Shop(shop.home, url)
    milk = {"product_id": "milk", "attributes": {"stores": ["17", "31"]}}
    assert shop("PUT", "/v1/products", json=milk).json()["accepted"] == 1
    opened = Shop(shop.home, url)
    found = opened("POST", "/v1/recommend/next_best", json={"customer_id": "anna"}).json()["items"]
    assert [item["product_id"] for item in found] == ["milk"]
    assert shop("PUT", "/v1/products", json={**milk, "attributes": {}}).json()["accepted"] == 1
    assert opened.catch_up()
    left = opened("POST", "/v1/recommend/next_best", json={"customer_id": "anna"})
    assert (left.status_code, left.json()["items"]) == (200, [])
    opened.site.close()


def test_the_age_of_events_is_told_though_nobody_asks(shop: Shop) -> None:
    def seen() -> float:
        return metrics.REGISTRY.get_sample_value("osclms_event_lag_seconds_count") or 0

    before = seen()
    view = {"event_id": "v1", "event_type": "view", "customer_id": "bert", "product_id": "milk"}
    told = shop("POST", "/v1/events", json={**view, "occurred_at": datetime.now(UTC).isoformat()})
    assert told.json()["accepted"] == 1 and seen() == before
    assert not shop.catch_up() and seen() == before + 1
    assert not shop.catch_up() and seen() == before + 1


def test_whatever_a_look_at_what_came_meets_it_is_counted_and_the_service_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failed() -> float:
        return metrics.REGISTRY.get_sample_value("osclms_catalogue_unread_total") or 0

    def fails(*_: Any) -> None:
        raise RuntimeError("household-4711-secret")

    before, site = failed(), shop.site
    assert site.follower and site.engine.live
    assert shop("PUT", "/v1/products", json={"product_id": "milk", "price": 9.5}).json()["accepted"] == 1
    monkeypatch.setattr(Live, "refresh", fails)
    assert not shop.catch_up() and failed() == before + 1
    monkeypatch.undo()
    monkeypatch.setattr(site.follower, "look", fails)
    monkeypatch.setattr(Live, "look", lambda _: pytest.fail("it would wait, and hold up answers"))
    assert not shop.catch_up() and failed() == before + 2
    monkeypatch.undo()
    assert shop.catch_up() and not shop.catch_up()  # what was told meanwhile is not lost
    assert shop("GET", "/v1/products?q=milk").json()["products"][0]["price"] == 9.5


def every_worker(http: Callable[[], httpx.Response], holds: Callable[[Any], bool]) -> bool:
    """Whether in the end 20 answers in a row, each by a new connection and so by any worker, are as wanted."""
    deadline, row = time.monotonic() + 60, 0
    while row < 20 and time.monotonic() < deadline:
        answer = http()
        assert answer.status_code == 200
        row = row + 1 if holds(answer.json()) else 0
    return row == 20


def nothing_held(server: Server) -> bool:
    """Whether in the end no process of the server maps or holds a file of a bundle that is no more."""
    main, deadline = psutil.Process(server.process.pid), time.monotonic() + 60
    while time.monotonic() < deadline:
        processes = [Path(f"/proc/{p.pid}") for p in (main, *main.children(recursive=True))]
        maps = "".join((of / "maps").read_text() for of in processes)
        assert "/bundles/" in maps, "arrays are mapped"
        files = [str(fd.readlink()) for of in processes for fd in (of / "fd").iterdir() if fd.is_symlink()]
        if not any("bundles" in line and "(deleted)" in line for line in (*maps.splitlines(), *files)):
            return True
        time.sleep(0.2)
    return False


def test_every_worker_answers_with_it_and_goes_on_while_a_customer_is_removed(
    grocer: Path, tmp_path: Path
) -> None:
    from training.erase import finish

    home = Path(shutil.copytree(grocer, tmp_path / "home"))
    (home / "champion").write_text("1\n")
    (home / "history").mkdir()
    (tmp_path / "bentoml").mkdir()
    server = start("serving.service:Service", tmp_path / "bentoml", {"home": str(home), "workers": "2"})

    def asked(customer: str | None = None) -> httpx.Response:
        body = {"customer_id": customer, "limit": 20}
        return httpx.post(f"{server.url}/v1/recommend/trending", json=body, timeout=30)

    def ids(answer: Any) -> set[str]:
        return {item["product_id"] for item in answer["items"]}

    try:
        rye = {"product_id": "rye", "title": "Rye bread", "category": ["food", "bread"], "price": 4.0}
        change = {"products": [rye, {"product_id": "milk", "in_stock": False}]}
        assert httpx.put(f"{server.url}/v1/products", json=change).status_code == 200
        assert every_worker(asked, lambda answer: "rye" in ids(answer) and "milk" not in ids(answer))
        change = {
            "products": [{"product_id": "rye", "in_stock": False}, {"product_id": "milk", "in_stock": True}]
        }
        assert httpx.put(f"{server.url}/v1/products", json=change).status_code == 200
        assert every_worker(asked, lambda answer: "milk" in ids(answer) and "rye" not in ids(answer))
        assert httpx.delete(f"{server.url}/v1/customers/anna").status_code == 200
        with Store(address(home, None)) as store:
            assert finish(home, store, at=datetime.now(UTC)).bundles == 1
        assert nothing_held(server)
        assert every_worker(partial(asked, "bert"), lambda answer: "milk" in ids(answer))
        assert "anna" not in server.log.read_text()
    finally:
        stop(server)


def test_a_new_product_that_is_bought_and_a_new_name_are_in_the_next_answer(shop: Shop) -> None:
    """Live purchases by a live catalogue and a live alias."""
    rye = {"product_id": "rye", "title": "Rye bread", "category": ["food", "bread"], "price": 4.0}
    shop("PUT", "/v1/products", json={"products": [rye]})
    assert shop.catch_up()
    about = {"order_id": "o9", "quantity": 1, "unit_price": 4, "occurred_at": "2026-03-02T00:00:00Z"}
    order = {"event_id": "e9", "event_type": "order", "customer_id": "web-9", "product_id": "rye", **about}
    assert shop("POST", "/v1/events", json={"events": [order]}).json()["accepted"] == 1
    shop("PUT", ANNA, json={"identities": ["web-9"]})
    assert not shop.catch_up()
    for who in ("anna", "web-9"):
        new = shop("POST", "/v1/recommend/discover", json={"customer_id": who, "limit": 20}).json()["items"]
        assert [i["filled"] for i in new if i["product_id"] == "rye"] in ([], [True]), who
    assert shop("DELETE", ANNA).status_code == 200
    stranger, anna = (
        shop("POST", "/v1/recommend/next_best", json={"customer_id": who}).json()["items"]
        for who in ("nobody", "web-9")
    )
    assert stranger == anna


# --- customers --------------------------------------------------------------------------------------------


def test_a_customer_is_told_with_all_that_is_held(shop: Shop) -> None:
    body = {"email": "a@b.c", "attributes": {"pets": 2}, "identities": ["web-1"], "consents": [AGREED]}
    assert shop("PUT", ANNA, json=body).json() == {
        "customer_id": "anna", "facts": 2, "identities": 1, "consents": 1,
    }  # fmt: skip
    event = {
        "event_id": "e1",
        "event_type": "view",
        "customer_id": "web-1",
        "occurred_at": "2026-03-01T00:00:00Z",
    }
    shop("POST", "/v1/events", json={"events": [event]})
    at = datetime(2026, 3, 2, tzinfo=UTC)
    shop.store.append(
        "sends", [{"customer_id": "anna", "at": at, "product_ids": ["milk"], "received_at": at}]
    )
    for moved in (False, True):  # what lies in both is told once
        for name in ("anna", "card", "web-1"):
            told = shop("GET", f"/v1/customers/{name}").json()
            assert (told["customer_id"], told["identities"]) == ("anna", ["card", "web-1"])
            assert told["facts"] == {
                "first_name": "Anna", "region": "North", "email": "a@b.c", "attributes": '{"pets": 2}',
            }, moved  # fmt: skip
            assert [(o["order_id"], [of["event_id"] for of in o["lines"]]) for o in told["orders"]] == [
                ("o1", ["h1", "h2"])
            ]
            assert [e["event_id"] for e in told["events"]] == ["e1"]
            assert [s["product_ids"] for s in told["sends"]] == [["milk"]]
            assert [c["granted"] for c in told["consents"]] == [True]
        compact(History(shop.home / "history"), shop.store)
    assert shop("POST", "/v1/recommend/next_best", json={"customer_id": "web-1"}).status_code == 200


def test_a_visit_has_lists_of_its_own_and_no_letters(shop: Shop) -> None:
    view = {"event_id": "v1", "event_type": "view", "customer_id": "visit-4711", "product_id": "rolls"}
    shop("POST", "/v1/events", json={"events": [{**view, "occurred_at": datetime.now(UTC).isoformat()}]})
    seen, bare = (
        shop("POST", "/v1/recommend/discover", json={"customer_id": who}).json()["items"]
        for who in ("visit-4711", "nobody")
    )
    assert {b["product_id"] for item in seen for b in item["because"]} == {"rolls"}
    assert not any(item["because"] for item in bare)
    told = shop("GET", "/v1/messages/win_back", params={"customer_id": "visit-4711"}).json()
    assert told.get("may_send", False) is False
    held = shop("GET", "/v1/customers/visit-4711").json()
    assert held["consents"] == [] and held["facts"] == {} and held["profile"]["stage"] == "prospect"


def test_a_list_is_explained_as_it_is_after_a_change_of_prices(shop: Shop) -> None:
    prices = [{"product_id": name, "price": 1.0 + n} for n, name in enumerate(GROCER)]
    assert shop("PUT", "/v1/products", json={"products": prices}).status_code == 200 and shop.catch_up()
    for who in ("anna", "bert", "nobody"):
        plain, told = (
            shop("POST", "/v1/recommend/next_best", json={"customer_id": who, "explain": e}).json()["items"]
            for e in (False, True)
        )
        assert [(i["product_id"], i["score"]) for i in told] == [(i["product_id"], i["score"]) for i in plain]
        assert plain and all(i["parts"] for i in told) and not any(i["parts"] for i in plain)


def test_a_fact_is_taken_back_by_null_under_every_id(shop: Shop) -> None:
    """What is blank says nothing. A time zone is one that there is."""
    shop("PUT", "/v1/customers/zoe", json={"region": "South", "phone": "2"})
    shop("PUT", ANNA, json={"region": "East", "email": "a@b.c", "identities": ["zoe"]})
    compact(History(shop.home / "history"), shop.store)
    many = {"customers": [{"customer_id": "zoe", "phone": None, "email": " "}]}
    assert shop("PUT", ANNA, json={"region": None}).status_code == 200
    assert shop("PUT", "/v1/customers", json=many).status_code == 200
    for _ in range(2):
        assert shop("GET", ANNA).json()["facts"] == {"first_name": "Anna", "email": "a@b.c"}
        compact(History(shop.home / "history"), shop.store)
    shop("PUT", ANNA, json={"region": "West", "time_zone": "Europe/Madrid"})
    assert shop("GET", ANNA).json()["facts"]["region"] == "West"
    wrong = shop("PUT", ANNA, json={"time_zone": "Mars/Base"})
    assert wrong.status_code == 400 and "time_zone is no IANA name" in wrong.json()["error"]


def test_many_customers_are_each_taken_whole_or_not_at_all(shop: Shop) -> None:
    shop("DELETE", "/v1/customers/bert")
    fine = {"customer_id": "card", "region": "East", "identities": ["web-1"], "consents": [AGREED]}
    wrong = (
        {"customer_id": "carl", "region": "x", "consents": [{**AGREED, "channel": "pigeon"}]},
        {"customer_id": "bert", "region": "x"},
        {"customer_id": "dora", "identities": ["bert"]},
        {"customer_id": " ", "region": "x"},
        {"region": "x"},
        7,
    )
    said = ("channel is not one of", "erased", "erased", "customer_id", "customer_id", "customer")
    for _ in range(2):  # again, which changes nothing
        answer = shop("PUT", "/v1/customers", json={"customers": [fine, *wrong, {"customer_id": "emil"}]})
        told = answer.json()
        assert (answer.status_code, told["accepted"], told["rejected"]) == (207, 2, 6)
        lines = told["customers"]
        assert [line["status"] for line in lines] == ["accepted", *["rejected"] * 6, "accepted"]
        assert all(word in line["error"] for word, line in zip(said, lines[1:7], strict=True)), lines
        anna = shop("GET", ANNA).json()
        assert (anna["facts"]["region"], anna["identities"]) == ("East", ["card", "web-1"])
        assert [consent["granted"] for consent in anna["consent_records"]] == [True]
    assert shop("GET", "/v1/customers/carl").json()["facts"] == {}
    text = "\n".join(json.dumps({"customer_id": f"c{n}", "region": "West"}) for n in range(1_000))
    many = shop("PUT", "/v1/customers", content=text, headers={"Content-Type": "application/x-ndjson"})
    assert (many.status_code, many.json()["accepted"]) == (200, 1_000)
    more = shop(
        "PUT", "/v1/customers", content=text + "\n{}", headers={"Content-Type": "application/x-ndjson"}
    )
    assert more.status_code == 413
    assert shop("GET", "/v1/customers/c999").json()["facts"] == {"region": "West"}


def test_facts_are_the_customers_own_and_what_they_lack_those_of_other_ids(shop: Shop) -> None:
    """Of three customers who turn out to be one, some told in files and some live."""
    history = History(shop.home / "history")
    put(history, "customers", {"customer_id": "card", "first_name": "Ann", "locale": "de", "phone": "1"})
    shop(
        "PUT", "/v1/customers/zoe", json={"first_name": "Zoe", "locale": "fr", "phone": "2", "email": "z@b.c"}
    )
    shop("PUT", ANNA, json={"region": "South", "identities": ["zoe"]})
    wanted = {"first_name": "Anna", "region": "South", "locale": "de", "phone": "1", "email": "z@b.c"}
    for moved in (False, True):
        for name in ("anna", "card", "zoe"):
            assert shop("GET", f"/v1/customers/{name}").json()["facts"] == wanted, (name, moved)
        compact(history, shop.store)


def test_a_file_that_is_loaded_later_counts_over_what_came_in_live(shop: Shop) -> None:
    history = History(shop.home / "history")
    shop("PUT", "/v1/customers/zoe", json={"email": "old@b.c", "region": "South"})
    compact(history, shop.store)
    put(history, "customers", {"customer_id": "zoe", "email": "new@b.c"})
    assert shop("GET", "/v1/customers/zoe").json()["facts"]["email"] == "new@b.c"
    shop("PUT", "/v1/customers/zoe", json={"email": "newest@b.c"})
    assert shop("GET", "/v1/customers/zoe").json()["facts"]["email"] == "newest@b.c"


def test_the_latest_consent_counts_and_none_means_no(shop: Shop) -> None:
    later = {**AGREED, "granted": False, "at": "2026-03-02T00:00:00Z"}
    for consents in ([later], [AGREED], [{**AGREED, "channel": "sms", "at": None}]):
        assert shop("PUT", ANNA, json={"consents": consents}).status_code == 200
    told = shop("GET", ANNA).json()
    now = {(c["channel"], c["purpose"]): c["granted"] for c in told["consents"]}
    assert now == {("email", "marketing"): False, ("sms", "marketing"): True}
    assert [c["granted"] for c in told["consent_records"]] == [True, False, True]
    rows = len(shop.store.of("consents", ("anna",)))
    now_too = {**AGREED, "channel": "sms", "at": None}
    shop(
        "PUT", "/v1/customers/card", json={"consents": [AGREED, now_too, now_too]}
    )  # said again, by another id
    shop("PUT", "/v1/customers", json={"customers": [{"customer_id": "anna", "consents": [later, now_too]}]})
    assert len(shop.store.of("consents", ("anna",))) == rows
    for granted in (False, True):  # a change of mind is none of what was said before
        shop("PUT", ANNA, json={"consents": [{**now_too, "granted": granted}]})
    assert len(shop.store.of("consents", ("anna",))) == rows + 2
    assert shop("GET", "/v1/customers/nobody").json()["consents"] == [] and consents_now([]) == {}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"email": "nowhere"}, "email is no address"),
        ({"colour": "red"}, "colour"),
        ({"customer_id": "bert"}, "customer_id"),
        ({"consents": [{**AGREED, "channel": "pigeon"}]}, "channel is not one of"),
        ({"consents": [{**AGREED, "granted": 1}]}, "granted"),
        ({"consents": [{**AGREED, "at": "2999-01-01T00:00:00Z"}]}, "at is in the future"),
        ({"identities": ["x" * 201]}, "alias is longer than 200"),
        ({"identities": ["web/1", "  "]}, "identities.1: is blank"),
        ({"first_name": "A", "email": "a b", "identities": ["w"]}, "email"),
    ],
)
def test_what_is_wrong_is_refused_as_a_whole(shop: Shop, body: dict[str, Any], says: str) -> None:
    answer = shop("PUT", ANNA, json=body)
    assert answer.status_code == 400 and says in answer.json()["error"]
    assert not any(shop.store.marks().values()) or all(mark.seq == 0 for mark in shop.store.marks().values())


def test_who_is_erased_is_so_under_every_id(shop: Shop) -> None:
    shop("PUT", ANNA, json={"identities": ["web/1"], "consents": [AGREED]})
    assert shop("DELETE", "/v1/customers/web/1").json() == {"erased": 3}
    assert shop("DELETE", "/v1/customers/web%2F1").json() == {"erased": 3}  # again, which changes nothing
    ids = ("anna", "card", "web/1", "bert")
    assert shop.store.buried(ids) == {"anna", "card", "web/1"}
    event = {"event_type": "view", "occurred_at": "2026-03-01T00:00:00Z"}
    sent = [{**event, "event_id": f"e{n}", "customer_id": who} for n, who in enumerate(ids)]
    answer = shop("POST", "/v1/events", json={"events": [*sent, {**event, "event_id": "e9"}]}).json()
    assert [line["status"] for line in answer["events"]] == [*["rejected"] * 3, "accepted", "accepted"]
    assert answer["events"][0]["error"] == "the customer was erased"
    for path, body in ((ANNA, {"region": "x"}), ("/v1/customers/bert", {"identities": ["card"]})):
        assert shop("PUT", path, json=body).status_code == 410
    told = shop("GET", ANNA).json()
    assert not any(told[name] for name in told if name != "customer_id")
    assert shop("GET", "/v1/customers/bert").json()["orders"]


def test_nobody_is_erased_where_their_other_ids_are_not_known(shop: Shop, grocer: Path, url: sa.URL) -> None:
    """A bundle alone does not know that card is anna: she would be no stranger."""
    from serving.service import intake, load

    settings = Settings(bundle=grocer / "bundles" / "1", database_url=SecretStr(spelled(url)))
    shop.site.close()
    shop.site = load(settings, intake(settings), settings.folder())
    shop.edge.open(shop.site)
    for name in ("card", "anna"):
        answer = shop("DELETE", f"/v1/customers/{name}")
        assert answer.status_code == 409 and "OSCLMS_HOME" in answer.json()["error"]
    assert not shop.store.buried(("anna", "card"))


def test_an_id_that_is_none(shop: Shop) -> None:
    for path in ("/v1/customers/", f"/v1/customers/{'x' * 201}", "/v1/customers/a%00b"):
        assert shop("GET", path).status_code == 400
    assert shop("PATCH", ANNA).status_code == 405


def test_moments_are_the_services(shop: Shop) -> None:
    began = datetime.now(UTC)
    shop("PUT", ANNA, json={"consents": [{**AGREED, "at": None}]})
    at = datetime.fromisoformat(shop("GET", ANNA).json()["consents"][0]["at"])
    assert began <= at <= began + timedelta(minutes=5)
