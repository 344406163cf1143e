"""How sure a mean is: intervals by bootstrap over customers."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGE = 50_000  # customers; from here on the normal approximation is closer than the resampling noise
CHUNK = 2_000_000  # draws held at once: 16 MB of positions and 16 MB of values
KEPT = 8_000_000  # draws that are kept for other figures of the same customers: 64 MB


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
    place = clusters(who)
    both = np.stack([np.bincount(place, data), np.bincount(place)])
    total, count = np.array([both @ times for times in draws(both.shape[1], resamples, seed)]).T
    tails = (1 - level) / 2
    low, high = np.quantile(total / count, [tails, 1 - tails])
    return Interval(float(data.mean()), float(low), float(high))


def draws(n: int, resamples: int, seed: int) -> Iterable[NDArray[np.float64]]:
    """How often each of n customers is drawn, of each resample. Many figures are of the same customers: their draws
    are kept, where they are few enough."""
    return kept(n, resamples, seed) if n * resamples <= KEPT else made(n, resamples, seed)


@lru_cache(maxsize=2)
def kept(n: int, resamples: int, seed: int) -> NDArray[np.float64]:
    return np.array(list(made(n, resamples, seed)))


def made(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return (np.bincount(rng.integers(n, size=n), minlength=n).astype(np.float64) for _ in range(resamples))


def clusters(customer: NDArray[np.int32]) -> NDArray[np.int64]:
    """A number from 0 on for each customer's questions; each stranger, −1, is one alone."""
    strangers = customer < 0
    cluster = np.where(strangers, customer.max(initial=-1) + 1 + np.cumsum(strangers), customer)
    return np.asarray(np.unique(cluster, return_inverse=True)[1], np.int64)


def auc_interval(
    scores: ArrayLike, right: ArrayLike, customer: ArrayLike, *, seed: int, resamples: int = 2000
) -> Interval:
    """How often a right question has a higher score than a wrong one, ties being half, and its 95 % interval by
    drawing customers with all of their questions. 0.5 where only right or only wrong ones are known."""
    return auc_intervals({"": scores}, right, customer, seed=seed, resamples=resamples)[""]


def auc_intervals(
    scores: Mapping[str, ArrayLike],
    right: ArrayLike,
    customer: ArrayLike,
    *,
    seed: int,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """The AUC of each of these scores of the same questions, as `auc_interval` has it, and by "FIRST − OTHER" how much
    higher the first one's is than each other's, by the same draws."""
    levels = [np.unique(_checked(of), return_inverse=True)[1] for of in scores.values()]
    place, is_right = clusters(np.asarray(customer)), np.asarray(right, bool)
    n = int(place.max()) + 1
    found = np.array([
        [auc(level, is_right, times[place]) for level in levels]
        for times in chain([np.ones(n)], draws(n, resamples, seed))
    ])  # fmt: skip
    first, *others = scores
    columns = dict(zip(scores, found.T, strict=True))
    return {
        name: Interval(float(of[0]), *map(float, np.quantile(of[1:], [0.025, 0.975])))
        for name, of in (
            *columns.items(),
            *((f"{first} − {other}", columns[first] - columns[other]) for other in others),
        )
    }


def auc(level: NDArray[np.int64], right: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """The area under the ROC curve; level: the rank of each score, equal ones alike, from 0 on."""
    good = np.bincount(level[right], weight[right], minlength=level.max() + 1)
    bad = np.bincount(level[~right], weight[~right], minlength=level.max() + 1)
    pairs = good.sum() * bad.sum()
    return float(good @ (np.cumsum(bad) - bad / 2) / pairs) if pairs else 0.5
