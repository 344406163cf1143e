"""The variants of a program against each other: who was drawn to which, and what they did with its messages.

A customer belongs to the variant that was drawn at the first decision about them, from the lists on: also where a
variant's lists were too short for a message, which is a part of what the variant does (intention to treat). Who was
held back saw none, and is left out. Each variant is held against the first: the program as it stands, or, where the
shares leave nobody to it, the first that its file names.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

import numpy as np
import pandas as pd
import sqlalchemy as sa

from lifecycle.ledger import MADE, MESSAGE, Names
from lifecycle.measure.assigned import Assigned, D, firsts, rows_of
from lifecycle.programs import Policy, Program
from lifecycle.run import arm_of
from serving.store import Store

STANDING = "as it stands"  # who gets no variant
UNWRITTEN = ("too_few", "sensitive", "failed")  # outcomes of a variant whose lists were asked for
# decisions for which lists were asked for
ASKED = sa.or_(D.outcome.in_(MADE), sa.and_(D.outcome.in_(UNWRITTEN), D.policy.is_not(None)))
GONE = "its file names it no more, so nothing tells whether the sizes are as planned"


def drawn(store: Store, names: Names, gone: Callable[[str], bool], rules: Policy) -> pd.DataFrame:
    """Every decision for which a variant was drawn, of who is not held back, oldest first: as `rows_of`, and arm (the
    variant), since (the first decision of all about the customer)."""
    found = rows_of(store, names, gone, ASKED)
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
