"""Statistics of what was earned: against scipy's own, by hand, and in worlds whose truth is known."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT
from scipy import stats
from test_osclms import Run
from test_osclms import run as run

from benchmarks import proof
from benchmarks.proof import Case
from lifecycle.measure import lift as module
from lifecycle.measure.groups import of_file, side_by_side
from lifecycle.measure.lift import (
    LiftError,
    chosen,
    compare,
    corrected,
    cuped,
    detectable,
    looked_at,
    null,
    one_by_one,
    planned_error,
    powers,
    ratio,
    studentised,
    together,
    too_few,
)

SAMPLE = ROOT / "docs" / "samples" / "arms.csv"


def spend(n: int, seed: int, buyers: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < buyers, np.round(np.exp(rng.normal(3, 1, n)), 2), 0.0)


# --- the test itself --------------------------------------------------------------------------------------


def test_the_statistic_is_welchs() -> None:
    a, b = spend(80, 1), spend(30, 2)
    both = np.concatenate([a, b])
    found = studentised(powers(b).sum(axis=0), powers(both).sum(axis=0))
    assert found == pytest.approx(stats.ttest_ind(a, b, equal_var=False).statistic)


def test_p_is_that_of_scipys_permutation_test() -> None:
    a, b = spend(160, 1) * 1.6, spend(60, 2)
    own = compare(a, b, draws=19_999)

    def welch(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        error = (x.var(axis=axis, ddof=1) / x.shape[axis] + y.var(axis=axis, ddof=1) / y.shape[axis]) ** 0.5
        return np.asarray((x.mean(axis=axis) - y.mean(axis=axis)) / error)

    theirs = stats.permutation_test(
        (a, b), welch, n_resamples=9_999, vectorized=True, rng=np.random.default_rng(1)
    )
    assert own.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert own.p is not None and 0.01 < own.p < 0.5


def test_the_interval_holds_nothing_just_where_the_test_rejects() -> None:
    rejected = 0
    for seed in range(60):
        found = compare(spend(200, seed) * (1 + seed / 40), spend(90, 1000 + seed), draws=399, seed=seed)
        assert found.p is not None and found.ci95 is not None
        assert (found.p <= 0.05) == (not found.ci95[0] < 0 < found.ci95[1])
        rejected += found.p <= 0.05
    assert 5 < rejected < 55


def test_what_is_told_is_consistent() -> None:
    a, b = spend(200, 1), spend(100, 2)
    found = compare(a, b)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert found.lift == pytest.approx(a.mean() / b.mean() - 1)
    assert found.incremental == pytest.approx(a.sum() - 200 * b.mean())
    assert found.treated.buyers == np.count_nonzero(a)
    assert found.ci95 and found.incremental_ci95 == pytest.approx([200 * end for end in found.ci95])
    assert compare(a, b) == found != compare(a, b, seed=8)
    turned = compare(b, a)
    assert found.difference and turned.difference == pytest.approx(-found.difference)
    assert turned.p == pytest.approx(found.p, abs=0.05)


@pytest.mark.parametrize("chance", [0.05, 0.5, 0.9])
def test_draws_have_the_moments_of_hashing(chance: float) -> None:
    terms = powers(spend(300, 1))
    rng = np.random.default_rng(3)
    for drawn in (one_by_one(rng, terms, chance, 4_000), together(rng, terms, chance, 4_000)):
        error = (chance * (1 - chance) * (terms**2).sum(axis=0) / 4_000) ** 0.5
        assert (np.abs(drawn.mean(axis=0) - chance * terms.sum(axis=0)) < 5 * error).all()
        spread = chance * (1 - chance) * (terms.T @ terms)
        assert np.cov(drawn.T) == pytest.approx(spread, rel=0.15)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3_000), chance=st.floats(0.001, 0.5), seed=st.integers(0, 10**6))
def test_chosen_places_are_places(n: int, chance: float, seed: int) -> None:
    found = chosen(np.random.default_rng(seed), n, chance)
    assert (np.diff(found) > 0).all() and not len(found[(found < 0) | (found >= n)])


def test_many_small_values_at_once_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    values = spend(4_000, 1, 0.9)
    exact = null(values, 800, seed=1, draws=3_000)
    monkeypatch.setattr(module, "EXACT", 300)
    rough = null(values, 800, seed=2, draws=3_000)
    assert np.quantile(rough, [0.025, 0.5, 0.975]) == pytest.approx(
        np.quantile(exact, [0.025, 0.5, 0.975]), abs=0.15
    )


# --- beside the test --------------------------------------------------------------------------------------


def test_spend_before_narrows_the_interval_and_is_ancova() -> None:
    rng = np.random.default_rng(2)
    x, noise = np.exp(rng.normal(3, 1, 600)), rng.normal(0, 5, 600)
    y, held = 0.8 * x + noise, rng.random(600) < 0.3
    plain = compare(y[~held], y[held])
    found = compare(y[~held], y[held], before=(x[~held], x[held]))
    assert found.reduction == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    assert found.error is not None and plain.error is not None and found.error < 0.5 * plain.error
    design = np.stack([np.ones(600), ~held, x], axis=1).astype(float)
    assert found.difference == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][1], abs=0.1)
    nothing, reduction = cuped([y[~held], y[held]], [np.ones((~held).sum()), np.ones(held.sum())])
    assert reduction == 0 and np.array_equal(nothing[0], y[~held])


def test_too_few_buyers_are_refused_with_the_reason() -> None:
    control = np.zeros(500)
    control[:4] = 20.0
    found = compare(spend(5_000, 1), control)
    assert (
        found.refused
        and "the control has 4 buyers of 500" in found.refused
        and "hold back more" in found.refused
    )
    assert {found.difference, found.p, found.ci95, found.lift, found.incremental} == {None}
    assert found.control.mean == pytest.approx(80 / 500)
    lucky = np.zeros(100)
    lucky[:6] = 20.0  # six seen, but of 60 buyers a fiftieth was to be expected
    found = compare(np.concatenate([np.full(54, 20.0), np.zeros(4_846)]), lucky)
    assert found.refused and "1.2 were to be expected" in found.refused
    assert too_few(found.treated, found.control, least=1) is None
    assert compare(np.ones(50), np.ones(50)).refused == "nothing differs between customers"


@pytest.mark.parametrize(("values", "says"), [([], "no customers"), ([1, np.nan], "not finite")])
def test_figures_that_are_none_are_refused(values: Sequence[float], says: str) -> None:
    with pytest.raises(LiftError, match=says):
        compare(values, [1, 2])
    with pytest.raises(LiftError, match="one figure for each customer"):
        compare(spend(90, 1), spend(80, 2), before=(np.ones(90), np.ones(79)))


def test_the_ratio_test_is_chi_square() -> None:
    found = ratio((25_000, 23_750), (0.5, 0.5))
    assert found.alarm and found.causes and found.expected == (24_375, 24_375)
    assert found.p == pytest.approx(stats.chi2.sf(2 * 625**2 / 24_375, 1))
    fine = ratio((180_100, 19_900), (0.9, 0.1))
    assert not fine.alarm and fine.causes == ()
    for shares in ((0.5,), (1.0, 0.0)):
        with pytest.raises(LiftError):
            ratio((10, 10), shares)


def test_what_is_detectable_is_detected_8_times_in_10() -> None:
    error = planned_error(10.0, 5_000, 0.2)
    assert error == pytest.approx((100 / 1_000 + 100 / 4_000) ** 0.5)
    effect = detectable(error)
    assert stats.norm.sf(stats.norm.ppf(0.975) - effect / error) == pytest.approx(0.8)
    for share in (0, 1, 1e-9):
        with pytest.raises(LiftError):
            planned_error(1, 100, share)


def test_several_are_corrected_and_the_refused_left_alone() -> None:
    assert corrected([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.04, 0.04])
    assert corrected([None]) == [None] and corrected([]) == []


def test_looking_every_week_finds_wins_where_there_are_none_but_for_the_band() -> None:
    rng, n = np.random.default_rng(5), np.arange(200, 4_001, 100)
    naive = banded = 0
    for _ in range(300):
        a, b = rng.normal(size=(2, 4_000))
        means = [np.cumsum(x)[n - 1] / n for x in (a, b)]
        error = (2 / n) ** 0.5
        low, high = looked_at(means[0] - means[1], error, 2 * n, planned=8_000)
        naive += bool((np.abs(means[0] - means[1]) > 1.96 * error).any())
        banded += bool(((low > 0) | (high < 0)).any())
    assert naive > 60 and banded <= 15


# --- the proof, in short ----------------------------------------------------------------------------------


def test_a_a_tests_reject_as_often_as_they_say_and_intervals_cover() -> None:
    told = [proof.tried(Case(20_000, 0.1, buyers, effect), runs=150, draws=199)
            for buyers, effect in ((0.006, 0.0), (0.006, 0.5), (0.02, 0.1))]  # fmt: skip
    nothing, large, small = told
    assert all(of.refused <= 0.05 * of.runs for of in told)
    assert nothing.part(nothing.losses + nothing.wins) <= 0.1 < nothing.part(nothing.welch) + 0.03
    assert nothing.losses and nothing.wins + nothing.losses < nothing.welch
    assert all(of.part(of.covered) >= 0.9 for of in told), told
    assert large.wins > large.losses and small.wins >= small.losses


def test_lost_customers_and_leaks_are_told() -> None:
    assert proof.alarms(50_000, 0.5, 0.05, "control", 30).alarms >= 28
    assert proof.alarms(200_000, 0.1, 0.05, "treated", 10).alarms == 10
    assert proof.alarms(50_000, 0.5, 0.0, "control", 100).alarms <= 1
    assert [proof.leaking(share, 5).alarms for share in (0.0, 0.05)] == [0, 5]
    assert proof.leaking(0.2, 30).shrunk == pytest.approx(0.8, abs=0.1)


def test_the_world_is_heavy_tailed_and_its_effect_what_it_says() -> None:
    shop = proof.Shop.of(20_000, 0.02)
    spent = [shop.outcomes(0.5, seed) for seed in range(20)]
    treated, alone = (np.concatenate(of) for of in zip(*spent, strict=True))
    assert (alone > 0).mean() == pytest.approx(0.02, rel=0.1)
    assert treated.mean() / alone.mean() == pytest.approx(1.5, rel=0.1)
    assert stats.skew(alone) > 10
    assert not proof.faults(
        [proof.tried(Case(20_000, 0.5, 0.02, 0.0), 1, 99)._replace(losses=0, runs=0)], [], [], []
    )


def test_what_was_missed_is_said() -> None:
    case = Case(20_000, 0.1, 0.02, 0.0)
    bad = proof.Told(case, 100, 10, 20, 1, 50, 30)
    sized = [proof.Sizes("5% lost", 100, 90), proof.Sizes("nothing lost", 1_000, 6)]
    said = proof.faults([bad], [bad], sized, [proof.Leak(0.02, 10, 9, 1.0), proof.Leak(0.0, 10, 0, 1.0)])
    assert len(said) == 7
    assert "Goals missed: A/A" in proof.text([bad], [bad], sized, [], 60)


@pytest.mark.long
@pytest.mark.parametrize("buyers", proof.BUYERS)
def test_the_proof_at_the_default_size(buyers: float) -> None:
    aa, *effects = [
        proof.tried(Case(*proof.DEFAULT, buyers, effect), 2_000 if not effect else 1_000)
        for effect in proof.EFFECTS
    ]
    assert not proof.faults([aa], effects, [], [])


@pytest.mark.long
def test_the_proof_of_sizes_and_leaks() -> None:
    assert not proof.faults([], [], list(proof.sizes()), [proof.leaking(share, 100) for share in proof.LEAKS])


# --- arms side by side, and files -------------------------------------------------------------------------


def test_several_arms_stand_beside_one_control() -> None:
    values = np.concatenate([spend(300, 1), spend(300, 2) * 3, spend(300, 3)])
    names = ["mail"] * 300 + ["voucher"] * 300 + ["held"] * 300
    rows = side_by_side(values, names, "held")
    assert [row["arm"] for row in rows] == ["mail", "voucher", "held"]
    assert rows[1]["difference"] == compare(values[300:600], values[600:]).difference
    assert rows[1]["p"] < 0.01 and rows[0]["p_adjusted"] >= rows[0]["p"]
    assert rows[2]["difference"] is None and rows[2]["mean"] == pytest.approx(values[600:].mean())
    with pytest.raises(LiftError, match="the arms are held, mail"):
        side_by_side(values, names, "none")
    with pytest.raises(LiftError):
        side_by_side(values, ["held"] * 900, "held")


def test_a_file_is_compared_as_csv_and_as_parquet(tmp_path: Path, run: Run) -> None:
    asked = ("lift", "--data", SAMPLE, "--arm", "arm", "--control", "held", "--outcome", "spent", "--json")
    found = run(*asked).json
    wanted = {"arm", "customers", "mean", "difference", "ci95", "p", "lift", "incremental"}
    assert all(wanted <= set(of) for of in found["arms"]) and len(found["warnings"]) == 1
    table = pa.csv.read_csv(SAMPLE)
    pq.write_table(table, tmp_path / "arms.parquet")
    again = json.loads(json.dumps(of_file(tmp_path / "arms.parquet", "arm", "held", "spent")))
    assert again == found | {"data": "arms.parquet"}
    adjusted = run(*asked, "--covariate", "before", "--share", 0.2).json
    assert adjusted["arms"][0]["reduction"] > 0 and adjusted["ratio"]["assumed"] is False
    shown = run(*asked[:-1])
    assert shown.code == 0 and "voucher" in shown.out and "never sum" in shown.out


def test_numbers_and_truths_name_arms_too(tmp_path: Path) -> None:
    values = spend(400, 1).tolist()
    for name, arms, control in (
        ("n", [0, 1] * 200, "0"),
        ("f", [0.0, 1.0] * 200, "0"),
        ("b", [False, True] * 200, "false"),
    ):
        pq.write_table(pa.table({"arm": arms, "spent": values}), tmp_path / f"{name}.parquet")
        found = of_file(tmp_path / f"{name}.parquet", "arm", control, "spent")
        assert [of["customers"] for of in found["arms"]] == [200, 200] and found["arms"][1]["arm"] == control


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"arm": "group"}, "no column 'group'; it has arm, spent, seen, word"),
        ({"outcome": "word"}, "holds string, not numbers"),
        ({"outcome": "gaps"}, "no column 'gaps'"),
        ({"control": "held"}, "'held' is not an arm"),
        ({"share": 1.5}, "between 0 and 1"),
        ({"exposed": "spent"}, "true or false"),
        ({"covariate": "hollow"}, "is empty in 2 rows"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_told(change: dict[str, object], says: str, tmp_path: Path) -> None:
    n = 100
    columns = {
        "arm": ["a", "b"] * n,
        "spent": spend(2 * n, 1),
        "seen": [True, False] * n,
        "word": ["x"] * 2 * n,
    }
    if "covariate" in change:
        columns["hollow"] = [None, None, *[1.0] * (2 * n - 2)]
    pq.write_table(pa.table(columns), tmp_path / "it.parquet")
    asked: dict[str, object] = {"arm": "arm", "control": "b", "outcome": "spent"} | change
    with pytest.raises(LiftError, match=says):
        of_file(tmp_path / "it.parquet", **asked)  # type: ignore[arg-type]


def test_files_of_wrong_sizes_or_with_leaks_are_told(tmp_path: Path) -> None:
    values = np.concatenate([spend(4_000, 1), spend(3_400, 2)])
    table = {
        "arm": ["a"] * 4_000 + ["b"] * 3_400,
        "spent": values,
        "seen": [True] * 4_000 + [True, *[False] * 9] * 340,
    }
    pq.write_table(pa.table(table), tmp_path / "it.parquet")
    found = of_file(tmp_path / "it.parquet", "arm", "b", "spent", exposed="seen", share=0.5)
    assert found["ratio"]["alarm"] and found["leak"]["share"] == pytest.approx(0.1)
    assert "not of the sizes planned" in found["warnings"][0] and "leaks: 340" in found["warnings"][1]
    assert json.dumps(found)


def test_the_command_says_what_it_needs(run: Run, tmp_path: Path) -> None:
    for words, says in (
        (("--data", SAMPLE), "--arm, --control, --outcome"),
        (("--arm", "x"), "--data"),
        (("--window", "7,x"), "no list of days"),
        (("--program", "none"), "no program"),
        (("--home", tmp_path), "osclms load"),
        (("--home", tmp_path, "--plan", 100), "osclms load"),
    ):
        ended = run("lift", *words)
        assert ended.code and says in ended.err + ended.out, ended
