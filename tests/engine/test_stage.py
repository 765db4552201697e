"""One stage: unchanged, restored or computed; never skipped when something changed, never taken from other inputs."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from nightshift.engine import lock
from nightshift.engine.key import md5
from nightshift.engine.objects import Objects
from nightshift.engine.plan import run_key, wanted
from nightshift.engine.stage import _put, _same_bytes
from nightshift.errors import NightshiftError
from tests.engine.conftest import World

TRAIN = "train@m1"


def at(dag: str, run: str) -> tuple[str, ...]:
    return ("--dag", dag, "--run", run)


def begun(world: World, run: str, dag: str = "train_m1", *more: str) -> tuple[str, ...]:
    world.engine("begin", *at(dag, run), *more)
    return at(dag, run)


def own(world: World, run: str) -> None:
    """Code of this test's own, so that nobody computed the stage before."""
    world.edit("pipelines/train.py", "import sys", f"import sys  # {run}")


def test_an_unchanged_stage_starts_no_dvc_and_makes_no_workspace(world: World, run: str, tmp_path: Path) -> None:
    here = begun(world, run)
    nowhere = tmp_path / "no-such-home"
    ran = world.engine("stage", TRAIN, *here, NIGHTSHIFT_HOME=str(nowhere))
    assert ran.outcome == "unchanged"
    assert not nowhere.exists()
    entry = lock.load(world.at_tip("dvc.lock"))["stages"][TRAIN]
    assert world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"] == entry


def test_a_changed_param_computes_and_the_old_one_again_is_restored_without_dvc(
    world: World, run: str, tmp_path: Path
) -> None:
    world.edit("params.yaml", 'name: "0"', f"name: {run}")
    first = world.engine("stage", TRAIN, *begun(world, run))
    assert first.outcome == "done"
    assert first.receipt["changed"] == [f'parameter models.m1.train.name: "0" → "{run}"']
    assert "epoch 2/2" in first.output
    entry = world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]

    # Another machine, which has neither the lock entry nor anything in its cache.
    nowhere = tmp_path / "no-such-home"
    second = world.engine("stage", TRAIN, *begun(world, f"{run}-2"), NIGHTSHIFT_HOME=str(nowhere))
    assert second.outcome == "restored"
    assert not nowhere.exists()
    assert world.fragment("train_m1", f"{run}-2", f"stages/{TRAIN}.json")["entry"] == entry
    assert not list((world.home / "work").glob(f"*{run}*"))


@pytest.mark.long
def test_a_record_whose_outputs_are_gone_is_computed_again(world: World, run: str) -> None:
    own(world, run)
    world.engine("stage", TRAIN, *begun(world, run))
    entry = world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]
    lost = next(out["md5"] for out in entry["outs"] if out["path"].endswith("model.onnx"))
    with world.settings_of():
        world.remote().delete(f"files/md5/{lost[:2]}/{lost[2:]}")
    again = world.engine("stage", TRAIN, *begun(world, f"{run}-2"))
    assert again.outcome == "done"
    assert "has lost artifacts/models/m1/model.onnx" in again.output
    with world.settings_of():
        assert world.remote().exists(f"files/md5/{lost[:2]}/{lost[2:]}")


def test_a_record_of_other_inputs_under_our_key_is_never_restored(world: World, run: str) -> None:
    """The most dangerous line of the engine: yesterday's record under today's key would restore yesterday's model."""
    own(world, run)
    here = begun(world, run)
    base = world.fragment("train_m1", run, "base.json")
    key = run_key(base["stages"][TRAIN], wanted(TRAIN, base, {"stages": {}, "data": {}, "champions": {}}))
    assert key
    yesterday = base["stages"][TRAIN]["entry"]
    with world.settings_of():
        world.remote().put(f"runs/{key[:2]}/{key}/0000", json.dumps(yesterday).encode())  # JSON is YAML
    ran = world.engine("stage", TRAIN, *here)
    assert ran.outcome == "done"
    assert "epoch 2/2" in ran.output
    assert world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]["deps"] != yesterday["deps"]


