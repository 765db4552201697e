"""Nights one after another: a worse model, a refused day and the good day after it, replaced files."""

import datetime
import json
import os
import random
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest

from nightshift.engine.journal import safe
from nightshift.errors import NightshiftError
from nightshift.stack.runs import ENDED, Airflow, Run
from tests.e2e.conftest import Project, parquet, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def champion(project: Project) -> str:
    """The digest that the first night brought to serve."""
    (model,) = project.night()["models"]
    assert model["deploy"] == "proven"
    return model["release"]


@pytest.fixture(scope="module")
def quiet(project: Project, champion: str) -> dict:
    """A night with nothing new."""
    return project.night()


@pytest.fixture(scope="module")
def worse(project: Project, quiet: dict, digits) -> dict:
    """A night whose day has most labels shuffled: well-formed, and bad to learn from."""
    x, y = digits["day2"]
    shuffled = list(y)
    random.Random(1).shuffle(shuffled)
    project.land("date=2026-01-02/train.parquet", parquet(x, shuffled))
    return project.night()


@pytest.fixture(scope="module")
def refused(project: Project, worse: dict, digits) -> dict:
    """A night whose day says that every image is a seven."""
    x, y = digits["day3"]
    project.land("date=2026-01-03/train.parquet", parquet(x, ["7"] * len(y)))
    return project.night(expect=3)


def airflow_of(project: Project) -> Airflow:
    stack = project.stack
    return Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)


def serves(project: Project) -> str:
    return json.loads(project.nightshift("status", "--json").stdout)["serving"]["mnist-mlp"]["serving"]


def is_clean(project: Project) -> bool:
    return "up to date" in project.run("dvc", "status").stdout and project.git("status", "--porcelain") == ""


def test_a_night_with_nothing_new_repeats_nothing(quiet):
    assert [one["ran"] for one in quiet["data_sets"] + quiet["models"]] == [[], []]
    assert quiet["commits"] == []


def test_a_worse_model_meets_the_first_nights_champion_and_stays_behind(project, champion, worse):
    (data,), (model,) = worse["data_sets"], worse["models"]
    assert data["verdict"] in ("pass", "warn")
    assert model["state"] == "success"
    assert model["verdict"] in ("fail", "inconclusive")
    assert model["deploy"] == "not_passed"
    assert model["release"] != champion
    assert serves(project) == champion
    pinned = json.loads((project.root / "champions" / "mnist-mlp.json").read_text())
    assert pinned["digest"] == champion
    (order,) = json.loads(project.nightshift("history", "mnist-mlp", "--json").stdout)
    assert order["digest"] == champion


def test_after_a_challenger_that_did_not_pass_the_report_opens_and_running_again_repeats_nothing(
    project, worse, champion
):
    report = project.root / "artifacts" / "decisions" / "mnist-mlp" / "report.html"
    assert worse["models"][0]["verdict"] in report.read_text()
    assert report.read_text() == Path(worse["models"][0]["report"]).read_text()
    assert is_clean(project)
    again = project.night()
    assert [one["ran"] for one in again["data_sets"] + again["models"]] == [[], []]
    assert again["commits"] == []
    assert serves(project) == champion


def test_a_refused_day_is_held_and_nothing_of_it_is_recorded(project, worse, refused, champion):
    (data,) = refused["data_sets"]
    assert data["state"] == "held"
    assert data["verdict"] == "refuse"
    assert any("2026-01-03" in line for line in data["held"] + data["failed"] + [data["why"]])
    assert refused["models"] == []
    assert refused["commits"] == []
    assert is_clean(project)
    assert serves(project) == champion


def test_after_a_refused_night_its_report_opens(project, refused):
    (data,) = refused["data_sets"]
    report = (project.root / data["report"]).read_text()
    assert "nightshift drop mnist 2026-01-03 --reason" in report
    assert "2026-01-03, closely" in report
    assert "data:image/png;base64," in report
    airflow = airflow_of(project)
    assert (
        airflow._ask("GET", f"/nights/report/validations/ingest_mnist/{quote(data['run'])}/mnist", repeats=True).text
        == report
    )


