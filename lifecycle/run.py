"""The daily run: from what is known at a moment to the messages that are to go out, and why there are no others.

facts → occasions → audience → pauses, addresses, consent → caps → choice → lists → decisions. A customer is decided as
a whole in one transaction, so that a run that was killed goes on where it was, and two at once decide nobody twice.
What was decided is what `lifecycle.outbox` sends.
"""

import base64
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from features.experiments import is_held_back
from features.history import History
from features.interactions import DAY
from features.judge import Row
from lifecycle import exits, ledger, offers
from lifecycle.audience import members
from lifecycle.breaker import tripped
from lifecycle.choice import POLICIES, Chosen, Rival, Stage, claims, full, rank
from lifecycle.choose.context import written_down
from lifecycle.choose.desk import Asked, Desk
from lifecycle.choose.hour import Hours, matured, open_slots
from lifecycle.choose.hour import learned as hours_of
from lifecycle.choose.learner import SILENCE
from lifecycle.choose.past import policy_of
from lifecycle.day import ADDRESS, Day, day_of
from lifecycle.drafts import Draft, Held, draft, lacking, unshown
from lifecycle.filed import ByCustomer
from lifecycle.hours import local, local_day, opens
from lifecycle.ledger import HOLDOUT, MESSAGE, Names, Past, Pauses
from lifecycle.occasions import PARTS, Occasions
from lifecycle.programs import Addition, Due, Entered, Policy, Program, known, policy
from lifecycle.series import step_now
from lifecycle.triggers import found
from serving import metrics
from serving.addresses import subject
from serving.challenge import Challenger, challenger
from serving.compact import compact
from serving.current import current
from serving.engine import Engine
from serving.placements import FILE as PLACEMENTS
from serving.scores import readable
from serving.store import Store, address

log = logging.getLogger("osclms.run")
OWN = "programs"  # the folder in a home with a shop's own
PATIENCE = 600  # seconds that a load, or another run, may take that is there first
SAMPLE, FAR = 30, 0.3  # of an audience, whose lists tell how much of them is fill; from the limit
CHUNK = 250  # customers decided in one transaction
USUAL = timedelta(days=28)  # of which runs the usual size of an audience is told
LATEST = timedelta(days=14)  # the longest gap between runs that is caught up
Told = Callable[[str, int, int | None], None]


class RunError(ValueError):
    """A run cannot be made; the message says why and what to do."""


class Candidate(NamedTuple):
    """An occasion of a customer who is in the audience. again: how often it came before and its message was dropped."""

    program: Program
    person: int
    key: str
    ripe: float
    products: tuple[str, ...]
    words: Mapping[str, Any]
    again: int = 0

    @property
    def name(self) -> str:
        """What it is called beside the customer and the program: once more, another message."""
        return f"{self.key}|{self.again}" if self.again else self.key


class Decision(NamedTuple):
    candidate: Candidate
    outcome: str
    detail: str | None = None
    send_at: datetime | None = None
    day: date | None = None
    draft: Draft | None = None
    policy: str | None = None
    probability: float | None = None
    variant: str | None = None
    hour: str | None = None  # JSON: the slot that it goes out in, and how likely each was
    choice: Row | None = None  # what is put on record of a learned choice, with the first of what it decides


