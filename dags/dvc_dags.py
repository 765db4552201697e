"""The DAGs of dvc.yaml on the branch's tip: one per data set, one per model, and whatever else its stages name.

`dvc.yaml` is the graph; this file only wires what `dvc_graph` lays out. A task's process builds its own task
and nothing else (see `dvc_tip`).
"""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param, get_parsing_context
from approval_operator import ApprovalOperator
from dvc_graph import Dag, lay_out
from dvc_operator import EngineOperator
from dvc_tip import hand_on, of_task, of_tip
from night_operator import TellOperator

HOME = Path(os.environ["NIGHTSHIFT_HOME"])
# In a team, what touches the repository or the ledger, or writes to people, runs on the one worker that may.
EVENTS = {"begin", "record", "approval", "deploy", "tell"}
EVENTS_QUEUE = os.environ.get("NIGHTSHIFT_EVENTS_QUEUE")
OPERATORS: dict[str, Any] = {"tell": TellOperator, "approval": ApprovalOperator}
REASON = Param(None, type=["null", "string"], maxLength=500, description="Why, for the record.")
RERUN = Param(
    False,
    type="boolean",
    description="Compute every stage again, also in the runs that this one starts; other bytes than before fail it.",
)
UNTIL = Param(
    None, type=["null", "string"], format="date", description="The last day whose data counts; empty: yesterday."
)
PARAMS = Param(
    [],
    type=["null", "array"],  # an emptied field of the form sends null, and an empty line where one ends
    items={"type": "string", "pattern": r"^\s*(train(\.[A-Za-z0-9_-]+)+=\s*\S.*)?$", "maxLength": 200},
    maxItems=50,
    description="Training parameters for this run only, one per line, such as train.epochs=3.",
)
DEPLOY = Param(
    None,
    type=["null", "boolean"],
    description="Give the release to the endpoint; by itself a run does, unless it has other training parameters.",
)


def timetable(dag: Dag, schedule: dict[str, str] | None) -> list[Asset] | CronTriggerTimetable | None:
    """After the DAGs that it reads from; else every night, when a person has turned the schedule on."""
    if dag.after:
        return [Asset(name=name, uri=f"nightshift://{name}") for name in dag.after]
    switch = HOME / "schedule.json"
    if schedule is None or not (switch.exists() and json.loads(switch.read_text())["on"]):
        return None
    return CronTriggerTimetable(schedule["cron"], timezone=schedule["timezone"])


def build(dag: Dag, schedule: dict[str, str] | None = None) -> None:
    """One DAG; every task is a verb of the engine."""
    forms = {"rerun": RERUN, "reason": REASON} | ({} if dag.after else {"until": UNTIL})
    forms |= {"params": PARAMS} if dag.trains else {}
    forms |= {"deploy": DEPLOY} if any(task.verb == "deploy" for task in dag.tasks.values()) else {}
    with DAG(
        dag_id=dag.id,
        schedule=timetable(dag, schedule),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params=forms,
        tags=["nightshift"],
        doc_md=__doc__,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    ):
        tasks = {}
        for task in dag.tasks.values():
            hints = task.hints
            settings: dict[str, Any] = {name: hints[name] for name in ("queue", "pool", "retries") if name in hints}
            if "retry_delay" in hints:
                settings["retry_delay"] = timedelta(seconds=hints["retry_delay"])
            if "timeout" in hints:
                settings["execution_timeout"] = timedelta(seconds=hints["timeout"])
            if "priority" in hints:
                settings["priority_weight"] = hints["priority"]
            if task.verb in EVENTS and EVENTS_QUEUE:
                settings["queue"] = EVENTS_QUEUE
            if task.verb == "record":
                settings["outlets"] = [Asset(name=dag.id, uri=f"nightshift://{dag.id}")]
            tasks[task.id] = OPERATORS.get(task.verb, EngineOperator)(
                task_id=task.id, verb=task.verb, argument=task.argument, night=task.night, doc_md=task.doc, **settings
            )
            if task.verb == "tell":  # it runs however the others ended, and the run is as red as it is
                tasks[task.id].as_teardown(on_failure_fail_dagrun=True)
        for task in dag.tasks.values():
            for upstream in sorted(task.upstream & set(tasks)):
                tasks[upstream] >> tasks[task.id]


parsing = get_parsing_context()
if parsing.dag_id and parsing.task_id:
    build(of_task(HOME, parsing.dag_id, parsing.task_id))
else:
    current = of_tip(HOME)
    laid_out = lay_out(current)
    hand_on(laid_out)
    for each in laid_out:
        build(each, current["schedule"])
