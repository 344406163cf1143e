"""The model card: what a version is, what it reaches and for whom, on one page that needs nothing else."""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import liquid
import numpy as np
from numpy.typing import NDArray

from features.catalog import level
from features.customers import STAGES, facts
from serving.bundle import Bundle, BundleError, Manifest, read_manifest
from training import drift, insight
from training.evaluate import METRICS, PRIMARY, Answers, Audit
from training.gate import Verdict
from training.insight import Insight
from training.intervals import Interval, clustered_interval
from training.jobs import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = Path(__file__).with_name("card.html")
HISTORY = ((1, "1–3 orders"), (4, "4–9"), (10, "10–29"), (30, "30 and more"))
CATEGORIES = 12  # the largest ones by what was bought; the others are one
RESAMPLES = 500  # enough for the many small parts
EXAMPLES = 10
LATELY = 8  # products that an example customer bought last
OTHERS = "all others"
PAGE = "card.html"  # what it is among a run's artifacts
IN_WORDS = "Customers, in words"
ORDER = (*STAGES[1:], STAGES[0], *(name for _, name in HISTORY))  # of parts that have one
STABLE, MOVED = 0.1, 0.25  # customary readings of a population stability index


# --- what a card tells ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The figure of some of the questions, or of some of their answers."""

    name: str
    n: int
    figure: Interval


@dataclass(frozen=True)
class Result:
    """What a placement reached at one task.

    stages, histories: the primary figure by the customer. categories: the share found of what was bought.
    """

    name: str
    primary: str
    k: int
    questions: int
    intervals: Mapping[str, Interval]
    figures: Mapping[str, float]
    stages: tuple[Part, ...]
    histories: tuple[Part, ...]
    categories: tuple[Part, ...]


@dataclass(frozen=True)
class Example:
    """A customer in words: titles of what was bought last, of what was offered and whether it was then bought, and how
    many products were bought in all."""

    orders: int
    lately: tuple[str, ...]
    offered: tuple[tuple[str, bool], ...]
    bought: int


@dataclass(frozen=True)
class Card:
    """Everything on the page. Holds no id of a customer."""

    version: str
    store: str
    data_until: datetime
    judged_from: datetime
    git_revision: str
    fingerprint: str
    size: Mapping[str, int]
    verdict: Verdict
    results: tuple[Result, ...]
    baselines: Mapping[str, Mapping[str, Interval]]  # recipe → task → NDCG
    rankers: Mapping[str, Insight]
    examples: tuple[Example, ...]
    drift: drift.Drift | None
    recall: Mapping[str, float]
    recipes: Mapping[str, str]
    fits: tuple[Fit, ...]
    seconds: Mapping[str, float]


# --- gathering ------------------------------------------------------------------------------------------


def former_of(bundles: Path, versions: Sequence[str]) -> Manifest | None:
    """The manifest of the latest of the versions that this code can read."""
    for version in reversed(versions):
        try:
            return read_manifest(bundles / version)
        except BundleError:  # pruned, or of another format
            continue
    return None


def results_of(bundle: Bundle, audits: Sequence[Audit], *, seed: int) -> Iterator[Result]:
    """Every audit, and its figure for those parts of the questions that a reader asks about."""
    about = facts(bundle.interactions, bundle.catalog)
    stage = np.append(about["stage"].to_numpy(str), "prospect")
    place = np.searchsorted([low for low, _ in HISTORY], about["frequency"].to_numpy(), side="right")
    history = np.array(["", *(name for _, name in HISTORY)])[np.append(place, 0)]
    top = top_levels(bundle)
    for a in audits:
        who, listed = a.answers.task.customer, a.primary in METRICS
        values = a.answers.values(a.primary) if listed else np.empty(0)
        yield Result(
            a.name, a.primary, a.answers.task.k, len(a.answers.task), a.intervals, a.figures,
            tuple(Part(n, int((stage[who] == n).sum()), a.stages[n]) for n in ORDER if n in a.stages),
            parts(history[who], values, who, ORDER, seed=seed) if listed else (),
            by_category(top, a.answers, seed=seed) if a.judges == "list" else (),
        )  # fmt: skip


