"""What programs earned, as a page that needs nothing else and as a run in MLflow: drawn from the plain document of
`osclms lift`, so that nothing here measures anything."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from training.card import Section, Table, minus, page_html, picture
from training.plots import BLUE, GREY, ORANGE, canvas, light
from training.publish import Registry

Doc = Mapping[str, Any]
PAGE, DATA = "lift.html", "lift.json"
MEASURES = {"revenue": "Revenue", "margin": "Margin", "orders": "Orders", "conversion": "Buyers",
            "opened": "Opened", "clicked": "Clicked"}  # fmt: skip
PARTS = ("conversion", "opened", "clicked")  # measures that are shares of customers
TITLES: Mapping[str | None, tuple[str, str]] = {  # of the page, and of what it compares
    None: ("what programs earned", "Programs"), "variant": ("what variants earned", "Variants"),
    "version": ("what versions earned", "Versions"),
}  # fmt: skip
HOW = (
    "Everybody assigned counts, opened or not (intention to treat). Intervals are 95 %, by a studentised randomisation "
    "test with spend of the 90 days before the first decision as covariate. A customer counts once the window after "
    "the decision has ended."
)


def log(home: Path, doc: Doc, page: str) -> str:
    """A run of MLflow with the page, the document and the figures that were not refused. Its id."""
    programs = [of["program"] for of in doc["programs"]]
    figures = {
        f"{of['program']}.{name}": found[name]
        for of in doc["programs"] if (found := primary(of)) and not found["refused"]
        for name in ("difference", "p", "incremental", "lift") if found[name] is not None
    }  # fmt: skip
    return Registry(home).log_run(
        "lift",
        params={"from": doc["from"] or "first", "to": doc["to"] or "last", "programs": ", ".join(programs)},
        metrics=figures,
        tags={"osclms.kind": "lift"},
        artifacts={PAGE: page, DATA: dict(doc)},
    )


def primary(of: Doc) -> dict[str, Any]:
    """A program's own metric in its own window; empty where no window has ended."""
    found: dict[str, Any] = of["windows"][str(of["window"])]["measures"].get(of["metric"], {})
    return found


def page(doc: Doc) -> str:
    """The report, as HTML."""
    warned = "; ".join(doc["warnings"])
    about = {
        "Decisions": f"{(doc['from'] or 'the first')[:10]} to {(doc['to'] or 'the last')[:10]}",
        "Data until": doc["data_until"][:16].replace("T", " ") + " UTC",
        "Currency": doc["currency"],
        **({"Not measured": ", ".join(doc["left_out"]) + " (one side is empty)"}
           if doc["left_out"] else {}),
    }  # fmt: skip
    return page_html(f"{doc['store']}: {TITLES[doc['by']][0]}", warned or HOW, about, sections(doc))


def sections(doc: Doc) -> Iterator[Section]:
    yield overview(doc)
    for of in doc["programs"]:
        yield program(of, doc["currency"])


def overview(doc: Doc) -> Section:
    rows = tuple(
        (
            (of["program"], f"{of['metric']} in {of['window']} days"),
            f"{of['treated']:,}", f"{of['control']:,}", *claims(primary(of), of.get("p_adjusted")),
            ("; ".join(short(of)) or "–"),
        )
        for of in doc["programs"]
    )  # fmt: skip
    what = TITLES[doc["by"]][1]
    sides = ("customers", "of the first") if doc["by"] else ("treated", "control")
    head = (what[:-1].lower(), *sides, "a customer", "incremental", "lift", "p", "adjusted", "")
    drawn = [of for of in doc["programs"] if primary(of).get("ci95")]
    pictures = (picture(f"{what} side by side", forest(drawn, doc["currency"])),) if drawn else ()
    says = HOW + " Adjusted: the p-value corrected for the number of comparisons (Benjamini and Hochberg)."
    return Section(what, says, (Table(head, rows),), pictures)


def claims(found: Doc, adjusted: float | None) -> tuple[str | tuple[str, str], ...]:
    if not found:
        return ("no window has ended", "–", "–", "–", "–")
    if found["refused"]:
        return ("refused", "–", "–", "–", "–")
    low, high = found["incremental_ci95"]
    return (
        span(found["difference"], found["ci95"]),
        (minus(f"{found['incremental']:,.0f}"), minus(f"{low:,.0f} to {high:,.0f}")),
        "–" if found["lift"] is None else minus(f"{found['lift']:+.1%}"),
        f"{found['p']:.3f}",
        "–" if adjusted is None else f"{adjusted:.3f}",
    )


def span(value: float, ends: Sequence[float]) -> tuple[str, str]:
    return minus(f"{value:+,.4g}"), minus(f"{ends[0]:+,.4g} to {ends[1]:+,.4g}")


