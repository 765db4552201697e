"""What gc removes and what it never does, and what happens when somebody publishes, orders or dies meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.releases import collect
from nightshift.releases.collect import Found, survey
from nightshift.releases.errors import ReleaseConflict, ReleaseUnknown
from nightshift.releases.ledger import now
from nightshift.releases.marks import Marks
from nightshift.releases.promotion import promote
from nightshift.releases.registry import ABANDONED, Removal
from tests.serving.world import World, wait_for

RULES: dict[str, Any] = {"days": 0, "orders": 0, "opponents": {}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def reasons(world: World, **rules: Any) -> dict[str, str | None]:
    return {found.digest: found.needed for found in survey(world.registry, world.ledger, **{**RULES, **rules})}


def remove(world: World, digest: str, **rules: Any) -> bool:
    found = Found("toy", digest, 0, None)
    return collect.remove(world.registry, world.ledger, found, who="test", **{**RULES, **rules})


def test_what_is_live_ordered_a_rollbacks_target_kept_or_a_champion_files_stays(world: World) -> None:
    back, kept, met, nobody, live, coming = (world.publish(seed) for seed in range(6))
    for digest in (nobody, kept, back, live):
        world.order(digest, "proven")
    world.order(coming)
    Marks(world.store).put("toy", "keep", kept, who="kim", reason="the paper's")
    found = reasons(world, opponents={"toy": met})
    assert found == {
        live: "champion",
        coming: "ordered, without outcome yet",
        back: "a rollback goes back to it",
        kept: "kept",
        met: "named by a champion file",
        nobody: None,
    }
    for digest in found:
        assert remove(world, digest, opponents={"toy": met}) is (digest == nobody)
    assert {info.digest for info in world.registry.list()} == set(found) - {nobody}


def test_what_is_young_or_in_one_of_the_newest_orders_stays_unless_it_is_retired(world: World) -> None:
    refused, live, never = (world.publish(seed) for seed in range(3))
    world.order(refused, "refused")
    world.order(live, "proven", evidence={"opponent": never})
    assert reasons(world, days=1)[refused] == "young"
    assert reasons(world, orders=2)[refused] == "order 1"
    assert reasons(world, orders=1)[refused] is None
    assert reasons(world, orders=1)[never] == "order 2"
    Marks(world.store).put("toy", "retire", refused, who="kim", reason="a leak")
    assert reasons(world, days=1, orders=2)[refused] is None


def test_a_removed_release_is_gone_whole_and_can_be_published_again(world: World) -> None:
    digest = world.publish(0)
    assert remove(world, digest)
    assert world.store.list("") == []
    assert world.registry.publish(world.folder / "release-1") == digest


def test_what_was_ordered_after_it_was_looked_at_stays(world: World) -> None:
    digest = world.publish(0)
    assert reasons(world)[digest] is None
    world.order(digest)
    assert not remove(world, digest)
    assert world.registry.manifest("toy", digest)
    assert world.store.list("removals/") == []


def test_an_order_put_while_its_release_is_removed_is_refused_and_bars_nobody(world: World) -> None:
    """The order comes after the removal read the ledger, so the removal goes on: the order must find out."""
    digest = world.publish(0)
    remove_ = world.registry.remove
    read = threading.Event()

    def slow(*arguments: Any, **settings: Any) -> None:
        read.set()
        wait_for(lambda: world.ledger.orders("toy"), 60)
        remove_(*arguments, **settings)

    world.registry.remove = slow  # type: ignore[method-assign]
    other = World(world.folder)
    removal = threading.Thread(target=remove, args=(world, digest))
    removal.start()
    assert read.wait(60)
    result = promote(other.registry, other.ledger, "toy", digest, endpoints=["http://127.0.0.1:9"], who="kim",
                     what="promote", reason="r", evidence={}, deadline_s=60)  # fmt: skip
    removal.join()
    assert (result.state, result.exit_code) == ("refused", 1)
    assert digest[:12] in result.reason
    assert [(outcome.state, outcome.fault) for _, outcome in other.ledger.history("toy") if outcome] == [
        ("refused", "endpoint")
    ]
    with pytest.raises(ReleaseUnknown):
        other.registry.manifest("toy", digest)


def test_who_publishes_while_it_is_removed_waits_and_ends_with_a_whole_release(world: World) -> None:
    """The publisher finds all files there, then sees the removal; what it found is gone when that has ended."""
    digest = world.publish(0)
    registry, delete = World(world.folder).registry, world.store.delete
    wait, waits = registry.wait_for_removal, threading.Event()

    def waiting(*arguments: Any) -> None:
        waits.set()
        wait(*arguments)

    registry.wait_for_removal = waiting  # type: ignore[method-assign]
    publisher = threading.Thread(target=registry.publish, args=(world.folder / "release-1",))

    def publish_meanwhile(key: str) -> None:
        delete(key)
        if key.endswith("manifest.json"):
            publisher.start()
            assert waits.wait(60)

    world.store.delete = publish_meanwhile  # type: ignore[method-assign]
    assert remove(world, digest)
    publisher.join()
    assert world.registry.fetch("toy", digest, world.folder / "copy")


KILLED = """
import os, signal, sys
from nightshift.releases import collect
from nightshift.releases.ledger import Ledger
from nightshift.releases.registry import Registry
from nightshift.releases.store import open_store
store = open_store(sys.argv[1])
put_new, delete, left = store.put_new, store.delete, int(sys.argv[3])
def count(done):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
store.put_new = lambda key, data: count(put_new(key, data))
store.delete = lambda key: delete(key) if key.startswith("clocks/") else count(delete(key))
found = collect.Found("toy", sys.argv[2], 0, None)
collect.remove(Registry(store), Ledger(store), found, who="killed", days=0, orders=0, opponents={})
"""


@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_removal_killed_anywhere_shows_no_reader_half_a_release_and_is_ended_by_the_next(
    world: World, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = world.publish(0)
    killed = subprocess.run([sys.executable, "-c", KILLED, world.store.url, digest, str(after)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [info.digest for info in world.registry.list()] == ([digest] if after == 1 else [])
    assert not remove(world, digest), "a removal of a process that may be alive is left to it"
    monkeypatch.setattr("nightshift.releases.registry._PATIENCE", timedelta(seconds=0))
    if after > 1:
        with pytest.raises(ReleaseConflict, match="killed is removing") as caught:
            world.registry.publish(world.folder / "release-1")
        assert "nightshift gc" in caught.value.next_step
    (key,) = world.store.list("removals/")
    old = now() - ABANDONED - timedelta(minutes=1)
    world.store.put(key, _removal(old))
    (found,) = survey(world.registry, world.ledger, **RULES)
    assert found.why == "its removal never ended"
    assert remove(world, digest)
    assert world.store.list("releases/") == world.store.list("removals/") == []
    assert world.registry.publish(world.folder / "release-1") == digest


def _removal(at: datetime) -> bytes:
    from nightshift.releases import entries

    return entries.dump(Removal(who="killed", at=at))


def test_what_was_never_published_whole_goes_after_a_day(world: World) -> None:
    digest = world.publish(0)
    world.store.delete(f"releases/toy/{digest}/manifest.json")
    assert reasons(world)[digest] == "young"
    for path in (world.folder / "registry" / "releases" / "toy" / digest).iterdir():
        os.utime(path, (1, 1))
    assert reasons(world, days=100000)[digest] is None
