"""Record: the branch gets one commit with this run's entries, whatever else moved it meanwhile."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nightshift.engine import lock
from nightshift.engine.record import record
from nightshift.engine.repository import Repository
from nightshift.errors import NightshiftError
from tests.engine.conftest import World, copy, night


@pytest.fixture(scope="module")
def whole(past: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The night of data set b and model m2 on top, m2's stages being recorded last."""
    world = copy(past, tmp_path_factory.mktemp("whole"))
    world.land("b", "2026-01-01", "7", "8")
    night(world, "night-1", ["b"], ["m2"])
    return world


@pytest.fixture
def world(whole: World, tmp_path: Path) -> World:
    return copy(whole, tmp_path)


def fake_change(world: World, run: str, model: str = "m1") -> tuple[str, ...]:
    """A run whose train stage found another entry, without computing it: record only merges text."""
    here = ("--dag", f"train_{model}", "--run", run)
    world.engine("begin", *here)
    base = world.fragment(here[1], run, "base.json")
    with world.settings_of():
        for name, plan in base["stages"].items():
            entry = plan["entry"]
            if name.startswith("train@"):
                outs = [{**out, "md5": os.urandom(16).hex()} for out in entry["outs"]]
                entry = {**entry, "outs": outs}
            world.journal(here[1], run).put(f"stages/{name}.json", {"stage": name, "entry": entry, "outcome": "done"})
        text = base["champions"][model]
        champion = {"path": f"champions/{model}.json", "text": text, "md5": "", "outcome": "unchanged"}
        world.journal(here[1], run).put(f"champions/{model}.json", champion)
    return here


def md5_of(world: World, stage: str) -> str:
    return lock.load(world.at_tip("dvc.lock"))["stages"][stage]["outs"][0]["md5"]


def test_the_first_night_gave_the_lock_file_that_a_workstation_writes(whole: World, tmp_path: Path) -> None:
    clone = tmp_path / "workstation"
    whole.git("clone", "-q", str(whole.bare), str(clone), at=tmp_path)
    ours = (clone / "dvc.lock").read_bytes()
    whole.git("rm", "-q", "dvc.lock", at=clone)
    whole.dvc("pull", "-q", "data.dvc", at=clone)
    shutil.rmtree(clone / ".dvc" / "cache" / "runs", ignore_errors=True)
    said = whole.dvc("repro", at=clone)
    assert said.count("Running stage") == 8
    assert (clone / "dvc.lock").read_bytes() == ours
    assert whole.git("status", "--porcelain", "data.dvc", at=clone) == ""


def test_a_fresh_clone_after_the_night_is_up_to_date_and_repeats_nothing(whole: World, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    whole.git("clone", "-q", str(whole.bare), str(clone), at=tmp_path)
    whole.dvc("pull", at=clone)
    assert "Data and pipelines are up to date." in whole.dvc("status", at=clone)
    said = whole.dvc("repro", at=clone)
    assert "Running stage" not in said
    assert whole.git("status", "--porcelain", at=clone) == ""


def test_the_commits_are_ours_and_say_what_happened(whole: World) -> None:
    log = whole.git("log", "--format=%an <%ae> %s", "main", at=whole.bare).splitlines()
    assert log[-1].endswith("start")
    assert len(log) == 5
    assert all(line.startswith("Nightshift <nightshift@localhost> ") for line in log[:-1])
    assert any("ingest_a: 3 rows of a 2026-01-01" in line for line in log)
    assert any("train_m1: train, evaluate" in line for line in log)


def test_a_run_that_found_nothing_records_nothing(world: World, run: str) -> None:
    before = world.tip()
    ran = world.train_run(run)["record"]
    assert (ran.outcome, ran.receipt["commit"], world.tip()) == ("nothing", before, before)


def test_two_runs_at_once_are_both_recorded(world: World, run: str) -> None:
    runs = [fake_change(world, f"{run}-1", "m1"), fake_change(world, f"{run}-2", "m2")]
    before = [md5_of(world, f"train@{model}") for model in ("m1", "m2")]
    processes = [world.start("record", *here) for here in runs]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    after = [md5_of(world, f"train@{model}") for model in ("m1", "m2")]
    assert not set(before) & set(after)
    assert "missing" not in world.git("fsck", at=world.bare)


def test_eight_runs_at_once_are_all_recorded(world: World, run: str) -> None:
    """Each of a DAG of its own, which has one stage that was never recorded."""
    (here, base) = fake_change(world, run), world.fragment("train_m1", run, "base.json")
    stage, before = base["stages"]["train@m1"], world.tip()
    names = [f"train@x{number}" for number in range(8)]
    with world.settings_of():
        entry = world.journal(here[1], run).fragments()["stages"]["train@m1"]["entry"]
        for name in names:
            journal = world.journal(f"dag-{name}", run)
            stages, order = {name: stage | {"entry": None}}, [*base["order"], *names]
            journal.put("base.json", base | {"dag": journal.dag, "stages": stages, "order": order, "pin": []})
            journal.put(f"stages/{name}.json", {"stage": name, "entry": entry, "outcome": "done"})
        with ThreadPoolExecutor(8) as pool:
            receipts = list(pool.map(lambda name: record(f"dag-{name}", run), names))
    assert [receipt.outcome for receipt in receipts] == ["done"] * 8
    assert set(names) <= set(lock.load(world.at_tip("dvc.lock"))["stages"])
    commits = world.git("rev-list", f"{before}..main", at=world.bare).split()
    assert sorted(commits) == sorted(receipt.details["commit"] for receipt in receipts)


def test_the_loser_of_a_race_merges_onto_the_new_tip(world: World, run: str) -> None:
    """The branch moves between reading the tip and moving it."""
    here = fake_change(world, run)
    before = md5_of(world, "train@m1")
    real = Repository.advance
    moved: list[str] = []

    def late(self: Repository, branch: str, new: str, old: str) -> str:
        if not moved:
            moved.append(old)
            world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
        return real(self, branch, new, old)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Repository, "advance", late)
        assert world.engine("record", *here).outcome == "done"
    assert moved
    assert "# mine" in world.at_tip("pipelines/evaluate.py")
    assert md5_of(world, "train@m1") != before


