"""What each program of a home earned, as one document of plain values: the terminal, JSON and the page show it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.history import History
from features.interactions import DAY, Ids, Interactions, moment, seconds
from lifecycle.ledger import Names
from lifecycle.measure.assigned import ALL, Assigned, assigned, decided, went_out
from lifecycle.measure.groups import leaked, warnings_of
from lifecycle.measure.lift import (
    LEAST_BUYERS,
    Lift,
    Reals,
    Side,
    compare,
    corrected,
    detectable,
    looked_at,
    planned_error,
    ratio,
)
from lifecycle.measure.outcomes import Purchases, costs, matured
from lifecycle.measure.signs import Signs, acts, signs
from lifecycle.measure.variants import drawn, pairs
from lifecycle.measure.versions import begun, served, touched
from lifecycle.programs import Policy, Program, policy, programs
from lifecycle.run import OWN as FOLDER
from lifecycle.run import PATIENCE
from serving.compact import compact
from serving.store import Store, address

WINDOWS = (7, 28, 90)
SHARES = (0.05, 0.1, 0.2, 0.5)  # of a plan
LOOKS = 26  # at most, one a week or rarer
COVARIATES = {"revenue": "revenue", "margin": "revenue"}  # of a measure; of all others: orders
NOTHING = (
    "nothing can be measured: no marketing was decided in this time, or nobody was held back. `osclms run` decides, "
    "and policy.yaml and the programs say who is held back"
)
NO_VARIANTS = (
    "nothing can be compared: no program drew variants in this time; its file names them: docs/programs.md"
)
Told = Callable[[str, int, int | None], None]
NO_VERSIONS = (
    "nothing can be compared: no version was served beside the champion to customers who were touched in this time; "
    "`osclms challenge` serves one"
)
By = Literal["variant", "version"]


class Wanted(NamedTuple):
    """What is to be compared: one program or all, by decisions with since ≤ run < until, in these windows."""

    only: str | None
    since: datetime | None
    until: datetime | None
    windows: Sequence[int]


class Home(NamedTuple):
    """What comparisons are made of."""

    folder: Path
    history: History
    store: Store
    names: Names
    table: Mapping[str, Program]
    rules: Policy


Found = tuple[Assigned, Mapping[str, Signs]]  # a comparison, and what customers did beside buying


def earned(
    home: Path, database_url: str | None, *, only: str | None = None, since: datetime | None = None,
    until: datetime | None = None, windows: Sequence[int] = WINDOWS, seed: int = 7, by: By | None = None,
    told: Told = lambda what, done, of: None,
) -> dict[str, Any]:  # fmt: skip
    """Every program against its control, and all together against the universal one, by the decisions with
    since ≤ run < until; or, `by` another thing, the comparisons of it. What came in live is moved into the history
    first.

    Raises HistoryError without events, StoreError.
    """
    history, wanted = History(home / "history"), Wanted(only, since, until, windows)
    with Store(address(home, database_url)) as store:
        compact(history, store, told=told, patience=PATIENCE)
        last = history.known_span()[1]
        opened = Home(
            home, history, store, Names(history.aliases()), programs(home / FOLDER), policy(home / FOLDER)
        )
        (find, nothing), done = COMPARED[by], list[dict[str, Any]]()
        found, left_out = find(opened, wanted)
    end = seconds(last) + 1
    data, cost = bought(history, last)
    for place, (one, did) in enumerate(found, 1):
        done.append(measured(one, Purchases.of(data, cost, one.customers, did), windows, end, seed))
        told("programs", place, len(found))
    adjust(done)
    several = by is None and sum(of["program"] != ALL for of in done) > 1
    return {
        "by": by, "from": since and since.isoformat(), "to": until and until.isoformat(),
        "data_until": moment(end).isoformat(), "currency": history.store.currency, "store": history.store.name,
        "windows": list(windows), "programs": done, "left_out": left_out,
        "warnings": warnings_of(None, None, several) if done else [nothing],
    }  # fmt: skip


def by_program(of: Home, wanted: Wanted) -> tuple[list[Found], list[str]]:
    """(programs against their controls, the names of those that cannot be measured, as nobody was held back, or nobody
    written to)."""
    rows = decided(of.store, of.names, of.store.graves())
    out = went_out(of.store, of.history, rows)
    only = wanted.only
    names = [None, *sorted(set(rows["program"]))] if only is None else [None if only == ALL else only]
    found = [
        one for name in names if (name is None or name in of.table)
        and (one := assigned(rows, of.table[name] if name else None, of.rules, since=wanted.since, until=wanted.until,
                             went_out=out))
    ]  # fmt: skip
    there = {one.program for one in found}
    return [(one, {}) for one in found], [name or ALL for name in names if (name or ALL) not in there]


def by_variant(of: Home, wanted: Wanted) -> tuple[list[Found], list[str]]:
    """(each variant of each program against the first, programs of which nobody was decided about)."""
    rows = drawn(of.store, of.names, of.store.graves(), of.rules)
    several = [name for name, program in of.table.items() if program.variants]
    names = several if wanted.only is None else [wanted.only]
    compared = [
        (name, one)
        for name in names if name in of.table
        for one in pairs(rows, of.table[name], of.rules, since=wanted.since, until=wanted.until)
    ]  # fmt: skip
    if not compared:
        return [], names
    done = acts(of.store, of.history, moment(min(int(one.at.min()) for _, one in compared)))
    found: list[Found] = [
        (one, signs(done, rows[rows["program"] == name], one.customers)) for name, one in compared
    ]
    there = {one.program.partition(".")[0] for one, _ in found}
    return found, [name for name in names if name not in there]


def by_version(of: Home, wanted: Wanted) -> tuple[list[Found], list[str]]:
    """(each challenger against the champion of its time, those of whom nobody was drawn)."""
    rows = touched(of.store, of.history, of.names, of.store.graves(), begun(of.folder))
    found, without = served(of.folder, rows, since=wanted.since, until=wanted.until)
    return [(one, {}) for one in found], without


COMPARED: Mapping[str | None, tuple[Callable[[Home, Wanted], tuple[list[Found], list[str]]], str]] = {
    None: (by_program, NOTHING), "variant": (by_variant, NO_VARIANTS),
    "version": (by_version, NO_VERSIONS),
}  # fmt: skip


def bought(history: History, last: datetime) -> tuple[Interactions, Reals]:
    """Everything that was bought, returns taken back, and what a unit of each product costs the shop."""
    events = history.purchases(moment(seconds(last) + 1))
    items = Ids.of(name for name in events["product_id"].unique().to_pylist() if name is not None)
    data = Interactions.from_events(events, items=items, until=moment(seconds(last) + 1))
    return data, costs(history, data.items)


# --- one program ------------------------------------------------------------------------------------------


def measured(
    of: Assigned, purchases: Purchases, windows: Sequence[int], end: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """A comparison's part of the document."""
    metric, days = of.metric or ("revenue", 28)
    sizes = (int(of.treated.sum()), int((~of.treated).sum()))
    before = purchases.before(of.since)
    parts = {str(window): windowed(of, purchases, before, window, end, seed) for window in windows}
    leak = leaked(sizes[1], of.reached)
    found = ratio(sizes, (1 - of.share, of.share)) if 0 < of.share < 1 else None
    window = min(windows, key=lambda w: (abs(w - days), w))
    metric = metric if metric in parts[str(window)]["measures"] else "revenue"
    return {
        "program": of.program, "arms": list(of.arms), "note": of.note, "treated": sizes[0], "control": sizes[1],
        "first": moment(int(of.at.min())).isoformat(), "last": moment(int(of.at.max())).isoformat(),
        "ratio": found and vars(found), "leak": leak, "mixed": of.mixed,
        "metric": metric, "window": window, "costed": purchases.costed, "windows": parts,
        "looks": looks(of, purchases, window, end), "by_day": by_day(of, purchases, window, end),
        "warnings": warnings_of(found, leak, False, of.arms),
    }  # fmt: skip


