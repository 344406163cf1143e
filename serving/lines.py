"""Rows of the contract in a request, read one by one, so that a broken one costs no other."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, WrapValidator, create_model
from pydantic_core import PydanticCustomError, from_json

from features.judge import Row
from features.schema import FLAG, PATH, REAL, RECEIVED, SPACE, TEXT, TIME, WORD, Column, Table
from serving.headers import NDJSON
from serving.schemas import Moment
from serving.wire import RequestError, Wire, worded


class Line(NamedTuple):
    """A row as it was sent: its id, the row that it is, or what is wrong with it."""

    name: str | None
    row: Row | None = None
    error: str | None = None


Given = Callable[[Any], Line]  # the line of what JSON holds


# --- columns as JSON ------------------------------------------------------------------------------------


def cell(text: str | None) -> str | None:
    """Text as a file's cell: without space around it, and missing where nothing is left."""
    if text is not None and "\0" in text:
        raise PydanticCustomError("nul", "holds a NUL character")
    return (text.strip(SPACE) or None) if text is not None else None


def there(text: str | None) -> str:
    if text is None:
        raise PydanticCustomError("blank", "is blank")
    return text


def as_text(given: object) -> object:
    """An object as the text that the contract keeps it as."""
    return json.dumps(given, ensure_ascii=False) if isinstance(given, dict) else given


Text = Annotated[str | None, AfterValidator(cell)]
Word = Annotated[str, AfterValidator(cell), AfterValidator(there)]
Attributes = Annotated[Text | dict[str, Any], BeforeValidator(as_text)]
KINDS: Mapping[pa.DataType, Any] = {
    TEXT: Text,
    WORD: Text,
    REAL: Annotated[float | None, Field(strict=True, allow_inf_nan=False)],
    FLAG: Annotated[bool | None, Field(strict=True)],
    TIME: Moment | None,
    PATH: tuple[Word, ...] | None,
}


WITHDRAWN = ""  # what takes a value back; text that is blank is missing, so that nothing else is called so


def or_withdrawn(given: object, handler: Callable[[object], Any]) -> Any:
    return WITHDRAWN if given is None else handler(given)


def wire_model(
    name: str, table: Table, *, without: Sequence[str] = (), withdraws: bool = False, **more: Any
) -> Any:
    """A row of a table of the contract as JSON: its columns and their types, and `more` fields. The checks are the
    judge's; what is not required may be left out, and of a table of text that `withdraws` null is WITHDRAWN."""

    def kind(c: Column) -> Any:
        of = Attributes if c.name == "attributes" else KINDS[c.type]
        return Annotated[of, WrapValidator(or_withdrawn)] if withdraws and not c.required else of

    fields: dict[str, Any] = {
        c.name: (
            kind(c),
            Field(... if c.required else None, description=c.about or None),
        )
        for c in table.columns
        if c.name not in without
    }
    return create_model(name, __base__=Wire, **fields, **more)


# --- reading -------------------------------------------------------------------------------------------


def lines_of(
    body: bytes, kind: str, read: Given, *, sent: type[Wire], key: str, most: int, what: str
) -> list[Line]:
    """The lines of a body: NDJSON, or JSON as `sent` has it, or one row alone, known by its `key`.

    Raises RequestError, or ValidationError where it is no JSON of such a shape.
    """
    if kind != NDJSON:
        return [read(given) for given in listed(body or b"{}", sent, key, what)]
    lines = [line for line in body.split(b"\n") if line.strip()]
    if len(lines) > most:
        raise RequestError("body", f"more than {most:,} {what}: send them in parts", 413)
    return [read_line(line, read) for line in lines]


def listed(body: bytes, sent: type[Wire], key: str, what: str) -> Sequence[Any]:
    try:
        given = from_json(body)
        if isinstance(given, dict) and key in given and what not in given:
            return [given]
        found = sent.model_validate(given)
    except ValueError:
        found = sent.model_validate_json(body)  # which says in JSON's words what is wrong
    rows: Sequence[Any] = getattr(found, what)
    return rows


def read_line(line: bytes, read: Given) -> Line:
    try:
        given = from_json(line)
    except ValueError:
        return Line(None, error="the line is not JSON")
    return read(given)


def line_of(given: Any, model: Any, *, key: str, what: str, at: datetime) -> Line:
    """What JSON holds as a row of `model`, received at `at`; what is wrong names the field, or `what` it is."""
    try:
        row = model.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or what
        return Line(name_in(given, key), error=f"{place}: {worded(fault)}")
    return Line(getattr(row, key), {**vars(row), RECEIVED.name: at})


def name_in(given: Any, key: str) -> str | None:
    name = given.get(key) if isinstance(given, dict) else None
    return name if isinstance(name, str) else None
