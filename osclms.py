"""osclms: each verb calls into a package."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # before numpy is imported, in this process and its children
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from serving.schemas import RecommendRequest, in_utc  # all else is imported by the verb that needs it

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", help=__doc__
)
out, err = Console(), Console(stderr=True)


def moment(text: str) -> datetime:
    """2017-12-01 or 2017-12-01T09:30+01:00; UTC where it names no zone."""
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no date or time such as 2017-12-01 or 2017-12-01T09:30"
        ) from error


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document for a program to read.")]
Home = Annotated[
    Path, typer.Option("--home", envvar="OSCLMS_HOME", help="Where the state lives.", show_default=True)
]
Database = Annotated[
    str | None,
    typer.Option(envvar="OSCLMS_DATABASE_URL", help="PostgreSQL; missing: the database in the home."),
]
HERE = Path(".osclms")
LOCAL = "127.0.0.1"
AsOf = Annotated[
    datetime | None, typer.Option("--as-of", parser=moment, metavar="DATE", help="Answer as of this moment.")
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=moment, metavar="DATE", help="Know the past of this date alone."),
]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@contextmanager
def bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar on standard error, told (what, done, of how many or None)."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=err, transient=not err.is_terminal, disable=not err.is_terminal
    ) as progress:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, of: int | None) -> None:
            task = tasks.setdefault(what, None) or progress.add_task(what, total=of)
            tasks[what] = task
            progress.update(task, completed=done, total=of)

        yield told


# --- load -------------------------------------------------------------------------------------------


@app.command(epilog="Example: `osclms load events sales.csv --mapping sales.toml`")
def load(
    table: Annotated[str, typer.Argument(help="A table of the contract, or completejourney: the demo data.")],
    files: Annotated[list[Path] | None, typer.Argument(help="CSV, gzipped CSV or Parquet.", exists=True)] = None,
    mapping: Annotated[Path | None, typer.Option(help="The source's columns, in TOML: docs/data.md.")] = None,
    max_rejects: Annotated[float, typer.Option(min=0, max=1, help="Refuse above this share of broken rows.")] = 0.01,
    demo_contacts: Annotated[
        bool, typer.Option("--demo-contacts", help="Lay made-up contacts, consents, views and stock over it.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of what is made up.")] = 7,
    promotions_known: Annotated[
        int, typer.Option(min=0, help="Days ahead that the demo data's promotions were known.")
    ] = 0,
    home: Home = HERE,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Bring a source into the history. Loading the same file twice changes nothing."""
    from features.history import History

    history, rejects, is_demo = History(home / "history"), home / "rejects", table == "completejourney"
    if is_demo and (files or mapping):
        raise typer.BadParameter(f"{table} brings its own files and mappings: name neither")
    if demo_contacts and not is_demo:
        raise typer.BadParameter(f"--demo-contacts belongs to completejourney, not to {table}")
    if promotions_known and not is_demo:
        raise typer.BadParameter(
            "--promotions-known is for completejourney: others name their column known_at"
        )
    with bar() as told:
        reports = (
            load_demo(history, rejects, max_rejects, promotions_known, seed if demo_contacts else None, told)
            if is_demo
            else load_files(history, rejects, max_rejects, table, files, mapping, told)
        )
    if as_json:
        print_json([vars(report) for report in reports])
    for report in [] if as_json else reports:
        out.print(str(report), highlight=False, soft_wrap=True)


def load_demo(
    history: Any,
    rejects: Path,
    max_rejects: float,
    known: int,
    contacts: int | None,
    told: Callable[..., None],
) -> list[Any]:
    """The demo data, its promotions known so many days ahead; over it, made-up contacts of this seed if there is one.

    Where contacts are all that is asked for they are laid over what is there.
    """
    from features.completejourney import load_complete_journey
    from features.synthetic import lay_over

    laid = contacts is not None and not known and history.counts()["events"]
    reports = [] if laid else load_complete_journey(
        history, max_rejects=max_rejects, rejects_dir=rejects, promotions_known=known,
        progress=lambda n, of: told("rows", n, of),
    )  # fmt: skip
    return reports if contacts is None else reports + lay_over(history, seed=contacts, rejects_dir=rejects)


def load_files(
    history: Any, rejects: Path, max_rejects: float, table: str, files: list[Path] | None, mapping: Path | None,
    told: Callable[..., None],
) -> list[Any]:  # fmt: skip
    """Files of one table by their mapping."""
    from features.mapping import Mapping as SourceMapping
    from features.schema import TABLES
    from features.sources import load as load_table

    if table not in TABLES:
        raise typer.BadParameter(
            f"{table!r} is none of {', '.join(TABLES)}, completejourney", param_hint="TABLE"
        )
    if not files or mapping is None:
        raise typer.BadParameter("name the files, and the mapping that explains them: --mapping FILE.toml")
    return [
        load_table(
            history, table, files, SourceMapping.read(mapping), max_rejects=max_rejects, rejects_dir=rejects,
            progress=lambda n, of: told("rows", n, of),
        )
    ]  # fmt: skip


def parameter(text: str) -> tuple[str, float]:
    """NAME=VALUE of a world's parameter."""
    name, equals, value = text.partition("=")
    try:
        return name, float(value if equals else "")
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, as orders=12", param_hint="--set") from error


@app.command(
    epilog="Examples: `osclms generate worlds/grocer`, "
    "`osclms generate worlds/shop --customers 2000 --set orders=12 --set basket=0.4 --home .osclms-shop`"
)
def generate(
    folder: Annotated[Path, typer.Argument(help="An empty or missing folder.")],
    customers: Annotated[int, typer.Option(min=1)] = 10_000,
    products: Annotated[int, typer.Option(min=1)] = 5_000,
    days: Annotated[int, typer.Option(min=1)] = 400,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same files.")] = 7,
    start: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="DATE", help="The first day; missing: 2025-01-06."),
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any parameter: docs/worlds.md.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Which share the customers.")] = 1,
    home: Annotated[Path | None, typer.Option(help="Load the world into this home, too.")] = None,
    as_json: Json = False,
) -> None:
    """Write a made-up shop whose truth is known: the contract's tables as Parquet, and truth/ beside them."""
    from features.generate import generate as write_world
    from features.generate import load_world
    from features.history import History
    from features.worlds import World

    asked = {"customers": customers, "products": products, "days": days, "seed": seed}
    begun = {"start": f"{start:%Y-%m-%d}"} if start else {}
    world = World.of(dict(map(parameter, sets or ())), **asked, **begun)
    with bar() as told:
        done = write_world(world, folder, processes=processes, told=lambda n, of: told("customers", n, of))
        reports = load_world(folder, History(home / "history"), rejects_dir=home / "rejects") if home else []
    if as_json:
        return print_json({"folder": str(folder), "rows": done.rows, "loaded": [vars(r) for r in reports]})
    for line in (done, *reports):
        out.print(str(line), highlight=False, soft_wrap=True)
    return None


