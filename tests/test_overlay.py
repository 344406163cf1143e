"""The catalogue as it is now: what the store was told of products, laid over a bundle."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from tiny import GROCER, GROCERIES, UNTIL, bundle

from features.interactions import Ids, MoreIds
from serving.bundle import Bundle
from serving.engine import Engine
from serving.overlay import Follower, Overlay
from serving.placements import PLACEMENTS
from serving.rules import Include, Price
from serving.schemas import RecommendRequest
from serving.store import Store, StoreError

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
RYE: dict[str, Any] = {"title": "Rye bread", "category": ["food", "bread"], "price": 4.0}
CHANGES: dict[str, dict[str, Any]] = {
    "spelt": {"price": 2.5},
    "rolls": {"in_stock": False},
    "soap": {"title": "Olive soap", "url": "/soap", "brand": "Sud"},
    "rye": RYE,
    "apple": {
        "title": "Apple",
        "category": ["food", "apples"],
        "price": 0.5,
    },  # a need of its own, first by name
}


@pytest.fixture(scope="session")
def base(shared: Callable[[str, Callable[[Path], None]], Path]) -> Bundle:
    def make(folder: Path) -> None:
        bundle(folder, GROCERIES, GROCER)

    return Bundle.load(shared("grocer", make))


@pytest.fixture
def engine(base: Bundle) -> Engine:
    return Engine(base)


def told(engine: Engine, changes: Mapping[str, Mapping[str, Any]]) -> Engine:
    """The engine after these changes."""
    overlay = Overlay(engine.bundle)
    assert overlay.say({"product_id": name, **about} for name, about in changes.items())
    return engine.over(overlay.bundle(engine.bundle))


def listed(engine: Engine, placement: str, **asked: Any) -> list[str]:
    response = engine.recommend(placement, RecommendRequest(**{"limit": 20, **asked}), at=UNTIL)
    return [item.product_id for item in response.items]


def by_content(engine: Engine) -> Engine:
    """The engine where content alone says what is similar."""
    similar = PLACEMENTS["similar"]
    return Engine(engine.bundle, {"similar": replace(similar, sources=similar.sources[:1])})


def test_ids_that_come_later_stand_behind_and_keep_their_places() -> None:
    ids = MoreIds(Ids.of(["b", "a"]).values, {"z": 2, "c": 3})
    assert len(ids) == 4 and ids.at([0, 3, 1, 2]) == ["a", "c", "b", "z"]
    assert ids.positions(["z", "?", "b", "c"]).tolist() == [2, -1, 1, 3]
    assert MoreIds(Ids.of([]).values, {"z": 0}).at([0]) == ["z"]


def test_it_is_as_in_a_bundle_that_had_known_it(engine: Engine, tmp_path: Path) -> None:
    """Columns of the catalogue, and all that a ranker looks at, product by product."""
    goods = {name: {**GROCER.get(name, {}), **CHANGES.get(name, {})} for name in {**GROCER, **CHANGES}}
    fresh, now = Engine(bundle(tmp_path, GROCERIES, goods)), told(engine, CHANGES)
    names = sorted(goods)
    ours, theirs = (e.catalog.items.positions(names) for e in (now, fresh))
    columns = [of.catalog.table.take(at).to_pylist() for of, at in ((now, ours), (fresh, theirs))]
    assert columns[0] == columns[1]
    assert [now.catalog.needs[c] for c in now.catalog.need[ours]] == [
        fresh.catalog.needs[c] for c in fresh.catalog.need[theirs]
    ]
    for customer in (-1, *range(len(now.history.customers))):
        basket = ["soap", "milk"]
        mine, wanted = (
            e.pairs.of(customer, at, np.sort(e.catalog.items.positions(basket)))
            for e, at in ((now, ours), (fresh, theirs))
        )
        np.testing.assert_array_equal(mine, wanted)


def test_codes_of_needs_stay_as_they_were_learned(engine: Engine) -> None:
    now = told(engine, CHANGES)
    assert now.catalog.needs[: len(engine.catalog.needs)] == engine.catalog.needs
    for basket in (("milk",), ("soap", "butter")):
        before, after = (asked_needs(e, basket) for e in (engine, now))
        assert {n: after[n] for n in before} == before and after.keys() - before.keys() == {"food > apples"}
    assert not {"food > bread", "home > soap"} & asked_needs(now, ("rye", "soap")).keys()
    assert asked_needs(now, ("apple",)).keys() == asked_needs(engine, ()).keys()


def asked_needs(engine: Engine, basket: tuple[str, ...]) -> dict[str, float]:
    found = engine.needs("cross_sell", RecommendRequest(product_ids=basket), at=UNTIL)
    return {of.need: of.score for of in found.needs}


def test_a_new_product_is_found_by_what_it_is(engine: Engine) -> None:
    now, bread = told(engine, {"rye": RYE}), {"bread", "rolls", "spelt", "gold"}
    assert set(listed(by_content(now), "similar", product_ids=("spelt",), limit=4)) == {*bread, "rye"} - {
        "spelt"
    }
    assert set(listed(now, "similar", product_ids=("rye",), limit=4)) == bread
    asked = RecommendRequest(product_ids=("spelt",), limit=20, explain=True)
    parts = {
        i.product_id: i.parts or {} for i in now.recommend("similar", asked, at=UNTIL).items if not i.filled
    }
    others = [of["als:products"] for name, of in parts.items() if name != "rye"]
    assert parts["rye"]["als:products"] == pytest.approx(np.mean(others), abs=1e-5)  # which nobody knows yet
    new = now.recommend("new_arrivals", RecommendRequest(), at=UNTIL).items
    assert [(i.title, i.price, i.story, i.filled) for i in new if i.product_id == "rye"] == [
        ("Rye bread", 4.0, "Be the first to try it", False)
    ]
    assert "rye" in listed(now, "trending") and "rye" in listed(now, "discover", customer_id="anna")
    assert now.search("rye")[0].product_id == "rye"


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rules_hold_for_what_is_new(engine: Engine, placement: str) -> None:
    now = told(engine, {"rye": {**RYE, "brand": "Mill", "attributes": '{"stores": ["17"]}'}})
    for attribute, value in (("brand", "Mill"), ("attributes.stores", "17")):
        only = Include(rule="include", attribute=attribute, values=(value,))
        assert listed(now, placement, customer_id="anna", product_ids=("spelt",), rules=(only,)) == ["rye"]


def test_a_price_moves_into_its_band(engine: Engine) -> None:
    band = Price(rule="price", least=6.9, most=7.1)
    now = told(engine, {"butter": {"price": 7.0}, "towel": {"price": 1.0}})
    assert listed(engine, "trending", rules=(band,)) == ["towel"]
    assert listed(now, "trending", rules=(band,)) == ["butter"]


@pytest.mark.parametrize("column", ["in_stock", "eligible"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_is_off_sale_is_in_no_list_and_lists_stay_full(
    engine: Engine, placement: str, column: str
) -> None:
    asked = {"customer_id": "anna", "product_ids": ("soap",), "limit": 4}
    assert len(listed(engine, placement, **asked)) == 4
    now = told(engine, {name: {column: False} for name in ("bread", "milk")})
    found = listed(now, placement, **asked)
    assert len(found) == 4 and not {"bread", "milk"} & set(found)
    assert now.offered("bread") is None and engine.offered("bread") is not None


def test_the_engine_before_stays_as_it_was(engine: Engine) -> None:
    asked = RecommendRequest(customer_id="anna", product_ids=("spelt",), limit=20)
    before = [engine.recommend(name, asked, at=UNTIL) for name in PLACEMENTS]
    now = told(engine, CHANGES)
    assert [engine.recommend(name, asked, at=UNTIL) for name in PLACEMENTS] == before
    assert now.indexes["als"].members[now.catalog.items.positions(["rolls"])[0]] == False  # noqa: E712
    assert engine.indexes["als"].members[engine.catalog.items.positions(["rolls"])[0]] == True  # noqa: E712


def test_what_a_price_does_not_touch_is_shared(engine: Engine) -> None:
    [engine.recommend(name, RecommendRequest(), at=UNTIL) for name in PLACEMENTS]
    now = told(engine, {"spelt": {"price": 2.5}})
    assert now.models is engine.models and now.indexes["content"] is engine.indexes["content"]
    assert now.catalog.title is engine.catalog.title and now.links is engine.links
    assert now.product(int(now.catalog.items.positions(["spelt"])[0])).price == 2.5


def test_a_change_says_what_it_says_and_no_more(engine: Engine) -> None:
    overlay = Overlay(engine.bundle)
    assert overlay.say([{"product_id": "tea", "title": "Tea"}, {"product_id": "tea", "price": 3.0}])
    assert not overlay.say([{"product_id": "tea", "title": None, "price": 3.0}])
    now = engine.over(overlay.bundle(engine.bundle))
    assert overlay.say([{"product_id": "tea", "category": ["food", "bread"], "price": 2.0}])
    last = now.over(overlay.bundle(now.bundle))
    (tea,) = last.catalog.items.positions(["tea"])
    assert last.product(int(tea)).title == "Tea" and last.product(int(tea)).price == 2.0
    assert last.need(int(tea)) == "bread" and now.need(int(tea)) == "this category"
    assert not np.any(now.bundle.models["content"].arrays()["items"][tea])
    assert "tea" in listed(by_content(last), "similar", product_ids=("bread",), limit=4)


def test_a_product_back_in_stock_is_known_as_one_that_no_ranking_made_before_holds(base: Bundle) -> None:
    overlay = Overlay(base)
    overlay.say([{"product_id": "milk", "in_stock": False}])
    gone = Engine(overlay.bundle(base))  # a bundle made while there was no milk
    back = told(gone, {"milk": {"in_stock": True}})
    assert back.returned.tolist() == back.catalog.items.positions(["milk"]).tolist()
    assert not told(gone, {"soap": {"price": 9.0}}).returned.any()


# --- following the store ----------------------------------------------------------------------------------


@pytest.fixture
def store(url: sa.URL) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def put(store: Store, **changes: Mapping[str, Any]) -> None:
    store.append(
        "products", [{"product_id": name, **about, "received_at": NOW} for name, about in changes.items()]
    )


def test_a_follower_makes_an_engine_where_there_is_news_and_only_there(store: Store, engine: Engine) -> None:
    follower = Follower(engine.bundle, store, None)
    assert follower.look(engine) is None
    put(store, **CHANGES)
    store.append("identities", [{"alias": "card", "customer_id": "anna", "received_at": NOW}])
    now = follower.look(engine)
    assert now is not None and "rye" in listed(now, "similar", product_ids=("spelt",))
    assert follower.identities.aliases == {"card": "anna"}
    put(store, rye=RYE)  # nothing new in it
    assert follower.look(now) is None
    put(store, rye={"in_stock": False}, corn={"title": "Corn bread", "category": ["food", "bread"]})
    last = follower.look(now)
    assert last is not None
    found = listed(last, "similar", product_ids=("spelt",))
    assert "corn" in found and "rye" not in found
    assert last.catalog.items.positions(["rye"]) == now.catalog.items.positions(["rye"])


def test_what_was_read_before_the_database_went_away_is_not_lost(
    store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, changes, pages = Follower(engine.bundle, store, None), store.changes, list[int]()

    def away(*given: Any, **about: Any) -> Any:
        pages.append(1)
        if len(pages) > 1:
            raise StoreError("away")
        return changes(*given, **about)

    put(store, milk={"price": 5.0})
    in_use = follower.look(engine)
    assert in_use is not None and follower.look(in_use) is None
    for price in (6.0, 7.0):
        put(store, milk={"price": price})
        monkeypatch.setattr(store, "changes", away)
        with pytest.raises(StoreError):
            follower.look(in_use)
        monkeypatch.undo()
        pages.clear()
        made = follower.look(in_use)
        assert made is not None and made.catalog.price[made.catalog.items.position("milk")] == price
        in_use = made


def test_another_bundle_gets_what_it_does_not_know(store: Store, base: Bundle) -> None:
    """What its history had been told, a bundle knows; a product list loaded since may have said otherwise."""
    put(store, milk={"price": 5.0})
    mark = store.marks()["products"]
    put(store, rye=RYE)
    learned = base.manifest.model_copy(update={"marks": {store.id: {"products": list(mark)}}})
    engine = Engine(replace(base, manifest=learned))
    now = Follower(engine.bundle, store, None).look(engine)
    assert now is not None
    prices = {
        p.product_id: p.price
        for p in (now.product(int(i)) for i in now.catalog.items.positions(["milk", "rye"]))
    }
    assert prices == {"milk": 1.0, "rye": 4.0}
    elsewhere = base.manifest.model_copy(update={"marks": {"another": {"products": list(mark)}}})
    now = Follower(replace(base, manifest=elsewhere), store, None).look(Engine(base))
    assert now is not None and now.product(int(now.catalog.items.positions(["milk"])[0])).price == 5.0


def test_many_pages(store: Store, engine: Engine) -> None:
    put(store, **{f"n{n}": {"title": f"N{n}"} for n in range(50)})
    follower, pages = Follower(engine.bundle, store, None), 0
    while (found := store.changes(follower.after, 7, names=("products",))).rows:
        follower.take(found)
        pages += 1
    assert pages == 8 and len(follower.overlay.later) == 50
