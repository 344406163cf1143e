"""A generated world as files: the contract's tables, mappings that load them, and the truth beside.

    FOLDER/world.json                    what the world is made of
    FOLDER/events/00000.parquet          of PART customers each
    FOLDER/products.parquet              and customers, identities, consents, promotions
    FOLDER/events.toml                   a mapping for each table
    FOLDER/truth/customers.parquet       what no loader reads: docs/worlds.md

Parts are made one by one or in several processes, each in chunks of customers; the files are the same in any case.
"""

import json
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from features import contacts
from features.chance import Reals
from features.history import BLOCK, History
from features.interactions import DAY
from features.lives import PROGRAMS, Lines, Orders, Pantry, People, lines, orders, pantry, people, responses
from features.mapping import Mapping
from features.schema import (
    CONSENTS,
    CUSTOMERS,
    EVENTS,
    FLAG,
    IDENTITIES,
    PATH,
    PRODUCTS,
    PROMOTIONS,
    REAL,
    TEXT,
    TIME,
    WORD,
    Table,
)
from features.sources import LoadReport, load
from features.worlds import PACKS, STEPS, WEEK, Places, World, away, cheaper, there, word

PART = 5_000  # customers
CHUNK = 500  # customers in memory at once
MICRO = 1_000_000
Told = Callable[[int, int], None]
Tables = dict[str, pa.Table]

# what is filled of each of the contract's tables
FILLED: dict[str, tuple[Table, tuple[str, ...]]] = {
    "products": (
        PRODUCTS,
        (
            *("product_id", "title", "category", "need", "brand", "price", "cost", "size", "url", "in_stock"),
            *("attributes", "known_from"),
        ),
    ),
    "customers": (CUSTOMERS, tuple(n for n in CUSTOMERS.names if n != "push_token")),
    "identities": (IDENTITIES, IDENTITIES.names),
    "consents": (CONSENTS, CONSENTS.names),
    "promotions": (PROMOTIONS, tuple(n for n in PROMOTIONS.names if n != "store_id")),
    "events": (
        EVENTS,
        (
            *("event_id", "customer_id", "product_id", "event_type", "occurred_at", "order_id", "quantity"),
            *("unit_price", "discount", "value", "channel", "store_id", "visit_id"),
        ),
    ),
}
TRUTH: dict[str, pa.Schema] = {
    "truth/customers": pa.schema(
        {
            "customer_id": TEXT, "joined": TIME, "left": TIME, "rate": REAL, "regularity": REAL, "size": REAL,
            "loyalty": REAL, "price_sensitivity": REAL, "web": REAL, "interests": pa.list_(pa.float32()),
        }
    ),
    "truth/replenishment": pa.schema(
        {"customer_id": TEXT, "need": TEXT, "product_id": TEXT, "interval": REAL}
    ),
    "truth/responses": pa.schema(
        {"customer_id": TEXT, "program": TEXT, "alone": REAL, "message": REAL, "offer": REAL}
    ),
    "truth/anonymous": pa.schema({"order_id": TEXT, "customer_id": TEXT}),
    "truth/categories": pa.schema({"category": PATH}),
    "truth/needs": pa.schema({"need": TEXT, "interval": REAL, "goes_with": PATH, "peak_week": REAL}),
    "truth/products": pa.schema(
        {"product_id": TEXT, "share": REAL, "price_step": REAL, "launched": TIME, "withdrawn": TIME}
    ),
    "truth/stockouts": pa.schema({"product_id": TEXT, "starts": TIME, "ends": TIME}),
}  # fmt: skip
OF_PARTS = ("events", "customers", "identities", "consents", *list(TRUTH)[:4])


def schema_of(name: str) -> pa.Schema:
    if name in TRUTH:
        return TRUTH[name]
    table, filled = FILLED[name]
    types = {c.name: TEXT if c.type == WORD else c.type for c in table.columns}
    return pa.schema([(n, types[n]) for n in filled])


