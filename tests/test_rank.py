"""Rankers: learned from what the engine put forward, on what was then bought, and the same again."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray
from tiny import GROCER, GROCERIES, UNTIL

from features.interactions import seconds
from serving.bundle import BundleError
from serving.engine import Chosen, Engine
from serving.fitted import top_k
from serving.overlay import Overlay
from serving.placements import STORIES
from serving.ranker import (
    BEST,
    LEEWAY,
    NEEDS,
    Ranker,
    columns_for,
    columns_of,
    load_rankers,
    ranked_by,
    score_columns,
)
from serving.schemas import RecommendRequest
from training.evaluate import audit, lifted
from training.rank import LESSONS, RANKINGS, Ranking, examples, label_cutoffs, learn, save_examples
from training.split import AUDITS, Future, sampled

WINDOW: tuple[tiny.Basket, ...] = (
    ("anna", "20", 60, "bread soap rolls"), ("bert", "21", 65, "butter bread"), ("carl", "22", 70, "milk towel"),
    ("dora", "23", 75, "soap gold milk bread"),
)  # fmt: skip
PLAIN = Ranking(rounds=8, least=1, kept=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rank") / "1"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(tiny.bundle(folder, GROCERIES, GROCER))


@pytest.fixture(scope="module")
def later(engine: Engine) -> Future:
    return tiny.future(engine.bundle, [*GROCERIES, *WINDOW], GROCER)


def made_up(n: int = 400) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(3)
    x = rng.random((n, 4), dtype=np.float32)
    return x, x[:, 0] + 0.3 * rng.random(n) > 0.8


NAMES = ("customer.orders", "two", "three.relative", "four")


def test_a_ranker_finds_what_decides_and_comes_back_from_its_file(tmp_path: Path) -> None:
    x, y = made_up()
    ranker = PLAIN.fit(x, y, NAMES)
    found = ranker.probability(x)
    assert found[y].min() > np.median(found[~y])
    ranker.save(tmp_path, "next_best")
    loaded = load_rankers(tmp_path)["next_best"]
    assert (loaded.columns, loaded.kept) == (NAMES, 1.0)
    np.testing.assert_array_equal(loaded.probability(x), found)
    assert len(loaded.probability(x[:0])) == 0


def test_the_same_examples_give_the_same_trees(tmp_path: Path) -> None:
    x, y = made_up()
    for name in ("a", "b"):
        PLAIN.fit(x, y, NAMES).save(tmp_path, name)
    first, second = ((tmp_path / f"{name}.ranker.txt").read_bytes() for name in ("a", "b"))
    assert first == second


def test_wrong_answers_left_out_do_not_raise_the_odds() -> None:
    """With a fifth of the wrong answers kept, the mean probability is still the share of right ones."""
    rng = np.random.default_rng(5)
    x = rng.random((20_000, 4), dtype=np.float32)
    y = rng.random(20_000) < 0.1 + 0.2 * (x[:, 0] > 0.5)
    kept = y | (rng.random(len(y)) < 0.2)
    ranker = replace(PLAIN, kept=0.2, least=100, rounds=150).fit(x[kept], y[kept], NAMES)
    found = ranker.probability(x)
    for part in (x[:, 0] > 0.5, x[:, 0] <= 0.5):
        assert found[part].mean() == pytest.approx(y[part].mean(), rel=0.12)


def test_the_best_of_a_long_list_are_found_without_showing_every_tree_to_all() -> None:
    """They are as likely as the best by all trees, told exactly, and nothing cut short passes them."""
    x, y = made_up(3_000)
    ranker = replace(PLAIN, rounds=120, rate=0.06, leaves=15, least=20).fit(x, y, NAMES)
    exact, quick = ranker.probability(x), ranker.probability(x, 10)
    best = top_k(exact, 10)
    assert exact[top_k(quick, 10)].mean() == pytest.approx(exact[best].mean(), rel=0.01)
    sure = top_k(quick, 10 + LEEWAY)
    np.testing.assert_allclose(quick[sure], exact[sure], rtol=1e-6)
    assert np.delete(quick, sure).max() < quick[sure].min() and quick.min() >= 0
    np.testing.assert_array_equal(ranker.probability(x[:40], 10), exact[:40])


def test_scores_are_told_plainly_and_over_the_51st_best() -> None:
    scores = np.array([np.arange(60), np.zeros(60)], np.float32)
    found = score_columns(scores)
    assert found.shape == (60, 4)
    np.testing.assert_array_equal(found[:, 0], scores[0])
    np.testing.assert_allclose(found[:, 1], scores[0] / (60 - BEST))
    np.testing.assert_array_equal(found[:, 2:], 0)
    assert score_columns(scores[:, :0]).shape == (0, 4)


@dataclass(frozen=True)
class Watched(Ranker):
    """A ranker that keeps what it is shown and likes everything alike."""

    seen: list[NDArray[np.float32]] = field(default_factory=list)

    def probability(self, values: Any, best: int | None = None) -> NDArray[np.float32]:
        self.seen.append(values)
        return np.full(len(values), 0.5, np.float32)


@pytest.mark.parametrize("name", RANKINGS)
def test_examples_are_what_a_request_shows_the_ranker_value_for_value(
    engine: Engine, later: Future, name: str
) -> None:
    x, y = examples(engine, name, later, PLAIN)
    placement, aspect = ranked_by(name)
    lesson, watched = LESSONS[name], Watched(None, columns_for(name, engine.placements), 1.0)
    shop = lifted(Engine(replace(engine.bundle, rankers={name: watched})), placement, lesson.without)
    ask = shop.needs if aspect == NEEDS else shop.recommend
    shown = []
    for request in sampled(lesson.ask(engine.bundle, later), PLAIN.most, seed=PLAIN.seed).requests:
        watched.seen.clear()
        ask(placement, request, at=UNTIL)
        shown.append(watched.seen[0])
    assert x.shape == (len(y), len(watched.columns)) and x.dtype == np.float32 and y.any()
    np.testing.assert_array_equal(x, np.concatenate(shown))


def test_what_of_the_examples_was_right_by_hand(engine: Engine, later: Future) -> None:
    _, offers = examples(engine, "upsell.worth", later, PLAIN)
    assert offers[0]  # rolls lie beside anna's bread
    assert examples(engine, "cross_sell.needs", later, PLAIN)[1].sum() == 1  # dora's: the one basket of four
    row = engine.placements["next_best"]
    ask = engine.ask(row, RecommendRequest(customer_id="anna"))
    _, items, _ = engine.candidates(row.sources, engine.allowed(row.rules, ask, Chosen()), ask)
    bought = engine.catalog.items.positions(["bread", "soap", "rolls"])
    _, right = examples(engine, "next_best", later, PLAIN)
    np.testing.assert_array_equal(right[: len(items)], np.isin(items, bought))


def test_examples_know_nothing_of_what_follows_their_window(engine: Engine) -> None:
    beyond: tuple[tiny.Basket, ...] = (*WINDOW, ("anna", "30", 95, "gold towel milk"))
    end = UNTIL + timedelta(days=30)
    inside, more = (
        Future.of(
            engine.bundle, tiny.known([*GROCERIES, *rows], GROCER, UNTIL + timedelta(days=60)), UNTIL, end
        )
        for rows in (WINDOW, beyond)
    )
    for one, other in zip(
        examples(engine, "next_best", inside, PLAIN), examples(engine, "next_best", more, PLAIN), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_windows_lie_one_before_the_other_with_a_past_before_each() -> None:
    start = seconds(UNTIL - timedelta(days=100))
    found = label_cutoffs(start, UNTIL, 20, 9)
    assert found == [UNTIL - timedelta(days=20 * n) for n in (1, 2, 3)]
    assert label_cutoffs(start, UNTIL, 20, 2) == found[:2]
    assert label_cutoffs(seconds(UNTIL), UNTIL, 20, 4) == []


def test_too_few_right_answers_teach_nothing(engine: Engine, later: Future, tmp_path: Path) -> None:
    x, y = examples(engine, "next_best", later, PLAIN)
    save_examples(tmp_path / "x.npz", x, y)
    assert learn([tmp_path / "x.npz"], columns_of(engine.placements["next_best"]), PLAIN) is None


@pytest.fixture
def ranked(engine: Engine) -> Engine:
    """The engine with a ranker that wants what is cheap."""
    row = engine.placements["next_best"]
    names = columns_of(row)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (4_000, len(names))).astype(np.float32)
    y = x[:, names.index("item.price")] < 0
    ranker = replace(PLAIN, rounds=60).fit(x, y, names)
    return Engine(replace(engine.bundle, rankers={"next_best": ranker}))


def test_a_ranker_orders_the_list_and_its_score_is_a_probability(engine: Engine, ranked: Engine) -> None:
    asked = RecommendRequest(customer_id="anna", explain=True)
    items = ranked.recommend("next_best", asked, at=UNTIL).items
    own = [i for i in items if not i.filled]
    assert all(0 <= i.score <= 1 for i in own)
    assert [i.score for i in own] == sorted((i.score for i in own), reverse=True)
    plain = [i for i in engine.recommend("next_best", asked, at=UNTIL).items if not i.filled]
    assert {i.product_id for i in own} == {i.product_id for i in plain}
    assert [i.product_id for i in own] != [i.product_id for i in plain]


@pytest.fixture
def published(ranked: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engine with every customer's ranking made beforehand, of three items at most."""
    monkeypatch.setattr("serving.engine.PUBLISHED", 3)
    customers = range(len(ranked.history.customers))
    table = np.array([ranked.ranking("next_best", c) for c in customers])
    return Engine(replace(ranked.bundle, rankings={"next_best": table}))


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 1}, {"limit": 2}, {"limit": 3}, {"limit": 4}, {"limit": 2, "exclude": ["bread"]},
        {"limit": 2, "product_ids": ["milk"]}, {"limit": 5, "exclude": ["bread", "milk"]},
        {"limit": 2, "product_ids": ["milk"], "complements_only": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_ranking_made_beforehand_gives_the_list_that_would_be_made_now(
    ranked: Engine, published: Engine, asked: dict[str, Any], explain: bool
) -> None:
    """Whatever is excluded or explained; where too little of the ranking is left, the list is made now."""
    for customer in ("anna", "bert", "carl", "dora", "emil", "nobody", None):
        request = RecommendRequest(customer_id=customer, explain=explain, **asked)
        lists = [e.recommend("next_best", request, at=UNTIL).model_dump() for e in (ranked, published)]
        assert lists[0] == lists[1]


def test_a_ranking_made_beforehand_is_what_is_read(published: Engine) -> None:
    table = published.bundle.rankings["next_best"].copy()
    table["score"][:, 0], table["bought"]["times"] = 0.875, 77
    shop = Engine(replace(published.bundle, rankings={"next_best": table}))
    asked = RecommendRequest(customer_id="anna", limit=2)
    best, *_ = shop.recommend("next_best", asked, at=UNTIL).items
    assert (best.score, best.story) == (0.875, STORIES["regular"].format(times=77))


def test_a_list_is_explained_as_it_is_shown(published: Engine) -> None:
    """Prices by which the ranker would now order otherwise change neither the list nor what explains it."""
    overlay = Overlay(published.bundle)
    names = published.catalog.items.at(np.arange(len(published.catalog)))
    overlay.say({"product_id": name, "price": 1.0 + place} for place, name in enumerate(names))
    dearer = published.over(overlay.bundle(published.bundle))
    for customer in ("anna", "bert", "carl"):
        plain, told = (
            dearer.recommend(
                "next_best", RecommendRequest(customer_id=customer, limit=3, explain=e), at=UNTIL
            )
            for e in (False, True)
        )
        assert [(i.product_id, i.score) for i in told.items] == [(i.product_id, i.score) for i in plain.items]
        assert all(sum((i.parts or {}).values()) == pytest.approx(i.score, abs=5e-6) for i in told.items)
    anna, row = RecommendRequest(customer_id="anna", limit=3), dearer.placement("next_best")
    now = dearer.ranked_now(row, dearer.ask(row, anna)).scores[:3].tolist()
    assert now != pytest.approx(
        [i.score for i in dearer.recommend("next_best", anna, at=UNTIL).items], abs=1e-5
    )


def test_a_stranger_is_not_ranked_by_what_is_known_of_customers(engine: Engine, ranked: Engine) -> None:
    asked = RecommendRequest(customer_id="nobody")
    lists = [
        [i.product_id for i in e.recommend("next_best", asked, at=UNTIL).items] for e in (engine, ranked)
    ]
    assert lists[0] == lists[1]


def test_a_ranker_of_other_columns_is_refused(engine: Engine, ranked: Engine) -> None:
    wrong = replace(ranked.bundle.rankers["next_best"], columns=NAMES)
    bundle = replace(ranked.bundle, rankers={"next_best": wrong})
    with pytest.raises(BundleError, match=r"next_best looks at other columns.*retrain"):
        Engine(bundle)


def test_columns_are_named_once(engine: Engine) -> None:
    for row in engine.placements.values():
        names = columns_of(row)
        assert len(set(names)) == len(names)


def test_a_ranker_taught_customers_alone_leaves_strangers_to_the_weights(
    engine: Engine, ranked: Engine
) -> None:
    """And one that was taught strangers orders their lists, too."""
    row = ranked.placements["next_best"]
    ranker = ranked.rankers["next_best"]
    stranger = ranked.ask(row, RecommendRequest())
    known = ranked.ask(row, RecommendRequest(customer_id="anna"))
    for taught in (True, False):
        shop = Engine(replace(engine.bundle, rankers={"next_best": replace(ranker, strangers=taught)}))
        assert (shop.ranker(row, stranger) is not None) is taught
        assert shop.ranker(row, known) is not None


def test_what_no_source_knows_anything_of_is_ranked_and_told(tmp_path: Path) -> None:
    """A product never sold fills a short list: popular proposes it, and its story is not that of a habit."""
    goods = {**GROCER, "comet": {"title": "Comet", "price": 3.0}}
    shop = Engine(tiny.bundle(tmp_path / "1", GROCERIES, goods))
    names = columns_of(shop.placements["next_best"])
    x = np.random.default_rng(0).normal(0, 1, (500, len(names))).astype(np.float32)
    ranker = PLAIN.fit(x, x[:, 0] > 0, names)
    ranked = Engine(replace(shop.bundle, rankers={"next_best": ranker}))
    for customer in ("anna", "bert", "carl", "dora", "emil"):
        asked = RecommendRequest(customer_id=customer, limit=20, explain=True)
        items = ranked.recommend("next_best", asked, at=UNTIL).items
        comet = next(i for i in items if i.product_id == "comet")
        assert comet.source != "rhythm" and "last on" not in comet.story
        for item in items:
            assert sum((item.parts or {}).values()) == pytest.approx(item.score, abs=1e-5)


# --- whether there is to be an offer at all -----------------------------------------------------------------

HABITS: tuple[tiny.Basket, ...] = (*GROCERIES, ("fred", "40", 30, "bread milk"), ("fred", "41", 50, "bread"))


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine that holds a step up worthwhile for who ordered three times and more; on average, in two of five."""
    plain = Engine(tiny.bundle(tmp_path_factory.mktemp("worth") / "1", HABITS, GROCER))
    names = columns_for("upsell.worth", plain.placements)
    x = np.full((1_000, len(names)), np.nan, np.float32)
    x[:, names.index("customer.orders")] = orders = np.arange(1_000) % 5 + 1
    ranker = replace(PLAIN, rounds=200).fit(x, orders >= 3, names)
    assert ranker.base == pytest.approx(3 / 5)
    return Engine(replace(plain.bundle, rankers={"upsell.worth": replace(ranker, base=2 / 5)}))


def own(engine: Engine, customer: str | None, *products: str) -> list[str]:
    asked = RecommendRequest(customer_id=customer, product_ids=products)
    items = engine.recommend("upsell", asked, at=UNTIL).items
    assert len(items) == len({i.product_id for i in items}) > 0
    return [i.product_id for i in items if not i.filled]


def test_a_step_up_is_offered_to_whom_it_is_likely_to_please(decided: Engine) -> None:
    """anna ordered bread three times; fred did so twice: his list is the same as ever, flagged as filled."""
    assert own(decided, "anna", "bread") and not own(decided, "fred", "bread")
    always = lifted(decided, "upsell", ("worth",))
    asked = RecommendRequest(customer_id="fred", product_ids=("bread",))
    lists = [e.recommend("upsell", asked, at=UNTIL) for e in (decided, always)]
    mine, ever = ([i.product_id for i in found.items] for found in lists)
    assert mine == ever
    assert lists[0].fallback_share == 1 > lists[1].fallback_share


def test_who_was_not_taught_gets_an_offer(decided: Engine) -> None:
    """A stranger, several products, and a need without a habit: dora bought bread of any kind once."""
    assert (
        own(decided, None, "bread")
        and own(decided, "fred", "bread", "milk")
        and own(decided, "dora", "bread")
    )


@pytest.mark.parametrize(("worth", "offered"), [(None, True), (0.0, True), (1.0, False), (9.0, False)])
def test_how_likely_it_must_be_is_the_placements(decided: Engine, worth: float | None, offered: bool) -> None:
    rows = {**decided.placements, "upsell": replace(decided.placements["upsell"], worth=worth)}
    manifest = decided.bundle.manifest.model_copy(update={"placements": rows})
    shop = Engine(replace(decided.bundle, manifest=manifest))
    assert bool(own(shop, "fred", "bread")) is offered
    assert bool(own(shop, "anna", "bread")) is (worth != 9.0)


def test_the_audit_of_offers_by_hand(decided: Engine) -> None:
    """Both buy bread again, anna with rolls beside it: who was offered something took it, who was not did not."""
    row = next(row for row in AUDITS if row.judges == "offer")
    window: tuple[tiny.Basket, ...] = (("anna", "50", 60, "bread rolls"), ("fred", "51", 60, "bread"))
    later = tiny.future(decided.bundle, [*HABITS, *window], GROCER)
    found = audit(decided, row, later, at=UNTIL, seed=7)
    assert found is not None and len(found.answers.task) == 2
    told = {name: found.figures[name] for name in ("auc", "offered", "precision", "lift", "accuracy")}
    assert told == {"auc": 1, "offered": 1 / 2, "precision": 1, "lift": 2, "accuracy": 1}
    assert found.figure_name == "auc" and found.figures["violations"] == 0


def test_a_list_of_steps_that_were_taken_is_judged_with_every_offer_made(decided: Engine) -> None:
    """Rows of steps lift the decision: what they measure is the ranking of what could be offered."""
    for row in AUDITS:
        if row.task.startswith("step_up"):
            assert own(lifted(decided, row.placement, row.without), "fred", "bread")
