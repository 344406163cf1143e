import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from serving.fitted import (
    Candidates,
    Fitted,
    Neighbors,
    Vectors,
    column_of,
    held_by,
    load_fitted,
    row_of,
    save_fitted,
    top_k,
)

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf]), st.floats(-3, 3, width=32)
)
KINDS = st.sampled_from([np.float32, np.float64])


@st.composite
def questions(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None, int]:
    scores = np.array(draw(st.lists(VALUES, max_size=40)), draw(KINDS))
    mask = st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).map(
        lambda m: np.array(m, bool)
    )
    return scores, draw(st.none() | mask), draw(st.integers(0, 45))


@given(questions())
@settings(deadline=None)
def test_the_top_is_what_a_naive_sort_puts_first(
    question: tuple[NDArray[np.float64], NDArray[np.bool_] | None, int],
) -> None:
    scores, allowed, k = question
    before = scores.copy(), None if allowed is None else allowed.copy()
    places = [
        n
        for n, score in enumerate(scores.tolist())
        if math.isfinite(score) and (allowed is None or allowed[n])
    ]
    found = top_k(scores, k, allowed)
    assert found.tolist() == sorted(places, key=lambda n: (-scores[n], n))[:k]
    np.testing.assert_array_equal(scores, before[0])
    assert allowed is None or np.array_equal(allowed, before[1])  # type: ignore[arg-type]


def test_ties_go_to_the_lower_position_at_the_edge_too() -> None:
    assert top_k(np.array([1.0, 2, 1, 2, 1]), 3).tolist() == [1, 3, 0]


def test_whole_numbers_are_scores_too() -> None:
    assert top_k(np.array([3, 1, 2]), 2).tolist() == [0, 2]


def test_a_list_of_fewer_than_none_is_empty() -> None:
    assert top_k(np.array([3.0, 1.0]), -1).tolist() == []


# --- the three kinds --------------------------------------------------------------------------------------

SMALL = sparse.csr_array(np.array([[0, 2, 0], [0, 0, 0], [1, 0.5, 0]], np.float32))
MODELS: dict[str, Fitted] = {
    "vectors": Vectors(
        np.array([[1, 0], [0, 2]], np.float32),
        np.array([[1, 1], [0, 3], [5, 0]], np.float32),
        np.array([0, 0.5, 0], np.float32),
    ),
    "flat": Vectors(np.zeros((2, 0), np.float32), np.zeros((3, 0), np.float32), np.ones(3, np.float32)),
    "neighbors": Neighbors(SMALL),
    "candidates": Candidates(sparse.csr_array(SMALL[[0, 2]])),
    "nothing": Candidates(sparse.csr_array((0, 3), dtype=np.float32)),
}


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("vectors", [[1, 0.5, 5], [2, 6.5, 0]]),
        ("flat", [[1, 1, 1], [1, 1, 1]]),
        ("neighbors", [[1, 2.5, 0], [0, 0, 0]]),  # the first holds items 0 and 2, the second item 1
        ("candidates", [[0, 2, 0], [1, 0.5, 0]]),
    ],
)
def test_scores_worked_out_by_hand(name: str, scores: list[list[float]]) -> None:
    histories = held_by([np.array([0, 2]), np.array([1])], 3)
    found = MODELS[name].of_customers(np.array([0, 1]), histories)
    assert found.dtype == np.float32
    assert found.tolist() == scores


@pytest.mark.parametrize(
    ("name", "scores"),
    [("vectors", [0, 0.5, 0]), ("flat", [1, 1, 1]), ("neighbors", [0, 0, 0]), ("candidates", [0, 0, 0]),
     ("nothing", [0, 0, 0])],
)  # fmt: skip
def test_a_stranger_is_not_the_last_customer(name: str, scores: list[float]) -> None:
    found = MODELS[name].of_customers(np.array([-1]), held_by([np.empty(0, np.int64)], 3))
    assert found.tolist() == [scores]


@pytest.mark.parametrize("name", MODELS)
def test_what_was_saved_comes_back_equal_and_mapped(name: str, tmp_path: Path) -> None:
    saved = MODELS[name]
    save_fitted(tmp_path, name, saved)
    loaded = load_fitted(tmp_path)[name]
    assert type(loaded) is type(saved)
    assert loaded.arrays().keys() == saved.arrays().keys()
    for key, array in loaded.arrays().items():
        assert array.dtype == saved.arrays()[key].dtype
        np.testing.assert_array_equal(array, saved.arrays()[key])
        assert array.nbytes <= 8 or is_mapped(array) or not array.size, f"{key} was copied into memory"
    known = [] if name == "nothing" else [1]
    who, held = np.array([-1, *known]), held_by([np.array([2])] * (1 + len(known)), 3)
    np.testing.assert_array_equal(loaded.of_customers(who, held), saved.of_customers(who, held))


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether the numbers lie in the file, read-only, so that workers share them."""
    held: Any = array
    while held is not None and not isinstance(held, np.memmap):
        held = getattr(held, "base", None)
    return held is not None and not array.flags.writeable


def test_models_in_one_folder_keep_apart(tmp_path: Path) -> None:
    for name, model in MODELS.items():
        save_fitted(tmp_path, name, model)
    assert load_fitted(tmp_path).keys() == MODELS.keys()
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy"}


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "evil.vectors.items.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="Python objects"):
        load_fitted(tmp_path)


@given(st.integers(1, 8), st.lists(st.integers(-1, 7), max_size=6), st.integers(0, 999))
@settings(deadline=None)
def test_what_items_suggest_together_is_the_dense_sum(n: int, held: list[int], seed: int) -> None:
    held = [item for item in held if item < n]
    dense = np.random.default_rng(seed).integers(0, 3, (n, n)).astype(np.float32)
    items, scores = Neighbors(sparse.csr_array(dense)).of_items(np.array(held, np.int64))
    expected = dense[[item for item in held if item >= 0]].sum(axis=0)
    assert len(set(items.tolist())) == len(items)
    assert items.tolist() == np.flatnonzero(expected).tolist()
    assert scores.tolist() == expected[items].tolist()


@given(st.lists(st.integers(0, 29), max_size=12), st.integers(0, 19), st.integers(0, 5))
def test_a_column_of_some_rows(rows: list[int], column: int, seed: int) -> None:
    cells = sparse.random_array((30, 20), density=0.2, rng=np.random.default_rng(seed), dtype=np.float32)
    matrix = sparse.csr_array(cells)
    found = column_of(matrix, np.array(rows, np.int64), column)
    np.testing.assert_array_equal(found, matrix.toarray()[rows, column])


def test_row_of_nobody_is_nothing() -> None:
    items, values = row_of(SMALL, -1)
    assert (items.tolist(), values.tolist()) == ([], [])
    items, values = row_of(SMALL, 2)
    assert (items.tolist(), values.tolist()) == ([0, 1], [1, 0.5])
    assert Candidates(SMALL).of_customer(-1)[0].tolist() == []


def test_held_by_is_one_where_a_row_names_an_item() -> None:
    assert held_by([np.array([2, 0]), np.array([], int)], 3).toarray().tolist() == [[1, 0, 1], [0, 0, 0]]
    assert held_by([], 3).shape == (0, 3)
    assert held_by([np.array([1])], 3).dtype == np.float32
