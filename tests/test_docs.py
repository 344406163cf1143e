"""Every command in the documentation runs: what a reader types is what is tested."""

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import FEW, SMALL, load_sample
from running import AS_OF, ROOT, Server, free_port, shop, stop

from features.schema import TABLES

PAGES = (
    "README.md",
    "docs/api.md",
    "docs/benchmarks.md",
    "docs/choosing.md",
    "docs/data.md",
    "docs/decisions.md",
    "docs/measuring.md",
    "docs/messages.md",
    "docs/outbox.md",
    "docs/programs.md",
    "docs/replenishment.md",
    "docs/run.md",
    "docs/scores.md",
    "docs/widget.md",
    "docs/worlds.md",
)
BIN = Path(sys.executable).parent
KEPT = 3
# run as they stand elsewhere: by the long tests, or by who runs these
ELSEWHERE = {
    "make run": "test_newcomer.py",
    "make test": "continuous integration itself",
    "python -m serving.build": "test_service.py",
    "bentoml serve osclms:latest --host 127.0.0.1": "test_service.py",
    "python notebooks/data.py": "test_notebooks.py",
    "osclms choose report": "test_choose_run.py",
}
NONE_HERE = {"/v1/vouchers/redeem": "there is no such voucher"}  # the example's
SERVERS = {"osclms serve": "/readyz", "mlflow ui": "/health"}
MAY_END = {"osclms train": (0, KEPT)}


def chapters() -> dict[str, list[str]]:
    """What each page has a reader type, of the longest page each of its chapters."""
    parts = {page: (ROOT / page).read_text() for page in PAGES}
    parts |= {f"README.md, {part.splitlines()[0]}": part for part in parts.pop("README.md").split("\n## ")}
    return {name: typed(text) for name, text in parts.items()}


def typed(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    found = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]
    return found + re.findall(r"`(make [a-z-]+)`", text)


def commands() -> list[str]:
    return [command for page in chapters().values() for command in page]


def local(command: str) -> bool:
    """Whether it is run here, in a folder of the reader's."""
    return command not in ELSEWHERE and command.split()[0] not in ("make", "curl", ".")


ELSEWHERE |= dict.fromkeys(chapters()["docs/scores.md"], "test_scores.py")


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a reader has it: the documentation, and a home of one version, of every fiftieth household."""
    from training.train import train

    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / ".osclms").mkdir()
    load_sample(folder / ".osclms", 50, whole=False)
    assert train(folder / ".osclms", recipes=SMALL, rankings=FEW).verdict.promote
    return folder


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSCLMS_")}
    return kept | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "COLUMNS": "200",
        "BENTOML_HOME": str(folder / "bentoml"),
    }


def ran(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_documentation_has_commands() -> None:
    assert len(commands()) > 20
    assert {c.split()[0] for c in commands()} <= {
        "make",
        "curl",
        "osclms",
        "mlflow",
        "python",
        "bentoml",
        ".",
    }


def test_no_figure_is_left_to_fill_in() -> None:
    for page in PAGES:
        assert not re.findall(r"\b[A-Z]+_TABLE\b", (ROOT / page).read_text()), page


@pytest.mark.parametrize("command", sorted({c for c in commands() if c.startswith("make ")}))
def test_make(command: str) -> None:
    assert ran(f"{command} --dry-run", ROOT).returncode == 0


def test_curl(shop_home: Path, tmp_path: Path) -> None:
    assert shutil.which("curl"), "curl is missing: apt-get install curl"
    url = shop(shop_home).url
    for command in (c for c in commands() if c.startswith("curl ")):
        asked = command.replace("http://127.0.0.1:3000", url).replace("curl -s", "curl -s --fail-with-body")
        done, missing = (
            ran(asked, tmp_path),
            next((says for path, says in NONE_HERE.items() if path in command), None),
        )
        fine = done.returncode == 0 if missing is None else missing in done.stdout
        assert fine, (command, done.stdout, done.stderr)


@pytest.mark.parametrize("chapter", [name for name, page in chapters().items() if any(map(local, page))])
def test_osclms_and_mlflow(desk: Path, tmp_path: Path, chapter: str) -> None:
    """One after the other, as a reader of the chapter would."""
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder, symlinks=True)
    for command in filter(local, chapters()[chapter]):
        server = next((path for start, path in SERVERS.items() if command.startswith(start)), None)
        if server:
            assert answers(command, server, folder), command
            continue
        done = ran(command, folder)
        allowed = next((codes for start, codes in MAY_END.items() if command.startswith(start)), (0,))
        assert done.returncode in allowed, (command, done.stdout[-2000:], done.stderr[-2000:])


def answers(command: str, path: str, folder: Path) -> bool:
    """Whether a server starts and answers. It is stopped again."""
    port = free_port()
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command} --port {port}"], cwd=folder, env=environment(folder), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        return eventually(lambda: reached(f"http://127.0.0.1:{port}{path}"), 90)
    finally:
        stop(Server(path, folder, process))


def eventually(holds: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.2)
    return False


def reached(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def files() -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    yield from (ROOT / name for name in listed.stdout.splitlines())


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
            assert ((ROOT / page).parent / target).exists(), f"{page} → {target}"


def test_placements_are_documented() -> None:
    from serving.placements import PLACEMENTS

    text = (ROOT / "README.md").read_text()
    assert [name for name in PLACEMENTS if f"`{name}`" not in text] == []


def test_tables_are_documented() -> None:
    text = (ROOT / "docs/data.md").read_text()
    assert [name for name in TABLES if f"### {name}" not in text] == []


def test_as_of_is_after_the_data() -> None:
    assert AS_OF > "2018-01-02"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own, at import
def test_the_api_is_described_as_it_is() -> None:
    from serving.reference import PAGE, fresh

    assert PAGE.read_text(encoding="utf-8") == fresh(), "write it anew: python -m serving.reference"
