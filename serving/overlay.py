"""The catalogue as it is now: what the store has been told of products, laid over the bundle that is served.

Known products keep their positions, and new ones come behind them in the order of their coming; so what a bundle
has learned stands as it is, and only rows for the new ones are added. Nothing here is asked by a request: a
thread makes the next engine from the last, and the service takes it as it takes another champion.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from features.catalog import PATH_SEPARATOR, Catalog, codes
from features.history import History
from features.interactions import Ints, MoreIds
from features.pairs import Tallies, facts_of
from features.promotions import PROMOTED
from serving.bundle import Bundle
from serving.engine import Engine
from serving.fitted import Fitted, Neighbors, Vectors, top_k
from serving.identities import Identities
from serving.store import Changes, Store

EVERY = 1.0  # seconds between two looks at the store
FOLLOWED = ("products", "identities")
BY_TITLE, BY_BRAND = 4.0, 2.0  # what a shared word, and a shared brand, weigh among kin that share a need
NEAREST = 10  # kin that count
KIND = ["title", "need", "category", "brand"]
KIN = ("need", "category", "parent", "brand")  # where kin are sought: the first of these that has any
# what is kept of a catalogue, and the column that it hangs on
KEPT = {
    "title": "title", "price": "price", "eligible": "eligible", "category": "category", "categories": "category",
    "parent": "category", "need": "need", "needs": "need", "brand": "brand", "brands": "brand", "group": "group_id",
}  # fmt: skip
Row = Mapping[str, Any]
UNTOLD: Row = {"in_stock": True, "eligible": True, **dict.fromkeys(PROMOTED, 0.0)}


@dataclass(frozen=True)
class LaidCatalog(Catalog):
    """A bundle's catalogue with changes. Codes of needs stay, as what was learned of needs goes by them."""

    base: Catalog

    @cached_property
    def need(self) -> Ints:
        return codes(self.table["need"], self.base.needs)[0]

    @cached_property
    def needs(self) -> list[str]:
        return codes(self.table["need"], self.base.needs)[1]


