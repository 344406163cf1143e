"""What products cost and whether they were in stock, as runs found it: a row a product whenever one found it otherwise,
however the shop said so, live or in a file."""

from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from features.catalog import Catalog
from features.interactions import seconds
from features.schema import RECEIVED
from serving.store import DATA, OFFERS, Store

FOUND = DATA[OFFERS.name].c
SAID = ("price", "in_stock")
COLUMNS = ("product_id", *SAID)  # of the products' table
JUST = timedelta(seconds=1)  # what a run finds was so before its moment


def note_first(store: Store, products: pa.Table, at: datetime, *, now: datetime) -> None:
    """Where nothing is on record yet, put there what products were before what came in live since."""
    if not store.ends(OFFERS.name)[OFFERS.name]:
        note(store, products, at - JUST, now=now)


def note(store: Store, products: pa.Table, at: datetime, *, now: datetime) -> int:
    """Put on record how products differ from what is there, by the contract's table; how many do. What a run finds
    that is made after one of a later day is of no day, and left."""
    found = states(products)
    with store.alone() as record:
        before = last(store)
        if len(before) and before["at"].max() >= at - JUST:
            return 0
        was = before.set_index("product_id").reindex(found.index)[list(SAID)]
        differs = ~((found == was) | (found.isna() & was.isna())).all(axis=1)
        rows = [
            {"product_id": name, "at": at - JUST, **said, RECEIVED.name: now}
            for name, said in zip(found.index[differs], records(found[differs]), strict=True)
        ]
        record({OFFERS.name: rows})
    return len(rows)


def states(products: pa.Table) -> pd.DataFrame:
    table = products.select(COLUMNS).to_pandas().set_index("product_id")
    return table.astype({"price": float, "in_stock": object}).where(lambda cells: cells.notna(), None)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as the database takes them."""
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")  # type: ignore[assignment]
    return rows


def last(store: Store) -> pd.DataFrame:
    """The last row of each product."""
    return rows_of(store).drop_duplicates("product_id", keep="last")


def rows_of(store: Store) -> pd.DataFrame:
    """All of them, oldest first."""
    wanted = sa.select(FOUND.product_id, FOUND.at, *(FOUND[name] for name in SAID)).order_by(
        FOUND.at, FOUND.seq
    )
    return pd.DataFrame(store.select(wanted), columns=["product_id", "at", *SAID])


def changes(store: Store, catalog: Catalog, since: datetime, until: datetime) -> pd.DataFrame:
    """What became of price and stock within a time, oldest first, each beside what was before: product (item of the
    catalogue, −1), at (seconds), price_before, price, was_in_stock, in_stock."""
    told = rows_of(store)
    earlier = told.groupby("product_id", sort=False)[list(SAID)].shift()
    again = told["product_id"].duplicated()  # of a first row nothing is known before
    told = told.assign(price_before=earlier["price"], was_in_stock=earlier["in_stock"])
    told = told[again & (told["at"] >= since) & (told["at"] < until)]
    told = told.assign(product=catalog.items.positions(told["product_id"].tolist()))
    return told.assign(at=[seconds(at) for at in told["at"]])
