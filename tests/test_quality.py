"""The benchmark beside libraries, on a generated shop, without the environment of those that pin otherwise."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import worlds
from scipy import sparse
from worlds import Event, day

from benchmarks import contest, learners, quality, rivals
from benchmarks.contest import (
    Comparison,
    Competitor,
    Window,
    audits_of,
    compete,
    project,
    recorded_of,
    window_of,
)
from benchmarks.rivals import ALL, APART, BASKET, NEXT, NOVEL, SEARCHES, WITH_CUSTOMER, Cache, Search
from serving.fitted import top_k
from training.evaluate import Answers, padded
from training.split import Data, sampled
from training.train import SEED

TUNE, UNTIL, END = 60, 90, 120
KINDS = ("bread", "dairy", "fruit", "soap")
PRODUCTS = [f"{kind}-{n}" for kind in KINDS for n in range(8)]
LISTED = worlds.products(
    *(
        {"product_id": p, "category": ["shop", p[:-2]], "brand": f"b{n % 3}", "price": 1.0 + n % 5}
        for n, p in enumerate(PRODUCTS)
    ),
    {"product_id": "gone", "category": ["shop", "soap"], "in_stock": False},
)  # fmt: skip


def sold(until: float) -> list[Event]:
    """Thirty customers who come every week for the same four products, and now and then for another."""
    draw = random.Random(7)
    rows = []
    for c in range(30):
        own = draw.sample(PRODUCTS, 4)
        for week in range(17):
            on = 7 * week + draw.random() * 3
            basket = {*own, *draw.sample(PRODUCTS, 1), *(["gone"] if c % 5 == 0 else [])}
            rows += [Event(f"c{c:02}", p, f"o{c:02}-{week:02}", on, price=2.0) for p in sorted(basket)]
    return [row for row in rows if row.on < until]


def known(until: float) -> Data:
    return worlds.shop(*sold(until), until=until, listed=LISTED)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Window, Window]:
    folder = tmp_path_factory.mktemp("windows")
    tune, now, whole = known(TUNE), known(UNTIL), known(END)
    return (
        window_of(tune, now, day(TUNE), day(UNTIL), folder / "tune", most=50),
        window_of(now, whole, day(UNTIL), day(END), folder / "test"),
    )


def search(name: str, learner: str, space: dict[str, tuple[Any, ...]], **fixed: Any) -> Search:
    return Search(name, "baseline", learner, ALL, space, fixed)


POPULAR = search("popular", "popularity", {"days": (28, 7, 14, 90), "by": ("buyers",)})
OWN = search("own", "personal", {"half_life": (90, 30, 0), "by": ("orders",)})


# --- the whole of it --------------------------------------------------------------------------------------


def test_a_shop(windows: tuple[Window, Window], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever returns for the same is best told by habit. What was answered once is not asked again."""
    cache = Cache(tmp_path)
    popular, own = compete([POPULAR, OWN], *windows, cache, trials=1)
    ndcg = {c.name: c.reached[NEXT].test["ndcg"].mean for c in (popular, own)}
    assert ndcg["own"] > 0.7 > 0.5 > ndcg["popular"] > 0
    assert own.reached[NEXT].trials == 1 and set(own.reached) == set(ALL)
    assert own.reached[NEXT].cost["cpu"] > 0 and 10 < own.reached[NEXT].cost["peak_mb"] < 2_000

    started: list[tuple[Any, Any]] = []
    run = rivals.started

    def counted(search: Search, params: dict[str, Any], files: rivals.Files, *rest: Any) -> None:
        started.append((params, files))
        run(search, params, files, *rest)

    monkeypatch.setattr(rivals, "started", counted)
    again = compete([POPULAR, OWN], *windows, cache, trials=1)
    assert not started and told(again) == told([popular, own])
    compete([OWN], *windows, cache, trials=2)
    tuned = [params for params, files in started if files == windows[0].files]
    assert tuned == [OWN.trials(2, seed=SEED)[1]]  # the first is known


