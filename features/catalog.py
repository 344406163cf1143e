"""What can be sold: products known before a moment, aligned with the positions of `items`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.interactions import Floats, Ids, Ints, before
from features.promotions import PROMOTED

PATH_SEPARATOR = " > "
PRICE_DAYS = 365
SIZE = re.compile(r"(\d+(?:[.,]\d+)*|\.\d+)\s*(fl\.?\s*oz|[a-z]*)")
THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")  # commas before three digits; any other is a decimal one
UNITS: Mapping[str, tuple[float, str]] = {  # what a unit is in the one in which amounts are held against each other
    "mg": (0.001, "g"), "g": (1, "g"), "gr": (1, "g"), "gm": (1, "g"), "kg": (1000, "g"), "oz": (28.35, "g"),
    "lb": (453.6, "g"), "lbs": (453.6, "g"), "ml": (1, "ml"), "cl": (10, "ml"), "dl": (100, "ml"), "l": (1000, "ml"),
    "lt": (1000, "ml"), "ltr": (1000, "ml"), "floz": (29.574, "ml"), "pt": (473.18, "ml"), "qt": (946.35, "ml"),
    "gal": (3785.4, "ml"), "ga": (3785.4, "ml"), "dz": (12, "ct"), "doz": (12, "ct"),
}  # fmt: skip
TEXTS = ("title", "brand", "size", "url", "image_url", "group_id", "need", "attributes")


@dataclass(frozen=True)
class Catalog:
    """One row a product, in the order of `items`.

    table: arrow columns title, brand, size, url, image_url, group_id, category ("a > b > c", null unknown),
    need (the category where the source names none, null unknown), attributes (a JSON object),
    price (float32, null unknown), in_stock, eligible (bool), and PROMOTED (float32).
    """

    items: Ids
    table: pa.Table

    @classmethod
    def of(
        cls, products: pa.Table, events: pa.Table, *, until: datetime, promoted: pa.Table | None = None
    ) -> "Catalog":
        """Products of the contract's table known before `until`, and those sold before it without a row there.

        promoted: what `History.promoted` tells of that moment; nothing is promoted where it is not given.
        A missing price is the median list price of the product's purchases in the PRICE_DAYS days before
        `until`, or in all the time before where there were none.
        """
        known = pc.fill_null(
            pc.less(products["known_from"], pa.scalar(until, pa.timestamp("us", tz="UTC"))), True
        )
        products = products.filter(known)
        sold = before(events, until, "order")
        ids = set(pc.unique(products["product_id"]).to_pylist())
        items = Ids.of(sorted(ids | set(pc.unique(sold["product_id"]).to_pylist())))
        table = aligned(products, items, list_prices(sold, items, until))
        return cls(items, with_shares(table, items, promoted))

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def title(self) -> list[str]:
        """Titles; a product without one is called by its id."""
        titles = self.table["title"].to_pylist()
        return [
            title or item for title, item in zip(titles, self.items.at(np.arange(len(self))), strict=True)
        ]

    @cached_property
    def price(self) -> Floats:
        """List price, NaN where unknown."""
        return pc.fill_null(self.table["price"], np.nan).to_numpy().astype(np.float32)

    @cached_property
    def eligible(self) -> NDArray[np.bool_]:
        return self.table["eligible"].to_numpy()

    @cached_property
    def available(self) -> NDArray[np.bool_]:
        """May be recommended and is in stock."""
        return self.eligible & self.table["in_stock"].to_numpy()

    @cached_property
    def category(self) -> Ints:
        """The finest category as a code into `categories`, −1 where unknown."""
        return codes(self.table["category"])[0]

    @cached_property
    def categories(self) -> list[str]:
        return codes(self.table["category"])[1]

    @cached_property
    def parent(self) -> Ints:
        """The category above the finest, as a code into `parents`, −1 where unknown."""
        place = {path: code for code, path in enumerate(self.parents)}
        of = [place[path.rsplit(PATH_SEPARATOR, 1)[0]] for path in self.categories]
        return np.array([*of, -1], np.int32)[self.category]

    @cached_property
    def parents(self) -> list[str]:
        return sorted({path.rsplit(PATH_SEPARATOR, 1)[0] for path in self.categories})

    @cached_property
    def need(self) -> Ints:
        """What a product is bought for, as a code into `needs`, −1 where unknown."""
        return codes(self.table["need"])[0]

    @cached_property
    def needs(self) -> list[str]:
        return codes(self.table["need"])[1]

    @cached_property
    def brand(self) -> Ints:
        return codes(self.table["brand"])[0]

    @cached_property
    def brands(self) -> list[str]:
        return codes(self.table["brand"])[1]

    @cached_property
    def pack(self) -> Floats:
        """How much a product holds beside the middle one of its need in the same unit; 1 where that is not known."""
        texts = self.table["size"].to_pylist()
        said = {text: content(text) for text in set(texts)}
        sizes = pd.DataFrame([said[text] for text in texts], columns=["amount", "unit"])
        sizes["need"] = self.need
        known = sizes[(sizes["amount"] > 0) & (sizes["need"] >= 0)]
        found = np.ones(len(self), np.float32)
        middle = known.groupby(["need", "unit"])["amount"].transform("median")
        found[known.index] = np.clip(known["amount"] / middle, 0.1, 10.0)
        return found

    @cached_property
    def promoted(self) -> Floats:
        """Columns of PROMOTED: float32 [n_items, len(PROMOTED)]."""
        return np.column_stack([pc.fill_null(self.table[c], 0).to_numpy() for c in PROMOTED])

    @cached_property
    def group(self) -> Ints:
        """Style group code, −1 for a product that stands alone."""
        return codes(self.table["group_id"])[0]


def content(size: str | None) -> tuple[float, str]:
    """(how much, of what unit) a size says, weights in g, volumes in ml where the unit is one of UNITS: "6 x 1,5 l" is
    9000 ml, "12 pk" is 12 pk.

    What cannot be read is 0 of nothing.
    """
    parts = SIZE.findall((size or "").lower())
    amount = prod(number(text) for text, _ in parts) if parts else 0.0
    times, unit = measure(parts[-1][1]) if parts else (0.0, "")
    return (amount * times, unit) if 0 < amount < 1e6 else (0.0, "")


def number(text: str) -> float:
    """What digits say, by the comma or the point: 1,5 is one and a half, 1,000 a thousand; 0 for what is neither."""
    try:
        return float(THOUSANDS.sub("", text).replace(",", "."))
    except ValueError:
        return 0.0


def measure(unit: str) -> tuple[float, str]:
    """How many of what a unit is; of itself, where it is none that is known."""
    return UNITS.get("".join(c for c in unit if c.isalpha()), (1, unit))


def codes(column: "pa.ChunkedArray[Any]", first: Sequence[str] = ()) -> tuple[Ints, list[str]]:
    """Codes into the sorted distinct values, −1 for null. Values that are to come `first` do, there or not."""
    values = [*first, *sorted(set(pc.unique(column).to_pylist()) - {None, *first})]
    found = pc.index_in(column, value_set=pa.array(values, pa.string()))
    return pc.fill_null(found, -1).to_numpy().astype(np.int32), values


def aligned(products: pa.Table, items: Ids, prices: Floats) -> pa.Table:
    """The products' columns in the order of `items`, missing rows filled with nulls and defaults."""
    place = np.full(len(items), -1, np.int64)
    place[items.column(products["product_id"])] = np.arange(len(products))
    rows = pa.array(place, mask=place < 0)
    columns: dict[str, Any] = {name: products[name].cast(pa.string()).take(rows) for name in TEXTS}
    columns["category"] = joined(products["category"]).take(rows)
    columns["need"] = pc.coalesce(columns["need"], columns["category"])
    given = products["price"].take(rows).cast(pa.float32())
    columns["price"] = pc.coalesce(given, pa.array(prices, mask=np.isnan(prices)))
    for name in ("in_stock", "eligible"):
        columns[name] = pc.fill_null(products[name].take(rows), True)
    return pa.table(columns).combine_chunks()


