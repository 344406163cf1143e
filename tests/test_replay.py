"""Days replayed one after the other: what a run promises holds over all of them."""

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import END
from test_run import PROGRAMS, own_home

from benchmarks.replay import broken_caps, doubles, faults, feed, played, replay, unsaid, without_consent
from features.completejourney import load_complete_journey
from features.history import History
from features.synthetic import lay_over
from serving.store import Store, address


@pytest.fixture
def home(tmp_path: Path, written_home: Path) -> Path:
    return own_home(tmp_path / "shop", written_home)


def test_days_in_a_row_keep_what_is_promised(home: Path) -> None:
    days = [END.date() + timedelta(days=n) for n in range(4)]
    refits: list[datetime] = []
    done = replay(home, days, refit=lambda _, at: refits.append(at), only=tuple(PROGRAMS))
    assert done.faults == [] and done.days == 4 and len(refits) == 1
    assert done.messages > 100 and done.eligible == sum(done.outcomes.values())
    told = json.loads(json.dumps(done.as_dict()))
    assert told["outcomes"] == done.outcomes and told["handed"] == done.handed.total()


def row(**about: Any) -> dict[str, Any]:
    said = {
        "customer_id": "anna", "program": "news", "occasion": "1", "outcome": "message", "message_id": "m1",
        "kind": "marketing", "channel": "email", "local_day": "2018-01-02", "run_at": pd.Timestamp(END),
    }  # fmt: skip
    return said | about


@pytest.mark.parametrize(
    ("count", "rows"),
    [
        (doubles, [row(), row(message_id="m2")]),
        (broken_caps, [row(), row(message_id="m2", occasion="2")]),
        (without_consent, [row(customer_id="nobody")]),
        (unsaid, [row(outcome="cap")]),
    ],
)
def test_each_fault_is_found(home: Path, count: Callable[..., Any], rows: list[dict[str, Any]]) -> None:
    needs_home = count in (broken_caps, without_consent)
    table = pd.DataFrame(rows)
    assert list(count(home, table) if needs_home else count(table))
    assert not list(count(home, table[:0]) if needs_home else count(table[:0]))


def test_what_is_fed_is_what_happened_in_that_time(home: Path) -> None:
    history, until = History(home / "history"), END - timedelta(days=2)
    with Store(address(home, None)) as store:
        feed(store, history, until - timedelta(days=1), until)
        found = [row for page in store.read("events", 0, store.ends("events")["events"]) for row in page]
    assert found and all(until - timedelta(days=1) <= row["occurred_at"] < until for row in found)
    assert faults(home) == []


@pytest.mark.long
def test_a_year_day_by_day(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    load_complete_journey(history, rejects_dir=tmp_path / "rejects")
    lay_over(history, seed=7, rejects_dir=tmp_path / "rejects")
    done = played(tmp_path, date(2017, 3, 2), date(2017, 12, 31))
    print(done.as_dict())
    assert done.faults == [] and done.messages > 10_000
