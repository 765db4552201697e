"""What stops a night by the tool chain, the disk and its signatures; the rest is tested with worlds and stacks."""

from pathlib import Path
from typing import Any

import pytest

from nightshift.cli import stops
from nightshift.releases.signing import SigningKey
from nightshift.stack import toolchain
from nightshift.stack.private import write_private
from nightshift.stack.settings import Stack
from nightshift.stack.signing import KEY, TRUSTED


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


def test_what_must_be_signed_needs_a_key_and_one_that_the_endpoint_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, models = SigningKey.new(), {"m": {"deploy": {"signed": "required"}}, "n": {"deploy": {}}}

    def said(stack: Stack | None, models: Any = models) -> list[str]:
        return [finding.words for finding in stops.signing(stack, models) if finding.ok is False]

    stack = Stack.load(tmp_path, {})
    without = "the releases of m must be signed, and there is no key"
    monkeypatch.delenv("NIGHTSHIFT_SIGNING_KEY", raising=False)
    assert said(stack) == said(None) == [without]
    assert said(stack, {"n": models["n"]}) == said(stack, None) == said(stack, ["m"]) == []
    write_private(tmp_path / KEY, key.secret)
    assert said(stack) == []
    (tmp_path / TRUSTED).write_text(f"{SigningKey.new().public}\n")
    (words,) = said(stack, None)
    assert f"does not name the key {key.public.id}" in words
    with (tmp_path / TRUSTED).open("a") as file:
        file.write(f"{key.public} ours\n")
    assert said(stack) == []
    (tmp_path / KEY).unlink()
    (words,) = said(stack, None)
    assert "does not name any key of the nights" in words
    monkeypatch.setenv("NIGHTSHIFT_SIGNING_KEY", key.secret)
    assert said(None) == []
