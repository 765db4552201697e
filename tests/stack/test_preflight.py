"""The look around before installation: what stops, what is only worth knowing, and the command that helps."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nightshift import preflight

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def listening():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_an_old_python_is_named_with_the_command_that_brings_a_new_one(no_tools: None) -> None:
    found = preflight.check_python((3, 9, 2))
    assert found.ok is False
    assert "Python 3.9.2" in found.words
    assert "older than 3.11" in found.words
    assert found.next_step == "sudo apt-get install -y python3.11, then: make night PYTHON=python3.11"


def test_the_file_has_no_syntax_or_import_that_an_old_python_lacks() -> None:
    source = (ROOT / "nightshift" / "preflight.py").read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)} | {
        node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    assert imported <= set(sys.stdlib_module_names)


def test_missing_git_stops_and_missing_npm_does_not(no_tools: None) -> None:
    git, npm = preflight.check_tool("git"), preflight.check_npm()
    assert (git.ok, git.next_step) == (False, "sudo apt-get install -y git")
    assert npm.ok is None
    assert "official archives instead" in npm.words
    assert npm.next_step == "sudo apt-get install -y npm"


def test_a_taken_port_stops_and_names_the_variable_that_moves_it(tmp_path: Path, listening: int) -> None:
    found = preflight.check_port(tmp_path, "S3", {"NIGHTSHIFT_S3_PORT": str(listening)})
    assert found.ok is False
    assert f"{listening}, meant for S3, is taken" in found.words
    assert found.next_step == "stop it, or choose another: NIGHTSHIFT_S3_PORT=<port> make night"


@pytest.mark.parametrize(("name", "key", "process"), [("S3", "s3", "s3"), ("gRPC", "grpc", "endpoint")])
def test_a_port_that_this_checkouts_own_stack_holds_is_well(
    tmp_path: Path, listening: int, name: str, key: str, process: str
) -> None:
    (tmp_path / ".nightshift" / "run").mkdir(parents=True)
    (tmp_path / ".nightshift" / "ports.json").write_text(json.dumps({key: listening}))
    assert preflight.check_port(tmp_path, name, {}).ok is False
    (tmp_path / ".nightshift" / "run" / f"{process}.json").write_text(json.dumps({"pid": os.getpid()}))
    assert preflight.check_port(tmp_path, name, {}).ok is True


def test_a_full_disk_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "NIGHT_GB", 10**9)
    found = preflight.check_disk(tmp_path)
    assert found.ok is False
    assert str(tmp_path) in found.words


def test_windows_is_told_of_wsl() -> None:
    assert preflight.check_system("win32").next_step == "use WSL 2 and clone inside it"


def test_it_runs_by_itself_and_says_what_will_happen(tmp_path: Path) -> None:
    (tmp_path / "nightshift").mkdir()
    script = tmp_path / "nightshift" / "preflight.py"
    script.write_text((ROOT / "nightshift" / "preflight.py").read_text())
    shown = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=False).stdout
    assert f"installs the locked packages into {tmp_path}/.venv: about " in shown
    assert "GB" in shown
    assert "minutes" in shown
    assert "8333 for S3 (NIGHTSHIFT_S3_PORT changes it)" in shown or "8333, meant for S3, is taken" in shown


def test_quiet_says_nothing_when_nothing_stops_an_installation() -> None:
    script = str(ROOT / "nightshift" / "preflight.py")
    done = subprocess.run([sys.executable, "-I", script, "--quiet"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
