"""Figures with their arithmetic, and audits of engines whose lists are known."""

from collections.abc import Sequence
from dataclasses import replace
from math import log2
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tiny import GROCER, GROCERIES, UNTIL, Basket

from features.customers import facts
from serving.engine import Engine
from serving.placements import PLACEMENTS
from serving.schemas import RecommendRequest, RecommendResponse
from training.evaluate import (
    METRICS,
    Answers,
    Audit,
    answers_of,
    audit,
    by_stage,
    entropy,
    gate_figures,
    gini,
    index_recall,
    novel_share,
    padded,
    violations,
)
from training.intervals import clustered_interval
from training.split import AUDITS, Future, Task, purchases

WINDOW: tuple[Basket, ...] = (
    ("anna", "20", 60, "bread butter rolls milk"),
    ("bert", "21", 61, "rolls gold soap butter towel"),
    ("carl", "22", 62, "milk"),
    (None, "23", 63, "bread butter soap milk"),
)


def figure(metric: str, hits: Sequence[int], wanted: int) -> float:
    return float(METRICS[metric](np.array([hits], bool), np.array([wanted]))[0])


@pytest.mark.parametrize(
    ("metric", "hits", "wanted", "expected"),
    [
        ("ndcg", [1, 0, 1], 2, (1 + 1 / log2(4)) / (1 + 1 / log2(3))),  # 1.5 / 1.6309 = 0.9197
        ("ndcg", [1, 0, 1], 9, (1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4))),  # three places at most
        ("ndcg", [0, 0, 1], 1, (1 / log2(4)) / 1),  # 0.5
        ("ndcg", [1, 1, 1], 3, 1.0),
        ("ndcg", [0, 0, 0], 3, 0.0),
        ("ndcg", [0, 0, 0], 0, 0.0),
        ("recall", [1, 0, 1], 2, 1.0),
        ("recall", [1, 0, 1], 8, 2 / 8),  # of all that was bought, not of three
        ("recall", [0, 0, 0], 0, 0.0),
        ("hit_rate", [0, 0, 1], 8, 1.0),
        ("hit_rate", [0, 0, 0], 8, 0.0),
        ("mrr", [0, 1, 1], 2, 1 / 2),
        ("mrr", [1, 0, 0], 2, 1.0),
        ("mrr", [0, 0, 0], 2, 0.0),
        ("map", [1, 0, 1], 2, (1 / 1 + 2 / 3) / 2),
        ("map", [1, 0, 1], 9, (1 / 1 + 2 / 3) / 3),  # over min(k, wanted)
        ("map", [0, 1, 0], 1, (1 / 2) / 1),
        ("map", [0, 0, 0], 0, 0.0),
    ],
)
def test_figures(metric: str, hits: list[int], wanted: int, expected: float) -> None:
    assert figure(metric, hits, wanted) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 9))
def test_figures_lie_between_0_and_1_and_an_earlier_hit_never_harms(hits: list[bool], more: int) -> None:
    wanted = sum(hits) + more
    best = sorted(hits, reverse=True)
    for metric in METRICS:
        value = figure(metric, [int(h) for h in hits], wanted)
        assert 0 <= value <= figure(metric, [int(h) for h in best], wanted) <= 1 + 1e-12


@pytest.mark.parametrize(
    ("exposure", "expected"),
    [
        ([4, 4, 4, 4], 0.0),
        ([0, 0, 0, 9], 3 / 4),  # one of four has all: 1 − 1/4
        ([1, 3], (-1 * 1 + 1 * 3) / (2 * 4)),  # 1/4
        ([0, 0], 0.0),
    ],
)
def test_gini(exposure: list[int], expected: float) -> None:
    assert gini(np.array(exposure)) == pytest.approx(expected)
    assert gini(np.array(exposure[::-1])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ([5, 5, 5, 5], 0.0),
        ([5, 5, 8, 8], 1.0),
        ([1, 2, 3, 4], 2.0),
        ([5, 5, 5, 8], -(3 / 4 * log2(3 / 4) + 1 / 4 * log2(1 / 4))),  # 0.8113
        ([], 0.0),
    ],
)
def test_entropy(categories: list[int], expected: float) -> None:
    assert entropy(np.array(categories, np.int32)) == pytest.approx(expected)


