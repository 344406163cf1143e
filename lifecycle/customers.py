"""Where customers stand, from the history and what came in live: one of them, and all of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from features.catalog import Catalog
from features.customers import GROUP_NAMES, STAGES, Norms, facts, month_ends
from features.history import History
from features.interactions import Interactions, pasts, seconds
from serving.people import held, viewed
from serving.profile import YEARS, Everybody
from serving.schemas import CustomerAbout
from serving.scores import Scored, ScoresError, current
from serving.store import Store, address

MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Counts:
    """How many customers stand where at a moment. moved: from a stage a month before, to one now."""

    as_of: str
    since: str
    stages: Mapping[str, int]
    groups: Mapping[str, int]
    moved: Mapping[str, Mapping[str, int]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def known(history: History, at: datetime) -> tuple[pa.Table, Catalog]:
    """Purchases and returns before a moment, and the catalogue as it was. Raises HistoryError without any event."""
    history.known_span()
    events = history.purchases(at)
    pa.default_memory_pool().release_unused()  # reading takes twice what is kept, which the catalogue can use
    return events, Catalog.of(history.table("products"), events, until=at)


def counts(history: History, at: datetime) -> Counts:
    """Customers by stage and group, and their moves since a month before."""
    events, catalog = known(history, at)
    then, now = pasts(events, items=catalog.items, moments=(at - MONTH, at))
    found = facts(now, catalog)
    former, current = stages_of(then, facts(then, catalog)), stages_of(now, found)
    names = sorted({*former, *current})
    pairs = Counter((former.get(name, STAGES[0]), current.get(name, STAGES[0])) for name in names)
    moved = {a: {b: pairs[a, b] for b in STAGES if pairs[a, b]} for a in STAGES}
    stages, groups = Counter(current.values()), Counter(found["group"].dropna())
    return Counts(
        at.isoformat(), (at - MONTH).isoformat(), {name: stages[name] for name in STAGES},
        {name: groups[name] for name in GROUP_NAMES}, {a: to for a, to in moved.items() if to},
    )  # fmt: skip


def stages_of(data: Interactions, found: pd.DataFrame) -> dict[str, str]:
    """The stage of each customer who has bought, by id; `found` are their facts."""
    names = data.customers.at(range(len(data.customers)))
    return dict(zip(names, found["stage"].astype(str), strict=True))


def scored(home: Path, at: datetime) -> Scored:
    """Every customer's scores as of a moment, by purchases of what may be recommended, as they were learned.

    Raises ScoresError where there are none.
    """
    scores = current(home)
    if scores is None:
        raise ScoresError(f"{home} has no scores yet: run `osclms scores fit`")
    scores.check(seconds(at))
    events, catalog = known(History(home / "history"), at)
    data = Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=at)
    return scores.of(data, catalog)


def view(home: Path, database_url: str | None, customer_id: str, at: datetime) -> CustomerAbout:
    """All that history and store know of a customer before a moment, and the profile that it comes to."""
    history = History(home / "history")
    everybody = replace(all_before(history, at), scores=partial(current, home))
    with Store(address(home, database_url)) as store:
        return held(
            store,
            history,
            customer_id,
            at,
            lambda ids, events, sends: viewed(everybody, True, at, ids, events, sends),
        )


def all_before(history: History, at: datetime) -> Everybody:
    """Everybody as of a moment, and what was usual at the end of each month before it."""
    events, catalog = known(history, at)
    zone, span = history.store.time_zone, history.span()
    ends = [end for _, end in month_ends(max(span[0], at - YEARS), at, zone)] if span else []
    kept = {
        data.until: Norms.of(data, catalog)
        for data in pasts(events, items=catalog.items, moments=[*ends[:-1], at])
    }
    data = Interactions.from_events(events, items=catalog.items, keep=catalog.eligible, until=at)
    return Everybody(catalog, data, zone, kept)
