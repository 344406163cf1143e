"""Settings of recipes in a file that people may read and edit: what `osclms tune` writes and `osclms train` uses."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path
from typing import Any

from training.models import RECIPES, Recipe

FILE = "recipes.toml"
ABOVE_ZERO = {"half_life", "days"}  # and every whole number but a seed
HEAD = """\
# Settings of recipes that `osclms train` uses in place of its own. `osclms tune` writes this file anew;
# delete a table, or the file, to go back to the defaults.
"""

Settings = Mapping[str, Mapping[str, Any]]


class SettingsError(RuntimeError):
    """The file cannot be used; the message names the key and what would be right."""


def read_settings(home: Path) -> dict[str, dict[str, Any]]:
    """Recipe → setting → value, as `$OSCLMS_HOME/recipes.toml` says; nothing where there is none."""
    path = home / FILE
    if not path.exists():
        return {}
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is no TOML ({error}): mend it, or delete it for the defaults") from error
    try:
        return {name: table_of(name, table) for name, table in raw.items()}
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def table_of(name: str, table: Any) -> dict[str, Any]:
    if name not in RECIPES:
        raise ValueError(f"{name} is no recipe; known: {', '.join(RECIPES)}")
    if not isinstance(table, dict):
        raise ValueError(f"{name} must be a table, [{name}], not {table!r}")
    kinds = {field.name: field.type for field in fields(RECIPES[name])}
    for key in table:
        if key not in kinds:
            known = f"it has {', '.join(kinds)}" if kinds else "it has none"
            raise ValueError(f"{name}.{key} is no setting of {type(RECIPES[name]).__name__}; {known}")
    return {key: value_of(f"{name}.{key}", kinds[key], value) for key, value in table.items()}


def value_of(key: str, kind: Any, value: Any) -> int | float:
    """The value as the recipe's own type, or a ValueError that names the key."""
    whole, name = kind is int, key.partition(".")[2]
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ValueError(f"{key} must be a {'whole ' if whole else ''}number, not {value!r}")
    positive = name in ABOVE_ZERO or (whole and name != "seed")
    if not isfinite(value) or value < 0 or (positive and value == 0):
        raise ValueError(f"{key} must be {'above 0' if positive else '0 or more'}, not {value!r}")
    return int(value) if whole else float(value)


def with_settings(recipes: Mapping[str, Recipe], settings: Settings) -> dict[str, Recipe]:
    """The recipes with these settings in place of their own."""
    return {name: replace(recipe, **settings.get(name, {})) for name, recipe in recipes.items()}


def write_settings(home: Path, settings: Settings, *, about: str) -> bool:
    """Write the file whole, or remove it where there is nothing to say. True where that changed anything."""
    from training.publish import write_atomically  # mlflow takes seconds to import

    if read_settings(home) == settings:
        return False
    path = home / FILE
    if not settings:
        path.unlink()
        return True
    tables = [
        "\n".join([f"[{name}]", *(f"{key} = {value!r}" for key, value in table.items())])
        for name, table in sorted(settings.items())
    ]
    write_atomically(path, "\n\n".join([f"{HEAD}# {about}", *tables]) + "\n")
    return True
