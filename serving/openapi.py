"""The OpenAPI document, made from the pydantic models and the table of operations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.headers import JSON
from serving.keys import ALL, KINDS, OPEN
from serving.schemas import ErrorBody, JsonObject
from serving.wire import PATIENCE, SHORT

PARAMETER = re.compile(r"{(\w+)}")
REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "the request is not understood; the fields say why",
    401: "a key is wanted, and none came that is known",
    403: "the key is not for this, or not for pages of that origin",
    404: "nothing of that name",
    405: "another method is wanted",
    406: "Accept refuses all that there is",
    408: f"the body did not come within {PATIENCE} seconds: send it again",
    413: "the body is too large",
    415: "the body is no JSON",
    429: "more requests than the key, or the address, may make: Retry-After says when again",
    500: "our fault",
    503: "too busy, or without its database: ask again after a moment; of events nothing is known to be stored",
    504: f"the body did not come, or no answer was made, within {PATIENCE} seconds: ask again; of what was told "
    "nothing is known to be stored, and the same may be sent again",
}


@dataclass(frozen=True)
class Operation:
    """One row of the wire: what a route takes and gives.

    `also` lists media types of the answer beside JSON, `takes` those of the body. `statuses` says what its
    own ones mean: of the 200s and redirects with the answer, of others with an error. `example` is a body or a
    query that anyone may send. `scope` is what a key must be good for (serving/keys.py). `answers` is the media
    type of the answer; with `bodies` a list of bodies is sent, or a text for each. `sealed`: who brings a token of ours
    is never refused for asking too often. `row`: of the list that a body is, what may come alone.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    also: tuple[str, ...] = field(default=())
    takes: tuple[str, ...] = field(default=())
    statuses: Mapping[int, str] = field(default_factory=lambda: {200: "as asked"})
    example: Any = field(default_factory=dict)
    scope: str = ALL
    answers: str = JSON
    bodies: bool = False
    row: type[BaseModel] | None = None
    sealed: bool = False

    @property
    def chosen(self) -> bool:
        """Whether the caller's Accept header chooses among media types."""
        return self.answer is not None and bool(self.also)


def document(
    title: str, version: str, operations: tuple[Operation, ...], placements: tuple[str, ...]
) -> JsonObject:
    """OpenAPI 3.1 of these operations. A {placement} in a path is one of `placements`."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths(operations, placements),
        "components": {"schemas": schemas(operations), "securitySchemes": {"key": BEARER}},
    }


def paths(operations: tuple[Operation, ...], placements: tuple[str, ...]) -> JsonObject:
    """By path and method; a path may have several."""
    found: dict[str, JsonObject] = {}
    for o in operations:
        found.setdefault(o.path, {})[o.method.lower()] = described(o, placements)
    return dict(found)


def schemas(operations: tuple[Operation, ...]) -> JsonObject:
    models = {model for o in operations for model in (o.answer, o.body, o.row) if model} | {ErrorBody}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, found = models_json_schema([(model, "validation") for model in ordered], ref_template=REFERENCE)
    definitions: JsonObject = found["$defs"]
    return definitions


def described(operation: Operation, placements: tuple[str, ...]) -> JsonObject:
    about: JsonObject = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*path_parameters(operation, placements), *query_parameters(operation)],
        "responses": {**successes(operation), **errors(operation)},
    }
    if operation.scope != OPEN:
        about |= {
            "security": [{"key": []}],
            "x-keys": [kind for kind, may in KINDS.items() if operation.scope in may],
        }
    if operation.body:
        content = bodies_of(operation.body) if operation.bodies else json_of(operation.body)
        if operation.row:
            content = {
                JSON: {"schema": {"anyOf": [content[JSON]["schema"], json_of(operation.row)[JSON]["schema"]]}}
            }
        content |= dict.fromkeys(operation.takes, TEXT)
        content[JSON]["example"] = operation.example
        about["requestBody"] = {"required": False, "content": content}
    return about


def path_parameters(operation: Operation, placements: tuple[str, ...]) -> list[JsonObject]:
    known: JsonObject = {"placement": {"enum": list(placements)}}
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", **known.get(name, {})}}
        for name in PARAMETER.findall(operation.path)
    ]


def query_parameters(operation: Operation) -> list[JsonObject]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=REFERENCE)
    required = schema.get("required", [])

    def more(name: str, about: JsonObject) -> JsonObject:
        """An example, and that a list is one text with commas."""
        example = {"example": operation.example[name]} if name in operation.example else {}
        return example | ({"style": "form", "explode": False} if about.get("type") == "array" else {})

    return [
        {"name": name, "in": "query", "required": name in required, "schema": about, **more(name, about)}
        for name, about in schema["properties"].items()
    ]


def successes(operation: Operation) -> JsonObject:
    media: JsonObject = json_of(operation.answer, operation.answers) if operation.answer else {}
    content = {**media, **dict.fromkeys(operation.also, TEXT)}
    fine = {status: about for status, about in operation.statuses.items() if status < 400}
    given = {status: {"content": content} if status < 300 else {} for status in fine}
    return {str(status): {"description": about, **given[status]} for status, about in fine.items()}


def errors(operation: Operation) -> JsonObject:
    never = (
        *(() if operation.method in ("POST", "PUT") else (413, 415)),
        *(() if operation.chosen else (406,)),
        *((401, 403) if operation.scope == OPEN else ()),
        504
        if operation.path.startswith(SHORT)
        else 408,  # who bounds it: `Edge`, of all but what goes the short way
    )
    own = {status: about for status, about in operation.statuses.items() if status >= 400}
    wanted = {status: about for status, about in {**ERRORS, **own}.items() if status not in never}
    return {
        str(status): {"description": about, "content": json_of(ErrorBody)} for status, about in wanted.items()
    }


def json_of(model: type[BaseModel], media: str = JSON) -> JsonObject:
    return {media: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}


def bodies_of(model: type[BaseModel]) -> JsonObject:
    """A list of a model, each of which may be the text that stands for it."""
    one = {"anyOf": [{"$ref": REFERENCE.format(model=model.__name__)}, {"type": "string"}]}
    return {JSON: {"schema": {"type": "array", "items": one}}}


TEXT: JsonObject = {"schema": {"type": "string"}}
BEARER: JsonObject = {"type": "http", "scheme": "bearer", "description": "not asked for on loopback"}
