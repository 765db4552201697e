"""What is foreseen is what the night then does; and what would stop it is said before, without a write."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.cli.plan import Outlook, look
from nightshift.releases.store import open_store
from tests.engine.conftest import World

UNTIL = "2026-12-31"
TINY = ("changed", "removed", "checksum", "landed")  # of the tiny project's report alone


def foreseen(world: World, *, rerun: bool = False, **more: str) -> Outlook:
    with world.settings_of():
        os.environ.update({"NIGHTSHIFT_ENDPOINTS": "http://127.0.0.1:1", **more})
        return look(world.root, UNTIL, rerun=rerun)


def outcomes(outlook: Outlook) -> dict[str, str]:
    return {one["stage"]: one["outcome"] for one in outlook.stages if one["stage"].endswith(("@a", "@m1"))}


def why(outlook: Outlook, stage: str) -> list[str]:
    return next(one["why"] for one in outlook.stages if one["stage"] == stage)


def stopping(outlook: Outlook) -> dict[str, str]:
    """What stops the night beside the endpoint, which these worlds have not."""
    found: dict[str, str] = {}
    for stop in outlook.named(False):
        if stop["name"] != "endpoint":
            found[stop["name"]] = found.get(stop["name"], "") + f"{stop['words']} {stop['next_step']}\n"
    return found


@pytest.fixture
def world(world: World) -> World:
    """Of both data sets something has landed; only a's was taken."""
    world.land("b", "2026-01-01", "1")
    return world


@contextlib.contextmanager
def held(world: World, day: dict[str, Any]) -> Iterator[None]:
    with world.settings_of():
        store = open_store(world.work)
        store.put("held/a/x.json", json.dumps(day).encode())
        try:
            yield
        finally:
            store.delete("held/a/x.json")


def test_after_a_night_nothing_will_run_and_asking_writes_nothing(world: World) -> None:
    with world.settings_of():
        before = open_store(world.work).list("")
    outlook = foreseen(world)
    assert set(outcomes(outlook).values()) == {"unchanged"}
    assert outlook.datasets["a"]["taken"] == []
    assert outlook.commit == world.tip()
    assert outlook.opponents["m1"] == "this challenger was judged against nobody before"
    assert stopping(outlook) == {}
    assert outlook.named(False)[0]["words"] == "http://127.0.0.1:1 does not answer"
    with world.settings_of():
        assert open_store(world.work).list("") == before
    assert world.git("status", "--porcelain") == ""


def test_a_night_does_what_was_foreseen(world: World, run: str) -> None:
    """A day is taken, another is too late, and a model is trained otherwise."""
    world.land("a", "2026-01-02", "4", "5")
    world.land("a", "2027-01-01", "6")
    world.edit("params.yaml", "lr: 1", "lr: 3")
    outlook = foreseen(world)
    data, model = world.ingest_run(f"{run}-a"), world.train_run(f"{run}-m")

    days = [(day["date"], day["why"]) for day in outlook.datasets["a"]["taken"]]
    assert days == [(day["date"], day["why"]) for day in data["ingest"].receipt["taken"]] == [("2026-01-02", "new")]
    assert outlook.datasets["a"]["skipped_after_until"] == data["ingest"].receipt["skipped_after_until"]
    said = outcomes(outlook)
    assert said == {
        "validate@a": "will run",
        "prepare@a": "will run",
        "train@m1": "will run",
        "evaluate@m1": "may run",
    }
    did = {f"{name}@a": data[name].outcome for name in ("validate", "prepare")}
    did |= {f"{name}@m1": model[name].outcome for name in ("train", "evaluate")}
    assert did == dict.fromkeys(said, "done")
    assert why(outlook, "validate@a") == ["input data/profiles/a will change"]
    lr = "parameter models.m1.train.lr: 1e-05 → 3e-05"
    assert why(outlook, "train@m1") == [lr, "input artifacts/datasets/a/train may change"]
    assert lr in model["train"].receipt["changed"]
    # They were timed on the way.
    timed = {"validate@a", "prepare@a", "train@m1", "evaluate@m1"}
    assert timed.isdisjoint(outlook.seconds["unknown"])
    assert 0 < outlook.seconds["longest"] <= outlook.seconds["all"]


def test_what_was_computed_before_will_be_restored_and_is(world: World, run: str) -> None:
    world.git("rm", "-q", "dvc.lock")
    world.git("commit", "-qm", "forget")
    outlook = foreseen(world)
    assert outcomes(outlook) == dict.fromkeys(("validate@a", "prepare@a", "train@m1", "evaluate@m1"), "restored")
    assert why(outlook, "train@m1") == ["never recorded"]
    assert outlook.datasets["b"]["taken"][0]["date"] == "2026-01-01"
    assert any("is not pushed yet" in note["words"] for note in outlook.named(None))
    world.git("push", "-q", "origin", "main")
    ran = world.ingest_run(run)
    assert (ran["validate"].outcome, ran["prepare"].outcome) == ("restored", "restored")


