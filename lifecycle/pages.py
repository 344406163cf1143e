"""What the terminal shows of customers: tables and bars, as rich draws them."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from features.customers import STAGES
from lifecycle.customers import Counts
from lifecycle.run import Ran
from serving.schemas import CustomerAbout, Profile, ScoresAbout

WIDTH = 40  # of the longest bar


def customer_page(found: CustomerAbout) -> Iterator[RenderableType]:
    """A page about one customer."""
    profile = found.profile
    names = ", ".join((found.customer_id, *(n for n in found.identities if n != found.customer_id)))
    if profile is None:
        yield Text(f"nothing is known of {names}")
        return
    yield rows(names, about(found, profile))
    yield bars("orders by month, and the stage at its end", profile.orders.by_month, profile.stages)
    if profile.due:
        table = Table("product", "title", "due", "chance", title="next due", title_justify="left")
        for item in profile.due:
            table.add_row(
                Text(item.product_id), Text(item.title), f"{item.due:%Y-%m-%d}", f"{item.chance:.0%}"
            )
        yield table


def about(found: CustomerAbout, profile: Profile) -> dict[str, Any]:
    orders, rfm = profile.orders, profile.rfm
    first, last = (f"{of:%Y-%m-%d}" if of else "none" for of in (orders.first, orders.last))
    consents = (f"{c['channel']} {c['purpose']}: {'yes' if c['granted'] else 'no'}" for c in found.consents)
    told = {
        "as of": f"{profile.as_of:%Y-%m-%d %H:%M} UTC",
        "stage": profile.stage.replace("_", " "),
        "orders": f"{orders.count:,}, first {first}, last {last}",
        "spend": f"{orders.spend:,.2f}",
        "RFM": f"{rfm.group} ({rfm.r} {rfm.f} {rfm.m}); back within {rfm.gap:.0f} days" if rfm else None,
        **scores_of(profile.scores),
        "events": listed(profile.events),
        "messages": listed(profile.messages),
        "consents": "; ".join(consents),
    }
    favourites = {name.replace("_", " "): of for name, of in profile.favourites}
    return {name: of for name, of in {**told, **favourites, **found.facts}.items() if of}


def scores_of(told: ScoresAbout | None) -> dict[str, str]:
    """Scores in words."""
    if told is None:
        return {}
    likely = {"likely": told.categories, "likely and new": told.additions}
    return {
        "no order": "" if told.churn is None else f"{told.churn:.0%} likely in {told.churn_days} days",
        "expected spend": "" if told.spend is None else f"{told.spend:,.2f} in {told.spend_days} days",
        **{
            name: ", ".join(f"{of.category} {of.chance:.0%}" for of in found)
            for name, found in likely.items()
        },
    }


def listed(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{name or 'other'} {n:,}" for name, n in counted.items())


def rows(title: str, told: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, title=Text(title), title_justify="left")
    for name, of in told.items():
        table.add_row(name, Text(str(of)))
    return table


def bars(title: str, counted: Mapping[str, int], beside: Mapping[str, str]) -> Table:
    """A bar for each count, as long as it is beside the largest."""
    most = max(counted.values(), default=0) or 1
    table = Table(show_header=False, box=None, title=title, title_justify="left")
    for name, n in counted.items():
        table.add_row(name, f"{n:,}", "█" * round(WIDTH * n / most), beside.get(name, "").replace("_", " "))
    return table


def counts_page(found: Counts) -> Iterator[RenderableType]:
    """Where customers stand, and how they moved."""
    yield bars(f"customers by stage, {found.as_of[:10]}", found.stages, {})
    yield bars("by recency, frequency and money", found.groups, {})
    to = [name for name in STAGES if any(name in of for of in found.moved.values())]
    table = Table("from, to", *to, title=f"moved since {found.since[:10]}", title_justify="left")
    for name, of in found.moved.items():
        table.add_row(name, *(f"{of[b]:,}" if b in of else "" for b in to))
    yield table


def run_page(found: Ran) -> Iterator[RenderableType]:
    """What a run came to, program by program."""
    table = Table(title=f"{found.at:%Y-%m-%d %H:%M} UTC", title_justify="left")
    table.add_column("program", no_wrap=True)
    for name in ("found", "in audience", "messages", "held back"):
        table.add_column(name, justify="right")
    table.add_column("no message")
    for name, count in found.found.items():
        of = dict(found.outcomes.get(name, {}))
        numbers = (count, found.members[name], of.pop("message", 0), of.pop("holdout", 0))
        why = found.stopped.get(name) or ", ".join(f"{n:,} {told(reason)}" for reason, n in most_first(of))
        table.add_row(Text(name), *(f"{n:,}" if n else "" for n in numbers), Text(why))
    yield table
    yield Text(f"{found.eligible:,} occasions, {found.messages:,} messages")


def most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda of: (-of[1], of[0]))


def told(reason: str) -> str:
    return reason.replace("_", " ")
