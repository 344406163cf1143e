"""Lists, from the real small shop and from shops of a few rows whose right answers are known."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.catalog import Catalog
from features.history import History
from serving.bundle import Bundle, champion
from serving.engine import Engine
from serving.fitted import NOTHING, top_k
from serving.index import ItemIndex
from serving.placements import PLACEMENTS, PRICE_STEP, STORIES
from serving.schemas import Recommendation, RecommendRequest, RecommendResponse
from serving.wire import MAX_LIMIT, RequestError
from training.models import Ease

STRANGER = "household-4711-secret"
BASKET = 60
MANY = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def engine(shop_home: Path) -> Engine:
    return Engine.load(champion(shop_home))


@pytest.fixture(scope="module")
def purchases(shop_home: Path) -> pd.DataFrame:
    """Paid order lines as the history holds them, without the engine's own reading: one row a line."""
    columns = ("customer_id", "product_id", "order_id", "occurred_at", "unit_price", "quantity")
    frame = History(shop_home / "history").events(types=("order",), columns=columns).to_pandas()
    for name in ("customer_id", "product_id", "order_id"):
        frame[name] = frame[name].astype(str)
    return frame[frame["unit_price"] > 0]


@pytest.fixture(scope="module")
def owned(purchases: pd.DataFrame) -> dict[str, set[str]]:
    return {str(c): set(products) for c, products in purchases.groupby("customer_id")["product_id"]}


def tried(engine: Engine, placement: str, **asked: object) -> tuple[Recommendation, ...]:
    request = RecommendRequest.model_validate(asked)
    return engine.recommend(placement, request, at=engine.data_until).items


def ids(items: tuple[Recommendation, ...]) -> list[str]:
    return [item.product_id for item in items]


def own(items: tuple[Recommendation, ...]) -> list[str]:
    return [item.product_id for item in items if not item.filled]


def need(engine: Engine, product: str) -> str | None:
    """What a product is bought for, None where the product or its need is unknown."""
    place = int(engine.catalog.items.positions([product])[0])
    path: str | None = engine.catalog.table["need"][place].as_py() if place >= 0 else None
    return path


def price(engine: Engine, product: str) -> float:
    place = int(engine.catalog.items.positions([product])[0])
    found: float | None = engine.catalog.table["price"][place].as_py()
    return float("nan") if found is None else found


def altered(engine: Engine, **columns: pa.Array) -> Engine:
    """The same engine over a catalogue with other columns."""
    table = engine.catalog.table
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return Engine(replace(engine.bundle, catalog=Catalog(engine.catalog.items, table)))


def laws_broken(
    engine: Engine, placement: str, asked: RecommendRequest, items: tuple[Recommendation, ...]
) -> Iterator[str]:
    """What every list of every placement promises."""
    row, found = PLACEMENTS[placement], ids(items)
    if len(set(found)) < len(found):
        yield "a product twice"
    if set(found) & {*asked.exclude, *asked.product_ids}:
        yield "a product excluded or asked about"
    if len(found) > (asked.limit or row.limit):
        yield "longer than asked"
    if not engine.available[engine.catalog.items.positions(found)].all():
        yield "a product that is not available"
    filled = [item.filled for item in items]
    if filled != sorted(filled):
        yield "an own item after a filled one"
    scores = [item.score for item in items if not item.filled]
    if scores != sorted(scores, reverse=True):
        yield "scores that rise"
    sources = {False: {s.model for s in row.sources}, True: {s.source.model for s in row.fill}}
    if any(item.source not in sources[item.filled] for item in items):
        yield "an item whose source is none of its part"
    for item in items:
        if not item.story.strip() or "{" in item.story or "}" in item.story or "None" in item.story:
            yield f"no story: {item.story!r}"
        if not all(b.title in item.story for b in item.because):
            yield f"a reason that the story does not tell: {item.story!r}"
    if asked.complements_only:
        barred = {need(engine, p) for p in asked.product_ids} - {None}
        if any(need(engine, p) in barred for p in found):
            yield "a product of the basket's categories"


def dearer(engine: Engine, asked: tuple[str, ...], product: str) -> bool:
    """Whether a product is a step up from one of those asked about: the same need, within the price step."""
    low, high = PRICE_STEP
    same = [a for a in asked if need(engine, a) is not None and need(engine, a) == need(engine, product)]
    ratios = [price(engine, product) / price(engine, a) for a in same]
    return any(low - 1e-6 <= ratio <= high + 1e-6 for ratio in ratios)


def promises_broken(
    engine: Engine, placement: str, asked: RecommendRequest, mine: list[str], had: set[str]
) -> Iterator[str]:
    """What a placement's own part promises beyond that."""
    if placement in ("upsell", "discover") and set(mine) & had:
        yield "something owned"
    if placement == "upsell" and not all(dearer(engine, asked.product_ids, p) for p in mine):
        yield "no step up"
    if placement == "buy_again" and not set(mine) <= had:
        yield "something never bought"


