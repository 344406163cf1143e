"""The table of placements: what each asks with, what may be in its list, and what it says.

A new placement is a new row. A list is the union of what its sources propose, ordered by the placement's learned
ranker, or by the weighted sum of the sources' scores where there is none; where it is short, `fill` is tried step
by step with one growing exclude-set.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from serving.misread import Misread
from serving.rules import Rules
from serving.wire import MAX_LIMIT, RequestError, faults_told, worded

STRICT = ConfigDict(extra="forbid")
Asks = Literal["customer", "products", "nobody"]
Place = tuple[str | int, ...]  # in the file: (placement, key, number, key …)
Fault = tuple[Place, str]  # where, and what is wrong
FILE = "placements.toml"  # in a shop's home
HABIT_ORDERS = 2  # for one need that make a habit
PRICE_STEP = (1.10, 4.0)  # how much dearer a step up may be
MAX_WEIGHT = 1e6
ELIGIBLE = (
    "not_owned",
    "owned",
    "same_need",
    "dearer",
    "no_substitutes",
    "complements_only",
)  # by the engine's RULES


@dataclass(frozen=True)
class Source:
    """One fitted model asked in one way.

    weight: of its scores, scaled to 0..1 among the candidates. take: how many it proposes; 0, it only scores.
    story: a key of STORIES.
    """

    __pydantic_config__ = STRICT

    model: str
    asks: Asks
    story: str
    weight: Annotated[float, Field(gt=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0
    take: Annotated[int, Field(ge=0)] = 80


@dataclass(frozen=True)
class Step:
    """One step of a fill: a source and the rules that hold for it."""

    __pydantic_config__ = STRICT

    source: Source
    rules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Placement:
    """rules: names in RULES of the engine, for the placement's own sources. policy: rules over the catalogue for
    the whole list, its fill included. cache_seconds: how long a list may be kept by who asked. like: the placement
    whose ranker ranks this one, where both have the same sources. worth: what the own sources give is an offer only
    where this customer is at least so many times as likely to take one as customers are on average, by what the
    ranker `<name>.worth` learned, and is flagged as filled elsewhere; None: always an offer. It was learned of
    customers with a habit in the need of one product, and says nothing of others. needs: the model that knows which
    needs go with what is asked about.

    What is unavailable, excluded by the request or asked about is never in any list, filled or not.
    """

    __pydantic_config__ = STRICT

    name: str
    about: str
    asks: Annotated[tuple[Asks, ...], Field(min_length=1)]
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    rules: tuple[str, ...] = ()
    fill: tuple[Step, ...] = ()
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT, strict=True)] = 10
    complements_only: bool = False
    policy: Rules = ()
    cache_seconds: Annotated[int, Field(ge=0)] = 0
    like: str = ""
    worth: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    needs: str = ""

    @property
    def asked(self) -> tuple[Source, ...]:
        """Every source of the list and of its fill."""
        return *self.sources, *(step.source for step in self.fill)

    @property
    def beside(self) -> bool:
        """Whether its lists go with a basket, and so with what lies in the customer's cart."""
        return "no_substitutes" in self.rules

    @property
    def models(self) -> set[str]:
        every = {source.model for source in self.asked} | ({self.needs} if self.needs else set())
        return every | ({"complements"} if "no_substitutes" in self.rules else set())


STORIES: Mapping[str, str] = {
    "regular": "One of your favourites: bought {times} times",
    "again": "Bought before, last on {last}",
    "taste": "Because you buy {because}",
    "like_you": "People like you buy it",
    "goes_with": "Goes with {because}",
    "step_up": "A step up from {because}",
    "similar": "Similar to {because}",
    "same_need": "Also chosen in {category}",
    "popular": "Popular with everybody right now",
    "bought": "Others bought it too",
    "first": "Be the first to try it",
    "new": "New, and already liked",
    "known": "You have bought it before",
}

