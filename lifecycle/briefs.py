"""Briefs: what a writer, or a language model, is told to write a program's texts for one stage of a customer's life.

Made of the program, the stage and the shop's voice. No customer is in it: what is personal stands as a placeholder.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lifecycle.audience import spoken
from lifecycle.lint import names
from lifecycle.programs import Policy, Program
from lifecycle.triggers import WORDS


class Reader(NamedTuple):
    who: str
    tone: str
    after: str


READERS: Mapping[str, Reader] = {
    "prospect": Reader(
        "has agreed to hear from the shop and never ordered", "Curious and light; explain nothing that can be seen.",
        "With a first order the thank-you follows; without one there is no second push.",
    ),
    "new": Reader(
        "has ordered once", "Reassuring: the first choice was a good one. Make the second easy.",
        "A second order makes them active. Otherwise the next word comes when they are on the brink.",
    ),
    "active": Reader(
        "orders now and then, in a rhythm of their own", "Helpful and brief, as to somebody who knows the way.",
        "The next order ends the matter.",
    ),
    "loyal": Reader(
        "has ordered five times and more without a long break", "Familiar and grateful. Nothing needs to be sold.",
        "None is needed; what follows is the next thing worth telling.",
    ),
    "brink": Reader(
        "stays away half as long again as usual", "Attentive, without reproach. Leave room for an answer.",
        "With an order the matter ends. Without one win-back begins once they have lapsed.",
    ),
    "lapsed": Reader(
        "has stayed away for three times the usual gap", "Honest and modest; say what is new, and accept a no.",
        "After the last step there is silence.",
    ),
    "won_back": Reader(
        "has come back after a long absence", "Glad, without mentioning the absence more than once.",
        "A third order since then makes them active again.",
    ),
}  # fmt: skip
MEANINGS: Mapping[str, str] = {
    "store": "the shop's name",
    "first_name": "the customer's first name, often not known",
    "product": "the title of the first product that it is about, or of the first list",
    "price": "what that costs now",
    "link": "where that is to be bought",
    "products": "all products that it is about",
    "lists": "whether lists are shown: who did not agree to promotion gets none with an order's message",
    "order_id": "the order's number",
    "ordered_on": "the day of the order, written out",
    "nth": "the how manyth order it is",
    "lines": "what the order holds: quantity and title of each",
    "more_lines": "how many lines are not shown",
    "step": "the number of the message in its series",
    "category": "the category's name",
    "was": "what it cost before",
    "is": "what it cost when the price dropped",
    "years": "how many years it has been",
    "tier": "the tier's name",
    "voucher": "its code, worth and end: voucher.code, voucher.worth, voucher.ends",
}
LENGTHS = (
    ("subject", "at most 50 characters; no capitals, no exclamation marks in a row"),
    ("preheader", "at most 90 characters, adds to the subject"),
    ("title", "at most 40 characters"),
    ("body", "at most 60 words, in two or three sentences"),
    ("button", "at most 3 words, a verb first"),
    ("push", "title and text together at most 178 characters"),
    ("sms", "at most 160 characters, links included"),
)


def brief(program: Program, stage: str, policy: Policy) -> str:
    """The brief, in Markdown."""
    return "\n".join(
        [
            f"# {program.name}, for customers who are {stage.replace('_', ' ')}",
            "",
            *parts(program, stage, policy),
        ]
    )


def parts(program: Program, stage: str, policy: Policy) -> Iterator[str]:
    reader = READERS[stage]
    yield f"A message by {program.channel}. {program.about}\n"
    yield from part("Reader", [f"Somebody who {reader.who}.", *conditions(program)])
    yield from part("When", [when(program)])
    yield from part("Hook", [program.brief.hook or "What is in it for the reader, in one sentence."])
    yield from part("Story", [program.brief.story or program.about])
    yield from part("Tonality", [policy.brand_voice or "Friendly and plain.", reader.tone])
    yield from part("Personalisation", placeholders(program))
    yield from part("Beside the text", list(shown(program)) or ["Nothing: the text stands alone."])
    yield from part("Follow-up", [*follow_up(program), reader.after])
    yield from part("Write", [f"{name}: {says}" for name, says in LENGTHS] + [languages(program)])
    yield "Do not invent prices, dates, stock, numbers of customers, or reasons to hurry."


def part(title: str, says: list[str]) -> Iterator[str]:
    yield f"## {title}"
    yield from (f"- {line}" for line in says)
    yield ""


def conditions(program: Program) -> list[str]:
    return [f"Only where {spoken(name, of)}." for name, of in program.audience.items() if name != "customer"]


def when(program: Program) -> str:
    said = " ".join((type(program.trigger).__doc__ or "").split())
    settings = program.trigger.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
    told = ", ".join(f"{name} {plain(value)}" for name, value in settings.items())
    return f"{said} Here: {told}." if told else said


def plain(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{name} {of:g}" for name, of in value.items())
    return " / ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def placeholders(program: Program) -> list[str]:
    """What may be named, with an example where an occasion has one."""
    known = WORDS[program.trigger.kind]
    told = [
        f"`{{{{ {name} }}}}`: {MEANINGS[name]}"
        + (f", such as {known[name]}" if isinstance(known.get(name), (str, int, float)) else "")
        for name in names(program)
    ]
    return [*told, "Each may be missing: the text must read well without it."]


def shown(program: Program) -> Iterator[str]:
    if program.products:
        yield "The products that it is about."
    for shelf in program.shelves:
        name = shelf.placement.replace("_", " ")
        yield f"A list of {shelf.limit}: {name}. It needs a heading of at most 30 characters."
    if program.voucher:
        yield f"A voucher worth {program.voucher.worth:g}, good for {program.voucher.days} days, to be used once."
    if program.rating:
        yield "Five stars to click on."


def follow_up(program: Program) -> Iterator[str]:
    steps = getattr(program.trigger, "steps", ())
    if len(steps) > 1:
        days = ", ".join(f"{step:g}" for step in steps)
        yield f"{len(steps)} messages, {days} days after it began; `step` tells them apart. Then silence."
    if program.exit:
        said = {"order": "an order", "ordered_product": "an order of the product", "passed": "its day"}
        yield f"Not sent any more after {' or '.join(said[name] for name in program.exit)}."


def languages(program: Program) -> str:
    return f"In {', '.join(program.texts)}: each by itself, no translation word for word."
