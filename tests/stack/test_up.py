"""The whole stack, for real: up, each process killed and brought back alone, down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from nightshift.stack import airflow, lifecycle
from nightshift.stack.processes import free_ports
from nightshift.stack.repository import git
from nightshift.stack.settings import PORT_VARIABLES, Stack

ROOT = Path(__file__).parents[2]
PROCESSES = ["s3", "endpoint", *airflow.PROCESSES]

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("stack") / "checkout"
    for name in ("dags", "plugins", ".dvc"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "config.local", "tmp"))
    for name in ("dvc.yaml", "params.yaml", "data.dvc"):
        shutil.copy(ROOT / name, root / name)
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "dvc.yaml", "params.yaml", "data.dvc")
    git(root, "-c", "user.name=A Person", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Begin")
    yield root
    lifecycle.down(root, print)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    if not Stack.exists(checkout):
        for (variable, _), port in zip(PORT_VARIABLES.values(), free_ports(len(PORT_VARIABLES)), strict=True):
            monkeypatch.setenv(variable, str(port))


def pids(root: Path) -> dict[str, int | None]:
    return {name: Stack.load(root).processes.running(name) for name in PROCESSES}


def test_everything_comes_up_and_only_our_password_opens_airflow(checkout: Path, ports: None) -> None:
    stack = lifecycle.up(checkout, print)
    assert all(service["healthy"] for service in lifecycle.status(checkout)["services"].values())
    assert airflow.answers_us(stack)
    wrong = httpx.post(f"{stack.airflow_url}/auth/token", json={"username": "admin", "password": "admin"}, timeout=30)
    assert wrong.status_code == 401


def test_a_second_up_leaves_everything_alone(checkout: Path, ports: None) -> None:
    lifecycle.up(checkout, print)
    before, said = pids(checkout), []
    lifecycle.up(checkout, said.append)
    assert pids(checkout) == before
    assert said == []


@pytest.mark.parametrize("name", PROCESSES)
def test_what_was_killed_comes_back_and_the_rest_is_left_alone(checkout: Path, ports: None, name: str) -> None:
    lifecycle.up(checkout, print)
    before = pids(checkout)
    psutil.Process(before[name]).kill()
    lifecycle.up(checkout, print)
    after = pids(checkout)
    assert after[name] not in (None, before[name])
    assert {other: pid for other, pid in after.items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }
    assert all(service["healthy"] for service in lifecycle.status(checkout)["services"].values())
    # A process that Airflow starts while they are looked for seems to be nobody's, for that look.
    assert airflow.wait(lambda: not Stack.load(checkout).processes.strays(), 60)


def test_a_key_made_in_the_checkout_closes_the_endpoint_to_others_and_not_to_the_stack(
    checkout: Path, ports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = lifecycle.up(checkout, print)
    asked = f"{stack.endpoint_url}/v2"
    assert httpx.get(asked).status_code == 200
    assert httpx.get(f"{stack.endpoint_url}/status").status_code == 401
    with monkeypatch.context() as here:
        here.chdir(checkout)
        command = [sys.executable, "-m", "nightshift.cli.main", "keys", "create", "ada", "--json"]
        key = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["key"]
    assert airflow.wait(lambda: httpx.get(asked).status_code == 401, 60)
    assert httpx.get(asked, headers={"X-API-Key": key}).status_code == 200
    assert lifecycle.status(checkout)["services"]["endpoint"]["healthy"]


def test_down_leaves_no_process_behind(checkout: Path, ports: None) -> None:
    lifecycle.up(checkout, print)
    processes = Stack.load(checkout).processes
    assert len(lifecycle.down(checkout, print)) >= len(PROCESSES)
    assert processes.strays() == []
    left = [p.pid for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(checkout))]
    assert [pid for pid in left if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE] == []
