"""Programs' files, what is said of those that are wrong, and `osclms program`."""

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller
from conftest import CUSTOMER, END
from cryptography.fernet import Fernet
from rich.console import Console
from running import free_port
from test_channels import Mailbox
from typer.testing import CliRunner, Result

import osclms
from features.customers import STAGES
from features.history import History
from features.interactions import DAY
from lifecycle import handbook, ledger
from lifecycle.briefs import MEANINGS, READERS, brief
from lifecycle.day import day_of
from lifecycle.lint import all_files, faults_in, names
from lifecycle.pauses import pause
from lifecycle.preview import Preview, Size, Step
from lifecycle.program_pages import preview_page, programs_page, size_page, status
from lifecycle.programs import Policy, Program, Waits, policy, programs
from lifecycle.rows import FIELDS, row
from lifecycle.run import OWN, moment_of
from lifecycle.run import run as decide
from lifecycle.seeds import SeedError
from lifecycle.tongue import Tongue
from lifecycle.triggers import TRIGGERS, WORDS
from lifecycle.yamls import FileError, read
from serving import addresses
from serving.placements import PLACEMENTS
from serving.schemas import Recommendation
from serving.store import Store, address

SHIPPED = programs(None)
LOCALES = ("en", "es", "fr")
GOOD = """
name: mine
about: a test
trigger: {kind: order}
shelves:
  - {placement: next_best}
texts:
  en:
    subject: "Hello {{ first_name }}"
    title: t
    body: b
    shelves: [h]
""".strip()


# --- files ------------------------------------------------------------------------------------------------


def test_what_ships_is_right_and_of_every_kind() -> None:
    assert faults_in(all_files(Path("nowhere")), PLACEMENTS) == []
    assert {program.trigger.kind for program in SHIPPED.values()} == {*TRIGGERS}
    assert [name for name, program in SHIPPED.items() if not program.enabled] == ["newsletter"]


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_written_in_three_languages_and_has_a_brief(name: str) -> None:
    program = SHIPPED[name]
    assert (*program.texts,) == LOCALES
    assert program.brief.hook and program.brief.story
    bodies = {texts.body for texts in program.texts.values()}
    assert len(bodies) == len(LOCALES)
    for texts in program.texts.values():
        assert all(texts.shelves) and texts.subject and texts.preheader


