"""A checkout's signing key and trusted keys: who of its stack is told them, and what is refused."""

import subprocess
from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.releases.signing import SigningKey, Trust, own_key
from nightshift.stack import airflow, compose, signing
from nightshift.stack.private import write_private
from nightshift.stack.settings import Stack

NAMES = ("NIGHTSHIFT_SIGNING_KEY", "NIGHTSHIFT_TRUSTED_KEYS")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    key = SigningKey.new()
    (tmp_path / ".nightshift").mkdir()
    write_private(tmp_path / signing.KEY, f"{key.secret}\n")
    return key


def scheduler(stack: Stack) -> dict[str, str]:
    """What the process is told whose tasks deploy."""
    subprocess.run(["git", "init", "--quiet", "--initial-branch", "main", stack.root], check=True)
    return airflow.environment(stack, airflow.SCHEDULER)


def test_whoever_deploys_has_the_key_and_the_endpoint_knows_whom_to_trust(tmp_path: Path, key: SigningKey) -> None:
    others = SigningKey.new().public
    (tmp_path / signing.TRUSTED).write_text(f"# ours\n{key.public} kim, 2026\n\n  {others}  # the old one\n")
    stack = Stack.load(tmp_path, {})
    told = {who: stack.environment(who) for who in ("worker", "deployer", "endpoint", "keys", "reader", "admin")}
    assert own_key(told["deployer"]) == key
    assert Trust(told["endpoint"]["NIGHTSHIFT_TRUSTED_KEYS"]).read() == [key.public, others]
    assert {who for who, variables in told.items() if "NIGHTSHIFT_SIGNING_KEY" in variables} == {"deployer"}
    assert {who for who, variables in told.items() if "NIGHTSHIFT_TRUSTED_KEYS" in variables} == {"endpoint"}
    assert own_key(scheduler(stack)) == key
    assert own_key(airflow.environment(stack, airflow.DAG_PROCESSOR)) is None


def test_with_neither_nobody_is_told_anything(tmp_path: Path) -> None:
    stack = Stack.load(tmp_path, {})
    told = [stack.environment("deployer"), stack.environment("endpoint"), scheduler(stack)]
    assert not [name for variables in told for name in NAMES if name in variables]


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / signing.KEY).chmod(0o640)
    with pytest.raises(NightshiftError, match="can be read by others") as raised:
        Stack.load(tmp_path, {}).environment("deployer")
    assert key.secret not in str(raised.value)
    with pytest.raises(NightshiftError, match="can be read by others"):
        compose.write(tmp_path, {})


@pytest.mark.parametrize("text", ["", "# nobody yet\n"])
def test_a_file_without_a_key_is_not_the_absence_of_one(tmp_path: Path, text: str) -> None:
    (tmp_path / signing.TRUSTED).write_text(text)
    with pytest.raises(NightshiftError, match="names no key"):
        Stack.load(tmp_path, {}).environment("endpoint")
    with pytest.raises(NightshiftError, match="names no key"):
        compose.write(tmp_path, {})


def test_a_teams_services_are_told(tmp_path: Path, key: SigningKey) -> None:
    (tmp_path / signing.TRUSTED).write_text(f"{key.public} the team\n")
    made = {file.name: file.read_text() for file in compose.write(tmp_path, {})}
    assert {name for name, text in made.items() if key.secret in text} == {"init.env", "events-worker.env"}
    assert f"NIGHTSHIFT_TRUSTED_KEYS='{key.public}'" in made["endpoint.env"]
