"""Which needs go with a basket, whatever serves them: by a scorer of needs, and by what a placement's sources say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.interactions import sorted_set
from features.pairs import Pairs, need_columns
from serving.fitted import NOTHING, Array, Fitted, Neighbors, row_of, top_k
from serving.placements import Placement
from serving.ranker import Ranker, score_columns

Scores = NDArray[np.float32]
ASSOCIATED, SOURCED, OWN, POPULAR = 80, 60, 80, 20  # needs that each of these puts forward
BLEND = {
    "need.decayed_365": 0.5,
    "basket.own_overlap": 0.5,
    "basket.buyers_28": 0.01,
}  # beside the association


@dataclass(frozen=True)
class Needs:
    """One placement's `needs`: which needs go with a basket, for a customer (−1: a stranger).

    served: which needs something available serves; no other is in an answer, nor any that the basket serves.
    """

    row: Placement
    models: Mapping[str, Fitted]
    pairs: Pairs
    served: NDArray[np.bool_]
    ranker: Ranker | None = None

    def best(self, customer: int, basket: Array, limit: int) -> tuple[Array, Scores]:
        """(codes of needs, scores), best first: by the learned ranker's probability, else by the blend."""
        found, scores = self.candidates(customer, basket)
        seen = self.signals(customer, basket, found, scores)
        total = self.ranker.probability(seen, limit) if self.ranker else self.blend(seen, scores)
        order = top_k(total, limit)
        return found[order], total[order]

    def candidates(self, customer: int, basket: Array) -> tuple[Array, Scores]:
        """(needs put forward, in order; what each scorer thinks of them [scorers, needs])."""
        allowed = self.served.copy()
        asked = self.asked(basket)
        allowed[asked] = False
        scores = np.stack(list(self.scored(asked, basket)))
        own = self.pairs.known(customer).groups[0]
        put = [top_k(scores[0], ASSOCIATED, allowed & (scores[0] != 0))]
        put += [top_k(of, SOURCED, allowed & (of > 0)) for of in scores[1::2]]
        put += [own.codes[top_k(own.table[:-1, 1], OWN, allowed[own.codes])]]
        put += [top_k(self.pairs.need_buyers[:, 1], POPULAR, allowed)]
        found = sorted_set(np.concatenate(put).astype(np.int64))
        return found, scores[:, found]

    def asked(self, basket: Array) -> Array:
        needs = sorted_set(self.pairs.catalog.need[basket])
        return needs[needs >= 0]

    def scored(self, asked: Array, basket: Array) -> Iterator[Scores]:
        """Of every need: what its scorer says; then of each source of products the sum of what the basket's products
        say of those that serve it, and the most that one says of one."""
        n, need = len(self.served), self.pairs.catalog.need
        model = self.models[self.row.needs]
        assert isinstance(model, Neighbors)
        codes, values = cells(model, asked)
        yield np.bincount(codes, values, minlength=n).astype(np.float32)
        for source in self.row.sources:
            model = self.models[source.model]
            if source.asks == "products" and isinstance(model, Neighbors):
                items, values = cells(model, basket)
                codes = need[items] + 1  # the first is of unknown needs
                yield np.bincount(codes, values, minlength=n + 1)[1:].astype(np.float32)
                most = np.zeros(n + 1, np.float32)
                np.maximum.at(most, codes, values)
                yield most[1:]

    def signals(self, customer: int, basket: Array, needs: Array, scores: Scores) -> Scores:
        """What the ranker `<placement>.needs` looks at: float32 [needs, columns]."""
        return np.hstack(
            [self.pairs.of_needs(customer, needs, basket), score_columns(scores)], dtype=np.float32
        )

    def blend(self, seen: Scores, scores: Scores) -> Scores:
        """The association, what the customer buys for a need, and what lay in orders of theirs that overlap the
        basket, each over the highest."""
        names = need_columns()
        parts = [share(scores[0])] + [w * share(seen[:, names.index(n)]) for n, w in BLEND.items()]
        return np.sum(parts, axis=0, dtype=np.float32)


def cells(model: Neighbors, rows: Array) -> tuple[Array, Scores]:
    """(columns, values) stored in these rows, one row after the other."""
    parts = [NOTHING, *(row_of(model.items, int(row)) for row in rows)]
    return np.concatenate([c for c, _ in parts]), np.concatenate([v for _, v in parts])


def share(values: Scores) -> Scores:
    high = values.max(initial=0)
    return values / high if high > 0 else np.zeros_like(values)
