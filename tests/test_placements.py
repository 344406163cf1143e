"""The table of placements: what holds for every row, and for a row that somebody adds."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import GROCER, GROCERIES, bundle

from serving.engine import RULES, Engine
from serving.fitted import Candidates, Fitted, Neighbors, Vectors
from serving.placements import (
    ANSWERS,
    OF_NEEDS,
    PLACEMENTS,
    POPULAR,
    STORIES,
    TRUTHS,
    Asks,
    Placement,
    PlacementsError,
    Source,
    Step,
    models_in_use,
    read_placements,
    unknown,
)
from serving.schemas import RecommendRequest
from serving.wire import MAX_LIMIT
from training.models import RECIPES
from training.models.copurchase import CoPurchase
from training.models.rhythm import Rhythm
from training.split import AUDITS

COMPARED_ALONE = {"bpr", "habit", "hybrid", "item_knn", "popular_in"}  # fitted to be held against the others
SLOTS = {"times", "last", "because", "category"}
ROWS = pytest.mark.parametrize("row", PLACEMENTS.values(), ids=list(PLACEMENTS))


def sources(row: Placement) -> Iterator[Source]:
    yield from row.sources
    yield from (step.source for step in row.fill)


def test_three_ship_under_their_names_and_others_beside_them() -> None:
    assert list(PLACEMENTS)[:3] == ["next_best", "cross_sell", "upsell"]
    assert {"discover", "buy_again", "similar", "trending", "new_arrivals"} == set(list(PLACEMENTS)[3:])
    assert all(name == row.name for name, row in PLACEMENTS.items())


@ROWS
def test_a_row_names_what_there_is(row: Placement) -> None:
    assert {source.model for source in sources(row)} <= set(RECIPES)
    assert {source.story for source in sources(row)} <= set(STORIES)
    assert {*row.rules, *(rule for step in row.fill for rule in step.rules)} <= set(RULES)
    assert 1 <= row.limit <= MAX_LIMIT
    assert row.about


@ROWS
def test_a_source_is_asked_as_its_model_can_answer_and_tells_what_is_true(row: Placement) -> None:
    assert list(unknown(row, set(RECIPES))) == []


def able(model: Fitted) -> set[Asks]:
    """What a model can be asked with, by what it is made of."""
    if isinstance(model, Vectors):
        both: set[Asks] = {"customer", "products"} if model.items.shape[1] else set()
        return both | ({"nobody"} if model.bias.any() else set())
    return {"customer"} if isinstance(model, Candidates) else {"customer", "products"}


def test_what_a_model_can_be_asked_with_is_what_it_answers(tmp_path: Path) -> None:
    assert {*ANSWERS, *OF_NEEDS} == set(RECIPES)
    stories: dict[Asks, str] = {"customer": "like_you", "products": "goes_with", "nobody": "same_need"}
    rows = {
        f"{model}_{asks}": Placement(f"{model}_{asks}", "", (asks,), (Source(model, asks, stories[asks]),))
        for model, answers in ANSWERS.items()
        for asks in answers
    }
    engine = Engine(bundle(tmp_path / "1", GROCERIES, GROCER, placements={**PLACEMENTS, **rows}))
    assert {name: able(model) for name, model in engine.models.items() if name in ANSWERS} == {
        name: set(answers) for name, answers in ANSWERS.items()
    }
    assert all(isinstance(engine.models[name], Neighbors) for name in OF_NEEDS)
    for row in rows.values():
        for customer in ("anna", None):
            asked = RecommendRequest(customer_id=customer, product_ids=("bread",))
            engine.recommend(row.name, asked, at=engine.data_until)


@ROWS
def test_a_row_asks_with_what_its_sources_need(row: Placement) -> None:
    assert {source.asks for source in row.sources} <= {*row.asks, "nobody"}


@ROWS
def test_the_last_step_of_a_fill_is_open_to_all(row: Placement) -> None:
    """So that a list is as long as asked."""
    assert row.fill[-1].source.model == "popular" and row.fill[-1].rules == ()


@ROWS
def test_every_placement_is_audited(row: Placement) -> None:
    assert row.name in {audit.placement for audit in AUDITS}


@pytest.mark.parametrize(("key", "text"), STORIES.items(), ids=list(STORIES))
def test_a_story_is_a_line_for_people_with_slots_that_are_filled(key: str, text: str) -> None:
    assert key in TRUTHS or key in {"regular", "first"}, "who may tell it"
    assert set(re.findall(r"{(\w+)}", text)) <= SLOTS
    assert text[0].isupper() and "\n" not in text and not text.endswith(".")


def test_only_models_in_use_are_fitted() -> None:
    assert models_in_use(PLACEMENTS) == set(RECIPES) - COMPARED_ALONE
    own = Placement("own", "", ("products",), (POPULAR,), rules=("no_substitutes",))
    assert own.models == {"popular", "complements"}
    filled = Placement("own", "", (), (POPULAR,), fill=(Step(Source("als", "customer", "taste")),))
    assert models_in_use({"own": filled}) == {"popular", "als"}
    assert isinstance(RECIPES["rhythm"], Rhythm) and isinstance(RECIPES["copurchase"], CoPurchase)


# --- a shop's own table ------------------------------------------------------------------------------------

OWN = """
# what our shop does otherwise
[next_best]
limit = 6
cache_seconds = 60
[[next_best.policy]]
rule = "at_most"
attribute = "brand"
count = 2
[[next_best.policy]]
rule = "exclude"
attribute = "category"
values = ["home"]

