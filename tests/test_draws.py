"""Who is drawn to which arm: evenly, for good, each program by itself, and by the first id through every merge."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from scipy import stats

from features.chance import Chance
from features.experiments import BUCKETS, bucket
from lifecycle.ledger import Names, seen
from lifecycle.programs import Policy, Program
from lifecycle.run import arm_of
from serving.store import Store, address

START = datetime(2024, 3, 1, tzinfo=UTC)
SHAPES = {
    "short": [str(n) for n in range(1, 1_501)],
    "padded": [f"{n:010d}" for n in range(1_500)],
    "uuid": [str(UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)) for n in range(1, 1_501)],
    "mail": [f"user{n}@shop.example" for n in range(1_500)],
}
NAMES = [f"c{n}" for n in range(300)]


def program(name: str, **other: object) -> Program:
    texts = {"en": {"subject": "s", "title": "t", "body": "b"}}
    about = {
        "name": name,
        "about": "a",
        "trigger": {"kind": "joined"},
        "holdout": 0.3,
        "texts": texts,
        **other,
    }
    return Program.model_validate(about)


@pytest.mark.parametrize("shape", SHAPES)
def test_buckets_are_even_whatever_ids_look_like(shape: str) -> None:
    """χ² over 20 cells by several seeds, and the overlap of two seeds: neither more nor less even than chance."""
    seeds = [np.array([bucket(f"control|{seed}", name) for name in SHAPES[shape]]) for seed in range(8)]
    cells = np.array([np.bincount(found // (BUCKETS // 20), minlength=20) for found in seeds])
    chi = ((cells - cells.sum() / cells.size) ** 2 / (cells.sum() / cells.size)).sum()
    assert 0.001 < stats.chi2.sf(chi, 8 * 19) < 0.999
    both = sum(int(((a < 1_000) & (b < 1_000)).sum()) for a, b in pairwise(seeds))
    assert 0.001 < stats.binom.cdf(both, 7 * 1_500, 0.01) < 0.999


def test_chance_draws_groups_as_uneven_as_chance_does() -> None:
    """Sizes of 3,000 groups by as many seeds, in units of their own deviation."""
    n, share = 2_000, 0.2
    sizes = np.array([Chance(seed).happens(share, "arm", np.arange(n)).sum() for seed in range(3_000)])
    off = (sizes - n * share) / (n * share * (1 - share)) ** 0.5
    assert 0.001 < stats.chi2.sf((off**2).sum(), len(off)) < 0.999
    assert int((np.abs(off) > 3.29).sum()) <= 10  # 3 are to be expected


def test_another_seed_draws_one_program_anew_and_moves_nobody_elsewhere() -> None:
    rules = Policy(seed=7, control=0.1)
    anew = [program("news", seed=seed) for seed in (7, 8)]
    arms = [[arm_of(rules, one, name) for name in NAMES] for one in (program("news"), *anew, program("back"))]
    assert arms[0] == arms[1] != arms[2]
    assert [arm == "control" for arm in arms[0]] == [arm == "control" for arm in arms[2]]
    moved = sum(a != b for a, b in zip(arms[0], arms[2], strict=True))
    assert (
        0.25 < moved / len(NAMES) < 0.5
    )  # of those of no universal control 2 · 0.3 · 0.7 are to be expected
    halves = {"variants": {"other": {"share": 0.5}}}
    given = [
        [program("news", **more, **halves).variant_of(7, name) for name in NAMES]
        for more in ({}, {"seed": 8})
    ]
    assert given[0] != given[1]


@pytest.mark.parametrize("onto", ["first", "second"])
def test_neither_a_merge_nor_a_replay_moves_anybody(tmp_path: Path, onto: str) -> None:
    """Two ids are decided about a week apart; then they are one customer, by either name."""
    rules, news = Policy(seed=7, control=0.1), program("news")
    pairs = list(zip(NAMES[::2], NAMES[1::2], strict=True))
    rows = [
        {"run_at": START + timedelta(days=day), "customer_id": name, "program": "news", "version": "1",
         "occasion": "1", "outcome": "message", "channel": "email", "message_id": f"m-{name}", "kind": "marketing",
         "send_at": START, "local_day": "2024-03-01", "received_at": START}
        for day, names in ((0, [a for a, _ in pairs]), (7, [b for _, b in pairs])) for name in names
    ]  # fmt: skip
    aliases = {b: a for a, b in pairs} if onto == "first" else dict(pairs)
    with Store(address(tmp_path, None)) as store:
        store.append("decisions", rows)
        own = sorted(set(aliases.values()))
        for run_at in (START, START + timedelta(days=7), START + timedelta(days=8)):  # again, and later
            past = seen(store, own, shown_since=START, run_at=run_at, names=Names(aliases)).past
            now = {a: arm_of(rules, news, past[a if onto == "first" else b].named("")) for a, b in pairs}
            assert now == {a: arm_of(rules, news, a) for a, _ in pairs}
    assert {arm_of(rules, news, a) for a, _ in pairs} == {None, "control", "program"}
