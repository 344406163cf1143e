"""Notebooks run from the first cell to the last, on the test shop."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT


@pytest.mark.parametrize("notebook", sorted(p.name for p in (ROOT / "notebooks").glob("*.py")))
def test_notebook(notebook: str, shop_home: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "notebooks" / notebook)],
        env={**os.environ, "OSCLMS_HOME": str(shop_home)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "next_best" in done.stdout