def test_running_again_after_a_refused_day_repeats_nothing_and_still_says_so(project, refused):
    again = project.night()
    (data,) = again["data_sets"]
    assert data["state"] == "success"
    assert (data["taken"], data["ran"]) == ([], [])
    assert [line[:10] for line in data["held"]] == ["2026-01-03"]


def test_the_good_days_after_a_refused_one_are_taken_in_one_night(project, refused, digits):
    """Two nights were missed: the one that runs takes both days."""
    for day, date in (("day4", "2026-01-04"), ("day5", "2026-01-05")):
        project.land(f"date={date}/train.parquet", parquet(*digits[day]))
    plan = json.loads(project.nightshift("plan", "--json").stdout)
    night = project.night()
    (data,) = night["data_sets"]
    assert [line[:10] for line in data["taken"]] == ["2026-01-04", "2026-01-05"]
    assert [line[:10] for line in data["held"]] == ["2026-01-03"]
    foreseen = plan["datasets"]["mnist"]
    assert [f"{day['date']} ({day['why']}" for day in foreseen["taken"]] == [s.partition(",")[0] for s in data["taken"]]
    assert [day["date"] for day in foreseen["held"]] == ["2026-01-03"]
    outcomes = {one["stage"].partition("@")[0]: one["outcome"] for one in plan["stages"]}
    ran = {*data["ran"], *night["models"][0]["ran"]}
    assert {name for name, outcome in outcomes.items() if outcome == "will run"} <= ran
    assert ran.isdisjoint(name for name, outcome in outcomes.items() if outcome == "unchanged")
    assert data["rows"] == 1100 + 600 * 3
    assert is_clean(project)


def test_a_held_day_whose_files_were_replaced_is_taken(project, refused, digits):
    project.remove("date=2026-01-03/")
    project.land("date=2026-01-03/train.parquet", parquet(*digits["day3"]))
    (data,) = project.night()["data_sets"]
    assert [line[:10] for line in data["taken"]] == ["2026-01-03"]
    assert data["held"] == []


def test_params_with_an_unknown_key_stop_a_night_before_anything_runs(project, champion):
    text = (project.root / "params.yaml").read_text()
    (project.root / "params.yaml").write_text(text.replace("epochs: ", "epoch: "))
    try:
        done = project.nightshift("night", "--no-land", check=False)
    finally:
        (project.root / "params.yaml").write_text(text)
    assert done.returncode == 2
    assert "models.mnist-mlp.train.epoch is unknown; did you mean epochs?" in done.stderr


def test_a_form_with_a_wrong_override_is_refused_before_anything_runs(project, champion):
    airflow = airflow_of(project)
    for text in ("epochs=3", "make it better", "train.epochs=", "gate.value_threshold=0"):
        with pytest.raises(NightshiftError, match="said 400"):
            airflow.trigger("train_mnist-mlp", {"params": [text]})
    run = airflow.trigger("train_mnist-mlp", {"params": ["train.epoch=3", ""]})
    until(lambda: airflow.state(run) in ENDED)
    begin = airflow.instances(run)["begin"]
    assert (begin["state"], begin["try_number"]) == ("failed", 1)
    log = "\n".join(airflow.log(run, "begin", 1))
    assert "train.epoch is no parameter of mnist-mlp; did you mean train.epochs?" in log
    run = airflow.trigger("train_mnist-mlp", {"params": ["train.epochs=none"]})
    until(lambda: airflow.state(run) in ENDED)
    assert "models.mnist-mlp.train.epochs is 'none'" in "\n".join(airflow.log(run, "begin", 1))


@pytest.fixture(scope="module")
def serving(project: Project, champion: str) -> str:
    """What serves before the run that is tried: the first night's champion, or a later night's."""
    return serves(project)


@pytest.fixture(scope="module")
def tried(project: Project, serving: str) -> Run:
    """A run with fewer epochs and a lower rate, asked for over HTTP as the form does."""
    airflow = airflow_of(project)
    run = airflow.trigger("train_mnist-mlp", {"params": ["train.epochs=2", "train.lr=1e-3"], "reason": "to see"})
    until(lambda: airflow.state(run) in ENDED, 400)
    assert airflow.state(run) == "success"
    return run