@dataclass(frozen=True)
class Generated:
    """What was written: rows by table, those of the truth as truth/…"""

    folder: Path
    rows: dict[str, int]

    def __str__(self) -> str:
        return f"{self.folder}: " + ", ".join(f"{n:,} {name}" for name, n in self.rows.items())


@dataclass(frozen=True)
class Work:
    """How a world is written: `part` decides which customers share a file of events, `chunk` the memory alone."""

    world: World
    folder: Path
    part: int  # customers in a file
    chunk: int  # customers at once

    @property
    def parts(self) -> range:
        """The first customer of each file."""
        return range(0, self.world.customers, self.part)

    def who(self, part: int) -> Places:
        first = self.parts[part]
        return np.arange(first, min(first + self.part, self.world.customers))


def generate(
    world: World,
    folder: Path,
    *,
    processes: int = 1,
    chunk: int = CHUNK,
    part: int = PART,
    told: Told | None = None,
) -> Generated:
    """Write a world into an empty or missing folder: as a whole, or not at all."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty: name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    making.chmod(0o755)
    try:
        for name in ("parts", "events", "truth"):
            (making / name).mkdir(parents=True)
        rows = write_all(Work(world, making, part, chunk), processes, told or (lambda done, of: None))
        shutil.rmtree(making / "parts")
        if folder.exists():
            folder.rmdir()
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return Generated(folder, rows)


def write_all(work: Work, processes: int, told: Told) -> dict[str, int]:
    folder = work.folder
    (folder / "world.json").write_text(json.dumps(asdict(work.world), indent=1) + "\n")
    for name, (_, filled) in FILLED.items():
        text = mapping_text(filled, STORE)
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    rows = {n: write(folder / f"{n}.parquet", schema_of(n), MAKERS[n](work.world)) for n in MAKERS}
    rows["events"] = write_parts(work, processes, told)
    for name in OF_PARTS[1:]:
        found = batches_of(sorted((folder / "parts").glob(f"{name.replace('/', '.')}.*.parquet")))
        rows[name] = write(folder / f"{name}.parquet", schema_of(name), found)
    return rows


def write_parts(work: Work, processes: int, told: Told) -> int:
    """Write what customers bring to the tables, part by part; how many events."""
    made = 0
    for first, rows in zip(
        work.parts, each(partial(write_part, work), len(work.parts), processes), strict=True
    ):
        made += rows
        told(min(first + work.part, work.world.customers), work.world.customers)
    return made


def each(do: Callable[[int], int], count: int, processes: int) -> Iterator[int]:
    """`do` of 0, 1, …, in their order, by so many processes."""
    if processes == 1:
        yield from map(do, range(count))
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(do, range(count))


def write_part(work: Work, part: int) -> int:
    sheets = {name: Sheet(work.folder / path_of(name, part), schema_of(name)) for name in OF_PARTS}
    who = work.who(part)
    for first in range(0, len(who), work.chunk):
        for name, table in lived(work.world, who[first : first + work.chunk]).items():
            sheets[name].add(table)
    return {name: sheet.close() for name, sheet in sheets.items()}["events"]


def path_of(name: str, part: int) -> str:
    return (
        f"events/{part:05}.parquet"
        if name == "events"
        else f"parts/{name.replace('/', '.')}.{part:05}.parquet"
    )


def write(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> int:
    sheet = Sheet(path, schema)
    for table in tables:
        sheet.add(table)
    return sheet.close()


def batches_of(paths: Iterable[Path]) -> Iterator[pa.Table]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BLOCK):
            yield pa.Table.from_batches([batch])


@dataclass
class Sheet:
    """A Parquet file in the making, whose bytes do not depend on how its rows are handed in."""

    path: Path
    schema: pa.Schema
    rows: int = 0
    held: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = pq.ParquetWriter(self.path, self.schema, compression="zstd")

    def add(self, table: pa.Table) -> None:
        self.held.append(table.select(self.schema.names).cast(self.schema))
        while sum(t.num_rows for t in self.held) >= BLOCK:
            whole = pa.concat_tables(self.held)
            self._put(whole.slice(0, BLOCK))
            self.held = [whole.slice(BLOCK)]

    def _put(self, table: pa.Table) -> None:
        if table.num_rows or not self.rows:
            self.file.write_table(table.combine_chunks(), row_group_size=BLOCK)
            self.rows += table.num_rows

    def close(self) -> int:
        """Write what is left; how many rows there are."""
        if self.held:
            self._put(pa.concat_tables(self.held))
        self.file.close()
        return self.rows


STORE = '[store]\nname = "Generated world"\ncurrency = "USD"\ntime_zone = "UTC"\n\n'


def mapping_text(columns: Iterable[str], store: str = "") -> str:
    """A mapping that takes each column as it is."""
    return f"{store}[columns]\n" + "".join(f'{column} = "{column}"\n' for column in columns)


def load_world(folder: Path, history: History, *, rejects_dir: Path) -> list[LoadReport]:
    """Load a generated world's tables, events last; the truth stays where it is."""
    return [
        load(history, name, files, Mapping.read(folder / f"{name}.toml"), rejects_dir=rejects_dir)
        for name in FILLED
        if (files := sorted(folder.glob(f"{name}/*.parquet")) or [folder / f"{name}.parquet"])
        and any(pq.ParquetFile(file).metadata.num_rows for file in files)
    ]


