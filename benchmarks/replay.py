"""A shop's days, one after the other, as they would have gone: what came in, the run, what it sent; was all kept?

Each day knows its past alone: the model is refitted at each month's start, what happened since comes in live. At the
end everything is counted again from the rows, by other code than the run's own. A bench and a long test call it.
"""

import argparse
import base64
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import sqlalchemy as sa

from features.history import History
from features.schema import EVENTS
from lifecycle.channels import Parcel
from lifecycle.ledger import UNSENT
from lifecycle.outbox import once
from lifecycle.programs import policy
from lifecycle.run import OWN, Ran, moment_of, run
from osclms import bar
from serving.bundle import champion, read_manifest
from serving.settings import Settings
from serving.store import DATA, DECISIONS, Store, address

FED = ("order", "return", "view", "cart", "remove", "rating")
HANDED = (4, 8, 12)  # hours after a run at which its messages are handed over
AT_ONCE = 5_000  # events stored in one transaction
LINKS = {  # what links are made with, so that messages are as long as they would be
    "OSCLMS_PUBLIC_URL": "https://go.shop.example",
    "OSCLMS_SHOP_URL": "https://shop.example/",
    "OSCLMS_SECRET": base64.urlsafe_b64encode(b"replayed".ljust(32)).decode(),
}
Told = Callable[[str, int, int | None], None]
Refit = Callable[[Path, datetime], Any]


@dataclass
class Replayed:
    """What a replay came to. faults: in words, none where all was kept. seconds: of each day's run."""

    days: int = 0
    messages: int = 0
    eligible: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(
        default_factory=Counter
    )  # of messages that were due, when their day was over
    dropped: Counter[str] = field(default_factory=Counter)  # and why some were not sent
    handed: Counter[str] = field(default_factory=Counter, repr=False)  # how often each message was
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        counts = {name: dict(of) if isinstance(of, Counter) else of for name, of in vars(self).items()}
        return counts | {
            "handed": self.handed.total(),
            "seconds": {"median": float(np.median(self.seconds)), "most": max(self.seconds)},
        }


@dataclass(frozen=True)
class Hands:
    """Takes messages and keeps nothing but how often each came."""

    handed: Counter[str]

    def send(self, parcel: Parcel) -> None:
        self.handed[parcel.message_id] += 1

    def take_back(self, parcel: Parcel) -> None: ...

    def close(self) -> None: ...


def replay(
    home: Path, days: Sequence[date], *, refit: Refit, only: Sequence[str] = (),
    told: Told = lambda what, done, of: None,
) -> Replayed:  # fmt: skip
    """Run these days in a home whose history holds them; its database is to be empty. `refit` makes a champion as of a
    moment: it is called for the first day and for the first of each month."""
    done, before, fresh = Replayed(), None, refitted(days)
    for number, day in enumerate(days, 1):
        at = moment_of(home, day.isoformat())
        if day in fresh:
            refit(home, at)
        before = before or read_manifest(champion(home)).data_until
        with Store(address(home, None)) as store:
            feed(store, History(home / "history"), before, at)
        began = time.perf_counter()
        ran = run(home, None, at, now=at, only=only)
        done.seconds.append(time.perf_counter() - began)
        noted(done, ran, day)
        for hours in HANDED:
            sent(home, done, at + timedelta(hours=hours))
        before = at
        told("days", number, len(days))
    done.faults += faults(home)
    if any(times > 1 for times in done.handed.values()):
        done.faults.append("messages were handed over twice")
    if done.messages != done.states.total():
        done.faults.append(f"of {done.messages} messages {done.states.total()} were sent or dropped")
    return done


def refitted(days: Sequence[date]) -> list[date]:
    """Those that begin with a new champion: the first, and the first of each month."""
    return [day for number, day in enumerate(days) if not number or day.day == 1]


def sent(home: Path, done: Replayed, now: datetime) -> None:
    """Send what is due, and count what became of it."""
    hands = dict.fromkeys(("email", "sms", "push"), Hands(done.handed))
    found = once(home, None, Settings.read(LINKS), hands, now=now, clock=lambda: now)
    done.states.update({"sent": found.sent, "dropped": found.dropped, "dead": found.dead})
    done.dropped.update(found.reasons)


def noted(done: Replayed, ran: Ran, day: date) -> None:
    done.days += 1
    done.messages += ran.messages
    done.eligible += ran.eligible
    if ran.eligible != sum(sum(of.values()) for of in ran.outcomes.values()):
        done.faults.append(f"{day}: of {ran.eligible} occasions it is not said of each what became of it")
    for name, of in ran.outcomes.items():
        done.outcomes.update(of)
        done.programs[name] += of.get("message", 0)


def feed(store: Store, history: History, since: datetime, until: datetime) -> None:
    """Let what happened in a time come in live."""
    rows = history.events(since=since, until=until, types=FED).select(EVENTS.names)
    for start in range(0, rows.num_rows, AT_ONCE):
        store.add([{**row, "received_at": until} for row in rows.slice(start, AT_ONCE).to_pylist()])


