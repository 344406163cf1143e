"""The variants of a program against each other: who was drawn to which, and what they did with its messages.

A customer belongs to the variant that was drawn at the first decision about them, from the lists on: also where a
variant's lists were too short for a message, which is a part of what the variant does (intention to treat). Who was
held back saw none, and is left out. Each variant is held against the first: the program as it stands, or, where the
shares leave nobody to it, the first that its file names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from features.history import History
from features.interactions import Seconds
from lifecycle.ledger import MADE, MESSAGE, Names
from lifecycle.measure.assigned import Assigned, D, firsts, rows_of
from lifecycle.programs import Policy, Program
from lifecycle.run import arm_of
from serving.store import DATA, Store

STANDING = "as it stands"  # who gets no variant
UNWRITTEN = ("too_few", "sensitive", "failed")  # outcomes of a variant whose lists were asked for
SIGNS = {"opened": "open", "clicked": "click"}
GONE = "its file names it no more, so nothing tells whether the sizes are as planned"
LISTS = DATA["sends"].c


def drawn(store: Store, names: Names, gone: Callable[[str], bool], rules: Policy) -> pd.DataFrame:
    """Every decision for which a variant was drawn, of who is not held back, oldest first: as `rows_of`, and arm (the
    variant), since (the first decision of all about the customer)."""
    was_asked = sa.or_(D.outcome.in_(MADE), sa.and_(D.outcome.in_(UNWRITTEN), D.policy.is_not(None)))
    found = rows_of(store, names, gone, was_asked)
    made = found[found["outcome"].isin(MADE)].drop_duplicates("customer")
    first = dict(zip(made["customer"], made["name"], strict=True))  # the id that says which arms they are of
    found["since"] = found.groupby("customer")["at"].transform("min")
    found["arm"] = found["variant"].fillna(STANDING)
    found["named"] = found["customer"].map(first).fillna(found["name"])
    return found[found["outcome"] != "holdout"]


def pairs(
    rows: pd.DataFrame, program: Program, rules: Policy, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Assigned]:  # fmt: skip
    """Each variant of a program beside the first, from the first decision that it was drawn for on. A variant of whom
    nobody was decided about, or nobody beside it, is left out."""
    own = rows[rows["program"] == program.name]
    named = dict(zip(own["named"], own["named"].map(lambda name: arm_of(rules, program, name)), strict=True))
    own = own[(own["outcome"] == MESSAGE) | own["named"].map(named).isna()]
    base, shares = planned(program)
    for variant in (*(name for name in shares if name != base), *left_over(own, base, shares)):
        begun = own["at"][own["arm"] == variant].min()
        found = pair(own[own["at"] >= begun], program, variant, base, shares, since, until)
        if found is not None:
            yield found


def left_over(own: pd.DataFrame, base: str, shares: Mapping[str, float]) -> list[str]:
    return sorted(set(own["arm"]) - {base, *shares})


def planned(program: Program) -> tuple[str, dict[str, float]]:
    """(the first variant, the share of each)."""
    shares = {name: of.share for name, of in program.variants.items()}
    rest = 1 - sum(shares.values())
    found = {STANDING: rest, **shares} if rest > 1e-9 or not shares else shares
    return next(iter(found)), found


def pair(
    own: pd.DataFrame, program: Program, variant: str, base: str, shares: Mapping[str, float],
    since: datetime | None, until: datetime | None,
) -> Assigned | None:  # fmt: skip
    first = firsts(own, since, until)
    first = first[first["arm"].isin([base, variant])]
    treated = (first["arm"] == variant).to_numpy()
    if not treated.any() or treated.all():
        return None
    arms = own[own["customer"].isin(first["customer"])]
    other = set(arms["customer"][(arms["arm"] == variant) & (arms["outcome"] == MESSAGE)])
    both = shares[base] + shares.get(variant, 0.0)
    return Assigned(
        f"{program.name}.{variant}", first["customer"].tolist(), first["at"].to_numpy(np.int64),
        first["since"].to_numpy(np.int64), treated, shares[base] / both,
        mixed=int((arms.groupby("customer")["arm"].nunique() > 1).sum()),
        reached=len(set(first["customer"][~treated]) & other), note=None if variant in shares else GONE,
        arms=(variant, base), metric=(program.metric, program.metric_days),
    )  # fmt: skip


# --- what they did with the messages ----------------------------------------------------------------------


class Signs(NamedTuple):
    """What was done with messages, a row each: the customer's place, −1 nobody's, and when."""

    owner: NDArray[np.int64]
    at: Seconds


def signs(store: Store, history: History, rows: pd.DataFrame, customers: Sequence[str]) -> dict[str, Signs]:
    """Opens and clicks of the messages of these decisions, by the customers written to. A click counts by the message
    that it names, or by the list, where it came through a link of ours, of which robots' are not on record."""
    sent = rows[rows["message_id"].notna() & (rows["outcome"] == MESSAGE)]
    place = {name: at for at, name in enumerate(customers)}
    whose = {
        message: place.get(name, -1)
        for message, name in zip(sent["message_id"], sent["customer"], strict=True)
    }
    lists = store.select(
        sa.select(LISTS.recommendation_id, LISTS.message_id).where(LISTS.message_id.is_not(None))
    )
    by_list = {found: whose[message] for found, message in lists if message in whose}
    columns = ("event_type", "occurred_at", "message_id", "recommendation_id")
    events = history.events(types=tuple(SIGNS.values()), columns=columns)
    found = dict[str, Signs]()
    for name, kind in SIGNS.items():
        some = events.filter(pc.equal(events["event_type"].cast("string"), kind))
        ids = zip(some["message_id"].to_pylist(), some["recommendation_id"].to_pylist(), strict=True)
        owner = [whose.get(message, by_list.get(of, -1)) for message, of in ids]
        at = some["occurred_at"].to_numpy().astype("datetime64[s]").astype(np.int64)
        found[name] = Signs(np.array(owner, np.int64), at)
    return found
