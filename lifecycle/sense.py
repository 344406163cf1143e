"""Sense: what a program's file says in good form, and nobody can have meant. Tables of checks: a new one is a row.

Each check gives (where, what is wrong and the way out) of a program.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from liquid.exceptions import LiquidError

from lifecycle.channels import WRITTEN
from lifecycle.hours import hours
from lifecycle.lengths import SMS_END, sms_length
from lifecycle.programs import Policy, Program, Voucher
from lifecycle.rows import FIELDS
from lifecycle.texts import fields, parsed
from lifecycle.tongue import OTHERWISE, WORDS
from lifecycle.triggers import LINES
from serving.placements import STORIES

Told = Iterator[tuple[str, str]]
NEEDED: Mapping[str, tuple[str, ...]] = {  # texts that a channel's messages are made of
    "email": ("subject", "title"),
    "sms": ("sms",),
    "push": ("subject", "push"),
}
BELOW: Mapping[str, tuple[str, ...]] = {  # what may stand behind a point; of lists, of each of their rows
    "products": FIELDS,
    "lines": tuple(LINES[0]),
    "voucher": tuple(Voucher(worth=1).said("", datetime(2000, 1, 1, tzinfo=UTC))),
}
LISTS = ("products", "lines")
LOOP = re.compile(r"\{%-?\s*for\s+(\w+)\s+in\s+(\w+)")  # the name of a row, and of the list
PLACE = re.compile(r"\{(\w+)\}")  # in words
LENGTH = "size"  # what Liquid itself knows of texts and lists


def senseless(program: Program) -> Told:
    for check in CHECKS:
        yield from check(program)


def unwritten(program: Program) -> Told:
    """What a channel's messages are made of, and is not there or blank."""
    for locale, texts in program.texts.items():
        for name in NEEDED.get(program.channel, ()):
            if not getattr(texts, name).strip():
                yield (
                    f"texts.{locale}.{name}",
                    f"is empty: a message by {program.channel} is made of it, write it",
                )


def uncarried(program: Program) -> Told:
    if program.channel not in WRITTEN:
        yield "channel", f"nothing carries messages by {program.channel}: choose {', '.join(WRITTEN)}"


def templates(program: Program) -> Told:
    if program.template == "voucher" and program.voucher is None:
        yield (
            "template",
            "voucher shows a voucher, and there is none: say voucher, or choose another template",
        )
    if program.template == "rating" and not program.rating:
        yield (
            "template",
            "rating shows stars, and none are asked for: say rating: true, or choose another template",
        )


def between_runs(program: Program) -> Told:
    """A run is made once a day: what is ripe for less may be past before anybody looks."""
    if program.missed == "skip" and program.trigger.within < 1:
        yield "trigger.within", "is below a day, which is from run to run: say 1 or more, or missed: catch_up"


def parts(program: Program) -> Told:
    """Names behind a point that nobody knows."""
    for locale, texts in program.texts.items():
        for field, text in fields(texts):
            for says in unknown_parts(text):
                yield f"texts.{locale}.{field}", says


def unknown_parts(text: str) -> Iterator[str]:
    try:
        variables = parsed(text).analyze().variables
    except LiquidError:
        return  # told already
    rows = dict(LOOP.findall(text))
    for name, uses in sorted(variables.items()):
        for path in sorted({tuple(map(plain, use.segments[1:])) for use in uses}, key=repr):
            yield from unknown_part(name, path, rows)


def plain(segment: Any) -> str | int | None:
    """A part of a path; None for one that is only known when a message is made."""
    return segment if isinstance(segment, str | int) else None


def unknown_part(name: str, path: tuple[str | int | None, ...], rows: Mapping[str, str]) -> Iterator[str]:
    known = BELOW.get(rows.get(name, name))
    rest = path[1:] if name in LISTS and path and path[0] != LENGTH and is_place(path[0]) else path
    wrong = rest[0] if rest else None
    if known is None or wrong is None or wrong == LENGTH:
        return
    if name in LISTS and rest is path:
        yield f"{name}.{wrong}: {name} is a list: write {name}[0].{known[0]}"
    elif wrong not in known:
        whole = name + "".join(
            f"[{of}]" if isinstance(of, int) else f".{of}" for of in path if of is not None
        )
        yield f"{whole}: there is no {wrong!r}; known: {', '.join(known)}"


def is_place(part: str | int | None) -> bool:
    """Whether a part of a path chooses one of a list."""
    return not isinstance(part, str) or part in ("first", "last")


def unknown_words(program: Program) -> Told:
    """Words for what no message says, or with a place in them that nothing is known for."""
    tiers = tuple(getattr(program.trigger, "tiers", ()))
    said = {
        **{name: str(text) for name, text in WORDS[OTHERWISE].items()},
        **STORIES,
        **dict.fromkeys(tiers, ""),
    }
    for locale, texts in program.texts.items():
        for name, text in texts.words.items():
            more = {*PLACE.findall(text)} - {*PLACE.findall(said.get(name, ""))}
            if name not in said:
                yield f"texts.{locale}.words", f"nothing is called {name!r}; known: {', '.join(said)}"
            elif more:
                yield f"texts.{locale}.words", f"{name}: there is no {', '.join(sorted(more))}"


def unending(program: Program) -> Told:
    """Words of how to end messages by SMS that say nothing, or leave too little of a message."""
    for locale, texts in program.texts.items():
        stop = texts.words.get("stop")
        if stop is not None and not 0 < sms_length(stop.strip()) <= SMS_END:
            yield (
                f"texts.{locale}.words",
                f"stop: says how to end these in an SMS: 1 to {SMS_END} characters",
            )


CHECKS: tuple[Callable[[Program], Told], ...] = (
    unwritten, uncarried, templates, between_runs, parts, unknown_words, unending,
)  # fmt: skip


def unheeded(program: Program, policy: Policy) -> Told:
    """Days of its own that the policy's choice does not look at."""
    if program.exclusive_days and policy.choice != "exclusive":
        why = f"does nothing where the policy's choice is {policy.choice}: leave it out, or say choice: exclusive there"
        yield "exclusive_days", why


def never_open(program: Program, policy: Policy) -> Told:
    """A window that quiet hours leave nothing of."""
    start, end = hours(program, policy)
    if start >= end:
        quiet = f"{policy.quiet_from:%H:%M} to {policy.quiet_until:%H:%M}"
        yield "window", f"lies within the policy's quiet hours, {quiet}, and never opens: choose other hours"
