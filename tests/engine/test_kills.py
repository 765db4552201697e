"""kill -9 at every step of a task: nothing half-written is visible, and the next attempt ends in the same bytes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from nightshift.engine import lock
from nightshift.engine.objects import Objects, entry_hashes
from nightshift.releases.store import Store
from nightshift.stack.processes import Processes
from tests.conftest import S3
from tests.engine.conftest import World
from tests.engine.door import Door, door_to
from tests.engine.test_stage import gone

TRAIN = "train@m1"
FILES = "/dvc/files/md5/"


@pytest.fixture
def door(s3: S3) -> Iterator[Door]:
    with door_to(s3.url) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run's id that no other test has, and that can stand in a file of parameters."""
    return tmp_path.name


def at(dag: str, run: str) -> tuple[str, ...]:
    return ("--dag", dag, "--run", run)


def new_model(world: World, run: str) -> dict[str, str]:
    """Both outputs of the training are bytes that nobody made before; returns their md5 when nobody disturbs it."""
    world.edit("pipelines/train.py", '"epoch,loss\\n"', f'"epoch,loss {run}\\n"')
    world.edit("params.yaml", 'name: "0"', f"name: {run}")
    alone = world.root.with_name("alone")
    shutil.copytree(world.root, alone)
    rows = alone / "artifacts" / "datasets" / "a" / "train"
    rows.mkdir(parents=True)
    (rows / "x.txt").write_text("1\n2\n3")
    subprocess.run([sys.executable, "-m", "pipelines.train", "m1"], cwd=alone, check=True, capture_output=True)
    made = [Path("artifacts", "models", "m1", name) for name in ("epochs.csv", "model.onnx")]
    return {str(path): hashlib.md5((alone / path).read_bytes()).hexdigest() for path in made}


