"""The learner, the policy and the estimates of policies not tried, where the truth is known."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare

from benchmarks.regret import ARMS, FLOOR, SEEDS, SIZES, WORLDS, Shop, gained, lived, players
from features.experiments import uniform
from lifecycle.choose.context import FEATURES, columns_of, encoded, written_down
from lifecycle.choose.estimate import TARGETS, ChooseError, judged_by_name, predicted
from lifecycle.choose.files import evaluated, numbered
from lifecycle.choose.learner import Array, Rows, capped, fit, summed
from lifecycle.choose.policy import Policy, picked

NAMES = ("silence", "cart", "news")


def world(count: int, seed: int) -> tuple[Rows, Array]:
    """Decisions by a known policy, and what each arm is truly worth: a cart's mail to those of the first kind."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, count)
    x = np.column_stack([np.ones(count), 2.0 * kind - 1])
    eligible = np.column_stack([np.ones(count, bool), rng.random(count) < 0.7, rng.random(count) < 0.8])
    worth = (
        np.column_stack([1 + kind, 1 + kind + 1.5 * (1 - kind) - 0.5 * kind, 1.2 + kind]) + eligible[:, 1:2]
    )
    logged = np.where(eligible, [0.3, 0.5, 0.2], 0)
    logged /= logged.sum(axis=1, keepdims=True)
    chosen = picked(logged, rng.random(count))
    place = np.arange(count)
    reward = worth[place, chosen] * rng.exponential(1, count)
    no = np.zeros_like(eligible)
    return Rows(x, eligible, no, chosen, logged[place, chosen], reward, np.ones(count)), worth


def test_it_finds_what_each_arm_is_worth_to_whom() -> None:
    rows, worth = world(20_000, 1)
    found = predicted(fit(summed(rows)), rows)
    added = (found - found[:, :1])[:, 1:]
    assert np.abs(added - (worth - worth[:, :1])[:, 1:]).max() < 0.25
    policy = Policy.of(fit(summed(rows)), NAMES, ("one", "kind"), floor=0.02, seed=3)
    p = policy.probabilities(rows.x, rows.eligible, rows.again)
    first = (rows.x[:, 1] < 0) & rows.eligible[:, 1]
    assert p[first, 1].min() > 0.9 and p[(rows.x[:, 1] > 0), 1].max() < 0.1


def test_sums_of_weeks_are_the_sums_of_all() -> None:
    rows, _ = world(900, 2)
    half = np.arange(900) < 400
    whole, parts = summed(rows), summed(rows.where(half)) + summed(rows.where(~half))
    assert np.allclose(whole.grams, parts.grams)
    assert capped(np.array([0.0] * 50 + [1.0] * 999 + [1e6])).max() < 1e5


def test_what_is_likely_is_chosen_as_often_and_nothing_is_below_the_floor() -> None:
    rows, _ = world(4_000, 5)
    policy = Policy.of(fit(summed(rows)), NAMES, ("one", "kind"), floor=0.02, seed=3)
    p = policy.probabilities(rows.x, rows.eligible, rows.again)
    assert np.allclose(p.sum(axis=1), 1) and not p[~rows.eligible].any()
    assert p[rows.eligible].min() >= 0.02 - 1e-12
    draws = np.array([[uniform(f"day {day}", f"c{n}") for n in range(400)] for day in range(10)])
    chosen = np.concatenate([picked(p[:400], day) for day in draws])
    expected = 10 * p[:400].sum(axis=0)
    assert chisquare(np.bincount(chosen, minlength=3), expected).pvalue > 1e-4
    assert Policy.of(None, NAMES, ("one", "kind"), floor=0.02, seed=3).probabilities(
        rows.x, rows.eligible, rows.again
    )[0] == pytest.approx(rows.eligible[0] / rows.eligible[0].sum())


def test_the_same_seed_is_the_same_policy_and_a_file_keeps_it(tmp_path: Path) -> None:
    rows, _ = world(2_000, 7)
    made = [Policy.of(fit(summed(rows)), NAMES, ("one", "kind"), floor=0.02, seed=seed) for seed in (3, 3, 4)]
    assert made[0].version == made[1].version != made[2].version
    kept = Policy.load(made[0].save(tmp_path))
    told = [of.probabilities(rows.x, rows.eligible, rows.again) for of in (made[0], kept)]
    assert kept.version == made[0].version and (told[0] == told[1]).all()


