"""YAML files that say where they are wrong: read into pydantic models, each fault with its line."""

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from serving.misread import Misread
from serving.wire import faults_told, worded

Model = TypeVar("Model", bound=BaseModel)
Lines = dict[tuple[Any, ...], int]


class Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values: `on` names a day, and `no` a language. Whatever cannot be
    made of a text is a fault of its line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # 2017-02-30 is a ValueError, `!!bool maybe` a KeyError
            what = node.tag.rpartition(":")[2]
            says = f"{node.value!r} is no {what}: {error}; what is meant as text goes into quotes"
            raise yaml.constructor.ConstructorError(None, None, says, node.start_mark) from error


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class FileError(Misread):
    """A file is not understood; `faults` are (line, what is wrong), in the order of the lines."""

    def __init__(self, path: Path, faults: list[tuple[int, str]]) -> None:
        self.faults = sorted(set(faults))
        super().__init__(path, "\n".join(f"{path.name}:{line}: {says}" for line, says in self.faults))


def read(path: Path, kind: type[Model]) -> Model:
    """What the file says. Raises FileError with every fault and its line."""
    lines: Lines = {}
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=Loader)
        if node is None:
            raise FileError(path, [(1, "is empty")])
        twice = list(located(node, (), lines))
        if twice:
            raise FileError(path, twice)
        return kind.model_validate(yaml.load(text, Loader=Loader))  # noqa: S506 a safe one
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise FileError(path, [unread(error)]) from error
    except ValidationError as error:
        raise FileError(path, [fault(e, lines) for e in faults_told(error)]) from error


def lines_of(path: Path) -> Lines:
    """The line of everything in a file that `read` understands."""
    lines: Lines = {}
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=Loader)
    if node is not None:
        list(located(node, (), lines))
    return lines


def unread(error: Exception) -> tuple[int, str]:
    if isinstance(error, RecursionError):
        return 1, "is nested too deeply, or within itself"
    mark = getattr(error, "problem_mark", None)
    told = (getattr(error, name, None) for name in ("problem", "reason"))
    return (mark.line + 1 if mark else 1), str(next(filter(None, told), type(error).__name__))


def located(node: yaml.Node, at: tuple[Any, ...], lines: Lines) -> Any:
    """Note the line of everything under `node`; faults where a name is given twice."""
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        for place, inner in enumerate(node.value):
            yield from located(inner, (*at, place), lines)
    if isinstance(node, yaml.MappingNode):
        names = set[Any]()
        for key, inner in node.value:
            if not isinstance(key, yaml.ScalarNode):
                yield key.start_mark.line + 1, "a name must be text: put what begins with {{ into quotes"
                continue
            if key.value in names:
                yield key.start_mark.line + 1, f"{key.value} is given twice"
            names.add(key.value)
            yield from located(inner, (*at, key.value), lines)
            lines[(*at, key.value)] = key.start_mark.line + 1


def fault(error: Any, lines: Lines) -> tuple[int, str]:
    """The line of the nearest thing in the file that a fault of pydantic is about, and what it says."""
    where = tuple(str(part) if not isinstance(part, int) else part for part in error["loc"])
    says = worded(error)
    if (
        not where and (named := tuple(says.split(":")[0].split("."))) in lines
    ):  # of what does not fit together
        return lines[named], says
    return line_of(where, lines), f"{'.'.join(map(str, where)) or 'the file'}: {says}"


def line_of(where: tuple[Any, ...], lines: Lines) -> int:
    """The line of a place, or of the nearest above it that is in the file."""
    return lines.get(max((at for at in lines if is_within(at, where)), key=len, default=()), 1)


def is_within(at: tuple[Any, ...], where: tuple[Any, ...]) -> bool:
    """Whether the parts of a place come in this order in `where`, which also names the kinds that were tried."""
    rest = iter(where)
    return all(part in rest for part in at)
