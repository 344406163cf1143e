"""What comes in live, in one database: events, changes, ledgers. SQLite at home, or PostgreSQL.

Rows are appended and never changed, but that a message is marked as settled, and how. Each has a number, `seq`, and
writers come one after the other, so the order of the numbers is the order of the commits: who has read up to one has
missed none below it. What is committed is on disk. Moments are stored as microseconds since 1970, UTC.
"""

import hashlib
import hmac
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, cached_property, partial
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from features.history import Marks
from features.judge import Row
from features.schema import EVENTS, FLAG, PATH, REAL, RECEIVED, TABLES, TEXT, TIME, WORD, Column, Table

HEAD = "r0016"  # the last of the migrations: the tables that this version reads and writes
FILE = "store.db"
MIGRATIONS = Path(__file__).parent / "migrations"
PATIENCE = 30  # seconds that a writer waits for the one before it
HURRY = 2  # seconds that a reader waits for the database while somebody waits for an answer
PAGE = 20_000  # rows read at a time
WRITERS = 0x05C1  # names our lock in PostgreSQL
LIVE = ("events", "products", "customers", "identities", "consents")  # the tables that reach the history
WATCHED = ("products", "customers", "identities", "consents", "tombstones")
EPOCH, FOREVER = datetime(1970, 1, 1, tzinfo=UTC), 1 << 62
T = TypeVar("T")
Record = Callable[[Mapping[str, Sequence[Row]]], None]  # stores rows of several tables