CUSTOMER: tuple[Asks, ...] = ("customer",)
BOTH: tuple[Asks, ...] = ("customer", "products")
NOBODY: tuple[Asks, ...] = ("nobody",)
ANSWERS: Mapping[str, tuple[Asks, ...]] = {  # by model: what it can be asked with, as a source of products
    **dict.fromkeys(("popular", "newest"), NOBODY),
    **dict.fromkeys(("habit", "rhythm", "ease", "tifu", "upcf"), CUSTOMER),
    **dict.fromkeys(("als", "content"), BOTH),
    **dict.fromkeys(("bpr", "hybrid"), (*BOTH, *NOBODY)),
    **dict.fromkeys(("copurchase", "complements", "alternatives"), BOTH),
    **dict.fromkeys(("ease_baskets", "item_knn", "popular_in"), BOTH),
}
OF_NEEDS = ("ease_needs",)  # models that know needs, not products


@dataclass(frozen=True)
class Truth:
    """Of which sources a story is true: of those that ask so, by these models; of all others where this rule holds."""

    asks: tuple[Asks, ...] = get_args(Asks)
    models: Set[str] = frozenset(ANSWERS)
    rule: str = ""

    def holds(self, source: Source, rules: Set[str]) -> bool:
        return self.rule in rules or (source.asks in self.asks and source.model in self.models)


TRUTHS: Mapping[str, Truth] = {  # a story that is not here is told by the engine alone, in place of another
    "again": Truth(models={"habit", "rhythm"}, rule="owned"),
    "taste": Truth(CUSTOMER),
    "like_you": Truth(CUSTOMER),
    "goes_with": Truth(BOTH),
    "step_up": Truth((), rule="dearer"),
    "similar": Truth(BOTH, {"als", "bpr", "hybrid", "content", "alternatives", "item_knn"}),
    "same_need": Truth(),
    "popular": Truth(models={"popular"}),
    "bought": Truth(models=ANSWERS.keys() - {"popular", "als", "bpr", "hybrid", "content"}),
    "new": Truth(models={"newest"}),
    "known": Truth((), rule="owned"),
}

POPULAR = Source("popular", "nobody", "popular")
RHYTHM = Source("rhythm", "customer", "again", take=2_000)
TASTE = (
    Source("als", "customer", "taste", weight=0.10, take=120),
    Source("ease", "customer", "like_you", weight=0.10),
    Source("tifu", "customer", "like_you", weight=0.10),
    Source("upcf", "customer", "like_you", weight=0.02),
)
ANYTHING = (Step(POPULAR, ("not_owned",)), Step(POPULAR))

PLACEMENTS: Mapping[str, Placement] = {
    p.name: p
    for p in (
        Placement(
            "next_best",
            "what this customer will want next, repeats allowed",
            ("customer",),
            (
                replace(RHYTHM, take=200),
                *TASTE,
                Source("popular", "nobody", "popular", weight=0.12, take=60),
            ),
            fill=(Step(RHYTHM), Step(POPULAR)),
        ),
        Placement(
            "cross_sell",
            "what goes with a product or a basket",
            ("products", "customer"),
            (
                Source("copurchase", "products", "goes_with", take=150),
                Source("rhythm", "customer", "again", weight=1.2, take=100),
                Source("ease_baskets", "products", "goes_with", weight=0.3, take=100),
                Source("ease", "customer", "like_you", weight=0.05, take=50),
            ),
            rules=("no_substitutes",),
            needs="ease_needs",
            fill=(Step(POPULAR, ("no_substitutes",)), Step(POPULAR)),
        ),
        Placement(
            "upsell",
            "a dearer product for the same need",
            ("products", "customer"),
            (
                Source("als", "customer", "step_up"),
                Source("popular", "nobody", "step_up", weight=0.7),
                Source("alternatives", "products", "step_up", weight=0.5),
                Source("ease", "customer", "step_up", weight=0.2),
                Source("copurchase", "products", "step_up", weight=0.1),
            ),
            rules=("not_owned", "dearer"),
            worth=1.0,
            fill=(
                Step(Source("popular", "nobody", "same_need"), ("not_owned", "same_need")),
                Step(Source("als", "customer", "taste"), ("not_owned",)),
                *ANYTHING,
            ),
        ),
        Placement(
            "discover",
            "next_best without what was ever bought",
            ("customer",),
            (*TASTE, Source("popular", "nobody", "popular", weight=0.03, take=60)),
            rules=("not_owned",),
            fill=(*ANYTHING[:1], Step(Source("popular", "nobody", "known"))),
        ),
        Placement(
            "buy_again",
            "what this customer bought before",
            ("customer",),
            (RHYTHM,),
            rules=("owned",),
            fill=(Step(POPULAR),),
        ),
        Placement(
            "similar",
            "products like this one",
            ("products",),
            (
                # as many as a list may have, so that one begins alike however long it is
                Source("content", "products", "similar", take=MAX_LIMIT),
                Source("als", "products", "similar", take=MAX_LIMIT),
            ),
            fill=(Step(Source("popular", "nobody", "same_need"), ("same_need",)), Step(POPULAR)),
        ),
        Placement("trending", "what sells most lately", ("nobody",), (POPULAR,), fill=(Step(POPULAR),)),
        Placement(
            "new_arrivals",
            "what is new and already bought",
            ("nobody",),
            (Source("newest", "nobody", "new"),),
            fill=(Step(POPULAR),),
        ),
    )
}


