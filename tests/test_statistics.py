"""The project's own statistics against scipy's and statsmodels', on spend as shops have it: mostly nothing, a few much.

Tolerances: what is a formula agrees to a part in a million. What is drawn agrees as closely as so many draws can:
three standard errors of a share of 9,999.
"""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportions_chisquare
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from lifecycle.measure.lift import compare, corrected, cuped, detectable, planned_error, ratio

Reals = NDArray[np.float64]
EXACT = 1e-6


def spend(n: int, seed: int, share: float = 0.3, more: float = 1.0) -> Reals:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < share, np.exp(rng.normal(3, 1, n)) * more, 0.0)


def close(p: float, draws: int = 9_999) -> float:
    return 3 * (2 * p * (1 - p / 2) / draws) ** 0.5 + 2e-4


@pytest.mark.parametrize("more", [1.0, 1.5, 2.0])
def test_p_is_that_of_a_studentised_permutation_test(more: float) -> None:
    a, b = spend(240, 1, more=more), spend(80, 2)

    def welch(x: Reals, y: Reals, axis: int = -1) -> Reals:
        error = (x.var(axis=axis, ddof=1) / x.shape[axis] + y.var(axis=axis, ddof=1) / y.shape[axis]) ** 0.5
        return np.asarray((x.mean(axis=axis) - y.mean(axis=axis)) / error)

    theirs = stats.permutation_test(
        (a, b), welch, n_resamples=9_999, vectorized=True, batch=2_000, rng=np.random.default_rng(1)
    ).pvalue
    own = compare(a, b, draws=9_999).p
    # ours draws arms by hashing's chance, whose sizes vary; theirs shuffles
    assert own is not None and abs(own - theirs) < 2**0.5 * close(float(theirs)) + 0.01


def test_of_many_customers_alike_it_is_welchs_test() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(10.2, 2, 900), rng.normal(10, 3, 700)
    own, theirs = compare(a, b, draws=9_999), CompareMeans(DescrStatsW(a), DescrStatsW(b))
    t, p, _ = theirs.ttest_ind(usevar="unequal")
    low, high = theirs.tconfint_diff(usevar="unequal")
    assert own.difference is not None and own.error is not None and own.p is not None and own.ci95
    assert own.difference / own.error == pytest.approx(t, rel=EXACT)
    assert own.p == pytest.approx(p, abs=close(p))
    assert own.ci95 == pytest.approx((low, high), abs=0.06 * own.error)


def test_cuped_is_regression_on_the_covariate() -> None:
    rng = np.random.default_rng(4)
    x, held = np.exp(rng.normal(3, 1, 5_000)), rng.random(5_000) < 0.3
    y = 0.7 * x + rng.normal(0, 8, 5_000) + 2.0 * ~held
    own = compare(y[~held], y[held], before=(x[~held], x[held]), draws=199)
    alone = OLS(y, np.column_stack([np.ones(5_000), x])).fit()
    adjusted, reduction = cuped([y[~held], y[held]], [x[~held], x[held]])
    assert reduction == pytest.approx(alone.rsquared, rel=EXACT)
    left = np.concatenate([alone.resid[~held], alone.resid[held]])
    assert np.concatenate(adjusted) - y.mean() == pytest.approx(left, abs=EXACT)
    both = OLS(y, np.column_stack([np.ones(5_000), ~held, x - x.mean()]).astype(float)).fit(cov_type="HC2")
    # θ of the regression knows the arms, ours does not: they differ by less than a tenth of their error
    assert own.difference == pytest.approx(both.params[1], abs=0.1 * both.bse[1])
    assert own.error == pytest.approx(both.bse[1], rel=0.01)


@pytest.mark.parametrize("sizes", [(25_000, 23_750), (180_100, 19_900), (9_000, 1_050)])
def test_the_ratio_test_is_chi_square(sizes: tuple[int, int]) -> None:
    for share in (0.5, 0.9):
        _, p, _ = proportions_chisquare(sizes[0], sum(sizes), value=share)
        assert ratio(sizes, (share, 1 - share)).p == pytest.approx(p, rel=EXACT)


def test_adjusted_p_is_benjamini_hochbergs() -> None:
    p = np.random.default_rng(5).random(40) ** 3
    assert corrected(p.tolist()) == pytest.approx(multipletests(p, method="fdr_bh")[1], rel=EXACT)


@pytest.mark.parametrize(("customers", "share"), [(2_000, 0.1), (20_000, 0.5)])
def test_what_is_detectable_has_that_power(customers: int, share: float) -> None:
    deviation = 25.0
    effect = detectable(planned_error(deviation, customers, share))
    control = customers * share
    power = NormalIndPower().power(effect / deviation, control, 0.05, ratio=(customers - control) / control)
    assert power == pytest.approx(0.8, abs=1e-4)
    needed = NormalIndPower().solve_power(effect / deviation, None, 0.05, 0.8, ratio=(1 - share) / share)
    assert needed == pytest.approx(control, rel=1e-3)
