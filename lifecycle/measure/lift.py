"""What a treatment changed, by arrays alone: one figure a customer of each arm in, one frozen answer out.

Spend is heavy-tailed and mostly 0, and a control group is small: there a t-test tells of wins that are none. So the
difference is studentised (Welch 1947), but judged by the assignments that might as well have been drawn (Fisher 1935)
and by no normal law. Studentised, such a test holds for the mean also where the arms differ in more than that
(Janssen 1997; Chung & Romano 2013; for experiments Wu & Ding 2021).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Reals = NDArray[np.float64]
LEVEL = 0.95
POWER = 0.8  # with which the smallest detectable effect is found
LEAST_BUYERS = 5  # in each arm, also by their part of all: with fewer nothing is said
DRAWS = 1_999  # assignments drawn
EXACT = 20_000  # different values drawn one by one; the many small ones beyond them come in together
CHUNK = 2_000_000  # customers chosen, held at once
ALARM = 0.001  # below it arms are not of the sizes that were planned


class LiftError(ValueError):
    """Nothing can be measured so; the message says why and what to do."""


@dataclass(frozen=True)
class Side:
    """An arm by itself."""

    customers: int
    buyers: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: Reals, buyers: int) -> "Side":
        varies = len(values) > 1
        return cls(
            len(values), buyers, float(values.mean()) if len(values) else 0.0,
            float(values.var(ddof=1)) if varies else 0.0,
        )  # fmt: skip

    @property
    def error(self) -> float:
        """The variance of the mean."""
        return self.variance / max(self.customers, 1)


@dataclass(frozen=True)
class Lift:
    """A treated arm against the control, by intention to treat. Where `refused` says why, nothing is claimed: all
    that compares is None.

    difference: of the means, treated − control, adjusted where there is a covariate. incremental: that times the
    treated customers. lift: that as a part of the control's mean. detectable: the smallest true difference that
    would have been found 8 times in 10. reduction: of the variance, by the covariate.
    """

    treated: Side
    control: Side
    refused: str | None = None
    difference: float | None = None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    lift: float | None = None
    incremental: float | None = None
    incremental_ci95: tuple[float, float] | None = None
    detectable: float | None = None
    reduction: float | None = None
    error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }


# --- one treated arm against the control ------------------------------------------------------------------


def compare(
    treated: ArrayLike,
    control: ArrayLike,
    *,
    before: tuple[ArrayLike, ArrayLike] | None = None,
    seed: int = 7,
    draws: int = DRAWS,
    least: int = LEAST_BUYERS,
    counted: str = "buyers",
) -> Lift:
    """What the treated arm has more than the control. `before`: of the same customers what was known of them before the
    assignment (their spend before), treated and control; it narrows the interval, and never moves the truth. `counted`:
    what those are called whose figure is not 0.

    The p-value is that of the studentised randomisation test with equal tails, p = 2 min(P(T* ≥ T), P(T* ≤ T)), and the
    interval inverts it: difference − (the quantiles of T*) × standard error, so that it holds 0 where p > 0.05.
    Sources: Wu & Ding 2021 (doi:10.1080/01621459.2020.1750415); Chung & Romano 2013 (doi:10.1214/13-AOS1090).

    Raises LiftError where values are not finite or an arm is empty.
    """
    sides = [checked(values) for values in (treated, control)]
    of = [Side.of(values, int(np.count_nonzero(values))) for values in sides]
    why = too_few(of[0], of[1], least, counted)
    if why:
        return Lift(of[0], of[1], why)
    adjusted, reduction = (sides, None) if before is None else cuped(sides, [checked(x) for x in before])
    used = [Side.of(values, side.buyers) for values, side in zip(adjusted, of, strict=True)]
    error = (used[0].error + used[1].error) ** 0.5
    if not error:
        return Lift(of[0], of[1], "nothing differs between customers")
    difference = used[0].mean - used[1].mean
    drawn = null(np.concatenate(adjusted), len(sides[1]), seed=seed, draws=draws)
    low, high = interval(difference, error, drawn)
    n, base = of[0].customers, of[1].mean
    return Lift(
        of[0], of[1], None, difference, (low, high), p_value(difference / error, drawn),
        difference / base if base > 0 else None, difference * n, (low * n, high * n),
        detectable(error), reduction, error,
    )  # fmt: skip


def checked(values: ArrayLike) -> Reals:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise LiftError("an arm has no customers: each needs one figure a customer")
    if not np.isfinite(found).all():
        raise LiftError(
            f"{(~np.isfinite(found)).sum()} figures are missing or not finite: leave none out, say 0"
        )
    return found


def too_few(treated: Side, control: Side, least: int = LEAST_BUYERS, counted: str = "buyers") -> str | None:
    """Why nothing may be said: too few buyers in an arm, by count or as the arm's part of all of them."""
    everybody = treated.customers + control.customers
    for name, side in (("control", control), ("treated arm", treated)):
        part = (treated.buyers + control.buyers) * side.customers / everybody
        if min(side.buyers, part) < least:
            return (
                f"the {name} has {side.buyers} {counted} of {side.customers:,} customers, {part:.1f} were to be "
                f"expected, and fewer than {least} say nothing of the others: wait, or hold back more"
            )
    return None