SENDS = Table(
    "sends",
    key=(),
    columns=(
        Column("customer_id", TEXT, True),
        Column("at", TIME, True, "when the list was shown or sent"),
        Column("channel", TEXT),
        Column("placement", TEXT),
        Column("recommendation_id", TEXT),
        Column("message_id", TEXT),
        Column("product_ids", PATH, True, "as the list had them, first to last"),
    ),
)
MERGES = Table(
    "merges",
    key=(),
    columns=(
        Column("alias", TEXT, True, "what was said to name another customer"),
        Column("customer_id", TEXT, True, "whom it names since then"),
        Column(
            "formerly", TEXT, about="whom it had been said to name before; missing: a customer of its own"
        ),
        Column("by", TEXT, about="who said so: a key, or a name on the command line"),
    ),
)
DECISIONS = Table(
    "decisions",
    key=(),
    columns=(
        Column("run_at", TIME, True, "the moment that the run knew everything before"),
        Column("customer_id", TEXT, True),
        Column("program", TEXT, True),
        Column("version", TEXT, True, "of the program, as it was then"),
        Column("occasion", TEXT, True, "what the message is about: of one there is one message"),
        Column("outcome", TEXT, True, "message, holdout, or why there is none"),
        Column("detail", TEXT, about="what the outcome hangs on"),
        Column("channel", TEXT, True),
        Column(
            "message_id", TEXT, about="of a message or of one held back: names neither customer nor occasion"
        ),
        Column("send_at", TIME, about="when it may go out, or would have"),
        Column("local_day", TEXT, about="the customer's own day then, which caps count"),
        Column("kind", TEXT, True, "marketing or transactional"),
        Column("content", TEXT, about="JSON: what is shown; rendered as it is sent"),
        Column("variant", TEXT, about="of the program; missing: as it stands, or it did not come to that"),
        Column(
            "model_version", TEXT, about="which version's lists are in it; missing: it did not come to that"
        ),
        Column(
            "hour", TEXT, about="JSON: the slot of two hours that was chosen for it, and how likely each was"
        ),
        Column("policy", TEXT, about="what chose it among others, with which seed"),
        Column("probability", REAL, about="how likely that choice was"),
        Column("settled_at", TIME, about="when what became of its message was for good; missing: not yet"),
        Column(
            "became",
            TEXT,
            about="what it became for good: sent, dropped, dead; again: dropped, and of its occasion another may come",
        ),
    ),
)
DELIVERIES = Table(
    "deliveries",
    key=(),
    columns=(
        Column("message_id", TEXT, True),
        Column("customer_id", TEXT, True),
        Column("state", TEXT, True, "taken, waiting, failed; or, for good: sent, dropped, dead"),
        Column("at", TIME, True),
        Column("detail", TEXT, about="why; no address is in it"),
        Column("subject", TEXT, about="HMAC of the channel and address that it went to"),
    ),
)
RUNS = Table(
    "runs",
    key=("run_at", "program"),
    columns=(
        Column("run_at", TIME, True),
        Column("program", TEXT, True),
        Column("found", REAL, True, "occasions that the trigger found"),
        Column("members", REAL, True, "of these, of customers in the audience"),
        Column("fallback", REAL, about="the share of fill in what was shown"),
        Column("stopped", TEXT, about="why the program did not run"),
    ),
)
PAUSES = Table(
    "pauses",
    key=(),
    columns=(
        Column("program", TEXT, about="missing: every one that is not transactional"),
        Column("customer_id", TEXT, about="missing: for everybody"),
        Column("paused", FLAG, True, "the latest record of a program and customer counts"),
        Column("at", TIME, True),
        Column("reason", TEXT, True),
        Column("by", TEXT),
        Column("ends", TIME, about="missing: when a later record ends it"),
    ),
)
ALERTS = Table(
    "alerts",
    key=("alert_id", "open"),
    columns=(
        Column("alert_id", TEXT, True),
        Column("open", FLAG, True, "one row opens it, another closes it"),
        Column("kind", TEXT, True, "low_rating …"),
        Column("program", TEXT),
        Column("customer_id", TEXT, about="whom somebody should look after"),
        Column("message_id", TEXT),
        Column("at", TIME, True),
        Column("detail", TEXT),
        Column("by", TEXT, about="who closed it"),
    ),
)
CHOICES = Table(
    "choices",
    key=(),
    columns=(
        Column("run_at", TIME, True),
        Column("customer_id", TEXT, True),
        Column("channel", TEXT, True),
        Column(
            "chooser", TEXT, True, "the group that the customer is of: learned, random, priority or silence"
        ),
        Column("arm", TEXT, True, "the program that was chosen, or silence"),
        Column("probability", REAL, True, "how likely that was"),
        Column("eligible", TEXT, True, "JSON: each arm that could have been chosen, and how likely that was"),
        Column("context", TEXT, True, "JSON: what the choice looked at, as it was known then"),
        Column("policy", TEXT, True, "the version of what chose"),
        Column("seed", TEXT, True),
        Column("held", FLAG, True, "whether the customer is in a program's control group: not learned from"),
    ),
)
VOUCHERS = Table(
    "vouchers",
    key=("code",),
    columns=(
        Column("code", TEXT, True),
        Column("customer_id", TEXT, True),
        Column("program", TEXT, True),
        Column("message_id", TEXT, True),
        Column("worth", REAL, True, "in the store's currency"),
        Column("ends", TIME, True),
    ),
)
REDEEMED = Table(
    "redeemed",
    key=("code",),
    columns=(
        Column("code", TEXT, True),
        Column("customer_id", TEXT, True),
        Column("order_id", TEXT),
        Column("at", TIME, True),
    ),
)
SUPPRESSED = Table(
    "suppressed",
    key=("subject",),
    columns=(
        Column("subject", TEXT, True, "HMAC of channel and address: nobody reads whose"),
        Column("channel", TEXT, True),
        Column("reason", TEXT, True, "bounce, complaint, unsubscribe or erased"),
        Column("at", TIME, True),
    ),
)
OFFERS = Table(
    "offers",
    key=("product_id", "at"),
    columns=(
        Column("product_id", TEXT, True),
        Column("at", TIME, True, "since when a run knows it"),
        Column("price", REAL),
        Column("in_stock", FLAG),
    ),
)
TOMBSTONES = Table("tombstones", key=("subject",), columns=(Column("subject", TEXT, True),))
PERSONAL = (
    *("events", "customers", "identities", "consents", "sends", "merges"),
    *("decisions", "deliveries", "pauses", "alerts", "vouchers", "redeemed", "choices"),
)
WHO = ("customer_id", "alias", "formerly")  # the columns that name a customer
KEYS = Table(
    "keys",
    key=("key_id",),
    columns=(
        Column("key_id", TEXT, True, "what a key is called by; no secret"),
        Column("kind", TEXT, True),
        Column("digest", TEXT, True, "SHA-256 of the key, which itself is kept nowhere"),
        Column("origins", PATH, True, "pages that may send it"),
        Column("about", TEXT),
        Column("ends", TIME, about="when it stops; missing: never"),
    ),
)
OUTGOING = (RUNS, DECISIONS, CHOICES, DELIVERIES, PAUSES, ALERTS, VOUCHERS, REDEEMED, SUPPRESSED, OFFERS)
LEDGERS = {t.name: t for t in (*(TABLES[name] for name in LIVE), SENDS, MERGES, TOMBSTONES, KEYS, *OUTGOING)}
RECENT = {"events": "occurred_at", "sends": "at"}  # tables asked for a customer's latest, and by which time


class StoreError(Exception):
    """The database cannot be used; the message says why and what to do, and nothing of what it holds."""


