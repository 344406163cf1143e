"""How sure a mean is: intervals by bootstrap over customers."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGE = 50_000  # customers; from here on the normal approximation is closer than the resampling noise
CHUNK = 2_000_000  # draws held at once: 16 MB of positions and 16 MB of values


@dataclass(frozen=True)
class Interval:
    """A mean over customers, and where it lies at the level that was asked for."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]".replace("-", "−")


def interval(values: ArrayLike, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """The mean of one figure per customer with its percentile interval.

    The order of the customers does not matter, the same seed gives the same interval. Memory is bounded by
    `CHUNK`; from `LARGE` customers on the normal interval is used, which the percentile one converges to.
    """
    data = np.sort(_checked(values))  # sorted, so that the order of the customers cannot change a draw
    tails = (1 - level) / 2
    if len(data) >= LARGE:
        return _normal(data, NormalDist().inv_cdf(1 - tails))
    low, high = np.quantile(_resampled_means(data, resamples, seed), [tails, 1 - tails])
    return Interval(float(data.mean()), float(low), float(high))


def paired_interval(
    a: ArrayLike, b: ArrayLike, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean of a − b, row by row the same customers: what both share cancels out."""
    left, right = _checked(a), _checked(b)
    if left.shape != right.shape:
        raise ValueError(
            f"{len(left)} customers against {len(right)}: align both to the same customers first"
        )
    return interval(left - right, seed=seed, resamples=resamples, level=level)


def _checked(values: ArrayLike) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"need one figure per customer, at least one; got an array of shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(
            f"{(~np.isfinite(data)).sum()} of {len(data)} figures are not finite: leave those customers out"
        )
    return data


def _normal(data: NDArray[np.float64], z: float) -> Interval:
    mean, half = float(data.mean()), z * float(data.std()) / len(data) ** 0.5
    return Interval(mean, mean - half, mean + half)


def _resampled_means(data: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(data))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([data[rng.integers(len(data), size=(n, len(data)))].mean(axis=1) for n in sizes])


def clustered_interval(
    values: ArrayLike, customer: ArrayLike, *, seed: int, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """The mean over questions, its interval by drawing customers with all of their questions.

    Customer −1 is a stranger: each such question stands for itself.
    """
    data, who = _checked(values), np.asarray(customer)
    strangers = who < 0
    cluster = np.where(strangers, who.max(initial=-1) + 1 + np.cumsum(strangers), who)
    _, place = np.unique(cluster, return_inverse=True)
    total, count = np.bincount(place, data), np.bincount(place).astype(np.float64)
    rng, tails = np.random.default_rng(seed), (1 - level) / 2
    means = np.empty(resamples)
    for n in range(resamples):
        drawn = rng.integers(len(total), size=len(total))
        means[n] = total[drawn].sum() / count[drawn].sum()
    low, high = np.quantile(means, [tails, 1 - tails])
    return Interval(float(data.mean()), float(low), float(high))
