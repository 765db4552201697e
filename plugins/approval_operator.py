"""The operator that asks a person about a release: Airflow's human in the loop, with the decision shown."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.exceptions import HITLTimeoutError
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param
from airflow.sdk.configuration import conf
from airflow.sdk.log import mask_secret
from dvc_operator import EngineOperator
from night_operator import notify

APPROVE, REJECT = "Approve", "Reject"
REASON = Param(None, type=["null", "string"], format="multiline", description="Why; it stands in the ledger.")


class ApprovalOperator(EngineOperator, HITLOperator):
    """Asks, where the gate passed a release whose model's policy wants a person; keeps the answer in the journal.

    It succeeds with either answer, and when nobody answers in time: what follows is deploy's, which reads the journal.
    While it waits it holds no worker.
    """

    template_fields = ("verb", "argument")

    def __init__(self, *, verb: str, argument: str, night: dict[str, Any] | None = None, **kwargs: Any):
        kwargs["params"] = {"reason": REASON}  # Airflow has put the DAG's form there, which is not this one
        super().__init__(verb=verb, argument=argument, night=night, subject="", options=[APPROVE, REJECT], **kwargs)

    def execute(self, context: Context) -> dict[str, Any]:
        status, said = self.engine(*self._arguments(context))
        if status:
            raise RuntimeError(said["message"])
        if said["outcome"] != "waiting":
            return said
        self.subject, self.response_timeout = said["subject"], timedelta(hours=said["hours"])
        airflow, run = conf.get("api", "base_url").rstrip("/"), quote(context["run_id"], safe="")
        report = f"{airflow}/nights/report/decisions/{self.dag_id}/{run}/{self.argument}"
        self.body = f"{said['body']}\n\n[The whole report]({report})"
        if url := os.environ.get("NIGHTSHIFT_NOTIFY_URL"):
            mask_secret(url)
            answer = f"{airflow}/dags/{self.dag_id}/runs/{run}/tasks/{self.task_id}/required_actions"
            text = f"{said['message']}.\n\n  answer  {answer}"
            how, why = notify({"subject": f"nightshift: {said['subject']}", "body": text, "kind": "waiting"}, url)
            if how == "failed":
                self.log.error("the message about it is not out: %s", why)
        return HITLOperator.execute(self, context)  # it ends this process; the answer comes to execute_complete

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        try:
            found: Mapping[str, Any] = HITLOperator.execute_complete(self, context, event)
        except HITLTimeoutError:
            found = {"chosen_options": [REJECT], "params_input": {}, "responded_by_user": None}
        status, asked = self.engine(*self._arguments(context))
        if status:
            raise RuntimeError(asked["message"])
        user = found["responded_by_user"]
        given = {
            "approved": found["chosen_options"] == [APPROVE],
            "who": (user["name"] or user["id"]) if user else None,
            "reason": found["params_input"].get("reason"),
            "digest": asked["digest"],
        }
        status, said = self.engine(*self._arguments(context), "--answer", json.dumps(given))
        if status:
            raise RuntimeError(said["message"])
        return said