class Outcome(StrEnum):
    """What became of an event. Only the first of an id is stored."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # known, and the same
    CONFLICT = "conflict"  # known, and another: what is stored stays


class Mark(NamedTuple):
    """The last row up to which a table was read: its number, and when it was received."""

    seq: int = 0
    received: int = 0


class Act(NamedTuple):
    """Who did something, and in which order; moments are microseconds since 1970."""

    seq: int
    customer_id: str
    occurred_at: int
    order_id: str | None


@dataclass(frozen=True)
class Changes:
    """Rows of watched tables in the order of their commits, and what to ask with the next time."""

    after: Mapping[str, int]
    rows: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)


# --- the tables ----------------------------------------------------------------------------------------


def micros(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment_of(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


class Moment(sa.TypeDecorator[datetime]):
    """Microseconds since 1970 in the database, a moment in UTC outside."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else micros(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else moment_of(value)


TYPES: Mapping[pa.DataType, Any] = {
    TEXT: sa.Text(),
    WORD: sa.Text(),
    REAL: sa.Double(),
    FLAG: sa.Boolean(),
    TIME: Moment(),
    PATH: sa.JSON(none_as_null=True),
}
METADATA = sa.MetaData()
NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # which alone SQLite counts up by itself


def ledger(table: Table) -> sa.Table:
    """A table of the contract as it is stored: numbered, and with the moment each row was received."""
    columns = [sa.Column(c.name, TYPES[c.type], nullable=not c.required) for c in (*table.columns, RECEIVED)]
    seq = sa.Column("seq", NUMBER, primary_key=True)
    return sa.Table(table.name, METADATA, seq, *columns, sqlite_autoincrement=True)


DATA = {name: ledger(table) for name, table in LEDGERS.items()}
ABOUT = sa.Table("about", METADATA, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text))
sa.Index("events_by_id", DATA["events"].c.event_id, unique=True)
sa.Index("events_by_customer", DATA["events"].c.customer_id, DATA["events"].c.occurred_at)
_ABOUT_MESSAGE = DATA["events"].c.message_id.is_not(None)
sa.Index(
    "events_by_message", DATA["events"].c.message_id, DATA["events"].c.occurred_at,
    sqlite_where=_ABOUT_MESSAGE, postgresql_where=_ABOUT_MESSAGE,
)  # fmt: skip
for _name, _column in (
    ("identities", "alias"),
    ("identities", "customer_id"),
    *(("merges", who) for who in WHO),
):
    sa.Index(f"{_name}_by_{_column}", DATA[_name].c[_column])
sa.Index("consents_by_customer", DATA["consents"].c.customer_id)
sa.Index("sends_by_customer", DATA["sends"].c.customer_id, DATA["sends"].c.at)
_D = DATA["decisions"].c
sa.Index("decisions_by_run", _D.run_at, _D.customer_id, _D.program, _D.occasion, unique=True)
_MADE = _D.message_id.is_not(None)
_LAST = sa.text("message_id IS NOT NULL AND (became IS NULL OR became <> 'again')")
sa.Index(
    "messages_by_occasion", _D.customer_id, _D.program, _D.occasion,
    unique=True, sqlite_where=_LAST, postgresql_where=_LAST,
)  # fmt: skip
sa.Index("messages_by_id", _D.message_id, unique=True, sqlite_where=_MADE, postgresql_where=_MADE)
_OPEN = sa.text("outcome = 'message' AND settled_at IS NULL")
sa.Index("messages_open", _D.send_at, sqlite_where=_OPEN, postgresql_where=_OPEN)
sa.Index("runs_by_program", DATA["runs"].c.run_at, DATA["runs"].c.program, unique=True)
sa.Index("deliveries_by_message", DATA["deliveries"].c.message_id)
sa.Index("deliveries_by_subject", DATA["deliveries"].c.subject)
sa.Index("alerts_by_id", DATA["alerts"].c.alert_id, DATA["alerts"].c.open, unique=True)
sa.Index("vouchers_by_code", DATA["vouchers"].c.code, unique=True)
sa.Index("redeemed_by_code", DATA["redeemed"].c.code, unique=True)
sa.Index("suppressed_by_subject", DATA["suppressed"].c.subject, unique=True)
sa.Index("offers_by_product", DATA["offers"].c.product_id, DATA["offers"].c.at, unique=True)
sa.Index("choices_by_run", DATA["choices"].c.run_at)
for _name in ("customers", "decisions", "deliveries", "pauses", "alerts", "vouchers", "redeemed", "choices"):
    sa.Index(f"{_name}_by_customer", DATA[_name].c.customer_id)
sa.Index("tombstones_by_subject", DATA["tombstones"].c.subject, unique=True)


# --- the store -----------------------------------------------------------------------------------------