def test_what_changed_upstream_in_this_run_is_never_skipped(world: World, run: str) -> None:
    """Traps b, c, d: DVC alone calls this stage up to date, because the lock entry of the base still fits it."""
    world.land("a", "2026-01-02", "11", "12")
    here = begun(world, run, "ingest_a", "--until", "2026-12-31")
    world.engine("ingest", "a", *here)
    assert world.engine("stage", "validate@a", *here).receipt["changed"] == ["input data/profiles/a"]
    numbers = world.fragment("ingest_a", run, "stages/validate@a.json")
    with world.settings_of():
        details = next(out for out in numbers["entry"]["outs"] if out["path"].endswith("details"))
        objects = Objects(f"{world.work}/dvc", world.home / "cache")
        assert objects.read_json(objects.members(details["md5"])["numbers.json"]) == [1, 2, 3, 11, 12]


def test_a_worker_with_an_empty_cache_fetches_exactly_the_inputs(world: World, run: str, tmp_path: Path) -> None:
    own(world, run)
    here = begun(world, run)
    other = tmp_path / "other-machine"
    ran = world.engine("stage", TRAIN, *here, NIGHTSHIFT_HOME=str(other))
    assert ran.outcome == "done"
    assert "fetched from" in ran.output
    have = {f"{file.parent.name}{file.name}" for file in (other / "cache" / "files" / "md5").glob("*/*")}
    entry = world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]
    snapshot = lock.load(world.at_tip("data.dvc"))["outs"]
    assert {out["md5"] for out in entry["outs"]} <= have
    assert not {out["md5"] for out in snapshot if out["nfiles"]} & have


def test_a_stage_before_the_one_that_it_reads_is_refused(world: World, run: str) -> None:
    ran = world.try_engine("stage", "evaluate@m1", *begun(world, run))
    assert ran.status == 1
    assert "train@m1" in ran.output


def test_a_finished_stage_is_adopted_by_the_next_attempt(world: World, run: str) -> None:
    here = begun(world, run)
    world.engine("stage", TRAIN, *here)
    again = world.engine("stage", TRAIN, *here, "--attempt", "2")
    assert again.outcome == "unchanged"
    assert "an earlier attempt finished it" in again.output


def test_a_stage_that_changes_its_own_input_fails(world: World, run: str) -> None:
    world.edit(
        "pipelines/train.py",
        "key = sys.argv[1]",
        "key = sys.argv[1]\nopen('artifacts/datasets/a/train/x.txt', 'a').write('9')",
    )
    ran = world.try_engine("stage", TRAIN, *begun(world, run))
    assert ran.status == 1
    assert "was not computed from what this run wants: input artifacts/datasets/a/train" in ran.output
    with world.settings_of():
        assert world.journal("train_m1", run).get(f"stages/{TRAIN}.json") is None


@pytest.mark.long
def test_a_stage_that_changes_another_entry_fails(world: World, run: str) -> None:
    spoil = (
        "import re; t = open('dvc.lock').read(); open('dvc.lock', 'w').write(t.replace('pipelines.prepare a', 'p a'))"
    )
    world.edit("pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]\n{spoil}")
    ran = world.try_engine("stage", TRAIN, *begun(world, run))
    assert ran.status == 1
    assert "changed the entries of prepare@a too" in ran.output


def test_a_failing_stage_says_its_own_last_words(world: World, run: str) -> None:
    world.edit("pipelines/train.py", "key = sys.argv[1]", "sys.exit('weights are not finite in epoch 3')")
    ran = world.try_engine("stage", TRAIN, *begun(world, run))
    assert ran.status == 1
    assert ran.receipt["message"] == "train@m1 failed, running: weights are not finite in epoch 3"
    assert not list((world.home / "work").glob(f"*{run}*"))


def test_a_stage_sees_no_secret_and_leaves_no_process_behind(world: World, run: str) -> None:
    show = (
        "import os, subprocess; print('ENV', sorted(os.environ)); print('KEY', os.environ['AWS_ACCESS_KEY_ID'])\n"
        "print('ALL', dict(os.environ))\n"
        "print('PID', subprocess.Popen(['sleep', '300']).pid)"
    )
    world.edit("pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]  # {run}\n{show}")
    secrets = {"AIRFLOW__CORE__FERNET_KEY": "s1", "NIGHTSHIFT_DEPLOYER_SECRET_ACCESS_KEY": "s2", "MY_TOKEN": "s3"}
    ran = world.engine("stage", TRAIN, *begun(world, run), **secrets)
    said = {line.split()[0]: line.partition(" ")[2] for line in ran.output.splitlines() if " " in line}
    assert said["KEY"] == world.settings["AWS_ACCESS_KEY_ID"]
    assert not [name for name in secrets if name in said["ENV"]]
    assert "'AWS_SECRET_ACCESS_KEY': '***'" in said["ALL"], "its own worker's, and that is not shown either"
    assert world.settings["AWS_SECRET_ACCESS_KEY"] not in ran.output
    assert not alive(int(said["PID"]))