# --- answers ----------------------------------------------------------------------------------------------


def task(truth: Sequence[Sequence[int]], customer: Sequence[int], k: int = 3) -> Task:
    requests = [RecommendRequest() for _ in truth]
    return Task(requests, [np.array(t, np.int32) for t in truth], np.array(customer, np.int32), k)


def test_a_product_that_nobody_can_know_is_wanted_and_never_hit() -> None:
    """Bought: 4, 7 and two products first sold in the window. The list: 4, 2 and an empty place."""
    answers = Answers(task([[-1, -1, 4, 7]], [0]), padded([np.array([4, 2])], 3))
    assert answers.lists.tolist() == [[4, 2, -1]]
    assert answers.hits.tolist() == [[True, False, False]]
    assert answers.values("recall").tolist() == [1 / 4]


def test_long_lists_are_cut_and_no_lists_are_none() -> None:
    assert padded([np.array([1, 2, 3, 4]), np.array([], int)], 2).tolist() == [[1, 2], [-1, -1]]
    assert padded([], 3).shape == (0, 3)


def test_the_interval_draws_customers_with_all_of_their_questions() -> None:
    """One customer with three hits, one with a miss: a draw gives both (3/4), or one of them alone (1 or 0)."""
    answers = Answers(task([[1], [1], [1], [9]], [0, 0, 0, 1], k=1), np.array([[1], [1], [1], [1]]))
    found = answers.figure("hit_rate", seed=3)
    assert (found.mean, found.low, found.high) == (3 / 4, 0.0, 1.0)
    assert answers.figure("hit_rate", seed=3) == found
    apart = clustered_interval([1, 1, 1, 0] * 50, list(range(200)), seed=3)
    together = clustered_interval([1, 1, 1, 0] * 50, [n // 4 for n in range(200)], seed=3)
    strangers = clustered_interval([1, 1, 1, 0] * 50, [-1] * 200, seed=3)
    assert together.low == together.high == 3 / 4  # every customer is alike
    assert apart.high - apart.low == pytest.approx(strangers.high - strangers.low, abs=0.02) != 0


# --- on a shop of a few rows ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny.bundle(tmp_path_factory.mktemp("evaluate") / "1", GROCERIES, GROCER))


@pytest.fixture(scope="module")
def later(engine: Engine) -> Future:
    return tiny.future(engine.bundle, [*GROCERIES, *WINDOW], GROCER)


def audits_of(engine: Engine, later: Future) -> dict[str, Audit]:
    found = (audit(engine, row, later, at=UNTIL, seed=7) for row in AUDITS)
    return {a.name: a for a in found if a is not None}


@pytest.fixture(scope="module")
def audits(engine: Engine, later: Future) -> dict[str, Audit]:
    return audits_of(engine, later)


def names(engine: Engine, places: Sequence[int]) -> list[str]:
    return engine.catalog.items.at([p for p in places if p >= 0])


def test_a_model_by_itself(engine: Engine, later: Future) -> None:
    """Habit knows anna's bread (3 orders), milk (2, later), butter (2) and soap (1), and no more."""
    asked = purchases(engine.bundle, later)
    answers = answers_of(engine.models["rhythm"], engine.bundle, asked)
    assert asked.requests[0].customer_id == "anna"
    assert names(engine, answers.lists[0].tolist()) == ["bread", "milk", "butter", "soap"]
    new = answers_of(engine.models["popular"], engine.bundle, asked, owned=False)
    assert not set(names(engine, new.lists[0].tolist())) & {"bread", "milk", "butter", "soap"}
    assert answers.values("recall").tolist() == [3 / 4, 3 / 5, 1.0]  # rolls of four; gold and towel of five


def test_a_model_by_itself_is_asked_with_the_basket_and_does_not_repeat_it(engine: Engine) -> None:
    """Butter lies with bread twice and with rolls twice; what anna bought before is not what is asked."""
    asked = RecommendRequest(customer_id="anna", product_ids=("butter", "unheard of"))
    task = Task([asked], [np.array([0], np.int32)], np.array([0], np.int32))
    found = names(engine, answers_of(engine.models["copurchase"], engine.bundle, task).lists[0].tolist())
    guest = asked.model_copy(update={"customer_id": None})
    same = replace(task, requests=[guest], customer=np.array([-1], np.int32))
    assert found and "butter" not in found
    assert found == names(
        engine, answers_of(engine.models["copurchase"], engine.bundle, same).lists[0].tolist()
    )


def test_every_placement_is_audited(audits: dict[str, Audit]) -> None:
    assert list(audits) == [f"{row.placement}.{row.task}" for row in AUDITS]
    for one in audits.values():
        assert one.figures["violations"] == 0
        assert one.figures["accuracy"] == one.figures[one.primary] == one.intervals[one.primary].mean
        more = {"auc", "offered", "precision"} if one.primary == "auc" else set()
        assert set(METRICS) <= set(one.intervals) <= {*METRICS, *more}


def test_the_lists_audited_are_the_engines(engine: Engine, audits: dict[str, Audit]) -> None:
    found = audits["next_best.purchases"].answers
    for request, row in zip(found.task.requests, found.lists, strict=True):
        items = engine.recommend("next_best", request, at=UNTIL).items
        assert names(engine, row.tolist()) == [i.product_id for i in items][: found.task.k]


def test_figures_beside_accuracy(engine: Engine, audits: dict[str, Audit]) -> None:
    """Three customers, eight products, lists of eight: every list holds all, nothing has more exposure."""
    figures = audits["next_best.purchases"].figures
    assert figures["coverage"] == 8 and figures["gini"] == 0 and figures["full_lists"] == 1
    owned = {"anna": 4, "bert": 3, "carl": 5}
    assert figures["novel_share"] == pytest.approx(1 - sum(owned.values()) / 24)
    # of eight: bread 4, dairy 2, soap 1, towels 1
    assert figures["entropy"] == pytest.approx(0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)
    assert audits["discover.novel"].figures["filled"] > 0


def test_strangers_do_not_count_as_novel(engine: Engine) -> None:
    lists = np.array([[0, 1], [0, 1]])
    bread, butter = engine.catalog.items.positions(["bread", "butter"]).tolist()
    assert (bread, butter) == (0, 1)
    gold = int(engine.catalog.items.positions(["gold"])[0])
    assert novel_share(engine.bundle, Answers(task([[0], [0]], [0, -1], k=2), lists)) == 0
    assert novel_share(engine.bundle, Answers(task([[0]], [0], k=2), np.array([[0, gold]]))) == 1 / 2
    assert novel_share(engine.bundle, Answers(task([[0]], [-1], k=2), lists[:1])) == 1


def test_the_figure_by_stage_is_the_mean_of_that_stages_customers(engine: Engine) -> None:
    stage = (
        facts(engine.history, engine.catalog)["stage"].astype(str).tolist()
    )  # anna, bert, carl, dora, emil
    assert len(set(stage)) > 1
    who = [0, 1, 2, 3, 4, -1]
    hits = [1, 0, 1, 1, 0, 1]
    answers = Answers(task([[1]] * 6, who, k=1), np.array([[1 if h else 0] for h in hits]))
    found = by_stage(engine.bundle, answers, "hit_rate", seed=7)
    for name in {*stage}:
        mine = [h for h, s in zip(hits, stage, strict=False) if s == name]
        assert found[name].mean == pytest.approx(sum(mine) / len(mine))
    assert found["prospect"].mean == 1
    assert set(found) == {*stage, "prospect"}


# --- violations -------------------------------------------------------------------------------------------


def response(engine: Engine, products: str, *, filled: str = "") -> RecommendResponse:
    """A list with these products, as if the engine had said so."""
    found = engine.recommend("trending", RecommendRequest(), at=UNTIL)
    like = {item.product_id: item for item in found.items}
    items = [like[p].model_copy(update={"filled": False}) for p in products.split()]
    return found.model_copy(
        update={"items": (*items, *(like[p].model_copy(update={"filled": True}) for p in filled.split()))}
    )


@pytest.mark.parametrize(
    ("placement", "asked", "products", "filled", "broken"),
    [
        ("discover", {"customer_id": "anna"}, "rolls gold", "bread", 0),
        ("discover", {"customer_id": "anna"}, "rolls bread", "", 1),  # owned, in the placement's own part
        ("next_best", {"customer_id": "anna"}, "rolls bread", "", 0),
        ("next_best", {}, "rolls rolls", "", 1),
        ("next_best", {"exclude": ("rolls",)}, "gold rolls", "", 1),
        ("next_best", {"exclude": ("rolls",)}, "gold", "rolls", 1),  # in the fill it is wrong, too
        ("cross_sell", {"product_ids": ("milk",)}, "milk", "", 1),
        ("cross_sell", {"product_ids": ("milk",)}, "bread", "", 0),
        ("trending", {}, "", "", 0),
    ],
)
def test_a_planted_violation_is_counted(
    engine: Engine, placement: str, asked: dict[str, object], products: str, filled: str, broken: int
) -> None:
    request = RecommendRequest.model_validate(asked)
    assert violations(engine, placement)(request, response(engine, products, filled=filled)) == broken


def test_what_cannot_be_had_is_a_violation(tmp_path: Path) -> None:
    goods = {**GROCER, "gold": {**GROCER["gold"], "in_stock": False}}
    sold_out = Engine(tiny.bundle(tmp_path / "out", GROCERIES, goods))
    whole = Engine(tiny.bundle(tmp_path / "in", GROCERIES, GROCER))
    assert violations(sold_out, "trending")(RecommendRequest(), response(whole, "gold")) == 1
    assert violations(sold_out, "trending")(RecommendRequest(), response(whole, "rolls")) == 0


def test_an_audit_sees_a_broken_engine(
    engine: Engine, later: Future, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that forgets what is owned is caught by its own audit."""
    from serving import engine as module

    forgetful = Engine(engine.bundle)
    monkeypatch.setitem(module.RULES, "not_owned", lambda *_: None)
    found = audits_of(forgetful, later)
    assert found["discover.novel"].figures["violations"] > 0
    assert found["next_best.purchases"].figures["violations"] == 0


# --- what the gate gets -----------------------------------------------------------------------------------


def test_the_index_finds_what_exact_search_finds(engine: Engine) -> None:
    assert index_recall(engine, seed=7) == {"als": 1.0}


def test_the_gate_gets_every_audit_and_every_index(audits: dict[str, Audit]) -> None:
    found = gate_figures(list(audits.values()), {"als": 0.97})
    assert found["index.als"] == {"index_recall": 0.97}
    assert set(found) == {*audits, "index.als"}
    for name in audits:
        assert {"full_lists", "violations", "coverage", "accuracy"} <= set(found[name])
    assert {name.split(".")[0] for name in audits} == set(PLACEMENTS)


# --- against another implementation -----------------------------------------------------------------------


def test_figures_are_those_of_trec_eval() -> None:
    """ir-measures, which asks trec_eval, on random lists; MAP where no question wants more than a list can hold,
    as trec_eval divides by all that is wanted."""
    import ir_measures
    from ir_measures import AP, RR, R, Success, nDCG

    rng, k = np.random.default_rng(7), 10
    truths = [rng.choice(60, rng.integers(1, 25), replace=False) - 5 for _ in range(300)]
    truths = [np.where(t < 0, -1, t).astype(np.int32) for t in truths]  # some products that nobody can know
    lists = padded((rng.choice(60, rng.integers(0, k + 1), replace=False) for _ in truths), k)
    answers = Answers(task(truths, [0] * 300, k=k), lists)  # type: ignore[arg-type]
    wanted = [
        ir_measures.Qrel(str(q), f"unknown-{n}" if item < 0 else str(item), 1)
        for q, truth in enumerate(truths)
        for n, item in enumerate(truth)
    ]
    given = [
        ir_measures.ScoredDoc(str(q), str(item), float(-rank))
        for q, row in enumerate(lists)
        for rank, item in enumerate(row)
        if item >= 0
    ]
    few = answers.wanted <= k
    theirs = {nDCG @ k: "ndcg", R @ k: "recall", Success @ k: "hit_rate", RR @ k: "mrr", AP @ k: "map"}
    found = {metric: np.zeros(300) for metric in theirs.values()}  # a list without an item is not told of
    for one in ir_measures.iter_calc(list(theirs), wanted, given):
        found[theirs[one.measure]][int(one.query_id)] = one.value
    for metric, values in found.items():
        rows = few if metric == "map" else slice(None)
        assert answers.values(metric)[rows] == pytest.approx(values[rows], abs=1e-6), metric
        assert values.any()
