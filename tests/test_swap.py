"""A promoted champion is served by every worker within seconds; one that cannot be served changes nothing."""

import json
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import httpx
import pytest
from running import AS_OF, start, stop

from lifecycle.programs import policy
from serving import swap
from serving.bundle import BundleError, Edition, edition
from serving.placements import PLACEMENTS, read_placements
from serving.store import StoreError

WITHIN = 20.0  # seconds, with room for a busy machine; two looks and a load take a few


def promoted(home: Path, version: str) -> None:
    """As `osclms promote` does: replaced atomically."""
    (home / "next").write_text(version + "\n")
    (home / "next").replace(home / "champion")


def another(home: Path, version: str) -> Path:
    """The same bundle under another version."""
    folder = home / "bundles" / version
    shutil.copytree(home / "bundles" / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    return folder


def until(told: Counter[str], value: str, least: int) -> bool:
    deadline = time.monotonic() + WITHIN
    while told[value] < least and time.monotonic() < deadline:
        time.sleep(0.05)
    return told[value] >= least


def test_a_swap_under_load_fails_no_request_and_mixes_none(shop_home: Path, tmp_path: Path) -> None:
    home, ended = tmp_path / "home", Event()
    shutil.copytree(shop_home, home)
    other, broken = another(home, "2"), another(home, "3")
    with (broken / "next_best.ranked.npy").open("r+b") as file:  # what of it is read looks like a ranking
        file.seek(-1_600, 2)
        file.write(bytes(800))
    (tmp_path / "bentoml").mkdir()
    settings = {"home": str(home), "as_of": AS_OF, "workers": "2"}
    server = start("serving.service:Service", tmp_path / "bentoml", settings)
    statuses, versions, mixed = Counter[int](), Counter[str](), Counter[bool]()

    def asks(_: int) -> None:
        while not ended.is_set():
            with httpx.Client(base_url=server.url, timeout=30) as http:  # a new connection: any worker
                for _ in range(5):
                    response = http.get(
                        "/v1/messages/thank_you", params={"customer_id": "1", "agreed": "true"}
                    )
                    statuses[response.status_code] += 1
                    if response.status_code == 200:
                        told = {of["model_version"] for of in response.json()["lists"]}
                        mixed[len(told) > 1] += 1
                        versions.update(told)

    try:
        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(asks, n) for n in range(4)]
            assert until(versions, "1", 20)
            promoted(home, "2")
            assert until(versions, "2", 20)
            time.sleep(2 * swap.EVERY + 2)  # by now every worker has looked
            before = Counter(versions)
            promoted(home, "3")
            time.sleep(2 * swap.EVERY + 2)
            after = versions - before
            metrics = httpx.get(server.url + "/metrics").text
            ended.set()
            for one in asking:
                one.result()
    finally:
        ended.set()
        stop(server)
    assert set(statuses) == {200} and set(mixed) == {False} and other.exists()
    assert set(after) == {"2"}
    refused = next(line for line in metrics.splitlines() if line.startswith("osclms_champion_refused_total"))
    assert float(refused.split()[-1]) == 2  # once by each worker
    assert f"bundle {broken}: next_best.ranked.npy is not what was written" in server.log.read_text()


def test_what_cannot_be_made_waits_for_the_next_and_is_tried_once() -> None:
    named = [Path("1"), Path("2"), Path("2"), Path("2"), Path("3"), Path("3")]
    used, tried, ended = list[Path](), list[Path](), Event()

    def find() -> Path:
        if not named:
            ended.set()
            raise BundleError("nothing is named")
        return named.pop(0)

    def make(folder: Path) -> Path:
        tried.append(folder)
        if folder.name == "2":
            raise ValueError("household-4711-secret")
        return folder

    watcher = Thread(
        target=swap.watch, args=(Edition(Path("1")),),
        kwargs={"find": find, "make": make, "use": used.append, "ended": ended, "every": 0.001},
    )  # fmt: skip
    watcher.start()
    watcher.join(30)
    assert not watcher.is_alive()
    assert (tried, used) == ([Path("2"), Path("3")], [Path("3")])


