"""One rival, fitted and asked, in a process of its own.

    python -m benchmarks.learners PAST QUESTIONS… --spec '{"learner": "als", "params": {…}}' --out FOLDER

It needs numpy, scipy and the library of its learner, no more, so that it runs in an environment that pins other
versions than the project's. What it reads and writes are plain arrays. Every learner returns scores; one function
makes lists of them, so that no rival wins or loses by the way its library takes the top.
"""

import argparse
import json
import re
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from serving.fitted import top_k

Array = NDArray[Any]
SEED = 7
CHUNK = 128  # questions whose scores of every item are held at once
BLOCK = 64  # items whose best is looked at first
FILL_DAYS = 28


# --- what is known, and what is asked, as files ---------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """Aligned arrays of what was bought before a moment: a row for a customer, an order and an item.

    age: days to that moment. sizes: how many customers, orders and items there are. available: bool [items].
    levels: int [items, depth], a code for each level of an item's category path, −1 where there is none.
    feature_*: csr [items, features], as LightFM takes them.
    """

    customer: Array
    order: Array
    item: Array
    age: Array
    quantity: Array
    paid: Array
    sizes: Array
    available: Array
    levels: Array
    feature_data: Array
    feature_indices: Array
    feature_indptr: Array

    @property
    def features(self) -> sparse.csr_matrix:
        cells = (self.feature_data, self.feature_indices, self.feature_indptr)
        return sparse.csr_matrix(
            cells, shape=(len(self.available), int(self.feature_indices.max(initial=0)) + 1)
        )

    def matrix(
        self, *, rows: str = "customers", value: str = "count", half_life: float = 0, days: float = 0
    ) -> sparse.csr_matrix:
        """What customers, or orders, hold: float32 csr with int32 indices, as compiled libraries ask for.

        A purchase counts 2^(−age / half_life), or 1 without one. A cell is their sum (count), log(1 + sum), or
        the latest of them (binary). Only the last `days` where that is given.
        """
        who, n_rows = (self.customer, self.sizes[0]) if rows == "customers" else (self.order, self.sizes[1])
        kept = (who >= 0) & (self.age <= days if days else True)
        weight = np.exp2(-self.age[kept] / half_life) if half_life else np.ones(int(kept.sum()))
        shape = (int(n_rows), int(self.sizes[2]))
        if value == "binary":
            cell = who[kept].astype(np.int64) * shape[1] + self.item[kept]
            latest = np.lexsort((-weight, cell))
            latest = latest[np.unique(cell[latest], return_index=True)[1]]
            place, weight = cell[latest], weight[latest]
            found = sparse.csr_matrix(
                (weight, (place // shape[1], place % shape[1])), shape=shape, dtype=np.float32
            )
        else:
            found = sparse.csr_matrix((weight, (who[kept], self.item[kept])), shape=shape, dtype=np.float32)
        if value == "log":
            found.data = np.log1p(found.data)
        return in_int32(found)

    def popular(self, days: float, by: str = "buyers") -> Array:
        """How many customers, or orders, bought each item in the last days; older purchases decide among the rest.

        float32 [items]. An anonymous order counts as a customer of its own.
        """
        guests = self.sizes[0] + self.order
        who = np.where(self.customer >= 0, self.customer, guests) if by == "buyers" else self.order
        recent, ever = (self.holders(who, self.age <= most) for most in (days, np.inf))
        return (recent + ever / (ever.max(initial=0) + 1)).astype(np.float32)

    def holders(self, who: Array, rows: Array) -> Array:
        """How many different `who` hold each item, in these rows."""
        cells = (np.ones(int(rows.sum()), np.float32), (who[rows], self.item[rows]))
        held = sparse.csr_matrix(cells, shape=(int(self.sizes[:2].sum()), int(self.sizes[2])))
        return np.bincount(held.indices, minlength=held.shape[1])


@dataclass(frozen=True)
class Questions:
    """Who is asked for, and with which items. `owned`: whether what the customer ever bought may be answered.

    who: positions of customers, −1 for nobody. indptr, indices: what each question holds, and may not be answered.
    """

    who: Array
    indptr: Array
    indices: Array
    k: Array
    owned: Array

    def __len__(self) -> int:
        return len(self.who)

    def held(self, rows: slice, n_items: int) -> sparse.csr_matrix:
        start, end = self.indptr[rows.start], self.indptr[rows.stop]
        indptr = self.indptr[rows.start : rows.stop + 1] - start
        ones = np.ones(int(end - start), np.float32)
        return sparse.csr_matrix((ones, self.indices[start:end], indptr), shape=(len(indptr) - 1, n_items))


def save(value: Past | Questions, path: Path) -> None:
    np.savez(path, **{f.name: getattr(value, f.name) for f in fields(value)})


def load_past(path: Path) -> Past:
    with np.load(path, allow_pickle=False) as found:
        return Past(**found)


def load_questions(path: Path) -> Questions:
    with np.load(path, allow_pickle=False) as found:
        return Questions(**found)


def in_int32(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    return matrix


# --- what a learner returns ---------------------------------------------------------------------------------


class Model(Protocol):
    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        """Scores of every item for customers (−1: nobody) with what they hold just now: float [n, items].

        −inf where an item is no candidate. The array is the caller's own.
        """
        ...


def rows_of(matrix: Any, who: Array) -> Any:
    """Rows of a csr or dense matrix, zeros for −1 and where the matrix has none."""
    known = (who >= 0) & (matrix.shape[0] > 0)
    pick = (np.ones(int(known.sum()), np.float32), (np.flatnonzero(known), who[known]))
    return sparse.csr_matrix(pick, shape=(len(who), matrix.shape[0])) @ matrix


@dataclass(frozen=True)
class Vectors:
    """customers · items + bias; what is held just now is a vector to which items are near by cosine.

    `fold`: the library's own way to make a vector of weighed rows of items, in place of the cosine; `history` is
    then what it knows of each customer. `weight`: how much what is held just now counts.
    """

    customers: Array
    items: Array
    bias: Array
    weight: float = 1.0
    fold: Callable[[sparse.csr_matrix], Array] | None = None
    history: sparse.csr_matrix | None = None

    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        if held.nnz and self.fold:
            rows = self.weight * held
            known = rows if self.history is None else rows + rows_of(self.history, who)
            return self.fold(in_int32(sparse.csr_matrix(known))) @ self.items.T
        known = rows_of(self.customers, who) @ self.items.T
        if not held.nnz:
            return known + self.bias
        unit = unit_rows(self.items)
        near = unit_rows(held @ unit) @ unit.T
        asked = (who >= 0)[:, None] & (len(self.customers) > 0)
        return np.where(asked, known + self.bias, 0) + self.weight * near


def unit_rows(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Similar:
    """(what the customer has + weight × what is held just now) @ items; an item that nothing leads to is none."""

    history: sparse.csr_matrix
    items: Any
    weight: float = 1.0

    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        found = (rows_of(self.history, who) + self.weight * held) @ self.items
        return candidates(found.toarray() if sparse.issparse(found) else np.asarray(found))


@dataclass(frozen=True)
class Own:
    """What each customer has, weighed; nothing else is a candidate."""

    history: sparse.csr_matrix

    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        return candidates(rows_of(self.history, who).toarray())


def candidates(scores: Array) -> Array:
    """The same scores, in place −inf where there is none."""
    scores[scores == 0] = -np.inf
    return scores


@dataclass(frozen=True)
class Columns:
    """A model that knows some of the items: `places` are theirs among all."""

    model: Model
    places: Array
    n_items: int

    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        found = np.full((len(who), self.n_items), -np.inf, np.float32)
        found[:, self.places] = self.model.scores(who, held[:, self.places])
        return found


# --- lists ------------------------------------------------------------------------------------------------


def lists_of(model: Model, past: Past, asked: Questions) -> NDArray[np.int64]:
    """Positions [questions, k], −1 where a list is short: the best of what is available, neither held just now nor,
    where the task bars it, ever bought. What a model has no score for is filled up with what sold most lately."""
    k, bought, lately = int(asked.k), past.matrix(), past.popular(FILL_DAYS)
    lists = np.full((len(asked), k), -1, np.int64)
    for start in range(0, len(asked), CHUNK):
        part = slice(start, min(start + CHUNK, len(asked)))
        who, held = asked.who[part], asked.held(part, len(past.available))
        barred = [held] if asked.owned else [held, rows_of(bought, who)]
        scores = np.asarray(model.scores(who, held), np.float32)
        found = best(allowed(scores, past.available, barred), k)
        short = np.flatnonzero(found[:, -1] < 0)
        common = np.tile(lately, (len(short), 1))
        more = best(allowed(common, past.available, [rows[short] for rows in barred]), 2 * k)
        found[short] = [joined(*both, k) for both in zip(found[short], more, strict=True)] or found[short]
        lists[part] = found
    return lists


def allowed(scores: Array, available: Array, barred: list[sparse.csr_matrix]) -> Array:
    """The same scores, −inf for what may not be answered."""
    scores += np.where(available, 0, -np.inf).astype(np.float32)
    for held in barred:
        scores[held.nonzero()] = -np.inf
    return scores


def best(scores: Array, k: int) -> NDArray[np.int64]:
    """`top_k` of each row, −1 where it is short. k blocks of items have a best one, and whatever is below the worst
    of those is out at once."""
    found = np.full((len(scores), k), -1, np.int64)
    blocks = np.maximum.reduceat(scores, np.arange(0, scores.shape[1], BLOCK), axis=1)
    least = np.partition(blocks, -k, axis=1)[:, -k] if blocks.shape[1] > k else np.full(len(scores), -np.inf)
    for row, values, bound in zip(found, scores, least, strict=True):
        places = np.flatnonzero(values >= bound)
        top = places[top_k(values[places], k)]
        row[: len(top)] = top
    return found


def joined(row: Array, more: Array, k: int) -> Array:
    """What is in the row, then what else there is."""
    listed = row[row >= 0]
    return np.concatenate([listed, more[~np.isin(more, listed)], np.full(k, -1)])[:k]


# --- baselines ----------------------------------------------------------------------------------------------


def popularity(past: Past, *, days: float, by: str) -> Model:
    """The same for everybody."""
    return Everybody(past.popular(days, by))


@dataclass(frozen=True)
class Everybody:
    bias: Array

    def scores(self, who: Array, held: sparse.csr_matrix) -> Array:
        return np.tile(self.bias, (len(who), 1))


def personal(past: Past, *, by: str, half_life: float) -> Model:
    """What each customer bought in most orders, most of, or for most money; the later the more."""
    kept = past.customer >= 0
    weight = {"orders": np.ones(len(past.age)), "units": past.quantity, "money": past.paid}[by]
    decay = np.exp2(-past.age / half_life) if half_life else 1.0
    cells = ((weight * decay)[kept], (past.customer[kept], past.item[kept]))
    return Own(sparse.csr_matrix(cells, shape=(int(past.sizes[0]), int(past.sizes[2])), dtype=np.float32))


# --- implicit -------------------------------------------------------------------------------------------------


def als(
    past: Past, *, rows: str, value: str, half_life: float, factors: int, regularization: float, alpha: float,
    iterations: int, basket: float = 1.0,
) -> Model:  # fmt: skip
    from implicit.als import AlternatingLeastSquares

    matrix = past.matrix(rows=rows, value=value, half_life=half_life)
    model = AlternatingLeastSquares(
        factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=SEED,
        num_threads=1, use_gpu=False,
    )  # fmt: skip
    model.fit(matrix, show_progress=False)
    items = model.item_factors
    nothing = np.zeros(len(items), np.float32)

    def fold(held: sparse.csr_matrix) -> Array:
        found: Array = model.recalculate_user(np.arange(held.shape[0]), held)
        return found

    if rows == "baskets":
        return Vectors(items[:0], items, nothing, fold=fold)
    return Vectors(model.user_factors, items, nothing, basket, fold, matrix)


def bpr(
    past: Past, *, rows: str, days: float, factors: int, learning_rate: float, regularization: float, iterations: int,
    basket: float = 1.0,
) -> Model:  # fmt: skip
    from implicit.bpr import BayesianPersonalizedRanking

    model = BayesianPersonalizedRanking(
        factors=factors, learning_rate=learning_rate, regularization=regularization, iterations=iterations,
        random_state=SEED, num_threads=1, use_gpu=False,
    )  # fmt: skip
    model.fit(past.matrix(rows=rows, value="binary", days=days), show_progress=False)
    # the last factor is the item's bias
    items, bias = model.item_factors[:, :-1], model.item_factors[:, -1]
    if rows == "baskets":
        return Vectors(items[:0], items, bias)
    return Vectors(model.user_factors[:, :-1], items, bias, basket)


def nearest(
    past: Past, *, by: str, rows: str, value: str, half_life: float, basket: float = 1.0, **params: Any
) -> Model:
    """Item-kNN by BM25 or cosine."""
    from implicit import nearest_neighbours as library

    matrix = past.matrix(rows=rows, value=value, half_life=half_life)
    model = {"bm25": library.BM25Recommender, "cosine": library.CosineRecommender}[by](
        num_threads=1, **params
    )
    model.fit(matrix, show_progress=False)
    return Similar(none_of(matrix) if rows == "baskets" else matrix, model.similarity, basket)


def none_of(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix((0, matrix.shape[1]), dtype=np.float32)


# --- LightFM --------------------------------------------------------------------------------------------------


def lightfm(
    past: Past, *, with_features: bool, value: str, half_life: float, factors: int, epochs: int, learning_rate: float,
    max_sampled: int, basket: float = 1.0,
) -> Model:  # fmt: skip
    from lightfm import LightFM

    weights = past.matrix(value=value, half_life=half_life).tocoo()
    ones = sparse.coo_matrix((np.ones_like(weights.data), (weights.row, weights.col)), shape=weights.shape)
    features = in_int32(past.features) if with_features else None
    model = LightFM(
        no_components=factors,
        loss="warp",
        learning_rate=learning_rate,
        max_sampled=max_sampled,
        random_state=SEED,
    )
    model.fit(ones, item_features=features, sample_weight=weights, epochs=epochs, num_threads=1)
    bias, items = model.get_item_representations(features)
    return Vectors(model.get_user_representations()[1], items, bias, basket)


# --- RecTools ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """RecTools' dataset of a matrix, and the positions of its items in its own order."""

    dataset: Any
    places: Array
    rows: Array


