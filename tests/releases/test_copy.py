"""Copies between registries: whole, verified, resumed after a kill, and to a server with keys of its own."""

import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from nightshift.releases import copy
from nightshift.releases.errors import ReleaseConflict, ReleaseCorrupt, StoreUnavailable
from nightshift.releases.ledger import Ledger
from nightshift.releases.marks import Marks
from nightshift.releases.registry import Registry
from nightshift.releases.store import FolderStore, open_store
from nightshift.releases.verify import check
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    first, second, third = (world.publish(seed) for seed in range(3))
    world.order(first, "proven")
    world.order(second, "refused")
    world.order(third)
    Marks(world.store).put("toy", "keep", second, who="kim", reason="r")
    return world


def content(store: FolderStore) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


def test_one_release_is_copied_whole_and_without_the_ledger(world: World, tmp_path: Path) -> None:
    target = Registry(open_store(str(tmp_path / "other")))
    info = world.registry.list()[0]
    assert copy.release(world.registry, target, info.model, info.digest)
    assert target.list() == [info]
    assert check(target.store, None, None) == []
    assert Ledger(target.store).models() == []
    assert not copy.release(world.registry, target, info.model, info.digest), "it is there"


def test_a_damaged_release_is_not_copied(world: World, tmp_path: Path) -> None:
    target = Registry(open_store(str(tmp_path / "other")))
    info = world.registry.list()[0]
    key = f"releases/toy/{info.digest}/model.onnx"
    world.store.put(key, world.store.get(key)[:-1] + b"x")
    with pytest.raises(ReleaseCorrupt, match=r"model\.onnx"):
        copy.release(world.registry, target, info.model, info.digest)
    assert target.list() == []


KILLED = """
import os, signal, sys
from nightshift.releases import copy
from nightshift.releases.store import open_store
source, target, left = open_store(sys.argv[1]), open_store(sys.argv[2]), int(sys.argv[3])
put_new = target.put_new
def count(done):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
target.put_new = lambda key, data: count(put_new(key, data))
copy.everything(source, target)
"""


@pytest.mark.parametrize("after", [3, 5, 17, 19])  # a file, a manifest, an outcome, an outcome
def test_a_backup_killed_anywhere_is_ended_by_the_next_and_never_shows_an_order_before_its_outcome(
    world: World, tmp_path: Path, after: int
) -> None:
    backup = str(tmp_path / "backup")
    killed = subprocess.run([sys.executable, "-c", KILLED, world.store.url, backup, str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    target = FolderStore(Path(backup))
    half = Ledger(target).wanted("toy")
    assert half is None or half.sequence in (1, 3)
    copy.everything(world.store, target)
    assert content(target) == content(world.store)
    assert copy.everything(world.store, target) == (0, 0)
    assert check(target, None, None) == []


def test_two_ledgers_are_never_mixed(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other")
    other.order(other.publish(5), "proven")
    before = Ledger(other.store).history("toy")
    with pytest.raises(ReleaseConflict, match="two ledgers"):
        copy.everything(world.store, other.store)
    assert Ledger(other.store).history("toy") == before


def test_a_bucket_of_another_server_is_reached_with_a_profile_of_its_own(
    s3, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = s3.environment("deployer")
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "of another",
                        "AWS_SECRET_ACCESS_KEY": "account"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    profiles = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profiles))
    keys = "\n".join(f"{name.lower()} = {settings[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    profiles.write_text(
        f"[profile away]\n{keys}\nregion = us-east-1\nendpoint_url = {settings['AWS_ENDPOINT_URL']}\n"
        f"[profile keys-only]\n{keys}\nregion = us-east-1\n"
    )
    url = f"s3://{s3.registry}/copy-{uuid4().hex}"
    assert copy.everything(world.store, open_store(url, profile="away")) == (3, 6)
    named = open_store(url, endpoint=settings["AWS_ENDPOINT_URL"], profile="keys-only")
    assert check(named, None, None) == []
    assert {key: named.get(key) for key in named.list("")} == content(world.store)
    with pytest.raises(StoreUnavailable, match="nobody"):
        open_store(url, profile="nobody").list("")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        open_store(url).list("")
