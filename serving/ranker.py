"""A learned ranker: boosted trees over what is known of a customer and a product (LightGBM)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.pairs import columns, need_columns
from serving.fitted import mapped, top_k
from serving.placements import Placement

Array = NDArray[Any]
BEST = 51  # a score is also told as a share of the household's 51st best, so that scales agree
FIRST_TREES = 40  # every candidate is shown to these; what then stands far behind does not meet the others
LEEWAY = 30  # candidates beyond the wanted that meet every tree
SUFFIX = ".ranker.txt"
WORTH, NEEDS = "worth", "needs"
PUBLISHED = 100  # items of a customer's ranking that a bundle holds
# of an item: its place in the catalogue, −1 where the ranking ended before; and what is told of it, how often the
# customer had bought it by then and when last (seconds)
BOUGHT = np.dtype([("times", "<u2"), ("last", "<u4")])
RANKED = np.dtype([("item", "<i4"), ("score", "<f4"), ("source", "<i2"), ("bought", BOUGHT)])
MOST_TIMES = np.iinfo(BOUGHT["times"]).max
ENDED = np.array((-1, 0, 0, (0, 0)), RANKED)
RANKED_SUFFIX = ".ranked.npy"


def ranked_by(name: str) -> tuple[str, str]:
    """(the placement, what of it is judged) by a ranker's name: `upsell` judges its items, `upsell.worth` whether
    there is to be an offer at all, `cross_sell.needs` the needs that go with a basket."""
    placement, _, aspect = name.partition(".")
    return placement, aspect


def columns_for(name: str, placements: Mapping[str, Placement]) -> tuple[str, ...]:
    """Names of what a ranker looks at."""
    placement, aspect = ranked_by(name)
    return ASPECTS[aspect](placements[placement])


def columns_of(placement: Placement) -> tuple[str, ...]:
    """Of a ranker of items: what is known of the pair, and each source's score, plain and relative."""
    names = (f"{source.model}.{source.asks}" for source in placement.sources)
    scores = (f"{name}{kind}" for name in names for kind in ("", ".relative"))
    return (*columns(basket=asks_basket(placement)), *scores)


def worth_columns(placement: Placement) -> tuple[str, ...]:
    """What is known of the customer with the product asked about, and of what may be offered in its place."""
    del placement
    return columns(offer=True)


def columns_of_needs(placement: Placement) -> tuple[str, ...]:
    """What is known of the customer with a need, and the scores of needs, plain and relative."""
    asked = [source.model for source in placement.sources if source.asks == "products"]
    scorers = [placement.needs, *(f"{model}.{of}" for model in asked for of in ("sum", "most"))]
    return (*need_columns(), *(f"{name}{kind}" for name in scorers for kind in ("", ".relative")))


ASPECTS: Mapping[str, Callable[[Placement], tuple[str, ...]]] = {
    "": columns_of,
    WORTH: worth_columns,
    NEEDS: columns_of_needs,
}


def asks_basket(placement: Placement) -> bool:
    return placement.asks[0] == "products"


def is_published(placement: Placement) -> bool:
    """Whether a customer alone decides a placement's ranking, so that it can be made beforehand."""
    return all(source.asks != "products" for source in placement.sources)


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
    taught requests without a known customer. base: the share of right ones among all that it was taught.
    """

    model: Any
    columns: tuple[str, ...]
    kept: float
    strangers: bool = True
    base: float = 0.0

    def probability(self, values: Array, best: int | None = None) -> NDArray[np.float32]:
        """How likely each row is right: float32 [n]. `values`: float32 [n, columns].

        Where only the `best` so many are wanted, rows that the first trees put far behind (beyond LEEWAY more)
        do not meet the others: they come after all that did, in the order of the first trees.
        """
        if not len(values):
            return np.empty(0, np.float32)
        if best is None or best + LEEWAY >= len(values):
            return self.odds(self.raw(values))
        raw = self.raw(values, of=FIRST_TREES)
        ahead = top_k(raw, best + LEEWAY)
        behind = np.setdiff1d(np.arange(len(raw)), ahead, assume_unique=True)
        raw[ahead] += self.raw(values[ahead], start=FIRST_TREES)
        found = self.odds(raw)
        found[behind] *= np.nextafter(found[ahead].min(), np.float32(0))
        return found

    def raw(self, values: Array, *, start: int = 0, of: int = -1) -> NDArray[np.float64]:
        """Sum of so many trees from `start` on; −1: all that are left."""
        if start >= self.model.num_trees():
            return np.zeros(len(values))
        found: NDArray[np.float64] = self.model.predict(
            values, raw_score=True, num_threads=1, start_iteration=start, num_iteration=of
        )
        return found

    def odds(self, raw: NDArray[np.float64]) -> NDArray[np.float32]:
        return (1 / (1 + np.exp(-raw) / self.kept)).astype(np.float32)

    def save(self, folder: Path, name: str) -> None:
        about = json.dumps(
            {"columns": self.columns, "kept": self.kept, "strangers": self.strangers, "base": self.base}
        )
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
        return cls(
            model, tuple(told["columns"]), float(told["kept"]), bool(told["strangers"]), told.get("base", 0.0)
        )


def has_ranker(folder: Path, placement: str) -> bool:
    return (folder / f"{placement}{SUFFIX}").exists()


def load_rankers(folder: Path) -> dict[str, Ranker]:
    """Every ranker in a bundle's folder by the placement that it ranks."""
    return {p.name.removesuffix(SUFFIX): Ranker.load(p) for p in sorted(folder.glob(f"*{SUFFIX}"))}


def load_rankings(folder: Path) -> dict[str, Array]:
    """Every ranking made beforehand in a bundle's folder by its placement: RANKED [n_customers, PUBLISHED]."""
    return {p.name.removesuffix(RANKED_SUFFIX): mapped(p) for p in sorted(folder.glob(f"*{RANKED_SUFFIX}"))}