def table_of(matrix: sparse.csr_matrix, features: Any = None) -> Table:
    import pandas as pd
    from rectools.dataset import Dataset

    cells = matrix.tocoo()
    frame = pd.DataFrame(
        {"user_id": cells.row, "item_id": cells.col, "weight": cells.data, "datetime": "2000-01-01"}
    )
    about = {} if features is None else {"item_features_df": features, "cat_item_features": ["level"]}
    dataset = Dataset.construct(frame, **about)
    return Table(
        dataset, np.asarray(dataset.item_id_map.external_ids), np.asarray(dataset.user_id_map.external_ids)
    )


def ease(
    past: Past, *, rows: str, value: str, half_life: float, regularization: float, items: int, published: bool,
    basket: float = 1.0,
) -> Model:  # fmt: skip
    """EASE over the items most held, as its matrix is dense. RecTools ranks by X Bᵀ; `published` ranks by X B."""
    from rectools.models import EASEModel

    matrix = past.matrix(rows=rows, value=value, half_life=half_life)
    held = np.bincount(matrix.indices, minlength=matrix.shape[1])
    often = np.argsort(-held, kind="stable")[: min(items, int(np.count_nonzero(held)))]
    table = table_of(matrix[:, often])
    model = EASEModel(regularization=regularization)
    model.fit(table.dataset)
    places = often[table.places]
    history = none_of(matrix[:, places]) if rows == "baskets" else matrix[:, places]
    weight = model.weight if published else model.weight.T
    return Columns(
        Similar(history, np.ascontiguousarray(weight, np.float32), basket), places, matrix.shape[1]
    )


