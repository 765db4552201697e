"""`nightshift graph` in any folder with a dvc.yaml: with Git or without, before `dvc init` too."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.errors import NightshiftError

GOOD = """
stages:
  fit:
    foreach: [a, b]
    do:
      cmd: fit ${item}
      deps: [rows]
      outs: ["model-${item}"]
      meta: {airflow: {queue: gpu}}
  pick: {cmd: pick, deps: [model-a, model-b], outs: [best]}
"""
BAD = "  keep: {cmd: keep, outs: [{log: {cache: false}}]}\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(GOOD)
    (tmp_path / "rows.dvc").write_text(f"outs:\n- {{md5: {'a' * 32}, hash: md5, path: rows}}\n")
    return tmp_path


def test_every_stage_is_told_with_edges_and_hints(project: Path) -> None:
    ran = CliRunner().invoke(app, ["graph", str(project), "--json"])
    assert ran.exit_code == 0
    told = {one["stage"]: one for one in json.loads(ran.stdout)}
    assert {name: one["upstream"] for name, one in told.items()} == {
        "fit@a": ["rows.dvc"],
        "fit@b": ["rows.dvc"],
        "pick": ["fit@a", "fit@b"],
    }
    assert told["fit@a"]["hints"] == {"queue": "gpu"}
    assert (told["fit@a"]["file"], told["fit@a"]["line"]) == ("dvc.yaml", 3)
    assert not any("refused" in one for one in told.values())
    assert sorted(file.name for file in project.iterdir()) == ["dvc.yaml", "rows.dvc"]  # it leaves nothing behind


def test_what_cannot_be_run_is_told_and_ends_in_1(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "dvc.yaml").write_text(GOOD + BAD)
    monkeypatch.chdir(project)
    ran = CliRunner().invoke(app, ["graph"])
    assert ran.exit_code == 1
    words = " ".join(ran.stdout.split())
    assert "fit@a after rows.dvc queue gpu" in words
    assert "dvc.yaml:11: stage 'keep' has the output log with `cache: false`" in words
    assert "next: remove `cache: false` there" in words
    ran = CliRunner().invoke(app, ["graph", "--json"])
    assert ran.exit_code == 1
    assert "cache: false" in next(one for one in json.loads(ran.stdout) if one["stage"] == "keep")["refused"]


def test_a_folder_without_dvc_yaml_is_wrong_use(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["graph", str(tmp_path)])
    assert isinstance(ran.exception, NightshiftError)
    assert ran.exception.exit_code == 2
