"""Rules over the catalogue's attributes, on a placement or in a request: what may be in a list, what comes first."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from features.catalog import PATH_SEPARATOR, Catalog, codes
from features.interactions import DAY, Ints
from serving.wire import RequestError, Wire

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Key = TypeVar("Key")
Found = TypeVar("Found")
PLAIN = ("brand", "category", "need", "size", "group_id")
OTHER = "attributes."
MOST_RULES, MOST_RESERVES = 20, 5
MOST_LEVEL = 20  # steps of a category
KEPT = 256  # masks, and attributes as they were read, that are kept for the next request

Attribute = Annotated[
    str, Field(max_length=200, description=f"{', '.join(PLAIN)}, or {OTHER}NAME of the product list")
]
Values = Annotated[
    tuple[Annotated[str, Field(max_length=500)], ...],
    Field(min_length=1, max_length=500, description="any of these; a category holds all beneath it"),
]


class Labels(NamedTuple):
    """Which items have which values of an attribute: pairs of an item and a value's code, sorted by item. meant: the
    codes of what a rule may name, as the root of a path."""

    items: Ints
    codes: Ints
    meant: Mapping[str, Sequence[int]]

    @classmethod
    def made(cls, items: Ints, values: Any, level: int | None = None, *, paths: bool = False) -> "Labels":
        """Of items in order and an arrow column of their values. Paths are known by their first `level` steps, where
        these are given, and each of their beginnings means them too."""
        code, known = codes(values)
        items, code = items[code >= 0], code[code >= 0]
        steps = [path.split(PATH_SEPARATOR)[:level] if paths else [path] for path in known]
        names = np.array([PATH_SEPARATOR.join(of) for of in steps], object)
        values, place = np.unique(names, return_inverse=True)
        meant: dict[str, list[int]] = {}
        for n, value in enumerate(values.tolist()):
            path = value.split(PATH_SEPARATOR) if paths else [value]
            for end in range(1, len(path) + 1):
                meant.setdefault(PATH_SEPARATOR.join(path[:end]), []).append(n)
        return cls(items, place[code].astype(np.int32), meant)

    def of(self, items: Array) -> tuple[Array, Array]:
        """(places in `items`, codes): a pair for each value that one of these has."""
        begin, end = self.items.searchsorted(items), self.items.searchsorted(items, "right")
        count = end - begin
        place = np.repeat(np.arange(len(items)), count)
        return place, self.codes[np.arange(len(place)) + np.repeat(end - np.cumsum(count), count)]

    def having(self, wanted: Sequence[int] | Ints) -> Ints:
        """The items that have one of these codes, some more than once."""
        hit = np.zeros(int(self.codes.max(initial=-1)) + 1, bool)
        hit[wanted] = True
        return self.items[hit[self.codes]]


class Shelf:
    """The catalogue as rules see it: each attribute is read when a rule first names it. `expected`: attributes that
    rules may name though no product has them."""

    def __init__(self, catalog: Catalog, expected: Collection[str] = ()) -> None:
        self.catalog, self.expected = catalog, frozenset(expected)
        self.masks: dict[tuple[str, tuple[str, ...]], Mask] = {}
        self.known: dict[tuple[str, int | None], Labels] = {}

    def over(self, catalog: Catalog) -> "Shelf":
        """Of another catalogue; what was read stays read where no attribute differs."""
        made = Shelf(catalog, self.expected)
        if all(catalog.table[name].equals(self.catalog.table[name]) for name in (*PLAIN, "attributes")):
            vars(made).update({**vars(self), "catalog": catalog})
        return made

    def where(self, attribute: str, values: tuple[str, ...]) -> Mask:
        """Which items have one of these values: bool [n_items], not to be written to."""
        return kept_in(self.masks, (attribute, values), lambda: self._where(attribute, values))

    def labels(self, attribute: str, level: int | None = None) -> Labels:
        return kept_in(self.known, (attribute, level), lambda: self._labels(attribute, level))

    def _where(self, attribute: str, values: tuple[str, ...]) -> Mask:
        labels, found = self.labels(attribute), np.zeros(len(self.catalog), bool)
        found[labels.having([code for value in {*values} for code in labels.meant.get(value, ())])] = True
        found.flags.writeable = False
        return found

    def _labels(self, attribute: str, level: int | None) -> Labels:
        if attribute in PLAIN:
            every, column = np.arange(len(self.catalog), dtype=np.int32), self.catalog.table[attribute]
            return Labels.made(every, column, level, paths=attribute == "category")
        pairs = [(item, value) for item, held in self.other(attribute).items() for value in sorted(held)]
        values = pa.chunked_array([pa.array([value for _, value in pairs], pa.string())])
        return Labels.made(np.array([item for item, _ in pairs], np.int32), values)

    def check(self, attribute: str) -> None:
        """Raises RequestError for an attribute that the catalogue does not have."""
        if not self.has(attribute):
            raise self.unknown(attribute)

    def has(self, attribute: str) -> bool:
        own = attribute.removeprefix(OTHER)
        return attribute in PLAIN or (own != attribute and own in self.others)

    def unknown(self, attribute: str) -> RequestError:
        known = ", ".join((*PLAIN, *(OTHER + name for name in sorted(self.others))))
        return RequestError("rules", f"there is no attribute {attribute!r}; known: {known}")

    def other(self, attribute: str) -> Mapping[int, set[str]]:
        """The values of one of the product list's own attributes, by item; of items that have any."""
        if attribute not in self.expected:
            self.check(attribute)
        return self.others.get(attribute.removeprefix(OTHER), {}) if attribute.startswith(OTHER) else {}

    @cached_property
    def others(self) -> dict[str, dict[int, set[str]]]:
        """All of them by name; a blank text or a null is no value. As large as what is said: a name that few products
        have costs no more than these."""
        found: dict[str, dict[int, set[str]]] = {}
        for item, text in enumerate(self.catalog.table["attributes"].to_pylist()):
            for name, value in read(text).items() if text else ():
                told = {
                    as_text(one) for one in (value if isinstance(value, list) else [value]) if one is not None
                }
                of = found.setdefault(name, {})
                if told := told - {""}:
                    of[item] = told
        return found


