"""The command line: what it prints, how it ends, and what it says when it cannot."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import typer.main

import osclms
from features import completejourney
from features.history import History
from serving.bundle import champion
from serving.engine import Engine
from serving.placements import PLACEMENTS
from serving.schemas import RecommendRequest

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "docs" / "samples"
VERBS = (
    "load", "generate", "compact", "erase", "customer", "customers", "tune", "train", "evaluate", "compare", "promote",
    "challenge", "run", "deliver", "audience", "lift", "recommend", "message", "serve", "check", "demo",
)  # fmt: skip


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("recommend", "trending", …)`: the command as the shell would end it, in this process."""
    for name in [name for name in os.environ if name.startswith("OSCLMS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(osclms.out, "width", 400)  # tables of one line a row
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")

    def ran(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["osclms", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            osclms.main()
        told = capfd.readouterr()
        assert "Traceback" not in told.err + told.out
        return Ended(int(ended.value.code or 0), told.out, told.err)

    return ran


@pytest.fixture(scope="module")
def engine(shop_home: Path) -> Engine:
    return Engine.load(champion(shop_home))


@pytest.fixture(scope="module")
def as_of(engine: Engine) -> str:
    return engine.data_until.isoformat()


@pytest.fixture
def shop(shop_home: Path, tmp_path: Path) -> Path:
    """The shop's registry and bundles, to be written to; its history by a link."""
    home = tmp_path / "shop"
    home.mkdir()
    for name in ("mlflow.db", "champions.jsonl", "champion"):
        shutil.copy(shop_home / name, home / name)
    (home / "bundles").mkdir()
    for bundle in (shop_home / "bundles").iterdir():
        (home / "bundles" / bundle.name).symlink_to(bundle.resolve())
    (home / "history").symlink_to((shop_home / "history").resolve())
    return home


# --- as a program -----------------------------------------------------------------------------------------


def program(*words: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "osclms", *map(str, words)]
    clean = {name: text for name, text in os.environ.items() if not name.startswith("OSCLMS_")}
    return subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=120, check=False
    )


def test_as_a_program_it_prints_json_alone(shop_home: Path, as_of: str, tmp_path: Path) -> None:
    ended = program("recommend", "trending", "--json", "--as-of", as_of, "--home", shop_home, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(json.loads(ended.stdout)["items"]) == 10


def test_as_a_program_an_error_is_a_line_and_the_code_1(tmp_path: Path) -> None:
    ended = program("recommend", "trending", "--home", tmp_path / "none", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"osclms: {tmp_path}/none has no champion yet: run `osclms train`\n"
    assert not (tmp_path / "none").exists()


def test_recommending_needs_no_training_package(shop_home: Path, as_of: str, tmp_path: Path) -> None:
    """A service's image holds none of them."""
    words = ["osclms", "recommend", "next_best", "--as-of", as_of, "--home", str(shop_home), "--json"]
    script = f"""
import sys
for name in ("implicit", "lightfm", "mlflow", "matplotlib"):
    sys.modules[name] = None
sys.argv = {words!r}
import osclms
osclms.main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["items"]


# --- help -------------------------------------------------------------------------------------------------


def test_without_a_word_it_lists_its_verbs(run: Run) -> None:
    ended = run()
    assert ended.code == 2
    assert all(re.search(rf"\b{verb}\b", ended.out + ended.err) for verb in VERBS)


def test_the_verbs_are_these() -> None:
    assert {command.callback.__name__ for command in osclms.app.registered_commands if command.callback} == {
        *VERBS
    }


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_shows_an_example(run: Run, verb: str) -> None:
    ended = run(verb, "--help")
    assert ended.code == 0
    assert re.search(rf"Examples?: .*osclms {verb} ", ended.out)


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_are_of_options_that_exist(verb: str) -> None:
    command = typer.main.get_command(osclms.app)
    found = command.commands[verb]  # type: ignore[attr-defined]
    options = {
        option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"--[a-z-]+", found.epilog)) <= options


def test_a_word_that_is_no_verb_ends_with_2(run: Run) -> None:
    assert run("recomend").code == 2


# --- load -------------------------------------------------------------------------------------------------


def test_the_sample_of_a_grocer(run: Run, tmp_path: Path) -> None:
    words = (
        "load",
        "events",
        SAMPLES / "grocer.csv",
        "--mapping",
        SAMPLES / "grocer.toml",
        "--home",
        tmp_path,
    )
    (report,) = run(*words, "--json").json
    rows = len((SAMPLES / "grocer.csv").read_bytes().splitlines()) - 1
    assert report["read"] == rows == report["loaded"] + sum(report["rejected"].values())
    assert report["loaded"] > 0.99 * rows and report["known"] == 0 and report["products"] > 0
    history = History(tmp_path / "history")
    assert (history.store.name, history.store.currency) == ("Grocer", "EUR")
    assert history.counts()["events"] == report["loaded"]
    (again,) = run(*words, "--json").json
    assert (again["loaded"], again["known"], again["products"]) == (0, report["loaded"], 0)
    assert history.counts()["events"] == report["loaded"]


def test_the_sample_of_a_wholesaler(run: Run, tmp_path: Path) -> None:
    words = ("load", "events", SAMPLES / "wholesale.csv", "--mapping", SAMPLES / "wholesale.toml")
    (report,) = run(*words, "--home", tmp_path, "--json").json
    parts = (report["loaded"], report["known"], *report["left_out"].values(), *report["rejected"].values())
    assert report["read"] == sum(parts)
    assert report["left_out"]["charges"] > 0
    types = set(History(tmp_path / "history").events(columns=("event_type",))["event_type"].to_pylist())
    assert types == {"order", "return"}
    text = run(*words, "--home", tmp_path).out
    assert text.startswith(f"events: {report['read']} rows read, 0 new, {report['loaded']} known already")


def test_two_sources_of_one_home_must_agree_on_the_store(run: Run, tmp_path: Path) -> None:
    for name, code in (("grocer", 0), ("wholesale", 1)):
        ended = run(
            "load",
            "events",
            SAMPLES / f"{name}.csv",
            "--mapping",
            SAMPLES / f"{name}.toml",
            "--home",
            tmp_path,
        )
        assert ended.code == code
    assert "load into another home" in ended.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("evens", SAMPLES / "grocer.csv"), "'evens' is none of events, products, customers"),
        (("events",), "--mapping FILE.toml"),
        (("events", SAMPLES / "grocer.csv"), "--mapping FILE.toml"),
        (("events", "nowhere.csv", "--mapping", SAMPLES / "grocer.toml"), "nowhere.csv"),
    ],
)
def test_a_wrong_load_ends_with_2(run: Run, tmp_path: Path, words: tuple[object, ...], says: str) -> None:
    ended = run("load", *words, "--home", tmp_path)
    assert ended.code == 2
    assert says in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        (None, "there is no mapping"),
        ("nonsense = [", "not TOML"),
        ('[columns]\nflavour = "x"\n', "there is no column 'flavour'"),
        ((SAMPLES / "wholesale.toml").read_text(), "which .*grocer.csv does not have"),
    ],
)
def test_a_mapping_that_cannot_be_is_named_without_a_traceback(
    run: Run, tmp_path: Path, mapping: str | None, says: str
) -> None:
    path, home = tmp_path / "mapping.toml", tmp_path / "home"
    if mapping is not None:
        path.write_text(mapping)
    ended = run("load", "events", SAMPLES / "grocer.csv", "--mapping", path, "--home", home)
    assert ended.code == 1
    assert re.search(says, ended.err) and ended.err.startswith("osclms: ")
    assert History(home / "history").span() is None


@pytest.fixture
def journey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for demo data of a few rows; of its two purchases one has a product without a number."""
    source, home = tmp_path / "data", tmp_path / "home"
    source.mkdir()
    real = completejourney.source_folder()
    for name, rows in (("products", 50), ("demographics", 5), ("promotions", 50), ("transactions", 2)):
        table = pq.ParquetFile(real / f"{name}.parquet").read_row_group(0).slice(0, rows)
        if name == "transactions":
            known = table["product_id"][0].as_py()
            place = table.column_names.index("product_id")
            table = table.set_column(
                place, "product_id", pa.array([known, None], table.schema.field(place).type)
            )
        pq.write_table(table, source / f"{name}.parquet")
    monkeypatch.setattr(completejourney, "source_folder", lambda: source)
    return home


def test_the_demo_data_heeds_how_many_rejects_are_allowed(run: Run, journey: Path) -> None:
    refused = run("load", "completejourney", "--home", journey)
    assert refused.code == 1 and "1 of 2 rows are rejects, more than 1.00%" in refused.err
    assert History(journey / "history").span() is None
    reports = run("load", "completejourney", "--max-rejects", 0.5, "--home", journey, "--json").json
    assert [r["table"] for r in reports] == ["products", "customers", "promotions", "events"]
    assert (reports[-1]["loaded"], sum(reports[-1]["rejected"].values())) == (1, 1)


@pytest.mark.parametrize("words", [("--mapping", SAMPLES / "grocer.toml"), (SAMPLES / "grocer.csv",)])
def test_the_demo_data_brings_its_own_files_and_mappings(
    run: Run, tmp_path: Path, words: tuple[object, ...]
) -> None:
    ended = run("load", "completejourney", *words, "--home", tmp_path)
    assert ended.code == 2
    assert "completejourney brings its own files and mappings: name neither" in ended.err
    assert not list(tmp_path.iterdir())


# --- learn ------------------------------------------------------------------------------------------------


def test_training_on_nothing_says_what_to_do(run: Run, tmp_path: Path) -> None:
    ended = run("train", "--home", tmp_path, "--json")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == f"osclms: {tmp_path}/history holds no orders: run `osclms load` first\n"


def test_evaluating_on_what_was_learned_is_refused(run: Run, shop_home: Path) -> None:
    ended = run("evaluate", "--window", "2017-12-01:2018-01-01", "--home", shop_home)
    assert ended.code == 1
    assert "train with `--until 2017-12-01` first, or choose a later window" in ended.err


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ("2017-12-01", "a window is START:END"),
        ("2017-12-01:soon", "'soon' is no date or time such as"),
        ("2017-12-01T00:00:2018-01-01", "a window is START:END"),
    ],
)
def test_a_window_that_is_none_ends_with_2(run: Run, shop_home: Path, window: str, says: str) -> None:
    ended = run("evaluate", "--window", window, "--home", shop_home)
    assert ended.code == 2 and says in ended.err


def test_evaluating_a_placement_that_is_none_names_those_that_are(run: Run, shop_home: Path) -> None:
    words = ("evaluate", "--window", "2030-01-01:2030-02-01", "--home", shop_home)
    ended = run(*words, "--placement", "trending", "--placement", "next_bets")
    assert (ended.code, ended.out) == (2, "")
    assert f"there is no placement 'next_bets'; known: {', '.join(PLACEMENTS)}" in ended.err


def test_a_window_is_of_dates_or_of_times() -> None:
    first, second = datetime(2017, 12, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC)
    assert osclms.window("2017-12-01:2018-01-01") == (first, second)
    assert osclms.window("2017-12-01T00:00+00:00/2018-01-01T01:00+01:00") == (first, second)


@pytest.mark.parametrize("words", [(), ("1", "--previous"), ("--previous", "--sync"), ("1", "--sync")])
def test_promote_needs_one_of_three(run: Run, shop_home: Path, words: tuple[str, ...]) -> None:
    ended = run("promote", *words, "--home", shop_home)
    assert ended.code == 2
    assert "name one of: VERSION, --previous, --sync" in ended.err


def test_promoting_the_champion_changes_nothing(run: Run, shop: Path) -> None:
    assert run("promote", "1", "--home", shop).out == "nothing to change: the champion is 1\n"
    assert run("promote", "1", "--home", shop, "--json").json == {"champion": "1", "changes": []}
    assert run("promote", "--sync", "--home", shop, "--json").json == {"champion": "1", "changes": []}


def test_a_lost_champion_file_comes_back(run: Run, shop: Path) -> None:
    (shop / "champion").unlink()
    assert "file champion: none → 1" in run("promote", "--sync", "--home", shop).out
    assert (shop / "champion").read_text() == "1\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("99",), "there is no version 99: promote one of 1"),
        (("--previous",), "there is no champion before 1"),
    ],
)
def test_promoting_what_is_not_there_says_what_is(
    run: Run, shop: Path, words: tuple[str, ...], says: str
) -> None:
    ended = run("promote", *words, "--home", shop)
    assert ended.code == 1 and says in ended.err
    assert (shop / "champion").read_text() == "1\n"


# --- answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_list_is_the_engines(run: Run, engine: Engine, shop_home: Path, as_of: str, placement: str) -> None:
    customer = engine.sample().customers[0]
    basket = [p.product_id for p in engine.sample().products[:4]]
    ended = run(
        "recommend", placement, "--customer", customer, "--product", basket[0], "--product", basket[1],
        "--exclude", basket[2], "--exclude", basket[3], "--limit", 4, "--as-of", as_of, "--home", shop_home, "--json",
        "--explain",
    )  # fmt: skip
    asked = RecommendRequest(
        customer_id=customer, product_ids=tuple(basket[:2]), exclude=tuple(basket[2:]), limit=4, explain=True
    )
    assert ended.code == 0
    wanted = engine.recommend(placement, asked, at=engine.data_until).model_dump(mode="json")
    told = ended.json
    # products that other tests said are sold out
    assert told["removed"].pop("unavailable") >= wanted["removed"].pop("unavailable")
    assert told == wanted


def test_a_list_for_people_is_a_table(run: Run, engine: Engine, shop_home: Path, as_of: str) -> None:
    ended = run("recommend", "trending", "--limit", 3, "--as-of", as_of, "--home", shop_home, "--explain")
    items = engine.recommend("trending", RecommendRequest(limit=3), at=engine.data_until).items
    assert ended.code == 0
    for item in items:
        assert item.product_id in ended.out and item.title in ended.out and item.story in ended.out
        assert f"{item.price:.2f} USD" in ended.out
    assert "popular:nobody" in ended.out


def test_without_a_moment_it_answers_as_of_now(run: Run, shop_home: Path) -> None:
    one, other = (run("recommend", "trending", "--home", shop_home, "--json").json for _ in range(2))
    assert one["items"] == other["items"] and one["recommendation_id"] != other["recommendation_id"]


def test_the_home_may_be_named_by_the_environment(
    run: Run, shop_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OSCLMS_HOME", str(shop_home))
    assert run("recommend", "trending", "--json").code == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("next_bets",), 1, "there is no placement 'next_bets'; known: next_best, cross_sell"),
        (("trending", "--as-of", "2017-01-01"), 1, "ask for a later moment"),
        (("trending", "--as-of", "tomorrow"), 2, "'tomorrow' is no date or time such as 2017-12-01"),
        (("trending", "--limit", "0"), 2, "--limit"),
        (("trending", "--limit", "101"), 2, "--limit"),
        (("trending", "--customer", ""), 2, "customer_id: String should have at least 1 character"),
        (("trending", "--product", "x" * 201), 2, "product_ids: String should have at most 200 characters"),
        (("trending", "--all"), 2, "name the file to write with --out"),
        (("next_bets", "--all", "--out", "x.parquet"), 1, "there is no placement 'next_bets'"),
        (("trending", "--all", "--out", "x.csv"), 1, "x.csv is neither .parquet nor .ndjson"),
        (("trending", "--queries", "nowhere.ndjson", "--out", "x.parquet"), 2, "nowhere.ndjson"),
        (("trending", "--all", "--out", "/dev/null/x.parquet"), 1, "/dev/null"),
    ],
)
def test_a_list_that_cannot_be_says_why(
    run: Run,
    shop_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("recommend", *words, "--home", shop_home)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert not list(tmp_path.iterdir())


def test_lists_for_everybody(run: Run, engine: Engine, shop_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists.parquet"
    told = run(
        "recommend", "next_best", "--all", "--out", out, "--limit", 2, "--home", shop_home, "--json"
    ).json
    assert told == {
        "placement": "next_best",
        "lists": len(engine.history.customers),
        "out": str(out),
        "as_of": engine.data_until.isoformat(),
        "model_version": engine.version,
    }
    assert pq.read_table(out).num_rows == 2 * told["lists"]


def test_lists_for_questions(run: Run, engine: Engine, shop_home: Path, tmp_path: Path) -> None:
    product = engine.sample().products[0].product_id
    questions, out = tmp_path / "q.ndjson", tmp_path / "a.ndjson"
    questions.write_text(f'{{"query_id": 7, "product_ids": ["{product}"]}}\n{{"query_id": "b"}}\n')
    ended = run(
        "recommend", "cross_sell", "--queries", questions, "--out", out, "--limit", 3, "--home", shop_home
    )  # fmt: skip
    assert (ended.code, ended.out) == (0, f"2 lists of cross_sell in {out}\n")  # however long the path
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["query_id"], r["rank"]) for r in rows] == [(q, n) for q in ("7", "b") for n in (1, 2, 3)]
    both = run(
        "recommend", "cross_sell", "--queries", questions, "--all", "--out", out, "--home", shop_home
    )  # fmt: skip
    assert both.code == 2
    questions.write_text('{"query_id": 7}\n{"query": 8}\n')
    wrong = run("recommend", "cross_sell", "--queries", questions, "--out", out, "--home", shop_home)
    assert wrong.code == 1 and f"{questions}, line 2: query: Extra inputs are not permitted" in wrong.err
    assert len(out.read_text().splitlines()) == 6  # as it was


