"""What nothing reaches goes, and each kind of thing that reaches an object keeps it; real S3 server, real Git."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine import sweep
from nightshift.engine.housekeeping import housekeeping
from nightshift.engine.journal import Journal
from nightshift.engine.key import listing, md5
from nightshift.engine.objects import Objects
from nightshift.engine.reach import Reach
from nightshift.engine.repository import Repository
from nightshift.engine.sweep import GAP, GRACE, survive
from nightshift.errors import NightshiftError
from nightshift.releases.clock import Clock
from nightshift.releases.store import Store, open_store
from tests.engine.conftest import World, make, night
from tests.serving.world import World as Releases

CONFIG = "[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"
LATER = timedelta(days=40)


@dataclass
class Place:
    """A repository, a corner of the S3 server, and objects whose content is the word that they are called by."""

    folder: Path
    url: str
    releases: Releases
    called: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Store:
        return open_store(self.url)

    @property
    def objects(self) -> Objects:
        return Objects(f"{self.url}/dvc", self.folder / ".nightshift" / "cache")

    @property
    def bare(self) -> Path:
        return self.folder / ".nightshift" / "repo.git"

    def put(self, word: str, at: Store | None = None) -> str:
        """The object of a word; its name."""
        return self._put(word, md5(word.encode()), word.encode(), at)

    def put_folder(self, word: str, *members: str) -> str:
        """A folder with these members, each put before; its name."""
        return self._put(word, *listing({member: md5(member.encode()) for member in members}))

    def _put(self, word: str, name: str, content: bytes, at: Store | None = None) -> str:
        (at or self.objects.store).put(f"files/md5/{name[:2]}/{name[2:]}", content)
        self.called[name] = word
        return name

    def there(self, store: Store | None = None) -> set[str]:
        keys = (store or self.objects.store).list("files/md5/")
        return {self.called.get(name, name) for name in (key[10:].replace("/", "") for key in keys)}

    def git(self, *arguments: str) -> str:
        who = {f"GIT_{role}_{what}": "p@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=os.environ | who, check=True, capture_output=True
        )
        return done.stdout.decode().strip()

    def commit(self, *names: str, days_ago: float = 0, file: str = "dvc.lock") -> str:
        """A commit whose file names these objects."""
        out = [f"    - path: o{number}\n      md5: {name}\n" for number, name in enumerate(names)]
        (self.folder / file).write_text("stages:\n  s:\n    outs:\n" + "".join(out))
        at = int((datetime.now(UTC) + LATER - timedelta(days=days_ago)).timestamp())
        self.git("add", ".")
        os.environ["GIT_COMMITTER_DATE"] = f"{at} +0000"
        self.git("commit", "-q", "--allow-empty", "-m", " ".join(["state", *names]))
        del os.environ["GIT_COMMITTER_DATE"]
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        self.git("push", "-q", "--force", "--all", str(self.bare))
        self.git("push", "-q", "--tags", str(self.bare))

    def entry(self, key: str, *outs: str) -> str:
        """A run-cache entry whose outputs are these objects."""
        out = [f"- path: o{number}\n  md5: {name}\n" for number, name in enumerate(outs)]
        deps = f"deps:\n- path: code.py\n  md5: {md5(b'code')}\n"
        path = f"runs/{key[:2]}/{key}/value"
        self.objects.store.put(path, f"cmd: x\n{deps}outs:\n{''.join(out)}".encode())
        return path

    def housekeeping(self, after: timedelta = LATER, **how: Any) -> dict[str, int]:
        swept: dict[str, int] = housekeeping(now=Clock(self.work)() + after, **how).details["swept"]
        return swept


@pytest.fixture
def place(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Nothing has happened there yet but a first commit, 200 days ago."""
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3.work}/sweep-{os.urandom(4).hex()}"
    made = Place(tmp_path, url, Releases(tmp_path / "releases"))
    monkeypatch.setenv("NIGHTSHIFT_WORK", url)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "releases" / "registry"))
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / ".nightshift"))
    monkeypatch.setenv("NIGHTSHIFT_REPO", str(made.bare))
    monkeypatch.setenv("NIGHTSHIFT_BRANCH", "main")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(CONFIG.format(url=f"{url}/dvc"))
    (tmp_path / ".gitignore").write_text(".nightshift\nreleases\n")
    made.git("init", "-q", "-b", "main", ".")
    made.git("init", "-q", "--bare", str(made.bare))
    made.commit(days_ago=200)
    made.push()
    return made