def told(found: list[Competitor]) -> list[Any]:
    return [(c.name, [(t, r.params, r.tune, r.test) for t, r in c.reached.items()]) for c in found]


@pytest.fixture
def scripted(
    monkeypatch: pytest.MonkeyPatch, windows: tuple[Window, Window]
) -> Callable[[Search], Competitor]:
    """Runs a search whose setting `hits` says how many of the answers in the tuning window are right; in the test it
    is the other way round."""
    by_folder = {w.files.folder: w for w in windows}

    def started(
        search: Search, params: dict[str, Any], files: rivals.Files, tasks: tuple[str, ...], out: Path
    ) -> None:
        right = params["hits"] if files.folder == windows[0].files.folder else 2 - params["hits"]
        for task in tasks:
            truth = by_folder[files.folder].tasks[task].truth
            np.save(out / f"{task}.npy", padded((t[t >= 0][:right] for t in truth), 10))
        (out / "cost.json").write_text(json.dumps({"cpu": 1.0, "peak_mb": 2.0}))

    monkeypatch.setattr(rivals, "started", started)
    return lambda search: compete([search], *windows, Cache(windows[0].files.folder / "scripted"), trials=3)[
        0
    ]


def test_the_best_of_the_tuning_window_is_tested_whatever_the_test_says(
    scripted: Callable[[Search], Competitor], windows: tuple[Window, Window]
) -> None:
    found = scripted(search("scripted", "none", {"hits": (1, 2, 0)}))
    for task in (NEXT, NOVEL):
        assert found.reached[task].params == {"hits": 2}
        assert found.reached[task].test["ndcg"].mean == 0 < found.reached[task].tune["ndcg"].mean


def test_figures_are_those_of_evaluate(windows: tuple[Window, Window]) -> None:
    """Two right answers of ten, first and second: 1 + 1/log2(3) over what min(10, wanted) hits could give."""
    task = windows[1].tasks[NEXT]
    found = contest.figures(Answers(task, padded((t[t >= 0][:2] for t in task.truth), 10)), NEXT)
    wanted = [len(t) for t in task.truth]
    gain = [sum(1 / np.log2(r + 2) for r in range(min(10, n))) for n in wanted]
    assert found["ndcg"].mean == pytest.approx(np.mean([(1 + 1 / np.log2(3)) / g for g in gain]))
    assert found["recall"].mean == pytest.approx(np.mean([2 / n for n in wanted]))


def test_learners_are_asked_what_the_engine_is_asked(windows: tuple[Window, Window]) -> None:
    """Customers and products by position; nobody where the request names none; only the novel task bars the owned."""
    window = windows[1]
    customers, items = window.bundle.interactions.customers, window.bundle.catalog.items
    for name, task in window.tasks.items():
        asked = learners.load_questions(window.files.folder / f"{name}.npz")
        held = asked.held(slice(0, len(asked)), len(items))
        for n, request in enumerate(task.requests):
            named = customers.positions([request.customer_id])[0] if request.customer_id else -1
            assert asked.who[n] == named
            assert held[n].indices.tolist() == sorted(items.positions(request.product_ids).tolist())
        assert bool(asked.owned) == (name != NOVEL) and int(asked.k) == 10
    assert (learners.load_questions(window.files.folder / f"{BASKET}.npz").who == -1).all()


