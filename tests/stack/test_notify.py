"""Whom the nights are told to: kept for the owner alone, given to the one process that tells."""

from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import airflow, notify
from nightshift.stack.settings import Stack

URL = "mailto://127.0.0.1/?to=team@example.org"


def test_what_is_given_once_is_kept_for_the_owner_alone_until_it_is_switched_off(tmp_path: Path):
    notify.keep(tmp_path, {"NIGHTSHIFT_NOTIFY_URL": URL, "PATH": "/bin"})
    assert (tmp_path / "notify.json").stat().st_mode & 0o777 == 0o600
    notify.keep(tmp_path, {"NIGHTSHIFT_HEARTBEAT_URL": "http://127.0.0.1/beat"})
    assert notify.environment(tmp_path) == {
        "NIGHTSHIFT_NOTIFY_URL": URL,
        "NIGHTSHIFT_HEARTBEAT_URL": "http://127.0.0.1/beat",
    }
    notify.keep(tmp_path, {"NIGHTSHIFT_NOTIFY_URL": ""})
    assert "NIGHTSHIFT_NOTIFY_URL" not in notify.environment(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"NIGHTSHIFT_NOTIFY": "x"}', '{"NIGHTSHIFT_NOTIFY_URL": 1}'])
def test_a_file_that_is_not_understood_is_named(tmp_path: Path, text: str):
    (tmp_path / "notify.json").write_text(text)
    with pytest.raises(NightshiftError, match=r"notify\.json is not what it should be"):
        notify.environment(tmp_path)


def test_only_the_process_whose_tasks_tell_is_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nightshift.stack.repository.branch", lambda root: "main")
    stack = Stack.load(tmp_path, {})
    notify.keep(stack.home, {"NIGHTSHIFT_NOTIFY_URL": URL})
    told = {name for name in airflow.PROCESSES if URL in airflow.environment(stack, name).values()}
    assert told == {airflow.SCHEDULER}