# --- every placement, everybody ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def regular(engine: Engine) -> str:
    return engine.sample().customers[0]


@pytest.fixture(scope="module")
def small_stock(engine: Engine) -> Engine:
    """The shop with the first popular products sold out."""
    stock = engine.catalog.table["in_stock"].to_numpy().copy()
    stock[engine.ordered("popular")[:30]] = False
    return altered(engine, in_stock=pa.array(stock))


@pytest.mark.parametrize("what", ["known", "unknown", "nothing", "sold out", "basket"])
@pytest.mark.parametrize("who", ["known", "unknown", "nobody"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_everyone_gets_a_full_list_with_its_reasons(
    engine: Engine,
    small_stock: Engine,
    regular: str,
    owned: Mapping[str, set[str]],
    placement: str,
    who: str,
    what: str,
) -> None:
    popular = engine.catalog.items.at(engine.ordered("popular")[:200])
    customer = {"known": regular, "unknown": STRANGER, "nobody": None}[who]
    basket = {
        "known": popular[40:41],
        "unknown": ["sku-404"],
        "nothing": [],
        "sold out": popular[:1],
        "basket": popular[40 : 40 + BASKET],
    }[what]
    asked = RecommendRequest(customer_id=customer, product_ids=tuple(basket), exclude=tuple(popular[100:103]))
    items = small_stock.recommend(placement, asked, at=engine.data_until).items
    assert len(items) == PLACEMENTS[placement].limit
    assert not list(laws_broken(small_stock, placement, asked, items))
    assert not list(promises_broken(engine, placement, asked, own(items), owned.get(customer or "", set())))


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("who", ["known", "unknown"])
def test_the_longest_list_is_as_long_as_asked(
    engine: Engine, regular: str, owned: Mapping[str, set[str]], placement: str, who: str
) -> None:
    asked = RecommendRequest(customer_id=regular if who == "known" else STRANGER, limit=MAX_LIMIT)
    items = engine.recommend(placement, asked, at=engine.data_until).items
    assert len(items) == MAX_LIMIT
    assert not list(laws_broken(engine, placement, asked, items))
    told = [item for item in items if item.story == STORIES["known"]]
    assert {item.product_id for item in told} <= owned.get(regular if who == "known" else "", set())


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 99])
def test_a_shorter_list_is_the_beginning_of_a_longer_one(engine: Engine, regular: str, limit: int) -> None:
    short = tried(engine, "next_best", customer_id=regular, limit=limit)
    assert ids(short) == ids(tried(engine, "next_best", customer_id=regular, limit=100))[:limit]


@pytest.mark.parametrize("limit", [1, 8, 20])
def test_a_list_like_a_product_begins_alike_however_long_it_is(engine: Engine, limit: int) -> None:
    products = engine.catalog.items.at(np.flatnonzero(engine.available)[::25])
    for product in products[:60]:
        whole = ids(tried(engine, "similar", product_ids=[product], limit=100))
        assert whole[:limit] == ids(tried(engine, "similar", product_ids=[product], limit=limit)), product


def questions(engine: Engine) -> st.SearchStrategy[RecommendRequest]:
    """Requests over a shop: customers and products known and unknown, popular and rare."""
    n = len(engine.catalog)
    popular = engine.ordered("popular")
    places = st.one_of(
        st.integers(0, n - 1), st.integers(0, 300).map(lambda k: int(popular[k % len(popular)]))
    )
    product = st.one_of(places.map(lambda p: engine.catalog.items.at([p])[0]), st.just("sku-404"))
    customer = st.integers(0, len(engine.history.customers) - 1).map(
        lambda c: engine.history.customers.at([c])[0]
    )
    return st.builds(
        RecommendRequest,
        customer_id=st.one_of(st.none(), st.just(STRANGER), customer),
        product_ids=st.lists(product, max_size=12).map(tuple),
        exclude=st.lists(product, max_size=12).map(tuple),
        limit=st.one_of(st.none(), st.integers(1, MAX_LIMIT)),
        complements_only=st.sampled_from([None, None, None, True, False]),
        explain=st.booleans(),
    )


@pytest.fixture(scope="module")
def asked_at_random(engine: Engine) -> st.SearchStrategy[RecommendRequest]:
    return questions(engine)


