"""The command itself: help, version, errors, exit codes; as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nightshift.cli import main
from nightshift.errors import NightshiftError, Refused

HEAVY = ("torch", "dvc", "airflow", "boto3", "pandas", "great_expectations", "psutil", "httpx")


def nightshift(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "nightshift.cli.main", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_help_lists_every_verb_with_a_line() -> None:
    shown = nightshift("--help", COLUMNS="120").stdout
    for verbs in main.VERBS.values():
        for verb, line in verbs.items():
            assert f" {verb} " in shown
            assert line in shown


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
sys.argv = ["nightshift", "--help"]
from nightshift.cli import main
try:
    main.run()
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", [verb for verbs in main.VERBS.values() for verb in verbs])
def test_every_verb_has_a_file_and_a_help_of_its_own(verb: str) -> None:
    result = CliRunner().invoke(main.app, [verb, "--help"])
    assert result.exit_code == 0, result.output
    assert verb in result.output


def test_version_is_the_installed_one() -> None:
    done = nightshift("--version")
    assert done.stdout.startswith("nightshift 0.")
    assert done.returncode == 0


def test_an_unknown_verb_is_wrong_use_and_the_nearest_is_named() -> None:
    done = nightshift("statsu")
    assert done.returncode == 2
    assert "Did you mean 'status'" in done.stderr


def test_an_error_is_its_sentence_and_the_next_step_without_a_traceback(tmp_path: Path) -> None:
    done = nightshift("status", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"nightshift: {tmp_path} is not inside a Nightshift checkout (no dvc.yaml above it)",
        "  next: cd into the checkout",
    ]


@pytest.mark.parametrize("arguments", [["status"], ["status", "--help"]])
def test_what_is_not_installed_is_named_with_what_installs_it(arguments: list[str]) -> None:
    code = f"""
import sys
sys.modules["psutil"] = None  # as where only the endpoint's extra is installed
sys.argv = ["nightshift", *{arguments!r}]
from nightshift.cli import main
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nightshift: status needs psutil, which is not installed" in done.stderr
    assert "make install" in done.stderr


def test_a_signing_key_is_made_where_only_the_endpoint_is_installed(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["psutil"] = None
sys.argv = ["nightshift", "signing-key", "create", "--file", "own.key"]
from nightshift.cli import main
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nsp_")


def test_a_module_of_our_own_that_is_missing_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nightshift.cli.down", None)
    with pytest.raises(ModuleNotFoundError):
        main.load("down")


@pytest.mark.parametrize(
    ("error", "code"), [(NightshiftError("no"), 1), (Refused("held"), 3), (NightshiftError("no", exit_code=2), 2)]
)
def test_an_errors_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == code


def test_no_color_switches_colours_off(tmp_path: Path) -> None:
    assert "\x1b[" in nightshift("status", cwd=tmp_path, FORCE_COLOR="1", TERM="xterm").stderr
    # Bold is no colour; rich keeps it for a terminal.
    assert "\x1b[31" not in nightshift("status", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1").stderr
    assert "\x1b[" not in nightshift("status", cwd=tmp_path, NO_COLOR="1").stderr


def test_completion_offers_the_verbs() -> None:
    words = subprocess.run(
        [str(Path(sys.executable).parent / "nightshift")],
        env=os.environ | {"_NIGHTSHIFT_COMPLETE": "complete_bash", "COMP_WORDS": "nightshift re", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert set(words.stdout.split()) == {"reset", "releases", "renew", "retire"}
