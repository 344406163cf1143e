"""Who was assigned to which arm, and when: by the decisions of the daily run, whatever became of the messages.

A customer belongs to the arm of their first decision in the period, a message or one held back at the same point: what
opened, bounced or was withdrawn since moves nobody (intention to treat).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
import sqlalchemy as sa
from numpy.typing import NDArray

from features.history import History
from features.interactions import Seconds, seconds
from lifecycle.ledger import MADE, MESSAGE, Names
from lifecycle.programs import Policy, Program
from serving.store import DATA, DECISIONS, Store

ALL = "all"  # every program together, against the universal control
CONTROL, OWN = "control", "program"  # of whom a message held back says it is: `lifecycle.run.arm_of`
SIGNS = ("delivered", "open", "click")  # events that only a message that went out can bring
D, SENT = DATA[DECISIONS.name].c, DATA["deliveries"].c
COLUMNS = (D.customer_id, D.program, D.run_at, D.outcome, D.detail, D.message_id, D.variant, D.policy)


@dataclass(frozen=True)
class Assigned:
    """The customers of a comparison, a row each.

    program: what is compared. arms: what it is called, and what it is held against. metric: what it is judged by, in so
    many days; None: revenue in 28. at: the decision, seconds. since: the first decision of any program about the
    customer, before which nothing was treated. share: the control's, as planned now. mixed: customers of both arms'
    decisions, as two who were merged. reached: of the control, who were treated after all. note: what the comparison is
    not, where it is not the usual.
    """

    program: str
    customers: list[str]
    at: Seconds
    since: Seconds
    treated: NDArray[np.bool_]
    share: float
    mixed: int
    reached: int
    note: str | None = None
    arms: tuple[str, str] = ("treated", "control")
    metric: tuple[str, int] | None = None

    def __len__(self) -> int:
        return len(self.customers)


def decided(store: Store, names: Names, gone: Callable[[str], bool]) -> pd.DataFrame:
    """Every decision of marketing that wrote or would have, oldest first: customer (as they are known now), program, at
    (seconds), arm (message, program, control), message_id, since. Nobody who was erased is in it."""
    found = rows_of(store, names, gone, D.outcome.in_(MADE), D.kind == "marketing")
    found["arm"] = np.where(found["outcome"] == MESSAGE, MESSAGE, found["detail"])
    found["since"] = found.groupby("customer")["at"].transform("min")
    return found


def rows_of(
    store: Store, names: Names, gone: Callable[[str], bool], *where: sa.ColumnElement[bool]
) -> pd.DataFrame:
    """Decisions, oldest first, by the columns of the table, and: name (the id that was decided about), customer (who
    that is now), at (seconds). Of nobody who was erased."""
    columns = ["name", "program", "at", "outcome", "detail", "message_id", "variant", "policy"]
    rows = store.select(sa.select(*COLUMNS).where(*where).order_by(D.run_at, D.seq))
    found = pd.DataFrame(rows, columns=columns)
    known = {name: names.own(name) for name in found["name"].unique() if not gone(name)}
    found["customer"] = found["name"].map(known)
    found = found.dropna(subset="customer")
    found["at"] = [seconds(at) for at in found["at"]]
    return found


def assigned(
    rows: pd.DataFrame, program: Program | None, rules: Policy, *, since: datetime | None = None,
    until: datetime | None = None, went_out: Collection[str] = (),
) -> Assigned | None:  # fmt: skip
    """Of `decided` who is compared for a program: its own control, of the rest of the universal one, with whom it wrote
    to. A program that holds nobody back is compared with the universal control, and says so. None: of all programs
    together, the universal control with everybody else. `went_out`: message ids of which it is known that something
    went out. Nothing where an arm is empty."""
    own = rows if program is None else rows[rows["program"] == program.name]
    control, share, note = arms_of(own, program, rules)
    other = [arm for arm in (MESSAGE, OWN, CONTROL) if arm != control and (program is None or arm == MESSAGE)]
    own = own[own["arm"].isin([control, *other])]
    first = firsts(own, since, until)
    treated = (first["arm"] != control).to_numpy()
    if not treated.any() or treated.all():
        return None
    arms = own[own["customer"].isin(first["customer"])].assign(held=lambda of: of["arm"] == control)
    kinds = arms.groupby("customer")["held"].nunique()
    held = set(first["customer"][~treated])
    return Assigned(
        ALL if program is None else program.name, first["customer"].tolist(),
        first["at"].to_numpy(np.int64), first["since"].to_numpy(np.int64), treated, share,
        mixed=int((kinds > 1).sum()), reached=len(held & treated_after_all(arms, went_out)), note=note,
        metric=None if program is None else (program.metric, program.metric_days),
    )  # fmt: skip


def firsts(rows: pd.DataFrame, since: datetime | None, until: datetime | None) -> pd.DataFrame:
    """The first row of each customer with since ≤ at < until."""
    if since is not None:
        rows = rows[rows["at"] >= seconds(since)]
    if until is not None:
        rows = rows[rows["at"] < seconds(until)]
    return rows.drop_duplicates("customer")


def arms_of(own: pd.DataFrame, program: Program | None, rules: Policy) -> tuple[str, float, str | None]:
    """(whose decisions are the control's, its planned share of those compared, a note)."""
    if program is None:
        return CONTROL, rules.control, None
    if program.holdout or (own["arm"] == OWN).any():
        return OWN, program.holdout, None
    note = (
        "it holds nobody back, so the universal control stands in: what other programs earned is in it, too"
    )
    return CONTROL, rules.control, note


def treated_after_all(arms: pd.DataFrame, went_out: Collection[str]) -> set[str]:
    """Who was written to, or of whose messages that were held back something went out."""
    shown = arms["message_id"].isin(list(went_out)) & (arms["arm"] != MESSAGE)
    return set(arms["customer"][(arms["arm"] == MESSAGE) | shown])


def went_out(store: Store, history: History, rows: pd.DataFrame) -> set[str]:
    """Of the messages that were held back those that were delivered, or that somebody opened or clicked on."""
    held = set(rows["message_id"][rows["arm"] != MESSAGE])
    sent = {message for (message,) in store.select(sa.select(SENT.message_id).where(SENT.state == "sent"))}
    signs = history.events(types=SIGNS, columns=("message_id",))["message_id"].unique().to_pylist()
    return held & (sent | set(signs))