@MANY
@given(data=st.data())
def test_no_list_breaks_a_rule(
    engine: Engine,
    owned: Mapping[str, set[str]],
    asked_at_random: st.SearchStrategy[RecommendRequest],
    data: st.DataObject,
) -> None:
    asked, placement = data.draw(asked_at_random), data.draw(st.sampled_from(sorted(PLACEMENTS)))
    items = engine.recommend(placement, asked, at=engine.data_until).items
    assert len(items) == (asked.limit or PLACEMENTS[placement].limit)
    assert not list(laws_broken(engine, placement, asked, items))
    had = owned.get(asked.customer_id or "", set())
    assert not list(promises_broken(engine, placement, asked, own(items), had))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_many_are_answered_as_one_by_one(engine: Engine, placement: str) -> None:
    rng = np.random.default_rng(5)
    popular = engine.catalog.items.at(engine.ordered("popular")[:500])
    customers = engine.history.customers.at(rng.integers(len(engine.history.customers), size=50))
    asked = [
        RecommendRequest(
            customer_id=[customer, None, STRANGER][n % 3 if n % 4 == 0 else 0],
            product_ids=tuple(rng.choice(popular, n % 6, replace=False).tolist()),
            limit=int(rng.integers(1, 20)),
            explain=n % 2 == 0,
        )
        for n, customer in enumerate(customers)
    ]
    many = engine.recommend_many(placement, asked, at=engine.data_until)
    assert many == [engine.recommend(placement, request, at=engine.data_until) for request in asked]
    assert many[::-1] == engine.recommend_many(placement, asked[::-1], at=engine.data_until)
    for _ in range(2):  # told, then told once more
        assert many == [engine.recommend(placement, r, at=engine.data_until, remember=True) for r in asked]


def test_a_fresh_engine_answers_alike(engine: Engine, shop_home: Path, regular: str) -> None:
    again = Engine.load(champion(shop_home))
    for placement in PLACEMENTS:
        assert tried(again, placement, customer_id=regular) == tried(engine, placement, customer_id=regular)


# --- explaining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_parts_sum_to_the_score(engine: Engine, regular: str, placement: str) -> None:
    product = engine.catalog.items.at(engine.ordered("popular")[3:4])
    for item in tried(engine, placement, customer_id=regular, product_ids=product, explain=True):
        assert item.parts is not None
        assert sum(item.parts.values()) == pytest.approx(item.score, abs=5e-6)
        leader = max(item.parts, key=lambda name: item.parts[name] if item.parts else 0)
        assert leader.split(":")[0] == item.source or item.parts[leader] == 0
    assert all(item.parts is None for item in tried(engine, placement, customer_id=regular))


@pytest.mark.parametrize("placement", ["next_best", "discover", "cross_sell"])
def test_a_source_weighs_what_the_table_says(engine: Engine, regular: str, placement: str) -> None:
    """Without a ranker scores are scaled to 0..1 among the candidates before they are weighed."""
    product = engine.catalog.items.at(engine.ordered("popular")[3:4])
    plain = Engine(replace(engine.bundle, rankers={}))
    items = tried(plain, placement, customer_id=regular, product_ids=product, explain=True, limit=100)
    for source in PLACEMENTS[placement].sources:
        parts = [(i.parts or {})[f"{source.model}:{source.asks}"] for i in items if not i.filled]
        assert 0 <= min(parts) <= max(parts) <= source.weight + 1e-6
        assert max(parts) > 0.2 * source.weight


def test_counts_and_dates_in_stories_are_those_of_the_history(
    engine: Engine, purchases: pd.DataFrame
) -> None:
    """Recomputed from the raw lines: how many orders held the product, and the New York day of the last."""
    zone, seen = ZoneInfo("America/New_York"), {"regular": 0, "again": 0}
    opened = purchases.groupby("order_id")["occurred_at"].min()
    for customer in engine.sample().customers[:6]:
        lines = purchases[purchases["customer_id"] == customer]
        for item in tried(engine, "buy_again", customer_id=customer, limit=60):
            orders = lines[lines["product_id"] == item.product_id]["order_id"].unique()
            if item.filled:
                assert not len(orders)
            elif len(orders) >= 3:
                seen["regular"] += 1
                assert item.story == f"One of your favourites: bought {len(orders)} times"
            else:
                last = opened[orders].max().astimezone(zone)
                seen["again"] += 1
                assert item.story == f"Bought before, last on {last.day} {last:%B %Y}"
    assert min(seen.values()) > 10


@pytest.mark.parametrize("placement", ["cross_sell", "similar", "upsell"])
def test_the_reason_is_a_product_asked_about(engine: Engine, placement: str) -> None:
    basket = engine.catalog.items.at(engine.ordered("popular")[[3, 11, 30]])
    items = [i for i in tried(engine, placement, product_ids=basket, limit=20) if not i.filled]
    assert items
    assert all({b.product_id for b in item.because} <= set(basket) and item.because for item in items)


def test_the_reason_for_a_customer_is_a_product_they_bought(
    engine: Engine, owned: Mapping[str, set[str]]
) -> None:
    told = 0
    for customer in engine.sample().customers:
        for item in tried(engine, "discover", customer_id=customer):
            told += len(item.because)
            assert {b.product_id for b in item.because} <= owned[customer]
            assert item.source == "content" or item.story.startswith("Because you buy ") or not item.because
    assert told > 20


