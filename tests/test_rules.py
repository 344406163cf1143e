"""Rules over the catalogue: no list ever breaks one, and each does what it says on a shop of eight products."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import GROCER, GROCERIES, UNTIL

from features.catalog import Catalog
from features.interactions import DAY, Ids
from features.pairs import GAP
from features.schema import PRODUCTS
from serving.bundle import champion
from serving.engine import Engine
from serving.identities import Identities
from serving.live import Live
from serving.rules import Shelf
from serving.schemas import Recommendation, RecommendRequest
from serving.store import Store, address
from serving.wire import RequestError

MANY = settings(
    max_examples=120, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
MADE_OF = {"bread": ["wheat"], "rolls": ["wheat", "seeds"], "spelt": ["spelt", "seeds"], "milk": "cow"}
GOODS: dict[str, dict[str, Any]] = {
    name: {
        **about,
        "brand": "Own" if name in ("bread", "milk", "soap") else "Fine",
        "attributes": json.dumps({"of": MADE_OF[name], "organic": name == "spelt"})
        if name in MADE_OF
        else None,
    }
    for name, about in GROCER.items()
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny.bundle(tmp_path_factory.mktemp("rules") / "1", GROCERIES, GOODS))


def listed(
    engine: Engine, *rules: dict[str, Any], placement: str = "next_best", at: datetime = UNTIL, **asked: Any
) -> tuple[Recommendation, ...]:
    request = RecommendRequest.model_validate({"customer_id": "anna", "limit": 8, "rules": rules, **asked})
    return engine.recommend(placement, request, at=at).items


def names(items: tuple[Recommendation, ...]) -> set[str]:
    return {item.product_id for item in items}


@pytest.mark.parametrize(
    ("attribute", "values", "inside"),
    [
        ("brand", ["Own"], {"bread", "milk", "soap"}),
        ("category", ["food"], {"bread", "rolls", "spelt", "gold", "butter", "milk"}),
        ("category", ["food > dairy", "home > soap"], {"butter", "milk", "soap"}),
        ("category", ["foo"], set()),
        ("attributes.of", ["seeds"], {"rolls", "spelt"}),
        ("attributes.of", ["cow", "spelt"], {"milk", "spelt"}),
        ("attributes.organic", ["true"], {"spelt"}),
        ("brand", ["nobody's"], set()),
    ],
)
def test_include_and_exclude_divide_the_catalogue(
    shop: Engine, attribute: str, values: list[str], inside: set[str]
) -> None:
    about = {"attribute": attribute, "values": values}
    assert names(listed(shop, {"rule": "include", **about})) == inside
    assert names(listed(shop, {"rule": "exclude", **about})) == GOODS.keys() - inside


@pytest.mark.parametrize(
    ("rule", "asked", "inside"),
    [
        ({"least": 2, "most": 4}, {}, {"bread", "rolls", "butter"}),
        ({"most": 1}, {}, {"milk"}),
        (
            {"least": 1.5, "most": 2.5, "relative": True},
            {"product_ids": ["bread"]},
            {"rolls", "spelt", "butter"},
        ),
        ({"least": 1.5, "relative": True}, {}, set(GOODS)),
    ],
)
def test_a_price_band_is_in_money_or_by_what_is_asked_about(
    shop: Engine, rule: dict[str, Any], asked: dict[str, Any], inside: set[str]
) -> None:
    assert names(listed(shop, {"rule": "price", **rule}, **asked)) == inside


def test_what_was_bought_comes_again_as_its_category_allows(shop: Engine) -> None:
    """Anna: bread on days 0, 20 and 40; butter on 0 and 20; milk on 20 and 40; soap on 40. UNTIL is day 58.5."""
    never = {"rule": "repeat", "after": "never"}
    assert names(listed(shop, never)) == {"rolls", "spelt", "gold", "towel"}
    dairy = {**never, "attribute": "category", "values": ["food > dairy"]}
    assert names(listed(shop, dairy)) == GOODS.keys() - {"butter", "milk"}
    days = {"rule": "repeat", "after": 30}
    assert names(listed(shop, days)) == GOODS.keys() - {"bread", "milk", "soap"}
    assert names(listed(shop, days, at=UNTIL + timedelta(days=12))) == set(GOODS)
    due = {"rule": "repeat", "after": "due"}
    late = names(listed(shop, due))
    assert "butter" in late and not late & {"bread", "milk"}  # 38 days after 20; 18 days after 20
    assert {"bread", "milk"} <= names(listed(shop, due, at=UNTIL + timedelta(days=2)))


def test_two_orders_of_a_day_make_no_rhythm(tmp_path: Path) -> None:
    """What was bought twice within minutes is due when it is for others, not at once."""
    baskets = [*GROCERIES, ("finn", "f1", 50, "bread milk"), ("finn", "f2", 50.01, "bread")]
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, GOODS))
    due = {"rule": "repeat", "after": "due"}
    assert "bread" not in names(listed(engine, due, customer_id="finn"))
    evening = [
        *GROCERIES,
        ("finn", "f1", 50.49, "bread milk"),
        ("finn", "f2", 50.51, "bread"),
    ]  # over midnight
    assert "bread" not in names(
        listed(Engine(tiny.bundle(tmp_path / "2", evening, GOODS)), due, customer_id="finn")
    )
    assert "bread" in names(listed(engine, due, customer_id="finn", at=UNTIL + timedelta(days=200)))


def test_a_boost_moves_what_it_names(shop: Engine) -> None:
    plain = [item.product_id for item in listed(shop)]
    last = plain[-2]
    boosted = listed(shop, {"rule": "boost", "attribute": "attributes.of", "values": ["spelt"], "by": 100})
    assert plain[0] != "spelt" and boosted[0].product_id == "spelt"
    sunk = listed(shop, {"rule": "boost", "attribute": "brand", "values": ["Own"], "by": 0.001}, limit=3)
    assert last and all(GOODS[item.product_id]["brand"] == "Fine" for item in sunk)


def test_a_list_of_at_most_one_of_a_brand_is_as_long_as_there_are_brands(tmp_path: Path) -> None:
    """Also where hundreds of one brand sell better than all others."""
    goods: dict[str, dict[str, Any]] = {
        f"a{n:03}": {"title": f"A {n}", "brand": "A", "price": 1.0} for n in range(400)
    }
    goods |= {f"b{n}": {"title": f"B {n}", "brand": f"B{n}", "price": 1.0} for n in range(20)}
    baskets = [("anna", f"o{n}", n % 50, " ".join(list(goods)[n * 8 : n * 8 + 8])) for n in range(50)]
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, goods))
    rule = {"rule": "at_most", "attribute": "brand", "count": 1}
    for placement in ("trending", "next_best", "similar"):
        asked = RecommendRequest.model_validate({"product_ids": ["a000"], "limit": 21, "rules": [rule]})
        found = engine.recommend(placement, asked, at=tiny.UNTIL).items
        brands = [str(goods[item.product_id]["brand"]) for item in found]
        assert len(set(brands)) == len(brands) == 21, placement


def test_at_most_so_many_of_one_kind(shop: Engine) -> None:
    items = listed(shop, {"rule": "at_most", "attribute": "category", "count": 1})
    paths = [tuple(GOODS[item.product_id]["category"]) for item in items]
    assert len(items) == 4 and set(Counter(paths).values()) == {1}
    both = listed(
        shop, {"rule": "at_most", "attribute": "category", "count": 1},
        {"rule": "at_most", "attribute": "brand", "count": 1},
    )  # fmt: skip
    assert len(both) == 2
    roots = {"rule": "at_most", "attribute": "category", "level": 1}
    for count in (1, 2):
        items = listed(shop, {**roots, "count": count})
        found = Counter(GOODS[item.product_id]["category"][0] for item in items)
        assert found == {"food": count, "home": count}
    assert len(listed(shop, {**roots, "level": 9, "count": 1})) == 4
    items = listed(shop, {"rule": "at_most", "attribute": "attributes.of", "count": 1})
    found = Counter(part for item in items for part in HELD.get(item.product_id, ()))
    assert set(found.values()) == {1} and names(items) == GOODS.keys() - {
        "rolls"
    }  # of wheat, as bread, and of seeds


@pytest.mark.parametrize("explain", [False, True])
def test_places_are_reserved_and_given_back(shop: Engine, explain: bool) -> None:
    about = {"rule": "reserve", "attribute": "brand", "values": ["Fine"]}
    for share in (0.25, 0.5, 1.0):
        items = listed(shop, {**about, "share": share}, limit=4, explain=explain)
        fine = [item for item in items if GOODS[item.product_id]["brand"] == "Fine"]
        assert len(items) == len(names(items)) == 4 and len(fine) >= ceil(share * 4)
    rare = {"rule": "reserve", "attribute": "attributes.organic", "values": ["true"], "share": 0.5}
    items = listed(shop, rare, limit=6)
    assert len(items) == 6 and "spelt" in names(items)


def test_what_one_rule_reserved_another_leaves_there(tmp_path: Path) -> None:
    goods: dict[str, dict[str, Any]] = {
        f"p{n:02}": {"title": f"P {n}", "brand": "A" if n < 3 else "B" if n < 6 else f"X{n}", "price": 1.0}
        for n in range(30)
    }
    baskets = [("anna", f"o{n}", n, " ".join(list(goods)[6 + n % 20 : 10 + n % 20])) for n in range(40)]
    baskets += [("bert", f"p{n}", n, " ".join(list(goods)[n % 28 : n % 28 + 2])) for n in range(40)]
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, goods))
    two = [{"rule": "reserve", "attribute": "brand", "values": [brand], "share": 0.2} for brand in "AB"]
    for rules in (two, two[::-1]):
        asked = RecommendRequest.model_validate({"limit": 10, "rules": rules})
        found = engine.recommend("next_best", asked, at=tiny.UNTIL).items
        held = Counter(str(goods[item.product_id]["brand"]) for item in found)
        assert len(found) == 10 and min(held["A"], held["B"]) >= 2


@pytest.mark.parametrize("explain", [False, True])
def test_what_is_reserved_has_its_places_where_few_of_a_kind_may_be(tmp_path: Path, explain: bool) -> None:
    """The best sellers of the one category that the reserved are of would use up what may be of it."""
    goods: dict[str, dict[str, Any]] = {
        f"p{n:02}": {
            "title": f"P {n}", "brand": "Rare" if n in (8, 9) else f"B{n}", "price": 1.0,
            "category": ["food" if n < 10 else f"else {n % 4}"],
        }
        for n in range(20)
    }  # fmt: skip
    baskets = [("anna", f"o{n}", n, " ".join(list(goods)[: 20 - n])) for n in range(20)]
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, goods))
    rules = (
        {"rule": "at_most", "attribute": "category", "count": 3},
        {"rule": "reserve", "attribute": "brand", "values": ["Rare"], "share": 0.25},
    )
    for limit, least in ((4, 1), (8, 2), (12, 2)):
        items = listed(engine, *rules, limit=limit, explain=explain, customer_id="bert")
        held = Counter(str(goods[item.product_id]["category"]) for item in items)
        rare = sum(goods[item.product_id]["brand"] == "Rare" for item in items)
        assert (len(items), rare) == (limit, least) and max(held.values()) == 3
        plain = listed(engine, rules[0], limit=limit, customer_id="bert")
        assert items[0].product_id == plain[0].product_id


def test_what_is_reserved_stays_in_its_place_where_there_is_too_little_of_it(tmp_path: Path) -> None:
    goods: dict[str, dict[str, Any]] = {
        f"p{n:02}": {
            "title": f"P {n}",
            "brand": "Rare" if n < 2 else "B",
            "price": 1.0,
            "category": [f"c{n}"],
        }
        for n in range(20)
    }
    baskets = [("anna", f"o{n}", n, " ".join(list(goods)[: 20 - n])) for n in range(20)]
    engine = Engine(tiny.bundle(tmp_path / "1", baskets, goods))
    most = {"rule": "at_most", "attribute": "category", "count": 3}
    half = {"rule": "reserve", "attribute": "brand", "values": ["Rare"], "share": 0.5}
    ids = [[i.product_id for i in listed(engine, *r, customer_id="bert")] for r in ((most,), (most, half))]
    assert ids[0] == ids[1] and ids[0][:2] == ["p00", "p01"]


def test_a_list_is_filled_anew_for_few_rules_alone() -> None:
    about = {"rule": "reserve", "attribute": "brand", "values": ["Fine"], "share": 0.1}
    assert RecommendRequest.model_validate({"rules": [about] * 5}).rules
    with pytest.raises(ValidationError, match="more than 5 rules that reserve"):
        RecommendRequest.model_validate({"rules": [about] * 6})


def test_boosts_together_take_nothing_away(shop: Engine) -> None:
    boost = {"rule": "boost", "attribute": "brand", "values": ["Own"], "by": 1_000}
    items = listed(shop, *[boost] * 20)
    assert names(items) == set(GOODS) and GOODS[items[0].product_id]["brand"] == "Own"
    assert all(np.isfinite(item.score) for item in items)


def test_attributes_that_cannot_be_read_are_none() -> None:
    from serving.rules import read

    assert read('{"colour": "red"}') == {"colour": "red"} and read('{"colour": "red",}') == {}
    assert read('{"a":' + "[" * 100_000 + "]" * 100_000 + "}") == {}


def test_variety_spreads_a_list_over_what_is_alike(shop: Engine) -> None:
    first = listed(shop, limit=2)[0]
    for by in (0.0, 1.0):
        assert listed(shop, {"rule": "diverse", "by": by}, limit=2)[0].product_id == first.product_id
    assert [i.product_id for i in listed(shop, {"rule": "diverse", "by": 0.0})][:2] == [
        i.product_id for i in listed(shop)
    ][:2]
    items = shop.catalog.items.positions(
        [i.product_id for i in listed(shop, {"rule": "diverse", "by": 1.0}, limit=2)]
    )
    near = shop.vectors(np.arange(len(shop.catalog))) @ shop.vectors(items[:1])[0]
    candidates = shop.catalog.items.positions([i.product_id for i in listed(shop) if not i.filled])
    assert near[items[1]] == pytest.approx(near[candidates].min())


def test_what_each_rule_removed_is_told(shop: Engine) -> None:
    request = RecommendRequest.model_validate(
        {
            "customer_id": "anna", "product_ids": ["towel"], "explain": True, "limit": 8,
            "rules": [
                {"rule": "include", "attribute": "category", "values": ["food"]},
                {"rule": "exclude", "attribute": "brand", "values": ["Own"]},
            ],
        }
    )  # fmt: skip
    answer = shop.recommend("discover", request, at=UNTIL)
    assert answer.removed == {
        "unavailable": int((~shop.available).sum()),
        "asked about or excluded": 1, "not_owned": 4, "include category=food": 0, "exclude brand=Own": 0,
    }  # fmt: skip
    assert answer.fallback_share == sum(i.filled for i in answer.items) / len(answer.items)
    assert shop.recommend("discover", request.model_copy(update={"explain": False}), at=UNTIL).removed is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rule": "include", "attribute": "hue", "values": ["red"]}, "'hue'; known: brand, .*attributes.of"),
        ({"rule": "exclude", "attribute": "attributes.x", "values": ["red"]}, "no attribute 'attributes.x'"),
        ({"rule": "at_most", "attribute": "title", "count": 1}, "no attribute 'title'"),
    ],
)  # fmt: skip
def test_an_unknown_attribute_is_named(shop: Engine, rule: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        listed(shop, rule)


def test_attributes_take_the_room_of_what_is_said() -> None:
    """Not that of every product for every name, and the time likewise: it went by the square of the catalogue."""
    about = ({"sku": n, f"of {n % 500}": ["a", "b"], "none": []} for n in range(3_000))
    rows = [{"product_id": f"p{n:04}", "attributes": json.dumps(of)} for n, of in enumerate(about)]
    goods = pa.Table.from_pylist(rows, PRODUCTS.schema)
    shelf = Shelf(Catalog(Ids(np.array([row["product_id"].encode() for row in rows])), goods))
    tracemalloc.start()
    assert np.flatnonzero(shelf.where("attributes.of 7", ("b",))).tolist() == [7, 507, 1007, 1507, 2007, 2507]
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    labels = shelf.labels("attributes.of 7")
    place, codes = labels.of(np.array([507, 8, 7]))
    assert place.tolist() == [0, 0, 2, 2] and codes.tolist() == [0, 1, 0, 1]
    assert len(shelf.labels("attributes.none").items) == 0


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "hide"},
        {"rule": "include", "attribute": "brand"},
        {"rule": "boost", "attribute": "brand", "values": ["a"], "by": 0},
        {"rule": "include", "attribute": "brand", "values": ["a"], "share": 1},
        {"rule": "repeat", "after": 0},
        {"rule": "repeat", "after": "sometimes"},
        {"rule": "repeat", "after": "never", "attribute": "brand"},
        {"rule": "repeat", "after": "never", "values": ["a"]},
        {"rule": "price", "least": 3, "most": 2},
        {"rule": "reserve", "attribute": "brand", "values": ["a"], "share": 1.5},
        {"rule": "at_most", "attribute": "brand", "count": 0},
        {"rule": "at_most", "attribute": "category", "count": 1, "level": 0},
        {"rule": "at_most", "attribute": "category", "count": 1, "level": 21},
        {"rule": "at_most", "attribute": "brand", "count": 1, "level": 1},
        {"rule": "diverse", "by": 2},
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RecommendRequest.model_validate({"rules": [rule]})


# --- the law, on the real small shop -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shop_home: Path) -> Engine:
    return Engine.load(champion(shop_home))


def where(real: Engine, attribute: str) -> Any:
    column = real.catalog.table[attribute].to_pylist()
    values = sorted({v for v in column if v is not None})
    return column, values


@MANY
@given(data=st.data())
def test_no_list_ever_breaks_a_rule(real: Engine, data: st.DataObject) -> None:
    """Whatever is asked, of whom, where: filters hold for fills too, and a list is short only for want of products."""
    brands, some_brands = where(real, "brand")
    paths, some_paths = where(real, "category")
    few = st.lists(st.sampled_from(some_brands), min_size=1, max_size=5, unique=True)
    path = st.sampled_from(some_paths).map(lambda p: p.split(" > ")[0])
    rules = data.draw(
        st.lists(
            st.one_of(
                few.map(lambda v: {"rule": "exclude", "attribute": "brand", "values": v}),
                path.map(lambda v: {"rule": "include", "attribute": "category", "values": [v]}),
                st.floats(0.5, 20).map(lambda p: {"rule": "price", "most": p}),
                st.integers(1, 3).map(lambda n: {"rule": "at_most", "attribute": "brand", "count": n}),
                st.floats(0.5, 2).map(lambda p: {"rule": "price", "most": p, "relative": True}),
                st.just({"rule": "repeat", "after": "never"}),
                st.integers(1, 400).map(lambda n: {"rule": "repeat", "after": n}),
                few.map(lambda v: {"rule": "boost", "attribute": "brand", "values": v, "by": 3.0}),
                st.floats(0, 1).map(lambda by: {"rule": "diverse", "by": by}),
                few.map(lambda v: {"rule": "reserve", "attribute": "brand", "values": v, "share": 0.3}),
            ),
            max_size=4,
        )
    )  # fmt: skip
    customer = data.draw(st.sampled_from([None, *real.history.customers.at(np.arange(20))]))
    products = data.draw(st.lists(st.sampled_from(real.sample().products), max_size=3))
    limit = data.draw(st.integers(1, 12))
    placement = data.draw(st.sampled_from(sorted(real.placements)))
    request = RecommendRequest.model_validate(
        {
            "customer_id": customer,
            "product_ids": [p.product_id for p in products],
            "limit": limit,
            "rules": rules,
        }
    )
    items = real.recommend(placement, request, at=real.data_until).items
    found = real.catalog.items.positions([i.product_id for i in items])
    allowed = let_through(real, request, rules, brands, paths)
    assert len(set(found)) == len(found) <= limit and allowed[found].all()
    counts = [rule["count"] for rule in rules if rule["rule"] == "at_most"]
    held = Counter(brands[i] for i in found if brands[i] is not None)
    assert not counts or max(held.values(), default=0) <= min(counts)
    fits = len({brands[i] for i in np.flatnonzero(allowed)}) if counts else int(allowed.sum())
    assert len(found) >= min(limit, fits)
    for values, least, alone in reserved(rules, limit):
        there = real.recommend(
            placement,
            RecommendRequest.model_validate({**request.model_dump(mode="json"), "rules": alone}),
            at=real.data_until,
        ).items
        assert sum(brands[i] in values for i in found) >= min(least, len(there))


def let_through(
    real: Engine,
    request: RecommendRequest,
    rules: list[dict[str, Any]],
    brands: list[str | None],
    paths: list[str | None],
) -> Any:
    """What may be had and no filter bars: bool [items]."""
    allowed, end = np.asarray(real.available).copy(), real.data_until.timestamp()
    allowed[real.catalog.items.positions(request.product_ids)] = False
    for rule in rules:
        if rule["rule"] == "exclude":
            allowed &= ~np.isin(np.array([b or "" for b in brands]), rule["values"])
        if rule["rule"] == "include":
            allowed &= np.array([(p or "").split(" > ")[0] in rule["values"] for p in paths])
        if rule["rule"] == "price":
            asked = real.catalog.price[real.catalog.items.positions(request.product_ids)]
            unit = np.nanmax(asked, initial=-np.inf) if rule.get("relative") else 1.0
            if np.isfinite(unit):
                allowed &= real.catalog.price <= np.float32(rule["most"] * unit)
        if rule["rule"] == "repeat" and request.customer_id:
            rows = real.history.rows(real.position(request.customer_id))
            since = 0 if rule["after"] == "never" else end - rule["after"] * 86_400
            allowed[real.history.item[rows][real.history.at[rows] > since]] = False
    return allowed


def reserved(
    rules: list[dict[str, Any]], limit: int
) -> Iterator[tuple[list[str], int, list[dict[str, Any]]]]:
    """(brands, how many places are theirs, rules that let in these alone) of shares that fit into a list together."""
    others, promised = [rule for rule in rules if rule["rule"] != "reserve"], 0
    for rule in rules:
        if rule["rule"] == "reserve":
            least = ceil(rule["share"] * limit)
            promised += least
            if promised <= limit:
                yield (
                    rule["values"],
                    least,
                    [*others, {"rule": "include", "attribute": "brand", "values": rule["values"]}],
                )


# --- the same law, on the shop of eight products ---------------------------------------------------------------


BOUGHT: dict[str, dict[str, list[datetime]]] = {}  # by customer and product, when
for who, _, day, basket in GROCERIES:
    for name in basket.split() if who else ():
        BOUGHT.setdefault(who or "", {}).setdefault(name, []).append(tiny.FIRST + timedelta(days=day))
SENT_AT = UNTIL + timedelta(days=1)
HELD = {name: {*map(str, of if isinstance(of, list) else [of])} for name, of in MADE_OF.items()}


@pytest.fixture(scope="module")
def sending(shop: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same shop, which has sent every customer bread and milk."""
    with Store(address(tmp_path_factory.mktemp("sent"), None)) as store:
        about = {"at": SENT_AT, "channel": "sms", "placement": "trending", "received_at": SENT_AT}
        store.append(
            "sends", [{**about, "customer_id": who, "product_ids": ["bread", "milk"]} for who in BOUGHT]
        )
        live = Live(
            Store(store.url, hurry=True), shop.catalog, shop.history, until=UNTIL, identities=Identities({}),
            clock=lambda: SENT_AT,
        )  # fmt: skip
        yield Engine(shop.bundle, live=live)
        live.close()


