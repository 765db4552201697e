"""API keys in a real bucket and in a folder: made once, kept as digests, never forgotten by who has read them."""

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightshift.releases.errors import ReleaseUnknown, StoreDenied
from nightshift.releases.store import FolderStore, open_store
from nightshift.serving.keyring import Keyring
from nightshift.serving.keys import Key, Keys, NameTaken, WrongUse, digest, expiry, per_period, per_second
from nightshift.serving.places import place
from tests.conftest import S3

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(FolderStore(tmp_path / "keys"))


def ring_of(keys: Keys, remembered: Path) -> Keyring:
    ring = Keyring(keys.store, remembered)
    ring.step()
    return ring


def test_a_key_is_random_and_only_its_digest_is_kept(keys: Keys, tmp_path: Path):
    (first, known), (second, _) = keys.create("a", by="me"), keys.create("b", by="me")
    assert first != second
    assert first.startswith("nsk_")
    assert len(first) >= 4 + 43  # 32 bytes in base64
    assert known.digest == digest(first)
    ring_of(keys, tmp_path / "remembered.json")
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) == 3
    assert not [data for data in written if first[4:].encode() in data]


@pytest.mark.parametrize(
    ("scopes", "opens", "not_"),
    [
        (("predict",), {"predict", "predict:m", "predict:n"}, {"metrics", "admin"}),
        (("predict:m",), {"predict", "predict:m"}, {"predict:n", "predict:m2", "metrics", "admin"}),
        (("metrics",), {"metrics"}, {"predict", "predict:m", "admin"}),
        (("admin", "metrics"), {"admin", "metrics"}, {"predict", "predict:m"}),
    ],
)
def test_a_scope_opens_what_it_says_and_no_more(keys: Keys, scopes, opens, not_):
    _, key = keys.create("k", by="me", scopes=scopes)
    assert {scope for scope in opens | not_ if key.may(scope)} == opens


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../up"},
        {"name": ""},
        {"name": "stack"},
        {"name": "a b"},
        {"scopes": ("all",)},
        {"scopes": ("predict:",)},
        {"scopes": ("predict:a/b",)},
        {"rate": "10"},
        {"rate": "0/s"},
        {"rate": "10/h"},
        {"quota": "10/s"},
        {"quota": "-1/day"},
        {"expires": "soon"},
        {"expires": "2020-01-01"},
        {"expires": "0d"},
        {"expires": "9999-12-31T23:59-10:00"},
        {"rate": ""},
        {"quota": ""},
        {"expires": ""},
    ],
)
def test_bad_input_makes_no_key_and_names_what_would_be_good(keys: Keys, wrong):
    with pytest.raises(WrongUse) as caught:
        keys.create(**{"name": "k", "by": "me", **wrong})
    assert caught.value.next_step
    assert caught.value.exit_code == 2
    assert keys.read() == ({}, {})


def test_a_name_is_given_once_also_after_it_was_revoked(keys: Keys):
    _, first = keys.create("a", by="me")
    keys.revoke("a", by="me", reason="left")
    with pytest.raises(NameTaken, match="a name is given once"):
        keys.create("a", by="me")
    assert keys.read()[0] == {"a": first}


def test_revoking_again_keeps_the_first_reason_and_an_unknown_name_is_told(keys: Keys):
    keys.create("a", by="me")
    first = keys.revoke("a", by="me", reason="left")
    assert keys.revoke("a", by="you", reason="again") == first
    with pytest.raises(ReleaseUnknown, match="no key 'b'") as caught:
        keys.revoke("b", by="me", reason="r")
    assert "a" in caught.value.next_step


def test_rates_quotas_and_expiries_are_read_as_they_are_written():
    assert per_second("10/s") == (10.0, 10)
    assert per_second("30/m") == (0.5, 30)
    assert per_period("20000/month") == (20000, "month")
    assert expiry("90d", NOW) == NOW + timedelta(days=90)
    assert expiry("2026-12-31", NOW) == datetime(2026, 12, 31, tzinfo=UTC)
    assert str(expiry("2026-12-31T18:00+02:00", NOW)) == "2026-12-31 16:00:00+00:00", "and is told in UTC"


def test_an_endpoint_learns_of_new_and_of_revoked_keys(keys: Keys, tmp_path: Path):
    ring = ring_of(keys, tmp_path / "remembered.json")
    assert not ring.required
    secret, key = keys.create("a", by="me")
    assert ring.find(secret) is None
    ring.step()
    assert ring.required
    assert ring.find(secret) == (key, None)
    revoked = keys.revoke("a", by="me", reason="left")
    ring.step()
    assert ring.find(secret) == (key, revoked)