def svd(past: Past, *, value: str, half_life: float, factors: int) -> Model:
    from rectools.models import PureSVDModel

    matrix = past.matrix(value=value, half_life=half_life)
    table = table_of(matrix)
    model = PureSVDModel(factors=min(factors, min(matrix.shape) - 1), random_state=SEED)
    model.fit(table.dataset)
    return placed(table, matrix, *model.get_vectors())


def als_features(
    past: Past, *, value: str, half_life: float, factors: int, regularization: float, alpha: float, iterations: int,
    depth: int, together: bool,
) -> Model:  # fmt: skip
    """implicit's ALS, to which RecTools adds the levels of an item's category."""
    from implicit.als import AlternatingLeastSquares
    from rectools.models import ImplicitALSWrapperModel

    matrix = past.matrix(value=value, half_life=half_life)
    table = table_of(matrix, categories(past, np.unique(matrix.indices), range(depth)))
    library = AlternatingLeastSquares(
        factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=SEED,
        num_threads=1, use_gpu=False,
    )  # fmt: skip
    model = ImplicitALSWrapperModel(library, fit_features_together=together)
    model.fit(table.dataset)
    return placed(table, matrix, *model.get_vectors())


def placed(table: Table, matrix: sparse.csr_matrix, users: Array, items: Array) -> Model:
    """Vectors in RecTools' order, put back in ours; who or what it does not know gets none."""
    customers = np.zeros((matrix.shape[0], users.shape[1]), np.float32)
    customers[table.rows] = users
    return Columns(Vectors(customers, items, np.zeros(len(items), np.float32)), table.places, matrix.shape[1])


