"""The pictures that MLflow keeps beside a run: figures as plain values; no pyplot, so nothing to close."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from training.intervals import Interval, interval

# Okabe and Ito's colours, told apart by every kind of colour vision and in grey
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#767676"
HISTORY = (1, 2, 5, 10, 20, 50, 100)  # where a new bar begins, in past orders


def recipes_compared(scores: Mapping[str, Interval], *, metric: str, baseline: str, customers: int) -> Figure:
    """A bar per recipe with its interval, the best on top; the baseline's mean runs through as a line."""
    names = sorted(scores, key=lambda name: scores[name].mean)
    figure, axes = canvas(height=1.6 + 0.42 * len(names))
    colours = [ORANGE if name == baseline else BLUE for name in names]
    _bars(axes, names, [scores[name] for name in names], colours)
    axes.axvline(scores[baseline].mean, color=ORANGE, linestyle="--", linewidth=1)
    axes.set_xlabel(f"{metric}, mean of {customers:,} customers; whiskers: 95 % interval")
    axes.set_title(f"Recipes by {metric}: baseline {baseline} in orange", loc="left")
    return figure


def placements_audited(figures: Mapping[str, Mapping[str, float]], *, title: str) -> Figure:
    """A panel per figure, in it a bar per placement that measured it."""
    panels = list(dict.fromkeys(figure for values in figures.values() for figure in values))
    places = list(figures)[::-1]  # the first one on top
    canvas = Figure(figsize=(3.0 + 2.1 * len(panels), 1.4 + 0.38 * len(places)), layout="constrained")
    for axes, panel in zip(np.ravel(canvas.subplots(1, len(panels), sharey=True)), panels, strict=True):
        values = [figures[place].get(panel, np.nan) for place in places]
        _panel(axes, panel, places, values)
    canvas.suptitle(title, x=0.01, ha="left")
    return canvas


def by_history(orders: ArrayLike, values: ArrayLike, *, recipe: str, metric: str, seed: int) -> Figure:
    """What a recipe reaches for customers with few past orders and with many."""
    past, scores = np.asarray(orders, dtype=np.int64), np.asarray(values, dtype=np.float64)
    groups = [(name, scores[inside]) for name, inside in _history_groups(past) if inside.any()]
    figure, axes = canvas(height=4.2)
    at = np.arange(len(groups))
    means = [interval(group, seed=seed) for _, group in groups]
    axes.errorbar(at, [m.mean for m in means], yerr=_whiskers(means), fmt="o", color=BLUE, capsize=3)
    axes.set_xticks(at, [f"{name}\n{len(group):,}" for name, group in groups])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("orders before the cutoff; below: customers")
    axes.set_ylabel(f"{metric}, mean and 95 % interval")
    axes.set_title(f"{recipe}: {metric} by length of history", loc="left")
    light(axes, grid="y")
    return figure


def hits_by_rank(hits: ArrayLike, *, recipe: str) -> Figure:
    """How often each position of the list is bought: `hits` has a row per customer, a column per position."""
    rates = 100 * np.asarray(hits, dtype=np.float64).mean(axis=0)
    figure, axes = canvas(height=4.2)
    axes.bar(np.arange(1, len(rates) + 1), rates, color=BLUE)
    axes.set_xticks(np.arange(1, len(rates) + 1))
    axes.set_xlabel("position in the list")
    axes.set_ylabel("bought in the window, % of customers")
    axes.set_title(f"{recipe}: hits by position, {len(np.asarray(hits)):,} customers", loc="left")
    light(axes, grid="y")
    return figure


def reliability(bins: Sequence[tuple[float, float, int]], *, title: str) -> Figure:
    """Where probabilities come true the dots lie on the line. A bin is its mean probability, the share bought, and how
    many candidates it holds, which the dot's area tells; both axes are logarithms, so a share of 0 lies at the foot."""
    predicted, bought, n = (np.array([b[place] for b in bins], dtype=np.float64) for place in range(3))
    figure, axes = canvas(height=4.6)
    low = 0.5 * min([*predicted, *bought[bought > 0], 0.01])
    axes.plot([low, 1], [low, 1], color=ORANGE, linestyle="--", linewidth=1)
    axes.scatter(
        predicted, np.maximum(bought, low), s=20 + 180 * n / _room(n.tolist()), color=BLUE, alpha=0.7
    )
    axes.set(xscale="log", yscale="log", xlim=(low, 1), ylim=(low, 1))
    axes.set_xlabel("probability by the ranker, mean of the bin")
    axes.set_ylabel("share bought")
    axes.set_title(f"{title}: do probabilities come true?", loc="left")
    light(axes, grid="y")
    return figure


