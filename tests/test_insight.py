"""Rankers looked at: probabilities held against what was bought, and columns shuffled."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.placements import PLACEMENTS
from serving.ranker import columns_of
from training.insight import (
    BLOCKS,
    OFFERS,
    Bin,
    Insight,
    binned,
    enough,
    gains,
    grouped,
    insight,
    log_loss,
    pooled,
    telling,
)

ROW = PLACEMENTS["next_best"]
NAMES = columns_of(ROW)
PRICE = NAMES.index("item.price")


class Greedy:
    """As likely as the price says, and nothing else counts."""

    def __init__(self) -> None:
        gain = np.zeros(len(NAMES))
        gain[[PRICE, NAMES.index("als.customer")]] = 3, 1
        self.columns = NAMES
        self.model = SimpleNamespace(feature_importance=lambda kind: gain if kind == "gain" else None)

    def probability(self, x: NDArray[Any]) -> NDArray[np.float32]:
        return x[:, PRICE].astype(np.float32)


def asked(questions: int = 30, candidates: int = 20) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The dearest candidate of each question is right."""
    rng = np.random.default_rng(2)
    parts = []
    for _ in range(questions):
        x = rng.uniform(0.01, 0.99, (candidates, len(NAMES))).astype(np.float32)
        parts.append((x, x[:, PRICE] == x[:, PRICE].max()))
    return parts


def test_bins_by_hand() -> None:
    found = np.array([0.0005, 0.011, 0.013, 0.6], np.float32)
    bins = binned(found, np.array([False, True, False, True]))
    assert [(b.n, b.bought) for b in bins] == [(1, 0.0), (2, 0.5), (1, 1.0)]
    assert [b.predicted for b in bins] == pytest.approx([0.0005, 0.012, 0.6])


def test_an_edge_belongs_to_the_bin_above() -> None:
    (only,) = binned(np.array([0.1, 0.15]), np.array([True, False]))
    assert only == Bin(2, 0.125, 0.5)


def test_the_calibration_error_weighs_bins_by_what_they_hold() -> None:
    seen = Insight(1, 4, (Bin(3, 0.1, 0.0), Bin(1, 0.5, 1.0)), 1, 0.0, 0.0, ())
    assert seen.calibration_error == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert (seen.expected, seen.bought) == pytest.approx((0.8, 1.0))


def test_gains_are_of_questions_with_something_right() -> None:
    p = np.array([0.1, 0.9, 0.5, 0.4, 0.3])
    y = np.array([True, False, False, False, True])
    assert gains(p, y, np.array([2, 3])) == pytest.approx([1 / np.log2(3), 1 / np.log2(3)])
    assert len(gains(p, np.zeros(5, bool), np.array([2, 3]))) == 0


def test_log_loss_by_hand() -> None:
    p, y = np.array([0.8, 0.1], np.float32), np.array([True, False])
    assert log_loss(p, y) == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2)


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_column_is_in_one_group(name: str) -> None:
    groups = grouped(columns_of(PLACEMENTS[name]), PLACEMENTS[name])
    assert sorted(n for of in groups.values() for n in of) == list(range(len(columns_of(PLACEMENTS[name]))))
    assert len(groups.keys() - set(BLOCKS.values())) == len(PLACEMENTS[name].sources)


def test_questions_of_one_candidate_are_looked_at_together() -> None:
    one = [(np.full((1, 2), n, np.float32), np.array([n % 2 == 0])) for n in range(OFFERS + 1)]
    first, last = pooled(one)
    assert first[0][:, 0].tolist() == list(range(OFFERS)) and last[0][:, 0].tolist() == [OFFERS]
    assert first[1].tolist() == [n % 2 == 0 for n in range(OFFERS)]


def test_what_decides_is_lost_by_shuffling_and_nothing_else_is() -> None:
    parts = asked()
    seen = insight(Greedy(), ROW, parts, seed=7)  # type: ignore[arg-type]
    assert (seen.questions, seen.candidates, seen.ndcg) == (30, 600, 1.0)
    assert [g.name for g in seen.groups[:2]] == [BLOCKS["item"], "score of als (customer)"]
    first, *others = seen.groups
    assert first.gain == 0.75 and seen.groups[1].gain == 0.25
    assert first.ndcg_lost.low > 0.5 and first.loss_added > 0
    assert all(g.ndcg_lost.mean == g.loss_added == 0 for g in others)


def test_a_window_in_which_nothing_is_right_loses_nothing() -> None:
    parts = [(x, np.zeros(len(x), bool)) for x, _ in asked(3)]
    seen = insight(Greedy(), ROW, parts, seed=7)  # type: ignore[arg-type]
    assert seen.ndcg == 0 and {g.ndcg_lost.mean for g in seen.groups} == {0.0}


def test_only_questions_with_something_right_are_shuffled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many, and at most so many candidates, but one at least."""
    parts = asked(6)
    parts[1] = (parts[1][0], np.zeros(20, bool))
    assert telling(parts) == [parts[0], *parts[2:]]
    assert telling(parts[1:2]) == parts[1:2]
    monkeypatch.setattr("training.insight.SHUFFLED", 3)
    assert telling(parts) == [parts[0], *parts[2:4]]
    for most, n in ((40, 2), (39, 1), (1, 1)):
        monkeypatch.setattr("training.insight.SHUFFLED_CANDIDATES", most)
        assert len(telling(parts)) == n


def test_questions_end_where_they_hold_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.insight.CANDIDATES", 41)
    assert len(list(enough(iter(asked(6))))) == 3
