"""What the terminal shows of what was earned: tables, as rich draws them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

Doc = Mapping[str, Any]
WARNING = "yellow"
DID = ("clicked", "opened", "conversion")  # by customers, beside what they brought
HEADS: Mapping[str | None, tuple[str, str, str]] = {  # what is compared, and its two sides
    None: ("program", "treated", "control"), "variant": ("variant", "variant", "first"),
    "version": ("version", "challenger", "champion"),
}  # fmt: skip
CLAIMS = ("difference, 95 %", "incremental", "lift", "p", "adjusted")


def compared(title: str, first: str, sizes: Sequence[str]) -> Table:
    """A table whose rows are comparisons: what, how many, and what is claimed."""
    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in (*sizes, *CLAIMS):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def lift_page(doc: Doc) -> Iterator[RenderableType]:
    """Each comparison with its own metric in its own window; of variants what readers did with the messages, too."""
    heads = HEADS[doc["by"]]
    table = compared(f"{doc['store']}, data until {doc['data_until'][:10]}", heads[0], heads[1:])
    for of in doc["programs"]:
        measures = of["windows"][str(of["window"])]["measures"]
        for name in dict.fromkeys((of["metric"], *(DID if DID[0] in measures else ()))):
            is_main = name == of["metric"]
            what = f"{of['program']}\n{name}, {of['window']} days" if is_main else f"\n{name}"
            found, adjusted = measures.get(name), of.get("p_adjusted") if is_main else None
            table.add_row(Text(what), *sizes(of, found), *claims(found or {}, adjusted))
    yield table
    yield from reasons(doc)
    for of in doc["programs"]:
        yield from (Text(f"{of['program']}: {said}", WARNING) for said in of["warnings"])
        if of["note"]:
            yield Text(f"{of['program']}: {of['note']}")
    if doc["by"]:
        yield from (
            Text(f"{of['program']}: {of['arms'][0]} against {of['arms'][1]}") for of in doc["programs"]
        )
    yield from (Text(said, WARNING) for said in doc["warnings"])
    if doc["left_out"]:
        yield Text(f"not measured, as one side is empty: {', '.join(doc['left_out'])}")


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
    table = compared(f"{doc['outcome']} by arm, against {doc['control']}", "arm", ("customers", "mean"))
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
