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


@dataclass(frozen=True)
class Assigned:
    """The customers of a comparison, a row each.

    at: the decision, seconds. since: the first decision of any program about the customer, before which nothing was
    treated. share: the control's, as planned now. mixed: customers of both arms' decisions, as two who were merged.
    reached: of the control, who were treated after all. note: what the comparison is not, where it is not the usual.
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

    def __len__(self) -> int:
        return len(self.customers)


def decided(store: Store, names: Names, gone: Callable[[str], bool]) -> pd.DataFrame:
    """Every decision of marketing that wrote or would have, oldest first: customer (as they are known now), program, at
    (seconds), arm (message, program, control), message_id, since. Nobody who was erased is in it."""
    wanted = sa.select(D.customer_id, D.program, D.run_at, D.outcome, D.detail, D.message_id).where(
        D.outcome.in_(MADE), D.kind == "marketing"
    )
    columns = ["customer", "program", "at", "outcome", "detail", "message_id"]
    found = pd.DataFrame(store.select(wanted.order_by(D.run_at, D.seq)), columns=columns)
    known = {name: names.own(name) for name in found["customer"].unique() if not gone(name)}
    found["customer"] = found["customer"].map(known)
    found = found.dropna(subset="customer")
    found["at"] = [seconds(at) for at in found["at"]]
    found["arm"] = np.where(found["outcome"] == MESSAGE, MESSAGE, found["detail"])
    found["since"] = found.groupby("customer")["at"].transform("min")
    return found.drop(columns=["outcome", "detail"])


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
    inside = own
    if since is not None:
        inside = inside[inside["at"] >= seconds(since)]
    if until is not None:
        inside = inside[inside["at"] < seconds(until)]
    first = inside.drop_duplicates("customer")
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
    )  # fmt: skip


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