def test_rerun_computes_again_and_accepts_the_same_bytes(world: World, run: str) -> None:
    ran = world.engine("stage", TRAIN, *begun(world, run, "train_m1", "--conf", '{"rerun": true}'))
    assert ran.outcome == "done"
    assert "epoch 2/2" in ran.output


def test_rerun_fails_on_other_bytes_and_names_both_digests(world: World, run: str) -> None:
    dice = "open(folder / 'model.onnx', 'a').write(__import__('os').urandom(8).hex())"
    world.edit("pipelines/train.py", "(folder / \"model.onnx\").write_text(model + rows)",
               f"(folder / \"model.onnx\").write_text(model + rows)\n{dice}")  # fmt: skip
    world.engine("stage", TRAIN, *begun(world, run))
    before = world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]
    ran = world.try_engine("stage", TRAIN, *begun(world, f"{run}-2", "train_m1", "--conf", '{"rerun": true}'))
    assert ran.status == 1
    model = next(out["md5"] for out in before["outs"] if out["path"].endswith("model.onnx"))
    assert f"and was {model}" in ran.output
    assert "gave other bytes from the same inputs" in ran.output
    # The journal keeps nothing of it, and the next night restores what was there.
    assert world.engine("stage", TRAIN, *begun(world, f"{run}-3")).outcome == "restored"


def test_the_slower_of_two_attempts_with_other_bytes_fails(world: World, run: str) -> None:
    begun(world, run)
    entry = world.fragment("train_m1", run, "base.json")["stages"][TRAIN]["entry"]
    other = {**entry, "outs": [{**out, "md5": md5(out["path"].encode())} for out in entry["outs"]]}
    with world.settings_of():
        journal = world.journal("train_m1", run)
        _put(journal, TRAIN, entry, "done", {}, "first")
        assert _put(journal, TRAIN, entry, "done", {}, "second").outcome == "done"
        with pytest.raises(NightshiftError, match=rf"is {other['outs'][0]['md5']}, and was {entry['outs'][0]['md5']}"):
            _put(journal, TRAIN, other, "done", {}, "third")


def test_same_bytes_are_no_conflict() -> None:
    entry = {"outs": [{"path": "a", "md5": "1", "size": 3}]}
    _same_bytes("x", entry, {"outs": [{"path": "a", "md5": "1"}]})


def alive(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, within_s: float = 5) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def sleeping(world: World, run: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    """A stage in the middle of its command: the engine, the pids of the child and of the command, its workspace."""
    # The first attempt sleeps, the second does not.
    mark = world.root.with_name("slept")
    nap = (
        f"import os, pathlib, time; mark = pathlib.Path('{mark}')\n"
        "if not mark.exists():\n"
        "    mark.touch(); print('NAP', os.getpid(), os.getpgrp(), flush=True); time.sleep(300)"
    )
    world.edit("pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]\n{nap}")
    process = world.start("stage", TRAIN, *begun(world, run))
    for line in process.stdout or ():
        if line.startswith("NAP"):
            break
    else:
        raise AssertionError("the stage did not start")
    pids = [int(number) for number in line.split()[1:]]
    folder = next((world.home / "work").glob(f"train_m1-{run}-*"))
    return process, pids, folder


def test_a_terminated_stage_leaves_neither_process_nor_folder(world: World, run: str) -> None:
    process, pids, folder = sleeping(world, run)
    process.terminate()
    assert process.wait(10) == 143
    assert all(gone(pid) for pid in pids)
    assert not folder.exists()


def test_kill_9_of_the_engine_leaves_no_process_and_the_retry_finishes(world: World, run: str) -> None:
    process, pids, folder = sleeping(world, run)
    process.kill()
    process.wait()
    assert all(gone(pid) for pid in pids)
    assert folder.exists()
    assert world.engine("stage", TRAIN, *at("train_m1", run), "--attempt", "2").outcome == "done"
    assert not folder.exists()


@pytest.mark.long
def test_what_survives_kill_9_of_engine_and_child_is_killed_by_the_next_attempt(world: World, run: str) -> None:
    process, (command, child), _ = sleeping(world, run)
    os.kill(child, 9)  # the child first, so that it cannot see the engine die
    process.kill()
    process.wait()
    assert world.engine("stage", TRAIN, *at("train_m1", run), "--attempt", "2").outcome == "done"
    assert gone(command)
