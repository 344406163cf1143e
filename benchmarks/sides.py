"""What `make bench-serving` holds the service against, each as an app to be served, over the home in OSCLMS_HOME.

`bare` is Starlette alone, which gives what stands in the file BENCH_ANSWER; `peer` is the recommender that is written
first: FastAPI around implicit's ALS, with the factors that the bundle was given by it.
"""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.bundle import Bundle, champion
from serving.fitted import Vectors

ANSWER = "BENCH_ANSWER"
PATH = "/v1/recommend/{placement}"
BATCH = 256  # customers at a time, of a batch by implicit


def recorded() -> bytes:
    """The answer that the service once gave; without a file, none."""
    return Path(os.environ[ANSWER]).read_bytes() if ANSWER in os.environ else b"{}"


# --- Starlette --------------------------------------------------------------------------------------------


async def say(request: Request) -> Response:
    await request.body()
    return Response(SAID, media_type="application/json")


SAID = recorded()
bare = Starlette(routes=[Route(PATH, say, methods=["POST"])])


# --- FastAPI and implicit ---------------------------------------------------------------------------------


class Asked(BaseModel):
    customer_id: str
    limit: int = 10


class Item(BaseModel):
    product_id: str
    title: str
    price: float | None
    currency: str
    url: str | None
    image_url: str | None
    score: float


class Listed(BaseModel):
    placement: str
    items: list[Item]


class Peer:
    """implicit's ALS over a bundle's customers and products."""

    def __init__(self, bundle: Bundle) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        vectors = bundle.models["als"]
        assert isinstance(vectors, Vectors)
        self.model = AlternatingLeastSquares(factors=vectors.items.shape[1], num_threads=1)
        self.model.user_factors = np.ascontiguousarray(vectors.customers)
        self.model.item_factors = np.ascontiguousarray(vectors.items)
        self.customers, self.catalog = bundle.interactions.customers, bundle.catalog
        self.currency = bundle.manifest.store.currency
        self.links = {name: bundle.catalog.table[name].to_pylist() for name in ("url", "image_url")}

    def best(self, customer: Any, limit: int) -> Any:
        """Positions and scores, of one customer or of many; what was bought stays in, as in next_best."""
        return self.model.recommend(customer, None, N=limit, filter_already_liked_items=False)

    def listed(self, placement: str, asked: Asked) -> Listed:
        customer = int(self.customers.positions([asked.customer_id])[0])
        items, scores = self.best(customer, asked.limit)
        found = [self.item(int(i), float(s)) for i, s in zip(items, scores, strict=True)]
        return Listed(placement=placement, items=found)

    def item(self, item: int, score: float) -> Item:
        price = float(self.catalog.price[item])
        return Item(
            product_id=self.catalog.items.at([item])[0],
            title=self.catalog.title[item],
            price=None if np.isnan(price) else round(price, 2),
            currency=self.currency,
            url=self.links["url"][item],
            image_url=self.links["image_url"][item],
            score=score,
        )


@cache
def its() -> Peer:
    return Peer(Bundle.load(champion(Path(os.environ["OSCLMS_HOME"]))))


peer = FastAPI()


@peer.post(PATH)
async def recommend(placement: str, asked: Asked) -> Listed:
    return its().listed(placement, asked)


# --- without HTTP -----------------------------------------------------------------------------------------


def batch_rate(seconds: float) -> float:
    """Customers a second of implicit's `recommend` of many at once: positions and scores, nothing told of them."""
    model = its()
    many = np.arange(len(model.customers))
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        customers = many[np.arange(done, done + BATCH) % len(many)]
        model.best(customers, 10)
        done += len(customers)
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    print(json.dumps(batch_rate(4.0)))
