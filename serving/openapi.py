"""The OpenAPI document, made from the pydantic models and the table of operations."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.schemas import ErrorBody, JsonObject

PARAMETER = re.compile(r"{(\w+)}")
REFERENCE = "#/components/schemas/{model}"
ERRORS = {
    400: "the request is not understood; the fields say why",
    404: "nothing of that name",
    405: "another method is wanted",
    406: "Accept refuses all that there is",
    413: "the body is too large",
    415: "the body is no JSON",
    500: "our fault",
}


@dataclass(frozen=True)
class Operation:
    """One row of the wire: what a route takes and gives.

    `also` lists media types of the answer beside JSON, `takes` those of the body. `statuses` says what its
    own ones mean: of the 200s and redirects with the answer, of others with an error. `example` is a body or a
    query that anyone may send.
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
    example: Mapping[str, Any] = field(default_factory=dict)

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
        "components": {"schemas": schemas(operations)},
    }


def paths(operations: tuple[Operation, ...], placements: tuple[str, ...]) -> JsonObject:
    """By path and method; a path may have several."""
    found: dict[str, JsonObject] = {}
    for o in operations:
        found.setdefault(o.path, {})[o.method.lower()] = described(o, placements)
    return dict(found)


def schemas(operations: tuple[Operation, ...]) -> JsonObject:
    models = {model for o in operations for model in (o.answer, o.body) if model} | {ErrorBody}
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
    if operation.body:
        content = json_of(operation.body) | dict.fromkeys(operation.takes, TEXT)
        content["application/json"]["example"] = dict(operation.example)
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
    media: JsonObject = json_of(operation.answer) if operation.answer else {}
    content = {**media, **dict.fromkeys(operation.also, TEXT)}
    fine = {status: about for status, about in operation.statuses.items() if status < 400}
    given = {status: {"content": content} if status < 300 else {} for status in fine}
    return {str(status): {"description": about, **given[status]} for status, about in fine.items()}


def errors(operation: Operation) -> JsonObject:
    never = (
        *(() if operation.method in ("POST", "PUT") else (413, 415)),
        *(() if operation.chosen else (406,)),
    )
    own = {status: about for status, about in operation.statuses.items() if status >= 400}
    wanted = {status: about for status, about in {**ERRORS, **own}.items() if status not in never}
    return {
        str(status): {"description": about, "content": json_of(ErrorBody)} for status, about in wanted.items()
    }


def json_of(model: type[BaseModel]) -> JsonObject:
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}


TEXT: JsonObject = {"schema": {"type": "string"}}