@dataclass(frozen=True)
class Ran:
    """What a run came to. found: occasions by program; members: those of its audience; told: of these, what a run
    before wrote about; outcomes: what became of the others. messages are those that are to be sent."""

    at: datetime
    found: Mapping[str, int]
    members: Mapping[str, int]
    told: Mapping[str, int]
    outcomes: Mapping[str, Mapping[str, int]]
    stopped: Mapping[str, str]

    @property
    def messages(self) -> int:
        return sum(of.get(MESSAGE, 0) for of in self.outcomes.values())

    @property
    def eligible(self) -> int:
        """Occasions of an audience that no run before wrote about: as many as there are outcomes."""
        return sum(self.members.values()) - sum(self.told.values())

    def as_dict(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(), "messages": self.messages, "eligible": self.eligible,
            "programs": {
                name: {
                    "found": self.found[name], "members": self.members[name], "told": self.told.get(name, 0),
                    "stopped": self.stopped.get(name),
                    "outcomes": dict(sorted(self.outcomes.get(name, {}).items())),
                }
                for name in self.found
            },
        }  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What all steps of one run share."""

    day: Day
    store: Store
    engine: Engine
    programs: Mapping[str, Program]
    policy: Policy
    pauses: Pauses
    now: datetime
    ids: Names
    names: list[str]  # customers, by person
    reached: Mapping[str, np.ndarray]  # channel -> by person, whether an address is known
    shut: Mapping[str, np.ndarray]  # likewise, whether it is suppressed
    faulty: Mapping[str, str] = field(
        default_factory=dict
    )  # programs whose files are not understood, and why
    ordered: ByCustomer | None = None  # of each what exits count; None: nothing of this run is kept
    desk: Desk | None = None  # of a learned choice
    hours: Hours | None = None  # of learned hours
    challenger: Challenger | None = None  # who makes the lists of some customers
    fallen: set[int] = field(default_factory=set)  # whose lists it could not make: the champion makes them

    @property
    def at(self) -> datetime:
        return self.day.at

    def engine_of(self, person: int) -> Engine:
        """Whose lists this customer gets."""
        of = self.challenger
        drawn = of is not None and person not in self.fallen and of.challenge.draws(self.names[person])
        return of.engine if of and drawn else self.engine

    @cached_property
    def personal(self) -> np.ndarray:
        """By person whether lists may be made of what is known of them."""
        return self.day.personal(self.policy.personalisation == "opt_in")

    @cached_property
    def stages(self) -> np.ndarray:
        """By person the stage that they are in."""
        return self.day.people["stage"].to_numpy()

    @property
    def age(self) -> float:
        """Days since the last event that is known."""
        return (self.at - (self.day.last_event or self.at)).total_seconds() / DAY


def run(
    home: Path, database_url: str | None, at: datetime, *, now: datetime, only: Sequence[str] = (),
    told: Told = lambda what, done, of: None,
) -> Ran:  # fmt: skip
    """Decide for everybody as of `at`; asked again it goes on where it was, and changes nothing of what was decided.

    A program whose file is not understood is stopped. Raises FileError for a policy that is not, and HistoryError,
    BundleError, StoreError.
    """
    history = History(home / "history")
    rules, (table, faulty) = policy(home / OWN), known(home / OWN)
    faulty = {name: why for name, why in faulty.items() if not only or name in only}
    for name, why in faulty.items():
        log.error("%s: stopped: %s", name, why)
    chosen = {name: p for name, p in table.items() if p.enabled and (not only or name in only)}
    with Store(address(home, database_url)) as store:
        offers.note_first(store, history.table("products", offers.COLUMNS), at, now=now)
        compact(history, store, told=told, patience=PATIENCE)
        offers.note(store, history.table("products", offers.COLUMNS), at, now=now)
        told("facts", 0, 1)
        day = day_of(history, store, at, readable(home))
        told("facts", 1, 1)
        with current(home, database_url, clock=lambda: at) as (engine, aliases):
            if at < engine.data_until:
                raise RunError(
                    f"version {engine.version} has learned until {engine.data_until.isoformat()}, after the run's "
                    f"{at.isoformat()}: `osclms train --until` that moment, or run as of a later one"
                )
            made = prepared(day, store, engine, table, rules, aliases, now)
            if rules.choice == "learned":
                taught = policy_of(home, store, day, rules, table, aliases)
                made = replace(made, desk=Desk(taught, rules.choosers, str(rules.seed), at))
            if any(program.send_hour == "learned" for program in chosen.values()):
                seen = matured(store, history, Names(aliases), at)
                made = replace(made, hours=hours_of(seen, floor=rules.choice_floor, seed=str(rules.seed)))
            before = exits.orders(history, at - exits.WITHIN, at)
            beside = challenger(home, store, engine, placements=home / PLACEMENTS, clock=lambda: at)
            made = replace(made, ordered=ByCustomer(before), faulty=faulty, challenger=beside)
            return decide(made, chosen, told)


def moment_of(home: Path, day: str) -> datetime:
    """The moment at which the store's run of a day is made. Raises RunError."""
    zone, clock = History(home / "history").store.time_zone, policy(home / OWN).run_at
    try:
        return local(date.fromisoformat(day), clock, ZoneInfo(zone))
    except ValueError as error:
        raise RunError(f"{day!r} is no day such as 2018-01-02") from error