def test_every_story_can_be_told(engine: Engine) -> None:
    """A story is told somewhere, or nobody would see that it is wrong."""
    told: set[str] = set()
    patterns = {key: re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(text))) for key, text in STORIES.items()}
    product = engine.catalog.items.at(engine.ordered("popular")[3:5])
    customers = engine.history.customers.at(range(0, len(engine.history.customers), 30))
    asked = [(placement, STRANGER) for placement in PLACEMENTS]
    for placement, customer in [*asked, *((p, c) for p in PLACEMENTS for c in customers)]:
        for item in tried(engine, placement, customer_id=customer, product_ids=product, limit=100):
            told |= {key for key, pattern in patterns.items() if pattern.fullmatch(item.story)}
    assert told >= set(STORIES) - {"like_you", "known", "bought", "first"}


# --- moments, names, ids ----------------------------------------------------------------------------------


def test_a_moment_before_the_end_of_the_data_is_refused(engine: Engine) -> None:
    early = engine.data_until - timedelta(seconds=1)
    with pytest.raises(
        RequestError, match="ask for a later moment, or `osclms train --until` that one"
    ) as refused:
        engine.recommend("next_best", RecommendRequest(), at=early)
    assert (refused.value.field, refused.value.status) == ("at", 400)
    with pytest.raises(RequestError):
        engine.recommend("next_best", RecommendRequest(at=early), at=engine.data_until)
    assert engine.recommend("next_best", RecommendRequest(at=engine.data_until), at=early).items


def test_a_moment_in_another_zone_is_the_same_moment(engine: Engine) -> None:
    there = engine.data_until.astimezone(ZoneInfo("Asia/Tokyo"))
    here, away = (
        engine.recommend("trending", RecommendRequest(at=at), at=at) for at in (engine.data_until, there)
    )
    assert here == away


def test_an_unknown_placement_is_404_and_lists_the_known_ones(engine: Engine) -> None:
    with pytest.raises(RequestError, match=", ".join(PLACEMENTS)) as refused:
        engine.recommend("next_bets", RecommendRequest(), at=engine.data_until)
    assert (refused.value.field, refused.value.status) == ("placement", 404)


def test_an_id_is_of_the_question_and_its_moment(engine: Engine) -> None:
    def named(placement: str = "next_best", minutes: int = 0, **asked: object) -> str:
        at = engine.data_until + timedelta(minutes=minutes)
        return engine.recommend(placement, RecommendRequest.model_validate(asked), at=at).recommendation_id

    assert named(customer_id=STRANGER) == named(customer_id=STRANGER)
    others = [
        named(),
        named(minutes=1),
        named("discover"),
        named(customer_id=STRANGER),
        named(customer_id="household-4712-secret"),
        named(product_ids=["1"]),
        named(limit=3),
    ]
    assert len(set(others)) == len(others)
    assert all(re.fullmatch("[0-9a-f]{24}", name) for name in others)


def test_another_shops_ids_cannot_be_worked_out(tmp_path: Path) -> None:
    """The key is of the data: the same question to another history has another id."""
    made = tiny.bundle(tmp_path / "b", tiny.GROCERIES, tiny.GROCER)
    other = replace(made, manifest=made.manifest.model_copy(update={"fingerprint": "e" * 32}))
    asked = RecommendRequest(customer_id="anna")
    here, there = (Engine(b).recommend("trending", asked, at=tiny.UNTIL) for b in (made, other))
    assert here.items == there.items
    assert here.recommendation_id != there.recommendation_id


# --- stock and variants -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare_shelves(engine: Engine) -> Engine:
    """The shop with one product in twenty in stock."""
    kept = np.random.default_rng(11).random(len(engine.catalog)) < 0.05
    return altered(engine, in_stock=pa.array(kept))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_with_few_products_in_stock_lists_are_full(
    engine: Engine, bare_shelves: Engine, owned: Mapping[str, set[str]], placement: str
) -> None:
    popular = engine.catalog.items.at(engine.ordered("popular")[:10])
    for customer in (*engine.sample().customers, STRANGER, None):
        asked = RecommendRequest(customer_id=customer, product_ids=tuple(popular[:2]), limit=20)
        items = bare_shelves.recommend(placement, asked, at=engine.data_until).items
        assert len(items) == 20
        assert not list(laws_broken(bare_shelves, placement, asked, items))
        assert not list(
            promises_broken(engine, placement, asked, own(items), owned.get(customer or "", set()))
        )


def test_the_index_filters_before_it_takes_the_top(engine: Engine) -> None:
    """Of the 160 products nearest to the taste of who owns most, and of 500 excluded, hardly any may be listed:
    filtered afterwards, few would be left."""
    heavy = int(np.diff(engine.history.start).argmax())
    nearest = [index.of_customer(heavy, 300) for index in engine.indexes.values()]
    gone = engine.catalog.items.at(np.unique(np.concatenate(nearest))[:500])
    customer = engine.history.customers.at([heavy])[0]
    items = tried(engine, "discover", customer_id=customer, exclude=gone, limit=60)
    assert len(own(items)) == 60 and not set(ids(items)) & set(gone)


