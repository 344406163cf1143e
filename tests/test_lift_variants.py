"""Variants of a program against each other: one that truly earns more, one that does not, and what readers did."""

import json
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compact import put
from test_earned import START, of, program
from test_osclms import Run
from test_osclms import run as run

from features.experiments import is_held_back
from features.history import History
from lifecycle.measure.report import earned
from lifecycle.measure.variants import STANDING
from lifecycle.programs import named
from lifecycle.run import OWN
from serving.store import Store, address

N, DAYS = 1_500, 45
VARIANTS = "variants: {loud: {share: 0.3, texts: {en: {subject: x}}}, same: {share: 0.3, texts: {en: {subject: y}}}}\n"
Doc = dict[str, Any]


@cache
def variant(home: Path, who: str) -> str:
    return news(home / OWN / "news.yaml").variant_of(7, who) or STANDING


news = cache(named)


def decisions(home: Path) -> Iterator[dict[str, Any]]:
    """Everybody is decided about once; the lists of some who were drawn to `loud` were too short."""
    for n in range(N):
        who, day = f"c{n}", n % 5
        held = is_held_back("news|7", who, 0.1)
        drawn = variant(home, who)
        short = drawn == "loud" and n % 10 == 0 and not held
        made = not short
        yield {
            "run_at": START + timedelta(days=day), "customer_id": who, "program": "news", "version": "1",
            "occasion": "1", "outcome": "too_few" if short else "holdout" if held else "message",
            "detail": "program" if held else None, "channel": "email",
            "message_id": f"news-{who}" if made else None, "send_at": START + timedelta(days=day),
            "local_day": "2024-03-01", "kind": "marketing", "content": None, "policy": "priority", "probability": 1.0,
            "variant": None if drawn == STANDING else drawn, "received_at": START,
        }  # fmt: skip


def bought(home: Path) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(4)
    for n in range(N):
        who, size = f"c{n}", float(np.exp(rng.normal(2, 0.6)))
        often = 0.03 * (2.0 if variant(home, who) == "loud" and n % 10 else 1.0)
        for day in range(DAYS):
            if rng.random() < often:
                yield {
                    "event_id": f"{who}-{day}", "customer_id": who, "product_id": "tea", "event_type": "order",
                    "occurred_at": (START + timedelta(days=day, hours=12)).isoformat(), "order_id": f"o-{who}-{day}",
                    "quantity": 1, "unit_price": round(size * float(np.exp(rng.normal(0, 0.3))), 2),
                }  # fmt: skip


def answered(home: Path) -> Iterator[dict[str, Any]]:
    """Opens name the message, clicks the list in it. Loud ones are opened more; a click after the window is none."""
    rng = np.random.default_rng(5)
    for row in decisions(home):
        who, at = row["customer_id"], row["run_at"]
        base = {"channel": "email"}
        if rng.random() < (0.5 if row["variant"] == "loud" else 0.25):
            yield {**base, "event_id": f"open-{who}", "event_type": "open", "message_id": f"news-{who}",
                   "occurred_at": (at + timedelta(hours=5)).isoformat()}  # fmt: skip
        if rng.random() < 0.2:
            after = timedelta(days=40) if row["variant"] == "same" else timedelta(hours=6)
            yield {**base, "event_id": f"click-{who}", "event_type": "click", "recommendation_id": f"list-{who}",
                   "product_id": "tea", "occurred_at": (at + after).isoformat()}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("variants")
    (home / OWN).mkdir()
    (home / OWN / "news.yaml").write_text(program("news", 0.1) + VARIANTS)
    (home / OWN / "policy.yaml").write_text("control: 0\nseed: 7\n")
    history = History(home / "history")
    put(history, "events", *bought(home))
    for kind in ("open", "click"):
        put(history, "events", *(row for row in answered(home) if row["event_type"] == kind))
    put(history, "products", {"product_id": "tea", "cost": 2.0})
    rows = list(decisions(home))
    sends = [
        {"customer_id": row["customer_id"], "at": row["send_at"], "channel": "email", "placement": "next_best",
         "recommendation_id": f"list-{row['customer_id']}", "message_id": row["message_id"], "product_ids": ["tea"],
         "received_at": START}
        for row in rows if row["outcome"] == "message"
    ]  # fmt: skip
    with Store(address(home, None)) as store:
        store.append("decisions", rows)
        store.append("sends", sends)
    return home