def test_nothing_that_learners_read_sees_past_its_window(tmp_path: Path) -> None:
    """Other purchases in the test window change no byte of what the tuning window says."""
    later = [row._replace(product="soap-0") if row.on >= UNTIL else row for row in sold(END)]
    for name, rows in (("a", sold(END)), ("b", later)):
        past, now = (worlds.shop(*(r for r in rows), until=u, listed=LISTED) for u in (TUNE, UNTIL))
        window_of(past, now, day(TUNE), day(UNTIL), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_task_that_a_window_does_not_ask_is_left_out(windows: tuple[Window, Window]) -> None:
    without = replace(
        windows[0], tasks={**windows[0].tasks, BASKET: sampled(windows[0].tasks[BASKET], 0, seed=7)}
    )
    assert [task for _, task in contest.contests([OWN], (without, windows[1]))] == [
        NEXT,
        NOVEL,
        WITH_CUSTOMER,
    ]


def test_a_window_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(contest.QualityError, match="choose other windows"):
        window_of(known(END), known(END), day(END), day(END + 9), tmp_path)


# --- what may be tried --------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", SEARCHES, ids=lambda s: s.label)
def test_trials(one: Search) -> None:
    """The first of each, no two alike, and more begin with fewer."""
    few, more = one.trials(4, seed=7), one.trials(9, seed=7)
    assert few[0] == {name: values[0] for name, values in one.space.items()}
    assert more[: len(few)] == few
    assert (
        len({json.dumps(t) for t in more})
        == len(more)
        == min(9, np.prod([len(v) for v in one.space.values()]))
    )
    assert all(value in one.space[name] for t in more for name, value in t.items())


def test_every_rival_is_tried_as_often_for_each_of_its_tasks() -> None:
    for task in ALL:
        names = [s.name for s in rivals.asked_by(SEARCHES, task)]
        assert len(names) == len(set(names)), task


def test_the_same_run_is_known_by_what_made_it(windows: tuple[Window, Window], tmp_path: Path) -> None:
    cache, (tune, test) = Cache(tmp_path), windows
    a = {"days": 28, "by": "buyers"}
    keys = [
        cache.key(POPULAR, a, tune.files, ALL),
        cache.key(POPULAR, {**a, "days": 7}, tune.files, ALL),
        cache.key(POPULAR, a, test.files, ALL),
        cache.key(OWN, a, tune.files, ALL),
        cache.key(POPULAR, a, tune.files, (NEXT,)),
    ]
    assert len(set(keys)) == len(keys)
    assert cache.key(replace(POPULAR, name="by another name"), a, tune.files, ALL) == keys[0]


def test_a_rival_that_fails_says_how_and_leaves_nothing(
    windows: tuple[Window, Window], tmp_path: Path
) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(rivals.RivalError, match="nonsense"):
        cache.run(POPULAR, {"nonsense": 1}, windows[0].files)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".tmp-")]


# --- learners -------------------------------------------------------------------------------------------------


def past_of(data: Data) -> learners.Past:
    return contest.arrays_of(data)


def test_weights() -> None:
    """ann bought milk today and ten days ago, bread twenty days ago; half-life ten days."""
    rows = [Event("ann", "milk", "1", 29.999), Event("ann", "milk", "2", 20), Event("ann", "bread", "3", 10)]
    past = past_of(worlds.shop(*rows, until=30))

    def weight(**how: Any) -> list[float]:  # bread, milk
        return past.matrix(**how).toarray()[0].astype(float).round(3).tolist()

    assert weight() == [1, 2]
    assert weight(half_life=10) == [0.25, 1.5]
    assert weight(half_life=10, value="binary") == [0.25, 1]
    assert weight(value="log") == [0.693, 1.099]
    assert weight(days=15) == [0, 2]
    assert past.matrix(rows="baskets").toarray().tolist() == [[0, 1], [0, 1], [1, 0]]
    assert past.popular(15).tolist() == [
        0.5,
        1.5,
    ]  # the only customer counts once; older purchases decide the rest


