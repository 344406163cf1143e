"""Versions that were served side by side: who was drawn to which, from when on.

A customer belongs to the version that a hash drew (`serving.challenge`), from their first touch while it was served on:
they looked at a page with lists, or a program's lists were made for them. What is bought is no touch. So nothing need
be put on record of whom a list was shown to, and nobody moves.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import sqlalchemy as sa

from features.history import History
from features.interactions import moment, seconds
from lifecycle.ledger import Names
from lifecycle.measure.assigned import Assigned, D, firsts
from lifecycle.measure.variants import ASKED
from serving.challenge import Challenge, challenges, ended
from serving.store import DATA, Store

TOUCHES = ("view", "cart", "impression", "click")
SENDS = DATA["sends"].c


def begun(home: Path) -> datetime | None:
    """When the first challenge began; None where there was none."""
    return min((one.since for one in challenges(home)), default=None)


def touched(
    store: Store, history: History, names: Names, gone: Callable[[str], bool], since: datetime | None
) -> pd.DataFrame:
    """Every touch since a moment, oldest first: customer (as they are known now), at (seconds), version (which made the
    lists, where that is on record). Of nobody who was erased."""
    seen = history.events(types=TOUCHES, columns=("customer_id", "occurred_at"), since=since)
    at = seen["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64)
    decided = store.select(sa.select(D.customer_id, D.run_at, D.model_version).where(ASKED))
    sent = store.select(sa.select(SENDS.customer_id, SENDS.at).where(SENDS.message_id.is_(None)))
    rows = [
        *zip(seen["customer_id"].to_pylist(), at.tolist(), [None] * len(at), strict=True),
        *((name, seconds(when), version) for name, when, version in decided),
        *((name, seconds(when), None) for name, when in sent),
    ]  # fmt: skip
    found = pd.DataFrame(rows, columns=["customer", "at", "version"]).dropna(subset="customer")
    known = {name: names.own(name) for name in found["customer"].unique() if not gone(name)}
    found["customer"] = found["customer"].map(known)
    return found.dropna(subset="customer").sort_values("at", kind="stable")


def served(
    home: Path, rows: pd.DataFrame, *, since: datetime | None = None, until: datetime | None = None
) -> tuple[list[Assigned], list[str]]:
    """(each challenger beside the champion of its time, those of whom nobody was drawn)."""
    found, without = list[Assigned](), list[str]()
    for number, one in enumerate(all_of := challenges(home), 1):
        name = f"version {one.version}" + (f", challenge {number}" if len(all_of) > 1 else "")
        begun, over = (
            max(filter(None, (one.since, since))),
            min(filter(None, (ended(home, one), until)), default=None),
        )
        made = beside(one, name, rows, begun, over)
        found += [made] if made else []
        without += [] if made else [name]
    return found, without


def beside(
    of: Challenge, name: str, rows: pd.DataFrame, since: datetime, until: datetime | None
) -> Assigned | None:
    first = firsts(rows.assign(since=rows["at"]), since, until)
    treated = np.array([of.draws(customer) for customer in first["customer"]], bool)
    if not treated.any() or treated.all():
        return None
    during = rows[(rows["at"] >= seconds(since)) & (rows["at"] < seconds(until or moment(2**33)))]
    other = set(during["customer"][during["version"] == of.version])
    own = set(during["customer"][during["version"] == of.champion])
    drawn, rest = (set(first["customer"][side]) for side in (treated, ~treated))
    return Assigned(
        name, first["customer"].tolist(), first["at"].to_numpy(np.int64), first["since"].to_numpy(np.int64), treated,
        1 - of.share, mixed=len((drawn & own) | (rest & other)), reached=len(rest & other),
        arms=(f"version {of.version}", f"version {of.champion}"),
    )  # fmt: skip
