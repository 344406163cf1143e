"""Two versions side by side."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tiny import ABOUT, UNTIL

import osclms
from serving.bundle import write_manifest
from serving.placements import PLACEMENTS, Placement
from training.comparison import compare, flat
from training.publish import Registry, RegistryError

ROW = PLACEMENTS["next_best"]
FEWER = replace(
    ROW, sources=(ROW.sources[0], replace(ROW.sources[1], weight=0.5), *ROW.sources[3:]), limit=12
)
OLD: dict[str, dict[str, Any]] = {"als": {"name": "Als", "factors": 64}, "habit": {"name": "Habit"}}
NEW: dict[str, dict[str, Any]] = {"als": {"name": "Als", "factors": 32}, "ease": {"name": "Ease"}}
PLACE = "next_best.purchases"


def span(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


def published(
    registry: Registry, placement: Placement, recipes: dict[str, Any], ndcg: float, day: int, report: bool
) -> None:
    version = registry.next_version()
    folder = registry.home / "made" / version
    folder.mkdir(parents=True)
    write_manifest(
        folder, version=version, data_until=UNTIL + timedelta(days=day), recipes=recipes,
        placements={placement.name: placement}, rankings={"next_best": {"rounds": 100 * int(version)}},
        metrics={f"{PLACE}.accuracy": ndcg, f"{PLACE}.ndcg": ndcg, f"{PLACE}.coverage": 1234.0, f"only.{version}": 1.0},
        **ABOUT,
    )  # fmt: skip
    told = {"placements": {PLACE: {"primary": "ndcg", "ndcg": span(ndcg), "by_stage": {}, "coverage": 3.0}}}
    registry.register(
        folder, run_id=registry.log_run("train", artifacts={"report.json": told} if report else None)
    )


@pytest.fixture(scope="module")
def home(shared: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(home: Path) -> None:
        registry = Registry(home)
        published(registry, ROW, OLD, 0.3, 0, True)
        published(registry, FEWER, NEW, 0.35, 7, True)
        published(registry, ROW, OLD, 0.4, 0, False)

    return shared("compared", make)


def test_figures_stand_side_by_side(home: Path) -> None:
    found = {p.name: p for p in compare(home, "1", "2").figures}
    ndcg = found[f"{PLACE}.ndcg"]
    assert (ndcg.first, ndcg.second) == (0.3, 0.35)
    assert ndcg.difference == pytest.approx(0.05)
    assert (found["only.1"].second, found["only.1"].difference) == (None, None)
    assert found["only.2"].first is None


def test_intervals_are_told_where_both_have_them(home: Path) -> None:
    both = compare(home, "1", "2").intervals
    assert set(both) == {f"{PLACE}.ndcg", f"{PLACE}.accuracy"}
    assert [i.mean for i in both[f"{PLACE}.accuracy"]] == [0.3, 0.35]
    assert compare(home, "1", "3").intervals == {}


def test_only_what_was_set_otherwise_is_told(home: Path) -> None:
    told = {p.name: (p.first, p.second) for p in compare(home, "1", "2").settings}
    gone = {name: pair for name, pair in told.items() if "ease:customer" in name}
    assert gone.pop("placements.next_best.sources.ease:customer.weight") == (0.10, None)
    assert {name: pair for name, pair in told.items() if name not in gone and "ease:" not in name} == {
        "recipes.als.factors": (64, 32), "recipes.habit.name": ("Habit", None), "recipes.ease.name": (None, "Ease"),
        "placements.next_best.sources.als:customer.weight": (0.10, 0.5), "placements.next_best.limit": (10, 12),
        "rankings.next_best.rounds": (100, 200),
    }  # fmt: skip
    assert compare(home, "1", "1").settings == ()


def test_paths_name_sources_and_count_steps() -> None:
    value = {
        "a": [{"model": "als", "asks": "customer", "take": 1}],
        "b": [{"c": 2}],
        "d": ["x", "y"],
        "e": {},
    }
    assert dict(flat(value, "")) == {
        "a.als:customer.model": "als", "a.als:customer.asks": "customer", "a.als:customer.take": 1, "b.0.c": 2,
        "d": ["x", "y"], "e": {},
    }  # fmt: skip


def test_a_version_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(RegistryError, match=r"there is no version 9; known: 1, 2, 3"):
        compare(home, "1", "9")


def test_a_version_without_its_bundle_is_named(home: Path, tmp_path: Path) -> None:
    for name in ("mlflow.db",):
        (tmp_path / name).write_bytes((home / name).read_bytes())
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "2").symlink_to(home / "bundles" / "2")
    with pytest.raises(RegistryError, match=r"1 is gone.* version 1; .*compare others of 2$"):
        compare(tmp_path, "1", "2")


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["osclms", *map(str, words)])
    monkeypatch.setattr(osclms.out, "width", 200)
    with pytest.raises(SystemExit) as ended:
        osclms.main()
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_verb_tells_both(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, monkeypatch, "compare", "1", "2", "--home", home, "--json")
    found = json.loads(out)
    assert code == 0 and found["versions"] == ["1", "2"]
    assert found["figures"][f"{PLACE}.ndcg"]["values"] == [0.3, 0.35]
    assert found["figures"][f"{PLACE}.ndcg"]["intervals"] == [
        pytest.approx(span(0.3)),
        pytest.approx(span(0.35)),
    ]
    assert found["configuration"]["recipes.als.factors"] == [64, 32]
    code, out, _ = said(capsys, monkeypatch, "compare", "1", "2", "--home", home)
    assert (
        code == 0
        and "0.300 [0.200, 0.400]" in out
        and "1,234 → 1,234" in out
        and "recipes.als.factors: 64 → 32" in out
    )
    assert "judged on other days" in out
    code, _, err = said(capsys, monkeypatch, "compare", "1", "9", "--home", home)
    assert code == 1 and "there is no version 9" in err
