"""`nightshift keys` and `nightshift usage`, as a person or a program types them."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from typer.testing import CliRunner

from nightshift.cli import main
from nightshift.errors import NightshiftError
from nightshift.releases.errors import ReleaseError
from nightshift.releases.store import FolderStore
from nightshift.serving.keys import digest
from nightshift.serving.usage import Usage
from tests.conftest import S3


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def nightshift(registry: Path, *arguments: str, **more: str) -> SimpleNamespace:
    """One call in this process, as from the folder beside the registry: status, output, errors."""
    environment = {"NIGHTSHIFT_REGISTRY": str(registry), "NO_COLOR": "1", "COLUMNS": "200", **more}
    with contextlib.chdir(registry.parent), mock.patch.dict(os.environ, environment):
        done = CliRunner().invoke(main.app, arguments)
    if done.exception and not isinstance(done.exception, SystemExit | NightshiftError | ReleaseError):
        raise done.exception
    status = getattr(done.exception, "exit_code", done.exit_code)
    return SimpleNamespace(returncode=status, stdout=done.stdout, stderr=f"{done.stderr}{done.exception or ''}")


def test_a_key_from_its_making_to_its_end(registry: Path):
    made = nightshift(registry, "keys", "create", "alice", "--scope", "predict:m", "--rate", "10/s", "--expires", "90d")
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert secret.startswith("nsk_")
    assert secret not in made.stderr
    told = json.loads(nightshift(registry, "keys", "create", "bob", "--json").stdout)
    assert told["key"].startswith("nsk_")
    assert (told["name"], told["scopes"], told["state"], told["expires"]) == ("bob", ["predict"], "valid", None)
    again = nightshift(registry, "keys", "create", "bob")
    assert (again.returncode, again.stdout) == (3, "")
    assert "bob-2" in again.stderr
    assert nightshift(registry, "keys", "create", "x", "--scope", "all").returncode == 2

    revoked = nightshift(registry, "keys", "revoke", "bob", "--reason", "left the team")
    assert "bob is revoked since" in revoked.stdout
    assert nightshift(registry, "keys", "revoke", "nobody").returncode == 1
    listed = {key["name"]: key for key in json.loads(nightshift(registry, "keys", "list", "--json").stdout)}
    assert {name: key["state"] for name, key in listed.items()} == {"alice": "valid", "bob": "revoked"}
    assert listed["bob"]["revoked"]["reason"] == "left the team"
    acts = json.loads(nightshift(registry, "keys", "audit", "--json").stdout)
    assert [act["act"] for act in acts][-1] == "key bob revoked: left the team"
    for said in (nightshift(registry, "keys", "list"), nightshift(registry, "keys", "audit")):
        assert said.returncode == 0, said.stderr
        assert "alice" in said.stdout
    everything = [nightshift(registry, "keys", verb, "--json").stdout for verb in ("list", "audit")]
    everything += [file.read_text() for file in registry.parent.rglob("*.json")]
    for key in (secret, told["key"]):
        assert not [text for text in everything if key in text]
        assert any(digest(key) in text for text in everything)


def test_without_a_place_for_keys_the_error_names_the_setting(tmp_path: Path):
    for verb in (("keys", "list"), ("usage",)):
        done = nightshift(tmp_path / "none", *verb, NIGHTSHIFT_REGISTRY="")
        assert done.returncode == 2
        assert "NIGHTSHIFT_" in done.stderr
    assert nightshift(tmp_path / "none", "keys", "list", NIGHTSHIFT_REGISTRY="s3://ours").returncode == 2


def test_keys_are_made_in_a_bucket_by_the_identity_that_may(registry: Path, s3: S3):
    name = f"s3://{s3.keys}/{os.urandom(4).hex()}"
    for identity, status in (("keys", 0), ("endpoint", 1)):
        settings = s3.environment(identity) | {"NIGHTSHIFT_KEYS": name}
        done = nightshift(registry, "keys", "create", f"of-{identity}", **settings)
        assert done.returncode == status, done.stderr
    assert "of-keys" in nightshift(registry, "keys", "list", **settings).stdout


@pytest.fixture
def used(registry: Path) -> Path:
    usage = Usage(FolderStore(registry.with_name("registry-served")), "one")
    for key, model, version, items in (("alice", "m", "v1", 4), ("alice", "m", "v2", 1), ("", "n", "v3", 2)):
        usage.count(key, model, version, items, 0.5)
    usage.flush()
    return registry


def test_usage_is_added_up_by_what_is_asked(used: Path):
    rows = json.loads(nightshift(used, "usage", "--json").stdout)["rows"]
    assert rows == [
        {"key": "", "model": "n", "requests": 1, "items": 2, "compute_seconds": 0.5},
        {"key": "alice", "model": "m", "requests": 2, "items": 5, "compute_seconds": 1.0},
    ]
    by_version = nightshift(used, "usage", "--by", "version", "--csv").stdout
    assert [row["version"] for row in csv.DictReader(io.StringIO(by_version))] == ["v1", "v2", "v3"]
    shown = nightshift(used, "usage").stdout
    assert "alice" in shown
    assert "(no key)" in shown
    assert (
        json.loads(nightshift(used, "usage", "--to", "2020-01-01", "--from", "2019-01-01", "--json").stdout)["rows"]
        == []
    )
    assert "nothing was asked" in nightshift(used, "usage", "--to", "2020-01-01", "--from", "2019-01-01").stdout


def test_usage_is_priced_by_a_table(used: Path):
    table = "currency: EUR\nprices:\n  m: {per_1000_requests: 500, per_1000_items: 100}\n"
    file = used.with_name("ours.yaml")
    file.write_text(table)
    rows = json.loads(nightshift(used, "usage", "--by", "key", "--prices", str(file), "--json").stdout)["rows"]
    assert [(row["key"], row["cost"], row["currency"]) for row in rows] == [("", 0.0, "EUR"), ("alice", 1.5, "EUR")]
    assert "cost" not in nightshift(used, "usage", "--json").stdout
    used.with_name("prices.yaml").write_text(table.replace("500", "1000"))
    priced = list(csv.DictReader(io.StringIO(nightshift(used, "usage", "--by", "model", "--csv").stdout)))
    assert [(row["model"], float(row["cost"])) for row in priced] == [("m", 2.5), ("n", 0.0)]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--json", "--csv"), 2, "two answers"),
        (("--from", "yesterday"), 2, "2027-01-31"),
        (("--prices", "none.yaml"), 2, "there is no file none.yaml"),
        (("--prices", "bad.yaml"), 1, "is no table of prices"),
    ],
)
def test_wrong_use_of_usage_is_told(used: Path, arguments, status, said):
    used.with_name("bad.yaml").write_text("{currency: EUR, prices: {m: {per_request: 1}}}\n")
    done = nightshift(used, "usage", *arguments)
    assert done.returncode == status
    assert said in done.stderr
