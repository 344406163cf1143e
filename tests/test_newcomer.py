"""What a newcomer does: clone, `make run`, again `make run`. From nothing, on the whole demo data."""

import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from running import ROOT, Server, free_port, stop

pytestmark = pytest.mark.long


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    return folder


def environment() -> dict[str, str]:
    """The machine's own: no setting of ours, no virtual environment."""
    dropped = ("OSCLMS_", "VIRTUAL_ENV", "BENTOML_", "MLFLOW_", "PYTEST_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def served(folder: Path, patience: float) -> tuple[str, float]:
    """`make run` until the page answers: (what it printed, seconds). It is stopped again."""
    port, log, began = free_port(), folder / "run.log", time.monotonic()
    python = shutil.which("python3", path="/usr/bin:/bin") or "python3"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["make", "run", f"PYTHON={python}", f"PORT={port}"], cwd=folder, env=environment(), stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        while time.monotonic() - began < patience:
            assert process.poll() is None, log.read_text()[-4000:]
            if (
                page(f"http://127.0.0.1:{port}/") is not None
                and page(f"http://127.0.0.1:{port}/readyz") is not None
            ):
                return log.read_text(), time.monotonic() - began
            time.sleep(0.5)
        raise AssertionError(f"not ready after {patience} s: {log.read_text()[-4000:]}")
    finally:
        stop(Server("", log, process))


def page(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return None


def test_make_run_twice(tmp_path: Path) -> None:
    folder = clone(tmp_path / "osclms")
    first, took = served(folder, patience=1500)
    assert "1,469,307 rows read" in first
    assert all(name in first for name in ("next_best", "cross_sell", "upsell"))
    assert re.search(r"version 1 promoted", first)
    again, less = served(folder, patience=120)
    assert "rows read" not in again
    assert less < took