def test_a_new_program_is_looked_at() -> None:
    rows, _ = world(5_000, 9)
    wider = replace(
        rows, eligible=np.column_stack([rows.eligible, np.zeros(len(rows), bool)]),
        again=np.column_stack([rows.again, np.zeros(len(rows), bool)]),
    )  # fmt: skip
    policy = Policy.of(fit(summed(wider)), (*NAMES, "young"), ("one", "kind"), floor=0.01, seed=3)
    p = policy.probabilities(rows.x, np.ones((len(rows), 4), bool), wider.again)
    assert p[:, 3].mean() > 0.05


def test_the_context_is_what_was_written_down() -> None:
    at = datetime(2026, 3, 5, tzinfo=UTC)
    about = {"stage": "loyal", "r": 3.0, "f": 2.0, "m": float("nan"), "category": "tea"}
    days = [date(2026, 3, 2), date(2026, 1, 1), date(2026, 3, 9)]
    told = written_down(
        about, days, {"cart": at - timedelta(days=5), "news": at - timedelta(days=60)}, at.date(), at
    )
    assert (told["rest"], told["messages"], told["again"], told["m"]) == (3, 1, ["cart"], 0)
    x = encoded(columns_of([told, {**told, "rest": None, "favourite": None}]))
    named = dict(zip(FEATURES, x[0].tolist(), strict=True))
    assert named["stage loyal"] == named["messages"] == named["recency"] == 1
    assert named["rest"] == pytest.approx(np.exp(-3 / 7)) and x[1, FEATURES.index("rest")] == 0


# --- policies not tried -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_estimates_hold_the_truth_as_often_as_they_say(name: str) -> None:
    held, tries = dict.fromkeys(("IPS", "SNIPS", "DR"), 0), 60
    widths = dict.fromkeys(held, 0.0)
    for seed in range(tries):
        rows, worth = world(1_500, seed)
        target = TARGETS[name](rows, list(NAMES), ("cart", "news"))
        truth = float((target * worth).sum(axis=1).mean())
        found = judged_by_name(name, rows, [str(n) for n in range(len(rows))], NAMES, ("cart", "news"))
        for kind, of in found.estimates.items():
            held[kind] += of.low <= truth <= of.high
            widths[kind] += of.high - of.low
    assert min(held.values()) >= 51, held  # of 60; 57 expected, less than 51 once in 200
    assert widths["DR"] < widths["IPS"]


def test_too_little_is_refused_and_little_is_told() -> None:
    rows, _ = world(250, 3)
    who = [str(n) for n in range(250)]
    silence = judged_by_name("silence", rows, who, NAMES, NAMES)
    assert silence.refused and not silence.estimates and silence.effective < 100
    chance = judged_by_name("random", rows, who, NAMES, NAMES)
    assert chance.estimates and "effective sample size" in chance.warnings[0]
    wrong = replace(world(5_000, 3)[0], probability=np.full(5_000, 0.9))
    assert any(
        "not 1" in told
        for told in judged_by_name("random", wrong, list(map(str, range(5_000))), NAMES, NAMES).warnings
    )
    with pytest.raises(ChooseError, match="cart"):
        judged_by_name("priority", rows, who, NAMES, ("news",))
    with pytest.raises(ChooseError, match="no policy"):
        judged_by_name("best", rows, who, NAMES, NAMES)


def log_of(count: int, seed: int = 4) -> pd.DataFrame:
    rows, _ = world(count, seed)
    names = [[NAMES[at] for at in np.flatnonzero(of)] for of in rows.eligible]
    return pd.DataFrame(
        {
            "kind": np.where(rows.x[:, 1] > 0, "b", "a"), "eligible": ["|".join(of) for of in names],
            "choice": [NAMES[at] for at in rows.chosen], "probability": rows.probability, "reward": rows.reward,
            "target_probability": 1 / rows.eligible.sum(axis=1),
        }
    )  # fmt: skip


