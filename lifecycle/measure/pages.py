"""What the terminal shows of what was earned: tables, as rich draws them."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Doc = Mapping[str, Any]
WARNING = "yellow"
CLAIMS = ("difference, 95 %", "incremental", "lift", "p", "adjusted")


def lift_page(doc: Doc) -> Iterator[RenderableType]:
    """Programs, each with its own metric in its own window."""
    table = Table(title=f"{doc['store']}, data until {doc['data_until'][:10]}", title_justify="left")
    table.add_column("program", no_wrap=True)
    for name in ("treated", "control", *CLAIMS):
        table.add_column(name, justify="right", no_wrap=True)
    for of in doc["programs"]:
        found = of["windows"][str(of["window"])]["measures"].get(of["metric"])
        what = Text(f"{of['program']}\n{of['metric']}, {of['window']} days")
        table.add_row(what, *sizes(of, found), *claims(found or {}, of.get("p_adjusted")))
    yield table
    yield from reasons(doc)
    for of in doc["programs"]:
        yield from (Text(f"{of['program']}: {said}", WARNING) for said in of["warnings"])
        if of["note"]:
            yield Text(f"{of['program']}: {of['note']}")
    yield from (Text(said, WARNING) for said in doc["warnings"])
    if doc["left_out"]:
        yield Text(
            f"not measured, as nobody was held back or nobody written to: {', '.join(doc['left_out'])}"
        )


def sizes(of: Doc, found: Doc | None) -> tuple[str, ...]:
    """Customers of both arms, and below what each brought."""
    return tuple(
        f"{of[arm]:,}" + (f"\n{found[arm]['mean']:,.4g}" if found else "") for arm in ("treated", "control")
    )


def claims(found: Doc, adjusted: float | None) -> tuple[str, ...]:
    """What is claimed of the difference; nothing where it was refused or no window has ended."""
    if not found or found["refused"]:
        return ("refused" if found else "too early", *[""] * (len(CLAIMS) - 1))
    low, high = found["ci95"]
    return (
        f"{found['difference']:+,.4g}\n{low:+,.4g} to {high:+,.4g}", f"{found['incremental']:+,.0f}",
        "" if found["lift"] is None else f"{found['lift']:+.1%}", f"{found['p']:.3f}",
        "" if adjusted is None else f"{adjusted:.3f}",
    )  # fmt: skip


def reasons(doc: Doc) -> Iterator[Text]:
    for of in doc["programs"]:
        window = of["windows"][str(of["window"])]
        found = window["measures"].get(of["metric"])
        why = found["refused"] if found else window.get("why")
        if why:
            yield Text(f"{of['program']}: {why}")


def arms_page(doc: Doc) -> Iterator[RenderableType]:
    """The arms of a file."""
    table = Table(title=f"{doc['outcome']} by arm, against {doc['control']}", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for name in ("customers", "mean", *CLAIMS):
        table.add_column(name, justify="right", no_wrap=True)
    for of in doc["arms"]:
        is_control = of["arm"] == doc["control"]
        cells = [""] * len(CLAIMS) if is_control else claims(of, of["p_adjusted"])
        size = f"{of['customers']:,}\n{of['buyers']:,} buyers"
        table.add_row(Text(of["arm"]), size, f"{of['mean']:,.4g}", *cells)
    yield table
    yield from (Text(f"{of['arm']}: {of['refused']}") for of in doc["arms"] if of["refused"])
    yield from (Text(said, WARNING) for said in doc["warnings"])


def plan_page(doc: Doc) -> Iterator[RenderableType]:
    """What would be found."""
    title = f"{doc['customers']:,} customers: the smallest difference of revenue found 8 times in 10"
    table = Table(title=title, title_justify="left")
    for name in ("days", "control", "revenue a customer", "difference", "lift", "buyers in the smaller arm"):
        table.add_column(name, justify="right")
    for of in doc["plans"]:
        buyers = f"{of['buyers']:,.0f}" + (", too few" if of["refused"] else "")
        lift = "" if of["lift"] is None else f"{of['lift']:.1%}"
        table.add_row(
            str(of["window"]), f"{of['share']:.0%}", f"{of['mean']:,.2f}", f"{of['detectable']:,.2f}", lift, buyers
        )  # fmt: skip
    yield table