def test_a_persons_commit_meanwhile_is_kept(world: World, run: str) -> None:
    here = fake_change(world, run)
    world.edit("pipelines/evaluate.py", "import json", "import json  # mine")
    ran = world.engine("record", *here)
    assert ran.outcome == "done"
    assert "# mine" in world.at_tip("pipelines/evaluate.py")
    assert world.git("log", "--format=%H", "-1", "main", at=world.bare).strip() == ran.receipt["commit"]


def test_a_newer_entry_on_the_branch_is_left_and_named(world: World, run: str) -> None:
    slow, fast = fake_change(world, f"{run}-slow"), fake_change(world, f"{run}-fast")
    world.engine("record", *fast)
    newer = md5_of(world, "train@m1")
    ran = world.engine("record", *slow)
    assert ran.outcome == "nothing"
    assert ran.receipt["left"] == ["train@m1"]
    assert md5_of(world, "train@m1") == newer


def test_a_record_that_died_after_moving_the_branch_is_found(world: World, run: str) -> None:
    here = fake_change(world, run)
    commit = world.engine("record", *here).receipt["commit"]
    with world.settings_of():
        journal = world.journal("train_m1", run)
        journal.store.delete(f"{journal.prefix}record.json")
    again = world.engine("record", *here)
    assert again.receipt["commit"] == commit
    assert world.tip() == commit


def test_a_run_with_an_unfinished_stage_is_not_recorded(world: World, run: str) -> None:
    here = ("--dag", "train_m1", "--run", run)
    world.engine("begin", *here)
    ran = world.try_engine("record", *here)
    assert ran.status == 1
    assert "train@m1" in ran.output


def test_a_repository_behind_a_url_is_fetched_and_pushed(world: World, run: str) -> None:
    url = {"NIGHTSHIFT_REPO": world.bare.as_uri()}
    here = fake_change(world, run)
    world.edit("pipelines/evaluate.py", "import json", "import json  # 8")
    ran = world.engine("record", *here, **url)
    assert ran.outcome == "done"
    assert ran.receipt["commit"] == world.tip()
    again = world.engine("begin", "--dag", "train_m1", "--run", f"{run}-2", **url)
    assert again.receipt["commit"] == world.tip()


def test_a_url_repository_that_moved_is_not_overwritten(world: World) -> None:
    with Repository.open(world.bare.as_uri()) as repository:
        tip = repository.tip("main")
        new = repository.commit(tip, {"x": b"1"}, "ours")
        world.edit("pipelines/evaluate.py", "import json", "import json  # 7")
        assert new
        assert repository.advance("main", new, tip)
        assert repository.tip("main") == world.tip()


def test_a_checkout_is_refused_as_repository(world: World) -> None:
    with pytest.raises(NightshiftError, match="is a checkout"), Repository.open(str(world.root)):
        pass


def test_the_merged_files_do_not_depend_on_who_recorded_first() -> None:
    entries = {name: {"cmd": name, "outs": [{"path": name, "md5": "1"}]} for name in ("a", "b", "c")}
    order = ["a", "b", "c"]
    whole = lock.merge_lock(None, entries, order)
    other = None
    for name in ("c", "a", "b"):
        other = lock.merge_lock(other, {name: entries[name]}, order)
    assert other == whole
    assert whole.startswith(b"schema: '2.0'\nstages:\n  a:\n    cmd: a\n")