# --- counted again ----------------------------------------------------------------------------------------


def faults(home: Path) -> list[str]:
    """What was not kept, in words."""
    rows = decided(home)
    made = rows[rows["message_id"].notna()]
    counted, went = made[made["became"] != "again"], made[~made["became"].isin(UNSENT)]
    return [*doubles(counted), *broken_caps(home, went), *without_consent(home, made), *unsaid(rows)]


def decided(home: Path) -> pd.DataFrame:
    with Store(address(home, None)) as store:
        names = [name for name in DECISIONS.names if name != "content"]
        rows = store.select(sa.select(*(DATA["decisions"].c[name] for name in names)))
    return pd.DataFrame(rows, columns=names)


def doubles(made: pd.DataFrame) -> Iterator[str]:
    twice = made.duplicated(["customer_id", "program", "occasion"]).sum()
    if twice:
        yield f"{twice} messages are about an occasion that another was about"


def broken_caps(home: Path, made: pd.DataFrame) -> Iterator[str]:
    marketing = made[made["kind"] == "marketing"]
    number = pd.to_datetime(marketing["local_day"]).to_numpy().astype("datetime64[D]").astype(np.int64)
    for channel, caps in policy(home / OWN).caps.items():
        rows = (marketing["channel"] == channel).to_numpy()
        for who, days in pd.Series(number[rows]).groupby(marketing["customer_id"].to_numpy()[rows]):
            ordered = np.sort(days.to_numpy())
            for cap in caps:
                held = np.searchsorted(ordered, ordered + cap.days) - np.arange(len(ordered))
                if held.max(initial=0) > cap.most:
                    yield f"{who} got {held.max()} by {channel} where {cap} are allowed"


def without_consent(home: Path, made: pd.DataFrame) -> Iterator[str]:
    """Messages of marketing to whom the last record before the run says no, or there is none."""
    records = History(home / "history").table("consents").to_pandas()
    records = records[records["purpose"] == "marketing"].sort_values("at")
    asked = made[(made["outcome"] == "message") & (made["kind"] == "marketing")]
    by: dict[Any, pd.DataFrame] = dict(iter(records.groupby(["customer_id", "channel"])))
    none = 0
    for row in asked[["customer_id", "channel", "run_at"]].itertuples(index=False):
        of = by.get((row.customer_id, row.channel))
        earlier = of[of["at"] < row.run_at] if of is not None else None
        none += earlier is None or not len(earlier) or not bool(earlier["granted"].iloc[-1])
    if none:
        yield f"{none} messages without consent"


def unsaid(rows: pd.DataFrame) -> Iterator[str]:
    """Rows that are neither a message nor say why they are none."""
    missing = rows["outcome"].isna() | (rows["outcome"] == "")
    odd = rows["message_id"].notna() != rows["outcome"].isin(("message", "holdout"))
    if missing.any() or odd.any():
        yield f"{int(missing.sum())} decisions without an outcome, {int(odd.sum())} with a wrong one"


# --- the command ------------------------------------------------------------------------------------------


@dataclass
class Ahead:
    """Champions as of moments that are known beforehand: each is learned in a process of its own, behind the days that
    go by before it, from what was known until its moment."""

    home: Path
    moments: list[datetime]

    def __enter__(self) -> Self:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=os.nice, initargs=(5,))
        self.learn()
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def learn(self) -> None:
        if self.moments:
            self.until = self.moments.pop(0)
            self.learning = self.pool.submit(quick, self.home, self.until)

    def __call__(self, home: Path, at: datetime) -> None:
        from training.publish import Registry

        assert self.until == at, f"learned until {self.until}, not {at}"
        Registry(home).promote(self.learning.result(), force=True)
        self.learn()


def quick(home: Path, at: datetime) -> str:
    """A version that has learned until a moment, whatever others are worth."""
    from training.rank import QUICK
    from training.train import train

    return train(home, until=at, rankings=QUICK, compared=False, unrivalled=True).version


def played(home: Path, first: date, last: date, *, told: Told = lambda what, done, of: None) -> Replayed:
    """`replay` of the days from the first to the last, by models of this code."""
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    moments = [moment_of(home, day.isoformat()) for day in refitted(days)]
    with Ahead(home, moments) as refit:
        return replay(home, days, refit=refit, told=told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="with a history that holds these days")
    parser.add_argument("--first", type=date.fromisoformat, required=True)
    parser.add_argument("--last", type=date.fromisoformat, required=True)
    given = parser.parse_args()
    with bar() as told:
        done = played(given.home, given.first, given.last, told=told)
    print(json.dumps(done.as_dict(), indent=2))
    sys.exit(1 if done.faults else 0)


if __name__ == "__main__":
    main()
