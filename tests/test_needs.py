"""Needs that go with a basket, in a shop small enough to know the answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import GROCER, GROCERIES, UNTIL

from serving.engine import Engine
from serving.ranker import NEEDS, columns_for
from serving.schemas import NeedsResponse, RecommendRequest
from serving.wire import RequestError
from training.rank import Ranking


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(tiny.bundle(tmp_path_factory.mktemp("needs") / "1", GROCERIES, GROCER))


def asked(engine: Engine, customer: str | None, *products: str, limit: int = 10) -> NeedsResponse:
    request = RecommendRequest(customer_id=customer, product_ids=products, limit=limit)
    return engine.needs("cross_sell", request, at=UNTIL)


def titles(found: NeedsResponse) -> list[str]:
    return [need.title for need in found.needs]


def test_no_need_that_the_basket_serves_and_the_best_first(engine: Engine) -> None:
    found = asked(engine, None, "bread")
    assert titles(found)[0] == "dairy"  # four of the six orders with bread of a kind hold it
    assert set(titles(found)) == {"dairy", "soap", "towels"}
    assert [n.score for n in found.needs] == sorted((n.score for n in found.needs), reverse=True)
    assert found.needs[0].need == "food > dairy"
    assert titles(asked(engine, None, "bread", limit=1)) == ["dairy"]


def test_whatever_serves_a_need_says_the_same(engine: Engine) -> None:
    weights = [
        engine.needs_of(engine.placements["cross_sell"]).candidates(-1, engine.catalog.items.positions([p]))
        for p in ("spelt", "gold")
    ]
    np.testing.assert_array_equal(weights[0][1][0], weights[1][1][0])


def test_a_customer_counts(engine: Engine) -> None:
    """carl alone ever bought a towel, in an order with bread."""
    carl, nobody = ({n.title: n.score for n in asked(engine, who, "bread").needs} for who in ("carl", None))
    assert carl["towels"] > nobody["towels"] + 0.5
    assert carl["dairy"] - nobody["dairy"] < carl["towels"] - nobody["towels"]


def test_a_stranger_without_a_basket_and_unknown_products_are_answered(engine: Engine) -> None:
    assert set(titles(asked(engine, None))) == {"bread", "dairy", "soap", "towels"}
    assert titles(asked(engine, None, "unheard of")) == titles(asked(engine, "nobody"))


def test_a_need_that_nothing_can_serve_is_left_out(tmp_path: Path) -> None:
    gone = {**GROCER, "soap": {**GROCER["soap"], "in_stock": False}}
    shop = Engine(tiny.bundle(tmp_path / "1", GROCERIES, gone))
    assert set(titles(asked(shop, None, "bread"))) == {"dairy", "towels"}


def test_a_learned_ranker_decides(engine: Engine) -> None:
    """It was taught to want what few buy."""
    names = columns_for(f"cross_sell.{NEEDS}", engine.placements)
    x = np.full((1_000, len(names)), np.nan, np.float32)
    x[:, names.index("basket.buyers")] = buyers = np.linspace(0, 3, 1_000)
    ranker = Ranking(rounds=200, least=1, kept=1.0).fit(x, buyers < 1, names)
    ranked = Engine(replace(engine.bundle, rankers={f"cross_sell.{NEEDS}": ranker}))
    found = asked(ranked, None, "bread")
    assert titles(found)[0] == "towels" and all(0 <= n.score <= 1 for n in found.needs)


def test_only_a_placement_that_knows_of_needs_is_asked(engine: Engine) -> None:
    with pytest.raises(RequestError, match="next_best does not know of needs; known: cross_sell"):
        engine.needs("next_best", RecommendRequest(), at=UNTIL)