def cuped(values: Sequence[Reals], before: Sequence[Reals]) -> tuple[list[Reals], float]:
    """What was spent less what spend before leads to expect, y − θ (x − x̄) with θ = cov(x, y) / var(x) over both arms
    together, and by how much the variance is lower so. As θ does not know the arms, the test stays exact.
    Source: Deng, Xu, Kohavi & Walker 2013 (doi:10.1145/2433396.2433413), eq. 3 to 5."""
    if [len(x) for x in before] != [len(y) for y in values]:
        raise LiftError("the covariate needs one figure for each customer of the arm")
    y, x = np.concatenate(values), np.concatenate(before)
    varies, centre = float(x.var()), float(x.mean())
    theta = float(((x - centre) * (y - y.mean())).mean()) / varies if varies else 0.0
    left = [v - theta * (b - centre) for v, b in zip(values, before, strict=True)]
    return left, 1 - float(np.concatenate(left).var()) / (float(y.var()) or 1.0)


def null(values: Reals, control: int, *, seed: int, draws: int = DRAWS) -> Reals:
    """T* of assignments drawn anew, each customer to the control with the chance control / all as by hashing, were the
    treatment without any effect: float64 [draws], sorted.

    The statistic asks only for count, sum and sum of squares of the control, so customers of one value (as all who
    bought nothing) are drawn at once as a binomial count, others one by one. Of more than EXACT different values the
    outermost are drawn so, the others' sums by their joint normal law.
    """
    rng, chance = np.random.default_rng(seed), control / len(values)
    level, count = np.unique(values, return_counts=True)
    sums = np.zeros((draws, 3))
    many = count > 1
    for value, n in zip(level[many], count[many], strict=True):
        sums += rng.binomial(n, chance, draws)[:, None] * powers(value)
    single = level[~many]
    if len(single) > EXACT:
        order = np.argsort(-np.abs(single - np.median(values)), kind="stable")
        sums += together(rng, powers(single[order[EXACT:]]), chance, draws)
        single = single[order[:EXACT]]
    sums += one_by_one(rng, powers(single), chance, draws)
    return np.sort(studentised(sums, powers(values).sum(axis=0)))


def powers(values: ArrayLike) -> Reals:
    """(1, y, y²) of each."""
    y = np.asarray(values, np.float64)
    return np.stack([np.ones_like(y), y, y * y], axis=-1)


def one_by_one(rng: np.random.Generator, terms: Reals, chance: float, draws: int) -> Reals:
    """The sums of the terms whose customer falls to the control: float64 [draws, 3]. All customers of all draws stand
    in one row, and the gaps between those who fall to the smaller arm are geometric (Devroye 1986, ch. X.2)."""
    if chance > 0.5:
        return terms.sum(axis=0) - one_by_one(rng, terms, 1 - chance, draws)
    found, n = np.zeros((draws, 3)), len(terms)
    step = max(1, round(CHUNK / max(n * chance, 1)))
    for start in range(0, draws if n else 0, step):
        rows = min(step, draws - start)
        row, place = np.divmod(chosen(rng, rows * n, chance), n)
        for column in range(3):
            found[start : start + rows, column] = np.bincount(row, terms[place, column], rows)
    return found


def chosen(rng: np.random.Generator, n: int, chance: float) -> NDArray[np.int64]:
    """The places of 0 to n − 1 that are chosen, each with this chance by itself, sorted."""
    parts, at = [], -1
    while at < n:
        more = int((n - at) * chance + 6 * ((n - at) * chance) ** 0.5 + 10)
        parts.append(at + np.cumsum(rng.geometric(chance, more)))
        at = int(parts[-1][-1])
    places = np.concatenate(parts)
    return places[: np.searchsorted(places, n)]


def together(rng: np.random.Generator, terms: Reals, chance: float, draws: int) -> Reals:
    """The same of very many small terms, by their mean and covariance."""
    spread = chance * (1 - chance) * (terms.T @ terms)
    return rng.multivariate_normal(chance * terms.sum(axis=0), spread, draws, method="svd")


def studentised(control: Reals, every: Reals) -> Reals:
    """(mean of the others − mean of the control) / its standard error, by count, sum and sum of squares. 0 where
    nothing varies."""
    parts = []
    for n, total, square in (np.moveaxis(every - control, -1, 0), np.moveaxis(control, -1, 0)):
        size = np.maximum(n, 2)
        mean = total / size
        parts.append((mean, np.maximum(square / size - mean**2, 0) / (size - 1)))
    error = np.sqrt(parts[0][1] + parts[1][1])
    difference = parts[0][0] - parts[1][0]
    return np.divide(difference, error, out=np.zeros_like(error), where=error > 0)