@pytest.fixture(scope="module")
def styled(engine: Engine) -> Engine:
    """The shop with every product of a need a variant of one style, for every second need."""
    table = engine.catalog.table["need"].to_pylist()
    groups = [path if path and len(path) % 2 else None for path in table]
    return altered(engine, group_id=pa.array(groups, pa.string()))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_of_a_style_one_variant_is_listed(engine: Engine, styled: Engine, placement: str) -> None:
    group, find = styled.catalog.group, styled.catalog.items.positions
    for customer in (*engine.sample().customers[:4], STRANGER):
        for basket in ([], engine.catalog.items.at(engine.ordered("popular")[:3])):
            items = tried(styled, placement, customer_id=customer, product_ids=basket, limit=50)
            assert len(items) == 50
            shown = group[find(ids(items))]
            shown = shown[shown >= 0]
            assert len(np.unique(shown)) == len(shown) > 0
            assert not np.isin(shown, group[find(basket)]).any()


def test_the_variant_shown_is_the_best_one(engine: Engine, styled: Engine) -> None:
    plain = ids(tried(engine, "trending", limit=80))
    groups = dict(
        zip(plain, styled.catalog.group[styled.catalog.items.positions(plain)].tolist(), strict=True)
    )
    first = [
        p for n, p in enumerate(plain) if groups[p] < 0 or groups[p] not in [groups[q] for q in plain[:n]]
    ]
    assert ids(tried(styled, "trending", limit=80))[: len(first)] == first


# --- placements on shops of a few rows --------------------------------------------------------------------


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """`corner(goods, baskets)`: an engine over a shop written by hand."""

    def made(goods: tiny.Goods = tiny.GROCER, baskets: tuple[tiny.Basket, ...] = tiny.GROCERIES) -> Engine:
        return Engine(tiny.bundle(tmp_path_factory.mktemp("corner") / "1", baskets, goods))

    return made


@pytest.fixture(scope="module")
def grocer(corner: Callable[..., Engine]) -> Engine:
    return corner()


ALL = " ".join(tiny.GROCER)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_who_bought_everything_gets_everything(corner: Callable[..., Engine], placement: str) -> None:
    engine = corner(tiny.GROCER, (*tiny.GROCERIES, ("omni", "99", 58, ALL)))
    asked = RecommendRequest(customer_id="omni")
    items = engine.recommend(placement, asked, at=tiny.UNTIL).items
    assert sorted(ids(items)) == sorted(tiny.GROCER)
    assert not list(laws_broken(engine, placement, asked, items))
    if placement in ("upsell", "discover"):
        assert not own(items)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("customer", ["anna", STRANGER, None])
@pytest.mark.parametrize("basket", [(), ("bread",), tiny.words(ALL)])
def test_a_tiny_catalogue_gives_what_it_has(
    corner: Callable[..., Engine], placement: str, customer: str | None, basket: tuple[str, ...]
) -> None:
    """One product was never bought: every list holds the others, and may hold it."""
    engine = tiny_with_unsold(corner)
    asked = RecommendRequest(customer_id=customer, product_ids=basket)
    items = engine.recommend(placement, asked, at=tiny.UNTIL).items
    assert set(tiny.GROCER) - set(basket) <= set(ids(items)) <= {*tiny.GROCER, "unsold"} - set(basket)
    assert not list(laws_broken(engine, placement, asked, items))


UNSOLD: dict[str, Engine] = {}


def tiny_with_unsold(corner: Callable[..., Engine]) -> Engine:
    goods = {**tiny.GROCER, "unsold": {"title": "Unsold loaf", "category": ["food", "bread"], "price": 4.0}}
    return UNSOLD.setdefault("engine", corner(goods)) if "engine" not in UNSOLD else UNSOLD["engine"]


def test_never_bought_is_never_told_as_bought(corner: Callable[..., Engine]) -> None:
    items = tried(tiny_with_unsold(corner), "next_best", customer_id="anna")
    stories = {item.product_id: item.story for item in items}
    assert stories["bread"] == "One of your favourites: bought 3 times"
    assert stories["butter"] == "Bought before, last on 21 January 2026"
    assert not re.search("bought|favourite", stories["unsold"], re.IGNORECASE)


def test_with_one_product_there_is_one(corner: Callable[..., Engine]) -> None:
    engine = corner({"tea": {"title": "Tea"}}, (("anna", "1", 0, "tea"), ("bert", "2", 3, "tea")))
    for placement in PLACEMENTS:
        for asked in ({}, {"customer_id": "anna"}, {"customer_id": STRANGER}):
            assert ids(tried(engine, placement, **asked)) == ["tea"]
            assert not tried(engine, placement, product_ids=["tea"], **asked)


