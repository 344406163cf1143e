"""Keys: made, kept as digests, ended, and found again in any database."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from live import NOW
from typer.testing import CliRunner

import osclms
from serving.keys import PUBLISHABLE, SECRET, Keyring, KeysError, digest, end, make, read
from serving.store import FOREVER, Store
from serving.tokens import Tokens

SHOP = "https://shop.example"
LATER = NOW + timedelta(days=30)


def test_a_key_is_known_by_its_digest_alone(url: sa.URL) -> None:
    with Store(url) as store:
        key = make(store, PUBLISHABLE, at=NOW, origins=["HTTPS://Shop.example/"], about="the shop's pages")
        [row] = [row for page in store.read("keys", 0, FOREVER) for row in page]
        assert key.startswith(f"osclms_pk_{row['key_id']}_") and len(key) > 50
        secret = key.removeprefix(f"osclms_pk_{row['key_id']}_")
        assert row["digest"] == digest(key) and secret not in str(row)
        found = Keyring(store).find(key, at=NOW)
        assert found and (found.kind, found.origins, found.about) == (
            PUBLISHABLE,
            (SHOP,),
            "the shop's pages",
        )
        assert Keyring(store).find(key[:-1], at=NOW) is None


def test_two_keys_are_good_at_once_until_one_ends(url: sa.URL) -> None:
    with Store(url) as store:
        old, new = (make(store, SECRET, at=NOW) for _ in range(2))
        ring = Keyring(store)
        assert ring.find(old, at=LATER) and ring.find(new, at=LATER)
        ended = end(store, old.split("_")[2], at=LATER)
        assert (ended.ends, len(read(store))) == (LATER, 2)
        assert ring.find(old, at=LATER), "as it was when last looked at"
        ring.keys = read(store)
        assert ring.find(old, at=LATER - timedelta(seconds=1))
        assert ring.find(old, at=LATER) is None
        assert [key.key_id for key in ring.good(at=LATER)] == [new.split("_")[2]]


def test_a_key_may_have_its_end_from_the_start(url: sa.URL) -> None:
    with Store(url) as store:
        key = make(store, SECRET, at=NOW, ends=LATER)
        assert Keyring(store).find(key, at=NOW)
        assert Keyring(store).find(key, at=LATER) is None


@pytest.mark.parametrize(
    ("kind", "about", "says"),
    [
        ("public", {}, "there is no kind 'public'; known: publishable, secret"),
        (PUBLISHABLE, {}, "needs the origins"),
        (SECRET, {"origins": [SHOP]}, "a secret one has none"),
        (PUBLISHABLE, {"origins": ["shop.example"]}, "'shop.example' is no origin such as"),
        (PUBLISHABLE, {"origins": [SHOP + "/cart"]}, "is no origin"),
        (PUBLISHABLE, {"origins": ["*"]}, "is no origin"),
        (SECRET, {"ends": NOW}, "is over"),
    ],
)
def test_what_cannot_be_made_says_why(url: sa.URL, kind: str, about: dict[str, object], says: str) -> None:
    with Store(url) as store:
        with pytest.raises(KeysError, match=says):
            make(store, kind, at=NOW, **about)  # type: ignore[arg-type]
        with pytest.raises(KeysError, match="osclms keys list"):
            end(store, "nobody", at=NOW)
        assert read(store) == {}


def test_without_a_database_there_are_no_keys() -> None:
    assert Keyring().find("osclms_sk_1_2", at=NOW) is None


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OSCLMS_HOME", str(tmp_path))
    monkeypatch.delenv("OSCLMS_DATABASE_URL", raising=False)
    made = ran("make", "--kind", PUBLISHABLE, "--origin", SHOP, "--about", "pages")
    [listed] = json.loads(ran("list", "--json"))
    assert (listed["kind"], listed["origins"], listed["about"], listed["ends"]) == (
        PUBLISHABLE,
        [SHOP],
        "pages",
        None,
    )
    assert listed["key_id"] in made and made not in ran("list")
    assert "ends 2099-01-01 00:00 UTC" in ran("end", listed["key_id"], "--at", "2099-01-01")
    monkeypatch.setenv("OSCLMS_SECRET", secret := ran("secret"))
    sealed = ran("token", "anna")
    assert Tokens([secret]).customer(sealed, at=datetime.now(UTC)) == "anna"
    monkeypatch.delenv("OSCLMS_SECRET")
    assert "osclms keys secret" in ran("token", "anna", code=2)


def ran(*words: str, code: int = 0) -> str:
    ended = CliRunner().invoke(osclms.app, ["keys", *words])
    assert ended.exit_code == code, ended.output
    return ended.output.strip()