def test_lists_are_the_best_of_what_may_be_answered(windows: tuple[Window, Window]) -> None:
    """Against a plain loop: nothing out of stock, held, or, where it is barred, owned; the same order."""
    window, rng = windows[1], np.random.default_rng(7)
    past = learners.load_past(window.files.folder / "past.npz")
    bought, n_items = past.matrix().toarray() > 0, len(past.available)

    class Random:
        def scores(self, who: Any, held: Any) -> Any:
            return scores[who].copy()

    scores = rng.integers(0, 9, (len(bought) + 1, n_items)).astype(np.float32)
    for task in (NEXT, NOVEL, WITH_CUSTOMER):
        asked = learners.load_questions(window.files.folder / f"{task}.npz")
        lists = learners.lists_of(Random(), past, asked)
        held = asked.held(slice(0, len(asked)), n_items).toarray() > 0
        for row, who, own in zip(lists, asked.who, held, strict=True):
            may = past.available & ~own & (True if asked.owned else ~bought[who])
            assert row.tolist() == top_k(scores[who], 10, may).tolist()


def test_short_lists_are_filled_with_what_sold_most_lately(windows: tuple[Window, Window]) -> None:
    past = learners.load_past(windows[1].files.folder / "past.npz")
    asked = learners.load_questions(windows[1].files.folder / f"{NEXT}.npz")
    nothing = learners.Own(sparse.csr_matrix((int(past.sizes[0]), int(past.sizes[2])), dtype=np.float32))
    expected = top_k(past.popular(learners.FILL_DAYS), 10, past.available)
    assert (learners.lists_of(nothing, past, asked) == expected).all()


# at the first settings that are tried: twenty neighbours are fewer than the board's twenty-four
FLOORS = {"als": 1.0, "nearest": 0.8, "bpr": 0.5, "lightfm": 0.5}
LEARNED = [s for s in SEARCHES if s.library != "baseline" and not s.apart]


@pytest.mark.filterwarnings("ignore::implicit.utils.ParameterWarning")
@pytest.mark.parametrize("one", LEARNED, ids=lambda s: s.label)
def test_learners_find_what_is_withheld(one: Search) -> None:
    """On the checkerboard: a customer of even numbers misses one even item, a basket of them all but one."""
    past = past_of(worlds.checkerboard())
    model = learners.LEARNERS[one.learner](past, **one.fixed, **one.trials(1, seed=7)[0])
    n = worlds.SIZE
    board = np.add.outer(np.arange(n), np.arange(n)) % 2 == 0
    np.fill_diagonal(board, False)
    rows = sparse.csr_matrix(board.astype(np.float32))
    baskets = one.tasks == (BASKET,)
    asked = learners.Questions(
        np.full(n, -1) if baskets else np.arange(n), rows.indptr * baskets, rows.indices[: rows.nnz * baskets],
        np.array(1), np.array(baskets),
    )  # fmt: skip
    lists = learners.lists_of(model, past, asked)
    assert (lists[:, 0] == np.arange(n)).mean() >= FLOORS[one.learner]


@pytest.mark.long
@pytest.mark.skipif(not APART.exists(), reason="made by `make bench-quality`")
@pytest.mark.parametrize("one", [s for s in SEARCHES if s.apart], ids=lambda s: s.label)
def test_rivals_apart(one: Search, windows: tuple[Window, Window], tmp_path: Path) -> None:
    found = Cache(tmp_path).run(
        one,
        one.trials(1, seed=7)[0] | {"items": 30} if "items" in one.space else one.trials(1, seed=7)[0],
        windows[0].files,
    )
    for task in one.tasks:
        assert (found.lists(task) >= 0).all()


# --- the project, and what is told ----------------------------------------------------------------------------


GROCERIES = (*tiny.GROCERIES, ("carl", "19", 45, "spelt milk soap butter"))  # a basket to hide one of