def windowed(
    of: Assigned, purchases: Purchases, before: Mapping[str, Any], days: int, end: int, seed: int
) -> dict[str, Any]:  # fmt: skip
    """All measures in one window, of those whose window has ended."""
    ripe = matured(of.at, days, end)
    treated, control = ripe & of.treated, ripe & ~of.treated
    found: dict[str, Any] = {"matured": [int(treated.sum()), int(control.sum())], "measures": {}}
    if not treated.any() or not control.any():
        return found | {"why": f"no window of {days} days has ended yet in both arms"}
    for name, values in purchases.after(of.at, days).items():
        x = before[COVARIATES.get(name, "orders")]
        counted = f"who {name}" if name in purchases.signs else "buyers"
        both = partial(compare, values[treated], values[control], seed=seed, counted=counted)
        lift, plain = both(before=(x[treated], x[control])), both()
        found["measures"][name] = told(lift) | {"unadjusted": short(plain)}
    return found


def told(of: Lift) -> dict[str, Any]:
    values = of.as_dict()
    for side in ("treated", "control"):
        values[side]["sum"] = values[side]["mean"] * values[side]["customers"]
    return values


def short(of: Lift) -> dict[str, Any]:
    return {name: told(of)[name] for name in ("difference", "ci95", "p")}