# --- messages, serving, checking, the demo -----------------------------------------------------------------


def test_a_message(run: Run, engine: Engine, shop_home: Path, as_of: str, tmp_path: Path) -> None:
    customer, page = engine.sample().customers[0], tmp_path / "thanks.html"
    words = ("message", "thank_you", "--customer", customer, "--as-of", as_of, "--home", shop_home)
    made = run(*words, "--json").json
    assert set(made) == {"subject", "html", "text", "may_send", "why"}
    ended = run(*words, "--html", page)
    assert ended.out == f"Subject: {made['subject']}\n\n{made['text']}\n"
    assert page.read_text() == made["html"]
    order = engine.order(customer, None)
    assert order and order.lines[0].product.title in made["text"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("nothing",), 2, "there is no program 'nothing'; known: "),
        (("thank_you", "--as-of", "2016-01-01"), 1, "ask for a later moment"),
        (("thank_you", "--html", "nowhere/thanks.html"), 1, "nowhere/thanks.html"),
    ],
)
def test_a_message_that_cannot_be_says_why(
    run: Run,
    shop_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("message", *words, "--home", shop_home)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err


def test_serving_starts_bentoml_on_the_home(
    run: Run, shop_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str]]] = []

    def execv(path: str, words: list[str]) -> None:
        started.append((path, words))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr("serving.metrics.MEMORY", tmp_path)
    words = ("--as-of", "2018-01-02", "--port", 4711, "--workers", 3)
    assert run("serve", *words, "--home", shop_home).code == 0
    assert os.environ["OSCLMS_HOME"] == str(shop_home.resolve())
    assert (os.environ["OSCLMS_AS_OF"], os.environ["OSCLMS_WORKERS"]) == ("2018-01-02T00:00:00+00:00", "3")
    folders = set()
    for port in (4711, 4712):  # as two of one folder would wipe each other's counts
        monkeypatch.delenv("BENTOML_HOME", raising=False)
        assert run("serve", "--port", port, "--home", shop_home).code == 0
        assert os.environ["OSCLMS_WORKERS"] == "3"  # as the environment has it
        folders.add(own := Path(os.environ["BENTOML_HOME"]))
        assert own.is_dir() and own.name.endswith(str(port))
    assert len(folders) == 2
    (path, command), *_ = started
    assert path == sys.executable
    assert " ".join(command).startswith(
        f"{path} -m bentoml serve serving.service:Service --host 127.0.0.1 --port 4711"
    )


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("verb", ["serve", "demo"])
def test_a_port_that_is_taken_is_named_before_anything_is_done(
    run: Run, shop_home: Path, tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("served on a port that is taken"))
    ended = run(verb, "--port", taken, "--home", shop_home if verb == "serve" else tmp_path)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"osclms: port {taken} of 127.0.0.1 is taken: ")
    assert "--port" in ended.err
    assert not list(tmp_path.iterdir())