@pytest.fixture(scope="module")
def doc(home: Path) -> Doc:
    return earned(home, None, only="news", windows=(28,), by="variant")


def test_the_variant_that_earns_more_is_found_and_its_twin_is_not(home: Path, doc: Doc) -> None:
    assert [found["program"] for found in doc["programs"]] == ["news.loud", "news.same"]
    loud, same = (of(doc, name)["windows"]["28"]["measures"] for name in ("news.loud", "news.same"))
    assert loud["revenue"]["p"] < 0.01 and loud["revenue"]["ci95"][0] > 0 and loud["opened"]["p"] < 0.01
    assert same["revenue"]["p"] > 0.05 and same["opened"]["p"] > 0.05
    assert of(doc, "news.loud")["p_adjusted"] == pytest.approx(2 * loud["revenue"]["p"], rel=0.5)
    assert not any(found["warnings"] for found in doc["programs"])
    assert len(of(doc, "news.loud")["looks"]) > 1
    assert of(doc, "news.loud")["arms"] == ["loud", STANDING]


def test_everybody_drawn_counts_whatever_became_of_it_and_nobody_held_back(home: Path, doc: Doc) -> None:
    drawn = [variant(home, f"c{n}") for n in range(N) if not is_held_back("news|7", f"c{n}", 0.1)]
    loud = of(doc, "news.loud")
    assert (loud["treated"], loud["control"]) == (drawn.count("loud"), drawn.count(STANDING))
    assert loud["ratio"]["expected"] == pytest.approx(
        [(drawn.count("loud") + drawn.count(STANDING)) * part for part in (3 / 7, 4 / 7)]
    )


def test_opens_and_clicks_are_of_the_messages_and_within_the_window(home: Path, doc: Doc) -> None:
    found = of(doc, "news.same")["windows"]["28"]["measures"]["clicked"]
    assert found["treated"]["buyers"] == 0 and "0 who clicked" in found["refused"]
    rows = {row["customer_id"]: row for row in decisions(home)}
    clicks = {
        row["recommendation_id"].removeprefix("list-")
        for row in answered(home)
        if row["event_type"] == "click"
    }
    expected = sum(rows[who]["variant"] is None and rows[who]["outcome"] == "message" for who in clicks)
    assert found["control"]["buyers"] == expected > 50


def test_variants_that_were_drawn_anew_are_told(home: Path, tmp_path: Path) -> None:
    import shutil

    there = Path(shutil.copytree(home, tmp_path / "home"))
    held = [row for row in decisions(home) if row["variant"] is None and row["outcome"] == "message"][:40]
    late = [
        {**row, "run_at": row["run_at"] + timedelta(days=9), "occasion": "2", "variant": "loud",
         "message_id": f"again-{row['customer_id']}"}
        for row in held
    ]  # fmt: skip
    with Store(address(there, None)) as store:
        store.append("decisions", late)
    loud = of(earned(there, None, windows=(28,), by="variant"), "news.loud")
    assert loud["leak"]["reached"] == loud["mixed"] == 40
    assert any("got loud after all" in said for said in loud["warnings"])
    (there / OWN / "news.yaml").write_text(program("news", 0.1))
    nothing = earned(there, None, windows=(28,), by="variant")
    assert not nothing["programs"] and "no program drew variants" in nothing["warnings"][0]


def test_the_command_tells_variants_in_text_json_page_and_run(home: Path, run: Run, tmp_path: Path) -> None:
    asked = ("lift", "--home", home, "--by", "variant", "--program", "news", "--window", 28)
    shown = run(*asked, "--out", tmp_path / "out")
    assert shown.code == 0 and "news.loud" in shown.out and "clicked" in shown.out
    assert f"loud against {STANDING}" in shown.out
    text = (tmp_path / "out" / "lift.html").read_text()
    assert "what variants earned" in text and "Opened" in text and text.count("data:image/svg+xml") >= 3
    told = json.loads((tmp_path / "out" / "lift.json").read_text())
    assert told["by"] == "variant" and told["programs"][0]["windows"]["28"]["measures"]["opened"]["p"] < 0.01
    assert not any(f'"c{n}"' in json.dumps(told) for n in range(N))