ITS_RULES = st.lists(
    st.one_of(
        st.fixed_dictionaries({
            "rule": st.sampled_from(["include", "exclude"]), "attribute": st.just("attributes.of"),
            "values": st.lists(st.sampled_from(["wheat", "seeds", "spelt", "cow"]), min_size=1, max_size=2),
        }),
        st.just({"rule": "include", "attribute": "attributes.organic", "values": ["true"]}),
        st.just({"rule": "repeat", "after": "due"}),
        st.just({"rule": "repeat", "after": "due", "attribute": "category", "values": ["food > dairy"]}),
        st.integers(1, 2).map(lambda n: {"rule": "at_most", "attribute": "category", "level": 1, "count": n}),
        st.integers(1, 2).map(lambda n: {"rule": "at_most", "attribute": "attributes.of", "count": n}),
        st.integers(1, 30).map(lambda days: {"rule": "rotate", "days": days, "by": 0.001}),
        st.just({"rule": "boost", "attribute": "brand", "values": ["Own"], "by": 5.0}),
    ),
    max_size=4,
)  # fmt: skip


def comes(engine: Engine, who: str | None, name: str, rule: dict[str, Any], at: datetime) -> bool:
    """Whether a product may come by one rule, counted from what was written down."""
    if rule["rule"] in ("include", "exclude"):
        organic = {"true"} if name == "spelt" else set[str]()
        held = HELD.get(name, set()) if rule["attribute"] == "attributes.of" else organic
        return bool(held & set(rule["values"])) == (rule["rule"] == "include")
    times = BOUGHT.get(who or "", {}).get(name, []) if rule["rule"] == "repeat" else []
    if not times or ("values" in rule and GOODS[name]["category"] != ["food", "dairy"]):
        return True
    everybody = float(engine.pairs.facts[engine.catalog.items.position(name), GAP])
    own = (
        (times[-1] - times[0]).total_seconds() // max(len(times) - 1, 1)
        if len(times) > 1
        else everybody * DAY
    )
    return (at - times[-1]).total_seconds() >= own