def prepared(
    day: Day, store: Store, engine: Engine, table: Mapping[str, Program], rules: Policy, aliases: Mapping[str, str],
    now: datetime,
) -> Run:  # fmt: skip
    gone, ids = ledger.suppressed(store), Names(aliases)
    paused = ledger.pauses(store, max(day.at, now), ids)  # of now: a pause is immediate
    known = {channel: day.people[column].notna().to_numpy() for channel, column in ADDRESS.items()}
    shut = {
        channel: np.array(
            [bool(gone) and isinstance(of, str) and subject(store, channel, of) in gone
             for of in day.people[column]], bool
        )
        for channel, column in ADDRESS.items()
    }  # fmt: skip
    return Run(
        day, store, engine, table, rules, paused, now, ids,
        names=day.ids.at(range(len(day.ids))), reached=known, shut=shut,
    )  # fmt: skip


def decide(made: Run, chosen: Mapping[str, Program], told: Told) -> Ran:
    looked: list[Row] = []
    queue: dict[int, list[Candidate]] = {}
    usual = ledger.sizes(made.store, made.at - USUAL, made.at)
    last = ledger.last_runs(made.store, made.at)
    for place, (name, program) in enumerate(chosen.items(), 1):
        trigger, longer = caught_up(made.day, program, last.get(name))
        occasions = found(made.day, trigger)
        own = list(candidates(program, occasions.where(members(made.day, program)[occasions.person])))
        looked.append(
            looked_at(made, program, len(occasions), own, [n * longer for n in usual.get(name, ())])
        )
        for candidate in own:
            queue.setdefault(candidate.person, []).append(candidate)
        told("occasions", place, len(chosen))
    looked += [row_of_stopped(made, name, why) for name, why in made.faulty.items()]
    stopped = {row["program"]: row["stopped"] for row in looked if row["stopped"]}
    before = settle(made, queue, stopped, told)
    tally = ledger.tally(made.store, made.at)
    outcomes = {name: tally.get(name, {}) for name in (*chosen, *made.faulty)}
    ledger.note(made.store, made.at, looked)
    triggered, inside = ({row["program"]: int(row[what]) for row in looked} for what in ("found", "members"))
    return Ran(made.at, triggered, inside, before, outcomes, stopped)


def caught_up(day: Day, program: Program, last: datetime | None) -> tuple[Any, float]:
    """(the trigger, of a program that catches up as wide as the time since its last run; how many times as wide)."""
    trigger = program.waits
    if program.missed == "skip" or last is None:
        return trigger, 1.0
    since = min((day.at - last).total_seconds() / DAY, LATEST.days)
    wide = max(trigger.within, since)
    return trigger.model_copy(update={"within": wide}), wide / trigger.within


def looked_at(
    made: Run, program: Program, found: int, own: Sequence[Candidate], usual: Sequence[float]
) -> Row:
    """What a run notes of a program, and why it does not run, if it does not."""
    fill = filled(made, own)
    paused = made.pauses.of(program.name, marketing=program.kind == "marketing")
    return {
        "run_at": made.at, "received_at": made.now, "program": program.name, "found": float(found),
        "members": float(len(own)), "fallback": fill,
        "stopped": paused or tripped(program, len(own), usual, made.age, fill),
    }  # fmt: skip