def address(home: Path | None, database_url: str | None) -> sa.URL:
    """Where the database is: as named, else in the home. Raises StoreError, which never tells a password."""
    if database_url is None:
        if home is None:
            raise StoreError("no database is named: set OSCLMS_HOME or OSCLMS_DATABASE_URL")
        return sa.URL.create("sqlite", database=str(home / FILE))
    try:
        url = sa.make_url(database_url)
    except ArgumentError:
        raise StoreError("OSCLMS_DATABASE_URL is no address such as postgresql://user@host/name") from None
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in BEGIN:
        raise StoreError(f"OSCLMS_DATABASE_URL names {url.drivername}: use postgresql or sqlite")
    if url.drivername == "sqlite" and not Path(url.database or "").is_absolute():
        raise StoreError("OSCLMS_DATABASE_URL names no file from the root: use sqlite:////folder/store.db")
    return url


SET_UP = {
    "sqlite": ("PRAGMA synchronous = FULL",),
    "postgresql": ("SET synchronous_commit = on", f"SET lock_timeout = '{PATIENCE}s'", "SET TIME ZONE 'UTC'"),
}
HURRIED = {"sqlite": (), "postgresql": (f"SET statement_timeout = '{HURRY}s'",)}
GRACE = (
    0.5  # seconds more that the server has to say so itself; where it is silent, the connection is dropped
)
BEGIN = {
    "sqlite": ("BEGIN IMMEDIATE",),
    "postgresql+psycopg": (
        "BEGIN ISOLATION LEVEL READ COMMITTED",
        f"SELECT pg_advisory_xact_lock({WRITERS})",
    ),
}
CUT = "PRAGMA wal_checkpoint(TRUNCATE)"
PACK = {
    "sqlite": ("PRAGMA secure_delete = ON", "VACUUM", CUT),
    "postgresql": tuple(f"VACUUM FULL {name}" for name in PERSONAL),
}


def waiting(driver: str, patience: int) -> dict[str, Any]:
    """How the driver is told to wait so many seconds, and no longer."""
    if driver == "sqlite":
        return {"timeout": patience}
    return {"connect_timeout": patience, "tcp_user_timeout": 1_000 * patience}


@cache
def bounded(driver: Any) -> Any:
    """psycopg's connection, which waits for the server for HURRY and GRACE and no longer, and is closed then. By itself
    it waits as long as it is connected: `statement_timeout` is kept by the very server that may stand still."""

    class Silent(driver.OperationalError, TimeoutError):  # type: ignore[misc]
        """The server did not answer in time."""

    class Bounded(driver.Connection):  # type: ignore[misc]
        def wait(self, steps: Any, *about: Any, **more: Any) -> Any:
            return super().wait(self.in_time(steps), *about, **more)

        def in_time(self, steps: Any) -> Any:
            """The same steps; psycopg takes one several times a second, also where nothing comes."""
            end = monotonic() + HURRY + GRACE
            try:
                wanted = next(steps)
                while True:
                    ready = yield wanted
                    if not ready and monotonic() > end:
                        self.close()
                        raise Silent("the server is silent")
                    wanted = steps.send(ready)
            except StopIteration as done:
                return done.value

    return Bounded


def in_time(dialect: Any, _: Any, args: Any, about: Any) -> Any:
    return bounded(dialect.loaded_dbapi).connect(*args, **about)