def parts(
    of: NDArray[Any], values: NDArray[Any], who: NDArray[Any], names: Sequence[str], *, seed: int
) -> tuple[Part, ...]:
    """The mean of the values under each of the names; `of` says under which each value is."""
    inside = [(name, of == name) for name in names]
    return tuple(
        Part(name, int(i.sum()), clustered_interval(values[i], who[i], seed=seed, resamples=RESAMPLES))
        for name, i in inside
        if i.any()
    )


def top_levels(bundle: Bundle) -> NDArray[Any]:
    """The top category of each item; the last one is for what the bundle cannot know."""
    paths = [level(path, 1) for path in bundle.catalog.categories]
    return np.append(np.array([*paths, "no category"])[bundle.catalog.category], "unknown or rare")


def by_category(top: NDArray[Any], answers: Answers, *, seed: int) -> tuple[Part, ...]:
    """Of what was bought of each top category, the share that the lists held."""
    pairs = zip(answers.lists, answers.task.truth, strict=True)
    found = np.concatenate([np.isin(truth, row) & (truth >= 0) for row, truth in pairs])
    who = np.repeat(answers.task.customer, answers.wanted)
    name = top[np.concatenate(answers.task.truth)]
    names, counts = np.unique(name, return_counts=True)
    large = names[np.argsort(-counts, kind="stable")[:CATEGORIES]]
    name = np.where(np.isin(name, large), name, OTHERS)
    return parts(name, found, who, [*large.tolist(), OTHERS], seed=seed)


def examples_of(bundle: Bundle, answers: Answers, *, seed: int) -> tuple[Example, ...]:
    """Some customers by chance, with what they were offered."""
    n = len(answers.task)
    chosen = np.sort(np.random.default_rng(seed).choice(n, min(n, EXAMPLES), replace=False))
    return tuple(example(bundle, answers, int(row)) for row in chosen)


def example(bundle: Bundle, answers: Answers, row: int) -> Example:
    data, title = bundle.interactions, bundle.catalog.title
    rows, truth = data.rows(int(answers.task.customer[row])), answers.task.truth[row]
    lately = dict.fromkeys(data.item[rows][::-1].tolist())
    offered = [int(item) for item in answers.lists[row] if item >= 0]
    return Example(
        len(np.unique(data.order[rows])),
        tuple(title[item] for item in list(lately)[:LATELY]),
        tuple((title[item], bool(np.isin(item, truth))) for item in offered),
        len(truth),
    )


# --- the page -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Rows of text; a cell in two parts has a remark below it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str | tuple[str, str], ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    about: str
    tables: tuple[Table, ...] = ()
    pictures: tuple[tuple[str, str], ...] = ()  # (what it shows, its data as a URI)


def card_html(card: Card) -> str:
    """The page. All text on it is escaped, every picture is inside it, and it asks for nothing else."""
    promoted = "promoted" if card.verdict.promote else "kept"
    about = {
        "Data until": told_at(card.data_until),
        "Judged on": f"{told_at(card.judged_from)} to {told_at(card.data_until)}",
        **{name: f"{n:,}" for name, n in card.size.items()},
        "Code": card.git_revision,
        "Fingerprint of the data": card.fingerprint,
    }
    title = f"{card.store}: version {card.version}"
    return page_html(title, card.verdict.reason, about, sections(card), promoted=promoted)


def page_html(
    title: str, reason: str, about: Mapping[str, str], of: Iterable[Section], *, promoted: str = ""
) -> str:
    """A page of sections that needs nothing else; `promoted` is the word beside its title."""
    return template().render(
        title=title,
        promoted=promoted,
        reason=reason,
        about=[list(pair) for pair in about.items()],
        sections=[section_words(section) for section in of],
    )