@pytest.mark.parametrize(
    ("changed", "to", "line", "says"),
    [
        ("about: a test", "abuot: a test", 2, "abuot: Extra inputs are not permitted"),
        ("kind: order", "kind: oder", 3, "trigger: Input tag 'oder'"),
        ("placement: next_best", "placement: best", 5, "there is no placement 'best'; known: next_best"),
        ("{{ first_name }}", "{{ firstname }}", 8, "'firstname' is no name"),
        ("{{ first_name }}", "{{ tier }}", 8, "'tier' is no name"),
        ("{{ first_name }}", "{% if first_name %}", 8, "texts.en.subject: "),
        ("body: b", "body: '{{ first_name | shout }}'", 10, "shout"),
        ("shelves: [h]", "shelves: []", 7, "0 headings for 1 shelves"),
        ("name: mine", "name: yours", 1, "is yours, the file says mine"),
        ("{kind: order}", "{kind: joined}\nproducts: true", 4, "is about no product"),
        ("{placement: next_best}", "{placement: next_best, about: both}\nexit: [order]", None, None),
        ("{kind: order}", "{kind: joined}\nexit: [ordered_product]", 4, "is about no product"),
        ("about: a test", "about: a test\nabout: twice", 3, "about is given twice"),
        ("name: mine", "variants: {a: {share: 0.6}, b: {share: 0.5}}\nname: mine", 1, "above 1 together"),
        (
            "name: mine",
            "variants: {a: {share: 0.6, shelves: []}}\nname: mine",
            1,
            "a: texts.en: 1 headings for 0",
        ),
        (
            "name: mine",
            "variants:\n  a: {share: 0.6, texts: {en: {title: '{{ tier }}'}}}\nname: mine",
            2,
            "'tier'",
        ),
        (
            "name: mine",
            "variants:\n  a: {share: 0.6, texts: {en: {titel: b}}}\nname: mine",
            2,
            "titel: Extra inputs",
        ),
        (
            "about: a test",
            "about: a test\nexclusive_days: 2",
            3,
            "does nothing where the policy's choice is priority",
        ),
        ("[h]", "[h", 11, ""),
        (
            "{kind: order}",
            "{kind: broadcast, on: 2017-02-30}",
            3,
            "'2017-02-30' is no timestamp: day is out of",
        ),
        ("about: a test", "about: 2017-01-01T00:00:00+99:00", 2, "is no timestamp"),
        ("about: a test", "about: !!bool maybe", 2, "'maybe' is no bool"),
        ("about: a test", "about: !!python/name:os.system", 2, "could not determine a constructor"),
        ("about: a test", "about: &a [*a]", 1, "within itself"),
        ("about: a test", "about: \x07", 1, "special characters"),
        ("about: a test", "about: a test\nkind: transactional", None, None),
        (
            "{kind: order}",
            "{kind: joined}\nkind: transactional",
            4,
            "only what waits for order is transactional",
        ),
        ("about: a test", "about: a test\nchannel: sms", 8, "texts.en.sms: is empty"),
        ("about: a test", "about: a test\nchannel: post", 3, "nothing carries messages by post"),
        ("title: t", "title: ' '", 9, "texts.en.title: is empty"),
        ("about: a test", "about: a test\ntemplate: voucher", 3, "there is none"),
        ("about: a test", "about: a test\ntemplate: rating", 3, "say rating: true"),
        ("about: a test", "about: a test\nvoucher: {worth: 5, days: 3651}", 3, "less than or equal to 3650"),
        ("about: a test", 'about: a test\nwindow: {start: "05:00", end: "07:30"}', 3, "and never opens"),
        ("about: a test", "about: a test\naudience: {spend: {at_least: 9, below: 9}}", 3, "not below 9"),
        ("about: a test", "about: a test\naudience: {region: []}", 3, "region is an empty list"),
        ("{kind: order}", "{kind: first_gap, low: 0.5, high: 0.5}", 3, "not below high, 0.5"),
        ("{kind: order}", "{kind: stage, stages: [lapsed], steps: [9, 3]}", 3, "later than the one before"),
        ("{kind: order}", "{kind: tier, tiers: {a: 5, b: 5}}", 3, "two tiers"),
        ("{kind: order}", "{kind: order, within: 0.5}", 3, "is below a day"),
        ("{kind: order}", "{kind: order, within: 0.5}\nmissed: catch_up", None, None),
        ("body: b", "body: '{{ products[0].titel }}'", 10, "products[0].titel: there is no 'titel'"),
        ("body: b", "body: '{% for p in products %}{{ p.titel }}{% endfor %}'", 10, "p.titel: there is no"),
        ("body: b", "body: '{{ products.title }}'", 10, "write products[0].title"),
        ("body: b", "body: '{{ products.first.title }} {{ products.size }}'", None, None),
        ("body: b", "body: b\n    words: {stop: ' '}", 11, "stop: says how to end these in an SMS"),
        ("body: b", "body: b\n    words: {stop: Send STOP to 4711}", None, None),
        (
            "  en:",
            "  en: {subject: '{{ voucher.kode }}', title: t, body: b, shelves: [h]}\n  fr:",
            7,
            "'kode'",
        ),
    ],
)
def test_what_is_wrong_is_said_by_line(
    tmp_path: Path, changed: str, to: str, line: int | None, says: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(changed, to), encoding="utf-8")
    found = faults_in([path], PLACEMENTS)
    if line is None:
        assert found == []
    else:
        told = [str(fault) for fault in found if fault.line == line and says in fault.says]
        assert told and told[0].startswith(f"{path}:{line}: ")


def test_a_row_of_a_product_holds_what_check_knows(written_home: Path) -> None:
    item = Recommendation(
        product_id="a", title="A", price=1.0, currency="EUR", url=None, image_url=None, score=1.0, source="als",
        story="",
    )  # fmt: skip
    tongue = Tongue.of("en", None, None, History(written_home / "history").store)
    assert (*row(item, tongue, None),) == FIELDS


