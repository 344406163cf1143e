"""A small real shop for the tests: every tenth household of the demo data, loaded, trained, with a champion."""

import gc
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from filelock import FileLock
from live import DATABASES, new_database, place_postgres, postgres

from features.completejourney import mapping_of, source_folder
from features.history import History
from features.mapping import Mapping
from features.sources import load
from serving.store import address
from training.models import RECIPES, Als, Bpr, Content, EaseBaskets, Hybrid, ItemKnn, Recipe
from training.rank import RANKINGS, Ranking

END = datetime(2018, 1, 2, tzinfo=UTC)
CUSTOMER, ALIAS = "1", "card-4711"  # one household of the sample, and another id of it
NAMED = {"customer_id": CUSTOMER, "first_name": "Zoë", "locale": "en-GB"}
SMALL: dict[str, Recipe] = {
    **RECIPES,
    "als": Als(factors=16, iterations=4),
    "hybrid": Hybrid(factors=8, epochs=3),
    "bpr": Bpr(factors=8, iterations=5),
    "ease_baskets": EaseBaskets(items=1_000),
    "content": Content(factors=16),
    "item_knn": ItemKnn(neighbours=30),
}
FEW: dict[str, Ranking] = {
    name: replace(ranking, windows=1, rounds=30, least=20, most=200) for name, ranking in RANKINGS.items()
}


def pytest_sessionfinish() -> None:
    if "running" in sys.modules:
        sys.modules["running"].stop_all()


def pytest_unconfigure() -> None:
    """Hypothesis's callback would keep the tests' modules past the interpreter's end, and DuckDB tell so."""
    gc.callbacks.clear()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """`shared(name, make)`: a folder made once for all test processes."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def loaded_home(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A home with history only. Read, do not write: other tests share it."""
    return shared("loaded", load_sample)


@pytest.fixture(scope="session")
def shop_home(shared: Callable[[str, Callable[[Path], None]], Path], loaded_home: Path) -> Path:
    """A home with history and a champion. Read, do not write: other tests share it."""

    def make(folder: Path) -> None:
        from training.train import train

        shutil.copytree(loaded_home / "history", folder / "history")
        outcome = train(folder, recipes=SMALL, rankings=FEW)
        assert outcome.verdict.promote, outcome.verdict.reason

    return shared("shop", make)


@pytest.fixture(scope="session")
def written_home(shared: Callable[[str, Callable[[Path], None]], Path], shop_home: Path) -> Path:
    """The same, with made-up contacts and consents. Read, do not write: other tests share it."""
    from features.synthetic import lay_over

    def make(folder: Path) -> None:
        shutil.copytree(shop_home, folder, dirs_exist_ok=True)
        lay_over(History(folder / "history"), seed=7, rejects_dir=folder / "rejects")

    return shared("written", make)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from chrome import chrome  # few tests need it

    with chrome() as found:
        yield found


@pytest.fixture(params=DATABASES)
def url(
    request: pytest.FixtureRequest, tmp_path: Path, shared: Callable[[str, Callable[[Path], None]], Path]
) -> sa.URL:
    """An empty database: a file, and one of a real PostgreSQL."""
    if request.param == "sqlite":
        return address(tmp_path / "home", None)
    return address(None, new_database(postgres(shared("postgres", place_postgres))))


def load_sample(home: Path, step: int = 10, *, whole: bool = True) -> None:
    """Events of every `step`-th household, the whole catalogue or what of it they bought, and one customer with a name
    and an alias."""
    data, history = source_folder(), History(home / "history")
    events = pq.read_table(data / "transactions.parquet")
    kept = sorted(pc.unique(events["household_id"]).to_pylist())[::step]
    sample = home / "events.parquet"
    events = events.filter(pc.is_in(events["household_id"], value_set=pa_array(kept)))
    products, bought = pq.read_table(data / "products.parquet"), pc.unique(events["product_id"])
    catalogue = home / "products.parquet"
    pq.write_table(events, sample)
    pq.write_table(
        products if whole else products.filter(pc.is_in(products["product_id"], bought)), catalogue
    )
    for table, file in (("events", sample), ("products", catalogue)):
        load(history, table, [file], mapping_of(table), rejects_dir=home / "rejects")
    for table, row in (("customers", NAMED), ("identities", {"alias": ALIAS, "customer_id": CUSTOMER})):
        file = home / f"{table}.csv"
        file.write_text(f"{','.join(row)}\n{','.join(row.values())}\n", encoding="utf-8")
        mapping = Mapping.model_validate({"columns": {name: name for name in row}})
        load(history, table, [file], mapping, rejects_dir=home / "rejects")


def pa_array(values: list[int]) -> object:
    import pyarrow as pa

    return pa.array(values)