def kept_in(kept: dict[Key, Found], key: Key, make: Callable[[], Found]) -> Found:
    """What is kept under the key, else made and kept; at most KEPT."""
    found = kept.get(key)
    if found is None:
        if len(kept) >= KEPT:
            kept.clear()
        found = kept[key] = make()
    return found


def read(text: str) -> dict[str, Any]:
    """Attributes as they are kept; none of a text that a laxer reader than this one let in."""
    try:
        found: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found


def as_text(value: object) -> str:
    """true, 7, red: a value as the product list writes it."""
    return value if isinstance(value, str) else json.dumps(value)


class Asker(Protocol):
    """What rules may know of a request: positions, the moment of the answer in seconds, and which items were shown or
    sent to the customer, when."""

    @property
    def products(self) -> Ints: ...
    @property
    def at(self) -> int: ...
    @property
    def shown(self) -> tuple[Array, Array]: ...


class Buyer(Protocol):
    """What rules may know of a customer's purchases."""

    def last(self) -> tuple[Ints, Array, Array]:
        """(items, when each was bought last, seconds between purchases of it by the customer's own rhythm)."""


class Include(Wire):
    """Only what has one of the values."""

    rule: Literal["include"]
    attribute: Attribute
    values: Values

    def keeps(self, shelf: Shelf, ask: Asker, buyer: Buyer) -> Mask:
        return shelf.where(self.attribute, self.values)


class Exclude(Wire):
    """Nothing that has one of the values."""

    rule: Literal["exclude"]
    attribute: Attribute
    values: Values

    def keeps(self, shelf: Shelf, ask: Asker, buyer: Buyer) -> Mask:
        return ~shelf.where(self.attribute, self.values)


class Price(Wire):
    """Only what is known to cost so much: in money, or as a multiple of the dearest product asked about.

    Where nothing is asked about, or its price is unknown, a relative band keeps everything.
    """

    rule: Literal["price"]
    least: float = Field(0.0, ge=0)
    most: float | None = Field(None, gt=0)
    relative: bool = Field(False, strict=True)

    @model_validator(mode="after")
    def is_a_band(self) -> Self:
        if self.most is not None and self.most < self.least:
            raise ValueError("nothing costs at least `least` and at most `most`: exchange them")
        return self

    def keeps(self, shelf: Shelf, ask: Asker, buyer: Buyer) -> Mask:
        price = shelf.catalog.price
        unit = np.fmax.reduce(price[ask.products], initial=-np.inf) if self.relative else 1.0
        if not np.isfinite(unit) or unit <= 0:
            return np.ones(len(price), bool)
        most = np.inf if self.most is None else self.most
        return np.asarray((price >= np.float32(self.least * unit)) & (price <= np.float32(most * unit)))


