"""Ingest and accept: new days become part of the snapshot at the cost of the new days; refused ones are held."""

import json
import shutil
from pathlib import Path

import pytest

from nightshift.engine import lock
from nightshift.engine.ingest import ingest_into
from nightshift.engine.key import EMPTY_LISTING
from nightshift.engine.objects import Objects
from tests.engine.conftest import World

UNTIL = ("--until", "2026-12-31")


def begun(world: World, run: str, dataset: str = "a", *more: str) -> tuple[str, ...]:
    here = ("--dag", f"ingest_{dataset}", "--run", run)
    world.engine("begin", *here, *UNTIL, *more)
    return here


def listed(world: World, run: str, path: str = "data/a") -> set[str]:
    """The files of a folder of this run's snapshot."""
    fragment = world.fragment("ingest_a", run, "data/a.json")
    with world.settings_of():
        return set(Objects(f"{world.work}/dvc", world.home / "cache").members(fragment["outs"][path]["md5"]))


def test_a_new_day_is_added_to_the_old_ones_without_fetching_them(world: World, run: str, tmp_path: Path) -> None:
    world.land("a", "2026-01-02", "4", "5")
    home = tmp_path / "other-machine"
    ran = world.engine("ingest", "a", *begun(world, run), NIGHTSHIFT_HOME=str(home))
    assert ran.outcome == "done"
    assert ran.receipt["taken"][0]["date"] == "2026-01-02"
    assert listed(world, run) == {"date=2026-01-01.parquet", "date=2026-01-02.parquet"}
    assert listed(world, run, "data/profiles/a") == listed(world, run) | {"index.json"}
    fetched = [file for file in (home / "cache" / "files" / "md5").glob("*/*") if file.read_bytes() == b"1\n2\n3\n"]
    assert fetched == []
    # Other data sets' entries are not this run's.
    assert set(world.fragment("ingest_a", run, "data/a.json")["outs"]) == {"data/a", "data/profiles/a"}
    # A second attempt adopts it, whatever has landed meanwhile.
    world.land("a", "2026-01-03", "6")
    assert world.engine("ingest", "a", "--dag", "ingest_a", "--run", run).receipt["taken"] == ran.receipt["taken"]


@pytest.mark.long
def test_a_replaced_and_a_removed_day_change_only_themselves(world: World, run: str) -> None:
    world.land("a", "2026-01-02", "4", "5")
    first = world.ingest_run(f"{run}-1")
    assert first["record"].outcome == "done"
    old = listed(world, f"{run}-1")
    world.land("a", "2026-01-02", "40")
    (world.root.with_name("landing") / "a" / "2026-01-01.txt").unlink()
    ran = world.engine("ingest", "a", *begun(world, f"{run}-2"))
    assert [day["why"] for day in ran.receipt["taken"]] == ["replaced"]
    assert old == {"date=2026-01-01.parquet", "date=2026-01-02.parquet"}
    assert listed(world, f"{run}-2") == {"date=2026-01-02.parquet"}


def test_nothing_new_leaves_the_snapshot_and_starts_no_dvc(world: World, run: str) -> None:
    ran = world.engine("ingest", "a", *begun(world, run))
    assert ran.outcome == "nothing"
    entries = {out["path"]: out for out in lock.load(world.at_tip("data.dvc"))["outs"]}
    outs = world.fragment("ingest_a", run, "data/a.json")["outs"]
    assert outs == {path: entries[path] for path in ("data/a", "data/profiles/a")}


def test_days_after_the_last_one_that_counts_are_left_for_later(world: World, run: str) -> None:
    world.land("a", "2026-01-09", "9")
    here = begun(world, run, "a", "--conf", json.dumps({"until": "2026-01-05"}))
    ran = world.engine("ingest", "a", *here)
    assert (ran.outcome, ran.receipt["skipped_after_until"]) == ("nothing", ["2026-01-09"])


def test_a_refused_day_is_held_and_the_next_good_one_is_taken_without_it(world: World, run: str) -> None:
    world.land("a", "2026-01-02", "5000")
    here = begun(world, f"{run}-1")
    tip = world.tip()
    world.engine("ingest", "a", *here)
    world.engine("stage", "validate@a", *here)
    ran = world.try_engine("accept", "a", *here)
    assert (ran.status, ran.outcome) == (3, "held")
    assert "5000 is too large" in ran.receipt["message"]
    assert world.tip() == tip
    try:
        # The same files again, and a good day after it.
        world.land("a", "2026-01-03", "6")
        again = world.engine("ingest", "a", *begun(world, f"{run}-2"))
        assert [day["date"] for day in again.receipt["taken"]] == ["2026-01-03"]
        assert [day["date"] for day in again.receipt["held"]] == ["2026-01-02"]
        assert "date=2026-01-02.parquet" not in listed(world, f"{run}-2")
    finally:
        with world.settings_of():
            store = world.journal("x", "y").store
            for key in store.list("held/a/"):
                store.delete(key)