def test_on_is_a_day_and_no_is_a_language(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    said = GOOD.replace("kind: order", "kind: broadcast, on: 2026-12-01").replace("  en:", "  no:")
    path.write_text(said + "\nenabled: False\n", encoding="utf-8")
    found = programs(tmp_path)["mine"]
    assert (found.trigger.model_dump()["on"], [*found.texts], found.enabled) == (
        date(2026, 12, 1),
        ["no"],
        False,
    )


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_says_what_the_models_say() -> None:
    page = handbook.PAGE.read_text(encoding="utf-8")
    assert page == handbook.fresh(page), "write it anew: python -m lifecycle.handbook"
    fields = {*Program.model_fields, *Policy.model_fields, *Waits.model_fields, *SHIPPED}
    assert [name for name in sorted(fields) if f"`{name}`" not in page] == []
    shown, variants = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    said = yaml.safe_load(shown.replace("on:", "'on':"))
    program = Program.model_validate(said | yaml.safe_load(variants))
    assert program.name == "autumn_teas" and len(program.forms) == 4
    asked = program.form("question").texts["en"]
    assert asked.subject.startswith("Anything missing") and asked.title == program.texts["en"].title
    assert program.form("one_product").template == "hero" and program.form("novelties").shelves[0].limit == 4


# --- briefs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_brief_holds_all_that_a_writer_needs(stage: str) -> None:
    program = SHIPPED["win_back"]
    told = brief(program, stage, policy(None))
    for part in ("Reader", "When", "Hook", "Story", "Tonality", "Personalisation", "Follow-up", "Write"):
        assert f"## {part}\n- " in told
    assert program.brief.hook in told and program.brief.story in told and policy(None).brand_voice in told
    assert READERS[stage].tone in told and "3 messages, 0, 21, 60 days" in told
    assert "`{{ first_name }}`" in told and "an order" in told


def test_what_a_text_may_name_is_explained() -> None:
    assert {name for program in SHIPPED.values() for name in names(program)} == {*MEANINGS}
    assert {name for words in WORDS.values() for name in words} <= {*MEANINGS}


# --- the command ------------------------------------------------------------------------------------------

Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, written_home: Path) -> Path:
    """The sample shop with made-up contacts, and a database of its own."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("bundles", "champion", "history"):
        (folder / name).symlink_to(written_home / name)
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(osclms.out, "width", 300)
    runner = CliRunner(env={"OSCLMS_HOME": str(home), "OSCLMS_DATABASE_URL": ""})
    monkeypatch.delenv("OSCLMS_DATABASE_URL", raising=False)
    return lambda *words: runner.invoke(osclms.app, ["program", *words], env={"OSCLMS_DATABASE_URL": None})


def own(home: Path, name: str, said: Mapping[str, Any]) -> None:
    (home / OWN).mkdir(exist_ok=True)
    about = {
        "name": name,
        "about": "for a test",
        "texts": {"en": {"subject": "s", "title": "t", "body": "b"}},
    }
    (home / OWN / f"{name}.yaml").write_text(json.dumps({**about, **said}), encoding="utf-8")


def test_check_ends_with_1_where_something_is_wrong(run: Run, home: Path) -> None:
    assert run("check").exit_code == 0
    own(home, "mine", {"trigger": {"kind": "order"}, "shelves": [{"placement": "best"}]})
    ended = run("check")
    assert ended.exit_code == 1 and "mine.yaml:1: texts.en: 0 headings for 1 shelves" in ended.output.replace(
        "\n", ""
    )
    assert json.loads(run("check", "--json").output)[0]["line"] == 1


def test_list_and_status_tell_of_each(run: Run) -> None:
    assert [of["name"] for of in json.loads(run("list", "--json").output)] == [*SHIPPED]
    assert [of["program"] for of in json.loads(run("status", "--json").output)] == [*SHIPPED]
    assert "win_back" in run("list").output and "runs" in run("status").output
    assert "there is no program" in run("brief", "nothing", "--stage", "new").output


def test_the_list_can_be_read_on_80_columns() -> None:
    console = Console(width=80, file=io.StringIO())
    console.print(programs_page(SHIPPED, {"mine": "its file is not understood"}))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]
    first = {line.split()[0] for line in lines if line[1] != " "}
    assert first == {"program", "mine", *SHIPPED} and max(map(len, lines)) <= 80
    assert len(lines) < 5 * len(SHIPPED), "two or three lines each"


def test_status_tells_of_each_the_last_run_that_it_was_part_of(tmp_path: Path) -> None:
    about = {"received_at": END, "found": 0.0, "members": 0.0}
    later = END + timedelta(hours=1)
    with Store(address(tmp_path, None)) as store:
        store.append(
            "runs", [{**about, "run_at": END, "program": name, "stopped": "full"} for name in SHIPPED]
        )
        store.append("runs", [{**about, "run_at": later, "program": "thank_you"}])
        found = {
            of.program: (of.stopped, of.run_at) for of in status(store, SHIPPED, {}, at=later + timedelta(1))
        }
    assert found["welcome"] == ("full", END.isoformat())
    assert found["thank_you"] == (None, later.isoformat())


def test_a_faulty_file_is_told_beside_the_others(run: Run, home: Path) -> None:
    own(home, "thank_you", {"trigger": {"kind": "oder"}})
    told = {of["name"]: of.get("stopped") for of in json.loads(run("list", "--json").output)}
    stands = {of["program"]: of["stopped"] for of in json.loads(run("status", "--json").output)}
    assert {*told} == {*stands} == {*SHIPPED}
    assert (
        [name for name, why in stands.items() if why]
        == ["thank_you"]
        == [n for n, why in told.items() if why]
    )
    assert "thank_you.yaml:1: trigger" in told["thank_you"] and "stopped" in run("list").output
    assert "stopped" in run("brief", "thank_you", "--stage", "new").output


def test_a_size_counts_each_occasion_once(run: Run, home: Path) -> None:
    """Each order of the two days before the last run is an occasion of one day; in the audience are those with so many
    orders, and nobody is written to who did not agree."""
    own(home, "mine", {"trigger": {"kind": "order", "within": 3}, "audience": {"frequency": {"at_least": 5}}})
    counted = json.loads(
        run("size", "mine", "--date", f"{END:%Y-%m-%d}", "--days", "2", "--json").output.strip()
    )
    assert [of["day"] for of in counted] == [f"{END - timedelta(days=n):%Y-%m-%d}" for n in (1, 0)]
    with Store(address(home, None)) as store:
        last = day_of(History(home / "history"), store, moment_of(home, f"{END:%Y-%m-%d}"))
        since = last.until - 2 * DAY
        assert sum(of["occasions"] for of in counted) == int((last.orders.at >= since).sum()) > 0
    for of in counted:
        assert of["occasions"] >= of["audience"] >= of["reached"]


def test_a_preview_answers_each_question_and_shows_the_message(run: Run, home: Path, tmp_path: Path) -> None:
    date_of = ("--customer", CUSTOMER, "--date", f"{END:%Y-%m-%d}")
    file = tmp_path / "it.html"
    own(home, "mine", {
        "trigger": {"kind": "order", "within": 40}, "audience": {"frequency": {"below": 2}},
        "shelves": [{"placement": "next_best", "minimum": 1}],
        "texts": {"en": {"subject": "Hello {{ first_name }}", "title": "t", "body": "b", "shelves": ["For you"]}},
    })  # fmt: skip
    pause_reason = "texts are new"
    with Store(address(home, None)) as store:
        pause(store, programs(home / OWN)["mine"], reason=pause_reason, by="me", at=END)
    told = json.loads(run("preview", "mine", *date_of, "--html", str(file), "--json").output)
    steps = {step["asked"]: step for step in told["steps"]}
    assert steps["trigger"]["holds"] and not steps["audience"]["holds"] and not told["written_to"]
    assert re.fullmatch(r"frequency is below 2: \d+", steps["audience"]["says"])
    assert steps["not paused"] == {"asked": "not paused", "holds": False, "says": pause_reason}
    assert {"address", "consent", "enabled", "not written before", "message"} <= {*steps}
    assert told["message"]["subject"] == "Hello Zoë" and "For you".upper() in told["message"]["text"].upper()
    assert file.read_text(encoding="utf-8") == told["message"]["html"]


def test_a_preview_without_an_occasion_is_an_example(run: Run) -> None:
    told = json.loads(
        run("preview", "loyalty_tier", "--customer", CUSTOMER, "--date", f"{END:%Y-%m-%d}", "--json").output
    )
    assert "by an example" in told["steps"][-2]["says"]
    assert "PREVIEW" in told["message"]["text"] and "gold" in told["message"]["subject"]
    nobody = run("preview", "mine", "--customer", "nobody", "--date", f"{END:%Y-%m-%d}")
    assert nobody.exit_code != 0


def test_a_test_goes_to_the_shops_own_alone(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a real server, in each language, with anybody's lists; nothing is put on record."""
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("# us\nme@shop.example\n\nleft@shop.example\nme@shop.example\n")
    with Store(address(home, None)) as store:
        left = addresses.subject(store, "email", "LEFT@shop.example")
        addresses.suppress(store, {left: "email"}, "bounce", at=END, received_at=END)
    box, port = Mailbox(), free_port()
    said = {
        "SMTP_URL": f"smtp://127.0.0.1:{port}",
        "MAIL_FROM": "hello@shop.example",
        "MAIL_ADDRESS": "Corner Shop, 1 Market Street, Springfield",
        "SECRET": Fernet.generate_key().decode(),
        "PUBLIC_URL": "https://go.shop.example",
        "SHOP_URL": "https://shop.example",
    }
    for name, text in said.items():
        monkeypatch.setenv(f"OSCLMS_{name}", text)
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    ended = run("test", "win_back", "--to", str(seeds), "--channel", "smtp", "--json")
    server.stop()
    assert ended.stdout, ended.exception
    told = json.loads(ended.stdout)
    assert [(of["place"], of["locale"], of["result"]) for of in told] == [
        *((1, locale, "sent") for locale in LOCALES), *((2, locale, "suppressed: bounce") for locale in LOCALES)
    ]  # fmt: skip
    assert ended.exit_code == 1  # not all went
    mails = [message_from_bytes(took, policy=default) for took in box.took]
    assert {mail["To"] for mail in mails} == {"me@shop.example"} and len(mails) == len(LOCALES)
    assert all(mail["Subject"].startswith("[Test] ") for mail in mails)
    with Store(address(home, None)) as store:
        assert not any(store.ends(table)[table] for table in ("decisions", "deliveries", "sends", "vouchers"))