def test_each_kind_of_thing_that_reaches_an_object_keeps_it_and_the_rest_goes(place: Place) -> None:
    put = place.put
    place.commit(put("replaced 150 days ago"), put("150 days and lost"), days_ago=180)
    place.commit(put("until 60 days ago"), days_ago=150)
    place.git("tag", "-m", "the paper's", "paper")
    place.commit(put("tagged"), days_ago=140)
    place.git("tag", "light")
    place.commit(put("yesterday's"), days_ago=60)
    place.commit(put("the tip's"), put("a member"), place.put_folder("a folder", "a member"), days_ago=1)
    place.commit(put("of a .dvc file"), file="data.dvc", days_ago=0)
    place.git("switch", "-qc", "nightshift/train_m/r9")
    place.commit(put("of a run's branch"), days_ago=170)
    place.git("switch", "-q", "main")
    place.push()
    place.git("switch", "-qc", "mine")
    place.commit(put("of a branch that was not pushed"), days_ago=0)
    place.git("switch", "-q", "main")
    (place.folder / "dvc.lock").write_text(f"md5: {put('of an edit')}")

    tip = place.git("rev-parse", "main")
    journal = Journal(place.work, "train_m", "r1")
    journal.put("base.json", {"commit": tip, "stages": {"s": {"entry": {"outs": [{"md5": put("of a base")}]}}}})
    journal.put("stages/s.json", {"entry": {"outs": [{"md5": put("of a run under way")}]}})
    lineage = {
        "train_outputs": {"w": put("trained")},
        "dataset": {"md5": put("described"), "partitions": {"d": put("day")}},
    }
    place.releases.publish(lineage=lineage)

    put("unreached")
    put("another's member")
    place.put_folder("an unreached folder", "another's member")
    kept = place.there() - {
        "unreached",
        "another's member",
        "an unreached folder",
        "replaced 150 days ago",
        "150 days and lost",
    }

    said: list[str] = []
    assert place.housekeeping(dry_run=True, say=said.append)["objects"] == 5
    assert any("would remove 5 objects" in line and "nothing reaches" in line for line in said)
    assert any("for a commit" in line and "for a run" in line and "for a release" in line for line in said)
    assert place.there() > kept
    assert place.housekeeping()["objects"] == 5
    assert place.there() == kept
    assert place.housekeeping()["objects"] == 0
    assert place.work.list("clocks/") == []


def test_what_a_dropped_commit_named_goes_once_nothing_names_it_any_more(place: Place) -> None:
    dropped = place.put("dropped")
    place.commit(dropped)
    place.push()
    entry = place.entry("aa" * 32, dropped)
    place.git("reset", "-q", "--hard", "HEAD~1")
    place.push()
    place.git("update-ref", "-d", "ORIG_HEAD")
    # First its run-cache entry: somebody may just have read it.
    assert place.housekeeping() == {"objects": 0, "entries": 1, "cached": 0}
    assert not place.objects.store.exists(entry)
    assert place.there() == {"dropped"}
    assert place.housekeeping() == {"objects": 1, "entries": 0, "cached": 0}
    assert place.there() == set()


def test_an_hour_lies_between_a_run_cache_entry_and_what_it_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "GRACE", -timedelta(minutes=1))  # everything is old at once
    place.entry("aa" * 32, place.put("restored"))
    assert place.housekeeping(timedelta(0))["entries"] == 1
    assert place.housekeeping(GAP - timedelta(minutes=5))["objects"] == 0
    assert place.there() == {"restored"}
    assert place.housekeeping(GAP + timedelta(minutes=5))["objects"] == 1


def test_a_run_cache_entry_stays_as_long_as_it_is_of_use_or_young(place: Place) -> None:
    live, lost = place.put("live"), md5(b"lost")
    place.commit(live, lost)
    place.push()
    useful, useless = place.entry("aa" * 32, live), place.entry("bb" * 32, live, lost)
    young = place.housekeeping(GRACE - timedelta(hours=1))
    assert young["entries"] == 0
    assert place.housekeeping()["entries"] == 1
    assert place.objects.store.exists(useful)
    assert not place.objects.store.exists(useless)


def test_what_is_young_stays_by_the_clock_of_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("just pushed, not named yet")
    # This machine's clock does not come into it, however wrong it is.
    monkeypatch.setattr("nightshift.engine.housekeeping.datetime", None)
    assert housekeeping().details["swept"]["objects"] == 0
    assert place.there() == {"just pushed, not named yet"}
    assert place.housekeeping(GRACE - timedelta(hours=1))["objects"] == 0
    assert place.housekeeping(GRACE + timedelta(hours=1))["objects"] == 1


def test_the_cache_of_this_machine_is_swept_too(place: Place) -> None:
    cache = open_store(str(place.objects.cache))
    place.commit(place.put("reached", cache))
    place.push()
    place.put("unreached", cache)
    place.objects.path(md5(b"unreached")).chmod(0o444)
    assert place.housekeeping()["cached"] == 1
    assert place.there(cache) == {"reached"}


