"""Nights of each kind through Airflow, told to a real SMTP server and a real HTTP server: one message each, or none."""

import email
import email.policy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from nightshift.stack.processes import free_ports
from nightshift.stack.runs import ENDED, Airflow, Run
from tests.e2e.conftest import Project, parquet, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
SECRET = "a-word-that-no-log-may-have"


@dataclass
class Told:
    """What arrived: mails, and calls of the heartbeat."""

    project: Project
    mails: list[EmailMessage] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    seen: tuple[int, int] = (0, 0)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    def new(self) -> list[EmailMessage]:
        """The mails since the last time; the heartbeat was called once since then."""
        mails, calls = self.seen
        self.seen = len(self.mails), len(self.calls)
        assert len(self.calls) - calls == 1
        return self.mails[mails:]

    @property
    def airflow(self) -> Airflow:
        stack = self.project.stack
        return Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)

    def run(self, dag: str, run: str) -> dict[str, dict[str, Any]]:
        """A run of one DAG alone, to its end."""
        started = self.airflow.trigger(dag, {}, run)
        until(lambda: self.airflow.state(started) in ENDED, 500)
        return self.airflow.instances(started)

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self.airflow._send(method, path, json=body)

    def housekeep(self, run: str) -> None:
        """What happens once an hour."""
        assert {task["state"] for task in self.run("housekeeping", run).values()} == {"success"}

    def nights(self, *name: str) -> Any:
        """What the page shows: the newest nights, or one."""
        done = subprocess.run(
            [sys.executable, "-m", "nightshift.engine", "nights", *name],
            env=dict(os.environ) | self.project.stack.environment("worker"),
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(project: Project) -> Iterator[Told]:
    """The project, whose nights are told to two servers of this process."""
    told = Told(project)

    class Heartbeat(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.calls.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    web = ThreadingHTTPServer(("127.0.0.1", 0), Heartbeat)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    (port,) = free_ports(1, set())
    smtp = Controller(told, hostname="127.0.0.1", port=port)
    smtp.start()
    project.env = dict(project.env) | {
        "NIGHTSHIFT_NOTIFY_URL": f"mailto://127.0.0.1:{port}/?from=night@example.org&to=team@example.org&mode=insecure",
        "NIGHTSHIFT_HEARTBEAT_URL": f"http://127.0.0.1:{web.server_port}/{SECRET}",
    }
    project.nightshift("up")
    yield told
    smtp.stop()
    web.shutdown()
    web.server_close()


@pytest.fixture(scope="module")
def good(told: Told) -> dict[str, Any]:
    """The first night: new data, a model promoted."""
    return told.project.night()


def test_a_good_night_calls_the_heartbeat_and_sends_nothing(told: Told, good):
    assert good["models"][0]["deploy"] == "proven"
    assert told.new() == []
    (night,) = told.nights()
    name = night["name"]
    page = told.nights(name)
    assert page["told"]["subject"] == f"nightshift {name}: mnist-mlp promoted; mnist taken"
    assert (page["sent"]["how"], page["sent"]["heartbeat"]) == ("not_wanted", "called")


def test_a_refused_day_is_told_as_held_with_the_reason_and_what_to_do(told: Told, good, digits):
    x, y = digits["day3"]
    told.project.land("date=2026-01-03/train.parquet", parquet(x, ["7"] * len(y)))
    told.project.night(expect=3)
    (mail,) = told.new()
    assert mail["Subject"].endswith(": mnist held")
    assert mail["To"] == "team@example.org"
    text = mail.get_content()
    assert "data set mnist: held" in text
    assert "2026-01-03" in text
    assert "replace the day's files" in text
    assert f"{told.project.stack.airflow_url}/nights/" in text


def test_good_nights_are_sent_when_asked(told: Told, good):
    def strict(params: dict[str, Any]) -> None:
        params["notify"]["good"] = True
        params["models"]["mnist-mlp"]["gate"]["value_threshold"]["accuracy"] = 0.999

    told.project.edit(strict)
    night = told.project.night()
    assert night["models"][0]["deploy"] == "not_passed"
    (mail,) = told.new()
    assert mail["Subject"].endswith(": mnist-mlp not passed")
    assert "the gate says fail" in mail.get_content()
    assert "ledger entry 1" in mail.get_content()


def test_a_failed_task_is_told_once_with_its_last_words_and_the_run_is_red(told: Told, good):
    told.project.edit(lambda params: params["toolchain"].update(torch="1.0.0"))
    told.project.nightshift("up")
    tasks = told.run("train_mnist-mlp", "manual__fails")
    assert {task: one["state"] for task, one in tasks.items() if one["state"] != "upstream_failed"} == {
        "begin": "success",
        "train": "failed",
        "tell": "failed",
    }
    assert told.airflow.state(Run("train_mnist-mlp", "manual__fails")) == "failed"
    (mail,) = told.new()
    assert mail["Subject"].endswith(": mnist-mlp failed")
    assert "1.0.0" in mail.get_content()
    # Cleared, it fails again: it is one night, and it was told.
    body = {"dry_run": False, "dag_run_id": "manual__fails", "only_failed": True, "task_ids": ["train"]}
    told.send("POST", "/api/v2/dags/train_mnist-mlp/clearTaskInstances", body | {"include_downstream": True})
    until(lambda: told.airflow.state(Run("train_mnist-mlp", "manual__fails")) in ENDED, 500)
    assert (len(told.mails), len(told.calls)) == told.seen


def test_a_notifier_that_fails_is_on_the_page_and_changes_nothing(told: Told, good):
    (port,) = free_ports(1, set())
    working = told.project.env["NIGHTSHIFT_NOTIFY_URL"]
    told.project.env = dict(told.project.env) | {"NIGHTSHIFT_NOTIFY_URL": f"json://me:{SECRET}@127.0.0.1:{port}/"}
    told.project.edit(lambda params: params["toolchain"].update(torch="2.13.0"))
    told.project.nightshift("up")
    tasks = told.run("train_mnist-mlp", "manual__unheard")
    assert {task["state"] for task in tasks.values()} <= {"success", "skipped"}
    assert told.new() == []
    sent = told.nights(told.nights()[0]["name"])["sent"]
    assert sent["how"] == "failed"
    assert "Connection error" in sent["said"]
    told.project.env = dict(told.project.env) | {"NIGHTSHIFT_NOTIFY_URL": working}
    told.project.nightshift("up")


def test_a_night_that_waits_for_a_worker_is_told_as_late_and_a_run_marked_failed_stays_red(told: Told, good):
    told.project.edit(lambda params: params["schedule"].update(late_after_hours=0))
    text = (told.project.root / "dvc.yaml").read_text()
    head, train, rest = text.partition("  train:\n")
    hint = 'meta: {airflow: {dag: "train_${key}"'
    assert hint in rest
    (told.project.root / "dvc.yaml").write_text(head + train + rest.replace(hint, f"{hint}, pool: nobody", 1))
    told.project.git("commit", "--quiet", "-am", "A pool that is not there")
    told.project.nightshift("up")
    told.airflow.parse(told.airflow.dags()["train_mnist-mlp"]["file_token"])
    until(lambda: told.send("GET", "/api/v2/dags/train_mnist-mlp/tasks/train")["pool"] == "nobody", 300)
    run = told.airflow.trigger("train_mnist-mlp", {}, "manual__waits")
    until(lambda: told.airflow.instances(run)["train"]["state"] == "scheduled", 300)
    told.housekeep("manual__1")
    (mail,) = told.new()
    assert mail["Subject"].endswith(": train_mnist-mlp waiting")
    assert "train is scheduled and no worker takes it" in mail.get_content()
    told.housekeep("manual__2")
    told.send("PATCH", "/api/v2/dags/train_mnist-mlp/dagRuns/manual__waits", {"state": "failed"})
    until(lambda: told.airflow.state(run) in ENDED, 300)
    assert told.airflow.state(run) == "failed"
    assert (len(told.mails), len(told.calls)) == told.seen


def test_no_log_has_a_secret_of_the_urls(told: Told, good):
    logs = [*(told.project.root / ".nightshift").rglob("*.log")]
    assert any("heartbeat called" in log.read_text(errors="replace") for log in logs)
    assert [log for log in logs if SECRET in log.read_text(errors="replace")] == []
