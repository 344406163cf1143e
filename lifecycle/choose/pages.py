"""The choice on the screen."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text


def report_page(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(
        f"{found['matured']:,} of {found['choices']:,} choices are {found['days']} days old; reward: {found['reward']}"
    )
    if found["groups"]["alarm"]:
        yield Text("the groups are not of the sizes planned: see docs/choosing.md", style="yellow")
    for against, rows in found["groups"]["against"].items():
        yield group_table(against, rows)
        yield from (
            Text(f"{row['arm']}: {row['refused']}", style="yellow") for row in rows if row.get("refused")
        )
    arms = Table("group", "what was chosen")
    for name, of in found["arms"].items():
        if of:
            arms.add_row(name, ", ".join(f"{arm} {share:.0%}" for arm, share in of.items()))
    yield arms
    yield from (line for of in found["policies"] for line in judged_page(of))


def group_table(against: str, rows: list[Mapping[str, Any]]) -> Table:
    table = Table("group", "customers", "buyers", "a customer", f"more than {against}", "95 %", "p")
    for row in rows:
        told = ("", "", "")
        if row.get("difference") is not None:
            low, high = row["ci95"]
            told = (f"{row['difference']:.2f}", f"{low:.2f} to {high:.2f}", f"{row['p']:.3f}")
        elif row.get("refused"):
            told = ("refused", "", "")
        table.add_row(row["arm"], f"{row['customers']:,}", f"{row['buyers']:,}", f"{row['mean']:.2f}", *told)
    return table


def hours_page(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(
        f"{found['clicked']:,} of {found['messages']:,} messages were clicked within {found['days']} days of their hour"
    )
    table = Table("from", "sent", "clicked", "of those sent")
    for of in found["slots"]:
        table.add_row(of["slot"], f"{of['sent']:,}", f"{of['clicked']:,}", f"{of['rate']:.1%}")
    yield table
    yield from (line for of in found["policies"] for line in judged_page(of))


def judged_page(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    """What a policy would have brought a decision, or why that cannot be told."""
    if found["refused"]:
        yield Text(f"{found['policy']}: refused: {found['refused']}", style="yellow")
        return
    table = Table(found["policy"], "a decision", "95 %", title_justify="left")
    for name, of in {"as logged": found["logged"], **found["estimates"]}.items():
        table.add_row(name, f"{of['value']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}")
    yield table
    yield Text(f"{found['decisions']:,} decisions, worth {found['effective']:,.0f} of the policy's own")
    yield from (Text(warning, style="yellow") for warning in found["warnings"])
