"""`make env`: random, complete, private, and never changed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import compose, team

ROOT = Path(__file__).resolve().parents[2]


def contents(root: Path) -> dict[str, str]:
    return {str(file.relative_to(root)): file.read_text() for file in compose.write(root, {})}


def test_all_is_there_and_only_its_owner_can_read_it(tmp_path: Path):
    before = os.umask(0)
    try:
        files = compose.write(tmp_path, {})
    finally:
        os.umask(before)
    assert {file.name for file in files} == {".env", "secrets.json", *(f"{name}.env" for name in team.SERVICES)}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / ".nightshift/team").stat().st_mode) == 0o700


def test_two_teams_have_no_secret_in_common_and_one_keeps_its_own(tmp_path: Path):
    mine, yours = tmp_path / "mine", tmp_path / "yours"
    mine.mkdir()
    yours.mkdir()
    made = contents(mine)
    assert contents(mine) == made
    passwords = [line for line in made[".nightshift/team/postgres.env"].splitlines() if "PASSWORD" in line]
    assert len(passwords) == 3
    assert not set(passwords) & set(contents(yours)[".nightshift/team/postgres.env"].splitlines())


def test_what_a_team_chose_is_kept_and_reaches_the_services(tmp_path: Path):
    contents(tmp_path)
    env = tmp_path / ".env"
    text = env.read_text().replace("http://localhost:8080", "https://airflow.example.org")
    text = text.replace("NIGHTSHIFT_HEARTBEAT_URL=", "NIGHTSHIFT_HEARTBEAT_URL=https://hc.example.org/1?a=b&c=$d")
    env.write_text(text + "SOMETHING_ELSE='kept'\n")
    made = contents(tmp_path)
    assert "AIRFLOW__API__BASE_URL='https://airflow.example.org'" in made[".nightshift/team/api-server.env"]
    assert "NIGHTSHIFT_HEARTBEAT_URL='https://hc.example.org/1?a=b&c=$d'" in made[".nightshift/team/events-worker.env"]
    assert made[".env"].endswith("SOMETHING_ELSE='kept'\n")


def test_a_later_version_adds_the_secrets_that_it_wants_and_changes_none(tmp_path: Path, monkeypatch):
    file = tmp_path / ".nightshift/team/secrets.json"
    before = contents(tmp_path)[".nightshift/team/secrets.json"]
    later = team.new_secrets()
    later["airflow"]["one_more"] = "new"
    monkeypatch.setattr(team, "new_secrets", lambda: later)
    compose.write(tmp_path, {})
    assert file.read_text().replace(',\n  "one_more": "new"', "") == before


def test_an_env_file_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / ".env").write_text("THEIRS=1\n")
    with pytest.raises(NightshiftError, match="not the one that `make env` makes") as raised:
        compose.write(tmp_path, {})
    assert "add the line NIGHTSHIFT_TEAM=" in raised.value.next_step
    assert (tmp_path / ".env").read_text() == "THEIRS=1\n"


def test_secrets_that_cannot_be_read_are_not_made_anew(tmp_path: Path):
    file = compose.write(tmp_path, {})[1]
    file.write_text("{")
    with pytest.raises(NightshiftError, match="is not readable JSON"):
        compose.write(tmp_path, {})
    assert file.read_text() == "{"


def test_it_needs_nothing_that_is_installed(tmp_path: Path):
    command = [sys.executable, "-S", "-m", "nightshift.stack.compose"]  # -S: without site-packages
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".env").exists()