[cart]
like = "cross_sell"
about = "beside the cart"
complements_only = true
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "placements.toml"
    path.write_text(text)
    return path


def test_a_shops_own_table_changes_and_adds(tmp_path: Path) -> None:
    found = read_placements(written(tmp_path, OWN), PLACEMENTS)
    assert found.keys() == {*PLACEMENTS, "cart"}
    row = found["next_best"]
    assert (row.limit, row.cache_seconds, [rule.rule for rule in row.policy]) == (
        6,
        60,
        ["at_most", "exclude"],
    )
    assert row.sources == PLACEMENTS["next_best"].sources
    assert found["cart"] == replace(
        PLACEMENTS["cross_sell"],
        name="cart",
        like="cross_sell",
        about="beside the cart",
        complements_only=True,
    )
    assert found["upsell"] is PLACEMENTS["upsell"]
    assert read_placements(tmp_path / "none.toml", PLACEMENTS) is PLACEMENTS


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("limit = 6", "limit = 'six'"), 4, "next_best.limit: .*integer"),
        (("limit = 6", "limmit = 6"), 4, "next_best.limmit"),
        (("limit = 6", "limit = 0"), 4, "next_best.limit: .*greater"),
        (("limit = 6", f"limit = {MAX_LIMIT + 1}"), 4, "next_best.limit: .*less"),
        (("cache_seconds = 60", "cache_seconds = -1"), 5, "next_best.cache_seconds: .*greater"),
        (("count = 2", "count = 0"), 9, r"next_best.policy.*count"),
        (('values = ["home"]', 'value = ["home"]'), 10, "next_best.policy.*values: Field required"),
        (('like = "cross_sell"', 'like = "cross"'), 16, "cart.like: a new placement is `like` a known one: .*upsell"),
        (("[cart]", "[Cart!]"), 15, "Expected"),
        (("complements_only = true", "rules = ['nothing']"), 18, "there is no rule 'nothing'; known: not_owned"),
        (
            ("complements_only = true", "sources = [{model = 'mind', asks = 'customer', story = 'again'}]"),
            18, "cart.sources.model: there is no model 'mind'; known: als",
        ),
        (
            ("complements_only = true", "sources = [{model = 'als', asks = 'customer', story = 'tale'}]"),
            18, "cart.sources.story: there is no story 'tale'",
        ),
        (
            (
                "complements_only = true",
                "\n[[cart.fill]]\nrules = []\nsource = {model = 'als', asks = 'customer', story = 'taste'}\n"
                "[[cart.fill]]\nsource = {model = 'popular', asks = 'nobody', story = 'popular'}\nrules = ['none']",
            ),
            24, "cart.fill.rules: there is no rule 'none'; known: not_owned",
        ),
        (("limit = 6", "sources = []"), 4, "next_best.sources: .*at least 1 item"),
        (("limit = 6", "rules = 6"), 4, "next_best.rules: Input should be a valid list"),
        (("limit = 6", "asks = []"), 4, "next_best.asks: .*at least 1 item"),
        (("limit = 6", "worth = nan"), 4, "next_best.worth: .*finite"),
        (("limit = 6", "needs = 'als'"), 4, "there is no model 'als' of needs; known: ease_needs"),
        (("limit = 6", "limit = "), 4, "Invalid value"),
        (("[cart]", '["Cart!"]'), 15, "a name is lower-case"),
        (('like = "cross_sell"', "like = ['x']"), 16, "cart.like: a new placement is `like` a known one"),
        (("limit = 6", "limit = 6\nneeds = 'mind'"), 5, "next_best.needs: there is no model 'mind'"),
        (
            ("[next_best]\nlimit = 6\ncache_seconds = 60\n[[next_best.policy]]\nrule = 'at_most'".replace("'", '"'),
             "[[next_best.policy]]\nrule = 'sometimes'"),
            3, "next_best.policy: Input tag 'sometimes'",
        ),
    ],
)  # fmt: skip
def test_a_table_that_is_wrong_is_explained_by_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    with pytest.raises(PlacementsError, match=rf"(line {line}\b.*({said}))|(({said}).*line {line}\b)"):
        read_placements(written(tmp_path, OWN.replace(*change)), PLACEMENTS)


