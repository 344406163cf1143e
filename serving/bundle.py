"""The folder that training writes and serving reads: plain arrays, parquet and JSON, described by a manifest."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from features.catalog import Catalog
from features.history import Marks, Store
from features.interactions import Ids, Interactions, seconds
from features.pairs import Tallies, facts_of
from serving.fitted import Fitted, load_fitted, mapped
from serving.placements import Placement, models_in_use
from serving.ranker import Ranker, load_rankers, load_rankings

FORMAT = 6
CHAMPION = "champion"
FACTS, TALLIES = "items.facts.npy", "items.tallies.npy"
IDS = ("customers", "items", "orders")
ROWS = ("customer", "item", "order", "at", "quantity", "paid", "discount")


class BundleError(RuntimeError):
    """A bundle that cannot be served; the message says what to do."""


class Edition(NamedTuple):
    """A bundle's folder and its manifest's file; 0 where there is none."""

    folder: Path
    inode: int = 0
    written: int = 0


class Manifest(BaseModel):
    """What a bundle is and where it came from. Holds no moment but `data_until`: same data, same manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    version: str
    data_until: datetime
    store: Store
    recipes: dict[str, dict[str, Any]]
    placements: dict[str, Placement]
    rankings: dict[str, dict[str, Any]] = {}  # how the ranker of a placement was learned
    marks: Marks = {}  # how far each database of what came in live was in what it has learned from
    fingerprint: str
    git_revision: str
    metrics: dict[str, float]
    files: dict[str, str]  # name -> sha256


@dataclass(frozen=True)
class Bundle:
    """facts: what all customers say of each item, columns features.pairs.ITEM and what of them is promoted.
    tallies: of that, what purchases alone say, as it was learned, whoever is erased since: `Tallies.with_nobody`,
    float64 [fields, n_items + 1]."""

    manifest: Manifest
    catalog: Catalog
    interactions: Interactions
    models: dict[str, Fitted]
    facts: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    tallies: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0), np.float64))
    rankers: dict[str, Ranker] = field(default_factory=dict)
    rankings: dict[str, NDArray[Any]] = field(default_factory=dict)  # made beforehand, by placement

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Open a bundle, arrays memory-mapped read-only, each file as its hash says.

        Raises BundleError where the folder is no bundle, of a format this version does not read, or damaged.
        """
        manifest = read_manifest(folder)
        check_files(folder, manifest)
        try:
            catalog, interactions = load_data(folder, until=seconds(manifest.data_until))
            models = load_fitted(folder)
            facts, tallies = mapped(folder / FACTS), mapped(folder / TALLIES)
            rankers, rankings = load_rankers(folder), load_rankings(folder)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise BundleError(
                f"bundle {folder} is damaged ({error}): promote another version, or retrain"
            ) from error
        if missing := models_in_use(manifest.placements) - models.keys():
            raise BundleError(f"bundle {folder} lacks the models {', '.join(sorted(missing))}: retrain")
        return cls(manifest, catalog, interactions, models, facts, tallies, rankers, rankings)


def read_manifest(folder: Path) -> Manifest:
    path = folder / "manifest.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no bundle: it has no manifest.json; run `osclms train`") from error
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} cannot be read ({error}): promote another version, or retrain") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else None
        raise BundleError(
            f"bundle {folder.name} is format {found}, this version reads {FORMAT}: "
            "retrain with `osclms train`, or go back with `osclms promote --previous`"
        )
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{path} breaks the manifest's schema: {error.errors()[0]}") from error


def edition(folder: Path) -> Edition:
    """Which bundle lies in a folder, and which writing of it: erasure puts another in its place."""
    try:
        about = (folder / "manifest.json").stat()
    except OSError:
        return Edition(folder)
    return Edition(folder, about.st_ino, about.st_mtime_ns)


def check_files(folder: Path, manifest: Manifest) -> None:
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"bundle {folder} lacks {name}: promote another version, or retrain")
        if sha256(path) != digest:
            raise BundleError(
                f"bundle {folder}: {name} is not what was written: promote another version, or retrain"
            )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_data(
    folder: Path, catalog: Catalog, interactions: Interactions, tallies: Tallies | None = None
) -> None:
    """Write ids, interactions and catalog: the part of a bundle that recipes are fitted on. `tallies` are of the
    interactions where none are given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in IDS:
        np.save(folder / f"{name}.npy", getattr(interactions, name).values)
    for name in ROWS:
        np.save(folder / f"interactions.{name}.npy", getattr(interactions, name))
    tallies = tallies or Tallies.with_nobody(interactions)
    np.save(folder / TALLIES, np.array(list(vars(tallies).values()), np.float64))
    np.save(folder / FACTS, facts_of(catalog, tallies))
    pq.write_table(catalog.table, folder / "catalog.parquet", compression="zstd")


def load_data(folder: Path, *, until: int) -> tuple[Catalog, Interactions]:
    customers, items, orders = (Ids(mapped(folder / f"{name}.npy")) for name in IDS)
    rows = {name: mapped(folder / f"interactions.{name}.npy") for name in ROWS}
    catalog = Catalog(items, pq.read_table(folder / "catalog.parquet"))
    return catalog, Interactions(customers, items, orders, **rows, until=until)


def write_manifest(folder: Path, **about: Any) -> Manifest:
    """Seal a bundle: hash every file in the folder and write `manifest.json` last."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    manifest = Manifest(files={name: sha256(folder / name) for name in names}, **about)
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n")
    return manifest


def champion(home: Path) -> Path:
    """The folder of the bundle that the file `champion` names."""
    try:
        version = (home / CHAMPION).read_text().strip()
    except FileNotFoundError as error:
        made = sorted((p.name for p in (home / "bundles").glob("[0-9]*")), key=int)
        way = f"`osclms promote {made[-1]} --force`, as the gate kept it" if made else "run `osclms train`"
        raise BundleError(f"{home} has no champion yet: {way}") from error
    return home / "bundles" / version
