"""Our own fetch and push do what DVC's would: same lock, same layout, same files; and nothing wrong gets through."""

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import uuid4

import pytest

from nightshift.engine import lock, transfer
from nightshift.engine.key import EMPTY_LISTING, listing, md5
from nightshift.engine.objects import Objects
from nightshift.errors import NightshiftError
from nightshift.releases.s3_store import S3Store
from tests.engine.conftest import World
from tests.engine.test_stage import TRAIN, at, begun, own

# A stage with every kind of output that DVC knows, and one that reads them all.
ODD = """\
  odd:
    cmd: python -m pipelines.odd
    deps: [pipelines/odd.py, artifacts/datasets/a/train]
    outs: [artifacts/odd/tool, artifacts/odd/empty.txt, artifacts/odd/folder, artifacts/odd/nothing]
    meta: {airflow: {dag: train_m1}}
  reads:
    cmd: python -m pipelines.reads
    deps: [pipelines/reads.py, artifacts/odd/tool, artifacts/odd/empty.txt, artifacts/odd/folder, artifacts/odd/nothing]
    outs: [artifacts/reads.txt]
    meta: {airflow: {dag: train_m1}}
"""
WRITES = """\
from pathlib import Path
odd = Path("artifacts/odd")
(odd / "nothing").mkdir(parents=True)
(odd / "folder/a/b").mkdir(parents=True)
(odd / "folder/empty").mkdir()
(odd / "folder/a/b/one").write_text("one {run}")
(odd / "folder/same").write_text("one {run}")
(odd / "folder/\u00e9 \u65e5.txt").write_text("named in Unicode")
(odd / "folder/run.sh").write_text("#!/bin/sh")
(odd / "folder/run.sh").chmod(0o755)
(odd / "tool").write_text("#!/bin/sh\\necho {run}\\n")
(odd / "tool").chmod(0o755)
(odd / "empty.txt").touch()
"""
READS = """\
import os, subprocess
from pathlib import Path
odd = Path("artifacts/odd")
found = [f"{path} {oct(path.stat().st_mode & 0o777)} {path.stat().st_nlink if path.is_file() else ''}"
         for path in sorted(odd.rglob("*"))]
found.append(subprocess.run([str(odd / "tool")], capture_output=True, text=True, check=True).stdout)
Path("artifacts/reads.txt").write_text("\\n".join(found))
"""


def with_odd_stages(world: World, run: str) -> None:
    (world.root / "dvc.yaml").open("a").write(ODD)
    (world.root / "pipelines" / "odd.py").write_text(WRITES.format(run=run))
    (world.root / "pipelines" / "reads.py").write_text(READS)
    world.git("add", "dvc.yaml", "pipelines")
    world.git("commit", "-qm", "odd stages")
    world.git("push", "-q", "origin", "main")


@pytest.mark.long
def test_every_kind_of_output_ends_in_the_lock_and_the_layout_of_dvc(world: World, run: str, tmp_path: Path) -> None:
    with_odd_stages(world, run)
    here = begun(world, run)
    world.engine("stage", TRAIN, *here)
    world.engine("pin", "m1", *here)
    world.engine("stage", "evaluate@m1", *here)
    with world.settings_of():
        before = set(world.remote().list("files/"))
    world.engine("stage", "odd", *here)
    with world.settings_of():
        ours = set(world.remote().list("files/")) - before
    # Another machine brings them, and its stage sees what it would see after `dvc pull`.
    world.engine("stage", "reads", *here, NIGHTSHIFT_HOME=str(tmp_path / "other-machine"))
    world.engine("record", *here)

    clone = world.clone("clone")
    lines = world.dvc("pull", "artifacts/reads.txt", "artifacts/odd/tool", "artifacts/odd/folder", at=clone)
    world.dvc("pull", "artifacts/odd/empty.txt", "artifacts/odd/nothing", "artifacts/datasets/a/train", at=clone)
    seen = (clone / "artifacts/reads.txt").read_text()
    assert run in seen
    assert "artifacts/odd/folder/a/b/one 0o644 1" in seen, "a copy of its own, that a stage may write to"
    assert (clone / "artifacts/odd/folder/\u00e9 \u65e5.txt").read_text() == "named in Unicode"
    assert os.access(clone / "artifacts/odd/tool", os.X_OK)
    status = world.dvc("data", "status", "--not-in-remote", "--granular", at=clone)
    assert "Not in remote" not in status, lines + status
    assert "odd" not in world.dvc("status", "odd", "reads", at=clone)

    # What DVC alone makes of it: the same entry, the same objects in a remote of its own.
    world.dvc("remote", "add", "--default", "alone", str(tmp_path / "alone"), at=clone)
    expected = lock.load((clone / "dvc.lock").read_text())["stages"]
    (clone / "dvc.lock").unlink()
    world.dvc("repro", "-q", "-f", "-s", "--no-run-cache", "reads", at=clone)
    assert lock.load((clone / "dvc.lock").read_text())["stages"]["reads"] == expected["reads"]
    world.dvc("repro", "-q", "-f", "-s", "--no-run-cache", "odd", at=clone)
    world.dvc("push", "-q", "odd", at=clone)
    assert lock.load((clone / "dvc.lock").read_text())["stages"]["odd"] == expected["odd"]
    theirs = {path.relative_to(tmp_path / "alone").as_posix() for path in (tmp_path / "alone").rglob("*/*/*/*")}
    assert ours == theirs - before