def test_a_run_with_overrides_is_recorded_beside_the_branch_and_given_to_nobody(project, serving, tried):
    airflow = airflow_of(project)
    tasks = airflow.instances(tried)
    assert {task: tasks[task]["state"] for task in ("begin", "train", "record", "deploy")} == {
        "begin": "success",
        "train": "success",
        "record": "success",
        "deploy": "skipped",
    }
    assert serves(project) == serving
    log = "\n".join(airflow.log(tried, "train", 1))
    assert "train@mnist-mlp changed: parameter models.mnist-mlp.train.epochs: 4 → 2" in log
    told = json.loads(project.nightshift("why", tried.id, "--json").stdout)
    assert told["overrides"] == {"train.epochs": 2, "train.lr": 0.001}
    by_task = {task["task"]: task for task in told["tasks"]}
    assert by_task["train@mnist-mlp"]["outcome"] == "done"
    assert by_task["deploy"]["outcome"] == "not_asked"
    assert "the form does not say `deploy`" in by_task["deploy"]["said"]
    project.git("fetch", "--quiet", "nightshift")
    side = f"nightshift/nightshift/train_mnist-mlp/{safe(tried.id)}"
    assert project.git("log", "-1", "--format=%s", side).endswith("with train.epochs=2, train.lr=0.001")
    assert project.git("diff", "--name-only", f"{side}^", side).split()[-2:] == ["dvc.lock", "params.yaml"]
    assert project.git("rev-parse", "nightshift/main") == project.git("rev-parse", f"{side}^")
    assert is_clean(project)


def test_its_exact_state_comes_into_a_folder_where_dvc_has_nothing_to_do(project, tried, tmp_path):
    said = project.nightshift("pull-run", tried.id, "--into", str(tmp_path / "run")).stdout
    assert "dvc        up to date" in said

    def dvc(*arguments: str) -> str:
        command = ["dvc", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path / "run", env=dict(project.env), capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "up to date" in dvc("status")
    assert "Running stage" not in dvc("repro")
    figures = json.loads(dvc("metrics", "show", "--json"))[""]["data"]
    assert len(figures) == 4
    assert is_clean(project)


def test_the_night_after_a_run_with_overrides_repeats_nothing(project, tried):
    night = project.night()
    assert [one["ran"] for one in night["data_sets"] + night["models"]] == [[], []]


def test_nothing_secret_is_in_what_the_nights_left(project, champion):
    """Neither in Git, nor in the journals, nor in Airflow's task logs."""
    secrets = project.stack.secrets
    words = [key["secret"] for key in secrets["s3"]["keys"].values()] + [secrets["airflow"]["password"]]
    words.append(project.stack.environment("deployer")["NIGHTSHIFT_SIGNING_KEY"])
    tracked = project.git("log", "-p", "--all")
    work = project.stack.s3.client("admin")
    keys = [
        found["Key"]
        for page in work.get_paginator("list_objects_v2").paginate(Bucket="nightshift-work", Prefix="runs/")
        for found in page.get("Contents", [])
        if found["Key"].endswith(".json")
    ]
    texts = [tracked] + [work.get_object(Bucket="nightshift-work", Key=key)["Body"].read().decode() for key in keys]
    texts += [
        log.read_text(errors="replace") for log in (project.root / ".nightshift" / "airflow" / "logs").rglob("*.log")
    ]
    assert len(texts) > 50
    assert [word for word in words for text in texts if word in text] == []


def test_a_dag_that_a_person_paused_is_named_and_not_waited_for(project, champion):
    stack = project.stack
    airflow = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    airflow._send("PATCH", "/api/v2/dags/train_mnist-mlp", json={"is_paused": True})  # as the switch in the UI does
    try:
        os.killpg(stack.processes.running("endpoint"), signal.SIGKILL)
        plan = project.nightshift("plan", "--until", "2026-01-01", check=False)
        night = project.night()  # it brings the endpoint back
    finally:
        airflow._send("PATCH", "/api/v2/dags/train_mnist-mlp", json={"is_paused": False})
    assert plan.returncode == 3
    assert "1. does not run: the endpoint" in plan.stdout
    assert "next: nightshift up" in plan.stdout
    assert f"unpause it at {stack.airflow_url}/dags/train_mnist-mlp" in plan.stdout
    assert [line.partition(":")[0] for line in night["waiting"]] == ["train_mnist-mlp is paused"]
    assert night["models"] == []
    assert night["data_sets"][0]["state"] == "success"


def test_the_schedule_runs_a_night_by_itself(project, champion):
    """Every minute instead of every night; the data sets' runs start the models' as ever."""
    stack = project.stack
    airflow = Airflow(stack.airflow_url, stack.airflow_user, stack.airflow_password)
    project.edit(lambda params: params["schedule"].update(cron="* * * * *"))
    project.nightshift("up")  # brings the commit to where nights read it
    project.nightshift("schedule", "on")
    try:
        run = until(lambda: next(iter(scheduled(airflow)), None), 180)
    finally:
        project.nightshift("schedule", "off")
    until(lambda: airflow.state(run) in ENDED)
    assert airflow.state(run) == "success"
    (model,) = until(lambda: airflow.started_by(run))
    until(lambda: airflow.state(model) in ENDED)
    assert airflow.state(model) == "success"
    base = project.stack.s3.client("admin").get_object(
        Bucket="nightshift-work", Key=f"runs/ingest_mnist/{safe(run.id)}/base.json"
    )
    yesterday = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1)
    assert json.loads(base["Body"].read())["until"] == yesterday.isoformat()


