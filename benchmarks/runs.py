"""What a daily run takes: `python -m benchmarks.runs --home .osclms [--home larger …] [--date …]`.

Each home has a history, contacts and a champion that learned until that day at most. It stays as it was: what is
decided goes to a database that is thrown away. The first run of a home warms the caches and is not told.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from lifecycle.run import moment_of
from serving.bundle import champion, read_manifest

ROUNDS = 3


@dataclass(frozen=True)
class Took:
    """One run: seconds by the clock, CPU seconds, megabytes at the peak, and what it said."""

    wall: float
    cpu: float
    peak: float
    said: Mapping[str, Any]


def one(home: Path, date: str) -> Took:
    """A run in a process of its own, into an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {**os.environ, "OSCLMS_DATABASE_URL": f"sqlite:///{folder}/store.db"}
        command = [sys.executable, "-m", "osclms", "run", "--date", date, "--home", str(home), "--json"]
        out, began = Path(folder) / "out.json", time.perf_counter()
        with out.open("w") as told:
            child = subprocess.Popen(command, env=environ, stdout=told)
            _, status, used = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        if status:
            raise SystemExit(f"the run of {home} failed")
        said = json.loads(out.read_text())
    return Took(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, said)


def customers(home: Path) -> int:
    return len(np.load(champion(home) / "customers.npy", mmap_mode="r"))


def first_day(home: Path) -> str:
    """The first day of the store at whose run the model knows nothing of what comes after."""
    until = read_manifest(champion(home)).data_until
    day = until.date() - timedelta(days=1)
    while moment_of(home, day.isoformat()) < until:
        day += timedelta(days=1)
    return day.isoformat()


def measured(home: Path, date: str, rounds: int = ROUNDS) -> list[Took]:
    return [one(home, date) for _ in range(rounds + 1)][1:]


def table(homes: Sequence[Path], date: Sequence[str], rounds: int) -> Table:
    shown = Table("customers", "occasions", "messages", "run, s", "of it CPU, s", "ms a customer", "peak, MB")
    for home, day in zip(homes, date, strict=True):
        took, many = measured(home, day, rounds), customers(home)
        wall, cpu = (median(getattr(one, name) for one in took) for name in ("wall", "cpu"))
        peak, said = max(one.peak for one in took), took[0].said
        each = (f"{wall:.1f}", f"{cpu:.1f}", f"{cpu / many * 1e3:.2f}", f"{peak:,.0f}")
        shown.add_row(f"{many:,}", f"{said['eligible']:,}", f"{said['messages']:,}", *each)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, action="append", required=True)
    parser.add_argument(
        "--date", action="append", help="one for all, or one for each; missing: what the model is of"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    dates = given.date or [first_day(home) for home in given.home]
    dates = dates * len(given.home) if len(dates) == 1 else dates
    Console(width=120).print(table(given.home, dates, given.rounds))


if __name__ == "__main__":
    main()
