"""What is old goes whole, what is not stays, and a removal that stops half-way leaves nothing that looks whole."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nightshift.engine.housekeeping import KEPT, housekeeping, old
from nightshift.releases.store import FolderStore

NOW = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    """A work bucket in a folder: key to its age in days."""
    monkeypatch.setenv("NIGHTSHIFT_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.delenv("NIGHTSHIFT_REPO", raising=False)
    store = FolderStore(tmp_path / "work")
    ages = {
        "runs/train_m/long-ago/base.json": 120,
        "runs/train_m/long-ago/stages/train@m.json": 91,
        "runs/train_m/cleared-lately/base.json": 120,
        "runs/train_m/cleared-lately/stages/train@m.json": 3,
        "nights/2026-07-01.1/night.json": 150,
        "nights/2026-07-01.1/told.json": 149,
        "checkpoints/abandoned/last.json": 20,
        "checkpoints/abandoned/0a/file": 20,
        "checkpoints/going-on/last.json": 0,
        "checkpoints/going-on/0b/file": 40,
        "leases/held.json": 0,
        "leases/dead.json": 2,
        "sweeps/killed.json": 2,
        "sweeps/done": 0,
        "clocks/killed": 2,
        "held/mnist/date=2020-01-01.json": 2000,
        "durations/train@m.json": 2000,
        "dvc/files/md5/aa/bb": 2000,
    }
    for key, days in ages.items():
        store.put(key, b"{}")
        at = (NOW - timedelta(days=days)).timestamp()
        os.utime(store.root / key, (at, at))
    return store


def test_what_is_old_goes_whole_and_nothing_else(work: FolderStore, capsys: pytest.CaptureFixture[str]) -> None:
    before = work.list("")
    foreseen = housekeeping(dry_run=True, now=NOW)
    assert work.list("") == before
    would = re.findall(r"would remove \S+/work/(\S+)", capsys.readouterr().out)
    done = housekeeping(now=NOW)
    gone = set(before) - set(work.list(""))
    single = {"leases/dead.json", "sweeps/killed.json", "clocks/killed"}
    assert {key.rpartition("/")[0] for key in gone - single} == {
        "runs/train_m/long-ago",
        "runs/train_m/long-ago/stages",
        "nights/2026-07-01.1",
        "checkpoints/abandoned",
        "checkpoints/abandoned/0a",
    }
    assert gone >= single
    assert sorted(would) == [
        "checkpoints/abandoned",
        "clocks/killed",
        "leases/dead.json",
        "nights/2026-07-01.1",
        "runs/train_m/long-ago",
        "sweeps/killed.json",
    ]
    assert foreseen.details == done.details == {"removed": dict.fromkeys(KEPT, 1), "swept": {}}
    assert housekeeping(now=NOW).message == "removed by age: nothing"


def test_what_names_the_others_goes_first(work: FolderStore) -> None:
    written = work.written("runs/")
    assert old(written, "runs", NOW)["runs/train_m/long-ago"][0].endswith("/base.json")
    assert old(work.written("checkpoints/"), "checkpoints", NOW)["checkpoints/abandoned"][0].endswith("/last.json")