class Repeat(Wire):
    """When what was bought before may come again: never, after so many days, or when it is due by the customer's
    own rhythm. Without an attribute it holds for every product."""

    rule: Literal["repeat"]
    after: Literal["never", "due"] | Annotated[int, Field(gt=0, strict=True)]
    attribute: Attribute | None = None
    values: Annotated[tuple[str, ...], Field(max_length=500)] = ()

    @model_validator(mode="after")
    def names_what_it_holds_for(self) -> Self:
        if (self.attribute is None) != (not self.values):
            raise ValueError("give `attribute` and `values`, or neither: then it holds for every product")
        return self

    def keeps(self, shelf: Shelf, ask: Asker, buyer: Buyer) -> Mask:
        items, last, gap = buyer.last()
        if self.after == "never":
            barred = np.ones(len(items), bool)
        else:
            barred = ask.at - last < (gap if self.after == "due" else self.after * DAY)
        if self.attribute:
            barred &= shelf.where(self.attribute, self.values)[items]
        keep = np.ones(len(shelf.catalog), bool)
        keep[items[barred]] = False
        return keep


class Boost(Wire):
    """Scores of what has one of the values, times this: above 1 it rises, below it sinks."""

    rule: Literal["boost"]
    attribute: Attribute
    values: Values
    by: float = Field(gt=0, le=1_000)

    def moves(self, shelf: Shelf, ask: Asker) -> Mask:
        return shelf.where(self.attribute, self.values)


class Rotate(Wire):
    """Scores of what was shown or sent to the customer in the last days, times this, so that the next list differs.

    What counts is on record: lists sent, and products that impressions tell of, whatever the placement and the
    channel; a product sinks once, however often.
    """

    rule: Literal["rotate"]
    days: int = Field(14, ge=1, le=365, strict=True)
    by: float = Field(0.5, gt=0, lt=1)

    def moves(self, shelf: Shelf, ask: Asker) -> Mask:
        items, at = ask.shown
        sunk = np.zeros(len(shelf.catalog), bool)
        sunk[items[at >= ask.at - self.days * DAY].astype(np.int64)] = True
        return sunk


class AtMost(Wire):
    """At most so many with one value; what has several counts for each, and what has none is not counted."""

    rule: Literal["at_most"]
    attribute: Attribute
    count: int = Field(ge=1, strict=True)
    level: int | None = Field(
        None,
        ge=1,
        le=MOST_LEVEL,
        strict=True,
        description="steps of a category's path, from its root; missing: the whole of it",
    )

    @field_validator("level")
    @classmethod
    def counts_steps_of_a_path(cls, level: int | None, about: ValidationInfo) -> int | None:
        if level is not None and about.data.get("attribute", "category") != "category":
            raise ValueError("it is of `category` alone, whose values are paths: leave it out")
        return level


class Reserve(Wire):
    """At least this share of the list has one of the values, as far as there are such products."""

    rule: Literal["reserve"]
    attribute: Attribute
    values: Values
    share: float = Field(gt=0, le=1)


class Diverse(Wire):
    """How much likeness to what the list already holds counts against a product: 0 not at all, 1 alone.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) on the cosine of the products' vectors.
    """

    rule: Literal["diverse"]
    by: float = Field(ge=0, le=1)


Filter = Include | Exclude | Price | Repeat
Mover = Boost | Rotate
Rule = Annotated[Filter | Mover | AtMost | Reserve | Diverse, Field(discriminator="rule")]


def few(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if len(kept(rules, Reserve)) > MOST_RESERVES:
        raise ValueError(f"more than {MOST_RESERVES} rules that reserve: a list is filled anew for each")
    return rules


Rules = Annotated[tuple[Rule, ...], Field(max_length=MOST_RULES), AfterValidator(few)]


def kept(rules: Sequence[Rule], kind: Any) -> list[Any]:
    return [rule for rule in rules if isinstance(rule, kind)]


def label(rule: Any) -> str:
    """A rule in a line, as an answer tells it: include brand=Acme,Best."""
    about = rule.model_dump(exclude_none=True, exclude_defaults=True)
    name, attribute, values = about.pop("rule"), about.pop("attribute", None), about.pop("values", ())
    named = [f"{attribute}={','.join(values)}" if values else attribute] if attribute else []
    return " ".join([name, *named, *(f"{key}={value}" for key, value in about.items())])
