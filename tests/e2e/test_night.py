"""A night through Airflow's scheduler, on a slice of the real MNIST: the path, and what a person has afterwards."""

import json
import subprocess
from pathlib import Path

import pytest

from nightshift import preflight
from nightshift.errors import NightshiftError
from nightshift.releases.signing import own_key
from nightshift.stack import endpoint, runs
from tests.e2e.conftest import until

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def foreseen(project):
    """What the first night was foreseen to do, before it."""
    return json.loads(project.nightshift("plan", "--json").stdout)


@pytest.fixture(scope="module")
def first(project, foreseen):
    """The first night's summary."""
    return project.night()


def test_the_first_night_does_what_was_foreseen(first, foreseen):
    (data,), (model,) = first["data_sets"], first["models"]
    (day,) = foreseen["datasets"]["mnist"]["taken"]
    assert [f"{day['date']} ({day['why']}"] == [taken.partition(",")[0] for taken in data["taken"]]
    will = [one["stage"].partition("@")[0] for one in foreseen["stages"] if one["outcome"] == "will run"]
    assert will == data["ran"] + model["ran"]
    assert len(will) == len(foreseen["stages"])
    assert foreseen["stops"] == []


def test_the_first_night_takes_trains_proves_publishes_and_serves(project, first):
    (data,), (model,) = first["data_sets"], first["models"]
    assert data["rows"] == 1100
    assert data["verdict"] == "pass"
    assert data["ran"] == ["validate", "prepare"]
    assert model["ran"] == ["train", "evaluate", "gate", "package", "publish"]
    assert model["verdict"] == "pass"
    assert model["interval"][0] < model["accuracy"] < model["interval"][1]
    assert sorted(model["cost"]) == sorted(f"{stage}@mnist-mlp" for stage in model["ran"])
    assert model["cost"]["train@mnist-mlp"]["cpu_seconds"] > 0
    assert model["deploy"] == "proven"
    status = endpoint.answer(project.stack)
    assert status["models"]["mnist-mlp"]["serving"] == model["release"]


def test_what_serves_is_signed_with_the_checkouts_key_which_the_endpoint_demands(project, first):
    key = own_key(project.stack.environment("deployer"))
    (order,) = json.loads(project.nightshift("history", "mnist-mlp", "--json").stdout)
    assert order["evidence"]["signed_by"] == key.public.id
    assert endpoint.answer(project.stack)["models"]["mnist-mlp"]["signed_by"] == key.public.id
    (row,) = json.loads(project.nightshift("releases", "--json").stdout)
    assert (row["signed"], row["signed_by"]) == (True, [key.public.id])


def test_who_looks_before_the_next_night_knows_the_ports_that_this_stack_holds(project):
    ports = [found for found in preflight.look(project.root, dict(project.env)) if found.name == "port"]
    assert len(ports) == len(preflight.PORTS)
    for found in ports:
        assert found.ok, found.line()
        assert "this checkout's own runs there" in found.words


def test_the_curl_line_works_when_pasted(project, first):
    answer = json.loads(project.run("bash", "-c", first["curl"]).stdout)
    assert answer["model_version"] == first["models"][0]["release"][:12]
    assert sum(answer["outputs"][0]["data"]) == pytest.approx(1, abs=1e-4)


def test_dvc_has_nothing_to_do_after_a_night(project, first):
    assert "up to date" in project.run("dvc", "status").stdout
    lock = (project.root / "dvc.lock").read_bytes()
    done = project.run("dvc", "repro")
    assert "Running stage" not in done.stdout
    assert (project.root / "dvc.lock").read_bytes() == lock
    assert project.git("status", "--porcelain") == ""


