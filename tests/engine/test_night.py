"""A night's name, and what it waits for."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from nightshift.engine import night as nights
from nightshift.engine.night import Night
from nightshift.releases.store import Store, open_store

AFTER = {"ingest_a": [], "ingest_b": [], "train_m1": ["ingest_a"], "train_both": ["ingest_a", "ingest_b"]}


@pytest.fixture
def store(s3, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    """A corner of the real S3 server that no other test has."""
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://{s3.work}/nights-{request.node.name}")


def about(date: str = "2026-01-02") -> dict:
    return {"date": date, "after": AFTER}


def test_eight_runs_of_one_schedule_time_are_one_night(store: Store):
    run = "scheduled__2026-01-02T03:00:00+00:00"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda dag: nights.join(store, dag, run, about(), []), ["ingest_a", "ingest_b"] * 4))
    assert {night.name for joined in found for night in joined} == {"2026-01-02.1"}
    assert Night(store, "2026-01-02.1").get("night")["roots"] == ["ingest_a", "ingest_b"]


def test_eight_calls_at_once_have_eight_numbers_and_find_them_again(store: Store):
    runs = [f"manual__{n}" for n in range(8)]

    def join(run: str) -> str:
        (night,) = nights.join(store, "ingest_a", run, about(), [])
        return night.name

    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(join, runs))
    assert sorted(names) == [f"2026-01-02.{n}" for n in range(1, 9)]
    assert [join(run) for run in runs] == names
    assert nights.names(store)[0] == "2026-01-02.8"


def test_a_run_that_a_person_triggers_alone_is_a_night_of_its_own(store: Store):
    (night,) = nights.join(store, "ingest_b", "manual__1", about(), [])
    assert night.get("night")["roots"] == ["ingest_b"]
    (next_day,) = nights.join(store, "ingest_b", "manual__2", about("2026-01-03"), [])
    assert (night.name, next_day.name) == ("2026-01-02.1", "2026-01-03.1")


def test_the_runs_that_an_asset_starts_are_handed_the_name(store: Store):
    events = [{"dag": "ingest_a", "nights": ["2026-01-02.1"]}, {"dag": "ingest_a", "nights": ["2026-01-02.2"]}]
    joined = nights.join(store, "train_m1", "asset_triggered__1", about(), events)
    assert [night.name for night in joined] == ["2026-01-02.1", "2026-01-02.2"]  # one run for the events of two nights


def test_a_night_written_by_another_version_is_named(store: Store):
    store.put("nights/2026-01-02.1/night.json", json.dumps({"format": 99}).encode())
    with pytest.raises(Exception, match=r"nights/2026-01-02.1/night.json has format 99"):
        Night(store, "2026-01-02.1").get("night")


@pytest.mark.parametrize(
    ("outcomes", "paused", "missing"),
    [
        ({}, [], ["ingest_a"]),
        ({"ingest_a": True}, [], ["train_m1"]),  # not the model that needs the other data set too
        ({"ingest_a": False}, [], []),  # a red data set starts nobody
        ({"ingest_a": True, "train_m1": True}, [], []),
        ({"ingest_a": True}, ["train_m1"], []),
        ({}, ["ingest_a"], []),
    ],
)
def test_a_night_waits_for_what_it_starts_with_and_for_what_their_assets_start(outcomes, paused, missing):
    runs = {"ingest_a": {"after": AFTER}}
    found = {dag: {"asset": asset} for dag, asset in outcomes.items()}
    assert nights.missing(["ingest_a"], runs, found, paused) == missing


def test_a_model_of_two_data_sets_is_waited_for_when_both_recorded():
    outcomes = {dag: {"asset": True} for dag in ("ingest_a", "ingest_b", "train_m1")}
    assert nights.missing(["ingest_a", "ingest_b"], {"ingest_a": {"after": AFTER}}, outcomes) == ["train_both"]
