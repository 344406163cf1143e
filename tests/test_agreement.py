"""Lists by the file equal the service's, item for item, over the socket."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from running import shop

from serving.bundle import champion
from serving.engine import Engine

MANY = 200
SAME = ("product_id", "title", "price", "url", "image_url", "score", "story")


@pytest.fixture(scope="session")
def engine(shop_home: Path) -> Engine:
    return Engine.load(champion(shop_home))


def bulk(home: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "osclms", "recommend", *arguments, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def by(key: str, rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by whom they are for; ranks count from 1."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
        assert row["rank"] == len(found[row[key]])
    return found


def asked(home: Path, placement: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with httpx.Client(base_url=shop(home).url, timeout=30) as http:
        answers = [http.post(f"/v1/recommend/{placement}", json=body) for body in bodies]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.json() for answer in answers]


def assert_same(rows: list[dict[str, Any]], answer: dict[str, Any]) -> None:
    items = [tuple(item[name] for name in SAME) for item in answer["items"]]
    assert [tuple(row[name] for name in SAME) for row in rows] == items
    assert len(items) == 10


def test_every_customer(shop_home: Path, engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    bulk(shop_home, "next_best", "--all", "--limit", "10", "--out", str(out))
    rows = by("customer_id", pq.read_table(out).to_pylist())
    customers = engine.history.customers.at(np.arange(len(engine.history.customers)))
    assert sorted(rows) == customers
    chosen = np.random.default_rng(7).choice(customers, min(MANY, len(customers)), replace=False).tolist()
    at = engine.data_until.isoformat()
    answers = asked(shop_home, "next_best", [{"customer_id": c, "limit": 10, "at": at} for c in chosen])
    for customer, answer in zip(chosen, answers, strict=True):
        assert_same(rows[customer], answer)
        assert {row["recommendation_id"] for row in rows[customer]} == {answer["recommendation_id"]}


def test_baskets(shop_home: Path, engine: Engine, tmp_path: Path) -> None:
    queries, out = tmp_path / "q.ndjson", tmp_path / "a.ndjson"
    lines = [basket(engine, seed) for seed in range(MANY)]
    queries.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bulk(shop_home, "cross_sell", "--queries", str(queries), "--limit", "10", "--out", str(out))
    rows = by("query_id", [json.loads(line) for line in out.read_text().splitlines()])
    at = engine.data_until.isoformat()
    bodies = [{**{k: v for k, v in line.items() if k != "query_id"}, "limit": 10, "at": at} for line in lines]
    for line, answer in zip(lines, asked(shop_home, "cross_sell", bodies), strict=True):
        assert_same(rows[str(line["query_id"])], answer)


def basket(engine: Engine, seed: int) -> dict[str, Any]:
    """A basket of real products, every other one with a customer."""
    rng = np.random.default_rng(seed)
    items = rng.choice(np.unique(engine.history.item), int(rng.integers(1, 12)), replace=False)
    customer = engine.history.customers.at([int(rng.integers(len(engine.history.customers)))])[0]
    line = {"query_id": seed, "product_ids": engine.catalog.items.at(items)}
    return line | ({"customer_id": customer} if seed % 2 else {})