def test_a_rerun_runs_everything(world: World) -> None:
    outlook = foreseen(world, rerun=True)
    assert set(outcomes(outlook).values()) == {"will run"}
    assert "a rerun is asked for" in why(outlook, "validate@a")


def test_a_held_day_is_foreseen_as_held_until_its_files_are_others(world: World) -> None:
    world.land("a", "2026-01-02", "5000")
    taken = foreseen(world).datasets["a"]["taken"][0]
    with held(world, {"date": "2026-01-02", "checksum": taken["checksum"], "reason": "too large"}):
        outlook = foreseen(world)
        assert [day["date"] for day in outlook.datasets["a"]["held"]] == ["2026-01-02"]
        assert outcomes(outlook)["validate@a"] == "unchanged"
        world.land("a", "2026-01-02", "50")
        assert outcomes(foreseen(world))["validate@a"] == "will run"


def test_edits_and_a_branch_that_has_diverged_are_told_apart(world: World) -> None:
    (world.root / "params.yaml").write_text((world.root / "params.yaml").read_text() + "# mine\n")
    outlook = foreseen(world)
    assert stopping(outlook) == {}
    assert any("not committed" in note["words"] for note in outlook.named(None))
    world.git("commit", "-qam", "mine")
    other = world.clone("other")
    world.git("commit", "-q", "--allow-empty", "-m", "theirs", at=other)
    world.git("push", "-q", "origin", "main", at=other)
    outlook = foreseen(world)
    assert "git pull --rebase" in stopping(outlook)["branch"]
    assert outlook.commit == world.tip()


def test_a_graph_that_cannot_be_read_is_said_in_the_words_of_the_refusal(world: World) -> None:
    world.edit_here("dvc.yaml", "cmd: python -m pipelines.prepare", "cmd_: python -m pipelines.prepare")
    assert "dvc.yaml" in stopping(foreseen(world))["commit"]
    world.git("checkout", "-q", "HEAD~1", "--", "dvc.yaml")
    world.edit_here("dvc.yaml", "pipelines/prepare.py", "pipelines/none.py")
    assert "depends on pipelines/none.py" in stopping(foreseen(world))["commit"]


def test_keys_without_a_right_and_an_object_that_is_lost_stop_it(world: World, s3: Any) -> None:
    refused = stopping(foreseen(world, **s3.environment("endpoint")))
    assert "the worker's keys" in refused["keys"]
    world.edit("data.dvc", "md5: ", "md5: 0")
    assert "which is not in" in stopping(foreseen(world))["commit"]


def test_a_landing_zone_that_cannot_be_listed_stops_it_and_the_stages_may_run(world: World) -> None:
    world.edit("pipelines/ingest.py", "parser = ", "raise SystemExit('the landing zone is away')\nparser = ")
    outlook = foreseen(world)
    assert "a: the landing zone is away" in stopping(outlook)["landing"]
    assert outcomes(outlook)["validate@a"] == "may run"


def test_the_command_shows_a_table_per_dag_and_what_stops_it_and_its_json_is_what_the_page_says(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.land("a", "2026-01-02", "4")
    monkeypatch.chdir(world.root)
    with world.settings_of():
        os.environ.update({"NIGHTSHIFT_ENDPOINTS": "http://127.0.0.1:1", "NO_COLOR": "1", "COLUMNS": "150"})
        shown = CliRunner().invoke(app, ["plan", "--until", UNTIL])
        told = CliRunner().invoke(app, ["plan", "--until", UNTIL, "--json"])
    assert (shown.exit_code, told.exit_code) == (3, 3)
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert "days take 2026-01-02 (new, 2 bytes)" in lines
    assert any(line.startswith("validate will run input data/profiles/a will change") for line in lines)
    assert lines[-2:] == ["1. http://127.0.0.1:1 does not answer", "next: start it: nightshift up"]
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text().partition("## JSON")[2]
    found = json.loads(told.stdout)
    for part in (found, *found["datasets"].values(), found["datasets"]["a"]["taken"][0], found["stages"][0]):
        assert [key for key in part if f"`{key}`" not in page and key not in TINY] == []


@pytest.mark.parametrize("day", ["tomorrow", "2026-02-30"])
def test_a_wrong_day_is_wrong_use(day: str) -> None:
    assert CliRunner().invoke(app, ["plan", "--until", day]).exception.exit_code == 2