def outs(world: World, run: str, dag: str = "train_m1", stage: str = TRAIN) -> dict[str, str]:
    return entry_hashes(world.fragment(dag, run, f"stages/{stage}.json")["entry"]["outs"])


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Engine, child and command in one blow: each is stopped first, so that none sees another die."""
    family = [psutil.Process(process.pid)]
    for member in family:  # it grows: what a stopped process started before is seen after
        member.suspend()
        family += [child for child in member.children() if child not in family]
    kill_engine(process, family)


def kill_engine(process: subprocess.Popen[str], family: list[psutil.Process] | None = None) -> None:
    """The engine alone, or all of ``family``; afterwards nothing of it lives."""
    lives = psutil.Process(process.pid).children(recursive=True)
    for member in family or [psutil.Process(process.pid)]:
        os.kill(member.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert all(gone(member.pid, 60) for member in lives)


def nothing_is_half_written(world: World, dag: str, run: str) -> None:
    """What is in the remote is what its name says; what a fragment or a run-cache record names is there."""
    with world.settings_of():
        remote = world.remote()
        objects = Objects(f"{world.work}/dvc", world.home / "no-cache")
        for key in remote.list("files/md5/"):
            content = remote.get(key)
            assert hashlib.md5(content).hexdigest() == key.removeprefix("files/md5/").replace("/", "")[:32], key
        entries = [lock.load(remote.get(key)) for key in remote.list("runs/")]
        entries += [fragment["entry"] for fragment in world.journal(dag, run).fragments()["stages"].values()]
        for entry in entries:
            for path, digest in entry_hashes(entry["outs"]).items():
                assert objects.complete(digest), f"{path} is named as {digest}, which is not there"


MOMENTS: dict[str, tuple[str, str, int, bool]] = {
    "fetching": ("GET", FILES, 1, False),
    "pushing the second output": ("PUT", FILES, 2, False),
    "pushed, before the fragment": ("PUT", f"/stages/{TRAIN}.json$", 1, False),
    "the fragment put, but not answered": ("PUT", f"/stages/{TRAIN}.json$", 1, True),
}
WAYS = [pytest.param(kill_tree, False, id="tree-elsewhere"), pytest.param(kill_engine, True, id="engine-here")]


@pytest.mark.long
@pytest.mark.parametrize(("kill", "same_machine"), WAYS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stage_killed_at_any_step_is_finished_by_the_next_attempt(
    world: World, door: Door, run: str, tmp_path: Path, moment: str, kill: Callable, same_machine: bool
) -> None:
    method, pattern, nth, answered = MOMENTS[moment]
    expected, tip = new_model(world, run), world.tip()
    here = at("train_m1", run)
    world.engine("begin", *here)
    homes = [tmp_path / "machine", tmp_path / "machine" if same_machine else tmp_path / "another"]
    for home in homes:
        home.mkdir(exist_ok=True)
    held = door.hold(method, pattern, nth, answered=answered)
    process = world.start("stage", TRAIN, *here, AWS_ENDPOINT_URL=door.url, NIGHTSHIFT_HOME=str(homes[0]))
    held.wait()
    kill(process)

    nothing_is_half_written(world, "train_m1", run)
    with world.settings_of():
        fragment = world.journal("train_m1", run).get(f"stages/{TRAIN}.json")
    assert (fragment is not None) == answered
    again = world.engine("stage", TRAIN, *here, "--attempt", "2", NIGHTSHIFT_HOME=str(homes[1]))
    assert again.outcome == "done"
    assert outs(world, run) == expected
    nothing_is_half_written(world, "train_m1", run)
    assert world.tip() == tip


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("how", "seconds"), [("killed", 60), ("stopped", 30)])
def test_a_stage_waits_for_an_s3_server_that_goes_away_in_the_middle_of_its_push(
    world: World, door: Door, s3: S3, run: str, tmp_path: Path, how: str, seconds: int
) -> None:
    expected = new_model(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    held = door.hold("PUT", FILES, 2)
    process = world.start("stage", TRAIN, *here, AWS_ENDPOINT_URL=door.url)
    held.wait()
    servers = Processes(s3.server.folder.parent)
    weed = servers.running("s3")
    assert weed
    os.kill(weed, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    held.open()
    time.sleep(seconds)
    if how == "killed":
        s3.server.start(servers)
    else:
        os.kill(weed, signal.SIGCONT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert outs(world, run) == expected
    nothing_is_half_written(world, "train_m1", run)


def nap(world: World, run: str) -> Path:
    """The training sleeps in the middle until the file is there."""
    awake = world.root.with_name(f"awake-{run}")
    world.edit(
        "pipelines/train.py",
        "    for epoch in range(2):",
        "    import os, pathlib, time\n"
        "    print('NAP', os.getpid(), flush=True)\n"
        f"    while not pathlib.Path('{awake}').exists():\n"
        "        time.sleep(0.05)\n"
        "    for epoch in range(2):",
    )
    return awake


def until_it_naps(process: subprocess.Popen[str]) -> int:
    """The pid of the command, which has come to its middle."""
    seen = []
    for line in process.stdout or ():
        seen.append(line)
        if line.startswith("NAP"):
            return int(line.split()[1])
    raise AssertionError("".join(seen))


@pytest.mark.parametrize(("kill", "same_machine"), WAYS)
def test_a_stage_killed_while_it_runs_is_finished_by_the_next_attempt(
    world: World, run: str, tmp_path: Path, kill: Callable, same_machine: bool
) -> None:
    expected = new_model(world, run)
    awake = nap(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    process = world.start("stage", TRAIN, *here)
    until_it_naps(process)
    kill(process)
    with world.settings_of():
        assert world.journal("train_m1", run).fragments()["stages"] == {}
    awake.touch()
    home = world.home if same_machine else tmp_path / "another"
    home.mkdir(exist_ok=True)
    assert world.engine("stage", TRAIN, *here, "--attempt", "2", NIGHTSHIFT_HOME=str(home)).outcome == "done"
    assert outs(world, run) == expected
    nothing_is_half_written(world, "train_m1", run)


@pytest.mark.long
def test_a_command_killed_from_outside_fails_the_task(world: World, run: str) -> None:
    """As the kernel does when memory runs out: no green task hides it."""
    new_model(world, run)
    nap(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    process = world.start("stage", TRAIN, *here)
    os.kill(until_it_naps(process), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert f"error: {TRAIN} failed, running:" in said
    with world.settings_of():
        assert world.journal("train_m1", run).fragments()["stages"] == {}


def test_a_cleared_task_and_its_twin_end_in_one_result(world: World, run: str) -> None:
    """Airflow starts the next try while the one before it is still dying."""
    expected = new_model(world, run)
    awake = nap(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    first = world.start("stage", TRAIN, *here)
    command = until_it_naps(first)
    twin = world.start("stage", TRAIN, *here, "--attempt", "2")
    assert (twin.stdout or [""]).readline()  # type: ignore[union-attr] - it is at work
    first.terminate()
    awake.touch()
    said, _ = twin.communicate(timeout=120)
    first.communicate(timeout=60)
    assert twin.returncode == 0, said
    assert first.returncode in (143, 0)  # it may have been faster than its end
    assert gone(command)
    assert outs(world, run) == expected
    nothing_is_half_written(world, "train_m1", run)


@pytest.mark.long
def test_two_attempts_that_both_finish_agree(world: World, door: Door, run: str) -> None:
    """A worker that Airflow took for dead lives on, and puts its fragment after the twin's."""
    expected = new_model(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    held = door.hold("PUT", f"/stages/{TRAIN}.json$")
    first = world.start("stage", TRAIN, *here, AWS_ENDPOINT_URL=door.url)
    held.wait()
    twin = world.start("stage", TRAIN, *here, "--attempt", "2")
    assert (twin.stdout or [""]).readline()  # type: ignore[union-attr]
    held.open()
    for process in (first, twin):
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert outs(world, run) == expected


RECORD = {
    "reading the fragments": ("GET", "/stages/evaluate@m1.json$", False),
    "the branch moved, before the journal": ("PUT", "/record.json$", False),
    "the journal put, but not answered": ("PUT", "/record.json$", True),
}


@pytest.mark.long
@pytest.mark.parametrize("moment", RECORD)
def test_a_killed_record_is_finished_by_the_next_attempt(world: World, door: Door, run: str, moment: str) -> None:
    method, pattern, answered = RECORD[moment]
    here, before = trained(world, run)
    held = door.hold(method, pattern, answered=answered)
    process = world.start("record", *here, AWS_ENDPOINT_URL=door.url)
    held.wait()
    kill_tree(process)
    assert (world.tip() == before) == (method == "GET")
    assert world.engine("record", *here).outcome == "done"
    recorded_once(world, run)


def trained(world: World, run: str) -> tuple[tuple[str, ...], str]:
    """A model's run before its record, with something to record, and the branch's tip."""
    new_model(world, run)
    here, before = at("train_m1", run), world.tip()
    world.engine("begin", *here)
    for verb in (("stage", TRAIN), ("pin", "m1"), ("stage", "evaluate@m1")):
        world.engine(*verb, *here)
    return here, before


def recorded_once(world: World, run: str) -> None:
    assert (
        world.git("log", "--format=%H", f"--grep=Nightshift-Run: train_m1/{run}$", "main", at=world.bare).count("\n")
        == 1
    )
    assert entry_hashes(lock.load(world.at_tip("dvc.lock"))["stages"][TRAIN]["outs"]) == outs(world, run)
    assert "missing" not in world.git("fsck", at=world.bare)


def test_git_killed_with_the_branch_locked_does_not_stop_the_next_record(world: World, run: str) -> None:
    here, before = trained(world, run)
    seen = world.root.with_name("locked")
    hook = world.bare / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f'#!/bin/sh\n[ "$1" = prepared ] && touch {seen} && sleep 300\nexit 0\n')
    hook.chmod(0o755)
    process = world.start("record", *here)
    while not seen.exists():
        assert process.poll() is None, process.communicate()
    kill_tree(process)
    hook.unlink()
    stale = list(world.bare.rglob("*.lock"))
    assert stale
    assert world.tip() == before
    for lock_file in stale:
        os.utime(lock_file, (0, 0))
    assert world.engine("record", *here).outcome == "done"
    recorded_once(world, run)


