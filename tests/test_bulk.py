"""Lists by the file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from serving import bulk
from serving.bulk import BulkError, everybody, queries, write_lists
from serving.engine import Engine
from serving.schemas import RecommendRequest

COLUMNS = ["rank", "product_id", "title", "price", "url", "image_url", "score", "story", "recommendation_id"]
FORMATS = ("parquet", "ndjson")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    goods = {
        **tiny.GROCER,
        "soap": {"title": "Sève & «soap»", "url": "/soap", "image_url": "https://x.example/s.png"},
        "towel": {"title": "Towel", "category": ["home", "towels"]},
    }
    return Engine(tiny.bundle(tmp_path_factory.mktemp("bulk") / "1", tiny.GROCERIES, goods))


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def asked(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def answer(engine: Engine, path: Path, out: Path, **changes: Any) -> int:
    about = {"key": "query_id", "at": tiny.UNTIL, "placement": "cross_sell", "limit": None, **changes}
    placement, limit = about.pop("placement"), about.pop("limit")
    return write_lists(engine, placement, queries(path, limit), out, **about)


def expected(
    engine: Engine, placement: str, key: str, name: str, request: RecommendRequest
) -> list[dict[str, Any]]:
    response = engine.recommend(placement, request, at=tiny.UNTIL)
    return [
        {
            key: name,
            "rank": rank,
            "product_id": item.product_id,
            "title": item.title,
            "price": item.price,
            "url": item.url,
            "image_url": item.image_url,
            "score": item.score,
            "story": item.story,
            "recommendation_id": response.recommendation_id,
        }
        for rank, item in enumerate(response.items, 1)
    ]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("limit", [None, 3])
def test_everybody_gets_what_the_engine_says(
    engine: Engine, tmp_path: Path, ending: str, limit: int | None
) -> None:
    out = tmp_path / f"lists.{ending}"
    done = write_lists(engine, "next_best", everybody(engine, limit), out, key="customer_id", at=tiny.UNTIL)
    customers = ["anna", "bert", "carl", "dora", "emil"]
    assert done == len(customers)
    assert rows(out) == [
        row
        for name in customers
        for row in expected(
            engine, "next_best", "customer_id", name, RecommendRequest(customer_id=name, limit=limit)
        )
    ]


@pytest.mark.parametrize("ending", FORMATS)
def test_questions_get_what_the_engine_says(engine: Engine, tmp_path: Path, ending: str) -> None:
    path, out = tmp_path / "q.ndjson", tmp_path / f"a.{ending}"
    lines: list[dict[str, Any]] = [
        {"query_id": 7, "customer_id": "anna", "product_ids": ["bread"]},
        {"query_id": "x-8", "customer_id": None, "product_ids": ["milk", "sku-404"], "exclude": ["soap"]},
        {"query_id": "no one"},
        {"query_id": 0, "customer_id": "stranger"},
    ]
    assert answer(engine, asked(path, *lines[:2], "", *lines[2:], "   "), out, limit=4) == 4
    assert rows(out) == [
        row
        for line in lines
        for row in expected(
            engine, "cross_sell", "query_id", str(line["query_id"]),
            RecommendRequest.model_validate({**{k: v for k, v in line.items() if k != "query_id"}, "limit": 4}),
        )
    ]  # fmt: skip
    assert [r["query_id"] for r in rows(out) if r["rank"] == 1] == ["7", "x-8", "no one", "0"]


def test_a_line_says_all_that_a_request_may(engine: Engine, tmp_path: Path) -> None:
    rule = {"rule": "exclude", "attribute": "category", "values": ["food > dairy"]}
    lines: list[dict[str, Any]] = [
        {"product_ids": [{"product_id": "bread", "quantity": 3}, "milk"], "limit": 1},
        {"product_ids": ["bread"], "rules": [rule]},
    ]
    path, out = tmp_path / "q.ndjson", tmp_path / "a.ndjson"
    answer(engine, asked(path, *({"query_id": n, **line} for n, line in enumerate(lines))), out, limit=4)
    found = rows(out)
    assert found == [
        row
        for n, line in enumerate(lines)
        for row in expected(
            engine, "cross_sell", "query_id", str(n), RecommendRequest.model_validate({"limit": 4, **line})
        )
    ]
    assert [r["query_id"] for r in found].count("0") == 1
    assert not {"butter", "milk"} & {r["product_id"] for r in found if r["query_id"] == "1"}


def test_what_the_engine_refuses_is_told_of_its_question(engine: Engine, tmp_path: Path) -> None:
    rule = {"rule": "exclude", "attribute": "colour", "values": ["red"]}
    for field, line in (("rules", {"rules": [rule]}), ("at", {"at": "2010-01-01T00:00:00Z"})):
        path, out = tmp_path / "q.ndjson", tmp_path / "a.ndjson"
        with pytest.raises(BulkError, match=f"^query_id q2: {field}"):
            answer(engine, asked(path, {"query_id": 1}, {"query_id": "q2", **line}), out)
        assert not out.exists()


def test_a_byte_order_mark_before_the_first_question_is_passed_over(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "q.ndjson"
    for text in ('{"query_id": 1}\n{"query_id": 2}\n', '\n{"query_id": 1}\n{"query_id": 2}\n'):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert [name for name, _ in queries(path, None)] == ["1", "2"]
    path.write_bytes(b'{"query_id": 1}\n\xef\xbb\xbf{"query_id": 2}\n')
    with pytest.raises(BulkError, match="line 2"):
        list(queries(path, None))


def test_parquet_has_the_columns_with_their_types(engine: Engine, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    write_lists(engine, "trending", everybody(engine, 8), out, key="customer_id", at=tiny.UNTIL)
    schema = pq.read_schema(out)
    assert schema.names == ["customer_id", *COLUMNS]
    numbers = {"rank": pa.int32(), "price": pa.float64(), "score": pa.float64()}
    assert {f.name: f.type for f in schema} == {n: numbers.get(n, pa.string()) for n in schema.names}


def test_ndjson_keeps_the_same_columns_in_their_order_and_text_as_it_is(
    engine: Engine, tmp_path: Path
) -> None:
    out = tmp_path / "lists.ndjson"
    write_lists(engine, "trending", everybody(engine, 8), out, key="customer_id", at=tiny.UNTIL)
    text = out.read_text(encoding="utf-8")
    assert {tuple(json.loads(line)) for line in text.splitlines()} == {("customer_id", *COLUMNS)}
    assert "Sève & «soap»" in text and '"url": "/soap"' in text and '"price": null' not in text


def test_what_is_unknown_is_null(tmp_path: Path) -> None:
    goods: tiny.Goods = {"gift": {"title": "Gift", "category": ["home"]}, "tea": {"title": "Tea"}}
    made = tiny.bundle(tmp_path / "b", (("anna", "1", 0, "tea gift"),), goods)
    place = made.catalog.table.column_names.index("price")
    table = made.catalog.table.set_column(place, "price", pa.array([None, 2.0], pa.float32()))
    from dataclasses import replace

    engine = Engine(replace(made, catalog=replace(made.catalog, table=table)))
    for ending in FORMATS:
        out = tmp_path / f"lists.{ending}"
        write_lists(engine, "trending", everybody(engine, None), out, key="customer_id", at=tiny.UNTIL)
        found = {row["product_id"]: row for row in rows(out)}
        assert (found["gift"]["price"], found["gift"]["url"], found["tea"]["price"]) == (None, None, 2.0)


def test_more_customers_than_are_held_at_once(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    whole, parts = tmp_path / "whole.parquet", tmp_path / "parts.parquet"
    write_lists(engine, "next_best", everybody(engine, None), whole, key="customer_id", at=tiny.UNTIL)
    monkeypatch.setattr(bulk, "CHUNK", 2)
    write_lists(
        engine,
        "next_best",
        everybody(engine, None),
        parts,
        key="customer_id",
        at=tiny.UNTIL,
        told=told.append,
    )
    assert told == [2, 4, 5]
    assert rows(parts) == rows(whole)


def test_twice_is_the_same_file(engine: Engine, tmp_path: Path) -> None:
    files = [tmp_path / f"{n}.parquet" for n in "ab"]
    for out in files:
        write_lists(engine, "next_best", everybody(engine, None), out, key="customer_id", at=tiny.UNTIL)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"customer_id": "anna"}', "query_id: missing"),
        ('{"query_id": 1.5}', "query_id"),
        ('{"query_id": true}', "query_id"),
        ('{"query_id": 1, "customer_id": 7}', "customer_id: Input should be a valid string"),
        ('{"query_id": 1, "customer_id": ""}', "customer_id"),
        ('{"query_id": 1, "product_ids": "bread"}', "product_ids"),
        ('{"query_id": 1, "product_ids": [1]}', "product_ids.0"),
        ('{"query_id": 1, "customer_token": "x"}', "customer_token: the service alone"),
        ('{"query_id": 1, "explain": true}', "explain: the file has no column"),
        ('{"query_id": 1, "record": true}', "record: the service's batch"),
        ('{"query_id": 1, "products": []}', "products: Extra inputs are not permitted"),
        ('{"query_id": 1', "the line: Invalid JSON"),
        ("[1]", "the line"),
    ],
)
@pytest.mark.parametrize("ending", FORMATS)
def test_a_line_that_is_not_understood_is_named_and_nothing_is_written(
    engine: Engine, tmp_path: Path, line: str, field: str, ending: str
) -> None:
    path, out = asked(tmp_path / "q.ndjson", {"query_id": 1}, "", line), tmp_path / f"a.{ending}"
    out.write_text("what was there")
    with pytest.raises(BulkError) as refused:
        answer(engine, path, out)
    assert str(refused.value).startswith(f"{path}, line 3: {field}")
    assert 'expected {"query_id": …' in str(refused.value)
    assert out.read_text() == "what was there"
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, path.name]


def test_a_bad_line_far_down_writes_nothing_either(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    path = asked(tmp_path / "q.ndjson", *({"query_id": n} for n in range(7)), "{}")
    with pytest.raises(BulkError, match="line 8"):
        answer(engine, path, tmp_path / "a.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["q.ndjson"]


def test_text_that_is_not_utf8_is_named(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "q.ndjson"
    path.write_bytes(b'{"query_id": 1}\n{"query_id": "Gr\xfc\xdfe"}\n')
    with pytest.raises(BulkError, match=r"q\.ndjson, line 2: the line: Invalid JSON: invalid unicode"):
        answer(engine, path, tmp_path / "a.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["q.ndjson"]


@pytest.mark.parametrize("name", ["lists.csv", "lists", "lists.parquet.gz", "lists.PARQUET"])
def test_another_ending_is_refused_with_the_two_that_work(engine: Engine, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        BulkError, match=rf"{name} is neither \.parquet nor \.ndjson: name the file after one of"
    ):
        write_lists(
            engine, "trending", everybody(engine, 1), tmp_path / name, key="customer_id", at=tiny.UNTIL
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", FORMATS)
def test_whole_or_not_at_all(
    engine: Engine, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 1)
    out, seen = tmp_path / "new" / f"lists.{ending}", []

    def told(done: int) -> None:
        seen.append(out.exists())
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lists(
            engine, "trending", everybody(engine, None), out, key="customer_id", at=tiny.UNTIL, told=told
        )
    assert seen == [False, False, False]
    assert not list(out.parent.iterdir())


def test_no_questions_make_an_empty_file_with_its_columns(engine: Engine, tmp_path: Path) -> None:
    nobody: Iterator[bulk.Asked] = iter(())
    out = tmp_path / "lists.parquet"
    assert write_lists(engine, "trending", nobody, out, key="query_id", at=tiny.UNTIL) == 0
    assert pq.read_table(out).column_names == ["query_id", *COLUMNS]
    assert not rows(out)


def test_a_moment_that_the_engine_refuses_writes_nothing(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(BulkError, match="customer_id anna: at: "):
        write_lists(
            engine, "trending", everybody(engine, 1), tmp_path / "a.ndjson", key="customer_id", at=tiny.FIRST
        )
    assert not list(tmp_path.iterdir())