@pytest.mark.parametrize("to", [", ,", "nowhere.txt", ",".join(f"{n}@shop.example" for n in range(51))])
def test_a_list_of_tests_that_is_none_is_refused(run: Run, to: str) -> None:
    ended = run("test", "win_back", "--to", to)
    assert isinstance(ended.exception, SeedError | OSError) and "shop.example" not in str(ended.exception)


def test_pages_say_it_in_words() -> None:
    steps = (Step("enabled", True, "yes"), Step("consent", False, "to marketing by email: no"))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(preview_page(Preview("mine", "4711", f"{END}", steps, None)))
    console.print(*size_page(SHIPPED["win_back"], [Size("2018-01-01", 4, 2, 1), Size("2018-01-02", 5, 4, 0)]))
    told = console.export_text()
    assert "mine: 4711 would not be written to" in told and "to marketing by email: no" in told
    assert re.search(r"all\W+9\W+6\W+1", told) and "█" * 40 in told


def test_a_paused_program_is_stopped_at_once_and_goes_on_when_resumed(run: Run, home: Path) -> None:
    own(home, "mine", {"trigger": {"kind": "order", "within": 5}})
    assert run("pause", "mine", "--reason", "texts are new").exit_code == 0
    (mine,) = [of for of in json.loads(run("status", "--json").output) if of["program"] == "mine"]
    assert mine["paused"] == "texts are new"
    with Store(address(home, None)) as store:
        now = END + timedelta(days=9999)
        assert ledger.pauses(store, now).of("mine") == "texts are new"
        assert run("resume", "mine").exit_code == 0
        assert ledger.pauses(store, now).of("mine") is None


