"""The mapping language: how a source's columns become the contract's, as a small TOML file.

docs/data.md explains every key with examples; `features.sources` turns a mapping into SQL.
"""

import codecs
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import duckdb
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from features.schema import FLAG, PATH, PRODUCTS, REAL, TABLES, TEXT, TIME, WORD, Table

Scalar = str | int | float | bool
PLACEHOLDER = re.compile(r"\{([^{}:]+)(?::(title|upper|lower))?\}")
TIMES = ("iso", "epoch", "epoch_ms")  # the ways to write a time that have a name
DAY = "@day"  # in a template: the local day of the event in the store's time zone


class MappingError(ValueError):
    """The mapping says something that cannot be; the message names the key."""


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class StoreSays(Strict):
    """What this source says of the store; what it does not say stays as the history records it."""

    name: str | None = None
    currency: str | None = Field(default=None, pattern="^[A-Z]{3}$")
    time_zone: str | None = None

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, zone: str | None) -> str | None:
        return zone and known_zone(zone)


class Format(Strict):
    """How the source is written. All but `time` and `zone` concern CSV only."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    decimal: Literal[".", ","] = "."
    thousands: Literal["", ".", ",", " ", "'"] = ""
    time: tuple[str, ...] = ("iso",)
    zone: str | None = None

    @field_validator("time", mode="before")
    @classmethod
    def _one_time(cls, time: Any) -> Any:
        return [time] if isinstance(time, str) else time

    @field_validator("time")
    @classmethod
    def _are_times(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return known_times(formats)

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str | None) -> str | None:
        return zone and known_zone(zone)

    @field_validator("encoding")
    @classmethod
    def _is_encoding(cls, encoding: str) -> str:
        try:
            known = codecs.lookup(encoding).name
            "".encode(known)
        except LookupError:
            raise ValueError(f"{encoding!r} is no encoding Python knows, such as utf-8 or cp1252") from None
        return "utf-8-sig" if known == "utf-8" else known  # a byte order mark is no part of the header

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        if self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both {self.quote!r}")
        return self


class From(Strict):
    """Where one contract column comes from: exactly one of the first five, and what is done to it."""

    column: str | None = None
    value: Scalar | None = None
    template: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    object: dict[str, str] = {}

    values: dict[str, Scalar] = {}
    default: Scalar | None = None
    split: str | None = None
    less: str | None = None
    per: str | None = None
    time: tuple[str, ...] = ()
    zone: str | None = None
    among: tuple[str, ...] | None = Field(default=None, alias="in")
    not_among: tuple[str, ...] | None = Field(default=None, alias="not_in")

    @field_validator("template", "path", "time", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    @field_validator("time")
    @classmethod
    def _are_times(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return known_times(formats)

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str | None) -> str | None:
        return zone and known_zone(zone)

    @field_validator("template")
    @classmethod
    def _is_template(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{" in (rest := PLACEHOLDER.sub("", template)) or "}" in rest:
                raise ValueError(f"{template!r} has a brace that is no {{column}} or {{column:title}}")
        return templates

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [k for k in KINDS if k in self.model_fields_set]
        if len(kinds) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(KINDS)}; this gives {', '.join(kinds) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        return next(k for k in KINDS if k in self.model_fields_set)

    @property
    def reads(self) -> set[str]:
        """The source columns it takes."""
        placed = {name for t in self.template for name, _ in PLACEHOLDER.findall(t)} - {DAY}
        single = {name for name in (self.column, self.less, self.per) if name}
        return placed | single | set(self.path) | set(self.object.values())

    @property
    def needs_day(self) -> bool:
        return any(name == DAY for t in self.template for name, _ in PLACEHOLDER.findall(t))


KINDS = ("column", "value", "template", "path", "object")
WORDS = (TEXT, WORD)
# which keys fit which type of contract column; `default` fits all that are read from somewhere
FITS: dict[str, tuple[pa.DataType, ...]] = {
    "column": (*WORDS, TIME, REAL, FLAG, PATH),
    "value": (*WORDS, TIME, REAL, FLAG),
    "template": (*WORDS, TIME),
    "path": (PATH,),
    "object": WORDS,
    "values": (*WORDS, FLAG, REAL),
    "default": (*WORDS, REAL, FLAG),
    "split": (PATH,),
    "less": (REAL,),
    "per": (REAL,),
    "time": (TIME,),
    "zone": (TIME,),
    "among": (FLAG,),
    "not_among": (FLAG,),
}


class Returns(Strict):
    """How the source marks a line that takes a purchase back."""

    negative_quantity: bool = False
    order_prefix: str | None = Field(default=None, min_length=1)
    strip: bool = False

    @model_validator(mode="after")
    def _strips_something(self) -> Self:
        if self.strip and self.order_prefix is None:
            raise ValueError("strip has no order_prefix to strip")
        return self


class LeaveOut(Strict):
    """Rows that are no business of the history, such as postage: left out and counted under `name`."""

    name: str
    column: str
    pattern: str | None = None
    values: tuple[str, ...] | None = None
    empty: bool = False

    @field_validator("pattern")
    @classmethod
    def _is_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None and (wrong := _refused("SELECT regexp_matches('', ?)", pattern)):
            raise ValueError(f"{pattern!r} is no regular expression that RE2 knows: {wrong}")
        return pattern

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if sum([self.pattern is not None, self.values is not None, self.empty]) != 1:
            raise ValueError("give exactly one of pattern, values, empty = true")
        return self


class Mapping(Strict):
    store: StoreSays = StoreSays()
    source: Format = Format()
    columns: dict[str, From]
    products: dict[str, From] = {}
    returns: Returns = Returns()
    leave_out: tuple[LeaveOut, ...] = ()

    @field_validator("columns", "products", mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        """`x = "Column"` is short for `x = { column = "Column" }`."""
        if not isinstance(given, dict):
            return given
        return {name: {"column": s} if isinstance(s, str) else s for name, s in given.items()}

    @classmethod
    def read(cls, path: Path) -> "Mapping":
        """The mapping in a TOML file; MappingError names the file and each key that is wrong."""
        try:
            return cls.parse(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MappingError(f"there is no mapping {path}") from None
        except UnicodeDecodeError as wrong:
            raise MappingError(f"{path}: not UTF-8, in which TOML is written: {wrong}") from None
        except MappingError as wrong:
            raise MappingError(f"{path}: {wrong}") from None

    @classmethod
    def parse(cls, text: str) -> "Mapping":
        try:
            return cls.model_validate(tomllib.loads(text))
        except tomllib.TOMLDecodeError as wrong:
            raise MappingError(f"not TOML: {wrong}") from None
        except ValidationError as wrong:
            raise MappingError("; ".join(_said(error) for error in wrong.errors())) from None

    def check(self, table: str) -> None:
        """MappingError where a key does not fit the table that it is to fill."""
        _check_columns(f"columns for {table}", self.columns, TABLES[table])
        if table != "events" and (self.products or self.returns != Returns()):
            raise MappingError(f"[products] and [returns] belong to a mapping of events, not of {table}")
        if self.products:
            _check_columns("products", self.products, PRODUCTS)
            if "known_from" in self.products:
                raise MappingError(
                    "products.known_from is the moment of the product's first event: leave it away"
                )

    @property
    def reads(self) -> dict[str, str]:
        """The source columns it takes, each with a key that takes it."""
        taken = {rule.column: f"leave_out {rule.name!r}" for rule in self.leave_out}
        for section, columns in (("products", self.products), ("columns", self.columns)):
            taken |= {read: f"{section}.{name}" for name, source in columns.items() for read in source.reads}
        return taken


def known_zone(zone: str) -> str:
    if zone not in available_timezones():
        raise ValueError(f"{zone!r} is no time zone; give an IANA name such as Europe/Berlin")
    return ZoneInfo(zone).key


def known_times(formats: tuple[str, ...]) -> tuple[str, ...]:
    for written in formats:
        wrong = "" if "%" in written else f"it is none of {', '.join(TIMES)} and has no %"
        if written not in TIMES and (wrong := wrong or _refused("SELECT try_strptime('', ?)", written)):
            raise ValueError(f"{written!r} is no time format: {wrong}")
    return formats


def _refused(sql: str, given: str) -> str:
    """Why DuckDB, which will run what the mapping says, cannot take a pattern or format; "" where it can."""
    try:
        with duckdb.connect() as db:
            db.execute(sql, [given])
    except duckdb.Error as refused:
        return str(refused).split("\n")[0]
    return ""


def _said(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}".removeprefix(": ")


def _check_columns(where: str, columns: dict[str, From], table: Table) -> None:
    types = {c.name: c.type for c in table.columns if c.name != "derived"}
    for name, source in columns.items():
        if name not in types:
            raise MappingError(f"{where}: there is no column {name!r}; it can be {', '.join(types)}")
        for key in source.model_fields_set:
            if types[name] not in FITS[key]:
                raise MappingError(f"{where}: {name} is a {_plain(types[name])}, which `{key}` cannot give")
        if source.needs_day and (table.name != "events" or name == "occurred_at"):
            raise MappingError(f"{where}: {name} cannot use {{{DAY}}}, which is the day of an event")
    missing = [n for n in table.required if n not in columns and n != "event_id"]
    if missing:
        raise MappingError(f"{where}: nothing gives {', '.join(missing)}")


def _plain(kind: pa.DataType) -> str:
    return {TIME: "time", REAL: "number", FLAG: "flag", PATH: "path"}.get(kind, "text")