@app.command(epilog="Example: `osclms compact --json`")
def compact(
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Move what the service has received into the history, each row once. Killed, it may be run again."""
    from features.history import History
    from serving.compact import compact as move
    from serving.store import Store, address

    with bar() as told, Store(address(home, database_url)) as store:
        done = move(History(home / "history"), store, told=told)
    print_json(done.as_dict()) if as_json else out.print(str(done), highlight=False, soft_wrap=True)


@app.command(
    epilog="Examples: `osclms erase household-4711`, then, from cron, `osclms erase --finish`. "
    "Killed, it may be run again."
)
def erase(
    customer: Annotated[
        str | None, typer.Argument(help="Who is to be a stranger from now on, by any id.")
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Remove all that is held of the erased.")] = False,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Forget a customer: a stranger at once, and with --finish removed from history, database and bundles."""
    from features.history import History
    from serving.people import erase as bury
    from serving.store import Store, address

    if (customer is None) != finish:
        raise typer.BadParameter("name one of: CUSTOMER, --finish")
    now = datetime.now(UTC)
    with Store(address(home, database_url)) as store:
        if customer is not None:
            history = History(home / "history") if (home / "history").is_dir() else None
            told = bury(store, history, customer, now).model_dump()
            says = f"a stranger from now on, by {told['erased']} ids; `osclms erase --finish` removes what is held"
        else:
            from training.erase import finish as remove

            done = remove(home, store, at=now)
            told, says = done.as_dict(), str(done)
    print_json(told) if as_json else out.print(says, highlight=False, soft_wrap=True)
    if unread := told.get("unread"):
        says = f"not read, and may name the erased: {', '.join(unread)}; move them out of the home, or remove them:"
        says += " nothing here knows the addresses of the erased any more"
        err.print(says, highlight=False, soft_wrap=True, markup=False)
        raise typer.Exit(1)


@app.command(epilog="Examples: `osclms customer 1`, `osclms customer 1 --as-of 2018-01-02 --json`")
def customer(
    customer_id: Annotated[str, typer.Argument(metavar="ID", help="Any id of theirs.")],
    as_of: AsOf = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """One customer in one view: orders, stage, messages, consents, favourites, what they will want again."""
    from lifecycle.customers import view

    found = view(home, database_url, customer_id, as_of or datetime.now(UTC))
    if as_json:
        return print_json(found.model_dump(mode="json"))
    from lifecycle.pages import customer_page

    out.print(*customer_page(found))
    return None


@app.command(epilog="Examples: `osclms customers --as-of 2018-01-02`, `osclms customers --json`")
def customers(as_of: AsOf = None, home: Home = HERE, as_json: Json = False) -> None:
    """How many customers stand in each stage and group at a moment, and how they moved in the month before."""
    from features.history import History
    from lifecycle.customers import counts
    from lifecycle.pages import counts_page

    found = counts(History(home / "history"), as_of or datetime.now(UTC))
    print_json(found.as_dict()) if as_json else out.print(*counts_page(found))


identities = typer.Typer(no_args_is_help=True, help="Which ids are one customer's. Nothing is rewritten.")
app.add_typer(identities, name="identities")
By = Annotated[str | None, typer.Option("--by", help="Who says so; missing: who is logged in.")]


@identities.command(
    "merge", epilog="Example: `osclms identities merge household-1 web-4711 --by service-desk`"
)
def merge_identities(
    customer_id: Annotated[str, typer.Argument(metavar="CUSTOMER", help="Who it is, by any id.")],
    other: Annotated[str, typer.Argument(help="Who is the same, by any id.")],
    by: By = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Make two customers one, with all their ids, from now on; `osclms identities undo` takes it back."""
    from serving.identities import merge

    says_who("merged", merge, database_url, home, as_json, customer_id, other, by=by)


@identities.command("undo", epilog="Example: `osclms identities undo web-4711`")
def undo_identities(
    alias: Annotated[str, typer.Argument(metavar="ID", help="The id that is a customer of its own.")],
    by: By = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Take back the last merge of an id: both are as they were before."""
    from serving.identities import undo

    says_who("undone", undo, database_url, home, as_json, alias, by=by)


@identities.command("list", epilog="Example: `osclms identities list --json`")
def list_identities(database_url: Database = None, home: Home = HERE, as_json: Json = False) -> None:
    """The record of merges and of their undoing, oldest first."""
    from serving.identities import merges
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        found = merges(store)
    names = ("alias", "customer_id", "formerly", "by", "received_at")
    if as_json:
        return print_json([{name: row[name] for name in names} for row in found])
    table = Table("id", "names", "formerly", "by", "at")
    for row in found:
        table.add_row(*(Text(str(row[name] or "")) for name in names))
    out.print(table)
    return None


def who_is_here() -> str | None:
    """Who is logged in; None where that has no name, as in a container."""
    from getpass import getuser

    try:
        return getuser()
    except (KeyError, OSError):
        return None


def says_who(
    done: str,
    act: Callable[..., Any],
    database_url: str | None,
    home: Path,
    as_json: bool,
    *ids: str,
    by: str | None,
) -> None:
    """Merge, or undo, and say what is on record of it."""
    from features.history import History
    from serving.store import FILE, Store, address

    history = History(home / "history")
    if not (database_url or history.span() or (home / FILE).exists()):
        raise typer.BadParameter(f"{home} holds no shop: load one, or name its --home or --database-url")
    with Store(address(home, database_url)) as store:
        row = act(store, history, *ids, by=by or who_is_here(), at=datetime.now(UTC))
    told = {name: row[name] for name in ("alias", "customer_id", "formerly", "by", "received_at")}
    says = f"{done}: {row['alias']} names {row['customer_id']}"
    print_json(told) if as_json else out.print(says, highlight=False, soft_wrap=True, markup=False)


# --- write ------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples: `osclms run --date 2018-01-02`, `osclms run --program thank_you --json`. Killed, it may be run "
    "again: it goes on where it was, and writes nothing twice."
)
def run(
    date: Annotated[str | None, typer.Option(metavar="DATE", help="The store's day; missing: now.")] = None,
    program: Annotated[list[str] | None, typer.Option(help="Only this one; again for more.")] = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Decide who gets which message on a day, with which lists, and why others get none."""
    from lifecycle.pages import run_page
    from lifecycle.run import moment_of
    from lifecycle.run import run as decide

    now = datetime.now(UTC)
    at = moment_of(home, date) if date else now
    with bar() as told:
        done = decide(home, database_url, at, now=now, only=program or (), told=told)
    print_json(done.as_dict()) if as_json else out.print(*run_page(done))


# --- send -------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples: `osclms deliver`, `osclms deliver --until 2018-01-03 --json`, from a service manager "
    "`osclms deliver --channel smtp --watch 30`. Killed, it may be run again: docs/outbox.md."
)
def deliver(
    until: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="MOMENT", help="Send what is due then; missing: now."),
    ] = None,
    watch: Annotated[
        float | None, typer.Option(min=1, help="Again and again, so many seconds apart.")
    ] = None,
    channel: Annotated[str, typer.Option(help="files, smtp or webhook.")] = "files",
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Send the messages that are due, each after a last look at whether it may go; take in what came back of others."""
    import time
    from functools import partial

    from lifecycle.outbox import once
    from serving.settings import Settings

    settings = Settings.read(os.environ)
    carriers = carriers_of(channel, settings, home)
    while True:
        at = until or datetime.now(UTC)
        with bar() as shown:
            clock = partial(datetime.now, UTC)
            done = once(home, database_url, settings, carriers, now=at, clock=clock, shown=shown)
        print_json(done.as_dict()) if as_json else out.print(str(done), highlight=False, soft_wrap=True)
        if watch is None:
            return
        time.sleep(watch)


def carriers_of(channel: str, settings: Any, home: Path) -> Any:
    from lifecycle.channels import CARRIERS

    if channel not in CARRIERS:
        raise typer.BadParameter(f"{channel!r} is none of {', '.join(CARRIERS)}", param_hint="--channel")
    return CARRIERS[channel](settings, home)


@app.command(epilog="Example: `osclms audience thank_you --out thanked.txt`")
def audience(
    name: Annotated[str, typer.Argument(help="A program, whose audience it is.")],
    to: Annotated[Path, typer.Option("--out", help="A file, a hash a line.")],
    as_of: AsOf = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Hashes (SHA-256) of a program's audience for ads platforms: addresses of who agreed to marketing by e-mail."""
    from lifecycle.uploads import write_audience
    from serving.store import Store, address

    asked = known_program(home, name)
    with Store(address(home, database_url)) as store:
        done = write_audience(home, store, asked, to, at=as_of or datetime.now(UTC))
    told = {"program": name, "addresses": done, "out": str(to)}
    print_json(told) if as_json else out.print(f"{done:,} addresses in {to}", highlight=False, soft_wrap=True)


alerts = typer.Typer(invoke_without_command=True, help="What somebody should look at, as a low rating.")
app.add_typer(alerts, name="alerts")


@alerts.callback(epilog="Example: `osclms alerts --json`")
def list_alerts(
    context: typer.Context, database_url: Database = None, home: Home = HERE, as_json: Json = False
) -> None:
    """The alerts that are open, oldest first; `osclms alerts close ID` closes one."""
    if context.invoked_subcommand:
        return None
    from serving.outgoing import alerts as open_alerts
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        found = open_alerts(store)
    names = ("alert_id", "kind", "program", "customer_id", "message_id", "at", "detail")
    if as_json:
        return print_json([{name: row[name] for name in names} for row in found])
    table = Table("alert", "kind", "program", "customer", "message", "at", "")
    for row in found:
        told = {**row, "at": f"{row['at']:%Y-%m-%d %H:%M}"}
        table.add_row(*(Text(str(told[name] or "")) for name in names))
    out.print(table)
    return None


@alerts.command("close", epilog="Example: `osclms alerts close 1f2e3d4c --by service-desk`")
def close_alert(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="What `osclms alerts` calls it.")],
    by: By = None,
    database_url: Database = None,
    home: Home = HERE,
) -> None:
    """Close an alert: somebody has looked. A pause that it brought goes on until its end."""
    from serving.outgoing import close_alert as close
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        row = close(store, alert_id, by=by or who_is_here(), at=datetime.now(UTC))
    out.print(f"closed: {row['alert_id']}, {row['kind']}", highlight=False)


program = typer.Typer(no_args_is_help=True, help="Programs: what is written to whom, when. Each is a file.")
app.add_typer(program, name="program")
ProgramName = Annotated[str, typer.Argument(metavar="NAME", help="What `osclms program list` calls it.")]
Day = Annotated[str | None, typer.Option("--date", metavar="DATE", help="A day of the store; missing: now.")]


@program.command("check", epilog="Examples: `osclms program check`, `osclms program check mine.yaml`")
def check_programs(
    files: Annotated[list[Path] | None, typer.Argument(help="Missing: all.", exists=True)] = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Say by line what is wrong with programs' files: their form, their texts, names that there are not."""
    from lifecycle.lint import all_files, faults_in
    from lifecycle.run import OWN
    from serving.placements import FILE, PLACEMENTS, read_placements

    paths = files or all_files(home / OWN)
    found = faults_in(paths, read_placements(home / FILE, PLACEMENTS), home / OWN)
    if as_json:
        print_json([fault._asdict() for fault in found])
    else:
        out.print(
            *map(str, found),
            sep="\n",
            end="\n" if found else "",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
        out.print(f"{len(paths)} files, {len(found)} faults", highlight=False)
    if found:
        raise typer.Exit(1)


@program.command("list", epilog="Example: `osclms program list --json`")
def list_programs(home: Home = HERE, as_json: Json = False) -> None:
    """All programs, those that ship and the shop's own."""
    from lifecycle.program_pages import listed, programs_page

    table = known_programs(home)
    print_json(listed(*table)) if as_json else out.print(programs_page(*table))


@program.command("size", epilog="Example: `osclms program size win_back --date 2018-01-02 --days 3`")
def size_program(
    name: ProgramName,
    date: Day = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="So many, up to that day.")] = 14,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """How many a program would have found on each of these days, by what the history knew then."""
    from lifecycle.preview import last_day, sizes
    from lifecycle.program_pages import size_page
    from serving.store import Store, address

    asked = known_program(home, name)
    with bar() as told, Store(address(home, database_url)) as store:
        found = sizes(home, store, asked, last_day(home, date, now=datetime.now(UTC)), days, told)
    print_json([of._asdict() for of in found]) if as_json else out.print(*size_page(asked, found))


@program.command(
    "preview",
    epilog="Example: `osclms program preview win_back --customer 1 --date 2018-01-02 --html it.html`",
)
def preview_program(
    name: ProgramName,
    customer: Annotated[str, typer.Option(help="Any id of theirs.")],
    date: Day = None,
    html: Annotated[Path | None, typer.Option(help="Write the HTML part to this file.")] = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """What one customer would get of a program, and step by step why they get it or not. Nothing is sent or stored."""
    from lifecycle.preview import preview
    from lifecycle.program_pages import preview_page
    from lifecycle.run import moment_of
    from serving.store import Store, address

    known_program(home, name)
    at = moment_of(home, date) if date else datetime.now(UTC)
    with Store(address(home, database_url)) as store, current_of(home, database_url) as (engine, aliases):
        found = preview(
            home, store, engine, known_programs(home)[0], name, aliases.get(customer, customer), at
        )
    if html and found.message:
        html.write_text(found.message.html, encoding="utf-8")
    if as_json:
        return print_json(found.as_dict())
    out.print(preview_page(found))
    print(
        f"Subject: {found.message.subject}\n\n{found.message.text}"
        if found.message
        else "There is no message."
    )
    return None


@program.command(
    "test",
    epilog="Examples: `osclms program test win_back --to me@shop.example`, "
    "`osclms program test win_back --to seeds.txt --channel smtp --customer 1`",
)
def test_program(
    name: ProgramName,
    to: Annotated[
        str, typer.Option(metavar="LIST", help="A file with an address a line, or some by commas.")
    ],
    channel: Annotated[str, typer.Option(help="files, smtp or webhook.")] = "files",
    customer: Annotated[str | None, typer.Option(help="Whose lists it shows; missing: anybody's.")] = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Send a program's message, in each of its languages, to addresses of the shop's own. It counts as no message."""
    from features.history import History
    from lifecycle.channels import domain_of
    from lifecycle.permission import UNNAMED, permission
    from lifecycle.program_pages import tests_page
    from lifecycle.programs import policy
    from lifecycle.run import OWN
    from lifecycle.seeds import Trial, seeds
    from serving.links import Links
    from serving.settings import Settings
    from serving.store import Store, address

    asked, given, settings = known_program(home, name), seeds(to), Settings.read(os.environ)
    carriers = carriers_of(channel, settings, home)
    with Store(address(home, database_url)) as store, current_of(home, database_url) as (engine, aliases):
        now, rules, history = datetime.now(UTC), policy(home / OWN), History(home / "history")
        whose = aliases.get(customer, customer) if customer else None
        trial = Trial(
            store, engine, asked, carriers[asked.channel], now, customer_id=whose, links=Links.of(settings),
            rules=rules.rules, may=permission(store, history, asked, whose, rules, at=now) if whose else UNNAMED,
            sender=settings.mail_from or "", domain=domain_of(settings), postal=settings.mail_address,
        )  # fmt: skip
        found = list(trial.send(given))
        carriers[asked.channel].close()
    print_json([of._asdict() for of in found]) if as_json else out.print(tests_page(asked, found))
    if any(of.result != "sent" for of in found):
        raise typer.Exit(1)


@program.command(
    "pause", epilog="Example: `osclms program pause win_back --reason 'texts are being rewritten'`"
)
def pause_program(
    name: ProgramName,
    reason: Annotated[str | None, typer.Option(help="What others are to read.")] = None,
    by: By = None,
    database_url: Database = None,
    home: Home = HERE,
) -> None:
    """Stop a program at once: nothing of it is decided or sent, until it is resumed."""
    from lifecycle.pauses import pause
    from serving.store import Store, address

    asked = known_program(home, name)
    with Store(address(home, database_url)) as store:
        pause(store, asked, reason=reason, by=by or who_is_here(), at=datetime.now(UTC))
    out.print(
        f"{name} is paused: `osclms program resume {name}` lets it go on", highlight=False, soft_wrap=True
    )


@program.command("resume", epilog="Example: `osclms program resume win_back`")
def resume_program(
    name: ProgramName, by: By = None, database_url: Database = None, home: Home = HERE
) -> None:
    """Let a paused program go on. What it would have written meanwhile is past."""
    from lifecycle.pauses import resume
    from serving.store import Store, address

    asked = known_program(home, name)
    with Store(address(home, database_url)) as store:
        resume(store, asked, by=by or who_is_here(), at=datetime.now(UTC))
    out.print(f"{name} goes on", highlight=False)


@program.command("status", epilog="Example: `osclms program status --json`")
def programs_status(database_url: Database = None, home: Home = HERE, as_json: Json = False) -> None:
    """Which programs run, which are paused or were stopped, and what each came to in the last run."""
    from lifecycle.program_pages import status, status_page
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        found = status(store, *known_programs(home), at=datetime.now(UTC))
    print_json([of._asdict() for of in found]) if as_json else out.print(status_page(found))


@program.command("brief", epilog="Example: `osclms program brief win_back --stage lapsed`")
def brief_program(
    name: ProgramName,
    stage: Annotated[str, typer.Option(help="Of the reader: docs/data.md.")],
    home: Home = HERE,
) -> None:
    """A brief for a writer, or a language model, of a program's texts. No customer's data is in it."""
    from features.customers import STAGES
    from lifecycle.briefs import brief
    from lifecycle.programs import policy
    from lifecycle.run import OWN

    if stage not in STAGES:
        raise typer.BadParameter(f"{stage!r} is none of {', '.join(STAGES)}", param_hint="--stage")
    print(brief(known_program(home, name), stage, policy(home / OWN)))


def known_programs(home: Path) -> Any:
    from lifecycle.programs import known
    from lifecycle.run import OWN

    return known(home / OWN)


def known_program(home: Path, name: str) -> Any:
    table, faulty = known_programs(home)
    if name in faulty:
        raise typer.BadParameter(f"{name} is stopped: {faulty[name]}", param_hint="NAME")
    if name not in table:
        raise typer.BadParameter(
            f"there is no program {name!r}; known: {', '.join(table)}", param_hint="NAME"
        )
    return table[name]


# --- measure ----------------------------------------------------------------------------------------


@app.command(
    epilog="Examples: `osclms lift --out lift`, `osclms lift --program win_back --window 28 --json`, of any file "
    "`osclms lift --data docs/samples/arms.csv --arm arm --control held --outcome spent`"
)
def lift(
    program: Annotated[str | None, typer.Option(help="Only this one, or all: all together.")] = None,
    by: Annotated[
        Literal["variant", "version"] | None,
        typer.Option(help="Compare a program's variants, or versions served side by side, with each other."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", parser=moment, metavar="DATE", help="Decisions from then on.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", parser=moment, metavar="DATE", help="Decisions before then.")
    ] = None,
    window: Annotated[str, typer.Option(metavar="DAYS", help="After each decision; several by commas.")] = "7,28,90",
    to: Annotated[Path | None, typer.Option("--out", help="A folder for the page and its JSON.")] = None,
    plan: Annotated[
        int | None, typer.Option(min=2, metavar="CUSTOMERS", help="Before launch: what would be found of so many.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Of a CSV or Parquet file, a row a customer.")] = None,
    arm: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the file: which arm.")] = None,
    control: Annotated[str | None, typer.Option(metavar="VALUE", help="Of that column: the control.")] = None,
    outcome: Annotated[str | None, typer.Option(metavar="COLUMN", help="Of the file: what is compared.")] = None,
    covariate: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of the file: known before the assignment, as spend.")
    ] = None,
    exposed: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Of the file: who was treated in fact.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Of the file: the control's planned part; missing: the nearest round one.")
    ] = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:  # fmt: skip
    """What programs earned, against the customers held back: docs/measuring.md."""
    of_file = {"--arm": arm, "--control": control, "--outcome": outcome}
    rest = {"--covariate": covariate, "--exposed": exposed, "--share": share}
    if data is not None:
        if missing := [name for name, value in of_file.items() if value is None]:
            raise typer.BadParameter(f"--data needs {', '.join(missing)}, too")
        return show_arms(data, str(arm), str(control), str(outcome), covariate, share, exposed, as_json)
    if given := [name for name, value in {**of_file, **rest}.items() if value is not None]:
        raise typer.BadParameter(f"{given[0]} is for a file: name it with --data")
    if by == "version" and program is not None:
        raise typer.BadParameter("versions make the lists of all programs: leave --program out")
    windows = days_of(window)
    if plan is not None:
        from lifecycle.measure.pages import plan_page
        from lifecycle.measure.report import planned

        found = planned(home, plan, windows=windows, until=until)
        return print_json(found) if as_json else out.print(*plan_page(found), sep="\n")
    if program not in (None, "all"):
        known_program(home, str(program))
    from lifecycle.measure.pages import lift_page
    from lifecycle.measure.report import earned

    with bar() as told:
        found = earned(
            home, database_url, only=program, since=since, until=until, windows=windows, by=by, told=told
        )
    if to is not None:
        write_lift(home, found, to)
    print_json(found) if as_json else out.print(*lift_page(found), sep="\n")
    return None


def days_of(text: str) -> list[int]:
    """7,28,90"""
    try:
        days = sorted({int(part) for part in text.split(",")})
    except ValueError:
        days = []
    if not days or days[0] < 1 or days[-1] > 3_650:
        raise typer.BadParameter(f"{text!r} is no list of days such as 7,28,90", param_hint="--window")
    return days


def show_arms(
    data: Path, arm: str, control: str, outcome: str, covariate: str | None, share: float | None, exposed: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    from lifecycle.measure.groups import of_file
    from lifecycle.measure.pages import arms_page

    found = of_file(data, arm, control, outcome, covariate=covariate, share=share, exposed=exposed)
    print_json(found) if as_json else out.print(*arms_page(found), sep="\n")


def write_lift(home: Path, found: dict[str, Any], to: Path) -> None:
    """The page and its JSON, in a folder and as a run of MLflow."""
    from training.earned import DATA, PAGE, log, page

    to.mkdir(parents=True, exist_ok=True)
    made = page(found)
    (to / PAGE).write_text(made, encoding="utf-8")
    (to / DATA).write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
    run_id = log(home, found, made)
    err.print(f"{to / PAGE}, {to / DATA}; MLflow run {run_id}", highlight=False, soft_wrap=True)


# --- learn ------------------------------------------------------------------------------------------


@app.command(
    epilog="Example: `osclms train --until 2017-12-01`. Exit codes: 0 promoted, 3 kept, 4 another runs, 1 failed."
)
def train(
    until: Until = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Learn from fewer windows, and only what placements ask.")
    ] = False,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Fit, compare, audit, register a version, and promote it if it is better."""
    from training.gate import Exit
    from training.rank import QUICK
    from training.settings import FILE
    from training.train import train as train_version

    with bar() as told:
        outcome = train_version(
            home, until=until, rankings=QUICK if quick else None, compared=not quick, say=told
        )
    if as_json:
        print_json(outcome.as_dict())
    else:
        if outcome.settings:
            names = ", ".join(outcome.settings)
            out.print(f"settings of {names} are from {home / FILE}", highlight=False, soft_wrap=True)
        out.print(recipe_table(outcome.recipes), audit_table(outcome.audits))
        out.print(f"version {outcome.version} {outcome.verdict.reason}", highlight=False, soft_wrap=True)
        out.print(", ".join(f"{step} {took:.0f} s" for step, took in outcome.seconds.items()), style="dim")
        out.print(f"its card: {home / 'cards' / outcome.version}.html", highlight=False, soft_wrap=True)
    raise typer.Exit(Exit.PROMOTED if outcome.verdict.promote else Exit.KEPT)


@app.command(
    epilog="Examples: `osclms tune`, `osclms tune rhythm als --minutes 30`, `osclms tune ease --trials 40`"
)
def tune(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipes to search for; missing: all.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Stop the search after so long.")] = 10.0,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Stop once each recipe had so many, earlier calls counted.")
    ] = None,
    until: Until = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 7,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Search for better settings of recipes, on days before those that a training judges by.

    What is better goes to recipes.toml in the home, which `train` uses. Called again it goes on where it ended.
    """
    from training.tune import SPACES
    from training.tune import tune as search

    for name in recipes or ():
        if name not in SPACES:
            raise typer.BadParameter(f"{name!r} cannot be searched for; known: {', '.join(SPACES)}")
    with bar() as told:
        tuning = search(home, recipes or (), until=until, minutes=minutes, trials=trials, seed=seed, say=told)
    if as_json:
        return print_json(tuning.as_dict())
    out.print(tuning_table(tuning))
    if tuning.unfinished:
        out.print(
            f"no time to measure {', '.join(tuning.unfinished)}: call again, or allow more --minutes or --trials",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    if tuning.unasked:
        out.print(f"these days ask nothing of {', '.join(tuning.unasked)}", highlight=False, soft_wrap=True)
    changed = "has changed" if tuning.written else "stays as it was"
    used = "`osclms train` uses it" if tuning.file.exists() else "`osclms train` uses its own settings"
    out.print(f"{tuning.file} {changed}: {used}", highlight=False, soft_wrap=True)
    return None


def tuning_table(tuning: Any) -> Table:
    """What the search reached beside the defaults, on the days that it measured."""
    days = f"{tuning.start:%Y-%m-%d} to {tuning.end:%Y-%m-%d}"
    table = Table(
        "recipe", "by", "trials", "default", "best", "gain with 95 % interval", "settings", title=days
    )
    for f in tuning.found:
        settings = ", ".join(f"{key} = {value:g}" for key, value in f.settings.items())
        gain = short(f.gain) if f.gain else ""
        reached = (f"{f.reached['default']:.4f}", f"{f.reached['best']:.4f}")
        kept = settings if f.better else f"default kept{f', not {settings}' if settings else ''}"
        table.add_row(f.name, f.aim, str(f.trials), *reached, gain, kept)
    return table


def window(text: str) -> tuple[datetime, datetime]:
    start, colon, end = text.partition(":") if "T" not in text else text.partition("/")
    if not colon:
        raise typer.BadParameter("a window is START:END, as 2017-12-01:2018-01-01, or START/END with times")
    return moment(start), moment(end)


@app.command(epilog="Example: `osclms evaluate --window 2017-12-01:2018-01-01`")
def evaluate(
    window_text: Annotated[
        str, typer.Option("--window", metavar="START:END", help="What was bought in it is the truth.")
    ],
    version: Annotated[str | None, typer.Option(help="A version other than the champion.")] = None,
    placement: Annotated[list[str] | None, typer.Option(help="Only this placement; may be repeated.")] = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Ask a version every question of a window that it has not seen, through the engine."""
    from serving.bundle import champion, read_manifest
    from training.reading import read_window

    start, end = window(window_text)
    folder = home / "bundles" / version if version else champion(home)
    known = read_manifest(folder).placements
    for name in placement or ():
        if name not in known:
            raise typer.BadParameter(f"there is no placement {name!r}; known: {', '.join(known)}")
    with bar() as told:
        reading = read_window(home, folder, start, end, placements=placement or (), say=told)
    if as_json:
        return print_json(reading.as_dict())
    if reading.recipes:
        out.print(recipe_table(reading.recipes))
    out.print(audit_table(reading.audits))
    out.print(
        "FAISS recall@10 " + ", ".join(f"{n} {v:.4f}" for n, v in reading.recall.items()), highlight=False
    )
    return None


def recipe_table(recipes: Mapping[str, Any]) -> Table:
    """NDCG@10 of what each recipe would answer by itself."""
    table = Table("recipe", "NDCG@10", "of what is novel")
    for name, tasks in recipes.items():
        given = (tasks.get(task) for task in ("purchases", "novel"))
        table.add_row(name, *(short(a.figure("ndcg", seed=7)) if a else "" for a in given))
    return table


def audit_table(audits: Any) -> Table:
    """What the engine answered: the placement's figure, products shown over all lists, share of filled items."""
    table = Table("placement, task", "asked", "figure", "with 95 % interval", "shown", "filled")
    for a in audits:
        figure = (a.figure_name, short(a.intervals[a.primary]))
        shown = (
            f"{a.figures['coverage']:,.0f}",
            f"{a.figures['filled']:.1%}" if "filled" in a.figures else "–",
        )
        table.add_row(a.name, f"{len(a.answers.task):,}", *figure, *shown)
    return table


def short(interval: Any) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


@app.command(epilog="Example: `osclms compare 1 2 --json`")
def compare(
    first: Annotated[str, typer.Argument(help="A version.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """What two versions reached in their trainings, side by side, and what was set otherwise."""
    from training.comparison import compare as compared

    found = compared(home, first, second)
    if as_json:
        return print_json(found.as_dict())
    table = Table("placement, task", f"version {first}", f"version {second}", "difference", "products shown")
    figures = {p.name: p for p in found.figures}
    for name in (n.removesuffix(".accuracy") for n in figures if n.endswith(".accuracy")):
        figure, coverage = figures[f"{name}.accuracy"], figures[f"{name}.coverage"]
        both = found.intervals.get(figure.name)
        told = map(short, both) if both else map(plain, (figure.first, figure.second))
        shown = f"{plain(coverage.first)} → {plain(coverage.second)}"
        table.add_row(name, *told, plain(figure.difference), shown)
    out.print(table)
    if found.data_until[0] != found.data_until[1]:
        ends = " and ".join(f"{at:%Y-%m-%d}" for at in found.data_until)
        out.print(f"judged on other days: their data ends {ends}", style="yellow", highlight=False)
    for p in found.settings:
        out.print(f"{p.name}: {p.first} → {p.second}", highlight=False, soft_wrap=True, markup=False)
    return None


@app.command(
    epilog="Examples: `osclms challenge 4 --share 0.1`, `osclms challenge`, `osclms challenge --stop`"
)
def challenge(
    version: Annotated[str | None, typer.Argument(help="The version to serve beside the champion.")] = None,
    share: Annotated[float, typer.Option(min=0.0001, max=0.9999, help="Of the customers.")] = 0.1,
    seed: Annotated[int | None, typer.Option(help="Draw by this one; missing: each challenge anew.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Let the champion answer all again.")] = False,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Serve another version to a share of the customers, and say what is on: docs/measuring.md#versions."""
    from serving.challenge import running

    if stop and version is not None:
        raise typer.BadParameter("name VERSION or --stop, not both")
    if stop or version is not None:
        from training.publish import Registry

        registry = Registry(home)
        registry.end_challenge() if version is None else registry.challenge(version, share, seed)
    found = running(home)
    if as_json:
        return print_json({"challenge": found and found.model_dump(mode="json")})
    said = "no challenger is served: the champion answers all"
    if found:
        since = found.since.isoformat(timespec="minutes")
        said = (
            f"version {found.version} answers {found.share:.2%} of customers (seed {found.seed}), the champion, "
            f"version {found.champion}, the others, since {since}; `osclms lift --by version` compares them"
        )
    return out.print(said, highlight=False, soft_wrap=True)


def plain(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@app.command(epilog="Example: `osclms promote --previous`")
def promote(
    version: Annotated[str | None, typer.Argument(help="The version to serve.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even where the gate kept it back.")] = False,
    previous: Annotated[
        bool, typer.Option("--previous", help="Go back to the champion before this one.")
    ] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Follow the alias moved in MLflow.")] = False,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Move the alias `champion`, and with it what is served."""
    from training.publish import Registry

    if [version is not None, previous, sync].count(True) != 1:
        raise typer.BadParameter("name one of: VERSION, --previous, --sync")
    registry = Registry(home)
    changes = (
        registry.previous()
        if previous
        else registry.sync()
        if sync
        else registry.promote(str(version), force=force)
    )
    if as_json:
        return print_json({"champion": registry.champion(), "changes": list(changes)})
    out.print(
        *(changes or (f"nothing to change: the champion is {registry.champion()}",)),
        sep="\n",
        highlight=False,
        soft_wrap=True,
    )
    return None


choose = typer.Typer(
    no_args_is_help=True, help="The learned choice among programs and silence: docs/choosing.md."
)
app.add_typer(choose, name="choose")


@choose.command("fit", epilog="Example: `osclms choose fit --as-of 2018-01-02`")
def fit_choice(
    as_of: AsOf = None, database_url: Database = None, home: Home = HERE, as_json: Json = False
) -> None:
    """Learn from the choices whose window has ended, as `osclms run` does by itself before it chooses."""
    from lifecycle.choose.report import learned

    made = learned(home, database_url, as_of)
    told = {"version": made.version, "arms": made.arms, **made.about}
    if as_json:
        return print_json(told)
    says = f"policy {made.version}: {len(made.arms)} arms, learned from {made.about['choices']:,} choices"
    out.print(says, highlight=False, soft_wrap=True)
    return None


@choose.command("report", epilog="Example: `osclms choose report --json`")
def report_choice(
    as_of: AsOf = None, database_url: Database = None, home: Home = HERE, as_json: Json = False
) -> None:
    """The groups against each other, what was chosen, and what policies that were not tried would have brought."""
    from lifecycle.choose.pages import report_page
    from lifecycle.choose.report import reported

    found = reported(home, database_url, as_of)
    print_json(found) if as_json else out.print(*report_page(found), sep="\n")


@choose.command("hours", epilog="Example: `osclms choose hours --as-of 2018-01-02`")
def report_hours(
    as_of: AsOf = None, database_url: Database = None, home: Home = HERE, as_json: Json = False
) -> None:
    """When messages with learned hours were clicked, and what other ways of choosing the hour would have brought."""
    from lifecycle.choose.pages import hours_page
    from lifecycle.choose.report import hours

    found = hours(home, database_url, as_of)
    print_json(found) if as_json else out.print(*hours_page(found), sep="\n")


@choose.command(
    "evaluate",
    epilog="Examples: `osclms choose evaluate --log docs/samples/choices.csv --policy random`, without `--policy` of "
    "the file's column target_probability.",
)
def evaluate_choice(
    log: Annotated[
        Path, typer.Option("--log", help="A .csv or .parquet file, a row a decision.", exists=True)
    ],
    policy: Annotated[str | None, typer.Option(help="priority, random or silence.")] = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """What a policy would have brought, from any log of choices and their probabilities."""
    from lifecycle.choose.files import evaluated
    from lifecycle.choose.pages import judged_page
    from lifecycle.choose.report import ranked
    from lifecycle.programs import programs

    found = evaluated(log, policy, ranked(programs(home / "programs"))).as_dict()
    print_json(found) if as_json else out.print(*judged_page(found), sep="\n")


scores = typer.Typer(
    no_args_is_help=True, help="How likely customers are gone, what they will spend and buy of."
)
app.add_typer(scores, name="scores")


@scores.command("fit", epilog="Examples: `osclms scores fit`, `osclms scores fit --until 2017-12-01 --json`")
def fit_scores(
    until: Until = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=7, max=365, help="Days of churn and categories; missing: by the shop's rhythm."),
    ] = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Fit customers' scores, judge each on days that it was not learned from, and tell these from now on.

    A score for which there is too little data is refused, and said why; where all are, those of before stay.
    """
    from training.scores import fit

    with bar() as told:
        outcome = fit(home, until=until, horizon=horizon, say=told)
    if as_json:
        return print_json(outcome.as_dict())
    from training.backtest import TOLD, in_words

    table = Table(
        "score", "reached", "plain guess", "better by", "calibrated", title="on days not learned from"
    )
    for name, of in outcome.fitted.items():
        table.add_row(f"{TOLD[name].title}, {of.score.horizon} days", *in_words(name, of.judged))
    if outcome.fitted:
        out.print(table)
        out.print(f"scores {outcome.version} are told from now on", highlight=False, soft_wrap=True)
    for name, why in outcome.refused.items():
        out.print(f"{name} is refused: {why}", style="yellow", highlight=False, soft_wrap=True, markup=False)
    return None


@scores.command("write", epilog="Example: `osclms scores write scores.parquet --as-of 2018-01-02`")
def write_scores(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="A .parquet or .ndjson file, a row a customer.")],
    as_of: AsOf = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Every customer's scores by the file; `osclms customer ID` shows one's. Who was erased has none."""
    from lifecycle.customers import scored
    from serving.bulk import write_scores as write
    from serving.store import Store, address

    at = as_of or datetime.now(UTC)
    found = scored(home, at)
    with Store(address(home, database_url)) as store:
        done = write(found, to, gone=store.graves())
    told = {"customers": done, "out": str(to), "as_of": at.isoformat()}
    print_json(told) if as_json else out.print(
        f"scores of {done:,} customers in {to}", highlight=False, soft_wrap=True
    )


# --- answer -----------------------------------------------------------------------------------------


@app.command(
    epilog="Examples: `osclms recommend next_best --customer 1`, "
    "`osclms recommend next_best --all --out lists.parquet`, "
    "`osclms recommend cross_sell --queries q.ndjson --out a.ndjson`. A question is a line "
    '`{"query_id": 7, "customer_id": "1", "product_ids": ["1082185"]}`.'
)
def recommend(
    placement: Annotated[str, typer.Argument(help="next_best, cross_sell, upsell, discover …")],
    customer: Annotated[str | None, typer.Option(help="Who is asked for.")] = None,
    product: Annotated[list[str] | None, typer.Option(help="Looked at, or in the basket; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="A product to leave out; may be repeated.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, max=100, help="How long a list.")] = None,
    as_of: AsOf = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each source scored.")] = False,
    every: Annotated[bool, typer.Option("--all", help="A list for each customer; needs --out.")] = False,
    queries: Annotated[Path | None, typer.Option(help="NDJSON of questions; needs --out.", exists=True)] = None,
    to: Annotated[Path | None, typer.Option("--out", help="A .parquet or .ndjson file, a row an item.")] = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:  # fmt: skip
    """One list, or lists by the file. In bulk the answer is as of the end of what the model learned from; what is sold,
    and who was erased, is as it is now."""
    if every or queries:
        if customer or product or exclude or explain:
            raise typer.BadParameter(
                "--customer, --product, --exclude and --explain are for one list, not for --out"
            )
        with current_of(home, database_url) as now:
            return bulk(now, placement, every, queries, to, limit, as_of or now.engine.data_until, as_json)
    if to is not None:
        raise typer.BadParameter("--out needs --all or --queries")
    from serving.wire import worded

    with current_of(home, database_url) as now:
        try:
            request = RecommendRequest(
                customer_id=customer and now.aliases.get(customer, customer),
                product_ids=tuple(product or ()),
                exclude=tuple(exclude or ()),
                limit=limit,
                explain=explain,
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise typer.BadParameter(f"{first['loc'][0]}: {worded(first)}") from error
        response = now.engine.recommend(placement, request, at=as_of or datetime.now(UTC))
    if as_json:
        return print_json(response.model_dump(mode="json"))
    out.print(list_table(response))
    return None


def bulk(
    now: Any, placement: str, every: bool, queries: Path | None, to: Path | None, limit: int | None, at: datetime,
    as_json: bool,
) -> None:  # fmt: skip
    from serving import bulk as files

    if to is None or (every and queries):
        raise typer.BadParameter("name the file to write with --out, and one of --all and --queries")
    engine, aliases = now
    engine.placement(placement)
    questions = (
        files.everybody(engine, limit, aliases)
        if every
        else files.queries(Path(str(queries)), limit, aliases)
    )
    of, key = (len(engine.history.customers), "customer_id") if every else (None, "query_id")
    with bar() as told:
        done = files.write_lists(
            engine, placement, questions, to, key=key, at=at, told=lambda n: told("lists", n, of)
        )  # fmt: skip
    told_of = {
        "placement": placement,
        "lists": done,
        "out": str(to),
        "as_of": at.isoformat(),
        "model_version": engine.version,
    }
    print_json(told_of) if as_json else out.print(
        f"{done:,} lists of {placement} in {to}", highlight=False, soft_wrap=True
    )


def current_of(home: Path, database_url: str | None) -> Any:
    """What the service would answer with, while it is held."""
    from serving.current import current

    return current(home, database_url, clock=lambda: datetime.now(UTC))


def list_table(response: Any) -> Table:
    table = Table(
        "", "product", "title", "price", "story", "source", title=response.placement, title_justify="left"
    )
    for rank, item in enumerate(response.items, 1):
        price = "" if item.price is None else f"{item.price:.2f} {item.currency}"
        source = item.source + (" (fill)" if item.filled else "")
        table.add_row(str(rank), item.product_id, item.title, price, item.story, source)
        for name, part in (item.parts or {}).items():
            table.add_row("", "", f"  {name}", f"{part:.4f}", style="dim")
    return table


@app.command(epilog="Example: `osclms message thank_you --customer 1 --html thanks.html`")
def message(
    name: Annotated[str, typer.Argument(help="A program, such as thank_you.")],
    customer: Annotated[str | None, typer.Option(help="Whom it is for.")] = None,
    order: Annotated[str | None, typer.Option(help="The order; missing: the customer's latest.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the HTML part to this file.")] = None,
    agreed: Annotated[
        bool | None,
        typer.Option(
            help="Whether they agreed to marketing, without which there are no lists; missing: as on record."
        ),
    ] = None,
    as_of: AsOf = None,
    database_url: Database = None,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """What a customer would get: subject and text on the screen, the HTML in a file."""
    from features.history import History
    from lifecycle.messages import About
    from lifecycle.permission import UNNAMED, permission
    from lifecycle.previews import preview
    from lifecycle.programs import policy
    from lifecycle.run import OWN
    from serving.store import Store, address

    asked, rules = known_program(home, name), policy(home / OWN)
    with current_of(home, database_url) as (engine, aliases):
        customer = customer and aliases.get(customer, customer)
        if engine.is_buried(customer):
            raise typer.BadParameter("this customer was erased", param_hint="--customer")
        profile = History(home / "history").row("customers", customer) if customer else None
        now, may = datetime.now(UTC), UNNAMED
        if customer:
            with Store(address(home, database_url)) as store:
                may = permission(
                    store, History(home / "history"), asked, customer, rules, at=now, agrees=agreed
                )
        made = preview(
            engine, asked, About.of(profile), customer_id=customer, order_id=order, links=None,
            at=as_of or now, now=now, rules=rules.rules, may=may,
        )  # fmt: skip
    if html:
        html.write_text(made.html, encoding="utf-8")
    if as_json:
        told = {"may_send": may.may_send, "why": may.why}
        return print_json({"subject": made.subject, "html": made.html, "text": made.text, **told})
    print(f"Subject: {made.subject}\n\n{made.text}")
    return None


def check_port(host: str, port: int) -> None:
    """Raise an OSError that says why a server could not listen there: BentoML would print a traceback."""
    import errno
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken: stop what listens there" if taken else f"cannot be listened on: {error.strerror}"
        raise OSError(f"port {port} of {host} {why}, or name another by --port and --host") from error


@app.command(epilog="Example: `osclms serve --as-of 2018-01-02 --port 3000`")
def serve(
    as_of: AsOf = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    host: Annotated[str, typer.Option(help="Only this machine reaches 127.0.0.1.")] = LOCAL,
    workers: Annotated[
        int, typer.Option(min=1, envvar="OSCLMS_WORKERS", help="Processes; they share the model's memory.")
    ] = 1,
    home: Home = HERE,
) -> NoReturn:
    """Serve the champion by BentoML."""
    if not (home / "champion").exists():
        from serving.bundle import champion

        champion(home)
    check_port(host, port)
    os.environ |= {"OSCLMS_HOME": str(home.resolve()), "OSCLMS_WORKERS": str(workers)}
    if "BENTOML_HOME" not in os.environ:  # counts lie there, and each start wipes them
        from serving.metrics import counts_folder

        os.environ["BENTOML_HOME"] = str(counts_folder(home.resolve(), port))
    if as_of:
        os.environ["OSCLMS_AS_OF"] = as_of.isoformat()
    here = str(Path(__file__).parent)
    what = ["serve", "serving.service:Service", "--host", host, "--port", str(port), "--working-dir", here]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *what])  # noqa: S606


keys = typer.Typer(no_args_is_help=True, help="Keys of the service, and the tokens that stand for customers.")
app.add_typer(keys, name="keys")


@keys.command(
    "make",
    epilog="Examples: `osclms keys make --kind publishable --origin https://shop.example`, "
    "`osclms keys make --kind secret --about mailer --ends 2027-01-01`",
)
def make_key(
    kind: Annotated[str, typer.Option(help="publishable: for pages; secret: for servers, and good for all.")],
    origin: Annotated[
        list[str] | None, typer.Option(help="Pages that may send a publishable key; may be repeated.")
    ] = None,
    about: Annotated[str | None, typer.Option(help="A note of yours.")] = None,
    ends: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="DATE", help="Missing: `osclms keys end` ends it."),
    ] = None,
    database_url: Database = None,
    home: Home = HERE,
) -> None:
    """Make a key and print it, once: it is stored as a digest. Any number are good at the same time."""
    from serving.keys import make
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        print(make(store, kind, at=datetime.now(UTC), origins=origin or (), about=about, ends=ends))


@keys.command("list", epilog="Example: `osclms keys list --json`")
def list_keys(database_url: Database = None, home: Home = HERE, as_json: Json = False) -> None:
    """What is known of the keys, the keys themselves not among it."""
    from serving.keys import read
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        found = list(read(store).values())
    if as_json:
        return print_json([vars(key) for key in found])
    table = Table("key", "kind", "origins", "about", "made", "ends")
    for key in found:
        times = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.made, key.ends))
        table.add_row(key.key_id, key.kind, " ".join(key.origins), key.about or "", *times)
    out.print(table)
    return None


@keys.command("end", epilog="Example: `osclms keys end 1f2e3d4c --at 2027-01-01`")
def end_key(
    key: Annotated[str, typer.Argument(help="What `osclms keys list` calls it.")],
    at: Annotated[datetime | None, typer.Option(parser=moment, metavar="DATE", help="Missing: now.")] = None,
    database_url: Database = None,
    home: Home = HERE,
) -> None:
    """Let a key end. A running service knows within seconds."""
    from serving.keys import end
    from serving.store import Store, address

    with Store(address(home, database_url)) as store:
        ended = end(store, key, at=at or datetime.now(UTC))
    out.print(f"{ended.kind} key {ended.key_id} ends {ended.ends:%Y-%m-%d %H:%M} UTC", highlight=False)


@keys.command("token", epilog="Example: `osclms keys token 4711`")
def token(customer: Annotated[str, typer.Argument(help="The customer's id.")]) -> None:
    """Seal a customer's token with OSCLMS_SECRET, as a shop's server does: docs/widget.md. Good for a day."""
    from serving.settings import Settings
    from serving.tokens import CustomerToken

    tokens = Settings.read(os.environ).tokens()
    if tokens is None:
        raise typer.BadParameter("OSCLMS_SECRET is not set: `osclms keys secret` makes one")
    print(tokens.seal(CustomerToken(customer_id=customer), at=datetime.now(UTC)))


@keys.command("secret", epilog="Example: `osclms keys secret`")
def secret() -> None:
    """Make an OSCLMS_SECRET, which the service and the shop's server share."""
    from cryptography.fernet import Fernet

    print(Fernet.generate_key().decode())


@app.command(epilog="Example: `osclms check --json`")
def check(home: Home = HERE, as_json: Json = False) -> None:
    """Which placements, programs and scores this data can support, and why not."""
    from features.history import History
    from lifecycle.support import FIGURES, measured, supported, warnings

    figures = measured(History(home / "history"))
    found, odd = supported(figures), warnings(figures)
    if as_json:
        return print_json({"figures": figures, "supported": [vars(s) for s in found], "warnings": odd})
    facts = Table("what the data holds", "")
    for name, what in FIGURES.items():
        facts.add_row(what, f"{figures[name]:,.10g}")
    table = Table("", "name", "", "why")
    for s in found:
        table.add_row(s.kind, s.name, "[green]yes[/green]" if s.supported else "[red]no[/red]", s.why)
    out.print(facts, table)
    for warning in odd:
        out.print(warning, style="yellow", highlight=False, soft_wrap=True, markup=False)
    return None


@app.command(epilog="Example: `osclms demo --no-serve`")
def demo(
    home: Home = HERE,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 3000,
    serving: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve once the lists are printed.")
    ] = True,
) -> None:
    """The whole path on the demo data: load, train, print one household's lists, serve. Reuses what is there."""
    from features.history import History

    if serving:
        check_port(LOCAL, port)
    if History(home / "history").last_purchase() is None:
        load("completejourney", max_rejects=0.01, home=home)
    if not (home / "champion").exists():
        try:
            train(home=home)
        except typer.Exit as ended:
            if ended.exit_code:
                raise
    with current_of(home, None) as (engine, _):
        customer = engine.sample().customers[0]
        order = engine.order(customer, None)
        product = (order.lines[0].product if order else engine.sample().products[0]).product_id
        out.print(f"household {customer}, with product {product}", highlight=False)
        for name in ("next_best", "cross_sell", "upsell"):
            asked = RecommendRequest(
                customer_id=customer, product_ids=() if name == "next_best" else (product,), limit=5
            )
            out.print(list_table(engine.recommend(name, asked, at=engine.data_until)))
    if serving:
        out.print(
            f"serving on http://{LOCAL}:{port}, as of {engine.data_until:%Y-%m-%d %H:%M} UTC; Ctrl-C stops"
        )
        serve(as_of=engine.data_until, port=port, host=LOCAL, workers=1, home=home)


EXPECTED = (
    ("features.history", "HistoryError"),
    ("features.worlds", "WorldError"),
    ("features.mapping", "MappingError"),
    ("serving.bundle", "BundleError"),
    ("serving.wire", "RequestError"),
    ("serving.placements", "PlacementsError"),
    ("serving.store", "StoreError"),
    ("serving.keys", "KeysError"),
    ("serving.settings", "SettingsError"),
    ("serving.bulk", "BulkError"),
    ("lifecycle.messages", "NotSent"),
    ("lifecycle.yamls", "FileError"),
    ("lifecycle.seeds", "SeedError"),
    ("lifecycle.run", "RunError"),
    ("lifecycle.preview", "PreviewError"),
    ("lifecycle.measure.lift", "LiftError"),
    ("lifecycle.choose.estimate", "ChooseError"),
    ("serving.scores", "ScoresError"),
    ("training.train", "TrainError"),
    ("training.settings", "SettingsError"),
    ("training.publish", "RegistryError"),
)


def expected() -> tuple[type[Exception], ...]:
    """Errors whose message says all: no traceback. What is not imported cannot have been raised."""
    return OSError, *(
        getattr(sys.modules[module], name) for module, name in EXPECTED if module in sys.modules
    )


def main() -> NoReturn:
    """Run a verb. `training.gate.Exit` says how it may end."""
    try:
        app(standalone_mode=True)
    except Exception as error:
        if not isinstance(error, expected()):
            raise
        err.print(f"osclms: {error}", style="red", highlight=False, soft_wrap=True, markup=False)
        from training.gate import Exit

        busy = type(error).__name__ == "TrainingBusy"
        raise SystemExit(Exit.BUSY if busy else Exit.FAILED) from None
    raise SystemExit


if __name__ == "__main__":
    main()
