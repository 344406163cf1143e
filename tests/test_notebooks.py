"""Notebooks run from the first cell to the last, in Jupyter and without, and are kept with what they showed."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from running import ROOT

NAMES = ("data", "models", "placements", "own_data")
PICTURES = {"data": 6, "models": 5, "placements": 2, "own_data": 0}
SHOWS = re.compile(r"\b(display|print)\(")
LARGEST = 1_500_000  # bytes of all notebooks together
ELSEWHERE = re.compile(r"(?<![\w.:/<])/(?:Users|home|mnt|opt|private|root|srv|tmp|usr|var|work)/|[A-Z]:\\\\")
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.\w+")


def source(name: str) -> Path:
    return ROOT / "notebooks" / f"{name}.py"


def kept(name: str) -> Any:
    return nbformat.read(source(name).with_suffix(".ipynb"), as_version=4)


def texts(notebook: Any) -> Iterator[str]:
    """All that the outputs tell in words."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            yield from (told for kind, told in output.get("data", {}).items() if kind.startswith("text/"))


def environment(folder: Path, home: Path) -> dict[str, str]:
    """Jupyter's own files go to `folder`; a few questions are enough."""
    own = {"IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config"}
    places = {name: str(folder / place) for name, place in own.items()}
    return {**os.environ, **places, "OSCLMS_HOME": str(home), "QUESTIONS": "40", "TMPDIR": str(folder)}


def sound(notebook: Any) -> None:
    """Every cell was run, in order and without complaint, and showed what it should."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"], (
            cell.source
        )
        assert bool(cell.outputs) == bool(SHOWS.search(cell.source)), cell.source
        assert "execution" not in cell.metadata


def test_every_notebook_is_known() -> None:
    assert {p.stem for p in (ROOT / "notebooks").glob("*.py")} == set(NAMES)
    assert {p.stem for p in (ROOT / "notebooks").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "own_data"])
def test_plain_python_runs_it(name: str, shop_home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(source(name))],
        cwd=tmp_path, env=environment(tmp_path, shop_home), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert done.stdout.count("Figure(") >= PICTURES[name]


def test_jupyter_runs_the_other_and_leaves_nothing(shop_home: Path, tmp_path: Path) -> None:
    """By `make notebooks`, from a folder of its own: a kernel that loads, trains and asks."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    copy = Path(shutil.copy(source("own_data"), folder))
    done = subprocess.run(
        ["make", "--assume-old=.venv/.ready", "notebooks", f"BIN={Path(sys.executable).parent}", f"NOTEBOOKS={copy}"],
        cwd=ROOT, env=environment(tmp_path, shop_home), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = nbformat.read(copy.with_suffix(".ipynb"), as_version=4)
    sound(made)
    assert [cell.source for cell in made.cells] == [cell.source for cell in kept("own_data").cells]
    assert sorted(p.name for p in folder.iterdir()) == ["own_data.ipynb", "own_data.py"]
    assert not list(tmp_path.glob("osclms-*"))


@pytest.mark.parametrize("name", NAMES)
def test_pair(name: str) -> None:
    """The .ipynb holds the cells of its .py, and Jupytext knows them as a pair."""
    written = jupytext.read(source(name))
    assert [(c.cell_type, c.source) for c in kept(name).cells] == [
        (c.cell_type, c.source) for c in written.cells
    ]
    assert (
        kept(name).metadata["jupytext"]["formats"]
        == written.metadata["jupytext"]["formats"]
        == "ipynb,py:percent"
    )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_kept(name: str) -> None:
    notebook = kept(name)
    nbformat.validate(notebook)
    sound(notebook)
    shown = [o for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert len(shown) >= PICTURES[name]
    assert {c.cell_type for c in notebook.cells[:2]} == {"markdown", "code"}, "a story begins in words"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_tell_nothing_of_where_or_whom(name: str) -> None:
    for told in texts(kept(name)):
        assert not ELSEWHERE.findall(told)
        assert not ADDRESS.findall(told)
        assert "Warning" not in told
        assert "\x1b" not in told


def test_they_are_small() -> None:
    assert sum(p.stat().st_size for p in (ROOT / "notebooks").iterdir()) < LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_they_define_nothing(name: str) -> None:
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    assigned = (ast.Assign, ast.AnnAssign, ast.NamedExpr)
    for node in ast.walk(ast.parse(source(name).read_text())):
        assert not isinstance(node, defined), ast.unparse(node)
        assert not (isinstance(node, assigned) and isinstance(node.value, ast.Lambda)), ast.unparse(node)