@cache
def template() -> liquid.BoundTemplate:
    made = liquid.Environment(undefined=liquid.StrictUndefined, autoescape=True)
    return made.from_string(TEMPLATE.read_text(encoding="utf-8"))


def section_words(section: Section) -> dict[str, Any]:
    tables = [
        {"title": t.title, "head": t.head, "rows": [[cell_words(cell) for cell in row] for row in t.rows]}
        for t in section.tables
    ]
    pictures = [{"about": about, "uri": uri} for about, uri in section.pictures]
    return {"title": section.title, "about": section.about, "tables": tables, "pictures": pictures}


def cell_words(cell: str | tuple[str, str]) -> dict[str, str]:
    text, remark = (cell, "") if isinstance(cell, str) else cell
    return {"text": text, "remark": remark}


def sections(card: Card) -> Iterator[Section]:
    yield figures_section(card)
    yield baselines_section(card)
    yield parts_section(card)
    yield exposure_section(card)
    for placement, seen in card.rankers.items():
        yield ranker_section(placement, seen)
    yield examples_section(card)
    if card.drift:
        yield drift_section(card.drift)
    yield gate_section(card)
    yield making_section(card)


def gate_section(card: Card) -> Section:
    rows = tuple(("✓" if check.holds else "✗", check.says) for check in card.verdict.checks)
    return Section("What the gate looked at", "", (Table(("", "check"), rows),))


def figures_section(card: Card) -> Section:
    says = (
        "Asked through the engine that ships, about what was bought in the days it was judged on, the full catalogue "
        "ranked. Intervals are 95 % by bootstrap over customers. ★: what the placement is judged by."
    )
    rows = tuple(
        (
            (r.name, f"{r.questions:,} questions, lists of {r.k}"),
            *(figure(r.intervals[m], judged=m == r.primary) for m in METRICS),
        )
        for r in card.results
    )
    tables = (Table(("placement, task", *map(label, METRICS)), rows), offers_table(card))
    return Section("Figures by placement", says, tuple(t for t in tables if t.rows))


def offers_table(card: Card) -> Table:
    """Whom placements that decide whether to offer at all chose, and how many of these took a step."""
    rows = tuple(
        (
            (r.name, f"{r.questions:,} questions"),
            figure(r.intervals["auc"], judged=True),
            *(figure(r.intervals[m]) if m in r.intervals else "–" for m in ("offered", "precision")),
            number(r.figures["lift"]) if "lift" in r.figures else "–",
        )
        for r in card.results
        if "auc" in r.intervals
    )
    head = ("placement, task", "AUC of who takes it", "share offered", "took it, of these", "over all")
    return Table(head, rows, "Whom to offer")


def baselines_section(card: Card) -> Section:
    """Recipes by themselves beside the placement that asks them together."""
    from training import plots

    whole = next(r for r in card.results if r.name == ".".join(PRIMARY))
    bought = {name: tasks[PRIMARY[1]] for name, tasks in card.baselines.items() if PRIMARY[1] in tasks}
    bars = {**bought, whole.name: whole.intervals["ndcg"]}
    drawn = plots.recipes_compared(
        bars, metric=f"NDCG@{whole.k}", baseline="popular" if "popular" in bars else whole.name,
        customers=whole.questions,
    )  # fmt: skip
    tasks = list(dict.fromkeys(task for found in card.baselines.values() for task in found))
    rows = tuple(
        (name, *(figure(found[task]) if task in found else "–" for task in tasks))
        for name, found in card.baselines.items()
    )
    says = "What each recipe answers without the engine: NDCG of all purchases, and of the novel ones."
    table = Table(("recipe", *tasks), rows)
    return Section("Baselines", says, (table,), (picture("Recipes by NDCG", drawn),))