def test_a_file_is_judged_as_its_rows_are(tmp_path: Path) -> None:
    table = log_of(3_000)
    table.to_csv(tmp_path / "log.csv", index=False)
    table.assign(eligible=[of.split("|") for of in table["eligible"]]).to_parquet(tmp_path / "log.parquet")
    by_name = evaluated(tmp_path / "log.csv", "random", ())
    by_column = evaluated(tmp_path / "log.parquet", None, ())
    rows, _ = world(3_000, 4)
    direct = judged_by_name("random", rows, [str(n) for n in range(3_000)], NAMES, ())
    assert by_name.estimates["IPS"].value == pytest.approx(direct.estimates["IPS"].value)
    assert by_column.estimates["SNIPS"].value == pytest.approx(direct.estimates["SNIPS"].value)
    assert by_column.estimates["DR"].value == pytest.approx(direct.estimates["DR"].value, rel=0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choice": "flowers"}, "row 1: the choice 'flowers' is not among"),
        ({"probability": 0.0}, "row 1: probability lies above 0"),
        ({"reward": "lots"}, "row 1: reward is a number"),
        ({"eligible": ""}, "row 1: eligible names no arm"),
        ({"target_probability": 2.0}, "target_probability lies between"),
    ],
)
def test_a_bad_file_is_told_by_its_row(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    log_of(5).assign(**change).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ChooseError, match=says):
        evaluated(tmp_path / "log.csv", None, ())


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    log_of(5).drop(columns=["reward"]).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ChooseError, match="no column reward"):
        evaluated(tmp_path / "log.csv", "random", ())
    (tmp_path / "log.parquet").write_bytes(b"no")
    with pytest.raises(ChooseError, match="cannot be read"):
        evaluated(tmp_path / "log.parquet", "random", ())
    log_of(5).drop(columns=["target_probability"]).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ChooseError, match="name a --policy"):
        evaluated(tmp_path / "log.csv", None, ())


def test_context_of_any_kind_becomes_numbers() -> None:
    found = numbered(
        pd.DataFrame({"age": [1.0, 3.0, None], "flag": [True, False, True], "word": ["x", None, "x"]})
    )
    assert (
        found.shape == (3, 5)
        and found[:, 1].tolist() == [-1.0, 1.0, 0.0]
        and found[:, 4].tolist() == [1, 0, 1]
    )


# --- half a year in made-up shops -----------------------------------------------------------------------------


def test_it_beats_chance_in_half_a_year() -> None:
    """The benchmark, cut short."""
    took = gained(WORLDS["weak"], 2_000, 3, ("random", "oracle", "learned"))
    assert took["learned"] > 0.3


def test_a_shop_lives_the_same_twice_and_probabilities_are_what_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.regret.WEEKS", 6)
    counts, expected = np.zeros(len(ARMS)), np.zeros(len(ARMS))

    def watch(p: Array, eligible: Any, chosen: Any) -> None:
        assert np.allclose(p.sum(axis=1), 1) and not p[~eligible].any() and p[eligible].min() >= FLOOR - 1e-12
        counts[:] += np.bincount(chosen, minlength=len(ARMS))
        expected[:] += p.sum(axis=0)

    worth = [lived(WORLDS["new"], 500, 2, players(WORLDS["new"], 500, 2)["learned"], watch) for _ in range(2)]
    there = expected > 0
    assert worth[0] == worth[1] and chisquare(counts[there], expected[there]).pvalue > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", WORLDS)
def test_regret_in_full(name: str, size: int) -> None:
    asked = ("random", "oracle", "learned", "without context")
    found = [gained(WORLDS[name], size, seed, asked) for seed in range(SEEDS)]
    took, plain = (np.array([one[of] for one in found]).mean() for of in ("learned", "without context"))
    print(f"{name} {size}: {took:.3f}, without context {plain:.3f}")
    assert took > 0
    if name == "none":
        assert took > plain - 0.10
    if (name, size) == ("weak", 4_000):
        assert took >= 0.6


def test_worlds_are_what_they_say() -> None:
    shop = Shop.of(WORLDS["none"], 400, 1)
    week = shop.week(0)
    assert np.allclose(week.buys, week.buys[0]) and week.buys[0, 0] == pytest.approx(0.15)
    assert not Shop.of(WORLDS["new"], 400, 1).week(9).eligible[:, -1].any()
    assert Shop.of(WORLDS["new"], 400, 1).week(10).eligible[:, -1].any()
    half = Shop.of(WORLDS["drift"], 400, 1)
    assert not np.allclose(half.week(0).buys, half.week(20).buys)