def test_a_repository_that_is_not_the_nights_own_removes_nothing(place: Place) -> None:
    place.put("unreached")
    Journal(place.work, "train_m", "r1").put("base.json", {"commit": "0" * 40})
    with pytest.raises(NightshiftError, match="repository that the nights run on"):
        place.housekeeping()
    assert place.there() == {"unreached"}


def test_a_damaged_listing_removes_nothing_of_what_it_may_have_named(place: Place) -> None:
    folder = place.put_folder("folder", place.called[place.put("member")])
    place.commit(folder)
    place.push()
    place.objects.store.put(f"files/md5/{folder[:2]}/{folder[2:]}", b"[]")
    with pytest.raises(NightshiftError, match=folder[:8]):
        place.housekeeping()
    assert place.there() == {"folder", "member"}


def test_a_remote_that_others_may_use_is_left_alone(place: Place, s3: Any) -> None:
    place.put("another project's")
    (place.folder / ".dvc" / "config").write_text(CONFIG.format(url=f"s3://{s3.work}/shared"))
    place.commit()
    place.push()
    said: list[str] = []
    assert place.housekeeping(say=said.append) == {}
    assert any("others may use them" in line for line in said)


def test_it_looks_through_the_objects_once_a_day(place: Place) -> None:
    assert housekeeping(daily=True).details["swept"]
    assert not housekeeping(daily=True).details["swept"]
    place.put("unreached")
    assert place.housekeeping(daily=True)["objects"] == 1


def test_a_sweep_killed_anywhere_is_ended_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in map(str, range(30)):
        place.put(word)
    place.put_folder("folder", *map(str, range(30)))
    delete = type(place.work).delete

    class Killed(BaseException):
        pass

    def die(store: Store, key: str, after: list[int] = [9]) -> None:  # noqa: B006 - counts down
        if key.startswith("files"):
            after[0] -= 1
            if after[0] < 0:
                raise Killed
        delete(store, key)

    with monkeypatch.context() as patch:
        patch.setattr(type(place.work), "delete", die)
        with pytest.raises(Killed):
            place.housekeeping()
    left = place.there()
    assert 0 < len(left) < 30
    assert "folder" not in left  # a listing goes before its members
    assert place.housekeeping()["objects"] == len(left)
    assert place.there() == set()


@pytest.mark.parametrize("looks", ["while it goes", "when all is over"])
def test_who_makes_an_object_again_while_it_is_removed_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, looks: str
) -> None:
    """The push found the old object there; then the journals were read; then the fragment was put."""
    name = place.put("made again")
    place.put("made again", open_store(str(place.objects.cache)))
    read, put, delete = threading.Event(), threading.Event(), type(place.work).delete

    def waiting(self: Store, key: str) -> None:
        if key.startswith("files"):
            read.set()
            assert put.wait(60)
        delete(self, key)

    monkeypatch.setattr(type(place.work), "delete", waiting)
    removal = threading.Thread(target=place.housekeeping)
    removal.start()
    assert read.wait(60)
    Journal(place.work, "train_m", "r1").put("stages/s.json", {"entry": {"outs": [{"md5": name}]}})
    saved = threading.Thread(target=survive, args=(place.work, place.objects, [name]))
    if looks == "while it goes":
        saved.start()
    put.set()
    removal.join()
    if looks == "when all is over":
        assert place.there() == set()
        saved.start()
    saved.join()
    assert place.there() == {"made again"}


