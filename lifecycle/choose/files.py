"""A file of logged choices, from whatever system, and what a policy would have brought by it.

Columns: eligible (arms, as a|b|c, a JSON list, or a JSON object), choice, probability, reward; perhaps customer_id and
target_probability, how likely the policy asked about was to choose the same. All others are context: numbers, or words.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lifecycle.choose.estimate import ChooseError, Judged, judged, judged_by_name
from lifecycle.choose.learner import SILENCE, Array, Rows

NEEDED = ("eligible", "choice", "probability", "reward")
TARGET, WHO = "target_probability", "customer_id"
WORDS = 20  # of a column of words so many have a number of their own, the most frequent
SHOWN = 5  # faults that are told


class Given(NamedTuple):
    rows: Rows
    arms: tuple[str, ...]
    who: list[str]
    target: Array | None


def evaluated(path: Path, policy: str | None, order: Sequence[str]) -> Judged:
    """Judge a policy by name, or without one that of the column target_probability. Raises ChooseError."""
    given = read(path)
    if policy is not None:
        return judged_by_name(policy, given.rows, given.who, given.arms, order)
    if given.target is None:
        raise ChooseError(f"{path.name} has no column {TARGET}: name a --policy")
    target = np.zeros(given.rows.eligible.shape)
    target[np.arange(len(target)), given.rows.chosen] = given.target
    return judged(TARGET, given.rows, given.who, target, whole=False)


def read(path: Path) -> Given:
    """The choices of a .csv or .parquet file. Raises ChooseError, which names the first faulty lines."""
    table = opened(path)
    if missing := [name for name in NEEDED if name not in table]:
        raise ChooseError(f"{path.name} has no column {', '.join(missing)}; needed: {', '.join(NEEDED)}")
    if table.empty:
        raise ChooseError(f"{path.name} holds no choices")
    named = [arms_of(value) for value in table["eligible"]]
    chosen = [str(value) for value in table["choice"]]
    numbers = {name: number(table[name]) for name in (*NEEDED[2:], TARGET) if name in table}
    if faults := [*faulty(named, chosen, numbers)]:
        line, what = min(faults)
        raise ChooseError(
            f"{path.name}, row {line + 1}: {what}"
            + (f"; {len(faults) - 1} more faults" if len(faults) > 1 else "")
        )
    arms = (SILENCE, *sorted({name for of in named for name in of} - {SILENCE}))
    place = {name: at for at, name in enumerate(arms)}
    eligible = np.zeros((len(table), len(arms)), bool)
    for row, of in enumerate(named):
        eligible[row, [place[name] for name in of]] = True
    who = [str(name) for name in table[WHO]] if WHO in table else [str(at) for at in range(len(table))]
    context = table.drop(columns=[name for name in (*NEEDED, TARGET, WHO) if name in table])
    rows = Rows(
        numbered(context), eligible, np.zeros_like(eligible), np.array([place[name] for name in chosen], np.int64),
        numbers["probability"], numbers["reward"], np.ones(len(table)),
    )  # fmt: skip
    return Given(rows, arms, who, numbers.get(TARGET))


def opened(path: Path) -> pd.DataFrame:
    kinds: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in kinds:
        raise ChooseError(f"{path.name} is neither .csv nor .parquet")
    try:
        return pd.DataFrame(kinds[path.suffix](path))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ChooseError(
            f"{path.name} cannot be read as {path.suffix[1:]}: {type(error).__name__}"
        ) from error


def arms_of(value: Any) -> list[str]:
    """The eligible arms of a cell; [] where it names none."""
    if isinstance(value, str):
        text = value.strip()
        if text[:1] not in ("[", "{"):
            return [name.strip() for name in text.split("|") if name.strip()]
        try:
            value = json.loads(text)
        except ValueError:
            return []
    return [str(name) for name in value] if isinstance(value, list | tuple | dict | np.ndarray) else []


def number(column: "pd.Series[Any]") -> Array:
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def faulty(
    named: Sequence[Sequence[str]], chosen: Sequence[str], numbers: dict[str, Array]
) -> Iterator[tuple[int, str]]:
    """(row, what is wrong with it)."""
    for row, (of, choice) in enumerate(zip(named, chosen, strict=True)):
        if not of:
            yield row, "eligible names no arm: write a|b|c, or a JSON list"
        elif choice not in of:
            yield row, f"the choice {choice!r} is not among the eligible"
    checks: dict[str, tuple[str, Any]] = {
        "probability": ("lies above 0 and up to 1", lambda p: (p > 0) & (p <= 1)),
        "reward": ("is a number", np.isfinite),
        TARGET: ("lies between 0 and 1", lambda p: (p >= 0) & (p <= 1)),
    }
    for name, values in numbers.items():
        what, good = checks[name]
        yield from ((int(row), f"{name} {what}") for row in np.flatnonzero(~good(values)))


def numbered(context: pd.DataFrame) -> Array:
    """Columns as numbers around 0, with a 1 first; what is missing is the mean, a rare word like no word."""
    parts: list[NDArray[Any]] = [np.ones((len(context), 1))]
    for name in context:
        column = context[name]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            values = column.to_numpy(np.float64, na_value=np.nan)
            values = np.where(np.isfinite(values), values, np.nan)
            spread = np.nanstd(values) if np.isfinite(values).any() else 0.0
            if spread > 0:
                parts.append(np.nan_to_num((values - np.nanmean(values)) / spread)[:, None])
            continue
        words = column.dropna().astype(str)
        usual = words.value_counts().index[:WORDS]
        parts.append(
            (column.astype(str).to_numpy()[:, None] == usual.to_numpy()[None, :])
            & column.notna().to_numpy()[:, None]
        )
    return np.column_stack(parts).astype(np.float64)
