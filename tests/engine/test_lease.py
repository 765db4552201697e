"""One computes and the others wait, until it is done or dies; nobody waits for the dead."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from nightshift.engine import process
from nightshift.engine.lease import lease
from nightshift.releases.store import Store, open_store
from tests.engine.conftest import World
from tests.engine.test_stage import TRAIN, at, begun

NEVER = 3600.0


@pytest.fixture
def store(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3.work}/leases-{uuid4().hex}")


def until(true: Callable[[], Any], within_s: float = 120) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


class Waits(threading.Thread):
    """Somebody else who wants the lease; ``has`` is set while it holds it, and ``leave`` lets it go."""

    def __init__(self, store: Store, every_s: float = 0.1):
        super().__init__(daemon=True)
        self.has, self.leave = threading.Event(), threading.Event()
        self.store, self.every_s = store, every_s
        self.start()

    def run(self) -> None:
        with lease(self.store, "key", "another run", self.every_s):
            self.has.set()
            self.leave.wait()


def held(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.get("leases/key.json"))
    return found


def elsewhere(store: Store, every_s: float, **changes: Any) -> None:
    """A holder on another machine, which gives no sign of life."""
    here = process.me() | {"machine": "another"}
    content = {"who": "run 7 of x on far", "holder": "1", "every_s": every_s, "process": here, "beats": 1} | changes
    store.put("leases/key.json", json.dumps(content).encode())


def test_the_second_waits_until_the_first_is_done_and_says_for_whom(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []

    def told() -> bool:
        heard.append(capsys.readouterr().out)
        return "waiting for that" in heard[-1]

    with lease(store, "key", "run 1 of train", NEVER):
        other = Waits(store)
        until(told)
        assert not other.has.is_set()
    assert other.has.wait(120)
    other.leave.set()
    other.join()
    assert heard[-1].startswith("run 1 of train on ")
    assert "computes it from the same inputs: waiting for that, 0 s so far" in heard[-1]
    assert "gone" not in heard[-1] + capsys.readouterr().out


@pytest.mark.long
def test_who_lives_keeps_it_longer_than_anybody_has_patience(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightshift.engine.lease.PATIENCE", 50)  # ten seconds: this machine may be busy
    with lease(store, "key", "run 1 of train", 0.2):
        other = Waits(store)
        began = time.monotonic()
        until(lambda: held(store)["beats"] > 20 and time.monotonic() - began > 12)
        assert not other.has.is_set()
        assert held(store)["who"].startswith("run 1 of train on ")
    assert other.has.wait(120)
    other.leave.set()
    other.join()


def test_of_many_who_wait_one_at_a_time_holds_it(store: Store) -> None:
    inside, most = [], []

    def work() -> None:
        with lease(store, "key", "a run", NEVER):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 3


def test_who_gives_no_sign_of_life_is_taken_over(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere(store, 0.05)
    with lease(store, "key", "this run", NEVER):
        assert held(store)["who"].startswith("this run on ")
    assert "run 7 of x on far is gone" in capsys.readouterr().out


def test_a_dead_process_of_this_machine_is_not_waited_for(store: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = process.me() | process._who(child.pid)
    elsewhere(store, NEVER, process=dead)
    other = Waits(store)
    time.sleep(0.5)
    assert not other.has.is_set()
    child.kill()  # not waited for: a dead process that still has its number
    assert other.has.wait(120)
    child.wait()
    assert process.is_gone(dead)
    other.leave.set()
    other.join()


def test_a_lease_that_was_lost_is_neither_beaten_nor_given_back(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with lease(store, "key", "this run", 0.05):
        elsewhere(store, NEVER)
        until(lambda: "took this one for dead" in capsys.readouterr().out)
    assert held(store)["who"] == "run 7 of x on far"


def test_a_lease_that_was_lost_unnoticed_is_not_given_back(store: Store) -> None:
    with lease(store, "key", "this run", NEVER):
        elsewhere(store, NEVER)
    assert held(store)["who"] == "run 7 of x on far"


@pytest.mark.parametrize("content", [b"{}", b"", b"{torn"])
def test_what_names_no_holder_is_free(store: Store, content: bytes) -> None:
    store.put("leases/key.json", content)
    with lease(store, "key", "this run", NEVER):
        assert held(store)["who"].startswith("this run on ")
    assert store.get("leases/key.json") == b"{}"


# --- two runs


def slow(world: World, run: str) -> tuple[Path, Path]:
    """A training of this test's own, which notes that it runs and ends when it may."""
    ran, may_end = world.root.with_name("ran"), world.root.with_name("may-end")
    code = (
        f"import pathlib, time\nopen({str(ran)!r}, 'a').write('x')\n"
        f"while not pathlib.Path({str(may_end)!r}).exists(): time.sleep(0.05)"
    )
    world.edit("pipelines/train.py", "key = sys.argv[1]", f"key = sys.argv[1]  # {run}\n{code}")
    return ran, may_end


def hear(engine: subprocess.Popen[str], words: str) -> str:
    said = ""
    for line in engine.stdout or ():
        said += line
        if words in line:
            return said
    raise AssertionError(f"it never said {words!r}, but {said}")


def test_two_runs_that_need_the_same_compute_it_once_and_a_dead_one_is_followed(world: World, run: str) -> None:
    ran, may_end = slow(world, run)
    runs = [f"{run}-{number}" for number in range(3)]
    for one in runs:
        begun(world, one)
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(world.start("stage", TRAIN, *at("train_m1", one))) for one in runs)
        engines = {runs[0]: first, runs[1]: second, runs[2]: third}
        until(ran.exists)
        with world.settings_of():
            store = world.journal("train_m1", run).store
            leases = [json.loads(store.get(key)) for key in store.list("leases/")]
            (holder,) = [one["who"].split()[1] for one in leases if f"run {run}-" in one.get("who", "")]
        waiting = [engine for name, engine in engines.items() if name != holder]
        for engine in waiting:
            hear(engine, f"run {holder} of train_m1 on")
        engines[holder].kill()
        until(lambda: len(ran.read_text()) == 2)
        may_end.touch()
        said = [engine.communicate()[0] for engine in waiting]
        assert [engine.returncode for engine in waiting] == [0, 0]
    assert len(ran.read_text()) == 2
    outcomes = [world.fragment("train_m1", name, f"stages/{TRAIN}.json")["outcome"] for name in runs if name != holder]
    assert sorted(outcomes) == ["done", "restored"]
    assert any(f"run {holder} of train_m1 on" in text and "is gone" in text for text in said)
    # Nobody is left who holds it; the killed one's next attempt takes the result.
    assert world.engine("stage", TRAIN, *at("train_m1", holder), "--attempt", "2").outcome == "restored"


def test_a_rerun_waits_for_nobody(world: World, run: str) -> None:
    ran, may_end = slow(world, run)
    begun(world, run)
    rerun = begun(world, f"{run}-again", "train_m1", "--conf", '{"rerun": true}')
    with world.start("stage", TRAIN, *at("train_m1", run)) as first:
        until(ran.exists)
        with world.start("stage", TRAIN, *rerun) as again:
            until(lambda: len(ran.read_text()) == 2)
            may_end.touch()
            said, _ = again.communicate()
            assert again.returncode == 0, said
        said, _ = first.communicate()
        assert first.returncode == 0, said