def test_what_was_known_goes_on_when_the_store_is_emptied_and_after_a_restart_without_it(keys: Keys, tmp_path: Path):
    secret, key = keys.create("a", by="me")
    remembered = tmp_path / "remembered.json"
    ring = ring_of(keys, remembered)
    for file in (tmp_path / "keys").rglob("*.json"):
        file.unlink()
    ring.step()
    assert ring.find(secret) == (key, None)
    assert ring.required, "an empty store must not open the endpoint"

    blocked = Keyring(FolderStore(tmp_path / "keys"), remembered)
    assert blocked.read_once, "the local file is enough"
    assert blocked.find(secret) == (key, None)
    elsewhere = Keyring(FolderStore(tmp_path / "others"), remembered)
    assert not elsewhere.read_once, "of another store it says nothing"
    assert elsewhere.find(secret) is None


def test_a_store_that_cannot_be_read_is_told_once_and_closes_nothing_that_is_known(keys: Keys, tmp_path: Path, caplog):
    secret, key = keys.create("a", by="me")
    ring = ring_of(keys, tmp_path / "remembered.json")
    (tmp_path / "keys").rename(tmp_path / "away")
    (tmp_path / "keys").write_text("no folder")
    with caplog.at_level(logging.INFO):
        ring.step()
        ring.step()
    assert ring.problem
    assert ring.find(secret) == (key, None)
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 1
    fresh = Keyring(keys.store, tmp_path / "none.json")
    fresh.step()
    assert not fresh.read_once, "nobody is let in before it is known who may"
    (tmp_path / "keys").unlink()
    (tmp_path / "away").rename(tmp_path / "keys")
    ring.step()
    assert ring.problem is None


def test_a_bad_object_is_passed_over_but_a_bad_revocation_still_revokes(keys: Keys, tmp_path: Path, caplog):
    secret, _ = keys.create("a", by="me")
    keys.store.put("keys/bad.json", b"{")
    keys.store.put("keys/newer.json", json.dumps({"format": 99}).encode())
    keys.store.put("revoked/a.json", b"not JSON")
    ring = ring_of(keys, tmp_path / "remembered.json")
    ring.step()
    assert [key.name for key in ring.known()] == ["a"]
    found = ring.find(secret)
    assert found is not None
    assert found[1] is not None
    assert len([record for record in caplog.records if "bad.json" in record.message]) == 1


@pytest.mark.parametrize("bad", [b"{", json.dumps({"format": 99}).encode()], ids=["broken", "newer"])
def test_an_only_key_that_cannot_be_read_still_closes_the_endpoint_also_after_a_restart(keys: Keys, tmp_path, bad):
    keys.store.put("keys/a.json", bad)
    remembered = tmp_path / "remembered.json"
    assert ring_of(keys, remembered).required
    again = Keyring(keys.store, remembered)
    assert again.read_once
    assert again.required


def test_a_key_of_the_environment_is_known_and_requires_nothing_of_others(tmp_path: Path):
    own = Key(name="stack", digest=digest("x"), scopes=("admin",), made=NOW, made_by="environment")
    ring = Keyring(None, tmp_path / "remembered.json", [own])
    assert ring.read_once
    assert not ring.required
    assert ring.find("x") == (own, None)


def test_only_who_gives_keys_to_others_may_write_them(s3: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    name = f"s3-{tmp_path.name}"

    def become(identity: str) -> Keys:
        for variable, value in s3.environment(identity).items():
            monkeypatch.setenv(variable, value)
        return Keys(open_store(f"s3://{s3.keys}/{name}"))

    secret, key = become("keys").create("a", by="me", rate="10/s")
    endpoint = become("endpoint")
    ring = ring_of(endpoint, tmp_path / "remembered.json")
    assert ring.find(secret) == (key, None)
    with pytest.raises(StoreDenied):
        endpoint.create("b", by="me")
    with pytest.raises(StoreDenied):
        endpoint.revoke("a", by="me", reason="r")
    with pytest.raises(StoreDenied):
        become("deployer").read()


def test_keys_are_beside_a_folder_and_where_the_settings_say(monkeypatch: pytest.MonkeyPatch):
    assert place("keys", "/srv/registry/") == "/srv/registry-keys"
    assert place("served", "s3://ours") is None
    monkeypatch.setenv("NIGHTSHIFT_SERVED", "s3://served")
    assert place("served", "s3://ours") == "s3://served"
    assert place("served", "/srv/registry") == "s3://served"