# --- ids ------------------------------------------------------------------------------------------------------


def numbered(letter: str, numbers: NDArray[Any], width: int = 8) -> pa.Array:
    return pc.binary_join_element_wise(letter, pc.utf8_lpad(pc.cast(pa.array(numbers), TEXT), width, "0"), "")


def product_ids(world: World) -> pa.Array:
    return numbered("p", np.arange(world.products), 6)


def customer_ids(who: Places) -> pa.Array:
    return numbered("c", who)


def need_names(world: World) -> list[str]:
    return [word(n) for n in range(world.shelf.needs)]


def category_paths(world: World) -> list[list[str]]:
    """A department of up to five categories each, and the category."""
    return [[word(3_000 + k // 5), word(3_100 + k)] for k in range(len(world.shelf.need_start) - 1)]


def moments(seconds: NDArray[Any], where: NDArray[np.bool_] | None = None) -> pa.Array:
    """Times, null where `where` is false."""
    return pa.array(seconds * MICRO, pa.int64(), mask=None if where is None else ~where).cast(TIME)


# --- what is of the whole world ---------------------------------------------------------------------------------


def products(world: World) -> Iterator[pa.Table]:
    shelf, place = world.shelf, np.arange(world.products)
    needs, paths = need_names(world), category_paths(world)
    sold = there(world, place, np.full(world.products, world.end - 1))
    count = np.where(sold, contacts.stock(world.chance, place), 0)
    yield pa.table(
        {
            "product_id": product_ids(world),
            "title": [
                f"{word(3_200 + b)} {needs[n]}, {PACKS[p]}"
                for b, n, p in zip(shelf.brand, shelf.need, shelf.pack, strict=True)
            ],
            "category": pa.array([[*paths[shelf.category[n]], needs[n]] for n in shelf.need], PATH),
            "need": contacts.taken(needs, shelf.need),
            "brand": [word(3_200 + b) for b in shelf.brand.tolist()],
            "price": shelf.price,
            "cost": np.round(shelf.price * (0.5 + 0.2 * world.chance.uniform("cost", place)), 2),
            "size": contacts.taken(PACKS, shelf.pack),
            "url": pc.binary_join_element_wise("/products/", product_ids(world), ""),
            "in_stock": pa.array(sold, FLAG),
            "attributes": [json.dumps({"stock": n, contacts.SYNTHETIC: ["stock"]}) for n in count.tolist()],
            "known_from": moments(shelf.launched, shelf.launched > world.first),
        }
    )


def promotions(world: World) -> Iterator[pa.Table]:
    """Each week that a product is cheaper: planned, and known, two weeks before."""
    ids = product_ids(world)
    for week in range(world.weeks):
        place = np.arange(world.products)
        starts = world.first + week * WEEK
        on = np.flatnonzero((cheaper(world, place, np.full(len(place), week)) > 0) & offered(world, starts))
        at = np.full(len(on), starts)
        yield pa.table(
            {
                "product_id": ids.take(pa.array(on)),
                "starts": moments(at),
                "ends": moments(at + WEEK),
                "kind": ["price"] * len(on),
                "known_at": moments(at - 14 * DAY),
            }
        )


def offered(world: World, starts: int) -> NDArray[np.bool_]:
    """What is sold at some time of the week from a moment on."""
    return (world.shelf.launched < starts + WEEK) & (starts < world.shelf.withdrawn)


def true_categories(world: World) -> Iterator[pa.Table]:
    yield pa.table({"category": pa.array(category_paths(world), PATH)})


def true_needs(world: World) -> Iterator[pa.Table]:
    shelf, names = world.shelf, need_names(world)
    yield pa.table(
        {
            "need": names,
            "interval": shelf.interval,
            "goes_with": pa.array([[names[n] for n in row] for row in shelf.partners], PATH),
            "peak_week": pa.array(shelf.peak, mask=np.isnan(shelf.peak)),
        }
    )


def true_products(world: World) -> Iterator[pa.Table]:
    shelf = world.shelf
    yield pa.table(
        {
            "product_id": product_ids(world),
            "share": shelf.share,
            "price_step": STEPS[shelf.step],
            "launched": moments(shelf.launched, shelf.launched > world.first),
            "withdrawn": moments(np.minimum(shelf.withdrawn, world.end), shelf.withdrawn < world.end),
        }
    )


def stockouts(world: World) -> Iterator[pa.Table]:
    ids, place = product_ids(world), np.arange(world.products)
    for week in range(world.weeks):
        gone = np.flatnonzero(away(world, place, np.full(len(place), week)))
        at = np.full(len(gone), world.first + week * WEEK)
        yield pa.table(
            {"product_id": ids.take(pa.array(gone)), "starts": moments(at), "ends": moments(at + WEEK)}
        )


MAKERS: dict[str, Callable[[World], Iterator[pa.Table]]] = {
    "products": products,
    "promotions": promotions,
    "truth/categories": true_categories,
    "truth/needs": true_needs,
    "truth/products": true_products,
    "truth/stockouts": stockouts,
}


# --- what customers bring ---------------------------------------------------------------------------------------


def lived(world: World, who: Places) -> Tables:
    """What these customers bring to each of the tables."""
    them = people(world, who)
    made = orders(world, them)
    kept = pantry(world, them)
    ids = customer_ids(who)
    visits = Visits.of(world, them, made, ids)
    joined = np.where(them.established, world.first, world.clock.seconds(them.joined))
    known = visits.owned
    return {
        "events": events(world, them, visits, lines(world, them, made, kept)),
        "customers": contacts.contacts(world.chance, ids.filter(known).to_pylist(), who[known]),
        "identities": visits.identities(),
        "consents": contacts.consents(
            world.chance, ids.filter(known).to_pylist(), who[known], joined[known], world.end
        ),
        "truth/customers": true_customers(world, them, ids, joined),
        "truth/replenishment": replenishment(world, kept, ids),
        "truth/responses": true_responses(world, them, ids),
        "truth/anonymous": visits.nameless(),
    }


def true_customers(world: World, them: People, ids: pa.Array, joined: Places) -> pa.Table:
    gone = them.left < world.clock.end
    return pa.table(
        {
            "customer_id": ids,
            "joined": moments(joined, ~them.established),
            "left": moments(world.clock.seconds(them.left), gone),
            "rate": them.rate,
            "regularity": them.regularity,
            "size": them.size,
            "loyalty": them.loyalty,
            "price_sensitivity": them.sensitivity,
            "web": them.web,
            "interests": pa.array(list(them.interests.astype(np.float32)), pa.list_(pa.float32())),
        }
    )


def replenishment(world: World, kept: Pantry, ids: pa.Array) -> pa.Table:
    return pa.table(
        {
            "customer_id": ids.take(pa.array(kept.owner)),
            "need": contacts.taken(need_names(world), kept.need),
            "product_id": product_ids(world).take(pa.array(kept.favourite)),
            "interval": kept.interval,
        }
    )


def true_responses(world: World, them: People, ids: pa.Array) -> pa.Table:
    """A row for each customer and program, customer by customer."""
    of = [
        np.stack(column, axis=1).ravel()
        for column in zip(*(responses(world, them, p) for p in PROGRAMS), strict=True)
    ]
    row = np.repeat(np.arange(len(them)), len(PROGRAMS))
    return pa.table(
        {
            "customer_id": ids.take(pa.array(row)),
            "program": list(PROGRAMS) * len(them),
            **dict(zip(("alone", "message", "offer"), of, strict=True)),
        }
    )


@dataclass(frozen=True)
class Visits:
    """How orders are known: where they were made, and by which id."""

    made: Orders
    at: Places  # seconds
    ids: pa.Array  # of customers
    order_ids: pa.Array
    web: NDArray[np.bool_]
    nobody: NDArray[np.bool_]
    alias: NDArray[np.bool_]  # by the customer's second id
    store: Places
    key: NDArray[np.uint64]  # of each order

    @classmethod
    def of(cls, world: World, them: People, made: Orders, ids: pa.Array) -> "Visits":
        chance, who = world.chance, them.id[made.owner]
        key = chance.bits("order", who, made.nth)
        home = (chance.uniform("home store", who) * world.stores).astype(np.int64)
        other = (chance.uniform("other store", key) * world.stores).astype(np.int64)
        web = chance.happens(them.web[made.owner], "on the web", key)
        second = chance.happens(world.aliases, "alias", who) & chance.happens(0.4, "as alias", key)
        nobody = chance.happens(world.anonymous, "nobody", key)
        digits = pc.utf8_lpad(pc.cast(pa.array(made.nth), TEXT), 4, "0")
        return cls(
            made,
            world.clock.seconds(made.at),
            ids,
            pc.binary_join_element_wise(numbered("o", who), digits, "-"),
            web,
            nobody,
            second & ~nobody,
            np.where(chance.happens(0.85, "at home", key), home, other),
            key,
        )

    @property
    def owned(self) -> NDArray[np.bool_]:
        """Customers who ever ordered by name."""
        found = np.zeros(len(self.ids), bool)
        found[self.made.owner[~self.nobody]] = True
        return found

    @property
    def aliases(self) -> pa.Array:
        return pc.replace_substring(self.ids, "c", "w")

    def identities(self) -> pa.Table:
        known = pa.array(np.unique(self.made.owner[self.alias]))
        return pa.table({"alias": self.aliases.take(known), "customer_id": self.ids.take(known)})

    def nameless(self) -> pa.Table:
        rows = pa.array(np.flatnonzero(self.nobody))
        owner = pa.array(self.made.owner).take(rows)
        return pa.table({"order_id": self.order_ids.take(rows), "customer_id": self.ids.take(owner)})

    def names(self, order: Places) -> pa.Array:
        """The id by which the customer of each of these orders is known, null where by none."""
        place = self.made.owner[order] + len(self.ids) * self.alias[order]
        return pa.concat_arrays([self.ids, self.aliases]).take(pa.array(place, mask=self.nobody[order]))


def events(world: World, them: People, visits: Visits, bought: Lines) -> pa.Table:
    """Order lines, and what came of them and before them, customer by customer and order by order."""
    price = world.shelf.price[bought.product]
    paid = np.maximum(np.round(price * (1 - bought.off), 2), 0.01)
    rows = [
        paid_lines(world, visits, bought, paid, price),
        returned(world, visits, bought, paid),
        browsed(world, them, visits, bought),
    ]
    order = np.concatenate([found[0] for found in rows])
    table = pa.concat_tables([found[1] for found in rows])
    return table.take(pa.array(np.argsort(order, kind="stable")))


Rows = tuple[Places, pa.Table]  # the order of each row, and the rows


def rows_of(world: World, visits: Visits, order: Places, product: Places, ends: Any, **columns: Any) -> Rows:
    """Events about orders' products; what `columns` does not name is missing."""
    ids = product_ids(world).take(pa.array(product))
    order_ids = visits.order_ids.take(pa.array(order))
    schema = schema_of("events")
    web = visits.web[order]
    of = {
        "event_id": pc.binary_join_element_wise(order_ids, ids, ends, "-"),
        "customer_id": visits.names(order),
        "product_id": ids,
        "order_id": order_ids,
        "channel": contacts.taken(("store", "web"), web.astype(np.int64)),
        "store_id": numbered("s", visits.store, 2).take(pa.array(order, mask=web)),
        **columns,
    }
    nothing = {name: pa.nulls(len(order), schema.field(name).type) for name in schema.names if name not in of}
    return order, pa.table({**of, **nothing}).select(schema.names).cast(schema)


def paid_lines(world: World, visits: Visits, bought: Lines, paid: Reals, price: Reals) -> Rows:
    return rows_of(
        world, visits, bought.order, bought.product, "b",
        event_type=pa.repeat("order", len(bought.order)),
        occurred_at=moments(visits.at[bought.order]),
        quantity=bought.quantity.astype(float),
        unit_price=paid,
        discount=np.maximum(np.round(price - paid, 2), 0.0),
    )  # fmt: skip


def returned(world: World, visits: Visits, bought: Lines, paid: Reals) -> Rows:
    """Lines that come back within three weeks, as far as the world lasts."""
    key = visits.key[bought.order], bought.product
    late = DAY + (20 * DAY * world.chance.uniform("late", *key)).astype(np.int64)
    at = visits.at[bought.order] + late
    back = np.flatnonzero(world.chance.happens(world.returns, "returned", *key) & (at < world.end))
    return rows_of(
        world, visits, bought.order[back], bought.product[back], "r",
        event_type=pa.repeat("return", len(back)),
        occurred_at=moments(at[back]),
        quantity=bought.quantity[back].astype(float),
        unit_price=paid[back],
    )  # fmt: skip


def browsed(world: World, them: People, visits: Visits, bought: Lines) -> Rows:
    """Views and carts before orders on the web, of customers who agreed to be watched."""
    watched = contacts.watched(world.chance, them.id)[visits.made.owner]
    line = np.flatnonzero((visits.web & watched)[bought.order])
    order, product = bought.order[line], bought.product[line]
    seen = contacts.looks(world.chance, visits.key[order], product, visits.at[order], world.first)
    order, product = order[seen.row], product[seen.row]
    drawn = world.chance.uniform("looked at", visits.key[order], product)
    other = world.shelf.of_need(world.shelf.need[product], drawn)
    whole = rows_of(
        world, visits, order, product, seen.names,
        event_type=seen.kinds,
        occurred_at=moments(seen.at),
        value=seen.value,
        visit_id=pc.binary_join_element_wise("v", visits.order_ids.take(pa.array(order)), seen.visits, "-"),
        order_id=pa.nulls(len(order), TEXT),
    )  # fmt: skip
    shown = product_ids(world).take(pa.array(np.where(seen.others, other, product)))
    return order, whole[1].set_column(whole[1].schema.get_field_index("product_id"), "product_id", shown)
