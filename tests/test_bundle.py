"""The folder between training and serving."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from serving.bundle import FORMAT, Bundle, BundleError, champion, read_manifest
from serving.engine import Engine
from serving.fitted import Fitted
from serving.placements import PLACEMENTS, models_in_use

ARRAYS = ("customer", "item", "order", "at", "quantity", "paid")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "41"
    tiny.bundle(folder, tiny.GROCERIES, tiny.GROCER, version="41")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A bundle to be spoilt."""
    return shutil.copytree(whole, tmp_path / "41")


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_is_what_is_loaded(whole: Path) -> None:
    data, found = tiny.known(tiny.GROCERIES, tiny.GROCER), Bundle.load(whole)
    for name in ARRAYS:
        saved, read = getattr(data.interactions, name), getattr(found.interactions, name)
        assert saved.dtype == read.dtype and np.array_equal(saved, read), name
    for name in ("customers", "items", "orders"):
        assert np.array_equal(
            getattr(data.interactions, name).values, getattr(found.interactions, name).values
        )
    assert found.interactions.until == data.interactions.until
    assert found.catalog.table.equals(data.catalog.table)
    assert found.catalog.title == data.catalog.title


def test_models_come_back_as_they_were_fitted(whole: Path) -> None:
    data, found = tiny.known(tiny.GROCERIES, tiny.GROCER), Bundle.load(whole).models
    assert set(found) == models_in_use(PLACEMENTS)
    for name, model in found.items():
        fresh: Fitted = tiny.TINY[name].fit(data.interactions, data.catalog)
        assert type(fresh) is type(model)
        for key, array in fresh.arrays().items():
            assert np.array_equal(array, model.arrays()[key]), (name, key)


def test_the_manifest_says_where_it_came_from(whole: Path) -> None:
    manifest = read_manifest(whole)
    assert (manifest.format, manifest.version, manifest.data_until) == (FORMAT, "41", tiny.UNTIL)
    assert manifest.store.currency == "EUR"
    assert manifest.recipes["als"] == {"recipe": "Als", **vars(tiny.TINY["als"])}
    assert manifest.placements == PLACEMENTS
    assert manifest.metrics == {"figure": 0.5}
    assert set(manifest.files) == {path.name for path in whole.iterdir()} - {"manifest.json"}


def test_the_same_data_makes_the_same_bytes_so_no_clock_is_in_them(whole: Path, tmp_path: Path) -> None:
    again = tmp_path / "41"
    tiny.bundle(again, tiny.GROCERIES, tiny.GROCER, version="41")
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }
    assert str(datetime.now(UTC).year) not in (whole / "manifest.json").read_text().replace("2026-03-01", "")


def test_a_bundle_holds_no_pickle(whole: Path) -> None:
    assert {path.suffix for path in whole.iterdir()} == {".npy", ".parquet", ".json"}
    for path in whole.glob("*.npy"):
        np.load(path, allow_pickle=False)


def test_arrays_are_shared_and_cannot_be_written(whole: Path) -> None:
    found = Bundle.load(whole)
    with pytest.raises(ValueError, match="read-only"):
        found.interactions.customer[0] = 3
    with pytest.raises(ValueError, match="read-only"):
        found.models["als"].arrays()["items"][0] = 0


@pytest.mark.parametrize("number", [0, FORMAT + 1, None, "1"])
def test_another_format_is_refused_with_the_way_out(folder: Path, number: object) -> None:
    rewrite(folder, format=number)
    with pytest.raises(BundleError) as refused:
        Bundle.load(folder)
    assert str(refused.value) == (
        f"bundle 41 is format {number}, this version reads {FORMAT}: "
        "retrain with `osclms train`, or go back with `osclms promote --previous`"
    )


def test_another_format_is_told_before_its_unknown_fields_are(folder: Path) -> None:
    rewrite(folder, format=FORMAT + 1, shape_of_things_to_come=True)
    with pytest.raises(BundleError, match=f"is format {FORMAT + 1}"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["[]", "7", "null"])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="format None"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", '{"format": 1', "\x00"])
def test_a_manifest_cut_off_is_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(
        BundleError, match=r"manifest\.json cannot be read .*: promote another version, or retrain"
    ):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("field", "changes"),
    [("version", {"version": None}), ("data_until", {"data_until": "soon"}), ("extra", {"extra": 1})],
)
def test_a_manifest_that_breaks_the_schema_names_the_field(
    folder: Path, field: str, changes: dict[str, object]
) -> None:
    rewrite(folder, **changes)
    with pytest.raises(BundleError, match=rf"manifest\.json breaks the manifest's schema.*'{field}'"):
        Bundle.load(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is no bundle: it has no manifest\.json; run `osclms train`"):
        Bundle.load(tmp_path / "nowhere")


def every_file(whole: Path) -> list[str]:
    return sorted(read_manifest(whole).files)


def test_every_missing_file_is_named(whole: Path, tmp_path: Path) -> None:
    for name in every_file(whole):
        folder = shutil.copytree(whole, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(BundleError, match=rf"lacks {name}: promote another version, or retrain"):
            Bundle.load(folder)


def test_every_file_cut_off_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in every_file(whole):
        folder = shutil.copytree(whole, tmp_path / name)
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BundleError, match=rf"{name} is not what was written: promote another version"):
            Bundle.load(folder)


def test_a_file_that_was_written_empty_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in every_file(whole):
        folder = shutil.copytree(whole, tmp_path / name)
        (folder / name).write_bytes(b"")
        rewrite(folder, files=read_manifest(whole).files | {name: hashlib.sha256(b"").hexdigest()})
        with pytest.raises(BundleError, match=r"is damaged .*: promote another version, or retrain"):
            Bundle.load(folder)


def test_every_changed_byte_is_found(whole: Path, tmp_path: Path) -> None:
    for name in every_file(whole):
        folder = shutil.copytree(whole, tmp_path / name)
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError, match=f"{name} is not what was written"):
            Engine.load(folder)


def test_the_champion_is_the_bundle_that_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "champion").write_text("12\n")
    assert champion(tmp_path) == tmp_path / "bundles" / "12"


def test_without_a_champion_the_message_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no champion yet: run `osclms train`"):
        champion(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "../..", "a/b"])
def test_a_champion_file_that_names_no_version_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "champion").write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(champion(tmp_path))
