"""What the choice came to: the four groups against each other, what was chosen, and what other policies would have
brought."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from features.history import History
from features.interactions import DAY, seconds
from lifecycle.choice import rank
from lifecycle.choose import hour
from lifecycle.choose.desk import CHOOSERS
from lifecycle.choose.estimate import TARGETS, ChooseError, judged_by_name
from lifecycle.choose.learner import Array
from lifecycle.choose.past import Log, brought, matured, policy_of
from lifecycle.choose.policy import Policy
from lifecycle.day import Day, day_of
from lifecycle.ledger import Names
from lifecycle.measure.groups import side_by_side
from lifecycle.measure.lift import ratio
from lifecycle.measure.outcomes import BEFORE, costs, worths
from lifecycle.programs import Policy as Rules
from lifecycle.programs import Program, policy, programs
from lifecycle.run import OWN, PATIENCE
from serving.compact import compact
from serving.store import Store, address

AGAINST = ("silence", "random")  # the groups that the others are held against
OPEN = ("learned", "random")  # the groups whose choices might have been others


def opened(home: Path, store: Store, at: datetime | None) -> Day:
    """The store at a moment, without one at the end of what is known. What came in live is moved in first."""
    history = History(home / "history")
    compact(history, store, patience=PATIENCE)
    last = history.known_span()[1]
    return day_of(history, store, at or last + timedelta(seconds=1))


def learned(home: Path, database_url: str | None, at: datetime | None) -> Policy:
    """The policy that a run of that moment would choose by, kept in the home."""
    with Store(address(home, database_url)) as store:
        day = opened(home, store, at)
        aliases = History(home / "history").aliases()
        return policy_of(home, store, day, policy(home / OWN), programs(home / OWN), aliases)


def reported(home: Path, database_url: str | None, at: datetime | None = None) -> dict[str, Any]:
    """All that is known of the choices before a moment whose window has ended. Raises ChooseError without any."""
    rules, table = policy(home / OWN), programs(home / OWN)
    with Store(address(home, database_url)) as store:
        day = opened(home, store, at)
        log = matured(home, store, day, rules, History(home / "history").aliases())
        made = store.ends("choices")["choices"]
    if not log.rows:
        why = f"no choice is {rules.choice_days} days old" if made else "nothing was chosen yet"
        raise ChooseError(
            f"{why}: policy.yaml with `choice: learned`, and `osclms run` day by day, make choices"
        )
    return {
        "choices": made, "matured": len(log.rows), "until": day.at.isoformat(), "reward": rules.choice_reward,
        "days": rules.choice_days, "groups": groups(home, day, log, rules),
        "arms": {name: shares(log, name) for name in CHOOSERS}, "policies": policies(log, table),
    }  # fmt: skip


def hours(home: Path, database_url: str | None, at: datetime | None = None) -> dict[str, Any]:
    """How often messages of a learned hour were clicked, by hour. Raises ChooseError without any."""
    history = History(home / "history")
    with Store(address(home, database_url)) as store:
        compact(history, store, patience=PATIENCE)
        until = at or history.known_span()[1] + timedelta(seconds=1)
        return hour.reported(hour.matured(store, history, Names(history.aliases()), until))


def groups(home: Path, day: Day, log: Log, rules: Rules) -> dict[str, Any]:
    """The groups by what each customer brought from the first choice about them to the end of the data, whoever was
    written to; what they had brought in the 90 days before it takes variance away."""
    first: dict[str, Mapping[str, Any]] = {}
    for name, row in zip(log.customer, log.rows, strict=True):
        first.setdefault(name, row)
    names = sorted(first)
    at = np.array([seconds(first[name]["run_at"]) for name in names], np.int64)
    worth = worths(
        day.data,
        costs(History(home / "history"), day.data.items) if rules.choice_reward == "margin" else None,
    )
    who = day.data.customers.positions(names).astype(np.int64)
    total = brought(day.data, worth, who, at, day.until - at)
    before: Array = brought(day.data, worth, who, at - BEFORE * DAY, BEFORE * DAY)
    chooser = [str(first[name]["chooser"]) for name in names]
    sizes = Counter(chooser)
    shares = {name: getattr(rules.choosers, name) for name in CHOOSERS if getattr(rules.choosers, name) > 0}
    there = [name for name in shares if sizes[name]]
    found = ratio(
        [sizes[name] for name in there], [shares[name] / sum(shares[n] for n in there) for name in there]
    )
    return {
        "sizes": dict(sizes),
        "alarm": bool(len(there) > 1 and found.alarm),
        "against": {
            name: side_by_side(total, chooser, name, before=before)
            for name in AGAINST if sizes[name] and len(sizes) > 1
        },
    }  # fmt: skip


def shares(log: Log, chooser: str) -> dict[str, float]:
    """Of a group's choices the share of each arm, the most frequent first."""
    counts = Counter(row["arm"] for row in log.rows if row["chooser"] == chooser)
    return {arm: count / counts.total() for arm, count in counts.most_common()}


def policies(log: Log, table: Mapping[str, Program]) -> list[dict[str, Any]]:
    """What each of TARGETS would have brought, or why that cannot be told."""
    log = log.where(np.array([row["chooser"] in OPEN and not row["held"] for row in log.rows], bool))
    if not log.rows:
        return []
    arms, order = log.arms(), ranked(table)
    rows, found = log.as_rows(arms), list[dict[str, Any]]()
    for name in TARGETS:
        try:
            found.append(judged_by_name(name, rows, log.customer, arms, order).as_dict())
        except ChooseError as error:
            found.append({"policy": name, "refused": str(error), "estimates": {}, "warnings": ()})
    return found


def ranked(table: Mapping[str, Program]) -> Sequence[str]:
    """Programs as the fixed priority has them."""
    return [of.name for of in sorted(table.values(), key=lambda of: rank(of, 0.0))]