class Overlay:
    """What was said of products since the bundle learned, and the bundle with it laid over.

    A change says some columns; what it does not say stays, as in `osclms compact`. For one thread.
    """

    def __init__(self, base: Bundle) -> None:
        self.base, self.known = base, base.catalog.items
        self.said: dict[str, dict[str, Any]] = {}
        self.later: dict[str, int] = {}
        self.directions: dict[str, NDArray[np.float32]] = {}  # of new products, by what decides them

    def say(self, rows: Iterable[Row]) -> bool:
        """Take changes in the order in which they came; whether any of them says something new."""
        news = False
        for row in rows:
            name = row["product_id"]
            new = {c: v for c, v in row.items() if c in COLUMNS and v not in (None, [])}
            said = self.said.setdefault(name, {})
            news |= not said or any(said.get(c) != v for c, v in new.items())
            said.update(new)
            if self.known.positions([name])[0] < 0:
                self.later.setdefault(name, len(self.known) + len(self.later))
        return news

    def bundle(self, was: Bundle) -> Bundle:
        """The bundle as it is now. `was` is the one made before, of which it shares what stays."""
        catalog = self.catalog(was.catalog)
        models, facts = was.models, was.facts
        if (self.later and not (self.kinds(catalog).equals(self.kinds(was.catalog)))) or (
            len(catalog.needs) > len(was.catalog.needs)
        ):
            models = self.models(catalog)
        if not all(catalog.table[c].equals(was.catalog.table[c]) for c in ("price", "need")):
            facts = facts_of(catalog, Tallies(*self.base.tallies))
        return replace(was, catalog=catalog, models=models, facts=facts)

    def kinds(self, catalog: Catalog) -> pa.Table:
        """What decides where new products lie."""
        return catalog.table.select(KIND).slice(len(self.known))

    def catalog(self, was: Catalog) -> Catalog:
        items = MoreIds(self.known.values, dict(self.later))
        made = LaidCatalog(items, self.table(), self.base.catalog)
        for name, column in KEPT.items():
            if name in vars(was) and was.table[column].equals(made.table[column]):
                vars(made)[name] = vars(was)[name]
        return made

    def table(self) -> pa.Table:
        """The columns of the catalogue; those of which nothing was said are the bundle's own."""
        base, names = self.base.catalog.table, list(self.said)
        places = np.array([self.place(name) for name in names], np.int64)
        old = np.flatnonzero(places < len(base))
        rows = dict(zip(old.tolist(), base.take(pa.array(places[old])).to_pylist(), strict=True))
        now = [row_now(self.said[name], rows.get(n, UNTOLD)) for n, name in enumerate(names)]
        take = np.arange(len(base) + len(self.later))
        take[places] = len(base) + np.arange(len(names))
        told = {column for said in self.said.values() for column in said}
        told |= {"need"} if "category" in told else set()
        columns = {}
        for field in base.schema:
            patch = pa.array([row[field.name] for row in now], field.type)
            whole = pa.chunked_array([*base[field.name].chunks, patch]).combine_chunks()
            changed = self.later or field.name in told
            columns[field.name] = pa.chunked_array([whole.take(take)]) if changed else base[field.name]
        return pa.table(columns, schema=base.schema)

    def place(self, name: str) -> int:
        return self.later[name] if name in self.later else int(self.known.positions([name])[0])

    def direction(self, vectors: NDArray[np.float32], catalog: Catalog, item: int) -> NDArray[np.float32]:
        kind = repr(catalog.table.select(KIND).slice(item, 1).to_pylist())
        if kind not in self.directions:
            self.directions[kind] = beside_kin(vectors, catalog, item, self.titled)
        return self.directions[kind]

    @cached_property
    def titled(self) -> dict[str, Ints]:
        """The bundle's products by the words of their titles, as they were then."""
        found: dict[str, list[int]] = {}
        for item in range(len(self.known)):
            for word in words_of(self.base.catalog, item):
                found.setdefault(word, []).append(item)
        return {word: np.array(items, np.int32) for word, items in found.items()}

    def models(self, catalog: Catalog) -> dict[str, Fitted]:
        """What was learned, with rows for what came later: beside its kin by content, unknown to all else."""
        more = len(self.later) + len(catalog.needs) - len(self.base.catalog.needs)
        return {name: self.longer(name, model, catalog, more) for name, model in self.base.models.items()}

    def longer(self, name: str, model: Fitted, catalog: Catalog, more: int) -> Fitted:
        new = range(len(self.known), len(catalog))
        if isinstance(model, Neighbors):  # of products, or of needs, of which there may be more as well
            return Neighbors(with_empty_rows(model.items, more))
        if not isinstance(model, Vectors):
            return model
        rows = np.zeros((len(new), model.items.shape[1]), np.float32)
        if name == "content":
            rows = np.array([self.direction(model.items, catalog, item) for item in new], np.float32)
        bias = np.zeros(len(new), np.float32)
        return Vectors(model.customers, np.vstack([model.items, rows]), np.append(model.bias, bias))


COLUMNS = (
    "title", "category", "need", "brand", "price", "size", "url", "image_url", "in_stock", "group_id", "eligible",
    "attributes",
)  # fmt: skip


def row_now(said: Row, was: Row) -> dict[str, Any]:
    """A product's row in a catalogue's table. A need that is its category, because it was not told, follows it."""
    row = {**was, **{name: said.get(name, was.get(name)) for name in COLUMNS}}
    row["category"] = PATH_SEPARATOR.join(said["category"]) if "category" in said else was.get("category")
    own = was.get("need") if was.get("need") != was.get("category") else None
    row["need"] = said.get("need") or own or row["category"]
    return row


