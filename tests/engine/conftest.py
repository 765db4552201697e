"""A tiny project with the shape of the real one: real Git, real DVC, the real S3 server; stages of a few lines."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from nightshift import NO_TELEMETRY
from nightshift.engine.__main__ import main
from nightshift.engine.journal import Journal
from nightshift.releases.store import Store, open_store

PROJECT = Path(__file__).with_name("project")
EMPTY_LISTING = "files/md5/d7/51713988987e9331980363e24189ce.dir"


@dataclass
class Ran:
    """What one call of the engine gave."""

    status: int
    output: str
    receipt: dict[str, Any]

    def __post_init__(self) -> None:
        self.outcome = self.receipt.get("outcome")


@dataclass(frozen=True)
class World:
    """A checkout, its bare repository, a machine's folder and a corner of the S3 server."""

    root: Path
    bare: Path
    home: Path
    work: str
    settings: dict[str, str]

    @property
    def environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        kept = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.home), "LANG": "C.UTF-8"}
        return kept | self.settings | {
            "NIGHTSHIFT_WORK": self.work,
            "NIGHTSHIFT_REGISTRY": str(self.root.with_name("registry")),
            "NIGHTSHIFT_HOME": str(self.home),
            "NIGHTSHIFT_REPO": str(self.bare),
            "NIGHTSHIFT_BRANCH": "main",
            **NO_TELEMETRY,
            "DVC_SITE_CACHE_DIR": str(self.home / "site"),
        }  # fmt: skip

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "nightshift.engine", *arguments]
        return subprocess.Popen(
            command,
            env=self.environment | more,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def try_engine(self, *arguments: str, **more: str) -> Ran:
        """One verb, in this process; whatever the exit status."""
        receipt = self.home / f"receipt-{os.urandom(4).hex()}.json"
        said = io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment | more, clear=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            status = main([*arguments, "--receipt", str(receipt)])
        return Ran(status, said.getvalue(), json.loads(receipt.read_text()) if receipt.exists() else {})

    def engine(self, *arguments: str, **more: str) -> Ran:
        """One verb that must succeed."""
        ran = self.try_engine(*arguments, **more)
        assert ran.status == 0, ran.output
        return ran

    def ingest_run(self, run: str, dataset: str = "a", *, conf: dict[str, Any] | None = None) -> dict[str, Ran]:
        """One run of a data set's DAG, as Airflow would order its tasks."""
        at = ("--dag", f"ingest_{dataset}", "--run", run)
        return {
            "begin": self.engine("begin", *at, "--conf", json.dumps(conf or {"until": "2026-12-31"})),
            "ingest": self.engine("ingest", dataset, *at),
            "validate": self.engine("stage", f"validate@{dataset}", *at),
            "accept": self.engine("accept", dataset, *at),
            "prepare": self.engine("stage", f"prepare@{dataset}", *at),
            "record": self.engine("record", *at),
        }

    def train_run(self, run: str, model: str = "m1", *, conf: dict[str, Any] | None = None) -> dict[str, Ran]:
        """One run of a model's DAG, up to its record."""
        at = ("--dag", f"train_{model}", "--run", run)
        return {
            "begin": self.engine("begin", *at, "--conf", json.dumps(conf or {})),
            "train": self.engine("stage", f"train@{model}", *at),
            "pin": self.engine("pin", model, *at),
            "evaluate": self.engine("stage", f"evaluate@{model}", *at),
            "record": self.engine("record", *at),
        }

    def land(self, dataset: str, day: str, *lines: str) -> None:
        """Rows of one day in the landing zone."""
        folder = self.root.with_name("landing") / dataset
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{day}.txt").write_text("".join(f"{line}\n" for line in lines))

    def git(self, *arguments: str, at: Path | None = None) -> str:
        who = {f"GIT_{role}_{what}": "p@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        return subprocess.run(
            ["git", *arguments],
            cwd=at or self.root,
            env=self.environment | who,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def dvc(self, *arguments: str, at: Path | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["dvc", *arguments], cwd=at or self.root, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def edit(self, path: str, old: str, new: str) -> None:
        """A person's commit in the checkout, pushed."""
        self.git("pull", "-q", "--ff-only", "origin", "main")
        self.edit_here(path, old, new)
        self.git("push", "-q", "origin", "main")

    def edit_here(self, path: str, old: str, new: str) -> None:
        """A person's commit on the branch that is checked out."""
        file = self.root / path
        text = file.read_text()
        assert old in text, path
        file.write_text(text.replace(old, new))
        self.git("commit", "-qam", f"edit {path}")

    def tip(self) -> str:
        return self.git("rev-parse", "main", at=self.bare).strip()

    def at_tip(self, path: str) -> str:
        return self.git("show", f"main:{path}", at=self.bare)

    def clone(self, name: str) -> Path:
        """A fresh clone of the branch, with an object cache of its own."""
        folder = self.root.with_name(name)
        self.git("clone", "-q", str(self.bare), str(folder), at=self.root.parent)
        return folder

    @contextlib.contextmanager
    def settings_of(self) -> Iterator[None]:
        """This process has the world's settings."""
        with mock.patch.dict(os.environ, self.environment, clear=True):
            yield

    def journal(self, dag: str, run: str) -> Journal:
        """A run's journal; use it under ``settings_of``."""
        return Journal.open(dag, run)

    def fragment(self, dag: str, run: str, name: str) -> dict[str, Any]:
        with self.settings_of():
            found = Journal.open(dag, run).get(name)
        assert found is not None, name
        return found

    def remote(self) -> Store:
        """DVC's remote; use it under ``settings_of``."""
        return open_store(f"{self.work}/dvc")


def make(folder: Path, s3: Any, name: str) -> World:
    """A world that has had no night."""
    work = f"s3://{s3.work}/{name}"
    world = World(folder / "checkout", folder / "bare.git", folder / "home", work, s3.environment("worker"))
    shutil.copytree(PROJECT, world.root)
    world.home.mkdir()
    config = "[core]\n    remote = store\n    analytics = false\n"
    config += f"['remote \"store\"']\n    url = {work}/dvc\n"
    (world.root / ".dvc").mkdir()
    (world.root / ".dvc" / "config").write_text(config)
    (world.root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    s3.client().put_object(Bucket=s3.work, Key=f"{name}/dvc/{EMPTY_LISTING}", Body=b"[]")
    world.git("init", "-q", "-b", "main", ".")
    world.git("add", ".")
    world.git("commit", "-qm", "start")
    world.git("clone", "-q", "--bare", ".", str(world.bare))
    world.git("remote", "add", "origin", str(world.bare))
    return world


def night(world: World, run: str, datasets: list[str], models: list[str]) -> None:
    """The runs of these data sets and then of these models; each verb a process, so that two may run at once."""

    def verbs(dag: str, *verbs: tuple[str, ...]) -> None:
        for verb in verbs:
            with world.start(*verb, "--dag", dag, "--run", run) as process:
                output, _ = process.communicate()
            assert process.returncode == 0, output

    def data(d: str) -> None:
        stages = [("ingest", d), ("stage", f"validate@{d}"), ("accept", d), ("stage", f"prepare@{d}")]
        verbs(f"ingest_{d}", ("begin", "--until", "2026-12-31"), *stages, ("record",))

    def model(m: str) -> None:
        verbs(f"train_{m}", ("begin",), ("stage", f"train@{m}"), ("pin", m), ("stage", f"evaluate@{m}"), ("record",))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(data, datasets))
        list(pool.map(model, models))


@pytest.fixture(scope="session")
def past(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> World:
    """A world after its first night (run ``night-1``): one day of a, model m1. Tests use ``world``, a copy."""
    world = make(tmp_path_factory.mktemp("past"), s3, f"past-{os.urandom(4).hex()}")
    world.land("a", "2026-01-01", "1", "2", "3")
    night(world, "night-1", ["a"], ["m1"])
    return world


@pytest.fixture
def world(past: World, tmp_path: Path) -> World:
    """The world after its first night, with repository, checkout and landing zone of its own.

    S3 and the machine's folder are shared, so runs and what they compute need names of their own (``run``).
    """
    return copy(past, tmp_path)


def copy(old: World, folder: Path) -> World:
    """The same world with another checkout, repository and landing zone."""
    shutil.copytree(old.root.with_name("landing"), folder / "landing")
    shutil.copytree(old.bare, folder / "bare.git")
    new = replace(old, root=folder / "checkout", bare=folder / "bare.git")
    new.git("clone", "-q", str(new.bare), str(new.root), at=folder)
    return new


@pytest.fixture
def run(request: pytest.FixtureRequest) -> str:
    """A run's id that no other test has."""
    return str(request.node.name)
