"""A team on Celery: workers that share no disk, and users of Airflow's own."""

import re

import pytest

from nightshift.errors import NightshiftError
from nightshift.stack import team
from nightshift.stack.runs import Airflow
from tests.team.topology import Topology, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]
TRAIN = "train_mnist-mlp"


def test_a_triggered_night_ends_in_a_served_model_that_the_gpu_worker_trained(topology: Topology):
    first = topology.airflow.trigger("ingest_mnist", {})
    topology.ended(first)
    (run,) = until(lambda: topology.airflow.started_by(first))
    topology.ended(run)
    assert topology.airflow.receipt(run, "deploy")["outcome"] == "proven"
    assert topology.serving()["mnist-mlp"]["serving"] == topology.airflow.receipt(run, "deploy")["digest"]

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
