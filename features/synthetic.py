"""What the demo data lacks, made up and laid over it: contact points, consents, views and carts, stock.

All of it says that it is made up: facts are named in the attribute `synthetic`, consents have the source `synthetic`,
views and carts the channel `synthetic`. No purchase, price or availability is touched, so no figure of purchases moves.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features import contacts
from features.chance import Chance, keys_of
from features.completejourney import mapping_of
from features.contacts import MADE_UP, SYNTHETIC
from features.generate import mapping_text, moments
from features.history import History
from features.interactions import Ids, seconds
from features.mapping import Mapping
from features.schema import CUSTOMERS, PRODUCTS
from features.sources import LoadError, LoadReport, load

BROWSED = 0.15  # share of orders that had views and carts before them, of customers who agreed to be watched
LAID = ("customers", "products", "consents", "events")
COLUMNS = {
    "customers": CUSTOMERS.names,
    "products": tuple(n for n in PRODUCTS.names if n != "derived"),
    "consents": ("customer_id", "channel", "purpose", "granted", "at", "source"),
    "events": (
        *(
            "event_id",
            "customer_id",
            "product_id",
            "event_type",
            "occurred_at",
            "value",
            "channel",
            "visit_id",
        ),
    ),
}


def lay_over(history: History, *, seed: int, rejects_dir: Path) -> list[LoadReport]:
    """Lay the synthetic layer over a history of purchases. The same seed twice changes nothing.

    Facts of customers that are on record stay; only what is missing, or was made up before, is made up.
    """
    bought = history.events(
        types=("order",), columns=("customer_id", "product_id", "order_id", "occurred_at")
    )
    if not bought.num_rows:
        raise LoadError(f"{history.folder} holds no purchases that anything could be laid over")
    demo = mapping_of("events").store.name
    if history.store.name != demo:
        raise LoadError(
            f"{history.folder} is of {history.store.name}: made-up contacts are laid over {demo} alone"
        )
    bought = bought.filter(pc.and_(pc.is_valid(bought["customer_id"]), pc.is_valid(bought["order_id"])))
    chance = Chance(seed)
    products = history.table("products")
    made = {
        "customers": with_contacts(chance, first_orders(bought), history.table("customers")),
        "products": with_stock(chance, products),
        "consents": without_real(with_consents(chance, first_orders(bought), last_moment(bought)), history),
        "events": with_looks(chance, bought, products),
    }
    with tempfile.TemporaryDirectory() as folder:
        return [laid(history, Path(folder), name, made[name], rejects_dir) for name in LAID]


def laid(history: History, folder: Path, name: str, table: pa.Table, rejects_dir: Path) -> LoadReport:
    file = folder / f"{SYNTHETIC}-{name}.parquet"
    pq.write_table(table.select(COLUMNS[name]), file)
    mapping = Mapping.parse(mapping_text(COLUMNS[name]))
    return load(history, name, [file], mapping, rejects_dir=rejects_dir)


def first_orders(bought: pa.Table) -> dict[str, int]:
    """When each customer ordered first, in seconds; by id, in the order of text."""
    found = bought.group_by("customer_id").aggregate([("occurred_at", "min")])
    pairs = zip(found["customer_id"].to_pylist(), found["occurred_at_min"].to_pylist(), strict=True)
    return {customer: seconds(at) for customer, at in sorted(pairs)}


def last_moment(bought: pa.Table) -> int:
    return seconds(pc.max(bought["occurred_at"]).as_py())


def with_contacts(chance: Chance, customers: dict[str, int], known: pa.Table) -> pa.Table:
    """The customers' rows with contact points, where they have none of their own."""
    on_record = {row["customer_id"]: row for row in known.to_pylist()}
    rows = contacts.contacts(chance, list(customers), keys_of(customers)).to_pylist()
    whole = [completed(row, on_record.get(row["customer_id"], {})) for row in rows]
    return pa.Table.from_pylist(whole, schema=CUSTOMERS.schema)


