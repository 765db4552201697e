"""What stops a night by the tool chain and the disk; the rest is tested with worlds and stacks."""

from pathlib import Path
from typing import Any

import pytest

from nightshift.cli import stops
from nightshift.stack import toolchain


def graph(**stages: dict[str, Any]) -> dict[str, Any]:
    """Stages recorded with inputs and outputs of a gigabyte each, that read these keys of toolchain."""
    entry = {"deps": [{"path": "a", "size": 10**9}], "outs": [{"path": "b", "size": 10**9}]}
    return {
        name: {"values": {"params.yaml": {f"toolchain.{key}": value for key, value in keys.items()}}, "entry": entry}
        for name, keys in stages.items()
    }


def foreseen(**outcomes: str) -> list[dict[str, Any]]:
    return [{"stage": name, "outcome": outcome.replace("_", " ")} for name, outcome in outcomes.items()]


def test_another_version_stops_only_what_must_compute_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "installed", lambda name: "2.0")
    plan = graph(train={"torch": "1.0"}, evaluate={"torch": "1.0"}, prepare={"numpy": "2.0"}, gate={})
    done = foreseen(train="may_run", evaluate="unchanged", prepare="will_run", gate="will_run")
    (found,) = stops.tools(plan, done, {})
    assert (found.ok, found.words) == (False, "torch 2.0 (params.yaml: 1.0): train")
    assert "nightshift doctor --toolchain" in found.next_step


def test_no_gpu_where_one_is_asked_for_stops_the_night_unless_another_queue_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(toolchain, "accelerator", lambda: "cpu")
    plan, done = graph(train={"accelerator": "gpu"}), foreseen(train="will_run")
    (found,) = stops.tools(plan, done, {})
    assert (found.ok, found.words) == (False, "no GPU that torch can use (params.yaml: accelerator: gpu): train")
    (found,) = stops.tools(plan, done, {"train": "gpu"})
    assert (found.ok, found.words) == (None, "train computes on queue gpu, which was not asked")
    monkeypatch.setattr(toolchain, "accelerator", lambda: "gpu")
    assert stops.tools(plan, done, {}) == []


def test_a_disk_that_is_too_small_stops_it_by_what_stages_made_last(tmp_path: Path) -> None:
    plan, done = graph(train={}, gate={}), foreseen(train="will_run", gate="unchanged")
    found = stops.disk(tmp_path / "home", {"stages": plan}, done, 0)
    assert found.ok is True
    assert found.words.endswith("about 4.0 GB needed")  # what it reads, and three copies of what it makes
    assert stops.disk(tmp_path / "home", {"stages": plan}, done, 10**15).ok is False
    assert stops.disk(tmp_path / "home", {"stages": plan}, foreseen(gate="unchanged"), 0).words.endswith(
        "about 0.0 GB needed"
    )