@pytest.fixture(scope="module")
def groceries(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The tiny shop's engine beside popularity, in January's last and February's days."""
    folder = tmp_path_factory.mktemp("groceries")
    later = [
        ("anna", "20", 60, "bread butter rolls milk"),
        ("bert", "21", 61, "rolls gold soap butter towel"),
    ]
    manifest = tiny.bundle(folder / "1", GROCERIES, tiny.GROCER).manifest
    baskets = [*GROCERIES, *later]
    end, cut = datetime.fromisoformat("2026-04-01T00:00:00Z"), datetime.fromisoformat("2026-02-05T00:00:00Z")
    before, now, whole = (tiny.known(baskets, tiny.GROCER, moment) for moment in (cut, tiny.UNTIL, end))
    tune = window_of(before, now, cut, tiny.UNTIL, folder / "tune")
    test = window_of(now, whole, tiny.UNTIL, end, folder / "test")
    beside = compete([POPULAR], tune, test, Cache(folder / "runs"), trials=1)
    value = {"mean": 0.5, "low": 0.25, "high": 0.75}
    placements = {task: dict.fromkeys(metrics, value) for task, metrics in contest.FIGURES.items()}
    report = {
        "validation_from": cut.isoformat(),
        "data_until": tiny.UNTIL.isoformat(),
        "placements": placements,
    }
    audits = audits_of(folder / "1", test, whole, folder / "later")
    own = project("1", audits, recorded_of(report, cut, tiny.UNTIL), test)
    return Comparison(own, beside, contest.about_of(manifest, report, tune, test, [POPULAR], 1))


def test_the_project_answers_the_same_questions(groceries: Comparison) -> None:
    ours, theirs = (c.reached for c in (groceries.own, groceries.rivals[0]))
    assert set(ours) == set(theirs) == set(ALL)
    for task in ALL:
        assert list(ours[task].answers.task.requests) == list(theirs[task].answers.task.requests)
        assert ours[task].tune[contest.FIGURES[task][0]].mean == 0.5
        gap = groceries.ahead(groceries.rivals[0], task).mean
        means = [r[task].test[contest.FIGURES[task][0]].mean for r in (ours, theirs)]
        assert gap == pytest.approx(means[0] - means[1])


def test_a_training_that_judged_by_other_days_says_nothing_of_the_tuning_window() -> None:
    report = {"validation_from": day(1).isoformat(), "data_until": day(2).isoformat(), "placements": {}}
    assert recorded_of(report, day(0), day(2)) == {} == recorded_of({}, day(0), day(2))


def test_a_home_without_such_a_version_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(contest.QualityError, match="osclms train --until 2024-01-03"):
        contest.version_until(tmp_path, day(2))


def test_the_page_gets_the_tables_and_keeps_the_rest(groceries: Comparison, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{quality.MARKS[0]}\nold\n{quality.MARKS[1]}\nAfter.\n")
    for _ in range(2):
        quality.write(page, quality.markdown(groceries))
    text = page.read_text()
    assert text.startswith("# Before\n") and text.endswith("\nAfter.\n") and "\nold\n" not in text
    assert text.count("| **OSCLMS** |") == 2 and text.count("| popular |") == 4
    assert "tuning 2026-02-05 to 2026-03-01, test 2026-03-01 to 2026-04-01" in text
    with pytest.raises(contest.QualityError, match="once each"):
        quality.write(tmp_path / "other.md", "")


def test_the_document_holds_every_figure(groceries: Comparison) -> None:
    found = json.loads(json.dumps(groceries.as_dict()))
    assert [r["name"] for r in found["results"]] == ["OSCLMS", "popular"]
    task = found["results"][1]["tasks"][NEXT]
    assert (
        task["settings"] == {"days": 28, "by": "buyers"}
        and task["test"]["ndcg"]["low"] <= task["test"]["ndcg"]["mean"]
    )
    assert found["results"][0]["tasks"][NEXT]["project_ahead"] is None


def test_rivals_are_chosen_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {s.name for s in quality.chosen(["BPR"])} == {"BPR"}
    with pytest.raises(contest.QualityError, match="known: popularity, last days"):
        quality.chosen(["nobody"])
    monkeypatch.setattr(rivals, "APART", Path("missing"))
    assert not any(s.apart for s in quality.chosen([])) and "EASE, PureSVD" in capsys.readouterr().err


def test_help_shows_an_example() -> None:
    assert "Example: python -m benchmarks.quality --home" in quality.options().format_help().replace(
        "\n", " "
    )
