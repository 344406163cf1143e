"""Build a bento that carries a bundle: `python -m serving.build [BUNDLE]`, else the champion.

`bentoml build` takes what lies in one folder, so the packages and the bundle are copied into one for it. The
bento serves anywhere: `bentoml serve osclms:latest`. OSCLMS_HOME, where set, comes before what it carries.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving.bundle import BundleError, read_manifest
from serving.settings import CARRIED, Settings

ROOT = Path(__file__).parent.parent
PACKAGES = ("features", "serving", "lifecycle")
FILES = ("osclms.py", "bentofile.yaml")


class BuildError(RuntimeError):
    """BentoML did not build; the message is its own."""


def build(bundle: Path) -> str:
    """Build and return the bento's tag. Raises BundleError, BuildError."""
    read_manifest(bundle)
    with tempfile.TemporaryDirectory() as folder:
        gather(Path(folder), bundle)
        return run(Path(folder))


def gather(context: Path, bundle: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, context / name)
    shutil.copytree(bundle, context / CARRIED.name)


def run(context: Path) -> str:
    """`bentoml build` of a folder, with none of our settings: what is built must not depend on them."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("OSCLMS_")}
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(context)]
    done = subprocess.run(command, cwd=context, env=environ, capture_output=True, text=True)  # noqa: S603 - ours
    if done.returncode:
        raise BuildError(f"bentoml build failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[-1].removeprefix("__tag__:")


def main(arguments: list[str]) -> str:
    try:
        return build(Path(arguments[0]) if arguments else Settings.read(os.environ).folder())
    except (BundleError, BuildError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    print(main(sys.argv[1:]))