def source(about: str) -> str:
    """A source that is right but for what is said about it."""
    usual = {"model": "'als'", "asks": "'customer'", "story": "'taste'"}
    told = dict(part.split(" = ") for part in about.split(", "))
    return f"{{{', '.join(f'{key} = {value}' for key, value in (usual | told).items())}}}"


GOES_WITH = "asks = 'products', story = 'goes_with'"
UNTRUE = "would not be true of"


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("take = -5", "take: .*greater than or equal to 0"),
        ("take = 0", ": they propose nothing"),
        ("weight = nan", "weight: .*finite"),
        ("weight = inf", "weight: .*finite"),
        ("weight = 0", "weight: .*greater than 0"),
        ("model = 'popular'", "asks: popular is not asked with 'customer'; it is with: nobody"),
        (
            "model = 'copurchase', asks = 'nobody'",
            "asks: copurchase is not .* 'nobody'; it is with: customer, products",
        ),
        ("model = 'rhythm', asks = 'products'", "asks: rhythm is not .* 'products'; it is with: customer"),
        ("model = 'ease_needs'", "model: there is no model 'ease_needs'; known: als, .*copurchase"),
        (
            "story = 'regular'",
            f"story: 'regular' {UNTRUE} als asked with 'customer'; true are: taste, like_you",
        ),
        ("story = 'again'", f"story: 'again' {UNTRUE} als .* unless under the rule 'owned'"),
        ("asks = 'products'", f"story: 'taste' {UNTRUE} als .* 'products'; true are: goes_with, similar"),
        ("story = 'popular'", f"story: 'popular' {UNTRUE} als"),
        ("story = 'step_up'", f"story: 'step_up' {UNTRUE} als .* unless under the rule 'dearer'"),
    ],
)
def test_a_source_is_one_that_can_be_answered_and_tells_what_is_true(
    tmp_path: Path, about: str, said: str
) -> None:
    read_placements(written(tmp_path, f"[next_best]\nsources = [{source('weight = 0.5')}]"), PLACEMENTS)
    with pytest.raises(PlacementsError, match=rf"line 2: next_best\.sources.*{said}"):
        read_placements(written(tmp_path, f"[next_best]\nsources = [{source(about)}]"), PLACEMENTS)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ("story = 'known'", f"story: 'known' {UNTRUE} popular .* unless under the rule 'owned'"),
        ("story = 'popular', take = 0", "take: a step that takes 0 adds nothing"),
    ],
)
def test_a_step_of_a_fill_is_one_that_can_be_answered(tmp_path: Path, about: str, said: str) -> None:
    step = source(f"model = 'popular', asks = 'nobody', {about}")
    text = f"[next_best]\n[[next_best.fill]]\nsource = {step}\n"
    with pytest.raises(PlacementsError, match=rf"line 3: next_best\.fill\.source\.{said}"):
        read_placements(written(tmp_path, text), PLACEMENTS)


