"""Learned rankers: what was put forward in the past, what of it was then bought, and trees that tell them apart."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.interactions import DAY, seconds
from serving.bundle import Bundle
from serving.engine import Ask, Chosen, Engine
from serving.placements import Placement
from serving.ranker import NEEDS, WORTH, Ranker, columns_for, ranked_by
from training.evaluate import lifted
from training.split import (
    Future,
    Task,
    baskets,
    chances,
    missing_needs,
    novel,
    opportunities,
    purchases,
    sampled,
)

Array = NDArray[Any]
ROUNDING = 60  # seconds that moments may lose to whole ones
FEWEST_RIGHT = 300  # answers, below which nothing is learned


@dataclass(frozen=True)
class Ranking:
    """How a placement's ranker is learned.

    kept: the share of the wrong candidates that are learned from; most: questions of a window. windows: label
    windows before the last, as far as the history reaches. columns: the share of them that a tree looks at. The
    rest is LightGBM's.
    """

    kept: float = 0.15
    most: int = 6_000
    windows: int = 3
    rounds: int = 200
    rate: float = 0.06
    leaves: int = 31
    least: int = 100
    columns: float = 0.4
    ridge: float = 5.0
    seed: int = 7

    def fit(self, x: Array, y: Array, names: Sequence[str]) -> Ranker:
        """Trees that tell right candidates from wrong ones. The same rows give the same trees."""
        import lightgbm

        params = {
            "objective": "binary", "learning_rate": self.rate, "num_leaves": self.leaves,
            "min_data_in_leaf": self.least, "feature_fraction": self.columns, "bagging_fraction": 0.8,
            "bagging_freq": 1, "lambda_l2": self.ridge, "seed": self.seed, "deterministic": True,
            "force_row_wise": True, "num_threads": 1, "verbose": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(x, y, feature_name=list(names), free_raw_data=True)
        strangers = bool((x[:, names.index("customer.orders")] == 0).any())
        right = float(y.sum())
        base = right / (right + float((~y).sum()) / self.kept)
        return Ranker(lightgbm.train(params, data, self.rounds), tuple(names), self.kept, strangers, base)


RANKINGS: Mapping[str, Ranking] = {
    "next_best": Ranking(kept=0.3, rounds=300, rate=0.05, leaves=63, least=300, columns=0.2, ridge=20.0),
    "discover": Ranking(kept=0.3, rounds=400, rate=0.03, leaves=31, least=300, columns=0.2, ridge=20.0),
    "cross_sell": Ranking(),
    "cross_sell.needs": Ranking(most=8_000, rounds=150, least=300),
    "upsell": Ranking(kept=0.4, rounds=300, rate=0.05, most=12_000),
    "upsell.worth": Ranking(kept=1.0, leaves=15, most=8_000, rounds=150, rate=0.05),
}


def half_named(ask: Callable[..., Task], bundle: Bundle, future: Future) -> Task:
    """Baskets with something hidden, every second one asked without its customer."""
    task = ask(bundle, future, known_customer=True, seed=43)
    requests = [
        r if n % 2 else r.model_copy(update={"customer_id": None}) for n, r in enumerate(task.requests)
    ]
    return replace(task, requests=requests)


# A training in a hurry learns from fewer windows. Whether to make an offer takes as many questions as ever, as few of
# them are answered by one that is taken.
QUICK: Mapping[str, Ranking] = {
    name: replace(
        ranking, windows=1, rounds=120, rate=0.06, most=ranking.most if ranked_by(name)[1] == WORTH else 2_000
    )
    for name, ranking in RANKINGS.items()
}


@dataclass(frozen=True)
class Lesson:
    """What a ranker is taught: questions of a window with known answers, asked without these rules."""

    ask: Callable[[Bundle, Future], Task]
    without: tuple[str, ...] = ()


LESSONS: Mapping[str, Lesson] = {
    "next_best": Lesson(purchases),
    "discover": Lesson(novel),
    "cross_sell": Lesson(partial(half_named, baskets)),
    "cross_sell.needs": Lesson(partial(half_named, missing_needs)),
    "upsell": Lesson(partial(opportunities, owned=True), ("not_owned",)),
    "upsell.worth": Lesson(chances),
}


def label_cutoffs(start: int, until: datetime, days: float, most: int) -> list[datetime]:
    """Moments before `until`, each a window of `days` before the next, latest first; at least as long a past
    lies before the earliest as two windows."""
    found = [until - timedelta(days=days * n) for n in range(1, most + 1)]
    return [at for at in found if seconds(at) - start >= 2 * days * DAY - ROUNDING]


def examples(engine: Engine, name: str, future: Future, ranking: Ranking) -> tuple[Array, Array]:
    """(x: float32 [n, columns], y: bool [n]): what a ranker looks at in a window's questions, most wrong ones left
    out."""
    rng, lesson = np.random.default_rng(ranking.seed), LESSONS[name]
    task = sampled(lesson.ask(engine.bundle, future), ranking.most, seed=ranking.seed)
    engine = lifted(engine, ranked_by(name)[0], lesson.without)
    parts = list(one_by_one(engine, name, task, ranking.kept, rng))
    if not parts:
        return np.empty((0, len(columns_for(name, engine.placements))), np.float32), np.empty(0, bool)
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def one_by_one(
    engine: Engine, name: str, task: Task, kept: float, rng: np.random.Generator
) -> Iterator[tuple[Array, Array]]:
    placement, aspect = ranked_by(name)
    row = engine.placements[placement]
    for request, truth in zip(task.requests, task.truth, strict=True):
        right, seen = SHOWN[aspect](engine, row, engine.ask(row, request), truth[truth >= 0])
        keep = right | (rng.random(len(right)) < kept)
        if keep.any():
            # every candidate is looked at, as a score's place among all is part of what is learned
            yield seen()[keep], right[keep]


# What a question shows: (which of the candidates were right, what the ranker looks at in each of them).
Shown = tuple[Array, Callable[[], Array]]


def items_shown(engine: Engine, row: Placement, ask: Ask, truth: Array) -> Shown:
    _, items, scores = engine.candidates(row.sources, engine.allowed(row.rules, ask, Chosen()), ask)
    return np.isin(items, truth), lambda: engine.signals(row, ask, items, scores)


def offer_shown(engine: Engine, row: Placement, ask: Ask, truth: Array) -> Shown:
    return np.array([len(truth) > 0]), lambda: engine.offer_signals(row, ask)


def needs_shown(engine: Engine, row: Placement, ask: Ask, truth: Array) -> Shown:
    needs = engine.needs_of(row)
    found, scores = needs.candidates(ask.customer, ask.products)
    return np.isin(found, truth), lambda: needs.signals(ask.customer, ask.products, found, scores)


SHOWN: Mapping[str, Callable[[Engine, Placement, Ask, Array], Shown]] = {
    "": items_shown,
    WORTH: offer_shown,
    NEEDS: needs_shown,
}


def save_examples(path: Path, x: Array, y: Array) -> None:
    np.savez(path, x=x, y=y)


def learn(paths: Sequence[Path], columns: Sequence[str], ranking: Ranking) -> Ranker | None:
    """The ranker of these windows' examples; None where they hold too few right answers to learn from."""
    loaded = [np.load(path) for path in paths]
    x = np.concatenate([part["x"] for part in loaded])
    y = np.concatenate([part["y"] for part in loaded])
    if y.sum() < FEWEST_RIGHT or y.all():
        return None
    return ranking.fit(x, y, columns)