def parts_section(card: Card) -> Section:
    says = (
        "The placement's figure by the customer's stage and by the length of the history, both before the days it was "
        "judged on. By top category: of the products that were bought, the share that the list held."
    )
    first = tuple({r.name.partition(".")[0]: r for r in reversed(card.results)}.values())[::-1]
    return Section(
        "For whom, and of what",
        says,
        (
            parts_table("By stage", {r.name: r.stages for r in card.results}),
            parts_table("By length of history", {r.name: r.histories for r in card.results}),
            parts_table("By category of what was bought", {r.name: r.categories for r in first}),
        ),
    )


def parts_table(title: str, found: Mapping[str, Sequence[Part]]) -> Table:
    """A row for each result and a column for each part, or the other way round where the parts are more."""
    mentioned = dict.fromkeys(p.name for parts in found.values() for p in parts)
    names = sorted(mentioned, key=lambda n: (n == OTHERS, ORDER.index(n) if n in ORDER else 0))
    cells = {(place, p.name): part_cell(p) for place, parts in found.items() for p in parts}
    if len(names) > len(found):
        rows = tuple((n, *(cells.get((place, n), "–") for place in found)) for n in names)
        return Table(("", *found), rows, title)
    rows = tuple((place, *(cells.get((place, n), "–") for n in names)) for place in found)
    return Table(("", *names), rows, title)


def part_cell(part: Part) -> tuple[str, str]:
    f = part.figure
    return f"{f.mean:.3f}", f"{f.low:.3f} – {f.high:.3f} of {part.n:,}"


def exposure_section(card: Card) -> Section:
    names = ("coverage", "gini", "entropy", "novel_share", "full_lists", "filled", "violations")
    says = (
        "coverage: products shown over all lists. gini: 0, every available product shown alike; 1, one product has it "
        "all. entropy: bits of category within a list. filled: items from the placement's fill."
    )
    rows = tuple((r.name, *(number(r.figures.get(name, nan)) for name in names)) for r in card.results)
    return Section("Coverage and exposure", says, (Table(("placement, task", *map(label, names)), rows),))


def ranker_section(placement: str, seen: Insight) -> Section:
    """Calibration and importance of one ranker."""
    from training import plots

    says = (
        f"Looked at on {seen.questions:,} questions of the days that the version was judged on, by a ranker taught "
        f"alike that had not seen them. Of {seen.candidates:,} candidates it would have {seen.expected:,.0f} bought; "
        f"{seen.bought:,.0f} were. The expected calibration error is {seen.calibration_error:.4f}. Gain: the share of "
        "all that splits gained in learning. What is lost: a group's values are shuffled, together, among all "
        f"candidates of {seen.shuffled:,} questions with something right among theirs, and the same ranker, not taught "
        f"anew, ranks again; what another group tells too counts little. NDCG@{insight.K} is over the candidates alone "
        f"({seen.ndcg:.4f} before), log loss is {seen.log_loss:.4f} before. The interval is 95 % by bootstrap over "
        "questions."
    )
    importance = {
        g.name: {"share of gain": round(g.gain, 4), "NDCG lost": round(g.ndcg_lost.mean, 4)}
        for g in seen.groups
    }
    drawn = (
        picture(
            f"{placement}: probability and share bought",
            plots.reliability([(b.predicted, b.bought, b.n) for b in seen.bins], title=placement),
        ),
        picture(
            f"{placement}: what it rests on",
            plots.placements_audited(importance, title=f"{placement}: what it rests on"),
        ),
    )
    bins = tuple((f"{b.n:,}", f"{b.predicted:.4f}", f"{b.bought:.4f}") for b in seen.bins)
    groups = tuple(
        (g.name, f"{g.gain:.1%}", figure(g.ndcg_lost), minus(f"{g.loss_added:+.4f}")) for g in seen.groups
    )
    tables = (
        Table(("columns", "gain", "NDCG lost", "log loss added"), groups, "What it rests on"),
        Table(("candidates", "mean probability", "share bought"), bins, "Calibration"),
    )
    return Section(f"The ranker of {placement}", says, tables, drawn)


