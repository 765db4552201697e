"""`doctor`: the installed side, its exit status, and the toolchain that it writes."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightshift.cli import doctor, main
from nightshift.stack import toolchain
from nightshift.stack.repository import git
from nightshift.stack.settings import Stack

PARAMS = f"""\
# A comment that stays.
schedule: {{cron: "0 3 * * *", timezone: UTC}}
toolchain:
  threads: 1
  accelerator: cpu
  numpy: 0.0.1   # an old one
  pyarrow: {version("pyarrow").partition("+")[0]}

datasets:
  numpy: 0.0.1
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text(PARAMS)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "begin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_another_version_than_params_yaml_names_stops_a_night_with_both_versions(checkout: Path) -> None:
    found = doctor.check_toolchain(checkout)
    assert found.ok is False
    assert found.words == f"numpy {version('numpy')} (params.yaml: 0.0.1)"
    assert "nightshift doctor --toolchain" in found.next_step


def test_what_stops_a_night_makes_the_exit_status_one_and_json_says_which(checkout: Path) -> None:
    result = CliRunner().invoke(main.app, ["doctor", "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["ok"] is False
    assert {f["name"] for f in told["findings"] if f["ok"] is False} >= {"toolchain", "params"}


def test_writing_the_toolchain_changes_its_lines_only_and_keeps_comments(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "accelerator", lambda: "gpu")
    changed = toolchain.write(checkout)
    assert changed == ["accelerator: cpu → gpu", f"numpy: 0.0.1 → {version('numpy')}"]
    expected = PARAMS.replace("accelerator: cpu", "accelerator: gpu").replace(
        "numpy: 0.0.1   #", f"numpy: {version('numpy')}   #"
    )
    assert (checkout / "params.yaml").read_text() == expected
    assert toolchain.differences(checkout) == {}


def test_a_version_that_yaml_would_read_as_a_number_is_quoted(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "accelerator", lambda: "cpu")
    monkeypatch.setattr(toolchain, "installed", lambda name: "1.10")
    toolchain.write(checkout)
    assert toolchain.wanted(checkout)["numpy"] == "1.10"


def test_edits_that_a_night_would_not_see_are_named(checkout: Path) -> None:
    git(checkout, "add", "params.yaml")
    found = doctor.check_repository(checkout)
    assert found.ok is None
    assert "params.yaml" in found.words


def test_a_detached_head_stops(checkout: Path) -> None:
    git(checkout, "checkout", "--quiet", "--detach")
    found = doctor.check_repository(checkout)
    assert found.ok is False
    assert found.next_step == "git switch main"


def test_a_stack_that_does_not_run_is_a_note(checkout: Path) -> None:
    assert doctor.check_s3(checkout).ok is None
    Stack.load(checkout, {})
    assert doctor.check_s3(checkout).next_step == "nightshift up"


def test_the_checkout_itself_has_nothing_that_its_params_refuse() -> None:
    root = Path(__file__).parents[2]
    assert doctor.check_params(root).ok is True
