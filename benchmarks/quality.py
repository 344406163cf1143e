"""`make bench-quality`: this project beside libraries, on the same purchases, asked the same, measured the same.

Every rival is tried with the same number of settings on the tuning window, from --tune-until to --until; its best for
each task is fitted once more on all before --until and asked about the days from then to --end. The project is the
version in the home that was trained `--until` the same day, asked through the engine that ships. What a rival answered
is kept in the home, so that a rerun asks the project alone. Nothing is downloaded.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contest import FIGURES, OWN, TRIALS, Comparison, Competitor, QualityError, compare
from benchmarks.rivals import BASKET, NEXT, NOVEL, SEARCHES, WITH_CUSTOMER, RivalError, Search, present
from features.history import History
from osclms import bar, moment
from serving.bundle import read_manifest
from training.intervals import Interval
from training.train import VALIDATION_DAYS, TrainError, train

TITLES = {
    NEXT: "next_best",
    NOVEL: "what is novel",
    BASKET: "cross_sell, no customer",
    WITH_CUSTOMER: "cross_sell, with the customer",
}
METRICS = {"ndcg": "NDCG@10", "recall": "Recall@10", "hit_rate": "HitRate@10"}
MARKS = ("<!-- quality: begin -->", "<!-- quality: end -->")
NONE = "–"
Cell = Callable[[Comparison, Competitor], str]


# --- cells ------------------------------------------------------------------------------------------------


def tuning(task: str, metric: str) -> Cell:
    def cell(_: Comparison, one: Competitor) -> str:
        found = one.reached[task].tune.get(metric) if task in one.reached else None
        return f"{found.mean:.3f}" if found else NONE

    return cell


def test(task: str, metric: str) -> Cell:
    def cell(_: Comparison, one: Competitor) -> str:
        return short(one.reached[task].test[metric]) if task in one.reached else NONE

    return cell


def ahead(task: str) -> Cell:
    def cell(found: Comparison, one: Competitor) -> str:
        both = one is not found.own and task in one.reached and task in found.own.reached
        return short(found.ahead(one, task), signed=True) if both else NONE

    return cell


def cost(tasks: Sequence[str], key: str) -> Cell:
    """Of the fit for the first of these tasks that it answers."""

    def cell(_: Comparison, one: Competitor) -> str:
        spent = [one.reached[task].cost.get(key) for task in tasks if task in one.reached]
        return (
            NONE
            if not spent or spent[0] is None
            else f"{spent[0]:,.0f}"
            if spent[0] >= 10
            else f"{spent[0]:.1f}"
        )

    return cell


def settings(task: str) -> Cell:
    def cell(_: Comparison, one: Competitor) -> str:
        given = one.reached[task].params if task in one.reached else {}
        return ", ".join(f"{k} {v}" for k, v in given.items() if k != "rows") or NONE

    return cell


def short(found: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]".replace("-", "−")


# --- tables -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sheet:
    """Columns by title; a row for each who answers any of `tasks`, the best at the first of them on top."""

    title: str
    tasks: tuple[str, ...]
    columns: Mapping[str, Cell]
    rivals_alone: bool = False

    def rows(self, found: Comparison) -> Iterator[list[str]]:
        everybody = [*(() if self.rivals_alone else (found.own,)), *found.rivals]
        asked = [c for c in everybody if any(task in c.reached for task in self.tasks)]
        for one in sorted(asked, key=self.place):
            yield [named(one), *(cell(found, one) for cell in self.columns.values())]

    def place(self, one: Competitor) -> float:
        first = self.tasks[0]
        return -one.reached[first].test[FIGURES[first][0]].mean if first in one.reached else 1.0


def named(one: Competitor) -> str:
    if one.name == OWN:
        return f"**{OWN}**"
    return one.name if one.library == "baseline" else f"{one.name}, {one.library}"


def figures(tasks: Sequence[str]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for task in tasks:
        names = {metric: f"{TITLES[task]}, {METRICS[metric]}" for metric in FIGURES[task]}
        first = FIGURES[task][0]
        found |= {f"{names[first]}: tuning": tuning(task, first)}
        found |= {f"{name}: test": test(task, metric) for metric, name in names.items()}
    return {**found, "fit, CPU s": cost(tasks, "cpu"), "peak, MB": cost(tasks, "peak_mb")}


SHEETS = (
    Sheet("Asked with a customer", (NEXT, NOVEL), figures((NEXT, NOVEL))),
    Sheet("Asked with a basket", (BASKET, WITH_CUSTOMER), figures((BASKET, WITH_CUSTOMER))),
    Sheet(
        "How far the project is ahead in the test", tuple(TITLES),
        {f"{name}, {METRICS[FIGURES[task][0]]}": ahead(task) for task, name in TITLES.items()}, rivals_alone=True,
    ),
    Sheet(
        "The settings that won on the tuning window", tuple(TITLES),
        {name: settings(task) for task, name in TITLES.items()}, rivals_alone=True,
    ),
)  # fmt: skip


def notes(found: Comparison) -> list[str]:
    """Under which circumstances."""
    about = found.about
    tune, days = ("{:.10} to {:.10}".format(*about[window]) for window in ("tune", "test"))
    asked = ", ".join(f"{TITLES[task]} {of[1]:,}" for task, of in about["questions"].items())
    version, training = about["version"], about["training"]
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    peak = f", its largest process {training['peak_mb']:,} MB" if training["peak_mb"] else ""
    return [
        f"Data: {about['store']}, {about['customers']:,} customers and {about['products']:,} products before the test.",
        f"Windows: tuning {tune}, test {days}. Questions of the test: {asked}.",
        f"Up to {about['trials']} settings tried for each rival and task. Libraries: {libraries}.",
        f"{OWN}: version {version['version']} of git revision {version['revision']}; its training, judging and "
        f"publishing included, took {training['seconds']:,.0f} s of two processes{peak}.",
        f"Measured at git revision {about['revision']} on {about['machine']}, one thread a rival.",
    ]


def markdown(found: Comparison) -> str:
    lines = [f"- {note}" for note in notes(found)]
    for sheet in SHEETS:
        head = ["", *sheet.columns]
        rows = [head, ["---", *("--:" for _ in sheet.columns)], *sheet.rows(found)]
        lines += ["", f"### {sheet.title}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def shown(found: Comparison) -> Iterator[Table | str]:
    for sheet in SHEETS:
        table = Table("", *sheet.columns, title=sheet.title)
        for row in sheet.rows(found):
            table.add_row(*row)
        yield table
    yield from notes(found)


def write(path: Path, text: str, marks: tuple[str, str] = MARKS) -> None:
    """Put the text between the marks of a page; what is around them stays."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if [page.count(mark) for mark in marks] != [1, 1]:
        raise QualityError(
            f"{path} needs the lines {marks[0]} and {marks[1]}, once each: the tables go between them"
        )
    before, after = page.split(marks[0])[0], page.split(marks[1])[1]
    path.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{after}", encoding="utf-8")


