"""keep, retire and gc, as typed; what they rest on is tested in tests/releases."""

import json
from pathlib import Path

import pytest

from nightshift.cli.main import app
from nightshift.errors import NightshiftError
from nightshift.releases.marks import Marks, retirement, standing
from nightshift.releases.promotion import promote
from tests.cli.typed import RUNNER, run
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", world.store.url)
    monkeypatch.setenv("NIGHTSHIFT_ENDPOINTS", "")
    return world


def test_keep_stands_in_the_ledger_until_it_is_undone(world: World) -> None:
    digest = world.publish()
    mark = json.loads(run("keep", "toy", digest[:8], "--reason", "the paper's", "--json"))
    assert (mark["digest"], mark["reason"], mark["what"]) == (digest, "the paper's", "keep")
    assert standing(Marks(world.store).of("toy"), "keep", digest)
    assert "is no longer kept" in run("keep", "toy", digest[:8], "--undo", "--reason", "the paper is out")
    with pytest.raises(NightshiftError, match="is not kept"):
        run("keep", "toy", digest[:8], "--undo", "--reason", "again")


def test_what_serves_is_on_its_way_or_kept_cannot_be_retired(world: World) -> None:
    live, coming, kept, free = (world.publish(seed) for seed in range(4))
    world.order(live, "proven")
    world.order(coming)
    run("keep", "toy", kept, "--reason", "r")
    for digest in (live, coming, kept):
        with pytest.raises(NightshiftError) as caught:
            run("retire", "toy", digest, "--reason", "r")
        assert caught.value.exit_code == 3
    assert "is retired: a leak" in run("retire", "toy", free[:8], "--reason", "a leak")


def test_nobody_orders_what_was_retired(world: World) -> None:
    first, second = world.publish(0), world.publish(1)
    run("retire", "toy", second, "--reason", "a leak")

    def ordered(digest: str) -> tuple[str, str, int]:
        result = promote(world.registry, world.ledger, "toy", digest, endpoints=["http://127.0.0.1:9"], who="kim",
                         what="promote", reason="r", evidence={}, deadline_s=0.1)  # fmt: skip
        return result.state, result.reason, result.exit_code

    assert ordered(second) == ("barred", f"release {second[:12]} of 'toy' was retired: a leak", 3)
    assert ordered(first)[0] == "refused", "the endpoint is away; it was ordered"
    run("retire", "toy", "--reason", "replaced", "--successor", "toy2")
    assert ordered(first) == ("barred", "model 'toy' was retired: replaced; ask 'toy2' instead", 3)
    assert len(world.ledger.orders("toy")) == 1
    run("retire", "toy", "--undo", "--reason", "a mistake")
    assert ordered(first)[0] == "refused"


def test_retiring_a_model_ends_its_orders_without_a_bar(world: World) -> None:
    world.order(world.publish())
    mark = json.loads(run("retire", "toy", "--reason", "replaced", "--successor", "toy2", "--json"))
    assert (mark["digest"], mark["successor"]) == (None, "toy2")
    ((_, outcome),) = world.ledger.history("toy")
    assert (outcome.state, outcome.fault) == ("refused", "endpoint")
    assert retirement(Marks(world.store).of("toy"), "toy")
    with pytest.raises(NightshiftError, match="no model tyo"):
        run("retire", "tyo", "--reason", "r")


def test_rollback_passes_over_what_was_retired_or_removed(world: World) -> None:
    oldest, retired, live = (world.publish(seed) for seed in range(3))
    for digest in (oldest, retired, live):
        world.order(digest, "proven")
    run("retire", "toy", retired, "--reason", "a leak")
    result = RUNNER.invoke(app, ["rollback", "toy", "--reason", "r", "--json"])
    assert json.loads(result.stdout)["digest"] == oldest
    run("gc", "--days", "0", "--orders", "0")
    assert {info.digest for info in world.registry.list()} == {oldest, live}


def test_gc_says_what_would_go_and_why_the_rest_stays_then_does_it(world: World) -> None:
    old, live, met = (world.publish(seed) for seed in range(3))
    world.order(live, "proven")
    champions = world.folder / "champions"
    champions.mkdir()
    (champions / "toy.json").write_text(json.dumps({"digest": met}))
    assert "0 of 3 releases would be removed" in run("gc", "--dry-run")
    rules = ("--days", "0", "--orders", "0")
    rows = {row["digest"]: row for row in json.loads(run("gc", "--dry-run", *rules, "--json"))}
    assert {digest: row["needed"] for digest, row in rows.items()} == {
        old: None,
        live: "champion",
        met: "named by a champion file",
    }
    assert [row["would_go"] for row in rows.values()].count(True) == 1
    assert rows[old]["bytes"] == sum(
        path.stat().st_size for path in (world.folder / "registry/releases/toy" / old).iterdir()
    )
    assert len(world.registry.list()) == 3
    text = run("gc", *rules)
    assert "1 of 3 releases removed" in text
    assert "stay: 1 champion, 1 named by a champion file" in text
    assert {info.digest for info in world.registry.list()} == {live, met}


def test_gc_with_a_champion_file_that_it_cannot_read_removes_nothing(world: World) -> None:
    world.publish()
    (world.folder / "champions").mkdir()
    (world.folder / "champions" / "toy.json").write_text("{")
    with pytest.raises(NightshiftError, match=r"champions/toy\.json"):
        run("gc", "--days", "0")
    assert world.registry.list()


def test_verify_ends_with_0_when_all_is_whole_and_with_1_naming_all_that_is_not(world: World) -> None:
    first, second = world.publish(0), world.publish(1)
    world.order(first, "proven")
    whole = json.loads(run("verify", "--json"))
    assert (whole["objects"], whole["wrong"]) == (12, [])
    assert whole["bytes"] == sum(
        path.stat().st_size for path in (world.folder / "registry").rglob("*.*") if path.is_file()
    )
    for digest in (first, second):
        world.store.put(f"releases/toy/{digest}/model_card.md", b"a toy?\n")
    result = RUNNER.invoke(app, ["verify"], env={"COLUMNS": "200"})
    assert result.exit_code == 1
    for digest in (first, second):
        assert f"releases/toy/{digest}/model_card.md has" in result.stdout
    assert "2 of 12 objects are wrong" in result.stdout
    one = RUNNER.invoke(app, ["verify", "toy", second[:8], "--json"])
    assert one.exit_code == 1
    assert [each["key"] for each in json.loads(one.stdout)["wrong"]] == [f"releases/toy/{second}/model_card.md"]


def test_copy_of_a_release_and_of_all_as_typed(world: World, tmp_path: Path) -> None:
    digest = world.publish(0)
    world.order(digest, "proven")
    away = str(tmp_path / "away")
    assert f"toy {digest[:12]} copied to {away}" in run("copy", "toy", digest[:8], away)
    assert f"toy {digest[:12]} is whole already in {away}" in run("copy", "toy", digest[:8], away)
    assert json.loads(run("copy", "--all", away, "--json")) == {"to": away, "releases": 0, "entries": 2}
    assert json.loads(run("history", "toy", "--registry", away, "--json"))[0]["digest"] == digest
    for wrong in (["toy", away], ["--all", "toy", digest, away], ["--all", away, "--to-profile", "x"]):
        with pytest.raises(NightshiftError) as caught:
            run("copy", *wrong)
        assert caught.value.exit_code == 2