def test_with_nothing_in_stock_lists_are_empty(grocer: Engine) -> None:
    empty = altered(grocer, in_stock=pa.array([False] * len(grocer.catalog)))
    for placement in PLACEMENTS:
        assert not tried(empty, placement, customer_id="anna", product_ids=["bread"])


def test_upsell_is_the_same_need_within_the_price_step_and_not_owned(grocer: Engine) -> None:
    """Bread is 2.00: rolls 1.5, spelt 2.5, gold 4.5 times as dear, and 4 is the most."""
    assert set(own(tried(grocer, "upsell", product_ids=["bread"]))) == {"rolls", "spelt"}
    assert own(tried(grocer, "upsell", product_ids=["bread"], customer_id="bert")) == ["spelt"]
    assert own(tried(grocer, "upsell", product_ids=["spelt"])) == ["gold"]  # rolls are cheaper
    assert not own(tried(grocer, "upsell", product_ids=["gold"]))
    stories = {i.product_id: i.story for i in tried(grocer, "upsell", product_ids=["bread"])}
    assert stories["rolls"] == "A step up from Bread"
    assert stories["gold"] == "Also chosen in bread"  # the fill: same need, beyond the step


@pytest.mark.parametrize(("cents", "within"), [(219, False), (221, True), (799, True), (801, False)])
def test_the_price_step_is_1_10_to_4(corner: Callable[..., Engine], cents: int, within: bool) -> None:
    goods = {**tiny.GROCER, "rolls": {**tiny.GROCER["rolls"], "price": cents / 100}}
    assert ("rolls" in own(tried(corner(goods), "upsell", product_ids=["bread"]))) is within


def test_cross_sell_bars_substitutes_but_not_pairs_of_one_need(corner: Callable[..., Engine]) -> None:
    """Ten baskets. Rum and cola lie together in four of four and five: 4 × 10 / (4 × 5) = 2, above chance.
    Rum and gin lie together in one, of four and four: 1 × 10 / (4 × 4) = 0.6, so gin is its substitute."""
    drinks = ["bar", "drinks"]
    goods: tiny.Goods = {
        "rum": {"title": "Rum", "category": drinks},
        "gin": {"title": "Gin", "category": drinks},
        "cola": {"title": "Cola", "category": drinks},
        "nuts": {"title": "Nuts", "category": ["bar", "snacks"]},
    }
    often = ["rum cola", "rum cola", "rum cola nuts", "rum gin cola", "gin cola"]
    held = [*often, "gin nuts", "gin nuts", "nuts", "nuts", "nuts"]
    baskets = tuple((f"c{n}", str(n), float(n), products) for n, products in enumerate(held))
    engine = corner(goods, baskets)
    items = tried(engine, "cross_sell", product_ids=["rum"])
    assert set(own(items)) == {"cola", "nuts"}
    assert [(i.product_id, i.filled) for i in items][-1] == ("gin", True)  # all else is in the list already
    only = tried(engine, "cross_sell", product_ids=["rum"], complements_only=True)
    assert ids(only) == ["nuts"]
    assert {i.story for i in items if not i.filled} == {"Goes with Rum"}


def test_complements_only_bars_every_need_of_the_basket(grocer: Engine) -> None:
    found = ids(tried(grocer, "cross_sell", product_ids=["bread", "milk"], complements_only=True))
    assert sorted(found) == ["soap", "towel"]
    assert sorted(ids(tried(grocer, "trending", product_ids=["soap"], complements_only=True))) == sorted(
        set(tiny.GROCER) - {"soap"}
    )


def test_discover_offers_what_was_never_bought_first(grocer: Engine) -> None:
    items = tried(grocer, "discover", customer_id="anna")
    assert set(own(items)) == {"rolls", "spelt", "gold", "towel"}
    assert [i.story for i in items if i.filled] == [STORIES["known"]] * 4


def test_new_arrivals_are_those_first_bought_lately(grocer: Engine) -> None:
    """The data spans 59 days: towel was first bought 9 days before its end, gold 7; the rest a month ago."""
    assert set(own(tried(grocer, "new_arrivals"))) == {"towel", "gold"}


