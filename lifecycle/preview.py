"""A program before it runs: how many it would write to, what one customer would get, and why they get it or not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from features.history import History
from features.interactions import DAY, moment
from lifecycle import ledger
from lifecycle.audience import members, why
from lifecycle.choice import full
from lifecycle.day import ADDRESS, Day, day_of
from lifecycle.drafts import lacking
from lifecycle.hours import local_day, opens
from lifecycle.ledger import Past
from lifecycle.messages import About, Message, NotSent, compose
from lifecycle.occasions import Occasions
from lifecycle.permission import without_lists
from lifecycle.previews import CODE
from lifecycle.programs import Program, policy
from lifecycle.run import OWN, Candidate, Run, agreed, arm_of, candidates, drafted, moment_of, news, prepared
from lifecycle.triggers import PRODUCTS, WORDS, found
from serving.engine import Engine
from serving.scores import readable
from serving.store import Store

EXAMPLE = "https://shop.example/preview"  # where links lead that are one customer's alone


# --- how many ---------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """A day of a program. occasions: that were not there the day before; audience: of these, of who meets its
    conditions; reached: of these, who may be written to on its channel."""

    day: str
    occasions: int
    audience: int
    reached: int


def sizes(
    home: Path, store: Store, program: Program, last: date, days: int, told: Callable[[str, int, int | None], None]
) -> list[Size]:  # fmt: skip
    """What the program would have found on each of these days, by what was known then. Caps, and what other programs
    write, are left out."""
    history, seen = History(home / "history"), set[tuple[str, str]]()
    counted = []
    for place in range(days):
        on = (last - timedelta(days=days - 1 - place)).isoformat()
        day = day_of(history, store, moment_of(home, on), readable(home))
        counted.append(size(day, program, on, seen, first=not place))
        told("days", place + 1, days)
    return counted


def last_day(home: Path, day: str | None, *, now: datetime) -> date:
    """The store's day that is meant; today where none is named, or yesterday as long as today's run has not been."""
    if day:
        return moment_of(home, day).date()
    today = now.astimezone(ZoneInfo(History(home / "history").store.time_zone)).date()
    return today if moment_of(home, today.isoformat()) <= now else today - timedelta(days=1)


def size(day: Day, program: Program, on: str, seen: set[tuple[str, str]], *, first: bool) -> Size:
    """The size of a day; on the first, what was ripe a day before it was found the day before."""
    occasions = found(day, program.waits)
    named = list(zip(day.ids.at(occasions.person), occasions.key, strict=True))
    old = occasions.at < day.until - DAY if first else np.zeros(len(named), bool)
    new = np.array([name not in seen for name in named], bool) & ~old
    seen.update(named)
    person = occasions.person[new]
    inside = person[members(day, program)[person]]
    return Size(on, len(person), len(inside), int(reachable(day, program)[inside].sum()))


def reachable(day: Day, program: Program) -> np.ndarray:
    """By person whether a program may write to them on its channel."""
    known = day.people[ADDRESS[program.channel]].notna().to_numpy()
    if program.kind == "transactional":
        return known
    agree = np.zeros(len(known), bool)
    agree[day.consents.get((program.channel, "marketing"), [])] = True
    return known & agree


# --- one customer -----------------------------------------------------------------------------------------


class Step(NamedTuple):
    """What is asked on the way to a message, and what the answer is for one customer."""

    asked: str
    holds: bool
    says: str


@dataclass(frozen=True)
class Preview:
    """message: as it would look now, by an example where there is no occasion; None where it cannot be made, as the
    last step says."""

    program: str
    customer_id: str
    at: str
    steps: tuple[Step, ...]
    message: Message | None

    @property
    def written_to(self) -> bool:
        return all(step.holds for step in self.steps)

    def as_dict(self) -> dict[str, Any]:
        made = self.message and {name: getattr(self.message, name) for name in ("subject", "text", "html")}
        return {
            **{name: value for name, value in asdict(self).items() if name not in ("steps", "message")},
            "written_to": self.written_to, "steps": [step._asdict() for step in self.steps], "message": made,
        }  # fmt: skip


class PreviewError(ValueError):
    """Nothing can be shown; the message says why."""


def preview(
    home: Path, store: Store, engine: Engine, programs: Mapping[str, Program], name: str, customer_id: str,
    at: datetime,
) -> Preview:  # fmt: skip
    """What one customer would get of a program at a moment, and why they get it or not. Raises PreviewError."""
    history = History(home / "history")
    day = day_of(history, store, at, readable(home))
    person = int(day.ids.positions([customer_id])[0])
    if person < 0:
        raise PreviewError(f"nobody is known by the id {customer_id!r}")
    made = prepared(day, store, engine, programs, policy(home / OWN), history.aliases(), at)
    mine = found(day, programs[name].waits)
    mine = mine.where(mine.person == person)
    past = past_of(made, made.names[person])
    steps = [*asked(made, programs[name], person, mine, past)]
    known = past.named(made.names[person])
    variant = programs[name].variant_of(made.policy.seed, known)
    form = programs[name].forms[variant].promoting(agreed(made.day, programs[name].channel, person))
    message, last = shown(made, form, person, mine, past)
    arm = arm_of(made.policy, programs[name], known)
    held = Step("not held back", arm is None, f"of the {arm}'s control group" if arm else "yes")
    which = (Step("variant", True, variant or "as it stands"),) if programs[name].variants else ()
    return Preview(name, customer_id, at.isoformat(), (*steps, *which, last, held), message)


def past_of(made: Run, name: str) -> Past:
    since = made.at - timedelta(days=made.policy.repeat_days)
    found = ledger.seen(made.store, [name], shown_since=since, run_at=made.at, names=made.ids).past[name]
    return replace(found, decided=set())


def asked(made: Run, program: Program, person: int, mine: Occasions, past: Past) -> Iterator[Step]:
    """The questions that a run asks of a customer before it makes lists, in its order."""
    name = made.names[person]
    new = [candidate for candidate in candidates(program, mine) if news(candidate, past)]
    why_not = made.pauses.of(program.name, name, marketing=program.kind == "marketing")
    yield Step("enabled", program.enabled, "yes" if program.enabled else "the file says no")
    yield Step("trigger", len(mine) > 0, told_of(mine) or f"no occasion of the kind {program.trigger.kind}")
    for condition, value, holds in why(made.day, program, person):
        yield Step("audience", holds, f"{condition}: {'not known' if value is None else spoken(value)}")
    yield Step("not written before", bool(new) or not len(mine), "yes" if new or not len(mine) else "it was")
    yield Step("not paused", not why_not, why_not or "yes")
    yield from reached(made, program, person)
    yield within_caps(made, program, person, past)


def told_of(mine: Occasions) -> str:
    return "; ".join(
        f"{key}, since {moment(int(at)):%Y-%m-%d %H:%M} UTC"
        for key, at in zip(mine.key, mine.at, strict=True)
    )


def spoken(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.4g}"


def reached(made: Run, program: Program, person: int) -> Iterator[Step]:
    channel = program.channel
    there, shut = bool(made.reached[channel][person]), bool(made.shut[channel][person])
    yield Step("address", there and not shut, "suppressed" if shut else "known" if there else "none is known")
    yes = agreed(made.day, channel, person)
    if program.kind == "marketing":
        yield Step("consent", yes, f"to marketing by {channel}: {'yes' if yes else 'no'}")
    elif program.shelves:
        yield Step(
            "consent", True, "none is needed" if yes else f"none is needed; it goes {without_lists(channel)}"
        )


def within_caps(made: Run, program: Program, person: int, past: ledger.Past) -> Step:
    code, zones = made.day.zones
    zone = zones[code[person]]
    send_at = opens(program, made.policy, made.at, zone)
    if send_at is None:
        return Step("window", False, "none within two weeks")
    said = f"it would go out on {send_at.astimezone(zone):%Y-%m-%d at %H:%M}, {zone.key}"
    if program.kind == "transactional":
        return Step("window", True, said)
    caps, days = made.policy.caps.get(program.channel, ()), past.days.get(program.channel, ())
    cap = full(caps, days, local_day(send_at, zone))
    return Step("window and caps", cap is None, f"the cap of {cap} is reached" if cap else said)


def shown(
    made: Run, program: Program, person: int, mine: Occasions, past: Past
) -> tuple[Message | None, Step]:
    """The message, of the first occasion or of an example."""
    first = next(filter(None, (news(one, past) for one in candidates(program, mine))), None)
    found = [(first.products, first.words)] if first else list(zip(mine.products, mine.words, strict=True))
    products, words = found[0] if found else example(made.day, program, person)
    at = max(made.at, made.engine.data_until)
    one = Candidate(program, person, "", 0.0, tuple(products), words)
    given = {"voucher": program.voucher.said(CODE, at)} if program.voucher else {}
    made_of = drafted(made, one, {**words, **given}, past.shown, at)
    lack = lacking(program, [held.items for held in made_of.lists])
    try:
        message = compose(made.engine, program, made_of, about(made.day, person), links=None, now=at)
    except NotSent as error:
        return None, Step("message", False, error.reason)
    how = "as it would look" if len(mine) else "as it would look, by an example: there is no occasion"
    return message, Step("message", lack is None, lack or how)


def about(day: Day, person: int) -> About:
    facts = {name: value for name, value in day.people.iloc[person].items() if pd.notna(value)}
    links = dict.fromkeys(("unsubscribe_url", "view_url", "rate_url"), EXAMPLE)
    return About.of({str(name): value for name, value in facts.items()}, **links)


def example(day: Day, program: Program, person: int) -> tuple[Sequence[str], Mapping[str, Any]]:
    """(products, words) for one who has no occasion: the products are of their last order that held any to be
    recommended."""
    if program.trigger.kind not in PRODUCTS:
        return (), WORDS[program.trigger.kind]
    data, customer = day.eligible, np.flatnonzero(day.person == person)
    rows = np.arange(len(data))[data.rows(int(customer[0]) if len(customer) else -1)]
    last = rows[data.order[rows] == data.order[rows[-1]]] if len(rows) else rows
    return tuple(data.items.at(data.item[last])), WORDS[program.trigger.kind]