# --- one object


@pytest.fixture
def objects(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    return Objects(f"s3://{s3.work}/transfer-{uuid4().hex}/dvc", tmp_path / "here" / "cache")


def commit(objects: Objects, content: bytes) -> str:
    """What DVC does with an output: it is in the cache, read-only."""
    name = md5(content)
    objects.path(name).parent.mkdir(parents=True, exist_ok=True)
    objects.path(name).write_bytes(content)
    objects.path(name).chmod(0o444)
    return name


def commit_folder(objects: Objects, files: dict[str, bytes]) -> str:
    name, content = listing({path: commit(objects, data) for path, data in files.items()})
    objects.path(name).parent.mkdir(parents=True, exist_ok=True)
    objects.path(name).write_bytes(content)
    return name


def elsewhere(objects: Objects, folder: Path) -> Objects:
    return Objects(objects.url, folder / "cache")


def fetched(objects: Objects, inputs: dict[str, str], folder: Path) -> Path:
    transfer.fetch(objects, inputs, folder / "tree", folder / "scratch")
    return folder / "tree"


def test_a_folder_travels_and_its_listing_is_put_last(objects: Objects, tmp_path: Path) -> None:
    name = commit_folder(objects, {"a": b"1", "deep/b": b"2", "deep/c": b"2"})
    order = []
    real = objects.store.put_file

    def put(key: str, path: Path) -> None:
        order.append(key)
        real(key, path)

    with mock.patch.object(objects.store, "put_file", put):
        transfer.push(objects, [name])
        transfer.push(objects, [name])
    assert len(order) == 3
    assert order[-1].endswith(".dir")
    there = elsewhere(objects, tmp_path / "there")
    objects.store.put(f"files/md5/{EMPTY_LISTING[:2]}/{EMPTY_LISTING[2:]}", b"[]")
    tree = fetched(there, {"out": name, "none": EMPTY_LISTING}, tmp_path / "there")
    assert list((tree / "none").iterdir()) == []
    assert (tree / "out/deep/c").read_bytes() == b"2"
    assert stat.S_IMODE((tree / "out/a").stat().st_mode) == 0o666 & ~umask()
    assert stat.S_IMODE(there.path(md5(b"1")).stat().st_mode) == 0o444
    assert there.path(name).exists()


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_what_is_in_the_cache_is_not_asked_for(objects: Objects, tmp_path: Path) -> None:
    name = commit_folder(objects, {"a": b"1", "b": b"2"})
    with mock.patch.object(S3Store, "_client", property(lambda _: pytest.fail("it asked the store"))):
        tree = fetched(objects, {"out": name}, tmp_path / "here")
    assert (tree / "out/b").read_bytes() == b"2"
    (tree / "out/b").write_bytes(b"a stage writes")
    assert objects.path(md5(b"2")).read_bytes() == b"2", "the workspace has a copy of its own"


def test_a_wrong_object_of_the_remote_is_named_and_never_used(objects: Objects, tmp_path: Path) -> None:
    name = commit(objects, b"right")
    transfer.push(objects, [name])
    objects.store.put(f"files/md5/{name[:2]}/{name[2:]}", b"wrong")
    there = elsewhere(objects, tmp_path / "there")
    with pytest.raises(NightshiftError, match=rf"{name} of .* is corrupt: its bytes have the digest {md5(b'wrong')}"):
        fetched(there, {"out": name}, tmp_path / "there")
    assert not (tmp_path / "there" / "tree" / "out").exists()
    assert [path for path in (tmp_path / "there").rglob("*") if path.is_file()] == []


def test_a_torn_object_of_the_remote_is_put_again(objects: Objects, capsys: pytest.CaptureFixture[str]) -> None:
    name = commit(objects, b"right")
    objects.store.put(f"files/md5/{name[:2]}/{name[2:]}", b"rig")
    transfer.push(objects, [name])
    assert objects.store.get(f"files/md5/{name[:2]}/{name[2:]}") == b"right"
    assert "has the wrong size, and is replaced by the right one" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["file", "listing"])
