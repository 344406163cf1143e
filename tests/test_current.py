"""What is asked beside the service is answered as the service answers: by the file, and by the command line."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from live import spelled
from test_compact import put
from test_people import Shop, grocer  # noqa: F401 - a fixture
from tiny import UNTIL

import osclms
from features.history import History
from serving.bulk import everybody, queries, write_lists
from serving.current import current
from serving.placements import PlacementsError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
LATER = UNTIL + timedelta(days=2)
RYE = {"product_id": "rye", "title": "Rye bread", "category": ["food", "bread"], "price": 4.0}
CHANGES = [{"product_id": "milk", "in_stock": False}, {"product_id": "bread", "price": 9.5}, RYE]
BOUGHT = {
    "event_id": "e1", "event_type": "order", "order_id": "o9", "customer_id": "anna", "product_id": "gold",
    "quantity": 3, "unit_price": 9, "occurred_at": (UNTIL + timedelta(days=1)).isoformat(),
}  # fmt: skip
ASKED = ("anna", "card", "bert", "carl", "dora", "emil", "web-1", "nobody")


@pytest.fixture
def home(grocer: Path, tmp_path: Path) -> Path:  # noqa: F811
    made = tmp_path / "shop"
    made.mkdir()
    (made / "bundles").symlink_to(grocer / "bundles")
    (made / "champion").write_text("1\n")
    put(History(made / "history"), "identities", {"alias": "card", "customer_id": "anna"})
    return made


@pytest.fixture
def shop(home: Path, url: Any) -> Iterator[Shop]:
    """A service that was told of products, of a purchase, that two customers are one, and to forget another."""
    opened = Shop(home, url)
    assert opened("PUT", "/v1/products", json={"products": CHANGES}).status_code == 200
    assert opened("POST", "/v1/events", json={"events": [BOUGHT]}).status_code == 200
    assert opened("PUT", "/v1/customers/emil", json={"identities": ["dora", "web-1"]}).status_code == 200
    assert opened("DELETE", "/v1/customers/carl").status_code == 200
    assert opened.catch_up()
    yield opened
    opened.site.close()


def test_a_policy_that_names_what_no_product_has_is_told(shop: Shop) -> None:
    (shop.home / "champion").write_text("1\n")
    policy = 'rule = "exclude"\nattribute = "attributes.stores"\nvalues = ["17"]\n'
    (shop.home / "placements.toml").write_text(f"[next_best]\n[[next_best.policy]]\n{policy}")
    url = spelled(shop.store.url)
    with pytest.raises(PlacementsError, match="line 4"), current(shop.home, url, clock=lambda: LATER):
        pass
    with pytest.raises(PlacementsError, match="line 4"), current(shop.home, None, clock=lambda: LATER):
        pass
    shop("PUT", "/v1/products", json={"product_id": "milk", "attributes": {"stores": ["17"]}})
    with current(shop.home, url, clock=lambda: LATER) as now:
        assert now.engine.shelf.where("attributes.stores", ("17",)).sum() == 1


def by_the_service(shop: Shop, placement: str, customer: str | None) -> list[tuple[Any, ...]]:
    asked = {"customer_id": customer, "product_ids": ["butter"], "limit": 5, "at": LATER.isoformat()}
    items = shop("POST", f"/v1/recommend/{placement}", json=asked).json()["items"]
    return [(i["product_id"], i["price"], i["score"], i["story"]) for i in items]


def lists(path: Path, key: str) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        found.setdefault(row[key], []).append(
            tuple(row[n] for n in ("product_id", "price", "score", "story"))
        )
    return found


def test_a_file_of_questions_is_answered_as_the_service_does(shop: Shop, home: Path, tmp_path: Path) -> None:
    questions, out = tmp_path / "q.ndjson", tmp_path / "a.ndjson"
    lines = [{"query_id": who, "customer_id": who, "product_ids": ["butter"]} for who in ASKED]
    questions.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shown = set[str]()
    with current(home, spelled(shop.store.url), clock=lambda: datetime.now(UTC)) as (engine, aliases):
        for placement in engine.placements:
            asked = queries(questions, 5, aliases)
            assert write_lists(engine, placement, asked, out, key="query_id", at=LATER) == len(ASKED)
            found = lists(out, "query_id")
            for who in ASKED:
                assert found.get(who, []) == by_the_service(shop, placement, who), (placement, who)
            shown |= {item[0] for of in found.values() for item in of}
    assert "rye" in shown and "milk" not in shown


def test_everybody_is_who_is_left_and_each_once(shop: Shop, home: Path) -> None:
    with current(home, spelled(shop.store.url), clock=lambda: datetime.now(UTC)) as (engine, aliases):
        assert [who for who, _ in everybody(engine, 3, aliases)] == ["anna", "bert", "emil"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_command_line_answers_as_the_service_does(
    shop: Shop, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ran(*words: str) -> str:
        where = ("--home", str(home), "--database-url", spelled(shop.store.url), "--as-of", LATER.isoformat())
        monkeypatch.setattr(sys, "argv", ["osclms", *words, *where])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            osclms.main()
        assert not ended.value.code
        return capfd.readouterr().out

    about = ("--product", "butter", "--limit", "5", "--json")
    for who in ("card", "web-1", "carl"):
        items = json.loads(ran("recommend", "next_best", "--customer", who, *about))["items"]
        told = [(i["product_id"], i["price"], i["score"], i["story"]) for i in items]
        assert told == by_the_service(shop, "next_best", who), who
    out = tmp_path / "lists.ndjson"
    ran("recommend", "next_best", "--all", "--limit", "5", "--out", str(out))
    assert set(lists(out, "customer_id")) == {"anna", "bert", "emil"}
    assert "Golden loaf" in ran("message", "thank_you", "--customer", "card", "--agreed")
