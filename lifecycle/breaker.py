"""The circuit breaker: what stops a program before it writes to anybody. `ledger.sizes` tells what is usual."""

from collections.abc import Sequence
from statistics import median

from lifecycle.programs import Program

RUNS = 3  # with somebody in the audience; of fewer nothing is usual


def tripped(
    program: Program, size: float, usual: Sequence[float], history_days: float, fallback: float | None
) -> str | None:
    """Why a program stops, in words; None where it goes on.

    size: of its audience today. usual: what that was in earlier runs; their median counts, days without anybody aside.
    history_days: the age of the newest event. fallback: the share of fill in its lists, None where that is not known.
    """
    rules, sizes = program.breaker, [n for n in usual if n > 0]
    if history_days > rules.history_days:
        return f"the newest event is {history_days:.1f} days old, more than {rules.history_days:g}: load what is new"
    if len(sizes) >= RUNS and size >= rules.least and size > rules.times * median(sizes):
        return f"an audience of {size:,.0f}, more than {rules.times:g} times the usual {median(sizes):,.0f}"
    if fallback is not None and fallback > rules.fallback:
        return f"{fallback:.0%} of the products are fill, more than {rules.fallback:.0%}"
    return None