def completed(row: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    attributes = json.loads(known.get("attributes") or "{}")
    made_up = attributes.get(SYNTHETIC, ())
    own = {n: v for n, v in known.items() if v is not None and n not in made_up and n != "attributes"}
    attributes[SYNTHETIC] = [name for name in MADE_UP if name not in own]
    return {**row, **own, "attributes": json.dumps(attributes, ensure_ascii=False)}


def with_stock(chance: Chance, products: pa.Table) -> pa.Table:
    """How many there are, as an attribute. `in_stock` stays: who is in stock is in lists, and lists are judged."""
    listed = products.filter(pc.invert(pc.fill_null(products["derived"], False)))
    counts = contacts.stock(chance, keys_of(listed["product_id"].to_pylist()))
    attributes = [
        json.dumps({**json.loads(text or "{}"), "stock": count, SYNTHETIC: ["stock"]}, ensure_ascii=False)
        for text, count in zip(listed["attributes"].to_pylist(), counts.tolist(), strict=True)
    ]
    place = listed.schema.get_field_index("attributes")
    return listed.set_column(place, "attributes", pa.array(attributes, pa.string()))


def with_consents(chance: Chance, customers: dict[str, int], until: int) -> pa.Table:
    since = np.array(list(customers.values()), np.int64)
    return contacts.consents(chance, list(customers), keys_of(customers), since, until)


def without_real(made: pa.Table, history: History) -> pa.Table:
    """What was made up of consents, but where somebody has really said yes or no."""
    key = ["customer_id", "channel", "purpose"]
    records = history.table("consents", columns=(*key, "source"))
    real = records.filter(pc.fill_null(pc.not_equal(records["source"], SYNTHETIC), True)).select(key)
    words = pa.schema([(name, pa.string()) for name in key])
    place = made.append_column("place", pa.array(np.arange(len(made))))
    left = place.select([*key, "place"]).cast(words.append(pa.field("place", pa.int64())))
    kept = left.join(real.cast(words), keys=key, join_type="left anti")["place"].combine_chunks()
    return made.take(pa.array(np.sort(kept.to_numpy())))


def with_looks(chance: Chance, bought: pa.Table, products: pa.Table) -> pa.Table:
    """Views and carts before a share of the orders, none before the first order of the history."""
    lines = bought.combine_chunks()
    at = lines["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64)
    first = int(at.min())
    customer, order, product = (keyed(lines[n]) for n in ("customer_id", "order_id", "product_id"))
    watched = contacts.watched(chance, customer) & chance.happens(BROWSED, "browsed", order)
    rows = np.flatnonzero(watched)
    seen = contacts.looks(chance, order[rows], product[rows], at[rows], first)
    row = rows[seen.row]
    alike = others(chance, lines["product_id"], products, row, order[row], product[row])
    return look_events(lines.take(pa.array(row)), seen, alike)


def look_events(lines: pa.Table, seen: contacts.Looks, alike: Sequence[str]) -> pa.Table:
    order, product = (lines[n].cast(pa.string()).combine_chunks() for n in ("order_id", "product_id"))
    made = {
        "event_id": joined(SYNTHETIC, order, product, seen.names),
        "customer_id": lines["customer_id"].cast(pa.string()),
        "product_id": pc.if_else(pa.array(seen.others), pa.array(alike, pa.string()), product),
        "event_type": seen.kinds,
        "occurred_at": moments(seen.at),
        "value": seen.value,
        "channel": pa.repeat(SYNTHETIC, len(seen.row)),
        "visit_id": joined(SYNTHETIC, order, seen.visits),
    }
    return pa.table(made)


def joined(first: str, *parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(first), *parts, "-")


def keyed(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """A key for each row of a column of ids, made of the id alone."""
    encoded = column.combine_chunks()
    return keys_of(encoded.dictionary.to_pylist())[encoded.indices.to_numpy()]


def others(
    chance: Chance,
    ids: pa.ChunkedArray,
    products: pa.Table,
    row: NDArray[np.int64],
    *keys: NDArray[np.uint64],
) -> list[str]:
    """For each row a product of the same need as its own, of those ever bought; its own where the need is not known."""
    bought = Ids.of(pc.unique(ids).to_pylist())
    own = bought.column(ids)[row]
    held = products["product_id"].combine_chunks()
    place = bought.column(held)
    need = np.full(len(bought), -1, np.int64)
    named = pc.fill_null(products["need"].combine_chunks().dictionary_encode().indices, -1).to_numpy()
    need[place[place >= 0]] = named[place >= 0]
    by = np.argsort(need, kind="stable")
    start, end = (np.searchsorted(need[by], need[own], side=side) for side in ("left", "right"))
    drawn = start + ((end - start) * chance.uniform("looked at", *keys)).astype(np.int64)
    return bought.at(np.where(need[own] < 0, own, by[drawn]))
