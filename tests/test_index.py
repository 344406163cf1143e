import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serving import index as module
from serving.fitted import Vectors, top_k
from serving.index import ItemIndex, recall, unit

Array = NDArray[np.int64]
EVERY = 2_000
FACTORS = 16


def vectors(n_items: int = EVERY, n_customers: int = 40, factors: int = FACTORS, seed: int = 3) -> Vectors:
    rng = np.random.default_rng(seed)
    customers, items = (rng.normal(size=(n, factors)).astype(np.float32) for n in (n_customers, n_items))
    return Vectors(customers, items, rng.normal(size=n_items).astype(np.float32))


MODEL = vectors()
ALL = np.ones(EVERY, bool)
INDEX = ItemIndex(MODEL, ALL, np.ones(EVERY, np.int64))


def few(share: float, seed: int = 5) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(EVERY) < share


def by_score(model: Vectors, customer: int, k: int, allowed: NDArray[np.bool_]) -> Array:
    return top_k(model.items @ model.customers[customer] + model.bias, k, allowed)


def by_angle(model: Vectors, items: list[int], k: int, allowed: NDArray[np.bool_]) -> Array:
    exact = model.items.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    angles = np.divide(exact, length, out=np.zeros_like(exact), where=length > 0)
    return top_k(angles @ angles[items].sum(axis=0), k, allowed)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.05, 0.006])
def test_the_filter_comes_before_the_top(share: float) -> None:
    """With a twentieth allowed, a list is as long as asked and holds the very best of what is allowed."""
    allowed = few(share)
    for customer in range(10):
        found = INDEX.of_customer(customer, 10, allowed)
        assert found.tolist() == by_score(MODEL, customer, 10, allowed).tolist()
        assert len(found) == min(10, np.count_nonzero(allowed))
        assert allowed[found].all()
    for items in ([0], [3, 4], [5, 6, 7]):
        found = INDEX.like_items(np.array(items), 10, allowed)
        assert found.tolist() == by_angle(MODEL, items, 10, allowed).tolist()


def test_no_filter_is_every_item() -> None:
    assert INDEX.of_customer(3, 10).tolist() == INDEX.of_customer(3, 10, ALL).tolist()
    assert INDEX.like_items(np.array([3]), 10).tolist() == INDEX.like_items(np.array([3]), 10, ALL).tolist()
    assert INDEX.like_items(np.array([3]), 1).tolist() == [3], "nothing is nearer than the item itself"


def test_where_fewer_are_left_the_list_is_short_and_never_padded() -> None:
    allowed = np.zeros(EVERY, bool)
    allowed[[5, 9, 11]] = True
    assert sorted(INDEX.of_customer(0, 10, allowed).tolist()) == [5, 9, 11]
    assert sorted(INDEX.like_items(np.array([0]), 10, allowed).tolist()) == [5, 9, 11]
    assert INDEX.of_customer(0, 10, np.zeros(EVERY, bool)).tolist() == []
    assert len(INDEX.of_customer(0, EVERY + 50)) == EVERY
    assert INDEX.of_customer(0, 0).tolist() == INDEX.like_items(np.array([0]), 0).tolist() == []


def test_a_stranger_gets_nothing() -> None:
    assert INDEX.of_customer(-1, 10).tolist() == []
    assert INDEX.like_items(np.array([], int), 10).tolist() == []


def test_members_alone_are_found() -> None:
    members = few(0.3)
    index = ItemIndex(MODEL, members, np.ones(EVERY, np.int64))
    allowed = few(0.2, seed=8)
    for customer in range(5):
        assert index.of_customer(customer, 20).tolist() == by_score(MODEL, customer, 20, members).tolist()
        found = index.of_customer(customer, 20, allowed)
        assert found.tolist() == by_score(MODEL, customer, 20, members & allowed).tolist()
    outside = int(np.flatnonzero(~members)[0])
    assert (
        index.like_items(np.array([outside]), 9).tolist() == by_angle(MODEL, [outside], 9, members).tolist()
    )


def test_an_item_with_an_empty_vector_is_in_neither_index() -> None:
    items = MODEL.items.copy()
    items[7] = 0
    bias = MODEL.bias.copy()
    bias[7] = 1e6  # the best of all by score, and yet nothing is known of it
    index = ItemIndex(Vectors(MODEL.customers, items, bias), ALL, np.ones(EVERY, np.int64))
    assert 7 not in index.of_customer(0, EVERY)
    assert 7 not in index.like_items(np.array([0]), EVERY)
    assert index.like_items(np.array([7]), 5).tolist() == []
    assert index.like_items(np.array([7, 3]), 5).tolist() == index.like_items(np.array([3]), 5).tolist()


def test_without_any_item_every_list_is_empty() -> None:
    index = ItemIndex(MODEL, np.zeros(EVERY, bool), np.ones(EVERY, np.int64))
    assert index.of_customer(0, 5).tolist() == index.like_items(np.array([0]), 5).tolist() == []
    assert recall(index, np.arange(4)) == 1.0, "nothing was to be found"


def test_customers_ask_among_the_most_ordered_and_items_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 100)
    orders = np.random.default_rng(1).permutation(EVERY)
    index = ItemIndex(MODEL, ALL, orders)
    head = orders >= EVERY - 100
    assert sorted(index.of_customer(0, EVERY).tolist()) == np.flatnonzero(head).tolist()
    assert index.of_customer(0, 10).tolist() == by_score(MODEL, 0, 10, head).tolist()
    assert index.of_customer(0, 10, few(0.5)).tolist() == by_score(MODEL, 0, 10, head & few(0.5)).tolist()
    assert len(index.like_items(np.array([0]), EVERY)) == EVERY
    assert recall(index, np.arange(20)) < 0.5, "what the bound leaves out is missed, and counted"


@given(st.integers(1, 60), st.integers(0, 30), st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_any_search_is_exact(n: int, k: int, seed: int, share: float) -> None:
    model = vectors(n, 3, 4, seed)
    rng = np.random.default_rng(seed)
    members, allowed = rng.random(n) < 0.8, rng.random(n) < share
    index = ItemIndex(model, members, rng.integers(0, 9, n))
    assert index.of_customer(1, k, allowed).tolist() == by_score(model, 1, k, members & allowed).tolist()
    assert (
        index.like_items(np.array([0]), k, allowed).tolist()
        == by_angle(model, [0], k, members & allowed).tolist()
    )


def test_a_batch_searches_like_one_after_the_other() -> None:
    """To the last bit: FAISS has another kernel for many queries at once, which is switched off."""
    model = vectors(n_items=300, n_customers=64, factors=61)
    index = ItemIndex(model, np.ones(300, bool), np.ones(300, np.int64)).by_score
    queries = np.column_stack([model.customers, np.ones(64, np.float32)])
    scores, together = index.search(queries, 20)
    for n, query in enumerate(queries):
        alone_scores, alone = index.search(query[None], 20)
        np.testing.assert_array_equal(together[n], alone[0])
        np.testing.assert_array_equal(scores[n], alone_scores[0])


def test_recall_is_whole_and_falls_when_the_index_is_broken() -> None:
    index = ItemIndex(MODEL, ALL, np.ones(EVERY, np.int64))
    everyone = np.arange(len(MODEL.customers))
    assert recall(index, everyone) == 1.0
    half = MODEL.items.copy()
    half[::2] = -half[::2]
    index.by_score = module.flat(np.column_stack([half, MODEL.bias]))
    assert recall(index, everyone) < 0.8


def test_unit_scales_and_leaves_empty_rows_alone() -> None:
    assert unit(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]