def calibrated(bins: Sequence[tuple[float, float, int]], *, title: str, about: str, truth: str) -> Figure:
    """Mean score and mean truth of each bin; where scores come true the dots lie on the line."""
    figure, axes = canvas(height=4.6)
    predicted, actual = ([b[place] for b in bins] for place in (0, 1))
    room = 1.05 * _room([*predicted, *actual])
    axes.plot([0, room], [0, room], color=ORANGE, linestyle="--", linewidth=1)
    axes.plot(predicted, actual, marker="o", color=BLUE)
    axes.set(xlim=(0, room), ylim=(0, room))
    axes.set_xlabel(f"{about}, mean of the tenth")
    axes.set_ylabel(truth)
    axes.set_title(f"{title}: does it come true?", loc="left")
    light(axes, grid="y")
    return figure


def lift(bins: Sequence[tuple[float, float, int]], *, title: str, truth: str) -> Figure:
    """Mean truth by tenths of the score, the highest first; the dashed line is everybody's mean."""
    actual, n = (np.array([b[place] for b in bins][::-1], dtype=np.float64) for place in (1, 2))
    figure, axes = canvas(height=4.2)
    at = np.arange(1, len(actual) + 1)
    axes.bar(at, actual, color=BLUE)
    axes.axhline(float(actual @ n / n.sum()), color=ORANGE, linestyle="--", linewidth=1)
    axes.set_xticks(at)
    axes.set_xlabel("tenths by the score, the highest first")
    axes.set_ylabel(truth)
    axes.set_title(f"{title}: lift by decile", loc="left")
    light(axes, grid="y")
    return figure


def canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _bars(axes: Axes, names: Sequence[str], scores: Sequence[Interval], colours: Sequence[str]) -> None:
    means = [score.mean for score in scores]
    axes.barh(names, means, color=colours, height=0.62)
    axes.errorbar(means, np.arange(len(names)), xerr=_whiskers(scores), fmt="none", ecolor="black", capsize=3)
    for row, score in enumerate(scores):
        _label(axes, f"{score.mean:.4f}", at=(score.high, row))
    axes.set_xlim(0, 1.15 * _room([score.high for score in scores]))
    light(axes, grid="x")


def _panel(axes: Axes, name: str, places: Sequence[str], values: Sequence[float]) -> None:
    axes.barh(places, np.nan_to_num(values), color=BLUE, height=0.62)
    for row, value in enumerate(values):
        text, colour = ("–", GREY) if np.isnan(value) else (f"{value:.4g}", "black")
        _label(axes, text, at=(max(float(np.nan_to_num(value)), 0), row), colour=colour)
    axes.set_xlim(0, 1.45 * _room(values))
    axes.set_title(name.replace("_", " "), loc="left", fontsize="medium")
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _label(axes: Axes, text: str, *, at: tuple[float, float], colour: str = "black") -> None:
    axes.annotate(text, at, xytext=(6, 0), textcoords="offset points", va="center", color=colour)


def _room(values: Sequence[float]) -> float:
    """How far an axis must reach; one of zeros would have no length."""
    return max(float(np.nanmax(values)), 0.0) or 1.0


def light(axes: Axes, *, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def _whiskers(scores: Sequence[Interval]) -> NDArray[np.float64]:
    return np.maximum([[s.mean - s.low for s in scores], [s.high - s.mean for s in scores]], 0)


def _history_groups(past: NDArray[np.int64]) -> list[tuple[str, NDArray[np.bool_]]]:
    ranges = [(low, high - 1) for low, high in pairwise(HISTORY)]
    inner = [(_range(low, high), (past >= low) & (past <= high)) for low, high in ranges]
    return [("0", past == 0), *inner, (f"{HISTORY[-1]}+", past >= HISTORY[-1])]


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"