def test_dvc_repro_from_nothing_ends_in_the_same_bytes(project, first, tmp_path):
    """In a clone with an empty cache and without the run cache every stage computes, and the lock is the same."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone)], check=True)
    (clone / ".dvc" / "config.local").write_text((project.root / ".dvc" / "config.local").read_text())
    env = dict(project.env) | project.stack.environment("worker") | {"NIGHTSHIFT_HOME": str(tmp_path / "home")}

    def dvc(*arguments: str) -> str:
        done = subprocess.run(["dvc", *arguments], cwd=clone, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    dvc("config", "--local", "cache.dir", str(tmp_path / "cache"))
    dvc("pull", "data.dvc")
    lock = (clone / "dvc.lock").read_bytes()
    (clone / "dvc.lock").unlink()
    assert dvc("repro", "--no-run-cache").count("Running stage") == 7
    assert (clone / "dvc.lock").read_bytes() == lock


def test_the_figures_are_there_for_dvc(project, first):
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert shown["artifacts/evaluations/mnist-mlp/metrics.json"]["data"]["accuracy"] == first["models"][0]["accuracy"]
    plots = json.loads(project.run("dvc", "plots", "show", "--json").stdout)["data"]
    names = {path.rpartition("/")[2] for path in plots}
    evaluated = {"calibration.csv", "confusion.csv", "per_class.csv", "slices.csv", "drift.csv"}
    assert names >= {"days.csv", "epochs.csv"} | evaluated
    (days,) = plots["artifacts/validations/mnist/days.csv"]
    assert days["content"]["encoding"]["y"] == {"field": "date", "type": "nominal", "title": "date"}


def test_a_clone_that_has_had_no_night_says_what_to_type(project, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone)], check=True)
    subprocess.run(["git", "checkout", "--quiet", ":/The template"], cwd=clone, check=True)
    for dataset in ("mnist", "profiles/mnist"):
        (clone / "data" / dataset).mkdir(parents=True)  # as the installation does
    done = subprocess.run(
        ["dvc", "repro"], cwd=clone, env=dict(project.env), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "type `make night`" in done.stdout + done.stderr


def test_the_second_night_repeats_nothing(project, first):
    """Also: it commits nothing, and the model that serves goes on."""
    head = project.git("rev-parse", "HEAD")
    before = json.loads(project.nightshift("plan", "--json").stdout)
    second = project.night()
    assert {one["outcome"] for one in before["stages"]} == {"unchanged"}
    assert (before["commit"], before["datasets"]["mnist"]["taken"]) == (head, [])
    assert "the challenger is what serves" in before["opponents"]["mnist-mlp"]
    (data,), (model,) = second["data_sets"], second["models"]
    assert (data["ran"], data["taken"], model["ran"]) == ([], [], [])
    assert model["deploy"] == "unchanged"
    assert second["commits"] == []
    assert project.git("rev-parse", "HEAD") == head
    assert model["serving"] == first["models"][0]["release"]


def test_what_serves_is_traced_to_its_days_and_its_code(project, first):
    """Every link is there, and its digests are right: registry, ledger, DVC's store and the repository."""
    traced = json.loads(project.nightshift("trace", first["models"][0]["release"][:12], "--json").stdout)
    assert {link["name"]: link["state"] for link in traced} == dict.fromkeys(
        ("release", "ledger", "decision", "evaluation", "champion", "training", "data", "code"), "whole"
    )
    facts = {link["name"]: link["facts"] for link in traced}
    assert list(facts["data"]["dataset"]["partitions"]) == ["2026-01-01"]
    assert facts["code"]["commit"] in project.git("rev-list", "HEAD")


def test_the_page_about_the_api_can_be_followed(project, first):
    """docs/api.md, block by block, in one shell."""
    page = (ROOT / "docs" / "api.md").read_text()
    blocks = [part.partition("```")[0] for part in page.split("```bash\n")[1:]]
    script = "\n".join(blocks).replace(". .venv/bin/activate\n", "")
    done = project.run("bash", "-euo", "pipefail", "-c", script)
    assert "success" in done.stdout
    assert "400" in done.stdout.splitlines()
    assert "manifest.json: OK" in done.stdout
    assert '"model_name":"mnist-mlp"' in done.stdout.replace(" ", "")


def test_a_person_rolls_back_by_a_form_in_airflow(project, first):
    """The last test of this file: to the release that serves, so that nothing changes but the ledger."""
    api = runs.Airflow(project.stack.airflow_url, project.stack.airflow_user, project.stack.airflow_password)
    release = first["models"][0]["release"]
    form = {"model": "mnist-mlp", "to": release[:12], "reason": "cats became dogs"}
    with pytest.raises(NightshiftError, match="reason"):
        api.trigger("rollback", {**form, "reason": ""})
    run = api.trigger("rollback", form)
    ended = until(lambda: (state := api.state(run)) in ("success", "failed") and state)
    assert ended == "success", "\n".join(api.log(run, "rollback", 1))
    order = json.loads(project.nightshift("history", "mnist-mlp", "--json").stdout)[-1]
    assert (order["who"], order["what"], order["reason"]) == ("admin", "rollback", "cats became dogs")
    assert (order["digest"], order["evidence"]["run"]) == (release, run.id)
    assert order["outcome"]["state"] == "proven"