def test_an_error_of_anothers_is_logged_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    ended = Event()

    def make(folder: Path) -> Path:
        ended.set()
        raise ValueError("household-4711-secret")

    swap.watch(Edition(Path("1")), find=lambda: Path("2"), make=make, use=print, ended=ended, every=0.001)
    assert "version 2 is not served" in caplog.text and "ValueError" in caplog.text
    assert "4711" not in caplog.text


def placed(home: Path) -> object:
    return read_placements(home / "placements.toml", PLACEMENTS)


FILES = pytest.mark.parametrize(
    ("name", "wrong", "right", "why", "read"),
    [
        (
            "placements.toml", "[next_best]\nlimit = 0\n", "[next_best]\nlimit = 1\n",
            "placements.toml, line 2: next_best.limit: Input should be greater", placed,
        ),
        ("policy.yaml", "sede: 4\n", "seed: 4\n", "policy.yaml:1: sede: Extra inputs", policy),
    ],
    ids=["placements", "policy"],
)  # fmt: skip


@FILES
def test_what_is_refused_for_a_file_is_tried_again_when_that_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, wrong: str, right: str, why: str, read: Any
) -> None:
    looks, tried, used, ended = list[int](), list[str](), list[object](), Event()

    def find() -> Path:
        looks.append(1)
        if len(looks) in (1, 3, 5):
            (tmp_path / name).write_text(wrong + "\n" * len(looks) if len(looks) < 5 else right)
        return Path("2")

    def make(folder: Path) -> object:
        tried.append(folder.name)
        return read(tmp_path)

    def use(made: object) -> None:
        used.append(made)
        ended.set()

    swap.watch(Edition(Path("1")), find=find, make=make, use=use, ended=ended, every=0.001)
    assert tried == ["2"] * 3 and len(looks) == 5 and len(used) == 1, "once for each writing of the file"
    assert [why in record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        True
    ] * 2


def test_a_champion_waits_for_the_database() -> None:
    away, used, ended = [True, True, False], list[Path](), Event()

    def make(folder: Path) -> Path:
        if away.pop(0):
            raise StoreError("the database cannot be used")
        return folder

    def use(folder: Path) -> None:
        used.append(folder)
        ended.set()

    swap.watch(Edition(Path("1")), find=lambda: Path("2"), make=make, use=use, ended=ended, every=0.001)
    assert used == [Path("2")] and not away


def test_a_champion_that_was_written_anew_is_taken_whole(tmp_path: Path) -> None:
    """Under the same name; one that is replaced while it is read is read again."""
    folder, ended, made, used, dropped = tmp_path / "1", Event(), list[int](), list[int](), list[int]()

    def write() -> None:
        fresh = tmp_path / ".tmp-1"
        fresh.mkdir()
        (fresh / "manifest.json").write_text("{}")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)

    def make(_: Path) -> int:
        made.append(len(made))
        if len(made) == 1:
            write()
            raise ValueError("half of it is gone")
        if len(made) == 2:
            write()
        return made[-1]

    def use(which: int) -> None:
        used.append(which)
        Timer(0.05, ended.set).start()

    write()
    served = edition(folder)
    write()
    swap.watch(served, find=lambda: folder, make=make, use=use, drop=dropped.append, ended=ended, every=0.001)
    assert (made, used) == ([0, 1, 2], [2]), "and then it is the one that is served"
    assert dropped == [1], "what was made of half of it is let go"


def test_a_champion_that_is_just_being_replaced_is_waited_for(tmp_path: Path) -> None:
    ended, looks = Event(), list[int]()

    def find() -> Path:
        looks.append(1)
        if len(looks) == 3:
            ended.set()
        return tmp_path / "1"

    def make(folder: Path) -> None:
        pytest.fail(f"{folder} is not there yet")

    swap.watch(Edition(tmp_path / "1", 7, 7), find=find, make=make, use=print, ended=ended, every=0.001)
