"""`accept` and `drop`: a person's word about a day, with the reason, on exactly these files."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.engine import held
from nightshift.errors import NightshiftError
from nightshift.releases.store import open_store
from pipelines.ingest import foresee, ingest
from tests.pipelines.small import checkout, land_day
from tests.pipelines.test_ingest import NIGHT


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one day in its snapshot, and a second that is held."""
    landing = tmp_path / "landing"
    landing.mkdir()
    land_day(landing, "2026-01-01", 0)
    found = checkout(tmp_path / "checkout", str(landing))
    (found / "dvc.yaml").touch()
    (found / "data.dvc").write_text("outs: []\n")
    monkeypatch.chdir(found)
    monkeypatch.setenv("NIGHTSHIFT_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("NIGHTSHIFT_WORK", str(tmp_path / "work"))
    ingest("small", NIGHT, [], found)
    land_day(landing, "2026-01-02", 100)
    other = ingest("small", NIGHT, [], checkout(tmp_path / "other", str(landing)))
    day = other["taken"][1]
    held.hold(
        store(), {"dataset": "small", **{key: day[key] for key in ("date", "checksum", "landed")}, "reason": "too dark",
                  "dag": "ingest_small", "run": "r1"}
    )  # fmt: skip
    return found


def store() -> Any:
    import os

    return open_store(os.environ["NIGHTSHIFT_WORK"])


def verb(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.output)
    return found


def taken(root: Path) -> list[str]:
    return [day["date"] for day in ingest("small", NIGHT, held.days(store(), "small"), root)["taken"]]


def test_an_accepted_day_is_taken_by_the_next_ingest_and_every_decision_is_kept(root: Path) -> None:
    assert taken(root) == []
    found = verb("accept", "small", "2026-01-02", "--reason", "it was a night shoot")
    assert (found["state"], found["date"]) == ("accepted", "2026-01-02")
    assert found["reason"].endswith(": it was a night shoot")
    assert [one["state"] for one in found["decisions"]] == ["held", "accepted"]
    assert found["decisions"][0]["reason"] == "too dark"
    assert [day["date"] for day in foresee("small", NIGHT, held.days(store(), "small"), root)["taken"]] == [
        "2026-01-02"
    ]
    assert taken(root) == ["2026-01-02"]
    with pytest.raises(NightshiftError, match="2026-01-02 is let in already"):
        verb("accept", "small", "2026-01-02", "--reason", "again")


def test_a_day_of_the_snapshot_is_dropped_and_can_be_taken_back(root: Path) -> None:
    verb("drop", "small", "2026-01-01", "--reason", "mislabelled")
    report = ingest("small", NIGHT, held.days(store(), "small"), root)
    assert [day["date"] for day in report["dropped"]] == ["2026-01-01"]
    assert sorted(day["date"] for day in report["held"]) == ["2026-01-02"]
    foreseen = foresee("small", NIGHT, held.days(store(), "small"), root)
    assert foreseen["taken"] == [], "its files are known by their listing: nothing of them is read again"
    found = verb("accept", "small", "2026-01-01", "--reason", "the labels were right")
    assert [one["state"] for one in found["decisions"]] == ["dropped", "accepted"]
    assert taken(root) == ["2026-01-01"]


def test_a_held_day_that_is_dropped_is_not_named_any_more(root: Path) -> None:
    assert [day["date"] for day in ingest("small", NIGHT, held.days(store(), "small"), root)["held"]] == ["2026-01-02"]
    verb("drop", "small", "2026-01-02", "--reason", "nobody needs it")
    report = ingest("small", NIGHT, held.days(store(), "small"), root)
    assert (report["held"], report["taken"], report["dropped"]) == ([], [], [])
    assert foresee("small", NIGHT, held.days(store(), "small"), root)["held"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["accept", "small", "2026-01-01", "--reason", "x"], r"2026-01-01 is not held \(held days: 2026-01-02\)"),
        (["drop", "small", "2026-02-01", "--reason", "x"], "in the snapshot of this checkout: 2026-01-01"),
        (["accept", "small", "2026-01-02", "--reason", "  "], "needs a reason"),
    ],
)
def test_what_cannot_be_decided_is_named(root: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(NightshiftError, match=said) as raised:
        verb(*arguments)
    assert raised.value.exit_code == 2


def test_a_refusal_that_comes_after_a_persons_word_does_not_undo_it(root: Path) -> None:
    verb("accept", "small", "2026-01-02", "--reason", "fine")
    (day,) = held.days(store(), "small")
    held.hold(
        store(), {key: day[key] for key in ("dataset", "date", "checksum", "landed")} | {"reason": "r", "run": "2"}
    )
    assert [one["state"] for one in held.days(store(), "small")] == ["accepted"]
