"""Audiences for ads platforms: hashes of who agreed, and of nobody else."""

import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from live import NOW
from posted import consent, program
from test_compact import put

from features.history import History
from lifecycle.uploads import write_audience
from serving.addresses import subject, suppress
from serving.store import Store, address


def test_an_audience_is_of_those_who_agreed(tmp_path: Path) -> None:
    history, names = History(tmp_path / "history"), ("anna", "bert", "carl", "dora", "emil", "finn")
    about = {"event_type": "order", "occurred_at": "2026-03-01T00:00:00Z", "product_id": "tea", "quantity": 1}
    put(history, "events", *({"event_id": f"e{n}", "customer_id": n, "order_id": n, **about} for n in names))
    where = {name: "East" if name == "emil" else "West" for name in names}
    people = ({"customer_id": n, "email": f"{n.title()}@Mail.example", "region": where[n]} for n in names)
    put(history, "customers", *people)
    before: dict[str, Any] = {"at": NOW - timedelta(days=1), "received_at": NOW - timedelta(days=1)}
    with Store(address(tmp_path, None)) as store:
        store.append("consents", [consent(name, **before) for name in names if name != "carl"])
        store.append("consents", [consent("dora", granted=False, at=NOW, received_at=NOW)])
        later: dict[str, Any] = {"at": NOW + timedelta(days=9), "received_at": NOW}
        store.append(
            "consents", [consent("finn", granted=False, **later)]
        )  # after the day that is asked about
        suppress(
            store, {subject(store, "email", "bert@mail.example"): "email"}, "bounce", at=NOW, received_at=NOW
        )
        file, west = tmp_path / "west.txt", program(audience={"region": ["West"]})
        held = program(audience={"region": ["West"]}, holdout=1.0)
        assert write_audience(tmp_path, store, held, file, at=NOW + timedelta(hours=1)) == 0
        past = program(trigger={"kind": "broadcast", "on": "2026-01-01"})
        assert write_audience(tmp_path, store, past, file, at=NOW + timedelta(hours=1)) == 0
        assert write_audience(tmp_path, store, west, file, at=NOW + timedelta(hours=1)) == 1
    assert file.read_text() == hashlib.sha256(b"anna@mail.example").hexdigest() + "\n"
