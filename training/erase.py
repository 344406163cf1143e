"""`osclms erase --finish`: removes all that a home and its database still hold of those who were erased.

A tombstone says of an id only that it was erased, so every id that is held anywhere is asked about. Each step
finds for itself what is left to do, and puts a file or a folder in the place of another in one move: killed at
any moment, it is run again. Bundles keep the positions of all customers; where one was, there is a customer
without an id, a purchase or a taste.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from features.history import History
from features.interactions import Ids, used
from features.judge import Row
from serving.bundle import IDS, ROWS, sha256
from serving.consents import history_rows
from serving.identities import identities_now, ids_of
from serving.outgoing import DEAD, OUTBOX, messages_of, stem_of
from serving.people import bar
from serving.ranker import RANKED_SUFFIX
from serving.store import LIVE, Mark, Store
from training.card import PAGE, without_customers
from training.lists import lists_without, signs_of, sweep
from training.publish import (
    ARTIFACT,
    CARDS,
    LOCK_SECONDS,
    fsync_tree,
    link,
    replace,
    training_lock,
    write_atomically,
)

BLANK = b"\x01"  # what no id holds, as it is a control character
NAMED = ("customer_id", "alias")
TORN = (OSError, ValueError, EOFError)  # what reading a damaged file raises
PERSONAL = ("events", "customers", "identities", "consents")


@dataclass(frozen=True)
class Finished:
    """What was removed: ids of the erased that were found, files of the history, bundles and model cards written anew,
    rows of the database, lines of rejects and of lists, messages in files. unread: lists, bundles and cards that could
    not be read, by their place below the home."""

    ids: int = 0
    files: int = 0
    rows: int = 0
    bundles: int = 0
    cards: int = 0
    lines: int = 0
    unread: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.ids:,} ids of the erased found: {self.files:,} files of the history, {self.bundles:,} bundles and "
            f"{self.cards:,} model cards written anew, {self.rows:,} rows of the database and {self.lines:,} lines of "
            "other files removed"
        )


def finish(home: Path, store: Store, *, at: datetime) -> Finished:
    """Remove what is left of the erased. Raises TrainingBusy, HistoryError where a load is running, StoreError.

    A list or a bundle that cannot be read keeps nothing else from being removed.
    """
    history = History(home / "history")
    with training_lock(home), FileLock(home / "registry.lock", timeout=LOCK_SECONDS):
        recover(home)
        shutil.rmtree(home / "staging" / "train", ignore_errors=True)
        with history.loading() as staging:
            bury_all_ids(store, history, at)
            buried = store.graves()
            ids = sorted(filter(buried, everyone(home, history, store)))
            bar(store, history, ids, at)
            lines = outbox_without(home, messages_of(store, ids)) if ids else 0
            signs = signs_of(facts_held(store, history, ids))
            somebody = store.ends("tombstones")["tombstones"] > 0
            listed, unread = lists_without(home, buried, signs) if somebody else (0, ())
            # before what tells their ids is gone, so that a run that was killed here does it again
            cards, spoiled = cards_without(home) if ids else (0, [])
            bundles, torn = bundles_without(home, set(ids))
            files = forgotten_in(history, store, ids, staging) if ids else 0
            rows = store.forget(ids) if ids else 0
            store.shred()
    return Finished(len(ids), files, rows, bundles, cards, lines + listed, (*unread, *torn, *spoiled))


# --- who is meant -----------------------------------------------------------------------------------------


def bury_all_ids(store: Store, history: History, at: datetime) -> None:
    """Whoever was erased under one id was erased under all: also under those that came since."""
    aliases = identities_now(store, history)
    known = {*aliases, *aliases.values()}
    for name in filter(store.graves(), known):
        for other in ids_of(name, aliases):
            store.bury(other, at=at)


def everyone(home: Path, history: History, store: Store) -> set[str]:
    """Every id of a customer that is held."""
    found: set[str] = set().union(*store.named())
    for table in PERSONAL:
        for path in history.files(table):
            columns = [c for c in NAMED if c in pq.read_schema(path).names]
            for column in pq.read_table(path, columns=columns, partitioning=None).columns:
                found |= set(column.unique().to_pylist()) - {None}
    for folder in bundles_of(home):
        with suppress(*TORN):
            found |= set(names_in(folder))
    return found


def names_in(folder: Path) -> list[str]:
    values = np.load(folder / "customers.npy", mmap_mode="r")
    return [raw.decode() for raw in values.tolist() if not raw.endswith(BLANK)]


# --- the history and the database -------------------------------------------------------------------------


def forgotten_in(history: History, store: Store, ids: list[str], staging: Path) -> int:
    """Write the history's files anew without these; how many.

    Where the database was moved up to a row of theirs, the mark goes back to the row before it, as theirs will go.
    """
    tables = {name: {c: ids for c in NAMED if c != "alias" or name == "identities"} for name in PERSONAL}
    staged = [file for name, named in tables.items() for file in history.without(name, named, staging)]
    marks = {name: Mark(*mark) for name, mark in history.manifest.marks.get(store.id, {}).items()}
    held = {name: mark for name, mark in marks.items() if name in LIVE and store.holds(name, mark)}
    moved = {
        name: store.mark_without(name, mark, ids) if name in PERSONAL else mark for name, mark in held.items()
    }
    told = {store.id: {name: list(mark) for name, mark in {**marks, **moved}.items()}} if marks else None
    history.commit(staged, history.manifest.store, staging, told)
    return len(staged)


# --- bundles ----------------------------------------------------------------------------------------------


def bundles_of(home: Path) -> list[Path]:
    """Every folder that holds a bundle; those of MLflow first, as the others may be made from them."""
    folders = [*(home / "mlruns").glob(f"*/artifacts/{ARTIFACT}"), *(home / "bundles").glob("[0-9]*")]
    return sorted((f for f in folders if (f / "customers.npy").exists()), key=lambda f: f.name != ARTIFACT)


def recover(home: Path) -> None:
    """Finish, or take back, what was half done when it was killed."""
    for parent in ((home / "bundles"), *(home / "mlruns").glob("*/artifacts")):
        for old in parent.glob(".old-*"):
            folder = parent / old.name.removeprefix(".old-")
            shutil.rmtree(old) if folder.exists() else old.replace(folder)
        for half in parent.glob(".tmp-*"):
            shutil.rmtree(half)
    sweep(home)


def bundles_without(home: Path, ids: set[str]) -> tuple[int, list[str]]:
    """Write every bundle anew that holds these: (how many were, those that cannot be read, below the home)."""
    count, torn = 0, list[str]()
    for folder in bundles_of(home):
        try:
            count += forgotten_by(folder, ids)
        except TORN:
            shutil.rmtree(folder.with_name(f".tmp-{folder.name}"), ignore_errors=True)
            torn.append(folder.relative_to(home).as_posix())
    return count, torn


def forgotten_by(folder: Path, ids: set[str]) -> bool:
    """Write a bundle anew, so that these customers are gone from it and all others keep their places. A file that was
    not what its hash says is told by it afterwards, too.

    Whoever has the old files open goes on with them.
    """
    values = np.load(folder / "customers.npy")
    gone = np.array([raw.decode() in ids for raw in values.tolist()], bool)
    if not gone.any():
        return False
    fresh = folder.with_name(f".tmp-{folder.name}")
    shutil.copytree(folder, fresh, copy_function=link)
    changed = {
        "customers.npy": blanked(values, gone),
        **bought_without(folder, gone),
        **learned_without(folder, gone),
    }
    for name, array in changed.items():
        (fresh / name).unlink()  # the file is also in the old folder
        np.save(fresh / name, np.ascontiguousarray(array))
    manifest = json.loads((folder / "manifest.json").read_text())  # of an older format, too
    told: dict[str, str] = manifest["files"]
    sound = [name for name in changed if name not in told or told[name] == sha256(folder / name)]
    manifest["files"] |= {name: sha256(fresh / name) for name in sound}
    (fresh / "manifest.json").unlink()
    (fresh / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    fsync_tree(fresh)
    old = folder.with_name(f".old-{folder.name}")
    replace(folder, old)
    replace(fresh, folder)
    shutil.rmtree(old)
    return True


def blanked(values: NDArray[np.bytes_], gone: NDArray[np.bool_]) -> NDArray[np.bytes_]:
    """Ids in their order, with what is no id in place of those that are gone, now or before."""
    found, last = [], b""
    for raw, is_gone in zip(values.tolist(), gone.tolist(), strict=True):
        last = last + BLANK if is_gone or raw.endswith(BLANK) else raw
        found.append(last)
    return np.array(found)


def bought_without(folder: Path, gone: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """The interactions of all others, and the orders that these have."""
    rows = {name: np.load(folder / f"interactions.{name}.npy") for name in ROWS}
    keep = ~np.append(gone, False)[rows["customer"]]  # −1, an anonymous one, lies behind the last
    rows = {name: of[keep] for name, of in rows.items()}
    orders, rows["order"] = used(Ids(np.load(folder / f"{IDS[2]}.npy")), rows["order"])
    return {f"{IDS[2]}.npy": orders.values, **{f"interactions.{name}.npy": of for name, of in rows.items()}}


def learned_without(folder: Path, gone: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """What was learned of customers one by one: nothing of these."""
    found: dict[str, NDArray[Any]] = {}
    for path in folder.glob("*.vectors.customers.npy"):
        found[path.name] = np.where(gone[:, None], np.float32(0), np.load(path))
    for path in folder.glob("*.candidates.indptr.npy"):
        found |= cells_without(folder, path.name.removesuffix("indptr.npy"), gone)
    for path in folder.glob(f"*{RANKED_SUFFIX}"):
        ranked = np.load(path)
        ended = np.zeros((), ranked.dtype)  # of whichever format the bundle is
        ended["item"] = -1
        ranked[gone] = ended
        found[path.name] = ranked
    return found


def cells_without(folder: Path, name: str, gone: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    data, indices, indptr = (np.load(folder / f"{name}{part}.npy") for part in ("data", "indices", "indptr"))
    length = np.diff(indptr)
    keep = np.repeat(~gone, length)
    ends = np.append(0, np.cumsum(np.where(gone, 0, length))).astype(indptr.dtype)
    return {f"{name}data.npy": data[keep], f"{name}indices.npy": indices[keep], f"{name}indptr.npy": ends}


# --- other files ------------------------------------------------------------------------------------------


def facts_held(store: Store, history: History, ids: Sequence[str]) -> list[Row]:
    """Every row of facts of these ids, by which lists may name them."""
    return [*history_rows(history, "customers", ids), *store.of("customers", ids)] if ids else []


def cards_without(home: Path) -> tuple[int, list[str]]:
    """Take the customers in words from every model card: (how many had any, those that cannot be read or written)."""
    count, torn = 0, list[str]()
    for path in sorted([*(home / CARDS).glob("*.html"), *(home / "mlruns").glob(f"*/artifacts/{PAGE}")]):
        try:
            page = path.read_text(encoding="utf-8")
            if (left := without_customers(page)) != page:
                write_atomically(path, left)
                count += 1
        except (OSError, ValueError):
            torn.append(path.relative_to(home).as_posix())
    return count, torn


def outbox_without(home: Path, messages: set[str]) -> int:
    """Remove the files of these messages, and their lines among the dead; how many. What a killed worker has left half
    written has the message's name, too."""
    stems, gone = {stem_of(name) for name in messages}, 0
    for path in (home / OUTBOX).glob("*/*/*"):
        if path.name.lstrip(".").split(".")[0] in stems:
            path.unlink()
            gone += 1
    dead = home / OUTBOX / DEAD
    lines = dead.read_text(encoding="utf-8").splitlines() if dead.exists() else []
    kept = [line for line in lines if named_in(line) not in messages]
    if len(kept) < len(lines):
        write_atomically(dead, "".join(f"{line}\n" for line in kept))
    return gone + len(lines) - len(kept)


def named_in(line: str) -> str | None:
    """The message of a line of the dead; one that a killed worker cut has none."""
    try:
        found: str | None = json.loads(line).get("message_id")
    except ValueError:
        return None
    return found