def row_of_stopped(made: Run, name: str, why: str) -> Row:
    """What a run notes of a program that it could not look at."""
    return {
        "run_at": made.at, "received_at": made.now, "program": name, "found": 0.0, "members": 0.0, "fallback": None,
        "stopped": why,
    }  # fmt: skip


def filled(made: Run, own: Sequence[Candidate]) -> float | None:
    """The share of fill in the lists of SAMPLE of these, or of a third of them where that is far from what stops their
    program; None where there are none."""
    step, shown = max(len(own) // SAMPLE, 1), list[bool]()
    sample = list(own[::step][:SAMPLE]) if own and own[0].program.shelves else []
    for third in (sample[::3], sample[1::3] + sample[2::3]):
        for candidate in third:
            shown += fill_of(made, candidate)
        if shown and abs(float(np.mean(shown)) - own[0].program.breaker.fallback) > FAR:
            break
    return float(np.mean(shown)) if shown else None


def fill_of(made: Run, candidate: Candidate) -> Iterator[bool]:
    """Of each product that a message would show, whether it is fill."""
    try:
        found = drafted(made, candidate, {}, ())
    except Exception as error:  # what is wrong with one is told when that one is decided
        log.warning("%s: a sampled list failed: %s", candidate.program.name, type(error).__name__)
        return
    for shelf, held in zip(candidate.program.shelves, found.lists, strict=True):
        yield from (item.filled for item in held.items[: shelf.limit])


def drafted(
    made: Run,
    candidate: Candidate,
    said: Mapping[str, Any],
    exclude: Sequence[str],
    at: datetime | None = None,
) -> Draft:
    """What a message would show; of somebody who declined to be told apart, what is popular."""
    name = made.names[candidate.person] if made.personal[candidate.person] else None
    ask = partial(
        draft, program=candidate.program, customer_id=name, products=candidate.products, words=said,
        exclude=exclude, at=at or made.at, rules=made.policy.rules,
    )  # fmt: skip
    engine = made.engine_of(candidate.person)
    try:
        return ask(engine)
    except Exception as error:
        if engine is made.engine:
            raise
        metrics.CHALLENGER_FAILED.inc()
        log.error("version %s failed, the champion answers: %s", engine.version, type(error).__name__)
        made.fallen.add(candidate.person)
        return ask(made.engine)


def candidates(program: Program, occasions: Occasions) -> Iterator[Candidate]:
    columns = (
        occasions.person.tolist(),
        occasions.key,
        occasions.at.tolist(),
        occasions.products,
        occasions.words,
    )
    for row in zip(*columns, strict=True):
        yield Candidate(program, *row)


def settle(
    made: Run, queue: Mapping[int, list[Candidate]], stopped: Mapping[str, str], told: Told
) -> Counter[str]:
    """Decide customer by customer all that was not decided in a call before this one. Returns by program how many
    occasions a run before wrote about."""
    people, done, before = sorted(queue), 0, Counter[str]()
    while people:
        chunk, people = people[:CHUNK], people[CHUNK:]
        names = [made.names[person] for person in chunk]
        since = made.at - timedelta(days=made.policy.repeat_days)
        known = ledger.seen(made.store, names, shown_since=since, run_at=made.at, names=made.ids)
        decisions = [
            timed(made, name, decision)
            for person, name in zip(chunk, names, strict=True)
            for decision in of_one(made, name, queue[person], known.past[name], stopped)
        ]
        late = ledger.keep(made.store, tables(made, decisions), names, known.upto, made.ids)
        people = [person for person in chunk if made.names[person] in late] + people
        before.update(
            candidate.program.name
            for person, name in zip(chunk, names, strict=True) if name not in late
            for candidate in queue[person] if was_told(candidate, known.past[name])
        )  # fmt: skip
        done += len(chunk) - len(late)
        told("customers", done, len(queue))
    return before


# --- one customer -----------------------------------------------------------------------------------------


def of_one(
    made: Run, name: str, own: Sequence[Candidate], past: Past, stopped: Mapping[str, str]
) -> Iterator[Decision]:
    """What becomes of each occasion of a customer that no message was about before."""
    rivals: dict[str, list[Decision]] = {}
    for candidate in {(c.program.name, c.key): c for c in (news(c, past) for c in own) if c}.values():
        decision = may_write(made, name, candidate, stopped)
        if decision.outcome != MESSAGE:
            yield decision
        elif candidate.program.kind == "transactional":
            yield written(made, name, decision._replace(policy="none", probability=1.0), past)
        else:
            rivals.setdefault(candidate.program.channel, []).append(decision)
    for channel, several in rivals.items():
        if made.desk and arm_of(made.policy, several[0].candidate.program, past.named(name)) != "control":
            yield from choice_of(made, made.desk, name, channel, several, past)
        else:
            yield from contest(made, name, channel, several, past)


def news(candidate: Candidate, past: Past) -> Candidate | None:
    """What of an occasion no message was about yet, and this run has not decided yet; None where nothing is left."""
    came = in_series(candidate, past)
    if came is None:
        return None
    candidate = came
    left = [] if rests(candidate, past) else untold(candidate, past.before | past.made)
    name, keys = candidate.program.name, parts_of(candidate)
    key = PARTS.join(keys[place] for place in left)
    if not left or (name, key) in past.decided:
        return None
    candidate = candidate._replace(again=past.again[name, key])
    if len(left) == len(keys):
        return candidate
    return candidate._replace(key=key, products=tuple(candidate.products[place] for place in left))


def was_told(candidate: Candidate, past: Past) -> bool:
    """Whether runs before this one wrote about all of an occasion, or in its place."""
    came = in_series(candidate, past)
    return came is None or rests(came, past) or not untold(came, past.before)


def in_series(candidate: Candidate, past: Past) -> Candidate | None:
    """The same; of a series the step that comes next. None where none does yet."""
    trigger = candidate.program.trigger
    if not isinstance(trigger, Entered):
        return candidate
    found = step_now(trigger, candidate.key, past.sent_by(candidate.program.name), past.at)
    return found and candidate._replace(key=found[1], words={**candidate.words, "step": found[0]})


def rests(candidate: Candidate, past: Past) -> bool:
    """Of the categories of one turn one is written about."""
    last = past.last.get(candidate.program.name)
    is_turn = isinstance(candidate.program.trigger, Addition)
    return is_turn and last is not None and last.timestamp() >= candidate.ripe


def untold(candidate: Candidate, occasions: Set[tuple[str, str]]) -> list[int]:
    """The places of an occasion's parts that none of these (program, occasion) was about."""
    name = candidate.program.name
    if not isinstance(candidate.program.trigger, Due):
        return [] if (name, candidate.key) in occasions else [0]
    told = {part for program, key in occasions if program == name for part in key.split(PARTS)}
    return [place for place, key in enumerate(parts_of(candidate)) if key not in told]


def parts_of(candidate: Candidate) -> list[str]:
    """One of several products has a key of a part each, so that none is written about twice with others beside it."""
    return candidate.key.split(PARTS) if isinstance(candidate.program.trigger, Due) else [candidate.key]


def may_write(made: Run, name: str, candidate: Candidate, stopped: Mapping[str, str]) -> Decision:
    """Whether a program may write to a customer at all, and when."""
    program, person = candidate.program, candidate.person
    marketing, channel = program.kind == "marketing", program.channel
    if program.name in stopped:
        return Decision(candidate, "stopped", stopped[program.name])
    if why := made.pauses.of(program.name, name, marketing=marketing):
        return Decision(candidate, "paused", why)
    if not made.reached[channel][person]:
        return Decision(candidate, "no_address", channel)
    if made.shut[channel][person]:
        return Decision(candidate, "suppressed", channel)
    if marketing and not agreed(made.day, channel, person):
        return Decision(candidate, "no_consent", channel)
    code, zones = made.day.zones
    zone = zones[code[person]]
    send_at = opens(program, made.policy, made.at, zone)
    if send_at is None or exits.has_passed(program.exit, ends(candidate), send_at):
        return Decision(candidate, "no_window")
    return Decision(candidate, MESSAGE, None, send_at, local_day(send_at, zone))


def agreed(day: Day, channel: str, person: int) -> bool:
    who = day.consents.get((channel, "marketing"))
    if who is None:
        return False
    place = int(np.searchsorted(who, person))
    return place < len(who) and int(who[place]) == person


def contest(
    made: Run, name: str, channel: str, several: Sequence[Decision], past: Past
) -> Iterator[Decision]:
    """Of the marketing that could be written on a channel, by the days on which it would go out: as much as caps leave,
    by the shop's policy. A place that is not filled, for lack of products, goes to the next in line."""
    caps, days = made.policy.caps.get(channel, ()), list(past.days.get(channel, ()))
    stage = Stage(name, made.at, str(made.policy.seed), claims(made.programs, past, made.at))
    left, won = list(several), dict[date, str]()
    while left:
        day = min(decision.day for decision in left if decision.day)
        today = [decision for decision in left if decision.day == day]
        rest = [decision for decision in left if decision.day != day]
        cap = full(caps, days, day)
        pick = None if cap else chosen(made, stage, today)
        if pick is None:
            outcome = "outranked" if won or not cap else "cap"
            told = ", ".join(won.values()) or (str(cap) if cap else "claimed")
            yield from (decision._replace(outcome=outcome, detail=told) for decision in today)
            left = rest
            continue
        left.remove(today[pick.row])
        best = today[pick.row]._replace(policy=rule_of(made), probability=pick.probability)
        decision = written(made, name, best, past)
        yield decision
        if decision.outcome in ledger.MADE:
            days.append(day)
            won[day] = decision.candidate.program.name


def choice_of(
    made: Run, desk: Desk, name: str, channel: str, several: Sequence[Decision], past: Past
) -> Iterator[Decision]:
    """One learned choice among all that caps leave and that has lists, so that whoever is written to and whoever hears
    nothing could have been written to alike."""
    caps, days = made.policy.caps.get(channel, ()), past.days.get(channel, ())
    tried = list[Decision]()
    for decision in several:
        cap = full(caps, days, decision.day) if decision.day else None
        tried.append(
            decision._replace(outcome="cap", detail=str(cap))
            if cap
            else written(made, name, decision, replace(past))
        )
    yield from (decision for decision in tried if decision.outcome not in ledger.MADE)
    ready = by_rank(decision for decision in tried if decision.outcome in ledger.MADE)
    if not ready or channel in past.chosen:
        yield from (unchosen(decision, "outranked", "chosen before") for decision in ready)
        return
    arms = list(dict.fromkeys(d.candidate.program.name for d in ready))
    asked = Asked(name, past.named(name), channel, arms, context_of(made, ready[0], channel, past))
    choice = desk.choose(asked)
    row = desk.row(asked, choice, held=any(d.detail == "program" for d in ready), now=made.now)
    best = next((d for d in ready if d.candidate.program.name == choice.arm), None)
    if best:
        yield best._replace(policy=choice.policy, probability=choice.probability, choice=row)
        if best.draft and best.outcome == MESSAGE:
            past.shown = [*best.draft.shown(best.candidate.program), *past.shown]
    for place, decision in enumerate(d for d in ready if d is not best):
        left = unchosen(decision, "silence" if choice.arm == SILENCE else "outranked", choice.arm)
        yield left._replace(choice=None if best or place else row)


def by_rank(decisions: Iterable[Decision]) -> list[Decision]:
    """As the fixed priority would have them."""
    return sorted(decisions, key=lambda d: rank(d.candidate.program, d.candidate.ripe))


def unchosen(decision: Decision, outcome: str, detail: str) -> Decision:
    return decision._replace(outcome=outcome, detail=detail, draft=None, variant=None)


def context_of(made: Run, decision: Decision, channel: str, past: Past) -> dict[str, Any]:
    """What a learned choice looks at: what this run knows of the customer."""
    told: Any = made.day.people.loc[decision.candidate.person]
    codes, zones = made.day.zones
    today = local_day(made.at, zones[codes[decision.candidate.person]])
    return written_down(told, past.days.get(channel, ()), past.last, today, made.at)


def rule_of(made: Run) -> str:
    """What chooses where a learned choice is not asked, as for the universal control."""
    return made.policy.choice if made.policy.choice in POLICIES else "priority"


def chosen(made: Run, stage: Stage, today: Sequence[Decision]) -> Chosen | None:
    rivals = [Rival(place, d.candidate.program, d.candidate.ripe) for place, d in enumerate(today)]
    return POLICIES[rule_of(made)](stage, rivals)


def written(made: Run, name: str, decision: Decision, past: Past) -> Decision:
    """The message with its lists, one held back, or why there is none. What goes wrong is this customer's alone."""
    variant = decision.candidate.program.variant_of(made.policy.seed, past.named(name))
    whole = decision.candidate.program.forms[variant]
    program = whole.promoting(agreed(made.day, whole.channel, decision.candidate.person))
    candidate = decision.candidate._replace(program=program)
    decision = decision._replace(candidate=candidate, variant=variant)
    try:
        found = drafted(made, candidate, words(made, name, decision), past.shown)
    except Exception as error:
        log.error("%s: a customer's lists failed: %s", program.name, type(error).__name__)
        return decision._replace(outcome="failed", detail=type(error).__name__)
    found = found.model_copy(update={"lists": tuple(own_lists(made, candidate, found))})
    if candidate.products and not found.products:
        return decision._replace(outcome="sensitive")
    why = unshown(made.engine_of(candidate.person), program, found) or lacking(
        program, [held.items for held in found.lists]
    )
    if why:
        return decision._replace(outcome="too_few", detail=why)
    arm = arm_of(made.policy, program, past.named(name))
    if not arm:
        past.shown = [*found.shown(program), *past.shown]
    if made.ordered and program.exit:
        lines = [*exits.lines(made.ordered.of([name]))]
        counted = exits.known(program.exit, found.products, lines)
        over = ends(candidate) if exits.PASSED in program.exit else None
        found = found.model_copy(update={"known": counted, "ends": over})
    return decision._replace(outcome=HOLDOUT if arm else MESSAGE, detail=arm, draft=found)


def own_lists(made: Run, candidate: Candidate, found: Draft) -> Iterator[Held]:
    """The lists of a message under ids of its own: what is popular is the same list for many, and a click tells by the
    list which message it was in."""
    engine, name = made.engine_of(candidate.person), made.names[candidate.person]
    for held in found.lists:
        own = engine.id_of(f"{held.recommendation_id}|{name}|{candidate.program.name}|{candidate.key}")
        yield held.model_copy(update={"recommendation_id": own})


def timed(made: Run, name: str, decision: Decision) -> Decision:
    """The same at the hour that is chosen for it, on its day, where its program has hours learned."""
    program, person = decision.candidate.program, decision.candidate.person
    if made.hours is None or decision.outcome not in ledger.MADE or decision.send_at is None:
        return decision
    if program.send_hour != "learned":
        return decision
    codes, zones = made.day.zones
    slots = open_slots(program, made.policy, decision.send_at, zones[codes[person]])
    if decision.draft and (end := decision.draft.ends):
        slots = [slot._replace(end=min(slot.end, end)) for slot in slots if slot.begin < end]
    if not slots:
        return decision
    key = f"{made.at.isoformat()}|{program.name}|{decision.candidate.key}"
    found = made.hours.choose(name, str(made.stages[person]), slots, key)
    return decision._replace(send_at=found.send_at, hour=found.record)


def ends(candidate: Candidate) -> datetime:
    """When an occasion is past."""
    return datetime.fromtimestamp(candidate.ripe, UTC) + timedelta(days=candidate.program.trigger.within)


def arm_of(rules: Policy, program: Program, name: str) -> str | None:
    """The control group that a customer is of; None for those who are written to."""
    if program.kind == "transactional":
        return None
    if is_held_back(f"control|{rules.seed}", name, rules.control):
        return "control"
    return "program" if program.holds_back(rules.seed, name) else None


def words(made: Run, name: str, decision: Decision) -> dict[str, Any]:
    """What a message may say of its occasion, its voucher among it."""
    said, program = dict(decision.candidate.words), decision.candidate.program
    if program.voucher and decision.send_at:
        code = code_of(made.store, name, decision.candidate)
        said["voucher"] = program.voucher.said(code, decision.send_at)
    return said


def code_of(store: Store, name: str, candidate: Candidate) -> str:
    """A code that nobody guesses: 10 letters and digits, the same whenever it is asked for."""
    digest = bytes.fromhex(store.subject(f"voucher|{name}|{candidate.program.name}|{candidate.name}"))
    return base64.b32encode(digest)[:10].decode()


# --- rows -------------------------------------------------------------------------------------------------


def tables(made: Run, decisions: Sequence[Decision]) -> dict[str, list[Row]]:
    """The rows of these decisions, and of what they bring with them."""
    rows: dict[str, list[Row]] = {"decisions": [], "sends": [], "vouchers": [], "choices": []}
    for decision in decisions:
        row = row_of(made, decision)
        rows["decisions"].append(row)
        rows["choices"] += [decision.choice] if decision.choice else []
        if decision.outcome == MESSAGE:
            rows["sends"] += send_rows(made, decision, row)
            rows["vouchers"] += voucher_rows(made, decision, row)
    return rows


def row_of(made: Run, decision: Decision) -> Row:
    candidate, program = decision.candidate, decision.candidate.program
    name, is_made = made.names[candidate.person], decision.outcome in ledger.MADE
    occasion = f"{name}|{program.name}|{candidate.name}"
    return {
        "run_at": made.at, "customer_id": name, "program": program.name,
        "version": made.programs[program.name].version,
        "occasion": candidate.key, "outcome": decision.outcome, "detail": decision.detail, "channel": program.channel,
        "message_id": made.store.subject(f"message|{occasion}")[:24] if is_made else None,
        "send_at": decision.send_at, "local_day": decision.day.isoformat() if decision.day else None,
        "kind": program.kind, "content": decision.draft.model_dump_json() if decision.draft else None,
        "variant": decision.variant, "hour": decision.hour,
        "policy": decision.policy, "probability": decision.probability,
        "model_version": made.engine_of(candidate.person).version if decision.draft else None,
        "received_at": made.now,
    }  # fmt: skip


def send_rows(made: Run, decision: Decision, row: Row) -> Iterator[Row]:
    """What the message shows, for the ledger that lists are turned by."""
    if decision.draft is None:
        return
    for shelf, held in zip(decision.candidate.program.shelves, decision.draft.lists, strict=True):
        if held.items:
            yield {
                **{name: row[name] for name in ("customer_id", "channel", "message_id", "received_at")},
                "at": row["send_at"], "placement": held.placement, "recommendation_id": held.recommendation_id,
                "product_ids": [item.product_id for item in held.items[: shelf.limit]],
            }  # fmt: skip


def voucher_rows(made: Run, decision: Decision, row: Row) -> Iterator[Row]:
    given = decision.draft.words.get("voucher") if decision.draft else None
    if given:
        yield {
            **{name: row[name] for name in ("customer_id", "program", "message_id", "received_at")},
            "code": given["code"], "worth": given["worth"], "ends": datetime.fromisoformat(given["ends"]),
        }  # fmt: skip