def p_value(t: float, drawn: Reals) -> float:
    """Equal tails, the observed assignment being one of those drawn (Phipson & Smyth 2010)."""
    least = 1e-9 * max(abs(t), 1)
    above = len(drawn) - int(np.searchsorted(drawn, t - least, side="left"))
    below = int(np.searchsorted(drawn, t + least, side="right"))
    return min(1.0, 2 * (1 + min(above, below)) / (1 + len(drawn)))


def interval(difference: float, error: float, drawn: Reals, level: float = LEVEL) -> tuple[float, float]:
    """Every difference that the test would not reject."""
    skip = int((1 - level) / 2 * (len(drawn) + 1))  # so many drawn at each end are rejected
    low, high = drawn[max(skip - 1, 0)], drawn[len(drawn) - max(skip, 1)]
    return float(difference - high * error), float(difference - low * error)


# --- how much can be seen ---------------------------------------------------------------------------------


def detectable(error: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference found with this power: (z₁₋α⸝₂ + z_power) × standard error. Of a plan the error is
    `planned_error`. Source: Cohen 1988, ch. 2; large samples."""
    return float(stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)) * error


def planned_error(deviation: float, customers: int, share: float) -> float:
    """The standard error of a difference before launch: σ √(1/n_t + 1/n_c), the control being `share` of all."""
    if not 0 < share < 1 or customers * min(share, 1 - share) < 1:
        raise LiftError(f"a control of {share:g} of {customers:,} customers leaves an arm empty")
    return float(deviation * (1 / (customers * share) + 1 / (customers * (1 - share))) ** 0.5)


# --- whether the arms are of the sizes planned ------------------------------------------------------------


CAUSES = (
    "customers of one arm were dropped before they were counted (erased, merged, bounced, bots filtered)",
    "the share or the seed was changed within the period",
    "one arm was filtered by what the other was not (consent, caps, lists too short, send failures)",
    "decisions of one arm were not stored, or not yet",
)


@dataclass(frozen=True)
class Ratio:
    """Whether arms have the sizes that were planned. `assumed`: the plan was not told, but guessed as the nearest
    round one."""

    observed: tuple[int, ...]
    expected: tuple[float, ...]
    p: float
    alarm: bool
    assumed: bool = False
    causes: tuple[str, ...] = ()


def ratio(observed: Sequence[int], shares: Sequence[float], *, assumed: bool = False) -> Ratio:
    """The sample ratio test: χ² = Σ (observed − expected)² / expected. Below p = 0.001 the arms are not comparable,
    whatever else is found. Source: Fabijan et al. 2019 (doi:10.1145/3292500.3330722)."""
    total, parts = sum(observed), np.asarray(shares, np.float64) / sum(shares)
    if len(observed) != len(shares) or min(shares) <= 0 or not total:
        raise LiftError("the ratio of arms needs a share above 0 for each arm, and customers")
    expected = parts * total
    p = float(stats.chisquare(np.asarray(observed, np.float64), expected).pvalue)
    alarm = p < ALARM
    return Ratio(tuple(observed), tuple(map(float, expected)), p, alarm, assumed, CAUSES if alarm else ())


# --- several at once, and looks in between ----------------------------------------------------------------


def corrected(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini & Hochberg's adjusted p-values over several comparisons; None stays None. At 0.05, of all that are
    told to work, 1 in 20 does not. Source: Benjamini & Hochberg 1995."""
    known = [value for value in p if value is not None]
    found = iter(stats.false_discovery_control(known, method="bh").tolist() if known else ())
    return [None if value is None else float(next(found)) for value in p]


def looked_at(
    difference: ArrayLike, error: ArrayLike, customers: ArrayLike, *, planned: int, level: float = LEVEL
) -> tuple[Reals, Reals]:
    """An interval for each look that holds at all looks together, however often one looks and whenever one stops:
    difference ± SE √((1 + 1/(nρ²)) log((nρ² + 1)/α²)), with ρ such that it is narrowest at `planned` customers.
    Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024 (doi:10.1214/24-AOS2408), asymptotic confidence
    sequences, Theorem 2.2 and its choice of ρ."""
    n, alpha = np.maximum(np.asarray(customers, np.float64), 1), 1 - level
    room = -2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha))
    scaled = n * room / max(planned, 1)
    half = np.asarray(error, np.float64) * np.sqrt((1 + 1 / scaled) * np.log((scaled + 1) / alpha**2))
    centre = np.asarray(difference, np.float64)
    return centre - half, centre + half


def leak(control: int, reached: int) -> float:
    """The share of the control that was treated after all. An effect then looks (1 − share) times as large as it is.
    Source: Angrist, Imbens & Rubin 1996: intention to treat over the difference of the arms' shares treated."""
    return reached / control if control else 0.0