def test_what_was_named_after_it_was_looked_at_stays(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    name, put = place.put("named late"), type(place.work).put

    def name_it(store: Store, key: str, data: bytes) -> None:
        put(store, key, data)
        if key.startswith("sweeps/") and name.encode() in data:
            Journal(place.work, "train_m", "r1").put("stages/s.json", {"entry": {"outs": [{"md5": name}]}})

    monkeypatch.setattr(type(place.work), "put", name_it)
    assert place.housekeeping()["objects"] == 0
    assert place.there() == {"named late"}


def test_params_say_how_many_days_of_history_stay(place: Place) -> None:
    place.commit(place.put("until 60 days ago"), days_ago=150)
    place.commit(place.put("the tip's"), days_ago=60)
    (place.folder / "params.yaml").write_text("housekeeping: {history_days: 61}")
    place.commit(place.put("the newest"))
    place.git("add", ".")
    place.push()
    (place.folder / ".git").rename(place.folder / "away")
    assert place.housekeeping()["objects"] == 0
    (place.folder / "away").rename(place.folder / ".git")
    (place.folder / "params.yaml").write_text("housekeeping: {history_days: 59}")
    place.commit(place.put("the newest"))
    place.push()
    assert place.housekeeping()["objects"] == 1


def test_the_journal_of_a_run_stays_as_long_as_its_release(place: Place) -> None:
    digest = place.releases.publish()
    evidence = {"dag": "train_toy", "run": "made+it", "commit": "c"}
    place.releases.order(digest, "proven", what="deploy", evidence=evidence)
    tip = place.git("rev-parse", "main")
    for run in ("made+it", "other"):
        Journal(place.work, "train_toy", run).put("base.json", {"commit": tip})
    removed = housekeeping(now=Clock(place.work)() + timedelta(days=100)).details["removed"]
    assert removed["runs"] == 1
    assert place.work.list("runs/") == ["runs/train_toy/made-it/base.json"]


USED = """
import json, sys
from dvc.repo import Repo
repo = Repo(sys.argv[1])
used = {}
for rev in repo.brancher(all_commits=True, workspace=False):
    for odb, objects in repo.index.used_objs(force=True).items():
        used.setdefault(rev, []).extend(info.value for info in objects)
print(json.dumps(sorted({name for names in used.values() for name in names})))
"""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> World:
    """A world of its own after its first night."""
    world = make(tmp_path_factory.mktemp("lived"), s3, f"lived-{os.urandom(4).hex()}")
    world.land("a", "2026-01-01", "1", "2", "3")
    night(world, "night-1", ["a"], ["m1"])
    return world


@pytest.mark.long
def test_all_that_dvc_says_a_commit_uses_is_reached(lived: World) -> None:
    folder = lived.clone("used")
    shutil.copy(lived.root / ".dvc" / "config", folder / ".dvc" / "config")
    done = subprocess.run(
        [sys.executable, "-c", USED, str(folder)], env=lived.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    used = set(json.loads(done.stdout))
    assert len(used) > 5
    with lived.settings_of():
        nothing = open_store(str(lived.home / "nothing"))  # no run and no release
        reach = Reach(nothing, nothing, Objects(f"{lived.work}/dvc", lived.home / "cache"), timedelta(days=90))
        assert used <= reach.names(Repository(lived.bare), None, datetime.now(UTC)).keys()


@pytest.mark.long
def test_a_stage_that_computes_again_what_is_being_removed_loses_nothing(
    lived: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run goes on, in processes of its own, while housekeeping stands before its first removal."""
    before = lived.tip()
    lived.edit("params.yaml", "name: two, epochs: 2", "name: two, epochs: 3")
    lived.edit("params.yaml", 'name: "0", epochs: 2', 'name: "0", epochs: 3')
    lived.train_run("dropped")
    lived.git("push", "-q", "--force", "origin", f"{before}:refs/heads/main")
    lived.git("reset", "-q", "--hard", before)
    with lived.settings_of():
        work, remote = open_store(lived.work), lived.remote()
        for store, prefix in ((remote, "runs/"), (work, "runs/train_m1/dropped/")):
            for key in store.list(prefix):
                store.delete(key)
    lived.edit("params.yaml", 'name: "0", epochs: 2', 'name: "0", epochs: 3')
    at = ("--dag", "train_m1", "--run", "again")
    lived.engine("begin", *at)

    read, put, delete = threading.Event(), threading.Event(), type(remote).delete

    def waiting(self: Store, key: str) -> None:
        if key.startswith("files"):
            read.set()
            assert put.wait(100)
        delete(self, key)

    monkeypatch.setattr(type(remote), "delete", waiting)
    swept: list[dict[str, int]] = []
    with lived.settings_of():
        later = Clock(work)() + LATER
        removal = threading.Thread(target=lambda: swept.append(housekeeping(now=later).details["swept"]))
        removal.start()
        assert read.wait(100)
        with lived.start("stage", "train@m1", *at) as stage:
            until = time.monotonic() + 100
            while not work.exists("runs/train_m1/again/stages/train@m1.json"):
                assert stage.poll() is None, stage.stdout.read() if stage.stdout else ""
                assert time.monotonic() < until
                time.sleep(0.1)
            put.set()
            said, _ = stage.communicate(timeout=100)
        removal.join()
        assert stage.returncode == 0, said
        assert "housekeeping removes what this run made again" in said
        assert swept[0]["objects"] >= 1
        entry, objects = lived.fragment("train_m1", "again", "stages/train@m1.json")["entry"], lived.remote()
        assert Objects(f"{lived.work}/dvc", Path("/nowhere")).lost(entry) == []

        # The same, had the stage been killed before it looked: the next attempt does.
        monkeypatch.undo()
        (marker,) = [key for key in work.list("sweeps/") if key.endswith(".json")]
        for name in json.loads(work.get(marker))["objects"]:
            objects.delete(f"files/md5/{name[:2]}/{name[2:]}")
        assert "found" in lived.engine("stage", "train@m1", *at).output
        assert Objects(f"{lived.work}/dvc", Path("/nowhere")).lost(entry) == []
