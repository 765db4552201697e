"""What is told of a night, by whom, and once."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nightshift.engine import tell
from nightshift.engine.journal import Journal
from nightshift.engine.night import Night
from nightshift.releases.store import Store, open_store

AFTER = {"ingest_a": [], "ingest_b": [], "train_m1": ["ingest_a"]}
ABOUT = {"date": "2026-01-02", "after": AFTER, "queues": {}, "paused": [], "url": "http://airflow/"}
SCHEDULED = "scheduled__2026-01-02T03:00:00+00:00"
GOOD = {"record": {"state": "success"}}


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A folder, which makes the same promises as S3 and answers sooner, and a registry in which nothing serves."""
    for name in ("work", "registry", "home"):
        monkeypatch.setenv(f"NIGHTSHIFT_{name.upper()}", str(tmp_path / name))
    return open_store(str(tmp_path / "work"))


@pytest.fixture
def on_s3(s3: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    """A corner of the real S3 server instead, which no other test has."""
    for name, value in s3.environment("worker").items():
        monkeypatch.setenv(name, value)
    url = f"s3://{s3.work}/{request.node.name}"
    monkeypatch.setenv("NIGHTSHIFT_WORK", url)
    return open_store(url)


def data_run(run: str, dag: str = "ingest_a", *, taken: bool = True) -> Journal:
    """The journal of a data set's run that went well."""
    journal, name = Journal.open(dag, run), dag.removeprefix("ingest_")
    journal.put("base.json", {"dag": dag, "run": run, "ingest": [name], "stages": {}, "nights": []})
    days = [{"date": "2026-01-01", "why": "new", "rows": 20000}] if taken else []
    journal.put(f"ingest/{name}.json", {"taken": days, "held": [{"date": "2025-12-31", "reason": "too few rows"}]})
    return journal


def model_run(run: str, outcome: str | None, night: str = "2026-01-02.1") -> Journal:
    """The journal of a model's run that came to this outcome of its order."""
    journal = Journal.open("train_m1", run)
    stages = {"publish@m1": {"outs": ["artifacts/receipts/m1.json"]}}
    journal.put("base.json", {"dag": "train_m1", "run": run, "ingest": [], "stages": stages, "nights": [night]})
    if outcome:
        journal.put("outcome.json", {"outcome": outcome, "message": f"0123456789ab: {outcome}"})
    return journal


def one(dag: str, run: str, tasks: dict[str, Any] = GOOD, **about: Any) -> dict[str, Any]:
    """What a run's telling gave."""
    return tell.tell(dag, run, ABOUT | about, [], tasks).details


def test_a_night_is_told_by_the_last_of_its_runs(on_s3: Store):
    data_run("manual__1")
    assert one("ingest_a", "manual__1")["tell"] == []  # its asset starts the model, which is waited for
    model_run("asset__1", "proven")
    (message,) = one("train_m1", "asset__1")["tell"]
    assert message["subject"] == "nightshift 2026-01-02.1: m1 promoted; a taken"
    assert message["body"].splitlines() == [
        "model m1: promoted",
        "  why     0123456789ab: proven",
        "  serves  nothing yet",
        "data set a: taken",
        "  why     took 2026-01-01 (new, 20,000 rows); without the days that are held: 2025-12-31",
        "",
        "http://airflow/nights/2026-01-02.1",
    ]
    assert message["wanted"] is False


def test_the_page_that_a_run_made_is_named_in_its_outcome(store: Store):
    made = {"outs": [{"path": "artifacts/validations/b/report.html", "md5": "0" * 32}]}
    data_run("manual__1", "ingest_b").put("stages/validate@b.json", {"outcome": "done", "entry": made})
    one("ingest_b", "manual__1")
    (part,) = Night(store, "2026-01-02.1").get("outcomes/ingest_b")["parts"]
    assert part["report"] == "validations"


def test_what_a_model_cost_that_night_is_told_and_is_part_of_its_outcome(store: Store):
    run, used = model_run("asset__1", "proven", "2026-01-02.1"), {"peak_bytes": 10**9, "gpus": 0, "gpu_seconds": 0}
    for name, seconds in (("train", 60.0), ("gate", 30.0)):
        took = {**used, "seconds": seconds, "cpu_seconds": seconds, "watt_hours": seconds / 360, "how": "CPU estimated"}
        entry = {"outcome": "done", "entry": {"outs": []}, "used": {**took, "price": seconds / 100, "currency": "EUR"}}
        run.put(f"stages/{name}@m1.json", entry)
    data_run("manual__1")
    one("ingest_a", "manual__1")
    (message,) = one("train_m1", "asset__1")["tell"]
    cost = "90 s of computing: 90.0 CPU s, 1.00 GB at most, 0.25 Wh (CPU estimated), 0.9 EUR"
    assert f"  cost    {cost}" in message["body"].splitlines()
    assert Night(store, "2026-01-02.1").get("outcomes/train_m1")["parts"][0]["cost"] == cost


def test_of_runs_that_end_together_exactly_one_tells(on_s3: Store):
    for dag in ("ingest_a", "ingest_b"):
        data_run(SCHEDULED, dag)
    with ThreadPoolExecutor(8) as pool:
        tasks = {"record": {"state": "skipped"}}
        told = list(pool.map(lambda dag: one(dag, SCHEDULED, tasks)["tell"], ["ingest_a", "ingest_b"] * 4))
    by = Night(on_s3, "2026-01-02.1").get("told")["by"]
    # A run that tells again as long as no message is out is the same one.
    assert {tuple(message["name"] for message in messages) for messages in told} <= {(), ("2026-01-02.1",)}
    winners = [dag for dag, messages in zip(["ingest_a", "ingest_b"] * 4, told, strict=True) if messages]
    assert {f"{dag}/{SCHEDULED}" for dag in winners} == {by}


def test_who_died_before_the_message_was_out_tells_it_again_and_nobody_after_that():
    data_run("manual__1", "ingest_b")
    assert one("ingest_b", "manual__1")["tell"] == one("ingest_b", "manual__1")["tell"] != []
    tell.sent("2026-01-02.1", "failed", "no answer")
    assert one("ingest_b", "manual__1")["tell"] != []  # its task `tell` was cleared
    tell.sent("2026-01-02.1", "sent", "")
    assert one("ingest_b", "manual__1")["tell"] == []


@pytest.mark.parametrize(
    ("tasks", "outcome", "kind", "why", "wanted"),
    [
        (GOOD, "proven", "promoted", "proven", False),
        (GOOD, "not_passed", "not passed", "not_passed", False),
        (GOOD, "not_asked", "not asked", "not_asked", False),
        (GOOD, "unchanged", "unchanged", "unchanged", False),
        (GOOD, "superseded", "superseded", "superseded", False),
        (GOOD | {"deploy": {"state": "failed"}}, "fenced", "fenced", "fenced", True),
        (GOOD | {"deploy": {"state": "skipped"}}, "barred", "barred", "barred", True),
        (GOOD | {"deploy": {"state": "failed"}}, "refused", "refused", "refused", True),
        (GOOD | {"deploy": {"state": "failed"}}, "not_passed", "not passed", "not_passed", True),  # params want red
        ({"train": {"state": "failed", "said": {"message": "no GPU"}}}, None, "failed", "train: no GPU", True),
        ({"train": {"state": "failed"}}, None, "failed", "train: it said nothing: it was killed", True),
        ({"train": {"state": "failed"}, **GOOD}, "proven", "failed", "train: it said nothing", True),
        ({"record": {"state": "skipped"}}, None, "failed", "it was ended before it recorded", True),
        ({"record": {"state": "upstream_failed"}}, None, "failed", "it was ended before it recorded", True),
    ],
)
def test_what_became_of_a_models_run(store: Store, tasks, outcome, kind, why, wanted):
    Night(store, "2026-01-02.1").put("night", {"key": "k", "roots": ["train_m1"], "began": "2026-01-02T03:00:00+00:00"})
    model_run("asset__1", outcome)
    (message,) = one("train_m1", "asset__1", tasks)["tell"]
    assert (message["kind"], message["wanted"]) == (kind, wanted)
    assert f"  why     {why}" in message["body"] or f"  why     0123456789ab: {why}" in message["body"]


def test_a_held_day_is_told_with_what_to_do(store: Store):
    data_run("manual__1", "ingest_b")
    said = {
        "outcome": "held",
        "message": "b: refused, and held: 2026-01-01: too dark",
        "next_step": "replace the files",
    }
    details = one("ingest_b", "manual__1", {"accept": {"state": "failed", "said": said}})
    (message,) = details["tell"]
    assert (message["kind"], message["wanted"], details["red"]) == ("held", True, True)
    assert (
        "  why     accept: b: refused, and held: 2026-01-01: too dark\n  next    replace the files" in message["body"]
    )


def test_a_run_that_did_not_come_to_its_base_is_told_by_the_name_of_its_dag():
    said = {"message": "params.yaml: shedule is unknown"}
    (message,) = one("ingest_b", "manual__1", {"begin": {"state": "failed", "said": said}})["tell"]
    assert message["subject"] == "nightshift 2026-01-02.1: ingest_b failed"
    assert "shedule" in message["body"]


def test_a_failed_task_is_named_with_the_queue_that_it_waited_on():
    (message,) = one("ingest_b", "manual__1", {"train": {"state": "failed"}}, queues={"train": "gpu"})["tell"]
    assert "train (queue gpu): it said nothing" in message["body"]


def test_a_paused_model_is_named_and_not_waited_for():
    data_run("manual__1", taken=False)
    (message,) = one("ingest_a", "manual__1", paused=["train_m1"])["tell"]
    assert message["subject"] == "nightshift 2026-01-02.1: nothing changed"
    assert "DAG train_m1: paused, so it did not run" in message["body"]


def test_good_nights_are_wanted_when_params_say_so(store: Store):
    data_run("manual__1", "ingest_b")
    Night(store, "2026-01-02.1").put("night", {"key": "manual__1", "roots": ["ingest_b"], "began": "…"})
    Night(store, "2026-01-02.1").put("runs/ingest_b", {"run": "manual__1", "after": AFTER, "queues": {}, "good": True})
    (message,) = one("ingest_b", "manual__1")["tell"]
    assert message["wanted"] is True


def began(store: Store, hours: float, **settings: Any) -> Night:
    """A night whose data set is through, and whose model is not."""
    night = Night(store, f"{(datetime.now(UTC) - timedelta(hours=hours)).date()}.1")
    night.put(
        "night", {"key": "k", "roots": ["ingest_a"], "began": (datetime.now(UTC) - timedelta(hours=hours)).isoformat()}
    )
    night.put("runs/ingest_a", {"run": "k", "after": AFTER, "queues": {}, **settings})
    night.put("runs/train_m1", {"run": "asset__1", "after": AFTER, "queues": {"train": "gpu"}})
    night.put(
        "outcomes/ingest_a",
        {"asset": True, "red": False, "parts": [{"about": "data set", "name": "a", "kind": "taken"}]},
    )
    return night


def housekeep(state: str | None, tasks: dict[str, str]) -> list[dict[str, Any]]:
    found = tell.unfinished().details["nights"]
    for night in found:
        for run in night["missing"].values():
            run |= {"state": state, "tasks": tasks}
    return tell.late(found, ABOUT).details["tell"]


@pytest.mark.parametrize(
    ("hours", "state", "tasks", "kind", "why"),
    [
        (5.9, "running", {"train": "queued"}, None, ""),
        (
            6.1,
            "running",
            {"train": "queued"},
            "waiting",
            "train is queued and no worker takes it: it waits on queue gpu",
        ),
        (6.1, "running", {"deploy": "scheduled"}, "waiting", "deploy is scheduled and no worker takes it"),
        (6.1, "running", {"approve": "awaiting_input"}, "waiting", "approve waits for a person's answer"),
        (6.1, "running", {"train": "running"}, "late", "train is running"),
        (6.1, None, {}, "late", "no run of it has begun"),
        (0.1, "failed", {}, "late", "its run ended (failed) without a word"),
    ],
)
def test_a_night_that_is_late_is_told_once_with_what_it_waits_for(store: Store, hours, state, tasks, kind, why):
    night = began(store, hours)
    messages = housekeep(state, tasks)
    assert [message["kind"] for message in messages] == ([kind] if kind else [])
    if kind:
        assert why in messages[0]["body"]
        assert messages[0]["subject"] == f"nightshift {night.name}: train_m1 {kind}; a taken"
        tell.sent(night.name, "sent", "")
        assert housekeep(state, tasks) == []
        model_run("asset__1", "proven", night.name)
        assert one("train_m1", "asset__1")["tell"] == []  # it came to its end after all: that is on the page


def test_a_team_says_when_a_night_is_late(store: Store):
    began(store, 1, late_after_hours=0.5)
    assert len(housekeep("running", {"train": "queued"})) == 1


def test_a_message_whose_sender_died_is_told_by_housekeeping(store: Store):
    night = began(store, 1)
    told = {"name": night.name, "subject": "s", "body": "b", "kind": "taken", "wanted": True, "by": "train_m1/asset__1"}
    night.put("told", told | {"at": (datetime.now(UTC) - timedelta(minutes=20)).isoformat()})
    (message,) = housekeep("success", {})
    assert message["subject"] == "s"


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    """A server that counts its calls and answers what a test sets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.calls.append(self.path)
            self.send_response(server.answer)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.calls, server.answer = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_the_heartbeat_is_called_and_its_url_is_said_nowhere(web: Any, monkeypatch, store: Store):
    monkeypatch.setenv("NIGHTSHIFT_HEARTBEAT_URL", f"http://127.0.0.1:{web.server_port}/secret-word")
    receipt = tell.sent("2026-01-02.1", "not_wanted", "")
    assert web.calls == ["/secret-word"]
    assert "heartbeat called" in receipt.message
    assert b"secret-word" not in store.get("nights/2026-01-02.1/sent.json") + json.dumps(receipt.details).encode()


def test_a_heartbeat_that_fails_is_tried_again_and_then_named(web: Any, monkeypatch):
    web.answer = 503
    monkeypatch.setenv("NIGHTSHIFT_HEARTBEAT_URL", f"http://127.0.0.1:{web.server_port}/secret-word")
    assert tell.sent("2026-01-02.1", "sent", "").details["heartbeat"] == "failed: it answered 503"
    assert len(web.calls) == 3
    monkeypatch.setenv("NIGHTSHIFT_HEARTBEAT_URL", "nonsense secret-word")
    assert "secret-word" not in tell.sent("2026-01-02.1", "sent", "").message