def test_a_wrong_object_of_the_cache_is_repaired_from_the_remote(
    objects: Objects, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = commit_folder(objects, {"a": b"right"})
    transfer.push(objects, [name])
    spoilt = objects.path(md5(b"right") if what == "file" else name)
    before = spoilt.read_bytes()
    spoilt.chmod(0o644)
    spoilt.write_bytes(before[::-1])
    assert (fetched(objects, {"out": name}, tmp_path / "here") / "out/a").read_bytes() == b"right"
    assert spoilt.read_bytes() == before
    assert "is not what its name says: fetched again" in capsys.readouterr().out


def test_a_wrong_object_of_the_cache_is_never_pushed(objects: Objects) -> None:
    name = commit(objects, b"right")
    objects.path(name).chmod(0o644)
    objects.path(name).write_bytes(b"wrong")
    with pytest.raises(NightshiftError, match=f"object {name} in the cache .* was not what its name says"):
        transfer.push(objects, [name])
    assert not objects.exists(name)


def test_an_object_that_is_nowhere_is_named(objects: Objects, tmp_path: Path) -> None:
    name = md5(b"nowhere")
    with pytest.raises(NightshiftError, match=f"has no object {name}"):
        fetched(objects, {"out": name}, tmp_path / "here")
    with pytest.raises(NightshiftError, match=f"has lost object {name}"):
        transfer.push(objects, [name])


@pytest.mark.parametrize("path", ["../out", "/out", "a/../../out"])
def test_a_listing_that_leaves_its_folder_is_refused(objects: Objects, tmp_path: Path, path: str) -> None:
    name = commit_folder(objects, {path: b"evil"})
    with pytest.raises(NightshiftError, match=r"the listing .* names"):
        fetched(objects, {"folder": name}, tmp_path / "here")
    assert not list((tmp_path / "here").rglob("out"))


def test_two_who_fetch_the_same_at_once_both_get_it(objects: Objects, tmp_path: Path) -> None:
    name = commit_folder(objects, {str(number): b"%d" % (number % 7) for number in range(40)})
    transfer.push(objects, [name])
    there, failed = elsewhere(objects, tmp_path / "there"), []

    def work(number: int) -> None:
        try:
            tree = fetched(there, {"out": name}, tmp_path / "there" / str(number))
            assert (tree / "out" / "39").read_bytes() == b"4"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte fits on the disk any more."""
    real = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode, *arguments, **more)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.usefixtures("full")
def test_a_full_disk_is_named_with_what_is_needed(objects: Objects, tmp_path: Path) -> None:
    handle = os.open(tmp_path / "data", os.O_CREAT | os.O_WRONLY)
    os.write(handle, b"x" * 2_500_000)
    os.close(handle)
    name = md5(b"x" * 2_500_000)
    objects.path(name).parent.mkdir(parents=True)
    (tmp_path / "data").rename(objects.path(name))
    with pytest.raises(NightshiftError, match=r"the disk of .*scratch is full .*free.*: the inputs take 2\.5 MB"):
        fetched(objects, {"out": name}, tmp_path / "here")


# --- a stage


def test_a_stage_on_a_full_disk_says_where(world: World, run: str) -> None:
    world.edit(
        "pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]\nopen('/dev/full', 'wb', 0).write(b'{run}')"
    )
    ran = world.try_engine("stage", TRAIN, *begun(world, run))
    assert ran.status == 1
    assert "No space left on device" in ran.receipt["message"]
    assert f"MB are free on the disk of {world.home}/work/" in ran.receipt["message"]


def test_what_is_left_to_dvc_is_pulled_and_pushed_by_dvc(world: World, run: str, tmp_path: Path) -> None:
    own(world, run)
    world.edit("dvc.yaml", "      cmd: python -m pipelines.train ${key}\n",
               "      cmd: python -m pipelines.train ${key}\n      always_changed: true\n")  # fmt: skip
    ran = world.engine("stage", TRAIN, *begun(world, run), NIGHTSHIFT_HOME=str(tmp_path / "other-machine"))
    assert ran.outcome in ("done", "unchanged")
    assert "left to DVC: always_changed" in ran.output
    assert "its inputs: " not in ran.output
    entry = world.fragment("train_m1", run, f"stages/{TRAIN}.json")["entry"]
    with world.settings_of():
        objects = Objects(f"{world.work}/dvc", tmp_path / "nothing")
        assert all(objects.complete(out["md5"]) for out in entry["outs"])


def test_two_stages_at_once_share_a_cache(world: World, run: str) -> None:
    own(world, run)
    world.edit("pipelines/validate.py", "\n", f"\n# {run}\n")
    begun(world, run)
    begun(world, run, "ingest_a", "--until", "2026-12-31")
    world.engine("ingest", "a", *at("ingest_a", run))
    with (
        world.start("stage", TRAIN, *at("train_m1", run)) as one,
        world.start("stage", "validate@a", *at("ingest_a", run)) as other,
    ):
        said = [one.communicate()[0], other.communicate()[0]]
        assert [one.returncode, other.returncode] == [0, 0], said
