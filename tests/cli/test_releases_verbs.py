"""What the registry and the ledger say on the command line: releases, show, history."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from nightshift.cli.connect import connect
from nightshift.errors import NightshiftError
from nightshift.releases.errors import ReleaseUnknown
from nightshift.releases.marks import Marks
from nightshift.stack.settings import Stack
from tests.cli.typed import run
from tests.serving.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", world.store.url)
    return world


@pytest.fixture
def served(world: World) -> tuple[str, str]:
    """A champion of the model toy and a release that was refused."""
    champion, refused = world.publish(0), world.publish(1)
    world.order(champion, "proven", who="night", reason="first night", evidence={"verdict": "pass", "run": "r1"})
    world.order(refused, "refused", who="night", reason="second night")
    return champion, refused


def test_releases_lists_what_is_published_and_marks_the_champion(world: World, served: tuple[str, str]) -> None:
    champion, refused = served
    rows = {row["digest"]: row for row in json.loads(run("releases", "--json"))}
    assert set(rows) == {champion, refused}
    assert (rows[champion]["champion"], rows[refused]["champion"]) == (True, False)
    assert rows[champion]["verdict"] == "pass"
    text = run("releases", "toy")
    assert champion[:12] in text
    assert text.count("champion") == 1


def test_releases_say_what_is_kept_retired_on_its_way_and_how_good(world: World, served: tuple[str, str]) -> None:
    champion, refused = served
    coming = world.publish(2)
    world.order(coming)
    marks = Marks(world.store)
    marks.put("toy", "keep", champion, who="kim", reason="r")
    marks.put("toy", "retire", refused, who="kim", reason="r")
    rows = {row["digest"]: row for row in json.loads(run("releases", "--json"))}
    words = ("champion", "ordered", "kept", "retired")
    assert {digest: [word for word in words if row[word]] for digest, row in rows.items()} == {
        champion: ["champion", "kept"],
        refused: ["retired"],
        coming: ["ordered"],
    }
    assert rows[champion]["accuracy"] == 0.71
    assert "71.00%" in run("releases")
    other = json.loads(run("releases", "--registry", str(world.folder / "nothing"), "--json"))
    assert other == []


def test_what_served_names_the_champion_of_then_why_and_what_was_on_its_way(
    world: World, served: tuple[str, str]
) -> None:
    champion, refused = served
    (_, proven), (order, refusal) = world.ledger.history("toy")
    between = (order.ordered_at + (refusal.at - order.ordered_at) / 2).isoformat()
    found = json.loads(run("what-served", "toy", "--at", between, "--json"))
    assert (found["digest"], found["order"]["reason"]) == (champion, "first night")
    assert [each["digest"] for each in found["under_way"]] == [refused]
    assert found["under_way"][0]["outcome"]["state"] == "refused"
    text = run("what-served", "toy", "--at", between)
    for words in (champion, "order 1", "first night", "run r1", f"{refused[:12]} by order 2", "may have answered"):
        assert words in text
    before = proven.at - timedelta(days=1)
    assert json.loads(run("what-served", "toy", "--at", before.isoformat(), "--json"))["digest"] is None
    assert "nothing was proven by then" in run("what-served", "toy", "--at", before.isoformat())


@pytest.mark.parametrize("at", ["yesterday", "2026-11-24T03:12"])
def test_what_served_asks_for_a_time_with_a_zone(world: World, served: tuple[str, str], at: str) -> None:
    with pytest.raises(NightshiftError) as caught:
        run("what-served", "toy", "--at", at)
    assert caught.value.exit_code == 2
    assert "2026-11-24T03:12Z" in caught.value.next_step


def test_diff_of_two_releases_names_what_differs(world: World, served: tuple[str, str]) -> None:
    champion, refused = served
    world.registry.manifest("toy", champion)
    found = json.loads(run("diff", "toy", refused[:9], "--json"))
    assert (found["a"], found["b"]) == (champion, refused)
    assert set(found["release"]) == {"model digest"}
    text = run("diff", champion, refused)
    assert "model digest" in text
    assert "no difference: data, code, params, toolchain, metrics" in text


def test_releases_of_an_empty_registry_say_so(world: World) -> None:
    assert "no releases yet" in run("releases").replace("\n", " ")
    assert json.loads(run("releases", "--json")) == []


def test_show_of_a_model_is_its_champion_with_files_decision_lineage_and_orders(
    world: World, served: tuple[str, str]
) -> None:
    champion, _ = served
    shown = json.loads(run("show", "toy", "--json"))
    assert shown["digest"] == champion
    assert {file["path"] for file in shown["files"]} == {"model.onnx", "golden.json", "decision.json", "model_card.md"}
    assert shown["decision"]["verdict"] == "pass"
    assert shown["lineage"] == {"opponent": None}
    assert shown["orders"] == [{"sequence": 1, "what": "promote", "outcome": "proven"}]
    text = run("show", "toy")
    for words in (champion, "model.onnx", "accuracy 0.71", "image UINT8 [-1, 4, 4, 3]", "order 1"):
        assert words in text


def test_show_takes_the_first_characters_of_a_digest(world: World, served: tuple[str, str]) -> None:
    _, refused = served
    assert json.loads(run("show", refused[:8], "--json"))["digest"] == refused


def test_show_of_what_is_not_there_says_what_to_type(world: World) -> None:
    with pytest.raises(ReleaseUnknown) as caught:
        run("show", "abcdef")
    assert "nightshift releases" in caught.value.next_step
    world.publish()
    with pytest.raises(NightshiftError, match="nothing serves for toy yet"):
        run("show", "toy")


def test_history_lists_every_order_with_its_outcome_oldest_first(world: World, served: tuple[str, str]) -> None:
    champion, refused = served
    first, second = json.loads(run("history", "toy", "--json"))
    assert (first["sequence"], first["digest"], first["previous"]) == (1, champion, None)
    assert (first["who"], first["reason"], first["evidence"]) == (
        "night",
        "first night",
        {"verdict": "pass", "run": "r1"},
    )
    assert first["outcome"]["state"] == "proven"
    assert (second["digest"], second["previous"], second["outcome"]["state"]) == (refused, champion, "refused")
    text = run("history", "toy")
    assert text.index("first night") < text.index("second night")
    assert "refused" in text


def test_history_shows_an_order_that_has_no_outcome_yet(world: World) -> None:
    world.order(world.publish())
    (only,) = json.loads(run("history", "toy", "--json"))
    assert only["outcome"] is None
    assert "none yet" in run("history", "toy")


def test_history_of_an_unknown_model_names_the_known_ones(world: World, served: tuple[str, str]) -> None:
    with pytest.raises(NightshiftError, match="no model tyo") as caught:
        run("history", "tyo")
    assert "toy" in caught.value.next_step


def test_without_a_registry_the_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NightshiftError, match="no registry is set") as caught:
        run("releases")
    assert caught.value.exit_code == 2
    assert "NIGHTSHIFT_REGISTRY" in caught.value.next_step


def test_in_a_checkout_with_a_stack_its_own_settings_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack = Stack.load(tmp_path)
    for name in stack.environment("deployer"):
        monkeypatch.setenv(name, "")  # so that what the helper sets is taken back after the test
    assert (tmp_path / ".nightshift" / "ports.json").is_file()
    connection = connect()
    assert connection.registry.store.url == "s3://nightshift-registry"
    assert connection.endpoints == (stack.endpoint_url,)
    assert os.environ["AWS_ENDPOINT_URL"] == stack.s3_url


def test_a_registry_that_a_person_set_wins_over_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Stack.load(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "mine"))
    assert connect().registry.store.url == str(tmp_path / "mine")
    assert "AWS_ENDPOINT_URL" not in os.environ
