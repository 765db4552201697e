"""Housekeeping, once an hour: a night that is late is told, with what it waits for; what is old in S3 is removed.

Once a day it looks through DVC's objects: the branch says which are needed, so it runs where the repository is.

Airflow stays green while a task waits for a queue that no worker serves, or for a run that never begins.
"""

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, CronTriggerTimetable
from dvc_operator import EngineOperator
from night_operator import LateOperator

name = os.environ.get("NIGHTSHIFT_EVENTS_QUEUE")
queue: dict[str, Any] = {"queue": name} if name else {}

with DAG(
    dag_id="housekeeping",
    schedule=CronTriggerTimetable("23 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["housekeeping"],
    doc_md=__doc__,
) as housekeeping:
    LateOperator(
        task_id="late",
        verb="late",
        retries=1,
        retry_delay=timedelta(minutes=5),
        **queue,
    )
    EngineOperator(task_id="old", verb="housekeeping", retries=1, retry_delay=timedelta(minutes=5), **queue)
