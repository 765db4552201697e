"""`up`, `down`, `status`, `schedule`, `reset` where no Airflow is needed: messages, switches, what is left alone."""

from __future__ import annotations

import configparser
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nightshift.cli import main
from nightshift.errors import NightshiftError
from nightshift.stack import lifecycle
from nightshift.stack.repository import git
from nightshift.stack.schedule import schedule_of
from nightshift.stack.settings import Stack

PARAMS = "schedule:\n  cron: 0 3 * * *\n  timezone: Europe/Zurich\n"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "checkout"
    (root / ".dvc").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text(PARAMS)
    git(root, "init", "--quiet", "--initial-branch=main")
    monkeypatch.chdir(root)
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, list(arguments))


def test_status_before_the_first_up_makes_nothing_and_says_what_to_type(checkout: Path) -> None:
    assert "no stack yet (nightshift up)" in run("status").stdout
    assert json.loads(run("status", "--json").stdout)["services"] == {}
    assert not (checkout / ".nightshift").exists()


def test_status_of_a_stopped_stack_names_urls_and_that_nothing_runs(checkout: Path) -> None:
    Stack.load(checkout, {})
    told = json.loads(run("status", "--json").stdout)
    assert {name: service["healthy"] for name, service in told["services"].items()} == {
        "s3": False,
        "airflow": False,
        "endpoint": False,
    }
    assert told["services"]["s3"]["url"] == "http://127.0.0.1:8333"
    assert "password" not in run("status", "--json").stdout


def test_up_on_a_taken_port_starts_nothing_and_names_holder_and_variable(checkout: Path, monkeypatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setenv("NIGHTSHIFT_S3_PORT", str(port))
        with pytest.raises(NightshiftError) as caught:
            lifecycle.up(checkout, print)
    assert f"Port {port}, meant for the S3 server, is taken by process {os.getpid()}" in caught.value.message
    assert "NIGHTSHIFT_S3_PORT=<port>" in caught.value.next_step
    assert Stack.load(checkout).processes.names() == []


def test_two_ups_at_once_are_refused(checkout: Path) -> None:
    with lifecycle._alone(checkout), pytest.raises(NightshiftError, match="Another `nightshift up`"):
        lifecycle.up(checkout, print)


def test_down_stops_what_runs_here_and_says_so_and_the_second_time_that_nothing_ran(checkout: Path) -> None:
    processes = Stack.load(checkout, {}).processes
    processes.start("s3", ["sleep", "600"], {"PATH": os.environ["PATH"]}, checkout)
    assert run("down").stdout == "stopped: the S3 server\n"
    assert processes.running("s3") is None
    assert run("down").stdout == "Nothing of this checkout was running.\n"


def test_dvc_gets_endpoint_keys_and_the_shared_cache_and_a_persons_settings_stay(checkout: Path) -> None:
    path = checkout / ".dvc" / "config.local"
    path.write_text("['remote \"theirs\"']\n    url = s3://theirs\n[cache]\n    dir = /elsewhere\n")
    stack = Stack.load(checkout, {})
    lifecycle.configure_dvc(stack)
    config = configparser.RawConfigParser()
    config.read_string(path.read_text())
    assert config["'remote \"theirs\"'"]["url"] == "s3://theirs"
    store = config["'remote \"store\"'"]
    assert store["endpointurl"] == stack.s3_url
    assert store["access_key_id"] == stack.environment("worker")["AWS_ACCESS_KEY_ID"]
    assert (path.parent / config["cache"]["dir"]).resolve() == stack.home / "cache"
    assert config["cache"]["type"] == "reflink,copy"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_schedule_is_off_until_a_person_turns_it_on(checkout: Path) -> None:
    assert schedule_of(checkout)["on"] is False
    assert schedule_of(checkout)["next"] is None
    shown = run("schedule", "on").stdout
    assert "on: the next night is " in shown
    assert json.loads((checkout / ".nightshift" / "schedule.json").read_text()) == {"on": True}
    assert "off" in run("schedule", "off").stdout
    assert json.loads((checkout / ".nightshift" / "schedule.json").read_text()) == {"on": False}


def test_the_next_night_is_in_the_time_zone_of_params(checkout: Path) -> None:
    run("schedule", "on")
    found = schedule_of(checkout, datetime(2026, 7, 1, 0, 30, tzinfo=UTC).astimezone())
    assert datetime.fromisoformat(found["next"]) == datetime(2026, 7, 1, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("was", "becomes", "named"),
    [("0 3 * * *", "at three", "schedule.cron 'at three'"), ("Europe/Zurich", "Mars", "schedule.timezone 'Mars'")],
)
def test_a_schedule_that_nobody_can_read_is_named_and_not_turned_on(
    checkout: Path, was: str, becomes: str, named: str
) -> None:
    (checkout / "params.yaml").write_text(PARAMS.replace(was, becomes))
    result = run("schedule", "on")
    assert isinstance(result.exception, NightshiftError)
    assert named in result.exception.message
    assert schedule_of(checkout)["on"] is False


def test_reset_says_how_much_first_and_removes_only_what_was_made(checkout: Path) -> None:
    Stack.load(checkout, {})
    (checkout / ".nightshift" / "big").write_bytes(b"x" * 3_000_000)
    (checkout / "data").mkdir()
    (checkout / "notes.txt").write_text("mine")
    assert f"MB  {checkout}/.nightshift" in run("reset", "--dry-run").stdout
    assert (checkout / ".nightshift" / "big").exists()
    refused = run("reset")
    assert isinstance(refused.exception, NightshiftError)
    assert refused.exception.next_step == "nightshift reset --yes"
    assert "removed 3.0 MB" in run("reset", "--yes").stdout
    assert sorted(path.name for path in checkout.iterdir()) == [".dvc", ".git", "dvc.yaml", "notes.txt", "params.yaml"]
