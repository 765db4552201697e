"""Make an earlier release of a model serve again, by a form: the same as `nightshift rollback`, under your own name.

The order, its reason and its proof stand in the ledger (`nightshift history MODEL`); no night orders again what it
replaces. The run is green when every endpoint has proven the order.
"""

import os
from typing import Any

from airflow.sdk import DAG, Param
from rollback_operator import RollbackOperator

name = os.environ.get("NIGHTSHIFT_EVENTS_QUEUE")
queue: dict[str, Any] = {"queue": name} if name else {}
MODEL = Param(
    type="string",
    pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
    description="The model, as in params.yaml.",
)
TO = Param(
    None,
    type=["null", "string"],
    pattern=r"^([0-9a-f]{4,64})?$",
    description="The release that is to serve: the first characters of its digest; empty: the champion before.",
)
REASON = Param(type="string", minLength=1, maxLength=500, description="Why; it stands in the ledger.")

with DAG(
    dag_id="rollback",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    params={"model": MODEL, "to": TO, "reason": REASON},
    tags=["rollback"],
    doc_md=__doc__,
) as rollback:
    # No retries: an order that was refused is a person's to give again.
    RollbackOperator(task_id="rollback", verb="rollback", retries=0, **queue)
