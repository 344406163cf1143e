"""What a version reaches in a window that it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from features.history import History
from features.interactions import seconds
from serving.bundle import save_data
from serving.engine import Engine
from training import jobs
from training.evaluate import Answers, Audit, index_recall
from training.split import AUDITS, known
from training.train import COMPARED, SEED, Say, TrainError, as_dicts, asked, finished, recipe_dicts, silent

ALL = 10**9


@dataclass(frozen=True)
class Reading:
    version: str
    start: datetime
    end: datetime
    recipes: dict[str, dict[str, Answers]]
    audits: list[Audit]
    recall: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "window": [self.start.isoformat(), self.end.isoformat()],
            "recipes": recipe_dicts(self.recipes),
            "placements": as_dicts(self.audits),
            "faiss_recall_at_10": self.recall,
        }


def read_window(
    home: Path,
    folder: Path,
    start: datetime,
    end: datetime,
    *,
    placements: Sequence[str] = (),
    processes: int = 2,
    seed: int = SEED,
    say: Say = silent,
) -> Reading:
    """Ask the bundle in `folder` every question of the window, and compare its answers with what was bought.

    Only the named placements where any is. Raises TrainError for a window that starts before the bundle's
    `data_until`: it has learned from it.
    """
    engine = Engine.load(folder)
    check_window(engine, start, end)
    data = History(home / "history").at_once(lambda history: known(history, end))
    if not (data.interactions.at >= seconds(start)).any():
        raise TrainError(
            f"nothing was bought from {start.isoformat()} to {end.isoformat()}: choose another window"
        )
    rows = [n for n, row in enumerate(AUDITS) if not placements or row.placement in placements]
    names = [name for name in COMPARED if name in engine.models and not placements]
    with TemporaryDirectory() as work, jobs.workers(processes) as pool:
        later = jobs.Later(Path(work), end, start)
        save_data(later.folder, data.catalog, data.interactions)
        alone = [pool.submit(jobs.recipe_answers, folder, later, n, most=ALL, seed=seed) for n in names]
        placed = [pool.submit(jobs.audit, folder, later, n, most=ALL, seed=seed) for n in rows]
        recipes = asked(dict(zip(names, finished(alone, "comparing recipes", say), strict=True)))
        audits = [a for a in finished(placed, "auditing placements", say) if a is not None]
    return Reading(engine.version, start, end, recipes, audits, index_recall(engine, seed=seed))


def check_window(engine: Engine, start: datetime, end: datetime) -> None:
    if end <= start:
        raise TrainError(f"the window ends at {end.isoformat()}, which is not after {start.isoformat()}")
    if start < engine.data_until:
        raise TrainError(
            f"version {engine.version} has learned from all before {engine.data_until.isoformat()}, the window starts "
            f"at {start.isoformat()}: train with `--until {start:%Y-%m-%d}` first, or choose a later window"
        )