def short(of: Doc) -> list[str]:
    """In a word each, what makes a program's figures doubtful."""
    ratio = of["ratio"]
    return [
        word
        for word, is_so in (
            ("sizes wrong", bool(ratio and ratio["alarm"])),
            ("leaky control", of["leak"]["alarm"]),
            ("universal control", bool(of["note"])),
        )
        if is_so
    ]


def reached_by(arm: str) -> str:
    return "were treated" if arm == "treated" else f"got {arm}"


def program(of: Doc, currency: str) -> Section:
    ratio, leak = of["ratio"], of["leak"]
    first, second = of["arms"]
    says = [*of["warnings"], of["note"] or "", "" if first == "treated" else f"{first} against {second}."]
    if ratio:
        says.append(
            f"Sizes: p = {ratio['p']:.3g} that {of['treated']:,} and {of['control']:,} are as planned."
        )
    says.append(
        f"Of {second} {leak['reached']:,} {reached_by(first)} after all; {of['mixed']:,} are of both arms."
    )
    tables = tuple(table(days, found, of["arms"]) for days, found in of["windows"].items())
    drawn = []
    if of["looks"]:
        drawn.append(picture("Incremental revenue, week by week", cumulative(of, currency)))
    why = primary(of).get("refused")
    says += [f"Refused: {why}."] if why else []
    if any(of["by_day"]["treated"]) and not why:
        drawn.append(picture("Revenue a customer since the decision", curves(of, currency)))
    return Section(of["program"], " ".join(s for s in says if s), tables, tuple(drawn))


def table(days: str, found: Doc, arms: Sequence[str]) -> Table:
    treated, control = found["matured"]
    title = f"{days} days: {treated:,} {arms[0]}, {control:,} {arms[1]} whose window has ended"
    rows = tuple(
        (
            MEASURES[name], *(arm(of[side], name) for side in ("treated", "control")),
            *claims(of, None)[:4], "–" if of["detectable"] is None else f"{of['detectable']:,.4g}",
            "–" if of["reduction"] is None else f"{of['reduction']:.0%}",
        )
        for name, of in found["measures"].items()
    )  # fmt: skip
    head = ("", *arms, "difference", "incremental", "lift", "p", "detectable", "variance less")
    return Table(head, rows, title)


def arm(side: Doc, name: str) -> tuple[str, str]:
    """Of a customer, and in sum."""
    if name in PARTS:
        return f"{side['mean']:.2%}", f"{side['buyers']:,} customers"
    return f"{side['mean']:,.4g}", f"{side['sum']:,.0f} of {side['buyers']:,} buyers"


# --- pictures ---------------------------------------------------------------------------------------------


def forest(programs: Sequence[Doc], currency: str) -> Figure:
    """Each program's lift over its control with its interval; grey where it may be none."""
    order = programs[::-1]
    figure, axes = canvas(height=1.6 + 0.4 * len(order))
    for row, of in enumerate(order):
        found = primary(of)
        base = found["control"]["mean"] or 1.0
        low, high, at = (100 * value / base for value in (*found["ci95"], found["difference"]))
        colour = BLUE if found["p"] <= 0.05 else GREY
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([at], [row], marker="s", color=colour)
    axes.axvline(0, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(order)), [of["program"] for of in order])
    axes.set_xlabel("difference, % of what customers of the other side brought; whiskers: 95 % interval")
    axes.set_title("Each against what it is compared with; never to be summed", loc="left")
    light(axes, grid="x")
    return figure


def cumulative(of: Doc, currency: str) -> Figure:
    figure, axes = canvas(height=4.2)
    at = [datetime.fromisoformat(look["at"]) for look in of["looks"]]
    band = np.array([look["band95"] for look in of["looks"]])
    axes.fill_between(np.array(at), band[:, 0], band[:, 1], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(np.array(at), [look["incremental"] for look in of["looks"]], color=BLUE, marker="o")
    axes.axhline(0, color=ORANGE, linestyle="--", linewidth=1)
    axes.tick_params(axis="x", rotation=30)
    axes.set_ylabel(f"incremental revenue, {currency}")
    axes.set_title(f"{of['program']}: earned by then; the band holds at all looks together", loc="left")
    light(axes, grid="y")
    return figure


def curves(of: Doc, currency: str) -> Figure:
    figure, axes = canvas(height=4.2)
    for (name, values), colour in zip(of["by_day"].items(), (BLUE, ORANGE), strict=True):
        label = of["arms"][name == "control"]
        axes.plot(range(len(values) + 1), [0, *values], color=colour, label=label)
    axes.legend(frameon=False)
    axes.set_xlabel("days since the decision")
    axes.set_ylabel(f"revenue a customer, {currency}")
    axes.set_title(f"{of['program']}: {of['arms'][0]} and {of['arms'][1]} over time", loc="left")
    light(axes, grid="y")
    return figure