def scheduled(airflow: Airflow) -> list[Run]:
    return [run for run in airflow.active("ingest_mnist") if run.id.startswith("scheduled")]


def test_a_rerun_computes_every_stage_again_and_finds_the_same_bytes(project, champion):
    before = (project.root / "dvc.lock").read_bytes()
    night = project.night("--rerun", "--reason", "to see that nothing depends on the day")
    assert [one["state"] for one in night["data_sets"] + night["models"]] == ["success", "success"]
    assert night["models"][0]["ran"] == ["train", "evaluate", "gate", "package", "publish"]
    assert night["commits"] == []
    assert (project.root / "dvc.lock").read_bytes() == before


def test_a_person_is_asked_where_the_policy_says_so_and_the_release_serves_after_the_yes(project, champion):
    """Answered over HTTP as the form does; ``night`` ends when only a person is waited for."""
    airflow = airflow_of(project)

    def ask_first(params):
        model = params["models"]["mnist-mlp"]
        model["deploy"]["policy"] = "approval"
        model["gate"]["inconclusive"] = "promote"
        model["train"]["seed"] = 5

    project.edit(ask_first)
    before = serves(project)
    night = project.night(expect=3)
    (model,) = night["models"]
    assert model["state"] == "asking"
    assert "waits for a person's answer" in model["why"]
    assert serves(project) == before

    run = Run("train_mnist-mlp", model["run"])
    path = f"/api/v2/dags/{run.dag}/dagRuns/{run.id}/taskInstances/approval/-1/hitlDetails"
    asked = airflow._send("GET", path)
    assert model["release"][:12] in asked["subject"]
    assert "| change\\_threshold |" in asked["body"]
    report = asked["body"].rpartition("(")[2].rstrip(")")
    assert "/nights/report/decisions/train_mnist-mlp/" in report
    airflow._send("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {"reason": "seen and good"}})
    until(lambda: airflow.state(run) in ENDED, 300)
    assert airflow.state(run) == "success"
    assert serves(project) == model["release"]
    newest = json.loads(project.nightshift("history", "mnist-mlp", "--json").stdout)[-1]
    assert newest["evidence"]["approved_by"]
    page = airflow._ask("GET", report.removeprefix(airflow.url), repeats=True).text
    assert model["verdict"] in page
