"""recipes.toml: read strictly, told by key what is wrong, and used by training."""

from pathlib import Path
from typing import Any

import pytest
from worlds import checkerboard

from serving.placements import PLACEMENTS
from training.defaults import defaults
from training.models import RECIPES, Habit
from training.settings import FILE, SettingsError, read_settings, with_settings, write_settings
from training.train import Plan, train


def written(home: Path, text: str) -> Path:
    (home / FILE).write_text(text, encoding="utf-8")
    return home


def test_without_a_file_there_is_nothing_to_set(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == {}


def test_settings_take_the_place_of_a_recipes_own(tmp_path: Path) -> None:
    home = written(tmp_path, "[habit]\nhalf_life = 60\n[als]\nfactors = 32\n")
    found = read_settings(home)
    assert found == {"habit": {"half_life": 60.0}, "als": {"factors": 32}}
    assert isinstance(found["habit"]["half_life"], float)
    recipes = with_settings(RECIPES, found)
    assert recipes["habit"] == Habit(half_life=60.0)
    assert (recipes["als"].factors, recipes["als"].alpha) == (32, RECIPES["als"].alpha)  # type: ignore[attr-defined]
    assert all(recipes[name] == RECIPES[name] for name in RECIPES if name not in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("habit = ", "is no TOML .*: mend it, or delete it for the defaults"),
        ("[habbit]\nhalf_life = 60", "habbit is no recipe; known: popular, newest, popular_in, habit"),
        ("habit = 60", r"habit must be a table, \[habit\], not 60"),
        ("[habit]\nhalflife = 60", "habit.halflife is no setting of Habit; it has half_life"),
        ("[complements]\ntop = 3", "complements.top is no setting of Complements; it has none"),
        ("[habit]\nhalf_life = 'long'", "habit.half_life must be a number, not 'long'"),
        ("[habit]\nhalf_life = true", "habit.half_life must be a number, not True"),
        ("[als]\nfactors = 32.5", "als.factors must be a whole number, not 32.5"),
        ("[als]\nfactors = 0", "als.factors must be above 0, not 0"),
        ("[habit]\nhalf_life = 0.0", "habit.half_life must be above 0, not 0.0"),
        ("[habit]\nhalf_life = inf", "habit.half_life must be above 0, not inf"),
        ("[copurchase]\nof_asked = -0.5", "copurchase.of_asked must be 0 or more, not -0.5"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=f"{FILE}:? {says}"):
        read_settings(written(tmp_path, text))


def test_a_seed_and_an_exponent_may_be_zero(tmp_path: Path) -> None:
    home = written(tmp_path, "[als]\nseed = 0\n[copurchase]\nof_asked = 0\n")
    assert read_settings(home) == {"als": {"seed": 0}, "copurchase": {"of_asked": 0.0}}


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings: dict[str, dict[str, Any]] = {"tifu": {"own": 1e-05, "group": 3}, "als": {"alpha": 2.5}}
    assert write_settings(tmp_path, settings, about="Found on a day.")
    assert read_settings(tmp_path) == settings
    text = (tmp_path / FILE).read_text()
    assert text.startswith("# ") and "# Found on a day.\n\n[als]\nalpha = 2.5\n\n[tifu]\n" in text
    assert not write_settings(tmp_path, settings, about="Found on another day.")
    assert (tmp_path / FILE).read_text() == text
    assert write_settings(tmp_path, {}, about="Nothing found.")
    assert not (tmp_path / FILE).exists()
    assert not write_settings(tmp_path, {}, about="Nothing found.")


def test_training_puts_the_file_before_what_it_would_choose() -> None:
    plan = Plan(None, PLACEMENTS, None, {"habit": {"half_life": 33.0}})
    recipes, rankings = plan.settled(checkerboard())
    assert recipes == {**defaults(checkerboard()).recipes, "habit": Habit(half_life=33.0)}
    assert rankings == defaults(checkerboard()).rankings


def test_training_refuses_a_wrong_file_before_it_reads_anything(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="habbit is no recipe"):
        train(written(tmp_path, "[habbit]\n"))
    assert not (tmp_path / "staging").exists()
