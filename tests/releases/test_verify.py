"""One flipped byte anywhere in a registry is found and named."""

from pathlib import Path

import pytest

from nightshift.releases.marks import Marks
from nightshift.releases.verify import check
from tests.serving.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("verify"))
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    world.order(second, "refused")
    Marks(world.store).put("toy", "keep", first, who="kim", reason="r")
    return world


def test_a_whole_registry_has_nothing_wrong_and_every_object_was_read(world: World) -> None:
    seen: list[str] = []
    assert check(world.store, None, None, lambda checked: seen.append(checked.key)) == []
    assert sorted(seen) == world.store.list("")


def test_one_flipped_bit_in_any_object_is_found_and_only_that_object_is_named(world: World) -> None:
    keys = world.store.list("")
    assert len(keys) == 2 * 5 + 2 + 2 + 1
    for number, key in enumerate(keys):
        data = world.store.get(key)
        for place in (0, len(data) // 2, len(data) - 1):
            flipped = bytearray(data)
            flipped[place] ^= 1 << (number % 7)
            world.store.put(key, bytes(flipped))
            found = check(world.store, None, None)
            assert [each.key for each in found] == [key], f"bit flipped at {place} of {key}"
        world.store.put(key, data)


@pytest.mark.parametrize(("suffix", "wrong"), [("model.onnx", "is missing"), ("orders/00000001.json", "is missing")])
def test_what_is_missing_is_named(world: World, suffix: str, wrong: str) -> None:
    key = next(key for key in world.store.list("") if key.endswith(suffix))
    data = world.store.get(key)
    world.store.delete(key)
    try:
        assert (key, wrong) in {(each.key, each.wrong) for each in check(world.store, None, None)}
    finally:
        world.store.put(key, data)


def test_a_checksum_that_was_taken_away_and_a_stranger_are_found(world: World) -> None:
    key = "ledger/toy/orders/00000001.json"
    data = world.store.get(key)
    lines = data.decode().splitlines(keepends=True)
    world.store.put(key, "".join(line for line in lines if '"sha256"' not in line).encode())
    digest = world.registry.list()[0].digest
    world.store.put(f"releases/toy/{digest}/more.bin", b"x")
    try:
        assert [each.key for each in check(world.store, None, None)] == [f"releases/toy/{digest}/more.bin", key]
        assert [each.wrong for each in check(world.store, "toy", digest)] == ["is not in the manifest"]
    finally:
        world.store.put(key, data)
        world.store.delete(f"releases/toy/{digest}/more.bin")


def test_a_release_under_another_models_name_is_found(world: World, tmp_path: Path) -> None:
    other = World(tmp_path)
    digest = other.publish(0)
    for key in other.store.list("releases/"):
        other.store.put(key.replace("/toy/", "/other/"), other.store.get(key))
    (found,) = check(other.store, "other", digest)
    assert found.wrong == "is a release of toy, not of other"
