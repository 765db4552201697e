"""The form's roll-back: the engine's verb, with a real endpoint process, and what the operator passes on."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nightshift.engine.__main__ import main
from tests.serving.world import KEY, Endpoint, World

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Endpoint]]:
    world = World(tmp_path_factory.mktemp("rollback"))
    with world.endpoint() as endpoint:
        endpoint.wait_alive()
        yield world, endpoint


def rollback(running: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, dict[str, Any]]:
    world, endpoint = running
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", world.store.url)
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINTS", endpoint.url)
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINT_KEY", KEY)
    receipt = world.folder / "receipt.json"
    receipt.write_text("{}")
    who = ("--who", "ada", "--run", "manual__1", "--receipt", str(receipt))
    return main(["rollback", *arguments, *who]), json.loads(receipt.read_text())


def test_the_form_rolls_back_under_the_persons_name(running, monkeypatch: pytest.MonkeyPatch) -> None:
    world, endpoint = running
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    world.order(second, "proven")
    status, receipt = rollback(running, monkeypatch, "toy", "--reason", "cats became dogs")
    assert (status, receipt["outcome"], receipt["digest"]) == (0, "proven", first)
    order = world.ledger.newest("toy")
    assert (order.who, order.what, order.reason) == ("ada", "rollback", "cats became dogs")
    assert order.evidence == {"verdict": "pass", "run": "manual__1"}
    assert endpoint.of("toy")["serving"] == first
    status, receipt = rollback(running, monkeypatch, "toy", "--to", second[:8], "--reason", "they were dogs")
    assert (status, receipt["digest"]) == (0, second)


def test_without_an_earlier_champion_a_reason_or_a_release_nothing_is_ordered(running, monkeypatch) -> None:
    world, _ = running
    world.publish(0, model="lone")
    assert rollback(running, monkeypatch, "lone", "--reason", "r")[0] == 1
    status, receipt = rollback(running, monkeypatch, "lone", "--reason", " ")
    assert (status, receipt["next_step"]) == (2, "fill in the form's field `reason`")
    status, receipt = rollback(running, monkeypatch, "lone", "--to", "abcdef", "--reason", "r")
    assert status == 1
    assert "abcdef" in receipt["message"]
    assert world.ledger.orders("lone") == []


def test_what_the_form_says_reaches_the_engine_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    spec = importlib.util.spec_from_file_location("rollback_operator", PLUGINS / "rollback_operator.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "rollback_operator", module)
    spec.loader.exec_module(module)
    operator = module.RollbackOperator(task_id="rollback", verb="rollback")
    run = SimpleNamespace(run_id="manual__1", triggering_user_name="ada")
    form = {"model": "toy", "to": None, "reason": "--to=ffff; $(rm -rf /)"}
    arguments = operator._arguments({"params": form, "dag_run": run})
    assert arguments == ["rollback", "toy", "--reason=--to=ffff; $(rm -rf /)", "--run=manual__1", "--who=ada"]
    form["to"] = "abcd"
    assert operator._arguments({"params": form, "dag_run": run})[-1] == "--to=abcd"