def categories(past: Past, items: Array, depths: range) -> Any:
    """RecTools' table of features: a row for an item and each of these levels of its category, 0 the broadest."""
    import pandas as pd

    levels = past.levels[items][:, depths.start : depths.stop]
    row, column = np.nonzero(levels >= 0)
    value = [f"{n}.{code}" for n, code in zip(column, levels[row, column], strict=True)]
    return pd.DataFrame({"id": items[row], "feature": "level", "value": value})


@dataclass(frozen=True)
class InCategory:
    """RecTools' own lists, as it deals them by k."""

    model: Any
    dataset: Any

    def lists(self, asked: Questions) -> NDArray[np.int64]:
        """For customers alone. Where what was bought may be answered, all get the same list."""
        alike = bool(asked.owned)
        who = asked.who[:1] if alike else asked.who
        k = int(asked.k)
        given = self.model.recommend(who, self.dataset, k=k, filter_viewed=not alike)
        found = np.full((len(who), k), -1, np.int64)
        row = np.searchsorted(who, given["user_id"].to_numpy())
        found[row, given["rank"].to_numpy() - 1] = given["item_id"].to_numpy()
        return np.tile(found, (len(asked), 1)) if alike else found


def popular_in_category(
    past: Past, *, depth: int, n_categories: int, mixing: str, ratio: str, popularity: str, days: int
) -> InCategory:
    """Over what is available, as RecTools cannot bar items from these lists."""
    import pandas as pd
    from rectools.dataset import Dataset
    from rectools.models import PopularInCategoryModel

    known = (past.customer >= 0) & past.available[past.item]
    moment = pd.Timestamp(2000, 1, 1) - pd.to_timedelta(past.age[known], unit="D")
    frame = pd.DataFrame(
        {"user_id": past.customer[known], "item_id": past.item[known], "weight": 1.0, "datetime": moment}
    )
    features = categories(past, np.unique(past.item[known]), range(depth - 1, depth))
    dataset = Dataset.construct(frame, item_features_df=features, cat_item_features=["level"])
    model = PopularInCategoryModel(
        "level", n_categories=n_categories, mixing_strategy=mixing, ratio_strategy=ratio,
        popularity=popularity, period=timedelta(days=days) if days else None,
    )  # fmt: skip
    model.fit(dataset)
    return InCategory(model, dataset)