def test_a_story_holds_under_a_rule(tmp_path: Path) -> None:
    again, dearer = source("story = 'again'"), source("story = 'step_up'")
    text = f"[next_best]\nsources = [{again}]\nrules = ['owned']\n"
    text += f"[steps]\nlike = 'upsell'\nsources = [{dearer}]\nrules = ['dearer']\n"
    assert read_placements(written(tmp_path, text), PLACEMENTS)["steps"].rules == ("dearer",)
    with pytest.raises(PlacementsError, match=r"line 1: upsell\.sources\.story: 'step_up' would not be true"):
        read_placements(written(tmp_path, "[upsell]\nrules = ['not_owned']\n"), PLACEMENTS)


def test_the_tables_of_the_readme_are_understood(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    written_there = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    tables = [text for text in written_there if "like =" in text]
    assert len(tables) == 2
    found = read_placements(written(tmp_path, "".join(tables)), PLACEMENTS)
    assert found.keys() == {*PLACEMENTS, "cart", "novelties"} and len(found["novelties"].fill) == 2
    assert (PLACEMENTS["new_arrivals"].asks, found["novelties"].asks) == (("nobody",), ("customer",))


def test_sources_of_its_own_say_what_it_asks_with_too(tmp_path: Path) -> None:
    mine = "\n".join(("[mine]", 'like = "next_best"', f"sources = [{source(GOES_WITH)}]"))
    assert read_placements(written(tmp_path, mine), PLACEMENTS)["mine"].asks == ("customer", "products")
    said = read_placements(written(tmp_path, f'{mine}\nasks = ["products"]'), PLACEMENTS)
    assert said["mine"].asks == ("products",)


def test_a_misspelt_rule_is_one_fault(tmp_path: Path) -> None:
    for name in PLACEMENTS:
        with pytest.raises(PlacementsError) as found:
            read_placements(written(tmp_path, f"[{name}]\nrules = ['dearest']\n"), PLACEMENTS)
        assert str(found.value).count("there is no rule 'dearest'") == 1 and UNTRUE not in str(found.value)


def test_a_misspelt_source_is_one_fault_and_a_list_is_called_one(tmp_path: Path) -> None:
    for change, said in (
        ("sources = [{ model = 'als', like = 'customer' }]", "like: "),
        ("sources = []", "sources: List should have at least 1 item"),
    ):
        with pytest.raises(PlacementsError) as found:
            read_placements(written(tmp_path, f"[next_best]\n{change}\n"), PLACEMENTS)
        assert said in str(found.value) and len(str(found.value).splitlines()) <= 2, str(found.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = OWN.replace("limit = 6", "limit = 0").replace("count = 2", "count = 0")
    text = (
        text.replace("complements_only = true", "rules = ['nothing', 'dearer']") + '[till]\nlike = "cart"\n'
    )
    with pytest.raises(PlacementsError) as told:
        read_placements(written(tmp_path, text), PLACEMENTS)
    lines = str(told.value).splitlines()
    assert [re.findall(r"line (\d+): ([\w.]+):", line) for line in lines] == [
        [("4", "next_best.limit")],
        [("9", "next_best.policy.at_most.count")],
        [("18", "cart.rules")],
    ]


def test_a_policy_over_what_the_catalogue_does_not_know_is_explained_by_its_line(tmp_path: Path) -> None:
    bundle(tmp_path / "1", GROCERIES, GROCER)
    for change, said in (
        (
            "colour",
            r"line 8: next_best\.policy\.attribute: there is no attribute 'colour'; known: brand, category",
        ),
        (
            "attributes.store",
            r"line 8: next_best\.policy\.attribute: there is no attribute 'attributes\.store'",
        ),
    ):
        path = written(tmp_path, OWN.replace('"brand"', f'"{change}"'))
        with pytest.raises(PlacementsError, match=said):
            Engine.load(tmp_path / "1", placements=path).check(path)
    assert Engine.load(tmp_path / "1", placements=written(tmp_path, OWN)).placement("cart").complements_only


def test_a_table_in_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "placements.toml"
    path.write_bytes('[cart]\nlike = "cross_sell"\nabout = "für"\n'.encode("latin-1"))
    with pytest.raises(PlacementsError, match="utf-8"):
        read_placements(path, PLACEMENTS)
    path.write_bytes("\ufeff[trending]\nlimit = 3\n".encode())  # as some editors write it
    assert read_placements(path, PLACEMENTS)["trending"].limit == 3
    with pytest.raises(PlacementsError, match=r"line 2: trending\.limit"):
        read_placements(written(tmp_path, "[trending]\nlimit = true\n"), PLACEMENTS)
