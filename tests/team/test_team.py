"""A team on Celery: two workers that share no disk, users of Airflow's own, and what may happen to a night."""

import queue
import re
from typing import Any

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import team
from nightshift.stack.runs import Airflow, Run
from tests.team.topology import Topology, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
TRAIN = "train_mnist-mlp"


def start_training(topology: Topology, *, late_after_hours: float = 6, **changes: int) -> Run:
    """A run of the model alone, after a person's commit that makes it train again."""
    project = topology.project
    project.git("pull", "--quiet", "--ff-only", "origin", "main")

    def change(params: dict[str, Any]) -> None:
        params["models"]["mnist-mlp"]["train"].update(changes)
        params["schedule"]["late_after_hours"] = late_after_hours

    project.edit(change)
    project.git("push", "--quiet", "origin", "main")
    return topology.airflow.trigger(TRAIN, {})


def epochs(topology: Topology, attempt: int = 1) -> list[int]:
    """The epochs of the newest training that the gpu worker's machine has in its logs, as they were said."""
    logs = [log for log in topology.logs(team.GPU_WORKER, "train") if log.name == f"attempt={attempt}.log"]
    return [int(epoch) for epoch in re.findall(r"epoch (\d+)/", logs[-1].read_text())] if logs else []


def state(topology: Topology, run: Run, task: str = "train") -> str:
    return str(topology.airflow.instances(run)[task]["state"])


def knows_only_its_own(topology: Topology) -> None:
    """What runs a stage knows neither the deployer's key nor a repository; the stage's code, nothing of Airflow's."""
    deployer = topology.team.secrets["s3"]["keys"]["deployer"]["secret"]
    running = {" ".join(process.cmdline()): process.environ() for process in topology.family(team.GPU_WORKER)}
    code = [told for command, told in running.items() if command.endswith("-m pipelines.train mnist-mlp")]
    assert code
    assert not [name for told in code for name in told if name.startswith("AIRFLOW")]
    for told in running.values():
        assert not {deployer, topology.signing_key.secret} & set(told.values())
        assert "NIGHTSHIFT_REPO" not in told


def test_a_triggered_night_ends_in_a_served_model_that_the_gpu_worker_trained(topology: Topology):
    first = topology.airflow.trigger("ingest_mnist", {})
    topology.ended(first)
    (run,) = until(lambda: topology.airflow.started_by(first))
    topology.ended(run)
    assert topology.airflow.receipt(run, "deploy")["outcome"] == "proven"
    assert topology.serving()["mnist-mlp"]["serving"] == topology.airflow.receipt(run, "deploy")["digest"]
    assert topology.serving()["mnist-mlp"]["signed_by"] == topology.signing_key.public.id

    def ran(service: str) -> set[str]:
        logs = topology.machine(service) / ".nightshift/airflow/logs"
        return {found[1] for log in logs.rglob("*.log") if (found := re.search("task_id=([^/]+)/", str(log)))}

    assert ran(team.GPU_WORKER) == {"train"}
    assert ran(team.EVENTS_WORKER) >= {"begin", "record", "deploy"}
    assert ran(team.WORKER) >= {"ingest", "validate", "accept", "prepare", "pin", "evaluate", "gate", "publish"}
    assert not ran(team.WORKER) & {"begin", "record", "deploy", "train"}


def test_airflow_asks_everyone_for_a_password_and_a_viewer_starts_nothing(topology: Topology):
    url = topology.team.public_url
    with pytest.raises(NightshiftError, match="401"):
        Airflow(url, team.USER, "wrong")
    who = {"username": "viewer", "password": "sees only", "roles": [{"name": "Viewer"}]}
    who |= {"email": "viewer@example.org", "first_name": "A", "last_name": "Viewer"}
    topology.airflow._send("POST", "/auth/fab/v1/users", json=who)
    viewer = Airflow(url, "viewer", "sees only")
    assert TRAIN in viewer.dags()
    with pytest.raises(NightshiftError, match="403"):
        viewer.trigger(TRAIN, {})


def test_a_gpu_worker_killed_with_its_disk_is_replaced_by_an_empty_one_that_goes_on(topology: Topology):
    run = start_training(topology, epochs=600, seed=1)
    seen = until(lambda: found if len(found := epochs(topology)) >= 30 else None)[-1]
    knows_only_its_own(topology)
    # The second time that a checkpoint is named from here, it holds that epoch.
    first = until(lambda: topology.checkpoint())
    second = until(lambda: found if (found := topology.checkpoint()) != first else None)
    until(lambda: topology.checkpoint() != second)
    topology.lose(team.GPU_WORKER)
    until(lambda: state(topology, run) == "queued")
    topology.start(team.GPU_WORKER)
    topology.ended(run)
    again = epochs(topology, attempt=2)
    assert again[0] > seen
    assert again == list(range(again[0], 601))

    # The same bytes as a training that nobody disturbed.
    project = topology.project
    project.git("pull", "--quiet", "--ff-only", "origin", "main")
    person = type(project)(project.root, {**project.env, **topology.team.environment(team.WORKER, project.root)})
    person.run("dvc", "pull", "--quiet")
    before = (project.root / "dvc.lock").read_bytes()
    person.run("dvc", "repro", "--force", "--single-item", "--no-run-cache", "train@mnist-mlp")
    assert (project.root / "dvc.lock").read_bytes() == before


def test_a_task_without_a_gpu_worker_is_told_and_redis_may_be_restarted_and_forget_while_it_waits_and_while_it_runs(
    topology: Topology, messages: queue.Queue[dict[str, str]]
):
    topology.stop(team.GPU_WORKER)
    run = start_training(topology, late_after_hours=0, epochs=300, seed=2)
    until(lambda: state(topology, run) == "queued" and topology.waiting("gpu"))

    # All of Airflow is green, and a person hears of it.
    while not messages.empty():
        messages.get()
    topology.ended(topology.airflow.trigger("housekeeping", {}))
    told = messages.get(timeout=60)
    assert "train_mnist-mlp waiting" in told["title"]
    assert "train is queued and no worker takes it: it waits on queue gpu" in told["message"]
    topology.ended(topology.airflow.trigger("housekeeping", {}))
    assert messages.empty()

    topology.kill_redis(forget=False)
    topology.start_redis()
    until(lambda: topology.waiting("gpu"))
    topology.kill_redis(forget=True)
    topology.start_redis()
    topology.start(team.GPU_WORKER)
    until(lambda: len(epochs(topology)) >= 5)
    topology.kill_redis(forget=True)
    seen = len(epochs(topology))
    until(lambda: len(epochs(topology)) >= seen + 20)
    topology.start_redis()
    tasks = topology.ended(run)
    assert {name: task["try_number"] for name, task in tasks.items()} == dict.fromkeys(tasks, 1)