def test_an_accepted_snapshot_lets_the_run_go_on(world: World, run: str) -> None:
    here = begun(world, run)
    world.engine("ingest", "a", *here)
    world.engine("stage", "validate@a", *here)
    assert world.engine("accept", "a", *here).receipt["verdict"]["verdict"] == "pass"


def test_accept_before_validate_is_a_failure_not_a_pass(world: World, run: str) -> None:
    ran = world.try_engine("accept", "a", *begun(world, run))
    assert ran.status == 1
    assert "artifacts/validations/a/verdict.json" in ran.output


@pytest.mark.long
def test_a_new_data_set_gets_its_entry_and_is_recorded(world: World, run: str) -> None:
    world.edit("params.yaml", "models:", "  c: {validate: {largest: 100}}\nmodels:")
    world.land("c", "2026-01-01", "1")
    ran = world.ingest_run(run, "c")
    assert ran["ingest"].outcome == "done"
    entries = {out["path"]: out for out in lock.load(world.at_tip("data.dvc"))["outs"]}
    assert entries["data/c"]["md5"] not in ("", EMPTY_LISTING)
    assert "validate@c" in lock.load(world.at_tip("dvc.lock"))["stages"]


def test_a_failing_ingest_leaves_nothing_in_the_run(world: World, run: str) -> None:
    world.edit("pipelines/ingest.py", "print(", "raise SystemExit('landing zone: 2026-01-02 is unreadable')\nprint(")
    ran = world.try_engine("ingest", "a", *begun(world, run))
    assert ran.status == 1
    assert "landing zone: 2026-01-02 is unreadable" in ran.receipt["message"]
    with world.settings_of():
        assert world.journal("ingest_a", run).fragments()["data"] == {}


def test_the_secret_of_personal_data_is_ingests_alone(world: World, run: str) -> None:
    """And whatever ingest prints, no log shows it."""
    secret = {"NIGHTSHIFT_PERSONAL_SECRET": "a-secret-of-this-test"}
    for verb in ("ingest", "validate"):
        path = world.root / "pipelines" / f"{verb}.py"
        last = path.read_text().splitlines()[-1]
        said = "import os; print('secret:', os.environ.get('NIGHTSHIFT_PERSONAL_SECRET'))"
        world.edit(f"pipelines/{verb}.py", last, f"{said}\n{last}")
    here = begun(world, run)
    assert "secret: ***" in world.engine("ingest", "a", *here, **secret).output
    assert "secret: None" in world.engine("stage", "validate@a", *here, **secret).output


def test_a_person_ingests_again_without_having_pushed_whatever_the_cache(world: World, tmp_path: Path) -> None:
    (world.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {tmp_path}/cache\n")
    for day in ("2026-01-02", "2026-01-03"):
        world.land("a", day, "4", day[-1])
        with world.settings_of():
            assert [one["date"] for one in ingest_into(world.root, "a", "2026-12-31")["taken"]] == [day]


def test_a_person_ingests_into_the_checkout_and_keeps_edits(world: World) -> None:
    world.land("a", "2026-01-02", "4", "5")
    data = world.root / "data.dvc"
    data.write_text(data.read_text() + "meta:\n  note: mine\n")
    before = lock.load(data.read_bytes())
    with world.settings_of():
        report = ingest_into(world.root, "a", "2026-12-31")
    assert [day["date"] for day in report["taken"]] == ["2026-01-02"]
    after = lock.load(data.read_bytes())
    assert after["meta"] == {"note": "mine"}
    changed = [out["path"] for out, was in zip(after["outs"], before["outs"], strict=True) if out != was]
    assert changed == ["data/a", "data/profiles/a"]
    assert (world.root / "data" / "a" / "date=2026-01-02.parquet").exists()
    assert sorted(file.name for file in world.root.parent.iterdir()) == ["bare.git", "checkout", "landing"]
    with world.settings_of():
        assert ingest_into(world.root, "a", "2026-12-31")["taken"] == []
    shutil.rmtree(world.root / "data")