def adjust(done: Sequence[dict[str, Any]]) -> None:
    """Put beside each program's p-value, of its own metric and window, the one corrected for their number."""
    own = [of for of in done if of["program"] != ALL]
    primary = [of["windows"][str(of["window"])]["measures"].get(of["metric"], {}) for of in own]
    for of, p in zip(own, corrected([found.get("p") for found in primary]), strict=True):
        of["p_adjusted"] = p


def looks(of: Assigned, purchases: Purchases, days: int, end: int) -> list[dict[str, Any]]:
    """Week by week what had been earned of revenue by then, with a band that holds at all looks together."""
    first = int(of.at.min()) + days * DAY
    step = max(7, -(-(end - first) // (LOOKS * DAY))) * DAY
    values, found = purchases.after(of.at, days)["revenue"], []
    for at in (*range(first, end, step), end):
        ripe = matured(of.at, days, at)
        sides = [side(values[ripe & arm]) for arm in (of.treated, ~of.treated)]
        if min(s.buyers for s in sides) < LEAST_BUYERS:
            continue
        error = (sides[0].error + sides[1].error) ** 0.5
        low, high = looked_at(sides[0].mean - sides[1].mean, error, int(ripe.sum()), planned=len(of))
        n = sides[0].customers
        found.append(
            {
                "at": moment(at).isoformat(), "treated": n, "control": sides[1].customers,
                "incremental": (sides[0].mean - sides[1].mean) * n, "band95": [float(low) * n, float(high) * n],
            }
        )  # fmt: skip
    return found


def side(values: NDArray[np.float64]) -> Side:
    return Side.of(values, int(np.count_nonzero(values)))


def by_day(of: Assigned, purchases: Purchases, days: int, end: int) -> dict[str, list[float]]:
    """Mean revenue since the decision, day by day, of both arms."""
    ripe = matured(of.at, days, end)
    return {
        name: purchases.by_day(of.at, days, ripe & arm).tolist()
        for name, arm in (("treated", of.treated), ("control", ~of.treated))
    }


# --- before launch ----------------------------------------------------------------------------------------


def planned(
    home: Path, customers: int, *, windows: Sequence[int] = WINDOWS, shares: Sequence[float] = SHARES,
    until: datetime | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The smallest difference of revenue that would be found 8 times in 10, were so many customers like all who have
    bought compared: by window and the control's share of them. It goes by what they spent in the last such window."""
    history = History(home / "history")
    last = history.known_span()[1]
    end = min(until or datetime.max.replace(tzinfo=UTC), moment(seconds(last) + 1))
    data, cost = bought(history, last)
    everybody = data.customers.at(range(len(data.customers)))
    purchases, rows = Purchases.of(data, cost, everybody), []
    for days in windows:
        since = np.full(len(everybody), seconds(end) - days * DAY)
        spent = purchases.total(since, since + days * DAY)["revenue"]
        for share in shares:
            least = detectable(planned_error(float(spent.std(ddof=1)), customers, share))
            buyers = float((spent > 0).mean() * customers * min(share, 1 - share))
            rows.append(
                {"window": days, "share": share, "mean": float(spent.mean()), "detectable": least,
                 "lift": least / float(spent.mean()) if spent.any() else None, "buyers": buyers,
                 "refused": buyers < LEAST_BUYERS}
            )  # fmt: skip
    return {"customers": customers, "currency": history.store.currency, "plans": rows}