# --- one of them, measured --------------------------------------------------------------------------------------

LEARNERS: Mapping[str, Callable[..., Any]] = {
    "popularity": popularity,
    "personal": personal,
    "als": als,
    "bpr": bpr,
    "nearest": nearest,
    "lightfm": lightfm,
    "ease": ease,
    "svd": svd,
    "als_features": als_features,
    "popular_in_category": popular_in_category,
}


def measure(past: Path, questions: list[Path], learner: str, params: Mapping[str, Any], out: Path) -> None:
    """Fit, answer each file of questions by `<its name>.npy`, and tell in cost.json what it took of this process:
    CPU seconds of the fit, and resident memory at its peak, questions answered."""
    known = load_past(past)
    began = cpu()
    model = LEARNERS[learner](known, **params)
    took = cpu() - began
    for path in questions:
        asked = load_questions(path)
        lists = model.lists(asked) if isinstance(model, InCategory) else lists_of(model, known, asked)
        np.save(out / f"{path.stem}.npy", lists)
    (out / "cost.json").write_text(json.dumps({"cpu": took, "peak_mb": peak_mb()}))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """Resident memory at its peak. What Linux tells by getrusage counts the process that started this one, too."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("past", type=Path)
    parser.add_argument("questions", type=Path, nargs="+")
    parser.add_argument("--spec", type=json.loads, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    measure(given.past, given.questions, given.spec["learner"], given.spec["params"], given.out)


if __name__ == "__main__":
    main()