class Store:
    """The database at `url`, brought up to the tables of this version. Raises StoreError.

    Any thread may call any method, and several processes may hold the same database. `hurry`: to be read while
    somebody waits for an answer, so that a database that is away is told within HURRY seconds.
    """

    def __init__(self, url: sa.URL, *, hurry: bool = False) -> None:
        self.url = url
        self._begin = BEGIN[url.drivername]
        args = waiting(url.drivername, HURRY if hurry else PATIENCE)
        try:
            self._engine = sa.create_engine(
                url,
                isolation_level="AUTOCOMMIT",
                hide_parameters=True,
                connect_args=args,
                pool_reset_on_return=None if hurry else "rollback",  # what only reads leaves nothing open
            )
        except (ImportError, NoSuchModuleError) as missing:
            raise StoreError(f"the database's driver is missing: {missing}") from missing
        name = self._engine.dialect.name
        sa.event.listen(self._engine, "connect", _set_up(SET_UP[name] + (HURRIED[name] if hurry else ())))
        if hurry and name == "postgresql":
            sa.event.listen(self._engine, "do_connect", in_time)
        self._looking = Lock()
        self._kept: sa.PoolProxiedConnection | None = None
        with self._told():
            self._upgrade()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._looking:
            self._close()

    def _close(self) -> None:
        if self._kept is not None:
            self._kept.invalidate()
            self._kept = None
        self._engine.dispose()

    @cached_property
    def id(self) -> str:
        """The name that this database got when it was made."""
        return self._about("id")

    def add(self, events: Sequence[Row]) -> list[Outcome]:
        """Store events that keep the contract, on disk before this returns; what became of each, in order.

        An event is its columns in the contract: when it was received is no part of it. Storing again what
        is stored changes nothing, so that whoever got no answer may ask again.
        """
        firsts: dict[str, int] = {}
        for place, event in enumerate(events):
            firsts.setdefault(event["event_id"], place)
        candidates = {name: events[place] for name, place in firsts.items()}
        with self._told():
            known = self._again(lambda: self._add(candidates))
        new = {place for name, place in firsts.items() if name not in known}
        stored = {**candidates, **known}
        return [
            Outcome.ACCEPTED if place in new else _known(event, stored[event["event_id"]])
            for place, event in enumerate(events)
        ]

    def append(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows that keep the contract, each with its `received_at`, to a table other than `events`."""
        self.record({table: rows})

    def record(self, tables: Mapping[str, Sequence[Row]]) -> None:
        """`append` to several tables: all of it is on disk before this returns, or nothing is stored."""
        with self.alone() as record:
            record(tables)

    @contextmanager
    def alone(self) -> Iterator[Record]:
        """`record`, for who reads first: no other writer, of any process, comes between what is read meanwhile and
        what is then recorded, which is on disk when this ends, or not stored at all. Keep it short: others wait."""
        with self.writing() as db:
            yield partial(_record, db)

    def select(self, wanted: "sa.Select[Any]") -> list[Any]:
        """The rows that a question of SQLAlchemy finds, by the tables of DATA."""
        with self._told(), self._engine.connect() as db:
            return list(db.execute(wanted))

    def bury(self, customer_id: str, *, at: datetime) -> None:
        """Record that a customer was erased, without saying who it was."""
        with self.alone() as record:
            record(self.graves_of([customer_id], at=at))

    def graves_of(self, customer_ids: Iterable[str], *, at: datetime) -> dict[str, list[Row]]:
        """The tombstones that these customers have not got yet, for who is `alone`."""
        names = set(customer_ids)
        missing = sorted(map(self.subject, names - self.buried(names)))
        return {"tombstones": [{"subject": subject, RECEIVED.name: at} for subject in missing]}

    def buried(self, customer_ids: Iterable[str]) -> set[str]:
        """Those of these customers who were erased."""
        subjects = {self.subject(customer_id): customer_id for customer_id in customer_ids}
        grave = DATA["tombstones"].c.subject
        with self._told(), self._engine.connect() as db:
            return {subjects[s] for s in db.scalars(sa.select(grave).where(grave.in_(subjects)))}

    def graves(self) -> Callable[[str], bool]:
        """Whether an id is one of a customer who was erased by now; the database is asked once for all."""
        key = self._key  # asked with it: the answer needs no database any more
        with self._told(), self._engine.connect() as db:
            known = set(db.scalars(sa.select(DATA["tombstones"].c.subject)))
        return lambda customer_id: _subject(key, customer_id) in known

    def of(self, table: str, customer_ids: Sequence[str]) -> list[dict[str, Any]]:
        """All rows of a table that name one of these customers, in the order in which they came."""
        data = DATA[table]
        named = sa.or_(*(data.c[name].in_(customer_ids) for name in WHO if name in data.c))
        with self._told(), self._engine.connect() as db:
            return [
                dict(row) for row in db.execute(sa.select(data).where(named).order_by(data.c.seq)).mappings()
            ]

    def named(self) -> Iterator[set[str]]:
        """Every id of a customer that a table holds, table by table."""
        for data in (DATA[name] for name in PERSONAL):
            for column in (data.c[name] for name in WHO if name in data.c):
                with self._told(), self._engine.connect() as db:
                    yield {found for found in db.scalars(sa.select(column).distinct()) if found is not None}

    def forget(self, customer_ids: Sequence[str]) -> int:
        """Remove every row that names one of these customers; how many. `shred` then makes the room unreadable."""
        gone = 0
        with self.writing() as db:
            for data in (DATA[name] for name in PERSONAL):
                named = sa.or_(*(data.c[name].in_(customer_ids) for name in WHO if name in data.c))
                gone += db.execute(sa.delete(data).where(named)).rowcount
        return gone

    def shred(self) -> None:
        """See to it that no file of the database holds what was removed: tables are packed anew, the log is cut."""
        with self._told(), self._engine.connect() as db:
            for step in PACK[self._engine.dialect.name]:
                told = db.exec_driver_sql(step)
                busy = told.returns_rows and (told.first() or (0,))[0]
                if busy and step == CUT:
                    raise StoreError(f"{self} is being read, so that its log cannot be cut: run it again")

    def since(
        self,
        customer_id: str,
        moment: datetime,
        until: datetime | None = None,
        *,
        table: str = "events",
        types: Sequence[str] = (),
    ) -> dict[str, tuple[Any, ...]]:
        """A customer's events with moment <= occurred_at < until, of these types or of all, oldest first, by column.

        Times are microseconds since 1970. The id is taken as it is: ask for each of a customer's aliases.
        """
        sql, names = self._latest(table, len(types))
        if "\0" in customer_id:  # nobody's, and PostgreSQL takes it for a fault
            return dict.fromkeys(names, ())
        asked = (customer_id, micros(moment), micros(until) if until else FOREVER, *types)
        with self._told(), self._engine.connect() as db:
            found = db.exec_driver_sql(sql, asked).fetchall()
        return dict(zip(names, zip(*found, strict=True) if found else [()] * len(names), strict=True))

    def shown(
        self, customer_id: str, moment: datetime, until: datetime | None = None
    ) -> dict[str, tuple[Any, ...]]:
        """`since` of `sends`, each with its products."""
        found = self.since(customer_id, moment, until, table="sends")
        lists = (json.loads(ids) if isinstance(ids, str) else ids for ids in found["product_ids"])
        return {**found, "product_ids": tuple(lists)}

    def in_view(self, customer_id: str, moment: datetime, until: datetime) -> Sequence[tuple[str, int]]:
        """Products that a customer had in view on a page at moment <= time < until, and when last: microseconds."""
        if "\0" in customer_id:
            return ()
        p = self._value
        sql = (
            f"SELECT product_id, max(occurred_at) FROM events WHERE customer_id = {p} AND occurred_at >= {p} "
            f"AND occurred_at < {p} AND event_type = {p} AND product_id IS NOT NULL GROUP BY product_id"
        )
        asked = (customer_id, micros(moment), micros(until), "impression")
        with self._told(), self._engine.connect() as db:
            return [(product, at) for product, at in db.exec_driver_sql(sql, asked)]

    def changes(
        self, after: Mapping[str, int] | None = None, limit: int = PAGE, *, names: Sequence[str] = WATCHED
    ) -> Changes:
        """What was appended to these tables after these numbers, at most `limit` rows of each.

        Ask again with the answer's `after`. Where nothing is new this costs one look at the tables' ends.
        """
        before = {name: (after or {}).get(name, 0) for name in names}
        with self._told(), self._engine.connect() as db:
            ends = self._ends(db, names)
            news = [name for name in names if ends[name] > before[name]]
            rows = {name: _read(db, name, before[name], ends[name], limit) for name in news}
        return Changes(before | {name: rows[name][-1]["seq"] for name in news if rows[name]}, rows)

    def ends(self, *tables: str) -> dict[str, int]:
        """The number of the last row of each of these tables: one small look, however much they hold.

        It is part of each answer, so it has a connection of its own, and the driver is asked without SQLAlchemy.
        """
        with self._looking:
            was_kept = self._kept is not None
            try:
                found = self._numbers(tables)
            except Exception as error:
                with self._told():
                    self._close()  # the others may be as stale
                    if not was_kept or isinstance(error, TimeoutError):
                        raise
                    found = self._numbers(tables)  # a connection that was cut says nothing of the database
        return dict(zip(tables, found, strict=True))

    def _numbers(self, tables: Sequence[str]) -> tuple[int, ...]:
        self._kept = self._kept or self._engine.raw_connection()
        cursor: Any = self._kept.driver_connection.cursor()  # type: ignore[union-attr]
        cursor.execute(_ends_sql(tables))
        found = cursor.fetchall()[0]  # all are fetched, so that nothing stays open in the database
        cursor.close()
        return tuple(found)

    def active(
        self, after: int, upto: int, *, types: Sequence[str], since: datetime
    ) -> Iterator[list[tuple[str, int]]]:
        """In pages (who did something of these types at `since` or later, when last), in the events with after < seq
        <= upto; a customer may be in several."""
        p = self._value
        who = "customer_id || ''"  # an order that an index has would be by customer, through all that ever happened
        sql = (
            f"SELECT {who}, max(occurred_at) FROM events "
            f"WHERE seq > {p} AND seq <= {p} AND occurred_at >= {p} AND customer_id IS NOT NULL "
            f"AND event_type IN ({', '.join([p] * len(types))}) GROUP BY {who}"
        )
        for found in self._paged(sql, after, upto, micros(since), *types):
            yield [(name, at) for name, at in found]

    def acts(
        self, after: int, upto: int, *, types: Sequence[str], since: datetime, before: datetime
    ) -> Iterator[list[Act]]:
        """In pages who did something of these types at since <= time < before, in the events with after < seq
        <= upto."""
        p = self._value
        sql = (
            "SELECT seq, customer_id, occurred_at, order_id FROM events "
            f"WHERE seq > {p} AND seq <= {p} AND occurred_at >= {p} AND occurred_at < {p} "
            f"AND customer_id IS NOT NULL AND event_type IN ({', '.join([p] * len(types))}) ORDER BY seq"
        )
        for found in self._paged(sql, after, upto, micros(since), micros(before), *types):
            yield [Act(*row) for row in found]

    def _paged(self, sql: str, after: int, upto: int, *given: Any) -> Iterator[Sequence[Any]]:
        """What a question about a stretch of events finds in each PAGE of them, so that no answer takes long."""
        for first in range(after, upto, PAGE):
            with self._told(), self._engine.connect() as db:
                yield db.exec_driver_sql(sql, (first, min(first + PAGE, upto), *given)).fetchall()

    def first_since(self, moment: datetime) -> int:
        """The number of an event before all that were received at `moment` or later: by halves, as those that come
        later have higher numbers."""
        low, high = 0, self.ends(EVENTS.name)[EVENTS.name]
        sql = f"SELECT received_at FROM events WHERE seq > {self._value} ORDER BY seq LIMIT 1"
        with self._told(), self._engine.connect() as db:
            while low < high:
                middle = (low + high) // 2
                found = db.exec_driver_sql(sql, (middle,)).scalar()
                low, high = (
                    (middle + 1, high) if found is not None and found < micros(moment) else (low, middle)
                )
        return low

    def marks(self) -> dict[str, Mark]:
        """The last row of each table that reaches the history."""
        with self._told(), self._engine.connect() as db:
            ends = self._ends(db, LIVE)
            return {name: self._mark(db, name, ends[name]) for name in LIVE}

    def mark_without(self, table: str, mark: Mark, customer_ids: Sequence[str]) -> Mark:
        """The last row up to this mark that names none of these customers."""
        data = DATA[table]
        others = (sa.func.coalesce(data.c[name].notin_(customer_ids), True) for name in WHO if name in data.c)
        with self._told(), self._engine.connect() as db:
            last = db.scalar(sa.select(sa.func.max(data.c.seq)).where(data.c.seq <= mark.seq, *others))
            return self._mark(db, table, last or 0)

    def holds(self, table: str, mark: Mark) -> bool:
        """Whether the table was read up to this mark, and not a copy of it that knew more, or other rows."""
        with self._told(), self._engine.connect() as db:
            return mark == self._mark(db, table, mark.seq)

    def reached(self, table: str, marks: Marks) -> int:
        """The row up to which what keeps these marks was told; 0 where that was another database, or an older copy."""
        mark = Mark(*marks.get(self.id, {}).get(table, Mark()))
        return mark.seq if self.holds(table, mark) else 0

    def read(self, table: str, after: int, upto: int) -> Iterator[list[dict[str, Any]]]:
        """The rows with after < seq <= upto in pages, in the order of their commits."""
        while after < upto:
            with self._told(), self._engine.connect() as db:
                rows = _read(db, table, after, upto, PAGE)
            if not rows:
                return
            yield rows
            after = rows[-1]["seq"]

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """For SQL of one's own over DATA, as one transaction: what is read in it stays so until its end."""
        with self._told(), self._writing() as db:
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer runs beside, in any process; on disk at its end, or undone."""
        with self._engine.connect() as db:
            try:
                for step in self._begin:
                    db.exec_driver_sql(step)
                yield db
                db.exec_driver_sql("COMMIT")
            except BaseException:
                db.invalidate()  # whatever state it is in: closing it rolls back
                raise

    def _add(self, candidates: Mapping[str, Row]) -> dict[str, Row]:
        """Store those whose id is new; of the others, what is stored."""
        ids, events = sorted(candidates), DATA["events"]
        with self._writing() as db:
            stored = db.execute(sa.select(events).where(events.c.event_id.in_(ids))).mappings()
            known: dict[str, Row] = {row["event_id"]: dict(row) for row in stored}
            insert(db, "events", [candidates[name] for name in ids if name not in known])
        return known

    def _again(self, write: Callable[[], T]) -> T:
        """What `write`, which may be repeated, gives; repeated once where the connection was lost."""
        try:
            return write()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            return write()

    def _ends(self, db: sa.Connection, names: Sequence[str]) -> dict[str, int]:
        return dict(zip(names, db.exec_driver_sql(_ends_sql(tuple(names))).one(), strict=True))

    def _mark(self, db: sa.Connection, name: str, seq: int) -> Mark:
        table = DATA[name]
        received = db.scalar(sa.select(table.c.received_at).where(table.c.seq == seq))
        return Mark(seq, micros(received)) if received else Mark()

    @cached_property
    def _latest(self) -> Callable[[str, int], tuple[str, tuple[str, ...]]]:
        """By table and number of types the SQL of `since` in the driver's own words, and the names of what it
        gives."""
        return cache(self._worded)

    def _worded(self, name: str, types: int) -> tuple[str, tuple[str, ...]]:
        names, time, p = (
            tuple(n for n in LEDGERS[name].names if n != "customer_id"),
            RECENT[name],
            self._value,
        )
        listed = ", ".join(f'"{n}"' for n in names)
        where = f'customer_id = {p} AND "{time}" >= {p} AND "{time}" < {p}'
        where += f" AND event_type IN ({', '.join([p] * types)})" if types else ""
        return f'SELECT {listed} FROM {name} WHERE {where} ORDER BY "{time}", seq', names

    @property
    def _value(self) -> str:
        """What stands for a value in the driver's own words."""
        return {"qmark": "?"}.get(self._engine.dialect.paramstyle, "%s")

    def subject(self, customer_id: str) -> str:
        """What a tombstone names a customer by: nobody without this database's key reads who it is."""
        return _subject(self._key, customer_id)

    @cached_property
    def _key(self) -> str:
        return self._about("key")

    def _about(self, name: str) -> str:
        with self._told(), self._engine.connect() as db:
            found: str = db.execute(sa.select(ABOUT.c.value).where(ABOUT.c.name == name)).scalar_one()
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of the database as ours: its own may quote what was sent, or a password."""
        try:
            yield
        except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error) as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            raise StoreError(f"{self} cannot be used ({kind}): see that it runs and has room") from None

    def __str__(self) -> str:
        """The database in words; no password is among them."""
        return f"the database {'/'.join(filter(None, (self.url.host, self.url.database)))}"

    def _upgrade(self) -> None:
        """Run the migrations that are missing, as one transaction under the writers' lock."""
        if self._version() == HEAD:
            return
        with self._made(), self._writing() as db:
            if (version := self._version_in(db)) != HEAD:
                _migrate(db, str(self), version)
        self._engine.dispose()

    def _version(self) -> str | None:
        if (
            self.url.database
            and self.url.get_backend_name() == "sqlite"
            and not Path(self.url.database).exists()
        ):
            return None
        with self._engine.connect() as db:
            return self._version_in(db)

    def _version_in(self, db: sa.Connection) -> str | None:
        if not sa.inspect(db).has_table("alembic_version"):
            return None
        return db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

    @contextmanager
    def _made(self) -> Iterator[None]:
        """A SQLite file that keeps a write-ahead log, made by one process while others wait."""
        if self.url.get_backend_name() != "sqlite" or not self.url.database:
            yield
            return
        path = Path(self.url.database)
        lock = FileLock(path.with_name(f"{path.name}.lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            way = "make the folder writable, or name another database by OSCLMS_DATABASE_URL"
            raise StoreError(f"{self} cannot be made ({error.strerror}): {way}") from error
        try:
            with self._engine.connect() as db:
                db.exec_driver_sql("PRAGMA journal_mode = WAL")
            yield
        finally:
            lock.release()


@cache
def _ends_sql(names: tuple[str, ...]) -> str:
    return "SELECT " + ", ".join(f"(SELECT coalesce(max(seq), 0) FROM {name})" for name in names)


def _set_up(steps: Iterable[str]) -> Any:
    def connected(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        for step in steps:
            cursor.execute(step)
        cursor.close()

    return connected


def _migrate(db: sa.Connection, name: str, version: str | None) -> None:
    from alembic import command  # half a second that only a new version pays
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    try:
        command.upgrade(config, "head")
    except CommandError as unknown:
        raise StoreError(
            f"{name} is at {version}, this version of OSCLMS knows up to {HEAD}: use the newer one"
        ) from unknown


def _subject(key: str, customer_id: str) -> str:
    return hmac.new(
        bytes.fromhex(key), customer_id.encode(errors="surrogatepass"), hashlib.sha256
    ).hexdigest()


def insert(db: sa.Connection, table: str, rows: Sequence[Row]) -> None:
    """Append rows by the columns of a table, each with its `received_at`; what a row does not name is empty."""
    if not rows:
        return
    names = (*LEDGERS[table].names, RECEIVED.name)
    db.execute(sa.insert(DATA[table]), [{name: row.get(name) for name in names} for row in rows])


def _record(db: sa.Connection, tables: Mapping[str, Sequence[Row]]) -> None:
    if EVENTS.name in tables:
        raise ValueError("events are added by `add`")
    for table, rows in tables.items():
        insert(db, table, rows)


def _read(db: sa.Connection, table: str, after: int, upto: int, limit: int) -> list[dict[str, Any]]:
    data = DATA[table]
    wanted = sa.select(data).where(data.c.seq > after, data.c.seq <= upto).order_by(data.c.seq).limit(limit)
    return [dict(row) for row in db.execute(wanted).mappings()]


def _known(event: Row, stored: Row) -> Outcome:
    same = all(event.get(name) == stored.get(name) for name in EVENTS.names)
    return Outcome.DUPLICATE if same else Outcome.CONFLICT
