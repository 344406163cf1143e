"""How far off are due dates? On days that nothing has seen, beside the two rules that everybody knows.

    python -m benchmarks.replenishment --home .osclms --until 2017-11-02 --days 60 --write docs/replenishment.md

Due dates are worked out on what was known before `--until` and held against what was bought in the days after it, by
pairs of a customer and a product of theirs. `--write` puts the tables into a marked part of a page.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.contest import QualityError
from benchmarks.quality import write
from features.history import History
from features.interactions import DAY, Interactions, seconds
from features.replenishment import LIKELY, Repeats, due, keys
from training.split import Data, known

Array = NDArray[Any]
SOON = 14.0  # days
CHANCES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MARKS = ("<!-- figures of make bench-replenishment -->", "<!-- end of figures -->")


@dataclass(frozen=True)
class Reading:
    """errors: mean days off, by rule. soon: what became of pairs due within SOON days, of those as likely as LIKELY.
    chances: by the chance given, (from, to, pairs, mean chance, share that bought)."""

    until: str
    days: float
    pairs: int
    customers: int
    errors: Mapping[str, float]
    soon: Mapping[str, float]
    chances: Sequence[tuple[float, float, int, float, float]]
    seconds: float


def waited(key: Array, data: Interactions, start: int, days: float) -> Array:
    """Days from `start` to the first purchase of each pair in so many days, inf where there is none."""
    inside = (data.at >= start) & (data.at < start + days * DAY)
    bought = pd.Series((data.at[inside & (data.customer >= 0)] - start) / DAY)
    inside_keys = keys(data)[inside[data.customer >= 0]]
    first = bought.groupby(inside_keys).min()
    return first.reindex(key).fillna(np.inf).to_numpy()


def rules(data: Interactions) -> dict[str, Array]:
    """By the simplest rules, days from now to the next purchase of each pair, NaN where the rule has none."""
    pairs, known_rows = Repeats.of(data), data.customer >= 0
    order = np.argsort(pairs.place, kind="stable")
    age, place = data.age()[known_rows][order].astype(np.float64), pairs.place[order]
    gap = np.append(np.nan, age[:-1] - age[1:])
    gap[np.append(True, place[1:] != place[:-1])] = np.nan
    usual = pd.Series(gap).groupby(pairs.item[place]).median()
    last = pd.Series(gap).groupby(place).last().reindex(np.arange(len(pairs.key))).to_numpy()
    return {
        "the product's median gap": usual.reindex(pairs.item).to_numpy() - pairs.wait,
        "the customer's last gap": last - pairs.wait,
    }


def read(home: Path, until: datetime, days: float) -> Reading:
    """Measure on a home's history."""
    history = History(home / "history")
    past, later = known(history, until), known(history, until + timedelta(days=days))
    data = past.interactions
    began = perf_counter()
    found = due(data, past.catalog, horizon=days)
    took = perf_counter() - began
    pairs = Repeats.of(data)
    wait = waited(renamed(pairs.key, past, later), later.interactions, seconds(until), days)
    asked = (pairs.times >= 2) & np.isfinite(wait)
    told = {"due date": found["days"].to_numpy(), **rules(data)}
    errors = {name: float(np.abs(of - wait)[asked].mean()) for name, of in told.items()}
    errors |= {f"{name}, today where it is past": float(np.abs(np.maximum(of, 0) - wait)[asked].mean())
               for name, of in told.items() if name != "due date"}  # fmt: skip
    chance = found["chance"].to_numpy()
    return Reading(
        until.date().isoformat(), days, int(asked.sum()), len(np.unique(found["customer"][asked])), errors,
        soon(found, due(data, past.catalog, horizon=SOON)["chance"].to_numpy(), wait), by_chance(chance, wait), took,
    )  # fmt: skip


def renamed(key: Array, past: Data, later: Data) -> Array:
    """Pairs of the past by the positions of the later data."""
    customer, item = np.divmod(key, len(past.catalog))
    who = later.interactions.customers.positions(past.interactions.customers.at(np.unique(customer)))
    what = later.catalog.items.positions(past.catalog.items.at(np.arange(len(past.catalog))))
    there = who[np.searchsorted(np.unique(customer), customer)].astype(np.int64)
    return np.where(there < 0, -1, there * len(later.catalog) + what[item])


def soon(found: pd.DataFrame, chance: Array, wait: Array) -> dict[str, float]:
    near = ((found["days"] <= SOON) & (found["chance"] >= LIKELY)).to_numpy()
    return {
        "pairs due within 14 days": float(near.sum()),
        "bought within 14 days": float((wait[near] <= SOON).mean()),
        "… expected": float(chance[near].mean()),
        "bought within the window": float(np.isfinite(wait[near]).mean()),
        "… expected, in the window": float(found["chance"][near].mean()),
    }


def by_chance(chance: Array, wait: Array) -> list[tuple[float, float, int, float, float]]:
    parts = [(low, high, (chance > low) & (chance <= high)) for low, high in itertools.pairwise(CHANCES)]
    return [
        (low, high, int(of.sum()), float(chance[of].mean()), float(np.isfinite(wait[of]).mean()))
        for low, high, of in parts
        if of.any()
    ]


def page(reading: Reading) -> str:
    """The figures as tables."""
    best = min(reading.errors.values())
    lines = [
        f"Known: all before {reading.until}. Held against the {reading.days:.0f} days after it: "
        f"{reading.pairs:,} pairs of {reading.customers:,} customers.", "",
        "| due by | mean absolute error, days |", "|---|--:|",
        *(f"| {n} | **{e:.2f}** |" if e == best else f"| {n} | {e:.2f} |" for n, e in reading.errors.items()),
        "", "| due within 14 days, as likely as not to buy in the window | |", "|---|--:|",
        *(f"| {n} | {v:,.0f} |" if n.startswith("pairs") else f"| {n} | {v:.1%} |" for n, v in reading.soon.items()),
        "", "| chance given | pairs | mean chance | bought |", "|---|--:|--:|--:|",
        *(f"| {a:.0%} to {b:.0%} | {n:,} | {c:.1%} | {s:.1%} |" for a, b, n, c, s in reading.chances),
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, default=Path(".osclms"))
    parser.add_argument("--until", default="2017-11-02", help="what was known before this date")
    parser.add_argument("--days", type=float, default=60.0, help="of the window after it")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write", type=Path, help="a page with a part for the figures")
    asked = parser.parse_args()
    reading = read(asked.home, datetime.fromisoformat(asked.until).replace(tzinfo=UTC), asked.days)
    print(json.dumps(asdict(reading), indent=2) if asked.json else page(reading))
    if asked.write:
        try:
            write(asked.write, page(reading), MARKS)
        except QualityError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
