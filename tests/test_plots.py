import io
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from training.intervals import Interval
from training.plots import by_history, hits_by_rank, placements_audited, recipes_compared, reliability

SCORES = {
    "als": Interval(0.24, 0.23, 0.25),
    "popular": Interval(0.18, 0.17, 0.19),
    "habit": Interval(0.43, 0.42, 0.44),
}


def words(figure: Figure) -> list[str]:
    """Everything written in a figure, drawn first so that the ticks are final."""
    figure.savefig(io.BytesIO())
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def test_recipes_stand_in_order_with_the_baseline_marked() -> None:
    figure = recipes_compared(SCORES, metric="NDCG@10", baseline="popular", customers=2039)
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["popular", "als", "habit"]
    colours = [bar.get_facecolor() for bar in axes.patches]
    assert colours[0] != colours[1] == colours[2]
    assert "NDCG@10, mean of 2,039 customers; whiskers: 95 % interval" in words(figure)


def test_a_panel_per_figure_and_a_dash_where_nothing_was_measured() -> None:
    audit: Mapping[str, Mapping[str, float]] = {"next_best": {"coverage": 0.25}, "index": {"recall": 0.0}}
    figure = placements_audited(audit, title="Audit")
    assert [axes.get_title("left") for axes in figure.axes] == ["coverage", "recall"]
    written = words(figure)
    assert {"Audit", "0.25", "0", "–"} <= set(written)


def test_history_counts_every_customer_once() -> None:
    orders = np.array([0, 1, 2, 4, 5, 99, 100, 5000])
    figure = by_history(orders, np.linspace(0, 1, 8), recipe="als", metric="NDCG@10", seed=1)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0\n1", "1\n1", "2–4\n2", "5–9\n1", "50–99\n1", "100+\n2"]


def test_hits_are_percent_of_customers() -> None:
    figure = hits_by_rank([[True, False], [True, True], [True, False], [False, False]], recipe="als")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [75.0, 25.0]  # type: ignore[attr-defined]
    assert "als: hits by position, 4 customers" in words(figure)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_scores_of_nothing_and_of_one_customer_are_drawn(value: float) -> None:
    """Also a bar of no length is written beside, on an axis that has some."""
    compared = recipes_compared({"a": Interval(value, value, value)}, metric="Hit", baseline="a", customers=1)
    assert {f"{value:.4f}", "a"} <= set(words(compared))
    assert [bar.get_width() for bar in compared.axes[0].patches] == [value]  # type: ignore[attr-defined]
    assert compared.axes[0].get_xlim()[1] == pytest.approx(1.15)
    past = by_history([3], [value], recipe="a", metric="Hit", seed=1)
    assert "2–4\n1" in words(past)
    assert np.ravel(past.axes[0].lines[0].get_ydata()).tolist() == [value]


def test_pyplot_is_never_imported() -> None:
    code = "import sys, training.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bin_of_which_nothing_was_bought_lies_at_the_foot() -> None:
    figure = reliability([(0.004, 0.0, 100), (0.1, 0.2, 10)], title="next_best")
    (axes,) = figure.axes
    (dots,) = axes.collections
    assert np.asarray(dots.get_offsets()).tolist() == [[0.004, axes.get_ylim()[0]], [0.1, 0.2]]
    assert axes.get_ylim() == (0.002, 1) == axes.get_xlim()
    large, small = dots.get_sizes()  # type: ignore[attr-defined]
    assert large > small
    assert "next_best: do probabilities come true?" in words(figure)