def models_in_use(placements: Mapping[str, Placement]) -> set[str]:
    """Names of the recipes that some placement asks."""
    return set().union(*(p.models for p in placements.values()))


# --- a shop's own table ------------------------------------------------------------------------------------


class PlacementsError(Misread):
    """A file of placements that is not understood: names the file, and of each fault the line and the way out."""


def read_placements(path: Path, base: Mapping[str, Placement]) -> Mapping[str, Placement]:
    """`base` with what the file at `path` changes and adds; `base` itself where there is no such file.

    A table names a placement: of a known one the keys replace what stands there; a new one is `like` a known one.
    """
    if not path.exists():
        return base
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PlacementsError(path, f"{path}: {error}") from error
    found, faults = dict(base), list[Fault]()
    for name, keys in given.items():
        made, wrong = changed(name, keys, found)
        faults += [((name, *place), says) for place, says in wrong]
        if made:
            found[name] = made
    refuse(path, faults)
    return found


def changed(name: str, keys: object, known: Mapping[str, Placement]) -> tuple[Placement | None, list[Fault]]:
    """The placement that these keys make of a known one, and all that is wrong with them. Where what it is like is
    told, there is one in either case, so that others may be like it."""
    if not isinstance(keys, dict):
        return None, [((), f"write a table, [{name}], with keys under it")]
    if not NAME.fullmatch(name):
        return None, [((), "a name is lower-case letters, digits and _, as it stands in a path")]
    like = keys.get("like", known[name].like if name in known else "")
    if not isinstance(like, str) or (like not in known and (like or name not in known)):
        return None, [(("like",), f"a new placement is `like` a known one: {', '.join(known)}")]
    start, faults = known[name if name in known else like], list[Fault]()
    given = {**vars(start), "asks": asked_with(start, keys), **keys, "name": name, "like": like}
    try:
        made = PLACEMENT.validate_python(given)
    except ValidationError as error:
        faults = [(fault["loc"], worded(fault)) for fault in faults_told(error)]
        wrong = {place[0] for place, _ in faults}  # in their place stands what stood there
        made = PLACEMENT.validate_python(vars(start) | {k: v for k, v in given.items() if k not in wrong})
    faults += unknown(made, set().union(*(p.models for p in known.values())))
    return (start if faults else made), faults


def asked_with(start: Placement, keys: Mapping[str, object]) -> list[object]:
    """What a placement asks with that is like another and has sources of its own: what these ask with, too."""
    sources = keys.get("sources")
    own = [of.get("asks") for of in sources if isinstance(of, dict)] if isinstance(sources, list) else []
    every = dict.fromkeys([*start.asks, *(one for one in own if one in get_args(Asks))])
    return [one for one in every if one != "nobody"] or list(NOBODY)


def ruled(row: Placement) -> Iterator[tuple[Place, Source, Set[str]]]:
    """Every source of a placement: where it stands, and the rules that hold for what it gives. After a step that is
    out of all that was never bought, what is left was."""
    for number, source in enumerate(row.sources):
        yield ("sources", number), source, set(row.rules)
    spent = set[str]()
    for number, step in enumerate(row.fill):
        left = {"owned"} if step.source.model in spent else set()
        yield ("fill", number, "source"), step.source, {*step.rules, *left}
        if step.rules == ("not_owned",):
            spent.add(step.source.model)


