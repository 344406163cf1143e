"""docs/api.md, made from the OpenAPI document: `python -m serving.reference` writes it anew.

Everything said there is said in the document, so that what a reader sees and what a program reads are one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from urllib.parse import urlencode

from serving.headers import JSON
from serving.openapi import TEXT, document
from serving.placements import PLACEMENTS
from serving.schemas import JsonObject
from serving.service import OPERATIONS, WIRE

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
SERVER = "http://127.0.0.1:3000"
EXAMPLES = {"placement": "next_best", "program": "thank_you"}  # of what stands in a path
HEAD = """# The API

Made from `/openapi.json` by `python -m serving.reference`; a test compares the two. Every error is of one shape,
`{"error": …, "fields": [{"field": …, "message": …}]}`. `serving/client.py` makes the calls from Python.
"""


def reference(described: JsonObject) -> str:
    """The page for an OpenAPI document: calls with what they take and give, then the shapes."""
    calls = [
        call(path, method, about)
        for path, methods in described["paths"].items()
        for method, about in methods.items()
    ]
    shapes = [shape(name, about) for name, about in described["components"]["schemas"].items()]
    return "\n".join([HEAD, errors(described), "## Calls\n", *calls, "## Shapes\n", *shapes])


def call(path: str, method: str, about: JsonObject) -> str:
    rows = "".join(
        row(p["name"], p["schema"], f"{p['in']}{', required' if p['required'] else ''}")
        for p in about["parameters"]
    )
    said = [
        f"### {method.upper()} {path}",
        f"{about['summary']}.",
        curl(path, method, about),
        (TABLE + rows).strip() if rows else "",
        f"Takes {named(about['requestBody'])}." if "requestBody" in about else "",
        keys(about.get("x-keys")),
        "; ".join(gives(about["responses"])) + ".",
    ]
    return "\n\n".join(filter(None, said)) + "\n"


def keys(kinds: list[str] | None) -> str:
    """Which keys are good for a call, where keys are asked for."""
    return f"Needs a {' or '.join(kinds)} key." if kinds else "Needs no key."


TABLE = "| | | | |\n|---|---|---|---|\n"


def row(name: str, schema: JsonObject, where: str) -> str:
    said = schema.get("description", "")
    return f"| `{name}` | {kind(schema)} | {where} | {said} |\n"


def curl(path: str, method: str, about: JsonObject) -> str:
    """A command that a reader may paste; where the path needs something of theirs, it is not marked as one."""
    values = {p["name"]: EXAMPLES.get(p["name"]) for p in about["parameters"] if p["in"] == "path"}
    path = path.format(**{name: value or name.upper() for name, value in values.items()})
    query = urlencode(
        {p["name"]: p["example"] for p in about["parameters"] if p["in"] == "query" and "example" in p}
    )
    said = "curl -s" if method in ("get", "post") else f"curl -s -X {method.upper()}"
    words = [said, quote(f"{SERVER}{path}{'?' if query else ''}{query}")]
    if "requestBody" in about:
        example = about["requestBody"]["content"][JSON]["example"]
        words += ["-H 'Content-Type: application/json' -d", quote(json.dumps(example))]
    return f"```{'sh' if all(values.values()) else 'text'}\n{' '.join(words)}\n```"


def gives(answers: JsonObject) -> Iterator[str]:
    """What comes of a call, and by which statuses it may fail."""
    for status, about in answers.items():
        if status < "400":
            yield f"{status} {about['description']}" + (f": {named(about)}" if "content" in about else "")
    yield "errors " + " ".join(status for status in answers if status >= "400")


def errors(described: JsonObject) -> str:
    """What each status of an error means."""
    answers = (about["responses"] for methods in described["paths"].values() for about in methods.values())
    meant = {
        status: about["description"] for of in answers for status, about in of.items() if status >= "400"
    }
    return "| | |\n|---|---|\n" + "".join(
        f"| {status} | {said} |\n" for status, said in sorted(meant.items())
    )


def named(body: JsonObject) -> str:
    """The shape, or the media types, of what travels."""
    content = body["content"]
    return " or ".join(
        kind(about["schema"]) if about["schema"] != TEXT["schema"] else f"`{media}`"
        for media, about in content.items()
    )


def shape(name: str, about: JsonObject) -> str:
    required = about.get("required", [])
    rows = "".join(
        row(field, schema, "always" if field in required else "")
        for field, schema in about["properties"].items()
    )
    said = about.get("description", "").strip().split("\n")[0]
    return "\n".join([f"### {name}\n", *([f"{said}\n"] if said else []), TABLE + rows])


def kind(schema: JsonObject) -> str:
    """What a value is, in words: `text`, `list of text`, a link to a shape."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(kind(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if schema.get("type") == "array":
        most = f" ({schema['maxItems']:,} at most)" if "maxItems" in schema else ""
        return f"list{most} of {kind(schema.get('items', {}))}"
    if schema.get("type") == "object":
        inside = schema.get("additionalProperties")
        return f"object of {kind(inside if isinstance(inside, dict) else {})}"
    return ", ".join([KINDS.get(str(schema.get("format", schema.get("type"))), "anything"), *bounds(schema)])


KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "yes or no",
    "null": "none",
    "date-time": "time",
}
BOUNDS = {"minimum": "≥ {}", "maximum": "≤ {}", "maxLength": "at most {} characters"}


def bounds(schema: JsonObject) -> Iterator[str]:
    return (said.format(schema[name]) for name, said in BOUNDS.items() if name in schema)


def fresh() -> str:
    """The page as this code's wire has it."""
    return reference(document("OSCLMS", WIRE, OPERATIONS, tuple(PLACEMENTS)))


if __name__ == "__main__":
    PAGE.write_text(fresh(), encoding="utf-8")