@MANY
@given(data=st.data())
def test_no_list_ever_breaks_a_rule_over_the_shop_s_own_words(sending: Engine, data: st.DataObject) -> None:
    rules, who = data.draw(ITS_RULES), data.draw(st.sampled_from([None, "nobody", *BOUGHT]))
    at = UNTIL + timedelta(days=data.draw(st.integers(0, 60)))
    placement, limit = data.draw(st.sampled_from(sorted(sending.placements))), data.draw(st.integers(1, 8))
    products = data.draw(st.lists(st.sampled_from(sorted(GOODS)), max_size=2, unique=True))
    asked = {"customer_id": who, "product_ids": products, "limit": limit}
    items = listed(sending, *rules, placement=placement, at=at, **asked)
    allowed = {name for name in GOODS if all(comes(sending, who, name, rule, at) for rule in rules)} - {
        *products
    }
    assert len(names(items)) == len(items) and names(items) <= allowed
    limits = [rule for rule in rules if rule["rule"] == "at_most"]
    for rule in limits:
        assert max(there(rule, names(items)).values(), default=0) <= rule["count"]
    for left in allowed - names(items) if len(items) < limit else ():  # each would break one
        assert any(
            max(there(rule, {left, *names(items)}).values(), default=0) > rule["count"] for rule in limits
        )


def there(rule: dict[str, Any], products: set[str]) -> Counter[str]:
    """How many of these products have each value that a rule limits."""
    if rule["attribute"] == "category":
        return Counter(GOODS[name]["category"][0] for name in products)
    return Counter(part for name in products for part in HELD.get(name, ()))


@MANY
@given(data=st.data())
def test_what_was_sent_comes_after_all_else_that_the_same_sources_know(
    sending: Engine, data: st.DataObject
) -> None:
    who, days = data.draw(st.sampled_from(sorted(BOUGHT))), data.draw(st.integers(1, 30))
    placement = data.draw(st.sampled_from(sorted(sending.placements)))
    since = data.draw(st.integers(1, 40))
    rule = {"rule": "rotate", "days": days, "by": 0.001}
    at = SENT_AT + timedelta(days=since)
    plain = listed(sending, placement=placement, at=at, customer_id=who)
    turned = listed(sending, rule, placement=placement, at=at, customer_id=who)
    assert names(plain) == names(turned)
    own = [item for item in turned if not item.filled]
    sunk = [item.product_id in ("bread", "milk") for item in own]
    assert sunk == sorted(sunk) if since <= days else turned == plain
