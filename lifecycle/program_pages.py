"""What the terminal shows of programs: all of them, their sizes by day, how they stand, one customer's preview."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lifecycle import ledger
from lifecycle.audience import spoken
from lifecycle.pages import bars
from lifecycle.preview import Preview, Size
from lifecycle.programs import Program
from lifecycle.seeds import Tested
from serving.store import Store


def listed(programs: Mapping[str, Program], faulty: Mapping[str, str]) -> list[dict[str, Any]]:
    """What there is to tell of each program in a line, and of those whose files are not understood why."""
    return [{"name": name, "stopped": why} for name, why in faulty.items()] + [
        {
            "name": name, "enabled": of.enabled, "trigger": of.trigger.kind, "kind": of.kind, "channel": of.channel,
            "priority": of.priority, "holdout": of.holdout,
            "variants": {name: one.share for name, one in of.variants.items()}, "locales": list(of.texts),
            "about": of.about,
            "audience": [spoken(*condition) for condition in of.audience.items()], "version": of.version,
        }
        for name, of in programs.items()
    ]  # fmt: skip


def programs_page(programs: Mapping[str, Program], faulty: Mapping[str, str]) -> Table:
    """One narrow row each, which 80 columns hold; `--json` tells the rest."""
    table = Table(box=None, padding=(0, 1))
    for name in ("program", "trigger", "channel"):
        table.add_column(name, no_wrap=True)
    for name in ("prio", "held"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("about", ratio=1)
    for name, why in faulty.items():
        table.add_row(name, "stopped", "", "", "", Text(why, "red"))
    for of in listed(programs, {}):
        off = "" if of["enabled"] else "Off. "
        whom = "" if not of["audience"] else f" For: {'; '.join(of['audience'])}."
        table.add_row(
            of["name"], of["trigger"], of["channel"], str(of["priority"]), f"{of['holdout']:.0%}",
            Text(off + of["about"] + whom),
        )  # fmt: skip
    return table


def size_page(program: Program, sizes: Sequence[Size]) -> Iterator[RenderableType]:
    """Sizes by day, and a bar for each."""
    table = Table("day", "occasions", "in audience", "may be written to", title=program.name)
    for of in sizes:
        table.add_row(of.day, *(f"{n:,}" for n in of[1:]))
    table.add_row("all", *(f"{sum(column):,}" for column in list(zip(*sizes, strict=True))[1:]), style="bold")
    yield table
    yield bars("in audience, by day", {of.day: of.audience for of in sizes}, {})


def tests_page(program: Program, found: Sequence[Tested]) -> Table:
    table = Table("address", "variant", "language", "", title=f"{program.name}: tests")
    for of in found:
        table.add_row(
            f"{of.place}.",
            of.variant or "",
            of.locale,
            Text(of.result, "green" if of.result == "sent" else "red"),
        )
    return table


def preview_page(found: Preview) -> Table:
    says = "would be written to" if found.written_to else "would not be written to"
    table = Table("", "", "", title=Text(f"{found.program}: {found.customer_id} {says}, {found.at[:16]}"))
    for step in found.steps:
        table.add_row(
            Text("yes", "green") if step.holds else Text("no", "red"), Text(step.asked), Text(step.says)
        )
    return table


class Status(NamedTuple):
    """paused: the reason, by hand; stopped: that of the last run it was part of. outcomes: of that run."""

    program: str
    enabled: bool
    paused: str | None
    stopped: str | None
    run_at: str | None
    outcomes: dict[str, int]


def status(
    store: Store, programs: Mapping[str, Program], faulty: Mapping[str, str], *, at: datetime
) -> list[Status]:
    """How each program stands at a moment."""
    pauses, last = ledger.pauses(store, at), lasts(store, at)
    tallies = {when: ledger.tally(store, when) for when, _ in last.values()}

    def came(name: str) -> dict[str, int]:
        return tallies[last[name][0]].get(name, {}) if name in last else {}

    wrong = [Status(name, True, None, why, None, came(name)) for name, why in faulty.items()]
    return wrong + [
        Status(
            name, of.enabled, pauses.of(name, marketing=of.kind == "marketing"),
            last[name][1] if name in last else None, last[name][0].isoformat() if name in last else None, came(name),
        )
        for name, of in programs.items()
    ]  # fmt: skip


def lasts(store: Store, at: datetime) -> dict[str, tuple[datetime, str | None]]:
    """By program the last run before a moment that it was part of, and what stopped it there."""
    ran = ledger.RAN
    newest = sa.select(ran.program, sa.func.max(ran.run_at).label("at")).where(ran.run_at < at)
    own = newest.group_by(ran.program).subquery()
    both = sa.and_(ran.program == own.c.program, ran.run_at == own.c.at)
    wanted = sa.select(ran.program, ran.run_at, ran.stopped).join(own, both)
    return {program: (when, stopped) for program, when, stopped in store.select(wanted)}


def status_page(found: Sequence[Status]) -> Table:
    table = Table("program", "stands", "last run", "messages", "held out", "others")
    for of in found:
        why = {"paused": of.paused, "stopped": of.stopped}
        stands = next((f"{how}: {reason}" for how, reason in why.items() if reason), "runs")
        others = {name: n for name, n in of.outcomes.items() if name not in ledger.MADE}
        table.add_row(
            of.program, Text(stands if of.enabled else "off"), (of.run_at or "")[:16],
            *(f"{of.outcomes.get(name, 0):,}" for name in ledger.MADE),
            ", ".join(f"{name} {n:,}" for name, n in sorted(others.items())),
        )  # fmt: skip
    return table