@pytest.mark.long
@pytest.mark.parametrize(
    ("verb", "pattern"),
    [("begin", "/base.json$"), ("ingest", f"{FILES}.*[.]dir$"), ("ingest", "/data/a.json$"), ("pin", "/champions/")],
)
def test_begin_ingest_and_pin_are_finished_by_the_next_attempt(
    world: World, door: Door, run: str, verb: str, pattern: str
) -> None:
    world.land("a", "2026-01-02", "4", f"{int(hashlib.md5(run.encode()).hexdigest(), 16)}")
    dag = "train_m1" if verb == "pin" else "ingest_a"
    arguments = {
        "begin": ["begin", "--until", "2026-12-31"],
        "ingest": ["ingest", "a"],
        "pin": ["pin", "m1"],
    }
    before = {"begin": [], "ingest": ["begin"], "pin": ["begin", "stage"]}[verb]
    for earlier in before:
        world.engine(*(["stage", TRAIN] if earlier == "stage" else arguments[earlier]), *at(dag, run))
    held = door.hold("PUT", pattern)
    process = world.start(*arguments[verb], *at(dag, run), AWS_ENDPOINT_URL=door.url)
    held.wait()
    kill_tree(process)
    nothing_is_half_written(world, dag, run)
    world.engine(*arguments[verb], *at(dag, run))
    nothing_is_half_written(world, dag, run)
    if verb == "ingest":
        assert outs_of_data(world, run)["data/a"]["nfiles"] == 2


