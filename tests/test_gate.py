from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.gate import (
    CHANGED,
    FEWEST_CUSTOMERS,
    FIRST,
    GUARDS,
    REFRESHED,
    Contest,
    Exit,
    Guard,
    Verdict,
    contest_of,
    decide,
    guarded,
)

METRIC = "next_best NDCG@10"
SOUND: Mapping[str, Mapping[str, float]] = {
    "next_best": {"full_lists": 1.0, "violations": 0, "coverage": 0.20, "accuracy": 0.42},
    "cross_sell": {"full_lists": 0.995, "violations": 0, "coverage": 0.30, "accuracy": 0.113},
    "index": {"index_recall": 1.0},
}
RIVAL = np.random.default_rng(4).uniform(0.2, 0.6, 2000)
NOISE = np.random.default_rng(5).normal(0, 0.01, 2000)


def verdict(contest: Contest, lift: float, **changes: object) -> Verdict:
    """The gate on a candidate whose mean is the rival's plus `lift`, give or take 0.0005."""
    arguments = {"figures": SOUND, "champion_figures": None if contest is FIRST else SOUND, **changes}
    noise = NOISE - NOISE.mean()
    return decide(contest, metric=METRIC, candidate=RIVAL + lift + noise, rival=RIVAL, seed=1, **arguments)  # type: ignore[arg-type]


def spoilt(place: str, **values: float) -> Mapping[str, Mapping[str, float]]:
    return {**SOUND, place: {**SOUND[place], **values}}


@pytest.mark.parametrize(
    ("contest", "lift", "promote"),
    [
        (FIRST, 0.01, True),
        (FIRST, 0.0, False),  # the interval holds zero
        (FIRST, -0.01, False),
        (CHANGED, 0.01, True),
        (CHANGED, 0.0, False),
        (CHANGED, 0.0003, False),  # better, but not surely
        (CHANGED, -0.01, False),
        (REFRESHED, 0.01, True),
        (REFRESHED, 0.0, True),
        (REFRESHED, -0.006, True),  # 2 % of 0.4 is 0.008
        (REFRESHED, -0.0078, False),  # the mean is above the bound, the interval is not
        (REFRESHED, -0.02, False),
    ],
)
def test_the_contest(contest: Contest, lift: float, promote: bool) -> None:
    decided = verdict(contest, lift)
    assert decided.promote is promote
    assert decided.reason.startswith("promoted: " if promote else "kept: ")


def test_the_same_model_again_is_refreshed_but_is_no_improvement() -> None:
    same = {"metric": METRIC, "candidate": RIVAL, "rival": RIVAL, "figures": SOUND, "seed": 1}
    assert decide(REFRESHED, champion_figures=SOUND, **same).promote  # type: ignore[arg-type]
    assert not decide(CHANGED, champion_figures=SOUND, **same).promote  # type: ignore[arg-type]


def test_where_both_get_nothing_right_newer_data_wins_and_a_new_configuration_does_not() -> None:
    def among(contest: Contest, candidate: float) -> Verdict:
        nothing = np.zeros(FEWEST_CUSTOMERS)
        return decide(
            contest, metric=METRIC, candidate=nothing + candidate, rival=nothing, figures=SOUND, seed=1,
            champion_figures=SOUND,
        )  # fmt: skip

    assert [among(contest, 0.1).promote for contest in (FIRST, CHANGED, REFRESHED)] == [True, True, True]
    assert [among(contest, 0.0).promote for contest in (FIRST, CHANGED, REFRESHED)] == [False, False, True]
    assert among(REFRESHED, 0.0).reason.endswith("is at least 0, −2 % of the rival's, against the champion")


def test_the_reasons_read_as_sentences() -> None:
    assert verdict(CHANGED, -0.002).reason == (
        "kept: next_best NDCG@10 0.4025 → 0.4005, difference −0.0020 [−0.0024, −0.0016] "
        "is not above 0, against the champion"
    )
    assert verdict(REFRESHED, -0.002).reason.endswith(
        "is at least −0.008051, −2 % of the rival's, against the champion"
    )
    assert verdict(FIRST, 0.01).reason.endswith("is above 0, against Popular")


@pytest.mark.parametrize("contest", [FIRST, CHANGED, REFRESHED])
@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (spoilt("cross_sell", full_lists=0.97), "cross_sell: share of full lists 0.97 is below 0.99"),
        (spoilt("next_best", violations=3), "next_best: lists that break a rule 3 is not 0"),
        (spoilt("index", index_recall=0.9), "index: recall@10 of the index 0.9 is below 0.95"),
        (spoilt("index", index_recall=float("nan")), "index: recall@10 of the index nan is below 0.95"),
        ({**SOUND, "index": {}}, "recall@10 of the index was not measured anywhere"),
    ],
)
def test_a_broken_guard_rail_keeps_the_best_candidate_out(
    contest: Contest, figures: Mapping[str, Mapping[str, float]], says: str
) -> None:
    decided = verdict(contest, 0.05, figures=figures)
    assert not decided.promote
    assert decided.reason == f"kept: {says}"


