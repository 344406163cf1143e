"""What a ranker has learned: whether its probabilities come true, and what they rest on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.engine import Engine
from serving.placements import Placement
from serving.ranker import WORTH, Ranker, ranked_by
from training.evaluate import ndcg
from training.intervals import Interval, interval
from training.jobs import Later
from training.rank import LESSONS, one_by_one
from training.split import sampled, subset

Array = NDArray[Any]
QUESTIONS, CANDIDATES = 300, 100_000  # looked at, whichever is reached first
SHUFFLED, SHUFFLED_CANDIDATES = 100, 40_000  # of them, as each group of columns is predicted anew
OFFERS = 10  # so many questions of an offer are looked at together
EDGES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # between bins of probability
K = 10
RESAMPLES = 500

BLOCKS = {
    "customer": "the customer",
    "own": "customer and product",
    "need": "customer and the product's need",
    "parent": "customer and the category above",
    "brand": "customer and brand",
    "item": "the product",
    "promotion": "its promotions",
    "pair": "customer and product, combined",
    "basket": "the basket",
    "offer": "what may be offered",
}


@dataclass(frozen=True)
class Bin:
    """Candidates of like probability: how many, the mean of it, and the share that was bought."""

    n: int
    predicted: float
    bought: float


@dataclass(frozen=True)
class Group:
    """What a ranker owes to some of its columns.

    gain: their share of what all splits gained in learning. ndcg_lost, loss_added: how much worse NDCG@K and log loss
    become when their values are shuffled among all candidates, together, and the ranker stays as it is.
    """

    name: str
    gain: float
    ndcg_lost: Interval
    loss_added: float


@dataclass(frozen=True)
class Insight:
    """ndcg, log_loss: of `shuffled` questions, those with something right among their candidates, before anything is
    shuffled; NDCG is over the candidates alone."""

    questions: int
    candidates: int
    bins: tuple[Bin, ...]
    shuffled: int
    ndcg: float
    log_loss: float
    groups: tuple[Group, ...]

    @property
    def calibration_error(self) -> float:
        """The expected one: how far share and probability lie apart, each candidate counting alike."""
        return sum(b.n * abs(b.predicted - b.bought) for b in self.bins) / max(self.candidates, 1)

    @property
    def expected(self) -> float:
        """How many are bought by the ranker's word."""
        return sum(b.n * b.predicted for b in self.bins)

    @property
    def bought(self) -> float:
        return sum(b.n * b.bought for b in self.bins)


def inspect(folder: Path, later: Later, name: str, *, seed: int) -> Insight | None:
    """Look at a bundle's ranker in a window that it has not seen; None where it has none, or nothing was asked."""
    engine = Engine.load(folder)
    if (ranker := engine.rankers.get(name)) is None:
        return None
    placement, aspect = ranked_by(name)
    most = QUESTIONS * (OFFERS if aspect == WORTH else 1)
    task = sampled(LESSONS[name].ask(engine.bundle, later.future(engine.bundle)), most, seed=seed)
    rng = np.random.default_rng(seed)
    task = subset(task, task.truth, rng.permutation(len(task)))
    asked = list(enough(one_by_one(engine, name, task, 1.0, rng)))
    asked = pooled(asked) if aspect == WORTH else asked
    return insight(ranker, engine.placements[placement], asked, seed=seed) if asked else None


def pooled(asked: Sequence[tuple[Array, Array]]) -> list[tuple[Array, Array]]:
    """Each OFFERS questions as one: whether to offer is one candidate by itself, ranked against other customers'."""
    return [
        (np.concatenate([x for x, _ in part]), np.concatenate([y for _, y in part]))
        for part in (asked[n : n + OFFERS] for n in range(0, len(asked), OFFERS))
    ]


def enough(asked: Iterator[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """The questions until they hold CANDIDATES."""
    total = 0
    for x, y in asked:
        yield x, y
        total += len(y)
        if total >= CANDIDATES:
            return


def telling(asked: Sequence[tuple[Array, Array]]) -> Sequence[tuple[Array, Array]]:
    """Questions with something right among their candidates, as many as may be shuffled; the first of all where none
    has."""
    found = [(x, y) for x, y in asked if y.any()]
    ends = np.cumsum([len(y) for _, y in found])
    most = min(SHUFFLED, max(1, int(np.searchsorted(ends, SHUFFLED_CANDIDATES, side="right"))))
    return found[:most] or asked[:1]


def insight(ranker: Ranker, row: Placement, asked: Sequence[tuple[Array, Array]], *, seed: int) -> Insight:
    """`asked`: of each question the candidates' columns and which of them were right."""
    right = np.concatenate([y for _, y in asked])
    found = ranker.probability(np.concatenate([x for x, _ in asked]))
    few = telling(asked)
    x, y = (np.concatenate([part[n] for part in few]) for n in (0, 1))
    ends = np.cumsum([len(part[1]) for part in few])[:-1]
    plain = ranker.probability(x)
    base, loss = gains(plain, y, ends), log_loss(plain, y)
    gain = ranker.model.feature_importance("gain")
    shuffle = np.random.default_rng(seed).permutation(len(x))
    groups = []
    for name, of in grouped(ranker.columns, row).items():
        other = x.copy()
        other[:, of] = x[shuffle][:, of]
        p = ranker.probability(other)
        lost = interval(base - gains(p, y, ends), seed=seed, resamples=RESAMPLES) if len(base) else NONE
        groups.append(Group(name, float(gain[of].sum() / max(gain.sum(), 1e-9)), lost, log_loss(p, y) - loss))
    groups.sort(key=lambda group: -group.gain)
    mean = float(base.mean()) if len(base) else 0.0
    return Insight(len(asked), len(right), binned(found, right), len(few), mean, loss, tuple(groups))


NONE = Interval(0.0, 0.0, 0.0)


def grouped(columns: Sequence[str], row: Placement) -> dict[str, list[int]]:
    """Where the columns of each block, and of each source, stand."""
    sources = {f"{s.model}.{s.asks}": f"score of {s.model} ({s.asks})" for s in row.sources}
    groups: dict[str, list[int]] = {}
    for n, column in enumerate(columns):
        block = column.partition(".")[0]
        source = sources.get(column.removesuffix(".relative")) or BLOCKS.get(block, f"score of {block}")
        groups.setdefault(source, []).append(n)
    return groups


def binned(found: Array, right: Array) -> tuple[Bin, ...]:
    """Candidates by probability between EDGES; bins that hold none are left out."""
    place = np.searchsorted(EDGES, found, side="right")
    inside = [place == n for n in range(len(EDGES) + 1)]
    return tuple(Bin(int(i.sum()), float(found[i].mean()), float(right[i].mean())) for i in inside if i.any())


def gains(p: Array, y: Array, ends: Array) -> NDArray[np.float64]:
    """NDCG@K of each question that has a right candidate, its candidates by falling probability."""
    lists = [
        right[np.argsort(-of, kind="stable")]
        for of, right in zip(np.split(p, ends), np.split(y, ends), strict=True)
    ]
    hits = [np.append(found, np.zeros(K, bool))[:K] for found in lists if found.any()]
    return ndcg(np.array(hits, bool).reshape(-1, K), np.array([f.sum() for f in lists if f.any()], np.int64))


def log_loss(p: Array, y: Array) -> float:
    sure = np.clip(np.where(y, p, 1 - p.astype(np.float64)), 1e-7, 1)
    return float(-np.log(sure).mean())