def unknown(row: Placement, models: Set[str]) -> Iterator[Fault]:
    """What a placement names and nobody knows, asks and no model answers, or tells and would not be true."""
    for place, source, rules in ruled(row):
        yield from (((*place, key), says) for key, says in wrong_with(source, rules, models))
        if place[0] == "fill" and not source.take:
            yield (*place, "take"), "a step that takes 0 adds nothing: let it take more"
    if not any(source.take for source in row.sources):
        yield ("sources",), "they propose nothing: let one of them `take` more than 0"
    if row.needs and row.needs not in (known := models & set(OF_NEEDS)):
        yield ("needs",), f"there is no model {row.needs!r} of needs; known: {', '.join(sorted(known))}"
    steps = ((("fill", number, "rules"), step.rules) for number, step in enumerate(row.fill))
    for where, named in ((("rules",), row.rules), *steps):
        for rule in named:
            if rule not in ELIGIBLE:
                yield where, f"there is no rule {rule!r}; known: {', '.join(ELIGIBLE)}"


def wrong_with(source: Source, rules: Set[str], models: Set[str]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong with it) of a source under these rules."""
    if source.story not in STORIES:
        yield "story", f"there is no story {source.story!r}; known: {', '.join(STORIES)}"
    if source.model not in (known := models & ANSWERS.keys()):
        yield "model", f"there is no model {source.model!r}; known: {', '.join(sorted(known))}"
    elif source.asks not in (asks := ANSWERS[source.model]):
        yield "asks", f"{source.model} is not asked with {source.asks!r}; it is with: {', '.join(asks)}"
    elif source.story in STORIES and rules <= set(ELIGIBLE) and not is_true(source.story, source, rules):
        true = ", ".join(story for story in STORIES if is_true(story, source, rules))
        rule = TRUTHS[source.story].rule if source.story in TRUTHS else ""
        unless = f" unless under the rule {rule!r}" if rule else ""
        says = f"{source.story!r} would not be true of {source.model} asked with {source.asks!r}{unless}"
        yield "story", f"{says}; true are: {true}"


def is_true(story: str, source: Source, rules: Set[str]) -> bool:
    return story in TRUTHS and TRUTHS[story].holds(source, rules)


def check_policies(path: Path, placements: Mapping[str, Placement], check: Callable[[str], None]) -> None:
    """Raise PlacementsError where a policy names an attribute for which `check` raises RequestError."""
    faults = list[Fault]()
    for name, row in placements.items():
        for number, rule in enumerate(row.policy):
            try:
                if attribute := getattr(rule, "attribute", None):
                    check(attribute)
            except RequestError as error:
                faults.append(((name, "policy", number, "attribute"), error.message))
    refuse(path, faults)


def refuse(path: Path, faults: Sequence[Fault]) -> None:
    """Raise PlacementsError that tells all faults, each by its line, where there are any."""
    if not faults:
        return
    text, by_line = path.read_text(encoding="utf-8-sig"), dict[int, list[str]]()
    for place, says in faults:
        name = ".".join(step for step in place if isinstance(step, str))
        by_line.setdefault(line_of(text, place), []).append(f"{name}: {says}")
    told = (f"{path}, line {line}: {'; '.join(says)}" for line, says in sorted(by_line.items()))
    raise PlacementsError(path, "\n".join(told))


def line_of(text: str, place: Sequence[str | int]) -> int:
    """The line on which the deepest known part of a place stands: (placement, key, number, key …)."""
    lines: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            table = tuple(part.strip().strip("\"'") for part in header[2].split("."))
            for depth in range(1, len(table)):
                lines.setdefault(table[:depth], number)
            if header[1] == "[[":
                lines.setdefault(table, number)
                table = (*table, sum(known[:-1] == table and isinstance(known[-1], int) for known in lines))
            lines[table] = number
        elif key := KEY.match(line):
            lines.setdefault((*table, key[1]), number)
    found: tuple[str | int, ...] = ()
    for step in place:  # some steps of an error are no keys, as the kind of a rule
        found = (*found, step) if (*found, step) in lines else found
    return lines.get(found, 1)


PLACEMENT = TypeAdapter(Placement)
NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")
HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
KEY = re.compile(r"\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*=")