def with_empty_rows(matrix: sparse.csr_array, more: int) -> sparse.csr_array:
    """The same cells, in the same memory, with so many rows behind them that hold none."""
    indptr = np.append(matrix.indptr, np.full(more, matrix.indptr[-1], matrix.indptr.dtype))
    shape = (len(indptr) - 1, matrix.shape[1] + more)
    return sparse.csr_array((matrix.data, matrix.indices, indptr), shape=shape, copy=False)


def beside_kin(
    vectors: NDArray[np.float32], catalog: Catalog, item: int, titled: Mapping[str, Ints]
) -> NDArray[np.float32]:
    """The direction of a new product, the mean of its kin's: of length 1, or empty where it has none.

    Kin share the need, else the category, the category above it, or the brand. The NEAREST of them count, by the words
    of the title in common and the same brand, and so much.
    """
    for column in KIN:
        code = getattr(catalog, column)
        kin = np.flatnonzero(code[: len(vectors)] == code[item]) if code[item] >= 0 else np.empty(0, np.int64)
        kin = kin[np.any(vectors[kin] != 0, axis=1)]
        if len(kin):
            weights = weights_of(catalog, item, kin, titled)
            best = top_k(weights, NEAREST)
            found = weights[best] @ vectors[kin[best]]
            return np.asarray(found / max(float(np.linalg.norm(found)), 1e-9), np.float32)
    return np.zeros(vectors.shape[1], np.float32)


def weights_of(
    catalog: Catalog, item: int, kin: NDArray[Any], titled: Mapping[str, Ints]
) -> NDArray[np.float32]:
    own, shared = words_of(catalog, item), np.zeros(len(catalog), np.float32)
    for word in own:
        shared[titled.get(word, kin[:0])] += 1
    shared = shared[kin] / max(len(own), 1)
    branded = (catalog.brand[kin] == catalog.brand[item]) & (catalog.brand[item] >= 0)
    return np.asarray(1 + BY_TITLE * shared + BY_BRAND * branded, np.float32)


def words_of(catalog: Catalog, item: int) -> set[str]:
    return set(catalog.title[item].casefold().split())


# --- following the store --------------------------------------------------------------------------------


class Follower:
    """What a store has been told beyond a bundle: of products, and of customers' other ids. For one thread."""

    def __init__(self, base: Bundle, store: Store, history: History | None) -> None:
        self.base, self.store, self.history = base, store, history
        self.overlay, self.identities = Overlay(base), Identities(history.identities() if history else {})
        self.after: dict[str, int] | None = None
        self.made: Engine | None = None
        self.news = False  # whether something was told that no engine in use knows

    def look(self, engine: Engine) -> Engine | None:
        """The next engine, made of the one in use, where products were told of that it does not know; None elsewhere.

        Raises StoreError, after which it may look again. What it made and nobody used is made again.
        """
        if engine is self.made:  # it is in use: what is told from now on it does not know
            self.made, self.news = None, False
        if self.after is None:
            self.after = self.begin()
            self.news |= self.overlay.say(newcomers(self.base, self.history))
        while (found := self.store.changes(self.after, names=FOLLOWED)).rows:
            self.news |= self.take(found)
        if not self.news:
            return None
        self.made = engine.over(self.overlay.bundle(engine.bundle))
        return self.made

    def begin(self) -> dict[str, int]:
        """The rows up to which the bundle's own history had been told; none, where that was another database."""
        return {name: self.store.reached(name, self.base.manifest.marks) for name in FOLLOWED}

    def take(self, found: Changes) -> bool:
        self.after = dict(found.after)
        if rows := found.rows.get("identities"):
            self.identities.say({row["alias"]: row["customer_id"] for row in rows})
        return self.overlay.say(found.rows.get("products", ()))


def newcomers(base: Bundle, history: History | None) -> list[Row]:
    """Products that the history knows and the bundle does not, as they came after what it learned from."""
    if history is None:
        return []
    listed = history.table("products")
    new = base.catalog.items.column(listed["product_id"]) < 0
    return list(listed.filter(pa.array(new)).to_pylist())