def outs_of_data(world: World, run: str) -> dict[str, dict]:
    found: dict[str, dict] = world.fragment("ingest_a", run, "data/a.json")["outs"]
    return found


@pytest.mark.long
def test_the_same_run_begun_twice_at_once_is_one_run(world: World, run: str) -> None:
    expected = new_model(world, run)
    here = at("train_m1", run)

    def twice(*verb: str) -> None:
        both = [world.start(*verb, *here) for _ in range(2)]
        said = [process.communicate(timeout=240)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said

    twice("begin")
    twice("stage", TRAIN)
    twice("pin", "m1")
    twice("stage", "evaluate@m1")
    twice("record")
    assert outs(world, run) == expected
    recorded_once(world, run)


@pytest.mark.long
def test_the_same_night_under_two_names_is_recorded_once(world: World, run: str) -> None:
    expected = new_model(world, run)
    count = world.git("rev-list", "--count", "main", at=world.bare)
    runs = [at("train_m1", f"{run}-{name}") for name in ("one", "two")]

    def both(*verb: str) -> list[str]:
        started = [world.start(*verb, *here) for here in runs]
        said = [process.communicate(timeout=240)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], said
        return said

    for verb in (("begin",), ("stage", TRAIN), ("pin", "m1"), ("stage", "evaluate@m1")):
        both(*verb)
    said = both("record")
    assert sorted(line.partition(":")[0] for text in said for line in text.splitlines()[-1:]) == ["done", "nothing"]
    assert int(world.git("rev-list", "--count", "main", at=world.bare)) == int(count) + 1
    assert outs(world, f"{run}-one") == outs(world, f"{run}-two") == expected


def test_a_wrong_object_in_the_remote_is_named_and_nothing_is_computed_from_it(
    world: World, run: str, tmp_path: Path
) -> None:
    """Same name, other bytes of the same length: only the digest tells."""
    expected = new_model(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    rows, key = input_file(world)
    (tmp_path / "machine").mkdir()
    with spoilt(world, key, lambda remote, right: remote.put(key, b"9" + right[1:])):
        ran = world.try_engine("stage", TRAIN, *here, NIGHTSHIFT_HOME=str(tmp_path / "machine"))
    assert ran.status == 1
    assert rows in ran.output
    assert "epoch" not in ran.output
    with world.settings_of():
        assert world.journal("train_m1", run).fragments()["stages"] == {}
    world.engine("stage", TRAIN, *here, "--attempt", "2", NIGHTSHIFT_HOME=str(tmp_path / "machine"))
    assert outs(world, run) == expected


@pytest.mark.long
def test_a_lost_object_is_named_and_the_task_goes_on_when_it_is_back(world: World, run: str, tmp_path: Path) -> None:
    expected = new_model(world, run)
    here = at("train_m1", run)
    world.engine("begin", *here)
    rows, key = input_file(world)
    (tmp_path / "machine").mkdir()
    with spoilt(world, key, lambda remote, _: remote.delete(key)):
        ran = world.try_engine("stage", TRAIN, *here, NIGHTSHIFT_HOME=str(tmp_path / "machine"))
    assert ran.status == 1
    assert rows in ran.output
    world.engine("stage", TRAIN, *here, "--attempt", "2", NIGHTSHIFT_HOME=str(tmp_path / "machine"))
    assert outs(world, run) == expected


@contextmanager
def spoilt(world: World, key: str, spoil: Callable[[Store, bytes], None]) -> Iterator[None]:
    """Inside, an object of the remote is not what it should be; afterwards it is right again."""
    with world.settings_of():
        right = world.remote().get(key)
        spoil(world.remote(), right)
    try:
        yield
    finally:
        with world.settings_of():
            world.remote().put(key, right)


def input_file(world: World) -> tuple[str, str]:
    """A file that the training reads: its md5, and its key in the remote."""
    entry = lock.load(world.at_tip("dvc.lock"))["stages"]["prepare@a"]
    listing = entry_hashes(entry["outs"])["artifacts/datasets/a/train"]
    with world.settings_of():
        members = json.loads(world.remote().get(f"files/md5/{listing[:2]}/{listing[2:]}"))
    digest = next(member["md5"] for member in members if member["relpath"] == "x.txt")
    return digest, f"files/md5/{digest[:2]}/{digest[2:]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A machine's folder on a disk of 6 MB, which ``mount -o remount,size=…`` makes larger."""
    home = tmp_path / "small"
    home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(home)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield home
    subprocess.run(["umount", "--lazy", str(home)], check=True)


@pytest.mark.long
@pytest.mark.parametrize(("megabytes", "where"), [(12, "its command"), (4, "the copy in the cache")])
def test_a_full_disk_fails_the_task_and_the_next_attempt_finishes(
    world: World, run: str, small_disk: Path, megabytes: int, where: str
) -> None:
    big = f'(folder / "model.onnx").write_bytes(bytes({megabytes} << 20) + b"{where}")'
    world.edit("pipelines/train.py", '(folder / "model.onnx").write_text(model + rows)', big)
    here = at("train_m1", run)
    world.engine("begin", *here)
    ran = world.try_engine("stage", TRAIN, *here, NIGHTSHIFT_HOME=str(small_disk))
    assert ran.status == 1
    assert "No space left on device" in ran.receipt["message"]
    nothing_is_half_written(world, "train_m1", run)
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    world.engine("stage", TRAIN, *here, "--attempt", "2", NIGHTSHIFT_HOME=str(small_disk))
    expected = hashlib.md5(bytes(megabytes << 20) + where.encode()).hexdigest()
    assert outs(world, run)["artifacts/models/m1/model.onnx"] == expected
    assert list((small_disk / "work").iterdir()) == []


@pytest.mark.long
def test_the_locks_of_a_killed_dvc_stop_neither_a_task_nor_the_checkout(world: World, run: str) -> None:
    """`dvc repro` of a person, killed, leaves its locks in the checkout; one killed in a task leaves them with it."""
    from nightshift.cli.night import checkout_data

    nap(world, run)
    (world.root / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {world.home / 'cache'}\n")
    world.dvc("pull", "-q", "artifacts/datasets/a/train")
    repro = subprocess.Popen(
        ["dvc", "repro", "-s", TRAIN],
        cwd=world.root,
        env=world.environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until_it_naps(repro)
    kill_tree(repro)
    assert (world.root / ".dvc" / "tmp" / "rwlock").exists()
    half_made = world.root / "artifacts" / "models" / "m1" / "epochs.csv"
    with world.settings_of():
        # What the command had begun to write is the person's; it is named and left alone.
        assert str(half_made) in checkout_data(world.root)
        half_made.unlink()
        assert checkout_data(world.root) == ""
