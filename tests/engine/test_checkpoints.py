"""What a stage leaves for its next attempt: kept whole in S3, found again on another disk, never under other inputs."""

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from nightshift.engine import checkpoints
from nightshift.engine.checkpoints import Checkpoints
from nightshift.engine.settings import seconds
from nightshift.errors import NightshiftError
from nightshift.releases.errors import StoreUnavailable
from nightshift.releases.store import Store, open_store
from tests.engine.conftest import World
from tests.engine.test_stage import TRAIN, at, begun, gone


@pytest.fixture
def store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3.work}/checkpoints-{uuid4().hex}")


def left(store: Store, folder: Path, key: str = "key") -> Checkpoints:
    found = Checkpoints(store, key, folder)
    found.bring()
    return found


def test_what_one_disk_kept_is_on_another(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = left(store, tmp_path / "here")
    (tmp_path / "here" / "model").mkdir()
    (tmp_path / "here" / "model" / "last.ckpt").write_bytes(b"epoch 3" * 1000)
    (tmp_path / "here" / "best.ckpt").write_bytes(b"epoch 1")
    (tmp_path / "here" / "tmp").mkdir()
    (tmp_path / "here" / "tmp" / "being-written").write_bytes(b"epo")
    here.keep()
    left(store, tmp_path / "there")
    assert (tmp_path / "there" / "model" / "last.ckpt").read_bytes() == b"epoch 3" * 1000
    assert (tmp_path / "there" / "best.ckpt").read_bytes() == b"epoch 1"
    assert not (tmp_path / "there" / "tmp").exists()
    assert "the checkpoint of an earlier attempt is here: best.ckpt, model/last.ckpt" in capsys.readouterr().out


def test_other_inputs_find_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "last.ckpt").write_bytes(b"epoch 3")
    left(store, tmp_path / "here").keep()
    left(store, tmp_path / "there", "another-key")
    assert list((tmp_path / "there").iterdir()) == []


def test_only_what_is_new_goes_up_and_what_it_replaces_goes(store: Store, tmp_path: Path) -> None:
    here = left(store, tmp_path / "here")
    (tmp_path / "here" / "best.ckpt").write_bytes(b"best")
    for epoch in range(3):
        (tmp_path / "here" / "last.ckpt").write_bytes(b"epoch %d" % epoch)
        with mock.patch.object(store, "put_file", wraps=store.put_file) as put:
            here.keep()
            here.keep()
        assert put.call_count == (2 if epoch == 0 else 1)
    assert len(store.list("checkpoints/key/")) == 3, "last.json and one object for each of two files"
    there = left(store, tmp_path / "there")
    assert (tmp_path / "there" / "last.ckpt").read_bytes() == b"epoch 2"
    (tmp_path / "there" / "last.ckpt").write_bytes(b"epoch 9")
    there.keep()
    assert len(store.list("checkpoints/key/")) == 3, "also when another attempt had put it"


