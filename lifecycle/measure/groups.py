"""Several arms side by side against one control, as a table: of the programs of a home, or of anybody's file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from lifecycle.measure.lift import Lift, LiftError, Ratio, Reals, checked, compare, corrected, leak, ratio

ROUND = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5)  # shares that people plan
LEAKY = 0.01  # of the control treated after all: more is told


def side_by_side(
    values: ArrayLike, arm: Sequence[str], control: str, *, before: ArrayLike | None = None, seed: int = 7
) -> list[dict[str, Any]]:
    """A row for each arm, the control last: arm, customers, buyers, mean, then difference, ci95, p, lift, incremental
    and what else `Lift` tells of it against the control. p_adjusted: over all arms (Benjamini & Hochberg 1995).

    Raises LiftError where no arm is the control, or it is the only one.
    """
    figures, names = checked(values), np.asarray(arm, str)
    known = sorted(set(names.tolist()) - {control})
    held = names == control
    if not held.any() or not known:
        raise LiftError(
            f"{control!r} is not an arm beside others; the arms are {', '.join(sorted(set(names.tolist())))}"
        )
    x = None if before is None else checked(before)
    found = {
        name: compare(
            figures[names == name], figures[held], seed=seed,
            before=None if x is None else (x[names == name], x[held]),
        )
        for name in known
    }  # fmt: skip
    adjusted = corrected([of.p for of in found.values()])
    rows = [row(name, of, p) for (name, of), p in zip(found.items(), adjusted, strict=True)]
    return [*rows, control_row(control, next(iter(found.values())))]


def row(name: str, of: Lift, adjusted: float | None) -> dict[str, Any]:
    told = {key: value for key, value in of.as_dict().items() if key not in ("treated", "control")}
    side = of.treated
    return {
        "arm": name, "customers": side.customers, "buyers": side.buyers, "mean": side.mean,
        **told, "p_adjusted": adjusted,
    }  # fmt: skip


def control_row(name: str, of: Lift) -> dict[str, Any]:
    side = of.control
    nothing = dict.fromkeys(row(name, of, None), None)
    return nothing | {"arm": name, "customers": side.customers, "buyers": side.buyers, "mean": side.mean}


# --- anybody's file ---------------------------------------------------------------------------------------


def of_file(
    path: Path, arm: str, control: str, outcome: str, *, covariate: str | None = None, share: float | None = None,
    exposed: str | None = None, seed: int = 7,
) -> dict[str, Any]:  # fmt: skip
    """The arms of a CSV or Parquet file, a row a customer. `share`: of all that were to be the control, where it is
    not told the nearest round one. `exposed`: a column that says who was treated in fact.

    Raises LiftError for columns that are not there or hold no numbers.
    """
    wanted = [name for name in (arm, outcome, covariate, exposed) if name]
    table = columns_of(path, wanted)
    names = [told(value) for value in table[arm].to_pylist()]
    rows = side_by_side(
        numbers(table, outcome), names, control, seed=seed,
        before=numbers(table, covariate) if covariate else None,
    )  # fmt: skip
    sizes = {row["arm"]: row["customers"] for row in rows}
    found = sizes_checked(sizes, control, share)
    held = np.asarray(names) == control
    leaky = leaked(int(held.sum()), int((held & truths(table, exposed)).sum())) if exposed else None
    return {
        "data": path.name, "outcome": outcome, "covariate": covariate, "control": control, "arms": rows,
        "ratio": vars(found), "leak": leaky, "warnings": warnings_of(found, leaky, len(rows) > 2),
    }  # fmt: skip


def columns_of(path: Path, wanted: Sequence[str]) -> pa.Table:
    try:
        table = (
            pq.read_table(path) if path.suffix.lower() in (".parquet", ".pq") else pyarrow.csv.read_csv(path)
        )
    except pa.ArrowInvalid as error:
        raise LiftError(f"{path.name} is neither CSV nor Parquet: {str(error).splitlines()[0]}") from error
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise LiftError(f"{path.name} has no column {missing[0]!r}; it has {', '.join(table.column_names)}")
    if not table.num_rows:
        raise LiftError(f"{path.name} has no rows")
    return table.select(list(dict.fromkeys(wanted)))


def told(value: Any) -> str:
    """An arm's name as people type it: 1, not 1.0; true, not True."""
    if value is None:
        raise LiftError("a row is of no arm: leave out who was not assigned")
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def numbers(table: pa.Table, name: str) -> Reals:
    column = table[name]
    kind = column.type
    if not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    ):
        raise LiftError(f"the column {name!r} holds {kind}, not numbers")
    if column.null_count:
        raise LiftError(
            f"the column {name!r} is empty in {column.null_count:,} rows: of who bought nothing say 0, as leaving them "
            "out would compare buyers alone"
        )
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def truths(table: pa.Table, name: str) -> NDArray[np.bool_]:
    column = table[name]
    if column.null_count or not (pa.types.is_boolean(column.type) or pa.types.is_integer(column.type)):
        raise LiftError(f"the column {name!r} must say true or false, or 1 or 0, in every row")
    return np.asarray(column.to_numpy(), np.int64) != 0


# --- whether the arms are what they should be -------------------------------------------------------------


def sizes_checked(sizes: Mapping[str, int], control: str, share: float | None) -> Ratio:
    """The ratio test of arms of which the control was to have this share of all, the others the rest in equal parts;
    None: the round share nearest to what is seen, which finds what is lost only where a round one was planned."""
    names, total = list(sizes), sum(sizes.values())
    assumed = share is None
    if share is None:
        seen = sizes[control] / total
        options = (*ROUND, *(1 - part for part in ROUND), 1 / len(names))
        share = min(
            options,
            key=lambda part: abs(np.log(part / (1 - part)) - np.log(max(seen, 1e-9) / max(1 - seen, 1e-9))),
        )
    if not 0 < share < 1:
        raise LiftError(f"a control of {share:g} of all is none: say a share between 0 and 1")
    rest = (1 - share) / (len(names) - 1)
    return ratio(
        list(sizes.values()), [share if name == control else rest for name in names], assumed=assumed
    )


def leaked(control: int, reached: int) -> dict[str, Any]:
    """What is told of a control of so many customers, of whom so many were treated after all."""
    share = leak(control, reached)
    return {"control": control, "reached": reached, "share": share, "alarm": share > LEAKY}


def warnings_of(
    found: Ratio | None, leaky: Mapping[str, Any] | None, several: bool,
    arms: tuple[str, str] = ("treated", "control"),
) -> list[str]:  # fmt: skip
    """What a reader must know before any figure."""
    said = []
    if found and found.alarm:
        guess = " (the plan was not told, and taken as the nearest round one)" if found.assumed else ""
        seen, planned = (", ".join(f"{n:,.0f}" for n in of) for of in (found.observed, found.expected))
        said.append(
            f"the arms are not of the sizes planned{guess}: {seen} customers, {planned} were to be expected "
            f"(p = {found.p:.2g}). Believe no figure before the cause is found; likely: {'; '.join(found.causes)}"
        )
    if leaky and leaky["alarm"]:
        got = "were treated" if arms[0] == "treated" else f"got {arms[0]}"
        said.append(
            f"the {arms[1]} leaks: {leaky['reached']:,} of its {leaky['control']:,} customers {got} after all "
            f"({leaky['share']:.1%}). What is found is by as much too small"
        )
    if several:
        said.append(
            "never sum these: each was measured while the others ran, their customers overlap, and what looks largest "
            "is partly luck, so that a sum overstates; the universal control alone says what all earned together"
        )
    return said