def test_a_run_is_told_in_the_status(run: Run, home: Path, written_home: Path) -> None:
    own(home, "mine", {"trigger": {"kind": "order", "within": 5}, "breaker": {"history_days": 0.001}})
    (home / "history").unlink()  # a run moves into it what came in live
    shutil.copytree(written_home / "history", home / "history")
    at = END + timedelta(hours=11)
    decide(home, None, at, now=at, only=("mine", "win_back"))
    found = {of["program"]: of for of in json.loads(run("status", "--json").output)}
    assert found["mine"]["run_at"] == at.isoformat() and found["welcome"]["run_at"] is None
    assert found["mine"]["stopped"].startswith("the newest event is ")
    assert found["win_back"]["stopped"] is None
    assert "stopped: the newest event" in run("status").output


def test_a_brief_needs_no_shop_and_knows_no_customer(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run("brief", "abandoned_cart", "--stage", "active", "--home", str(tmp_path / "nothing"))
    assert told.exit_code == 0 and "{{ first_name }}" in told.output
    assert told.output == run("brief", "abandoned_cart", "--stage", "active").output
    assert "is none of" in run("brief", "abandoned_cart", "--stage", "gone").output
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("wrong", "line", "says"),
    [
        ("subject: {{ first_name }}", 1, "quotes"),
        ("name: one\nwindow: {start: 10, end: 18}", 2, "as 09:30"),
        ("name: one\ntrigger: {kind: stage, stages: [brink], steps: [-5]}", 2, "greater than or equal to 0"),
    ],
)
def test_what_marketers_write_wrong_is_told_by_line(tmp_path: Path, wrong: str, line: int, says: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(FileError) as told:
        read(path, Program)
    assert any(at == line and says in fault for at, fault in told.value.faults), told.value.faults
