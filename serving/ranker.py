"""A learned ranker: boosted trees over what is known of a customer and a product (LightGBM)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pairs import columns
from serving.placements import Placement

Array = NDArray[Any]
BEST = 51  # a score is also told as a share of the household's 51st best, so that scales agree
SUFFIX = ".ranker.txt"


def columns_of(placement: Placement) -> tuple[str, ...]:
    """Names of what a placement's ranker looks at: what is known of the pair, and each source's score, plain and
    relative."""
    names = (f"{source.model}.{source.asks}" for source in placement.sources)
    scores = (f"{name}{kind}" for name in names for kind in ("", ".relative"))
    return (*columns(basket=asks_basket(placement)), *scores)


def asks_basket(placement: Placement) -> bool:
    return placement.asks[0] == "products"


def score_columns(scores: Array) -> Array:
    """Each source's scores, plain and over the BEST-th best: [n_items, 2 × sources] of [sources, n_items]."""
    n = scores.shape[1]
    if not n:
        return np.empty((0, 2 * len(scores)), np.float32)
    at = max(n - BEST, 0)
    level = np.partition(scores, at, axis=1)[:, at]
    relative = scores / np.where(level > 1e-9, level, 1)[:, None]
    return np.stack([scores, relative], axis=1).reshape(2 * len(scores), n).T


@dataclass(frozen=True)
class Ranker:
    """Trees that tell how likely it is that a candidate is bought, by a customer who buys in the window.

    kept: the share of wrong answers that it learned from; the odds are set right by it. strangers: whether it was
    taught requests without a known customer.
    """

    model: Any
    columns: tuple[str, ...]
    kept: float
    strangers: bool = True

    def probability(self, values: Array) -> NDArray[np.float32]:
        """How likely each row is right: float32 [n]. `values`: float32 [n, columns]."""
        if not len(values):
            return np.empty(0, np.float32)
        raw = self.model.predict(values, raw_score=True, num_threads=1)
        return (1 / (1 + np.exp(-raw) / self.kept)).astype(np.float32)

    def save(self, folder: Path, name: str) -> None:
        about = json.dumps({"columns": self.columns, "kept": self.kept, "strangers": self.strangers})
        (folder / f"{name}{SUFFIX}").write_text(f"{about}\n{self.model.model_to_string()}")

    @classmethod
    def load(cls, path: Path) -> "Ranker":
        import lightgbm

        about, _, trees = path.read_text().partition("\n")
        told = json.loads(about)
        try:
            model = lightgbm.Booster(model_str=trees)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(f"{path.name}: {error}") from error
        return cls(model, tuple(told["columns"]), float(told["kept"]), bool(told["strangers"]))


def has_ranker(folder: Path, placement: str) -> bool:
    return (folder / f"{placement}{SUFFIX}").exists()


def load_rankers(folder: Path) -> dict[str, Ranker]:
    """Every ranker in a bundle's folder by the placement that it ranks."""
    return {p.name.removesuffix(SUFFIX): Ranker.load(p) for p in sorted(folder.glob(f"*{SUFFIX}"))}
