"""Rankers: learned from what the engine put forward, on what was then bought, and the same again."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tiny
from numpy.typing import NDArray
from tiny import GROCER, GROCERIES, UNTIL

from features.interactions import seconds
from serving.bundle import BundleError
from serving.engine import Chosen, Engine
from serving.ranker import BEST, columns_of, load_rankers, score_columns
from serving.schemas import RecommendRequest
from training.rank import RANKINGS, Ranking, examples, label_cutoffs, learn, save_examples
from training.split import Future

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


def test_scores_are_told_plainly_and_over_the_51st_best() -> None:
    scores = np.array([np.arange(60), np.zeros(60)], np.float32)
    found = score_columns(scores)
    assert found.shape == (60, 4)
    np.testing.assert_array_equal(found[:, 0], scores[0])
    np.testing.assert_allclose(found[:, 1], scores[0] / (60 - BEST))
    np.testing.assert_array_equal(found[:, 2:], 0)
    assert score_columns(scores[:, :0]).shape == (0, 4)


@pytest.mark.parametrize("placement", RANKINGS)
def test_examples_are_the_engines_own_candidates_value_for_value(
    engine: Engine, later: Future, placement: str
) -> None:
    """The first question's rows are what a request through the engine would look at."""
    x, y = examples(engine, placement, later, PLAIN)
    row = engine.placements[placement]
    assert x.shape[1] == len(columns_of(row)) and x.dtype == np.float32
    if placement == "next_best":
        ask = engine.ask(row, RecommendRequest(customer_id="anna"))
        _, items, scores = engine.candidates(row.sources, engine.allowed(row.rules, ask, Chosen()), ask)
        np.testing.assert_array_equal(x[: len(items)], engine.signals(row, ask, items, scores))
        bought = engine.catalog.items.positions(["bread", "soap", "rolls"])
        np.testing.assert_array_equal(y[: len(items)], np.isin(items, bought))


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
    assert learn([tmp_path / "x.npz"], engine.placements["next_best"], PLAIN) is None


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