def with_shares(table: pa.Table, items: Ids, promoted: pa.Table | None) -> pa.Table:
    """The table with columns of PROMOTED, 0 for what is not promoted."""
    place = items.column(promoted["product_id"]) if promoted is not None else np.empty(0, np.int32)
    for name in PROMOTED:
        shares = np.zeros(len(items) + 1, np.float32)  # the last is of products that are not in `items`
        if promoted is not None:
            shares[place] = promoted[name].to_numpy()
        table = table.append_column(name, pa.array(shares[:-1]))
    return table


def joined(paths: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """Category paths as one text; an empty path is unknown."""
    text = pc.binary_join(paths.cast(pa.list_(pa.string())), PATH_SEPARATOR)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def list_prices(sold: pa.Table, items: Ids, until: datetime) -> Floats:
    """Median of unit_price + discount by item, recent purchases first, NaN where never sold at a price."""
    price = pc.add(sold["unit_price"], pc.fill_null(sold["discount"], 0.0))
    frame = pd.DataFrame({"item": items.column(sold["product_id"]), "price": price.to_numpy()})
    age = (pd.Timestamp(until) - sold["occurred_at"].to_pandas()).dt.days.to_numpy()
    frame = frame[frame.price > 0]
    result = np.full(len(items), np.nan, np.float32)
    for rows in (frame, frame[age[frame.index] < PRICE_DAYS]):
        median = rows.groupby("item").price.median()
        result[median.index] = median.to_numpy(np.float32)
    return result


def level(path: str, depth: int) -> str:
    """The first `depth` levels of a joined category path."""
    return PATH_SEPARATOR.join(path.split(PATH_SEPARATOR)[:depth])