@pytest.mark.parametrize("contest", [CHANGED, REFRESHED])
@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (spoilt("next_best", coverage=0.09), "next_best: coverage 0.09 is below 0.1, 50 % of the champion's"),
        (
            spoilt("cross_sell", accuracy=0.10),
            "cross_sell: accuracy 0.1 is below 0.1074, 95 % of the champion's",
        ),
        (
            {k: v for k, v in SOUND.items() if k != "cross_sell"},
            "cross_sell: coverage was not measured, as it was for the champion; "
            "cross_sell: accuracy was not measured, as it was for the champion",
        ),
    ],
)
def test_what_the_champion_did_must_not_be_lost(
    contest: Contest, figures: Mapping[str, Mapping[str, float]], says: str
) -> None:
    assert verdict(contest, 0.05, figures=figures).reason == f"kept: {says}"
    assert verdict(FIRST, 0.05, figures=figures).promote, "without a champion there is nothing to lose"


@pytest.mark.parametrize(
    ("figures", "promote"),
    [
        (spoilt("cross_sell", accuracy=0.1074), True),  # 0.95 × 0.113 = 0.10735
        (spoilt("cross_sell", full_lists=0.99), True),
        (spoilt("next_best", coverage=0.1), True),
        (spoilt("index", index_recall=0.95), True),
        ({**SOUND, "upsell": {"full_lists": 1.0, "violations": 0, "coverage": 0.01, "accuracy": 0.0}}, True),
    ],
)
def test_bounds_are_inclusive_and_a_new_placement_needs_no_champion(
    figures: Mapping[str, Mapping[str, float]], promote: bool
) -> None:
    assert verdict(CHANGED, 0.05, figures=figures).promote is promote


def test_every_reason_is_told() -> None:
    reason = verdict(CHANGED, -0.05, figures=spoilt("next_best", violations=1)).reason
    assert "is not above 0" in reason
    assert "lists that break a rule 1 is not 0" in reason


def test_few_customers_decide_nothing() -> None:
    def among(n: int) -> Verdict:
        return decide(FIRST, metric=METRIC, candidate=np.ones(n), rival=np.zeros(n), figures=SOUND, seed=1)

    assert among(FEWEST_CUSTOMERS).promote
    refused = among(FEWEST_CUSTOMERS - 1)
    assert refused.reason == "kept: 29 customers are too few to tell, 30 are needed: load more data"
    assert refused.comparison is None
    assert not among(0).promote


@given(st.floats(-0.1, 0.1), st.floats(0.0, 1.0), st.integers(0, 3))
def test_a_promotion_means_that_everything_holds(lift: float, full: float, violations: int) -> None:
    figures = spoilt("next_best", full_lists=full, violations=violations)
    candidate, rival = (RIVAL + lift + NOISE)[:60], RIVAL[:60]
    decided = decide(FIRST, metric=METRIC, candidate=candidate, rival=rival, figures=figures, seed=1)
    assert decided.comparison is not None
    assert decided.promote == (decided.comparison.difference.low > 0 and full >= 0.99 and violations == 0)
    assert decided.promote == all(check.holds for check in decided.checks)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.figure)
def test_every_guard_rail_can_hold_and_can_break(guard: Guard) -> None:
    def check(value: float) -> bool:
        measured = {"here": {guard.figure: value}}
        return all(c.holds for c in guarded(guard, measured, {"here": {guard.figure: 1.0}}))

    assert {check(value) for value in (0.0, 1.0)} == {True, False}


@pytest.mark.parametrize(
    ("candidate", "champion", "contest"),
    [
        ({"als": {"factors": 64}}, None, FIRST),
        ({"als": {"factors": 64}}, {"als": {"factors": 64}}, REFRESHED),
        ({"a": 1, "b": (1, 2)}, {"b": [1, 2], "a": 1}, REFRESHED),  # as a manifest reads it back
        ({"als": {"factors": 64}}, {"als": {"factors": 32}}, CHANGED),
        ({"als": {}, "ease": {}}, {"als": {}}, CHANGED),
    ],
)
def test_which_contest_it_is(candidate: object, champion: object, contest: Contest) -> None:
    assert contest_of(candidate, champion) is contest


def test_the_exit_codes_are_a_promise_to_scripts() -> None:
    assert {e.name: int(e) for e in Exit} == {"PROMOTED": 0, "FAILED": 1, "KEPT": 3, "BUSY": 4}