def test_a_host_that_is_not_ours_is_named(run: Run, shop_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("served on an address of another machine"))
    ended = run("serve", "--host", "192.0.2.1", "--home", shop_home)
    assert ended.code == 1
    assert ended.err.startswith("osclms: port 3000 of 192.0.2.1 cannot be listened on: ")


def test_without_a_champion_nothing_is_served(run: Run, tmp_path: Path) -> None:
    ended = run("serve", "--home", tmp_path)
    assert ended.code == 1 and "has no champion yet: run `osclms train`" in ended.err


def test_check_tells_what_the_data_supports(run: Run, shop_home: Path) -> None:
    found = run("check", "--home", shop_home, "--json").json
    assert found["figures"]["customers"] > 200
    rows = {(s["kind"], s["name"]): s for s in found["supported"]}
    assert all(rows["placement", name]["supported"] for name in PLACEMENTS)
    assert found["warnings"] == []
    text = run("check", "--home", shop_home).out
    assert (
        "customers with a purchase" in text and "thank_you, sent" in text and "consents on record: 0" in text
    )


def test_check_warns_of_order_ids_that_are_used_again(run: Run, tmp_path: Path) -> None:
    source, mapping = tmp_path / "tills.csv", tmp_path / "tills.toml"
    source.write_text(
        "receipt,card,day,product\n7,anna,2026-01-01,tea\n7,bert,2026-01-02,jam\n7,bert,2026-01-09,tea\n"
    )
    mapping.write_text(
        "[columns]\nevent_type = { value = 'order' }\nquantity = { value = 1 }\norder_id = 'receipt'\n"
        "customer_id = 'card'\noccurred_at = 'day'\nproduct_id = 'product'\n"
    )
    home = tmp_path / "home"
    assert run("load", "events", source, "--mapping", mapping, "--home", home).code == 0
    found = run("check", "--home", home, "--json").json
    assert [told.split(":")[0] for told in found["warnings"]] == [
        "1 of 1 order ids (100.0%) name more than one customer",
        "1 of 1 order ids (100.0%) name purchases of one customer more than 2 days apart",
    ]
    text = run("check", "--home", home).out
    assert all(told in text for told in found["warnings"])


def test_check_of_an_empty_home(run: Run, tmp_path: Path) -> None:
    found = run("check", "--home", tmp_path / "none", "--json")
    assert found.code == 0
    assert not any(s["supported"] for s in found.json["supported"])
    assert not (tmp_path / "none").exists()


def test_the_demo_reuses_what_is_there(run: Run, engine: Engine, shop: Path) -> None:
    before = sorted(p.name for p in shop.iterdir())
    ended = run("demo", "--no-serve", "--home", shop)
    assert ended.code == 0
    assert ended.out.startswith(f"household {engine.sample().customers[0]}, with product ")
    assert all(
        re.search(rf"^{name}\b", ended.out, re.MULTILINE) for name in ("next_best", "cross_sell", "upsell")
    )
    assert sorted(p.name for p in shop.iterdir()) == before
