"""What was chosen before and what came of it, from the database and the history; the policy that this teaches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from features.history import History
from features.interactions import DAY, Interactions, seconds
from lifecycle import programs as rules_of
from lifecycle.choose.context import FEATURES, again_of, columns_of, encoded
from lifecycle.choose.learner import HALF_LIFE, SILENCE, Array, Rows, Sums, faded, fit, summed
from lifecycle.choose.policy import Policy
from lifecycle.day import Day
from lifecycle.ledger import Names
from lifecycle.measure.outcomes import costs, worths
from serving.store import DATA, Store

FOLDER = "choices"  # in a home: its policies
WEEK = 7 * DAY
LOOK = timedelta(weeks=4 * HALF_LIFE)  # choices before that count for next to nothing
C = DATA["choices"].c
COLUMNS = ("run_at", "customer_id", "channel", "chooser", "arm", "probability", "eligible", "context", "held")


@dataclass(frozen=True)
class Log:
    """Choices whose reward is known: rows of the table, each with its reward and the customer's own id."""

    rows: Sequence[Mapping[str, Any]]
    customer: Sequence[str]
    reward: Array
    weight: Array

    def where(self, keep: NDArray[np.bool_]) -> "Log":
        kept = np.flatnonzero(keep).tolist()
        rows, customer = [self.rows[at] for at in kept], [self.customer[at] for at in kept]
        return Log(rows, customer, self.reward[keep], self.weight[keep])

    def arms(self, also: Sequence[str] = ()) -> tuple[str, ...]:
        """Silence, and every program that could ever have been chosen."""
        names = {name for row in self.rows for name in row["eligible"]} | set(also)
        return (SILENCE, *sorted(names - {SILENCE}))

    def as_rows(self, arms: Sequence[str]) -> Rows:
        place = {name: at for at, name in enumerate(arms)}
        contexts = [row["context"] for row in self.rows]
        eligible = np.zeros((len(self.rows), len(arms)), bool)
        for at, row in enumerate(self.rows):
            eligible[at, [place[name] for name in row["eligible"]]] = True
        return Rows(
            encoded(columns_of(contexts)), eligible, again_of(contexts, arms),
            np.array([place[row["arm"]] for row in self.rows], np.int64),
            np.array([row["probability"] for row in self.rows], float), self.reward, self.weight,
        )  # fmt: skip


def matured(
    home: Path, store: Store, day: Day, rules: rules_of.Policy, aliases: Mapping[str, str], *,
    since: datetime | None = None,
) -> Log:  # fmt: skip
    """The choices before a day whose window was over when the history's last event happened, and what came of them."""
    window = timedelta(days=rules.choice_days)
    until = min(day.at, day.last_event or day.at) - window
    wanted = sa.select(*(C[name] for name in COLUMNS)).where(C.run_at <= until)
    wanted = wanted if since is None else wanted.where(C.run_at >= since)
    names = Names(aliases)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in store.select(wanted.order_by(C.run_at, C.seq))]
    for row in rows:
        row["eligible"], row["context"] = json.loads(row["eligible"]), json.loads(row["context"])
    customer = [names.own(row["customer_id"]) for row in rows]
    at = np.array([seconds(row["run_at"]) for row in rows], np.int64)
    worth = worths(
        day.data,
        costs(History(home / "history"), day.data.items) if rules.choice_reward == "margin" else None,
    )
    who = day.data.customers.positions(customer).astype(np.int64)
    reward = brought(day.data, worth, who, at, rules.choice_days * DAY)
    channel = [row["channel"] for row in rows]
    return Log(rows, customer, reward, 1 / overlaps(customer, channel, at, rules.choice_days * DAY))


def brought(
    data: Interactions,
    worth: Array,
    who: NDArray[np.int64],
    at: NDArray[np.int64],
    window: int | NDArray[np.int64],
) -> Array:
    """The sum of `worth` of the lines that these customers bought from `at` (seconds) on, for so many seconds."""
    named = np.flatnonzero(data.customer >= 0)
    order = named[np.lexsort((data.at[named], data.customer[named]))]
    span = int(max(data.at.max(initial=0), (at + window).max(initial=0))) + 1
    key = data.customer[order].astype(np.int64) * span + data.at[order]
    total = np.concatenate([[0.0], np.cumsum(worth[order])])
    first, last = (np.searchsorted(key, who * span + moment) for moment in (at, at + window))
    return np.where(who >= 0, total[last] - total[first], 0.0)


def overlaps(
    customer: Sequence[str], channel: Sequence[str], at: NDArray[np.int64], window: int
) -> NDArray[np.float64]:
    """Of each choice how many of the customer lie within half a window of it, itself among them: as they share their
    rewards, together they count for about one."""
    _, who = np.unique([f"{c}|{n}" for c, n in zip(channel, customer, strict=True)], return_inverse=True)
    span = int(at.max(initial=0)) + window + 1
    key = who.astype(np.int64) * span + at
    ordered = np.sort(key)
    low, high = (np.searchsorted(ordered, key + step) for step in (-(window // 2), window - window // 2))
    return np.maximum(high - low, 1).astype(np.float64)


def taught(log: Log, arms: Sequence[str], at: datetime, *, floor: float, seed: int) -> Policy:
    """What these choices teach, each week older counting for a little less; without any, chance alone."""
    log = log.where(np.array([not row["held"] for row in log.rows], bool))
    about = {"choices": len(log.rows), "at": at.isoformat()}
    if not log.rows:
        return Policy.of(None, arms, FEATURES, floor=floor, seed=seed, about=about)
    belief = fit(weekly(log.as_rows(arms), [row["run_at"] for row in log.rows], at))
    about |= {"noise": belief.noise, "spread": belief.spread}
    return Policy.of(belief, arms, FEATURES, floor=floor, seed=seed, about=about)


def weekly(rows: Rows, moments: Sequence[datetime], at: datetime) -> Sums:
    age = np.array([(seconds(at) - seconds(moment)) // WEEK for moment in moments])
    weeks = np.unique(age)
    return faded([summed(rows.where(age == week)) for week in weeks], list(weeks.astype(float)))


def policy_of(
    home: Path, store: Store, day: Day, rules: rules_of.Policy, table: Mapping[str, rules_of.Program],
    aliases: Mapping[str, str],
) -> Policy:  # fmt: skip
    """What a run chooses by: what it began with if it was cut off, else what is learned now. It is kept in the home."""
    begun = store.select(sa.select(C.policy).where(C.run_at == day.at, C.chooser == "learned").limit(1))
    path = home / FOLDER / f"{begun[0][0]}.npz" if begun else None
    if path is not None and path.exists():
        return Policy.load(path)
    log = matured(home, store, day, rules, aliases, since=day.at - LOOK)
    programs = [name for name, of in table.items() if of.enabled and of.kind == "marketing"]
    made = taught(log, log.arms(programs), day.at, floor=rules.choice_floor, seed=rules.seed)
    made.save(home / FOLDER)
    return made