# --- the command ------------------------------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Example: python -m benchmarks.quality --home .osclms --tune-until 2017-11-01 --until 2017-12-01 "
        "--end 2018-01-01 --trials 8 --write docs/benchmarks.md",
    )  # fmt: skip
    home = Path(os.environ.get("OSCLMS_HOME", ".osclms"))
    days = f"; missing: {VALIDATION_DAYS} days before the next of them"
    parser.add_argument("rivals", nargs="*", help="only these, by name; missing: all")
    parser.add_argument("--home", type=Path, default=home, help="a home with the data loaded (%(default)s)")
    parser.add_argument(
        "--tune-until", type=moment, metavar="DATE", help=f"where the tuning window begins{days}"
    )
    parser.add_argument(
        "--until", type=moment, metavar="DATE", help=f"where it ends and the test begins{days}"
    )
    parser.add_argument(
        "--end", type=moment, metavar="DATE", help="where the test ends; missing: with the data"
    )
    parser.add_argument(
        "--trials", type=int, default=TRIALS, help="settings tried for each rival and task (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=1, help="rivals fitted at once (%(default)s)")
    parser.add_argument(
        "--train", action="store_true", help="train the project's version where the home has none"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def chosen(names: Sequence[str]) -> list[Search]:
    """Searches of these rivals, of all without a name; those whose environment is missing are left out, and told."""
    known = dict.fromkeys(s.name for s in SEARCHES)
    if unknown := set(names) - known.keys():
        raise QualityError(f"no rival is called {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    wanted = [s for s in SEARCHES if not names or s.name in names]
    missing = dict.fromkeys(s.name for s in wanted if not present(s))
    if missing:
        print(
            f"left out, as .venv-rivals is missing (`make bench-quality` makes it): {', '.join(missing)}",
            file=sys.stderr,
        )
    return [s for s in wanted if present(s)]


def measured(given: argparse.Namespace) -> Comparison:
    home = given.home.resolve()
    end = given.end or History(home / "history").end()
    until = given.until or end - timedelta(days=VALIDATION_DAYS)
    tune_until = given.tune_until or until - timedelta(days=VALIDATION_DAYS)
    ends = [read_manifest(folder).data_until for folder in (home / "bundles").glob("[0-9]*")]
    with bar() as say:
        if given.train and until not in ends:
            train(home, until=until, say=say)
        return compare(
            home, tune_until, until, end, searches=chosen(given.rivals), trials=max(1, given.trials),
            processes=max(1, given.processes), say=say,
        )  # fmt: skip


def main() -> None:
    given = options().parse_args()
    try:
        found = measured(given)
        if given.write:
            write(given.write, markdown(found))
    except (QualityError, RivalError, TrainError) as error:
        sys.exit(str(error))
    if given.json:
        print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        Console(width=200).print(*shown(found))


if __name__ == "__main__":
    main()