def examples_section(card: Card) -> Section:
    says = (
        "Customers drawn by chance, as they stood before the days the version was judged on; a ✓ is before what they "
        "then bought."
    )
    rows = tuple(
        (
            (f"customer {n}", f"{e.orders:,} orders"),
            " · ".join(e.lately),
            " · ".join(f"✓ {title}" if hit else title for title, hit in e.offered),
            f"{sum(hit for _, hit in e.offered)} of {e.bought:,}",
        )
        for n, e in enumerate(card.examples, 1)
    )
    head = ("", "bought lately", "was offered", "of it, of all they bought")
    return Section(IN_WORDS, says, (Table(head, rows),))


def without_customers(page: str) -> str:
    """The page without its customers in words: it does not say who they are, so that whoever is erased may be one."""
    head, title, tail = page.partition(f"<h2>{IN_WORDS}</h2>\n")
    told = "<p>Removed, as a customer was erased since, who may have been one of them.</p>\n"
    _, end, rest = tail.partition("</section>")
    return f"{head}{title}{told}{end}{rest}" if title else page


def drift_section(found: drift.Drift) -> Section:
    says = (
        f"The {drift.WINDOW} days before the end of this version's data, and of version {found.version}'s, which ends "
        f"{told_at(found.until)}. The population stability index compares sampled customers with the products of their "
        f"last orders; below {STABLE} is taken as stable, above {MOVED} as changed."
    )
    changes = tuple((c.name, number(c.before), number(c.now), change(c)) for c in found.figures)
    indexes = tuple((name, f"{value:.3f}", reading(value)) for name, value in found.stability.items())
    tables = (
        Table(("", f"version {found.version}", "this version", "change"), changes),
        Table(("column", "stability index", ""), indexes),
    )
    return Section(f"The data against version {found.version}", says, tables)


def change(of: drift.Change) -> str:
    return f"{of.now / of.before - 1:+.1%}" if of.before and not isnan(of.now / of.before) else "–"


def reading(index: float) -> str:
    return "stable" if index < STABLE else "moved" if index < MOVED else "changed"


def making_section(card: Card) -> Section:
    spent: dict[str, list[float]] = {}
    for fit in card.fits:
        spent.setdefault(fit.name, []).append(fit.cpu)
    fits = tuple(
        (name, card.recipes.get(name, ""), str(len(cpu)), f"{sum(cpu):,.1f}") for name, cpu in spent.items()
    )
    steps = tuple((name, f"{took:,.1f}") for name, took in card.seconds.items())
    indexes = tuple((name, f"{value:.4f}") for name, value in card.recall.items())
    tables = (
        Table(("fitted", "with", "times", "CPU seconds"), fits),
        Table(("step", "seconds"), steps),
        Table(("index", "recall@10 against exact search"), indexes),
    )
    return Section("How it was made", "", tuple(t for t in tables if t.rows))


# --- words and pictures -----------------------------------------------------------------------------------


def figure(of: Interval, *, judged: bool = False) -> tuple[str, str]:
    """A mean and its interval."""
    mean = minus(f"{of.mean:.4f}")
    return (f"★ {mean}" if judged else mean), minus(f"{of.low:.4f} – {of.high:.4f}")


def minus(text: str) -> str:
    return text.replace("-", "−")


def number(value: float) -> str:
    if isnan(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:,.3f}"


def label(name: str) -> str:
    return {"ndcg": "NDCG", "recall": "recall", "mrr": "MRR", "map": "MAP"}.get(name, name.replace("_", " "))


def told_at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def picture(about: str, figure: "Figure") -> tuple[str, str]:
    """What it shows, and itself as a data URI."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return about, "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue()).decode()
