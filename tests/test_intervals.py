from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training import intervals
from training.intervals import Interval, auc_interval, interval, paired_interval

FIGURES = st.floats(0, 1, width=32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 60))
    return draw(arrays(np.float64, n, elements=FIGURES)), draw(arrays(np.float64, n, elements=FIGURES))


@given(pairs())
def test_equal_arrays_differ_by_exactly_nothing(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert paired_interval(pair[0], pair[0].copy(), seed=1, resamples=50) == Interval(0.0, 0.0, 0.0)


@given(pairs(), st.randoms(use_true_random=False))
def test_the_order_of_the_customers_changes_nothing(
    pair: tuple[np.ndarray, np.ndarray], random: Random
) -> None:
    order = list(range(len(pair[0])))
    random.shuffle(order)
    a, b = pair
    assert paired_interval(a[order], b[order], seed=1, resamples=50) == paired_interval(
        a, b, seed=1, resamples=50
    )


@given(pairs())
def test_swapping_the_sides_changes_the_sign(pair: tuple[np.ndarray, np.ndarray]) -> None:
    there, back = (paired_interval(*sides, seed=1, resamples=200) for sides in (pair, pair[::-1]))
    assert there.mean == pytest.approx(-back.mean, abs=1e-12)
    assert there.low <= there.high


def test_the_input_stays_as_it_was() -> None:
    values = np.array([3.0, 1.0, 2.0])
    interval(values, seed=1)
    assert values.tolist() == [3.0, 1.0, 2.0]


def test_the_same_seed_gives_the_same_interval_and_another_one_does_not() -> None:
    values = np.random.default_rng(5).random(100)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_chunks_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(5).random(100)
    whole = interval(values, seed=1)
    monkeypatch.setattr(intervals, "CHUNK", 250)  # two resamples at once
    assert interval(values, seed=1) == whole


def coverage(draws: int, customers: int) -> float:
    """Of many samples whose true mean is known (0.25), the share whose interval holds it."""
    rng = np.random.default_rng(11)
    samples = rng.beta(1, 3, size=(draws, customers))
    found = [interval(sample, seed=i, resamples=400) for i, sample in enumerate(samples)]
    return float(np.mean([i.low <= 0.25 <= i.high for i in found]))


def test_ninety_five_of_a_hundred_intervals_hold_the_truth() -> None:
    assert 0.925 <= coverage(draws=600, customers=200) <= 0.97


def test_the_fast_path_agrees_with_the_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).beta(1, 3, 20_000)
    slow = interval(values, seed=1)
    monkeypatch.setattr(intervals, "LARGE", 20_000)
    fast = interval(values, seed=1)
    assert fast.mean == slow.mean
    assert fast.low == pytest.approx(slow.low, abs=0.1 * (slow.high - slow.low))
    assert fast.high == pytest.approx(slow.high, abs=0.1 * (slow.high - slow.low))


def test_pairing_sees_what_two_separate_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    base = rng.random(500)
    better = base + rng.normal(0.01, 0.02, 500)
    assert paired_interval(better, base, seed=1).low > 0
    assert interval(better, seed=1).low < interval(base, seed=1).high


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1.0, 2.0], [1.0], "2 customers against 1"),
        ([], [], "at least one"),
        ([[1.0]], [[1.0]], "one figure per customer"),
        ([1.0, np.nan], [1.0, 1.0], "1 of 2 figures are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: list[float], b: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paired_interval(a, b, seed=1)


def test_it_prints_for_people() -> None:
    assert str(Interval(-0.002, -0.006, 0.002)) == "−0.0020 [−0.0060, 0.0020]"


@pytest.mark.parametrize(
    ("scores", "right", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], 1.0),
        ([0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1], 0.0),
        ([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1], 3 / 4),
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 1, 1], 1 / 2),
        ([0.1, 0.5, 0.5], [0, 0, 1], 3 / 4),
        ([0.1, 0.9], [1, 1], 1 / 2),
    ],
)
def test_auc_by_hand(scores: list[float], right: list[int], expected: float) -> None:
    found = auc_interval(scores, right, range(len(scores)), seed=1, resamples=20)
    assert found.mean == pytest.approx(expected)
    assert 0 <= found.low <= found.high <= 1


def test_the_interval_of_auc_draws_customers_with_all_of_their_questions() -> None:
    rng = np.random.default_rng(4)
    right = rng.random(2_000) < 0.2
    scores = right + rng.normal(0, 1, 2_000)
    apart = auc_interval(scores, right, np.arange(2_000), seed=1, resamples=200)
    together = auc_interval(
        np.tile(scores, 4), np.tile(right, 4), np.tile(np.arange(2_000), 4), seed=1, resamples=200
    )
    assert apart.low < apart.mean < apart.high
    for name in ("mean", "low", "high"):
        assert getattr(apart, name) == pytest.approx(getattr(together, name), abs=1e-9)