def test_every_form_of_ease_is_served(
    grocer: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The grocer has fewer customers than products; above MOST_ROWS customers it is taken over some items."""

    def lists(engine: Engine) -> list[list[str]]:
        asked = [{"customer_id": c, "product_ids": ["rolls"]} for c in (None, "anna", "bert", "carl", "dora")]
        placements = ("next_best", "discover", "cross_sell", "upsell")
        return [ids(tried(engine, placement, **a)) for placement in placements for a in asked]

    expected = lists(grocer)
    with monkeypatch.context() as patched:
        patched.setattr(Ease, "by_customers", Ease.by_items)
        by_items = Engine(tiny.bundle(tmp_path / "items", tiny.GROCERIES, tiny.GROCER))
    assert lists(by_items) == expected
    monkeypatch.setattr("training.models.ease.MOST_ROWS", 4)
    of_some = Engine(tiny.bundle(tmp_path / "some", tiny.GROCERIES, tiny.GROCER))
    assert [len(found) for found in lists(of_some)] == [len(found) for found in expected]
    assert {e.models["ease"].kind for e in (grocer, by_items, of_some)} == {"candidates"}


def test_trending_counts_customers_of_the_last_14_days(grocer: Engine) -> None:
    """From day 45 on: bread carl, a stranger, emil; all else once; the once-bought by all time."""
    assert ids(tried(grocer, "trending"))[:1] == ["bread"]
    assert set(ids(tried(grocer, "trending"))[-1:]) <= {"towel", "gold", "spelt"}


def test_similar_to_a_product_without_purchases_is_for_its_need(engine: Engine) -> None:
    """It is known by its content alone: neighbours share its need."""
    bought = np.bincount(engine.history.item, minlength=len(engine.catalog)) > 0
    code = engine.catalog.need
    sizes = np.bincount(code[engine.available & (code >= 0)], minlength=len(engine.catalog.categories))
    fresh = np.flatnonzero(engine.available & ~bought & (code >= 0) & (sizes[code] >= 40))
    asked = np.random.default_rng(3).choice(fresh, 20, replace=False)
    shares = []
    for product in engine.catalog.items.at(asked):
        items = tried(engine, "similar", product_ids=[product])
        assert {item.source for item in items} == {"content"} and not any(item.filled for item in items)
        shares.append(np.mean([need(engine, i) == need(engine, product) for i in ids(items)]))
    assert np.mean(shares) > 0.7


# --- the index --------------------------------------------------------------------------------------------


def test_als_and_content_have_an_index(engine: Engine) -> None:
    assert set(engine.indexes) == {"als", "content"}
    for index in engine.indexes.values():
        assert index.by_score.ntotal == len(index.head) and index.by_angle.ntotal == len(index.rows)
        assert engine.available[index.rows].all()


def test_lists_come_by_way_of_the_index(
    engine: Engine, shop_home: Path, regular: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = engine.catalog.items.at(engine.ordered("popular")[3:4])
    row = engine.placements["discover"]
    assert row.sources[0].model == "als"

    def by_als(shop: Engine) -> int:
        ask = shop.ask(row, RecommendRequest(customer_id=regular))
        return len(shop.candidates(row.sources, shop.available, ask)[0][0])

    assert by_als(engine) and own(tried(engine, "similar", product_ids=product))

    def nothing(*_: object) -> NDArray[np.int64]:
        return NOTHING[0]

    monkeypatch.setattr(ItemIndex, "of_vector", nothing)
    monkeypatch.setattr(ItemIndex, "like_items", nothing)
    blind = Engine.load(champion(shop_home))
    assert not by_als(blind)
    assert not own(tried(blind, "similar", product_ids=product))


def test_what_the_index_proposes_is_what_the_model_scores_highest(engine: Engine) -> None:
    model = engine.bundle.models["als"].arrays()
    for customer in range(0, len(engine.history.customers), 25):
        exact = model["items"] @ model["customers"][customer] + model["bias"]
        members = np.isin(np.arange(len(exact)), engine.indexes["als"].head)
        found = engine.indexes["als"].of_customer(customer, 10)
        assert exact[found] == pytest.approx(exact[top_k(exact, 10, members)], rel=1e-4)


# --- orders, search, samples ------------------------------------------------------------------------------


def test_the_latest_order_of_a_customer(grocer: Engine) -> None:
    order = grocer.order("anna", None)
    assert order is not None
    assert (order.order_id, order.customer_id) == ("3", "anna")
    assert order.at == tiny.FIRST + timedelta(days=40)
    assert sorted(line.product.title for line in order.lines) == ["Bread", "Milk", "Soap"]
    assert [line.quantity for line in order.lines] == [1.0, 1.0, 1.0]


def test_a_named_order(grocer: Engine) -> None:
    mine = grocer.order("bert", "4")
    assert mine and mine.customer_id == "bert"


def test_an_order_id_alone_opens_no_customers_order(grocer: Engine) -> None:
    assert grocer.order(None, "4") is None
    assert grocer.order("nobody-we-know", "9") is None, "a guest's order is not anybody's"


@pytest.mark.parametrize(
    ("customer", "order"),
    [
        ("anna", "4"),
        ("anna", "404"),
        (STRANGER, "1"),
        (STRANGER, None),
        (None, None),
        (None, "404"),
        ("anna", "9"),
    ],
)
def test_an_order_of_somebody_else_is_unknown(
    grocer: Engine, customer: str | None, order: str | None
) -> None:
    assert grocer.order(customer, order) is None


def test_an_order_of_a_stranger_has_no_customer(grocer: Engine) -> None:
    order = grocer.order(None, "9")
    assert order is not None and order.customer_id is None
    assert sorted(line.product.product_id for line in order.lines) == ["bread", "butter", "soap"]


def test_the_latest_order_is_the_one_the_history_says(engine: Engine, purchases: pd.DataFrame) -> None:
    for customer in engine.sample().customers[:5]:
        lines = purchases[purchases["customer_id"] == customer]
        opened = lines.groupby("order_id")["occurred_at"].min()
        order = engine.order(customer, None)
        assert order is not None and opened[order.order_id] == opened.max()
        held = lines[lines["order_id"] == order.order_id].groupby("product_id")["quantity"].sum()
        sold = [p for p in held.index if engine.catalog.eligible[engine.catalog.items.positions([p])[0]]]
        assert {line.product.product_id: line.quantity for line in order.lines} == held[sold].to_dict()


def test_search_finds_every_word_in_any_order(grocer: Engine) -> None:
    assert [p.title for p in grocer.search("LOAF golden")] == ["Golden loaf"]
    assert {p.title for p in grocer.search("loaf")} == {"Spelt loaf", "Golden loaf"}
    assert not grocer.search("loaf soap")
    assert len(grocer.search("", most=3)) == 3


def test_search_leaves_out_what_cannot_be_had(grocer: Engine) -> None:
    stock = [name != b"gold" for name in grocer.catalog.items.values.tolist()]
    assert [p.title for p in altered(grocer, in_stock=pa.array(stock)).search("loaf")] == ["Spelt loaf"]


def test_search_puts_what_sells_best_first(engine: Engine) -> None:
    found = engine.catalog.items.positions([p.product_id for p in engine.search("milk")])
    bias = engine.bundle.models["popular"].arrays()["bias"][found]
    assert len(found) == 20 and (np.diff(bias) <= 0).all()


def test_a_sample_names_middling_customers_and_what_sells(engine: Engine, purchases: pd.DataFrame) -> None:
    sample = engine.sample(customers=5, products=7)
    assert len(set(sample.customers)) == 5 and len({p.product_id for p in sample.products}) == 7
    lines = purchases.groupby("customer_id").size()
    middle = lines[list(sample.customers)] / lines.median()
    assert middle.between(0.8, 1.25).all()
    assert [p.product_id for p in sample.products] == ids(tried(engine, "trending", limit=7))


def test_prices_are_in_the_stores_currency(grocer: Engine, engine: Engine) -> None:
    assert {i.currency for i in tried(grocer, "trending")} == {"EUR"}
    assert {i.currency for i in tried(engine, "trending")} == {"USD"}
    assert {i.product_id: i.price for i in tried(grocer, "trending")}["soap"] == 1.5


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("customer_id", [None, "anna"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_is_made_unchecked_would_pass_every_check(
    grocer: Engine, placement: str, customer_id: str | None, explain: bool
) -> None:
    asked = RecommendRequest(customer_id=customer_id, product_ids=("bread",), explain=explain)
    response = grocer.recommend(placement, asked, at=tiny.UNTIL)
    assert response.items and (response.model_version, response.placement) == ("1", placement)
    strict = RecommendResponse.model_validate_json(response.model_dump_json(), strict=True)
    assert strict == response and strict.model_fields_set == response.model_fields_set
    for item, checked in zip(response.items, strict.items, strict=True):
        assert repr(item) == repr(checked) and item.model_fields_set == checked.model_fields_set
        assert hash(item.model_copy(update={"parts": None})) == hash(
            checked.model_copy(update={"parts": None})
        )
        assert item.model_copy(update={"score": 2.0}).score == 2.0


def test_a_bundle_loaded_and_one_in_hand_answer_alike(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path / "1", tiny.GROCERIES, tiny.GROCER)
    for placement in PLACEMENTS:
        assert tried(Engine(made), placement, customer_id="anna") == tried(
            Engine(Bundle.load(tmp_path / "1")), placement, customer_id="anna"
        )


def test_popularity_is_told_as_it_is(corner: Callable[..., Engine]) -> None:
    """Sold lately, sold long ago, never sold: a full list, and three stories."""
    goods = {**tiny.GROCER, "relic": {"title": "Relic"}, "unsold": {"title": "Unsold"}}
    engine = corner(goods, (*tiny.GROCERIES, ("bert", "98", 1, "relic")))
    items = engine.recommend("trending", RecommendRequest(limit=10), at=tiny.UNTIL).items
    told = {item.product_id: item.story for item in items}
    assert len(told) == len(goods)
    assert told["bread"] == STORIES["popular"]
    assert told["relic"] == STORIES["bought"]
    assert told["unsold"] == STORIES["first"]
