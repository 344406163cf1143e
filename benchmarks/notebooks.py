"""Run notebooks and write the .ipynb beside each .py, outputs included: python -m benchmarks.notebooks FILE.py …"""

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient


def write(path: Path) -> None:
    """Run a py:percent notebook from its own folder and write its pair.

    What depends on the run alone, such as times and random cell ids, is left out: the same outputs make the same file.
    """
    notebook = jupytext.read(path)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, resources=place, timeout=None, record_timing=False).execute()
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{path.stem}-{number}"
    jupytext.write(notebook, path.with_suffix(".ipynb"))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, flush=True)
        write(Path(name))