def test_a_torn_checkpoint_is_refused_by_name(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = left(store, tmp_path / "here")
    (tmp_path / "here" / "last.ckpt").write_bytes(b"epoch 3")
    here.keep()
    (torn,) = [key for key in store.list("checkpoints/key/") if not key.endswith("last.json")]
    for spoil in (lambda: store.put(torn, b"epoch 2"), lambda: store.delete(torn)):
        spoil()
        left(store, tmp_path / "there")
        assert list((tmp_path / "there").iterdir()) == []
        assert "is refused, and the stage begins anew: " in capsys.readouterr().out


@pytest.mark.parametrize("named", [b"{", b"[]", b'{"files": {"../../x": {"object": "o", "sha256": "0"}}}'])
def test_a_list_of_files_that_nobody_wrote_is_refused(
    store: Store, tmp_path: Path, named: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("checkpoints/key/last.json", named)
    store.put("checkpoints/key/o", b"evil")
    left(store, tmp_path / "a" / "b" / "there")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "begins anew" in capsys.readouterr().out


def test_two_attempts_at_once_never_remove_what_the_other_named(store: Store, tmp_path: Path) -> None:
    one, other = left(store, tmp_path / "one"), left(store, tmp_path / "other")
    for attempt in (one, other):  # the same inputs give the same bytes
        (attempt.folder / "last.ckpt").write_bytes(b"epoch 1")
    one.keep()
    real = store.put

    def while_it_names(key: str, data: bytes) -> None:
        with mock.patch.object(store, "put", real):
            (one.folder / "last.ckpt").write_bytes(b"epoch 2")
            one.keep()
        real(key, data)

    with mock.patch.object(store, "put", while_it_names):
        other.keep()
    left(store, tmp_path / "there")
    assert (tmp_path / "there" / "last.ckpt").read_bytes() == b"epoch 1"


def test_what_is_written_in_place_while_it_goes_up_is_not_named(store: Store, tmp_path: Path) -> None:
    here = left(store, tmp_path / "here")
    file = tmp_path / "here" / "last.ckpt"
    file.write_bytes(b"epoch 1")
    real = store.put_file

    def while_it_goes(key: str, path: Path) -> None:
        real(key, path)
        with file.open("ab") as opened:
            opened.write(b" and a half")

    with mock.patch.object(store, "put_file", while_it_goes):
        here.keep()
    assert not store.exists("checkpoints/key/last.json")


def test_while_a_stage_runs_the_newest_is_kept_at_the_end_of_the_work_and_when_it_fails(
    store: Store, tmp_path: Path
) -> None:
    here, named = left(store, tmp_path / "here"), threading.Event()
    real = store.put

    def put(key: str, data: bytes) -> None:
        real(key, data)
        named.set()

    def fails() -> None:
        with here.kept(3600):
            (tmp_path / "here" / "last.ckpt").write_bytes(b"the last epoch")
            assert not named.is_set()
            (tmp_path / "here" / checkpoints.FINISHED).touch()
            assert named.wait(60), "`finished` asks for it at once"
            (tmp_path / "here" / "last.ckpt").write_bytes(b"and more")
            raise RuntimeError

    with mock.patch.object(store, "put", put), pytest.raises(RuntimeError):
        fails()
    left(store, tmp_path / "there")
    assert (tmp_path / "there" / "last.ckpt").read_bytes() == b"and more"


def test_a_store_that_is_away_does_not_stop_the_stage(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, tried = left(store, tmp_path / "here"), threading.Event()

    def away(key: str, path: Path) -> None:
        tried.set()
        raise StoreUnavailable(f"{key} is away")

    (tmp_path / "here" / "last.ckpt").write_bytes(b"epoch 1")
    with here.kept(0.1):
        with mock.patch.object(store, "put_file", away):
            assert tried.wait(60)
        while not store.exists("checkpoints/key/last.json"):
            time.sleep(0.05)
    assert "no checkpoint was kept this time: " in capsys.readouterr().out


# --- a stage of a run

# Counts to six; each step is kept, and the count is what comes out. It can be told to die.
COUNTS = """\
import os, pathlib, signal, time
home = pathlib.Path(os.environ["NIGHTSHIFT_CHECKPOINTS"])
home.mkdir(exist_ok=True)
kept = home / "count"
count = int(kept.read_text()) if kept.exists() else 0
while count < 6:
    count += 1
    print("STEP", count, flush=True)
    (home / "tmp").mkdir(exist_ok=True)
    (home / "tmp" / "count").write_text(str(count))
    (home / "tmp" / "count").replace(kept)
    if count == 3 and pathlib.Path({mark!r}).exists():
        {dies}
"""


def counting(world: World, run: str, dies: str) -> Path:
    mark = world.root.with_name("dies")
    mark.touch()
    code = COUNTS.format(mark=str(mark), dies=dies)
    world.edit("pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]  # {run}\n{code}")
    world.edit("pipelines/train.py", "model + rows", "model + rows + str(count)")
    return mark


def steps(output: str) -> list[int]:
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith("STEP")]


def kept(world: World) -> set[str]:
    with world.settings_of():
        return {key.split("/")[1] for key in open_store(world.work).list("checkpoints/")}


def test_a_stage_that_died_goes_on_on_another_disk_and_leaves_nothing(world: World, run: str, tmp_path: Path) -> None:
    mark = counting(world, run, "os.kill(os.getpid(), signal.SIGKILL)")
    before = kept(world)
    first = world.try_engine("stage", TRAIN, *begun(world, run))
    assert first.status == 1
    assert steps(first.output) == [1, 2, 3]
    mark.unlink()
    other = tmp_path / "other-machine"
    second = world.engine("stage", TRAIN, *at("train_m1", run), "--attempt", "2", NIGHTSHIFT_HOME=str(other))
    assert steps(second.output) == [4, 5, 6]
    assert kept(world) == before
    # Undisturbed, from nothing, the bytes are the same; a rerun takes nothing of what others left.
    again = world.engine("stage", TRAIN, *begun(world, f"{run}-2", "train_m1", "--conf", '{"rerun": true}'))
    assert steps(again.output) == [1, 2, 3, 4, 5, 6]


def test_a_worker_that_is_killed_outright_costs_what_came_after_the_last_checkpoint(
    world: World, run: str, tmp_path: Path
) -> None:
    mark = counting(world, run, "print('WAITS', os.getpid(), flush=True); time.sleep(300)")
    engine = world.start("stage", TRAIN, *begun(world, run), NIGHTSHIFT_CHECKPOINT_SECONDS="0.2")
    child = next(int(line.split()[1]) for line in engine.stdout or () if line.startswith("WAITS"))
    three = hashlib.sha256(b"3").hexdigest()
    with world.settings_of():
        store = open_store(world.work)
        while not any(three in str(store.get(key)) for key in store.list("checkpoints/") if key.endswith("last.json")):
            time.sleep(0.1)
    engine.kill()
    engine.wait()
    assert gone(child)
    mark.unlink()
    # Other inputs never go on from it.
    world.edit("params.yaml", 'name: "0"', f"name: {run}")
    changed = world.engine("stage", TRAIN, *begun(world, f"{run}-changed"))
    assert steps(changed.output) == [1, 2, 3, 4, 5, 6]
    second = world.engine("stage", TRAIN, *at("train_m1", run), "--attempt", "2", NIGHTSHIFT_HOME=str(tmp_path / "b"))
    assert steps(second.output) == [4, 5, 6]


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_a_setting_that_is_no_time_is_named(text: str) -> None:
    with (
        mock.patch.dict(os.environ, {"NIGHTSHIFT_CHECKPOINT_SECONDS": text}),
        pytest.raises(NightshiftError, match="NIGHTSHIFT_CHECKPOINT_SECONDS is"),
    ):
        seconds("NIGHTSHIFT_CHECKPOINT_SECONDS", 120)
